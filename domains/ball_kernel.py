"""Neumann heat kernel of the unit ball in R^d, d >= 2: log density and score as torch functions."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_SERIES_FROM = 0.1


class _Radial(NamedTuple):
    lam: Tensor
    degree: Tensor
    value: Tensor
    slope: Tensor


class _Table(NamedTuple):
    parity: tuple[_Radial, _Radial]
    angular: Tensor
    turn: Tensor
    decay: float


def _roots(a, largest):
    from scipy.special import jv

    def condition(degree, z):
        return degree * jv(degree + a, z) - z * jv(degree + a + 1, z)

    step = 0.5
    l_, lo = np.meshgrid(np.arange(int(largest) + 1.0), np.arange(step, largest + step, step), indexing="ij")
    keep = lo >= l_ - step
    l_, lo = l_[keep], lo[keep]
    f = np.sign(condition(l_, lo))
    change = (f[1:] * f[:-1] < 0) & (l_[1:] == l_[:-1])
    l_, lo = l_[:-1][change], lo[:-1][change]
    hi, sign = lo + step, f[:-1][change]
    for _ in range(8):
        mid = (lo + hi) / 2
        same = np.sign(condition(l_, mid)) == sign
        lo, hi = np.where(same, mid, lo), np.where(same, hi, mid)
    z = (lo + hi) / 2
    for _ in range(4):
        nu = l_ + a
        j, j1 = jv(nu, z), jv(nu + 1, z)
        f = l_ * j - z * j1
        # derivative: l J_nu' - (z J_{nu+1})' with J_nu' = nu/z J_nu - J_{nu+1}, (z J_{nu+1})' = z J_nu - nu J_{nu+1}
        df = l_ * (nu / z * j - j1) - z * j + nu * j1
        z = np.clip(z - f / df, lo, hi)
    order = np.argsort(z, kind="stable")
    l_, z = l_[order], z[order]
    return l_[z < largest], z[z < largest]


def _multiplicity(d, n):
    """dims of harmonic polynomials of degree 0..n-1"""
    from scipy.special import gammaln
    l = np.arange(1.0, n)
    logs = np.log(2 * l + d - 2) + gammaln(l + d - 2) - gammaln(l + 1) - gammaln(d - 1)
    return np.concatenate([[1.0], np.exp(logs)])


def _cosines(d, n):
    """[j, l] coefficient of cos(j theta) in P_l, P_l(1) = 1."""
    m = np.zeros((n + 1, n))
    m[0, 0] = 1.0
    if n > 1:
        m[1, 1] = 1.0
    for l in range(2, n):
        prev = m[:, l - 1]
        shifted = np.zeros(n + 1)
        shifted[1:] += prev[:-1]
        shifted[:-1] += prev[1:]
        shifted[1] += prev[0]
        m[:, l] = ((l + d / 2 - 2) * shifted - (l - 1) * m[:, l - 2]) / (l + d - 3)
    return m[:n]


@functools.lru_cache(maxsize=16)
def _table(d, start):
    from scipy.special import gammainccinv, jv

    a = d / 2 - 1
    decay = math.sqrt(2 * float(gammainccinv(d / 2, 1e-15)))
    l_, lam = _roots(a, decay / start)
    nu = l_ + a
    weight = _multiplicity(d, int(l_.max()) + 1)
    scale = np.sqrt(weight[l_.astype(int)] / (0.5 * (1 - (nu**2 - a**2) / lam**2))) / np.abs(jv(nu, lam))
    n = int(lam.max() + 8 * lam.max() ** (1 / 3) + 20) // 2 * 2
    theta = (np.arange(n // 2) + 0.5) * np.pi / n
    r = np.cos(theta)[:, None]
    parities = []
    for odd in (0, 1):
        pick = l_.astype(int) % 2 == odd
        j = jv(nu[pick], lam[pick] * r)
        with np.errstate(all="ignore"):
            f = np.where(j == 0, 0.0, r**-a * j) * scale[pick]
        k = 2 * np.arange(n // 2) + odd
        transform = np.cos(np.outer(k, theta)) * (4 / n)
        if not odd:
            transform[0] *= 0.5
        value = transform @ f
        full = np.zeros((n, value.shape[1]))
        full[k] = value
        slope = np.polynomial.chebyshev.chebder(full, axis=0)
        slope = np.concatenate([slope, np.zeros((1, slope.shape[1]))])[1 - odd :: 2]
        parities.append(_Radial(*map(torch.as_tensor, (lam[pick], l_[pick].astype(int), value, slope))))
    count = int(l_.max()) + 1
    l = np.arange(count)
    turn = np.zeros((count, count))
    turn[:, 1:] = _cosines(d + 2, count)[:, :-1] * (l * (l + d - 2) / (d - 1))[1:]
    return _Table(tuple(parities), torch.as_tensor(_cosines(d, count)), torch.as_tensor(turn), decay)


def _polar(x, x0):
    r, r0 = x.norm(dim=-1), x0.norm(dim=-1)
    axis = torch.zeros_like(x)
    axis[..., 0] = 1
    e0 = torch.where(r0[..., None] > 0, x0 / r0.clamp_min(1e-300)[..., None], axis)
    e = torch.where(r[..., None] > 0, x / r.clamp_min(1e-300)[..., None], e0)
    e0 = torch.where(r0[..., None] > 0, e0, e)
    return r.clamp(1e-7, 1), r0.clamp_max(1), e, e0


def _series(r, r0, theta, sigma, d, start):
    """p * |S|, d/dr, d/dcos"""
    t = _table(d, start)
    even, odd = t.parity
    n, count = even.value.shape[0], t.angular.shape[0]
    out = r.new_zeros(3, r.shape[0])
    out[0] = d
    octave = torch.floor(2 * torch.log2(sigma / start)).clamp_min(0)
    for b in octave.unique().tolist():
        rows = (octave == b).nonzero()[:, 0]
        largest = t.decay / (start * 2 ** (b / 2))
        deg = min(n, int(largest + 8 * largest ** (1 / 3) + 20) // 2)
        lc = min(count, int(largest) + 1)
        th = theta[rows, None] * torch.arange(lc)
        cosines = th.cos()
        ang, turn = cosines @ t.angular[:lc, :lc], cosines @ t.turn[:lc, :lc]
        ar, ar0 = r[rows].arccos(), r0[rows].arccos()
        for parity, tab in enumerate((even, odd)):
            m = int(torch.searchsorted(tab.lam, largest))
            if m == 0:
                continue
            k = torch.arange(deg) * 2.0
            T = torch.cos(ar[:, None] * (k + parity))
            U = torch.cos(ar[:, None] * (k + 1 - parity))
            T0 = torch.cos(ar0[:, None] * (k + parity))
            w = (T0 @ tab.value[:deg, :m]) * torch.exp(-0.5 * (tab.lam[:m] * sigma[rows, None]) ** 2)
            f = T @ tab.value[:deg, :m]
            g = U @ tab.slope[:deg, :m]
            l = tab.degree[:m]
            A = ang[:, l]
            out[0, rows] += (w * f * A).sum(1)
            out[1, rows] += (w * g * A).sum(1)
            out[2, rows] += (w * f * turn[:, l]).sum(1)
    return out


def log_sphere(d):
    return math.log(2) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)


def series_log_prob_and_score(x, x0, sigma, start=_SERIES_FROM):
    d = x.shape[-1]
    r, r0, e, e0 = _polar(x, x0)
    u = 0.5 * (e - e0).square().sum(-1)
    theta = 2 * torch.asin((u / 2).sqrt().clamp_max(1))
    p, pr, pc = _series(r, r0, theta, sigma, d, start)
    score = (pr / p)[:, None] * e + (pc / (p * r))[:, None] * (e0 - e + u[:, None] * e)
    return p.log() - log_sphere(d), score
