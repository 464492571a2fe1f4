r"""The heat kernel of the unit sphere S^d, d >= 2: log density and slope as functions of tensors, and exact draws.

``p_sigma`` is the density, against surface measure, of Brownian motion (generator: half the Laplace-Beltrami
operator) at time t = sigma^2, a function of the angle theta to the start. Three forms:

* :math:`|S^d|^{-1} \sum_l \frac{2l+d-1}{d-1} e^{-l(l+d-1)t/2} C_l^{(d-1)/2}(\cos\theta)` at larger sigma, where it has
  relative precision: within 6.5 sigma, a little more in many dimensions;
* :math:`(2\pi t)^{-d/2} e^{-\theta^2/2t} (\theta/\sin\theta)^{(d-1)/2} \exp((d-1)^2 t/8 + \sum_{k=1}^8 t^k
  \phi_k(\theta^2))` at smaller sigma, up to theta = 2.4. The phi_k are power series (Minakshisundaram & Pleijel 1949)
  whose recursion follows from the heat equation: :math:`\phi_1 = -\frac{(d-1)(d-3)}{8} (1 - \theta\cot\theta)/
  \theta^2`, and none is needed on S^3;
* beyond, towards the antipode, where some 1e-10 of the mass lies, the leading order there: with
  :math:`z = \pi(\pi-\theta)/t` the factor :math:`\sqrt{2\pi z}\,e^{-z} I_{d/2-1}(z)`, and phi_1 without its pole: even
  in pi - theta, so that the density is smooth there.

The first two agree with the series in high precision to 1e-8 for d up to 8, 1e-7 for d = 12 (tests); the third is off
by 0.005 nats for d = 2, 0.06 for d = 4 and 0.4 for d = 8. Everything is float64.
May use: torch, numpy, scipy where used.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Generator, Tensor

from .checks import SolverError

__all__ = ["log_area", "log_prob_and_score", "sample_angles"]

_ORDER, _POWERS = 8, 72  # of the small-time expansion, and of its power series in theta^2
_NEAR = 2.4  # angle up to which those converge to rounding
_REACH, _WIDER = 42.0, 0.7  # squared sigmas within which the series has relative precision; more by dimension
_ALL = 0.5  # sigma from which it has at every angle
_FLAT = 1.6  # sigma sqrt(d) up to which draws are proposed by a Gaussian in the tangent space
_ROUNDS = 10_000  # of proposals
_LEAST_GAP = 1e-4  # to the antipode, below which formulas are those at this angle


def log_area(d: int) -> float:
    """Log of the surface of the unit sphere of dimension d."""
    return math.log(2) + (d + 1) / 2 * math.log(math.pi) - math.lgamma((d + 1) / 2)


def log_prob_and_score(x: Tensor, x0: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Log density and its gradient along the sphere.

    Args:
        x: unit vectors ``[B, d + 1]``, float64.
        x0: starts, likewise.
        sigma: Brownian standard deviations, positive, ``[B]``.

    Returns:
        ``[B]``, and tangent vectors ``[B, d + 1]``.
    """
    e = (x - x0).square().sum(-1) / 2
    log_p, slope = _by_cosine(e, sigma, x.shape[-1] - 1)
    return log_p, slope.unsqueeze(-1) * (x0 - x + e.unsqueeze(-1) * x)


def sample_angles(sigma: Tensor, d: int, generator: Generator | None) -> Tensor:
    """Angles ``[B]`` to the start, by rejection: exact but for the error of the density.

    Proposed are lengths of Gaussian vectors in the tangent space where sigma is small, else angles of uniform
    points. The ratio of the densities is largest at angle zero.
    """
    out = torch.empty_like(sigma)
    rows = torch.arange(len(sigma), device=sigma.device)
    zero = torch.zeros_like(sigma)
    top = _by_cosine(zero, sigma, d)[0]
    for _ in range(_ROUNDS):
        if not len(rows):
            return out
        s = sigma[rows]
        z = torch.randn((len(rows), d + 1), generator=generator, dtype=s.dtype, device=s.device)
        u = torch.rand(len(rows), generator=generator, dtype=s.dtype, device=s.device)
        flat = s * math.sqrt(d) < _FLAT
        length = s * z[:, :d].norm(dim=-1)
        uniform = torch.atan2(z[:, :d].norm(dim=-1), z[:, d])
        angle = torch.where(flat, length, uniform)
        log_p = _by_cosine(2 * torch.sin(angle.clamp(max=math.pi) / 2).square(), s, d)[0]
        shrink = torch.sinc(angle.clamp(max=math.pi) / math.pi).clamp(min=1e-30).log()
        ratio = log_p - top[rows] + torch.where(flat, (d - 1) * shrink + (length / s).square() / 2, 0.0)
        good = (u.log() < ratio) & (angle < math.pi)
        out[rows[good]] = angle[good]
        rows = rows[~good]
    raise SolverError(f"no draw of the sphere's kernel was accepted in {_ROUNDS} rounds: is sigma finite?")


