"""Slow, independent references for the Neumann heat kernel of the unit ball.

Two evaluations of the eigenfunction series straight from Bessel functions, sharing no code with the library:
`ball_log_prob_and_score` in mpmath to any number of digits, and `ball_log_prob_and_score_float64` in scipy, which
reaches down to ``sigma = 0.01`` as long as the two points are within some five ``sigma`` of each other (the
series has no relative precision far beyond). `write_table` regenerates ``tests/data/ball_kernel_reference.json``:
``python tests/references_ball.py``, some ten minutes.

Source: Carslaw & Jaeger, *Conduction of Heat in Solids*, 2nd ed. 1959, chapter XIV; Abramowitz & Stegun 1964,
chapters 9 and 22.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import mpmath
import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]
TABLE = Path(__file__).parent / "data" / "ball_kernel_reference.json"


def _condition(degree: Array, a: float, z: Array) -> Array:
    """``l J_nu(z) - z J_{nu+1}(z)``: vanishes where the radial eigenfunction has zero slope at the wall."""
    nu = degree + a
    return degree * special.jv(nu, z) - z * special.jv(nu + 1, z)


@functools.lru_cache(maxsize=16)
def neumann_roots(d: int, largest: float) -> tuple[Array, Array]:
    """All ``(l, lam)`` with ``0 < lam < largest``, as two float64 arrays of shape [M], to about 1e-13."""
    a = d / 2 - 1
    degrees, low = [], []
    grid = np.arange(0.3, largest + 0.4, 0.4)
    for degree in range(int(largest) + 1):
        z = grid[grid > max(degree - 1, 0)]
        f = _condition(np.float64(degree), a, z)
        change = np.flatnonzero(np.sign(f[1:]) * np.sign(f[:-1]) < 0)
        degrees.append(np.full(change.size, float(degree)))
        low.append(z[change])
    l_, lo = np.concatenate(degrees), np.concatenate(low)
    hi = lo + 0.4
    sign = np.sign(_condition(l_, a, lo))
    for _ in range(46):
        mid = (lo + hi) / 2
        same = np.sign(_condition(l_, a, mid)) == sign
        lo, hi = np.where(same, mid, lo), np.where(same, hi, mid)
    lam = (lo + hi) / 2
    keep = lam < largest
    return l_[keep], lam[keep]


def _polar(x: Sequence[float], x0: Sequence[float]) -> tuple[float, float, float, Array, Array]:
    """Radii, cosine and unit vectors of two points that are not at the centre."""
    u, v = np.asarray(x, dtype=float), np.asarray(x0, dtype=float)
    r, r0 = float(np.linalg.norm(u)), float(np.linalg.norm(v))
    return r, r0, float(u @ v) / (r * r0), u / r, v / r0


def ball_log_prob_and_score_float64(
    x: Sequence[float], x0: Sequence[float], sigma: float, d: int
) -> tuple[float, Array]:
    """The series in double precision, Bessel functions evaluated mode by mode.

    Args:
        x, x0: points of the closed unit ball, [d], not the centre.
        sigma: Brownian standard deviation (time ``sigma**2`` of half the Neumann Laplacian), at least 0.01.
        d: dimension, at least 2.

    Returns:
        ``log p`` and its gradient in ``x``, [d]. Relative error about ``1e-12 exp(|x - x0|^2 / 2 sigma^2)``.
    """
    a = d / 2 - 1
    degree, lam = neumann_roots(d, math.sqrt(2 * special.gammainccinv(d / 2, 1e-15)) / sigma)
    r, r0, c, e, e0 = _polar(x, x0)
    nu = degree + a
    norm = 0.5 * (1 - (nu**2 - a**2) / lam**2) * special.jv(nu, lam) ** 2
    bessel = special.jv(nu, lam * r)
    radial = r**-a * bessel
    slope = r**-a * (degree / r * bessel - lam * special.jv(nu + 1, lam * r))
    other = np.exp(-0.5 * (lam * sigma) ** 2) * r0**-a * special.jv(nu, lam * r0) / norm
    sphere = 2 * math.pi ** (d / 2) / math.gamma(d / 2)
    n = int(degree.max()) + 1
    angular, turn = np.zeros(n), np.zeros(n)
    for i in range(n):
        if d == 2:
            angular[i] = (2 - (i == 0)) * special.eval_chebyt(i, c)
            turn[i] = 2 * i * special.eval_chebyu(i - 1, c) if i else 0.0
        else:
            angular[i] = (2 * i + d - 2) / (d - 2) * special.eval_gegenbauer(i, a, c)
            turn[i] = (2 * i + d - 2) * special.eval_gegenbauer(i - 1, a + 1, c) if i else 0.0
    index = degree.astype(int)
    p = math.fsum(other * radial * angular[index]) + d
    along = math.fsum(other * slope * angular[index])
    across = math.fsum(other * radial * turn[index])
    return math.log(p / sphere), (along * e + across * (e0 - c * e) / r) / p


@functools.lru_cache(maxsize=8)
def _mp_modes(d: int, largest: float, digits: int) -> list[tuple[int, mpmath.mpf, mpmath.mpf]]:
    """``(l, lam, squared norm)`` with the roots polished to ``digits`` by secant steps."""
    modes = []
    with mpmath.workdps(digits):
        a = mpmath.mpf(d) / 2 - 1
        for degree, start in zip(*neumann_roots(d, largest), strict=True):
            order, nu = int(degree), int(degree) + a
            lam = mpmath.findroot(
                lambda z, m=order, v=nu: m * mpmath.besselj(v, z) - z * mpmath.besselj(v + 1, z),
                (mpmath.mpf(start), mpmath.mpf(start) + mpmath.mpf(10) ** -12),
                tol=mpmath.mpf(10) ** (-2 * digits + 40),
                verify=False,
            )
            norm = (1 - (nu**2 - a**2) / lam**2) * mpmath.besselj(nu, lam) ** 2 / 2
            modes.append((order, lam, norm))
    return modes


def ball_log_prob_and_score(
    x: Sequence[float], x0: Sequence[float], sigma: float, d: int, digits: int = 50
) -> tuple[float, Array]:
    """Log density and score of reflected Brownian motion in the unit ball, by the full series in mpmath.

    ``p = 1/|B| + sum_{l,k} exp(-lam^2 sigma^2/2) (r r0)^-a J_nu(lam r) J_nu(lam r0)/norm angular_l(cos)`` with
    ``a = d/2 - 1``, ``nu = l + a``, ``lam J_nu'(lam) = a J_nu(lam)``.

    Args:
        x, x0: points of the closed unit ball, [d], not the centre.
        sigma: Brownian standard deviation.
        d: dimension, at least 2.
        digits: decimal digits carried; terms below ``10**-(digits - 10)`` of the largest are left out.

    Returns:
        ``log p`` and its gradient in ``x``, [d].
    """
    largest = math.sqrt(2 * (digits - 10) * math.log(10) + 10 + 2 * d) / sigma
    with mpmath.workdps(digits):
        a = mpmath.mpf(d) / 2 - 1
        u, v = [mpmath.mpf(float(t)) for t in x], [mpmath.mpf(float(t)) for t in x0]
        r, r0 = mpmath.sqrt(sum(t * t for t in u)), mpmath.sqrt(sum(t * t for t in v))
        e, e0 = [t / r for t in u], [t / r0 for t in v]
        c = sum(s * t for s, t in zip(e, e0, strict=True))
        modes = _mp_modes(d, largest, digits)
        top = max(m[0] for m in modes) + 1
        ga, gb = [mpmath.mpf(1), 2 * (a or mpmath.mpf(1)) * c], [mpmath.mpf(1), 2 * (a + 1) * c]
        if d == 2:
            ga[1] = c
        for i in range(2, top + 1):
            first = 2 * c * ga[-1] - ga[-2] if d == 2 else (2 * (i + a - 1) * c * ga[-1] - (i + 2 * a - 2) * ga[-2]) / i
            ga.append(first)
            gb.append((2 * (i + a) * c * gb[-1] - (i + 2 * a) * gb[-2]) / i)
        sphere = 2 * mpmath.pi ** (mpmath.mpf(d) / 2) / mpmath.gamma(mpmath.mpf(d) / 2)
        p, along, across = mpmath.mpf(d), mpmath.mpf(0), mpmath.mpf(0)
        for order, lam, norm in modes:
            nu = order + a
            weight = (
                mpmath.exp(-((lam * mpmath.mpf(sigma)) ** 2) / 2) * mpmath.besselj(nu, lam * r0) / norm / (r * r0) ** a
            )
            bessel, above = mpmath.besselj(nu, lam * r), mpmath.besselj(nu + 1, lam * r)
            if d == 2:
                angular, turn = (2 if order else 1) * ga[order], (2 * order * gb[order - 1] if order else 0)
            else:
                angular = (2 * order + d - 2) * ga[order] / (d - 2)
                turn = (2 * order + d - 2) * gb[order - 1] if order else 0
            p += weight * bessel * angular
            along += weight * (order / r * bessel - lam * above) * angular
            across += weight * bessel * turn
        score = [float((along * s + across * (t - c * s) / r) / p) for s, t in zip(e, e0, strict=True)]
        return float(mpmath.log(p / sphere)), np.array(score)


def sample_points(d: int, sigma: float, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Pairs ``(x, x0)``, [count, d] each, that stress a kernel.

    Starts: near the centre, anywhere, near the wall, nearer, on it. Ends: a Gaussian step away or uniform in a ball
    of 5 sigma, folded back at the wall, some of them on the wall.
    """
    starts, ends = [], []
    while len(starts) < count:
        kind = rng.integers(5)
        depth = (1.0, rng.uniform(), 3 * sigma * rng.uniform(), 0.5 * sigma * rng.uniform(), 0.0)[kind]
        direction = rng.standard_normal(d)
        x0 = direction / np.linalg.norm(direction) * max(1 - depth, 1e-6)
        step = sigma * rng.standard_normal(d)
        if rng.uniform() < 0.5:
            step *= 5 * sigma * rng.uniform() ** (1 / d) / np.linalg.norm(step)
        x = x0 + step
        size = np.linalg.norm(x)
        if size > 1 or rng.uniform() < 0.15:
            x = x / size * (1.0 if rng.uniform() < 0.4 else min(1.0, abs(2 - size)))
        if np.linalg.norm(x - x0) <= max(5.0, math.sqrt(d) + 2.5) * sigma and np.linalg.norm(x) > 1e-8:
            starts.append(x0)
            ends.append(x)
    return np.array(ends), np.array(starts)


def write_table(path: Path = TABLE, each: int = 5) -> None:
    """Write ``each`` reference values for every d and sigma, as rows ``[d, sigma, x, x0, log p, score]``."""
    rows = []
    for d in (2, 3, 5, 10):
        rng = np.random.default_rng(d)
        for sigma in (1.5, 0.6, 0.3, 0.17, 0.1, 0.09, 0.05, 0.03, 0.02, 0.01):
            for x, x0 in zip(*sample_points(d, sigma, each, rng), strict=True):
                reference = ball_log_prob_and_score if sigma >= 0.1 else ball_log_prob_and_score_float64
                log_p, score = reference(list(x), list(x0), sigma, d)
                rows.append([d, sigma, x.tolist(), x0.tolist(), log_p, [float(f"{s:.12g}") for s in score]])
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


if __name__ == "__main__":
    write_table()