# ---------------------------------------------------------------------- forms


def _by_cosine(e: Tensor, sigma: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """Log density ``[B]`` and its derivative by the cosine, from e = 1 - cosine ``[B]``."""
    square = _squared_angle(e)
    switch = min(0.35, 1.2 / math.sqrt(d))
    reach = _REACH + _WIDER * (d - 2)
    by_series = (sigma >= switch) & ((square < reach * sigma.square()) | (sigma >= _ALL))
    by_powers = ~by_series & (square < _NEAR**2)
    log_p, slope = torch.zeros_like(e), torch.zeros_like(e)
    for form, mask in ((_series, by_series), (_powers, by_powers), (_far, ~by_series & ~by_powers)):
        rows = mask.nonzero().squeeze(-1)
        if len(rows):
            value, derivative = form(e[rows], square[rows], sigma[rows], d)
            log_p, slope = log_p.index_put((rows,), value), slope.index_put((rows,), derivative)
    return log_p, slope


def _squared_angle(e: Tensor) -> Tensor:
    """theta^2 of e = 1 - cos theta: analytic at zero, as autograd needs it."""
    small = e < 1e-2
    root = (e.clamp(1e-2, 2.0) / 2).sqrt()
    wide = 2 * torch.atan2(root, (1 - root.square()).clamp(min=1e-300).sqrt())
    z = e.clamp(max=1e-2)
    near = z * (2 + z * (1 / 3 + z * (4 / 45 + z * (1 / 35 + z * (16 / 1575 + z * (8 / 2079))))))
    return torch.where(small, near, wide.square())


def _series(e: Tensor, square: Tensor, sigma: Tensor, d: int) -> tuple[Tensor, Tensor]:
    u, t = 1 - e, sigma.square()
    a, least = (d - 1) / 2, float(sigma.min()) ** 2
    last = 1
    while last * (last + d - 1) * least / 2 - 1.5 * d * math.log(last + d) < 40:
        last += 1
    before, c = torch.zeros_like(u), torch.ones_like(u)  # C_l of index a
    b_before, b = torch.zeros_like(u), torch.zeros_like(u)  # C_{l-1} of index a + 1, of which derivatives are made
    p, slope = torch.ones_like(u), torch.zeros_like(u)
    for n in range(1, last + 1):
        before, c = c, (2 * (n + a - 1) * u * c - (n + 2 * a - 2) * before) / n
        k = n - 1
        following = torch.ones_like(u) if k == 0 else (2 * (k + a) * u * b - (k + 2 * a) * b_before) / k
        b_before, b = b, following
        weight = (2 * n + d - 1) * torch.exp(-n * (n + d - 1) / 2 * t)
        p = p + weight / (d - 1) * c
        slope = slope + weight * b
    p = p.clamp(min=torch.finfo(p.dtype).tiny)
    return p.log() - log_area(d), slope / p


def _powers(e: Tensor, square: Tensor, sigma: Tensor, d: int) -> tuple[Tensor, Tensor]:
    t = sigma.square()
    table = _coefficients(d).to(square.device)
    powers = torch.cumprod(torch.cat([torch.ones_like(square).unsqueeze(-1), _repeat(square)], -1), -1)
    values = powers @ table  # log(theta / sin theta), its derivative by theta^2, phi_k, their derivatives
    spread, slope, phi, by_square = values.split([1, 1, _ORDER, _ORDER], -1)
    times = torch.cumprod(t.unsqueeze(-1).expand_as(phi), -1)
    a = (d - 1) / 2
    log_p = -square / (2 * t) - d / 2 * torch.log(2 * math.pi * t) + a * spread.squeeze(-1) + a * a / 2 * t
    log_p = log_p + (times * phi).sum(-1)
    total = -1 / (2 * t) + a * slope.squeeze(-1) + (times * by_square).sum(-1)
    return log_p, -2 * total * spread.squeeze(-1).exp()


def _repeat(square: Tensor) -> Tensor:
    return square.unsqueeze(-1).expand(*square.shape, _POWERS - 1)


def _far(e: Tensor, square: Tensor, sigma: Tensor, d: int) -> tuple[Tensor, Tensor]:
    value, slope = (v.to(e) for v in _far_values(square.detach(), sigma.detach(), d))
    return value - slope * (e - e.detach()), slope  # the first derivative is kept for autograd


def _far_values(square: Tensor, sigma: Tensor, d: int) -> tuple[Tensor, Tensor]:
    from scipy import special

    t = sigma.cpu().numpy() ** 2
    gap = np.maximum(math.pi - square.sqrt().cpu().numpy(), _LEAST_GAP)
    theta, nu, c = math.pi - gap, d / 2 - 1, (d - 1) * (d - 3) / 8
    z, sine, cot = math.pi * gap / t, np.sin(gap), -1 / np.tan(gap)
    bend = (1 - theta * cot) / theta**2 - 1 / (math.pi * gap)
    bend_slope = 1 / (math.pi * gap**2) - (theta / sine**2 - cot) / theta**2 + 2 * (1 - theta * cot) / theta**3
    ive = special.ive(nu, z)
    r = special.ive(nu + 1, z) / ive  # 1 away from the antipode, odd in the gap
    r_slope = (1 - r**2 - (2 * nu + 1) * r / z) * math.pi / t
    mean, a = math.pi - gap * r, (d - 1) / 2  # mean length of the ways round
    value = -(theta**2) / (2 * t) - d / 2 * np.log(2 * math.pi * t) + a * np.log(mean / sine) + a * a / 2 * t
    value += -c * t * bend * r**2 + np.log(ive) + np.log(2 * math.pi * z) / 2
    slope = theta / t - a * ((r + gap * r_slope) / mean - cot) - c * t * r * (bend_slope * r + 2 * bend * r_slope)
    slope += math.pi / t * ((nu + 0.5) / z - 1 + r)
    return torch.from_numpy(value), torch.from_numpy(slope / sine)


@lru_cache(maxsize=16)
def _coefficients(d: int) -> Tensor:
    """Power series in theta^2 ``[powers, 2 + 2 order]``.

    Columns: log(theta / sin theta), its derivative, the phi_k, their derivatives. With phi = sum t^k phi_k the heat
    equation gives k phi_k + theta phi_k' = (phi_{k-1}'' + (d-1)/theta phi_{k-1}' + sum phi_i' phi_{k-1-i}')/2, at k = 1
    with -c (1/sin^2 - 1/theta^2) on the right, c = (d-1)(d-3)/8.
    """
    from scipy.special import zeta

    j = np.arange(_POWERS)
    bend = 2 * zeta(2.0 * (j + 1)) / math.pi ** (2.0 * (j + 1))  # (1 - theta cot theta) / theta^2
    log_ratio = np.concatenate([[0.0], (bend / (2 * (j + 1)))[:-1]])
    phi = [np.zeros(_POWERS)]
    for k in range(1, _ORDER + 1):
        right = -(d - 1) * (d - 3) / 8 * (2 * j + 1) * bend if k == 1 else np.zeros(_POWERS)
        right[:-1] += (j * (2 * j + d - 2) * phi[k - 1])[1:]
        for i in range(1, k - 1):
            right += np.convolve(2 * j * phi[i], 2 * j * phi[k - 1 - i])[1 : _POWERS + 1] / 2
        phi.append(right / (k + 2 * j))
    columns = [log_ratio, bend / 2, *phi[1:], *(np.append((j * p)[1:], 0.0) for p in phi[1:])]
    return torch.from_numpy(np.stack(columns, 1))
