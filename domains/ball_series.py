r"""The Neumann heat kernel of the unit ball as an eigenfunction series, for ``sigma >= 0.1``.

May use: torch, numpy and, while a table is built, scipy. Every radial eigenfunction is kept as Chebyshev coefficients
and every Gegenbauer polynomial as a cosine sum, so that a batch costs a few matrix products and not one Bessel
function.
Sources: Carslaw & Jaeger, *Conduction of Heat in Solids*, 2nd ed. 1959, chapter XIV; Abramowitz & Stegun, *Handbook of
Mathematical Functions*, 1964, chapters 9 and 22.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

FROM = 0.1  # the least sigma, in radii
REACH = 46.0  # (|x - x0| / sigma)^2 up to which the series keeps relative precision in float64
_TRUNCATION = 1e-15  # share of the trace of the heat semigroup that the left-out modes would add


class _Radial(NamedTuple):
    """Radial eigenfunctions of one parity of l: [M] modes by rising ``lam``, [N, M] Chebyshev coefficients."""

    lam: Tensor
    degree: Tensor
    value: Tensor
    slope: Tensor


class _Modes(NamedTuple):
    """Tables of the series. ``angular`` and ``turn`` [J, L]: cosine coefficients of P_l and of dP_l/dcos."""

    even: _Radial
    odd: _Radial
    angular: Tensor
    turn: Tensor
    reach: float


def spectral_gap(d: int) -> float:
    """Smallest non-zero Neumann eigenvalue of minus the Laplacian of the unit ball.

    It is the first root squared of ``J_nu(z) = z J_{nu+1}(z)``, ``nu = d/2`` (l = 1), and lies between d and d + 2
    (Weinberger, *An isoperimetric inequality for the N-dimensional free membrane problem*, 1956). Written with
    ``J_nu(z)`` proportional to ``z^nu 0F1(nu + 1; -z^2/4)`` it underflows for no d.

    Args:
        d: dimension, at least 2.

    Returns:
        1.8412**2 in d = 2, 2.0816**2 in d = 3.
    """

    def bessel(b: float, square: float) -> float:
        """``0F1(b; -square/4)``; the terms fall at least like 2^-n/n!."""
        term = total = 1.0
        for n in range(40):
            term *= -square / (4 * (n + 1) * (b + n))
            total += term
        return total

    low, high = float(d), d + 2.0
    for _ in range(60):
        square = (low + high) / 2
        inside = bessel(d / 2 + 1, square) > square / (d + 2) * bessel(d / 2 + 2, square)
        low, high = (square, high) if inside else (low, square)
    return (low + high) / 2


def log_sphere(d: int) -> float:
    """Logarithm of the surface ``|S^{d-1}| = 2 pi^{d/2} / Gamma(d/2)``."""
    return math.log(2.0) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)


def _roots(a: float, largest: float) -> tuple[Array, Array]:
    """Degrees l and roots ``0 < lam < largest`` of ``lam J_nu'(lam) = a J_nu(lam)``, nu = l + a, by rising lam.

    That is ``l J_nu(lam) = lam J_{nu+1}(lam)``. Roots of one l are more than 2 apart and the first exceeds l, so a
    scan with step 1/2 brackets them all; bisection to 1/500 and four Newton steps do the rest.
    """
    from scipy.special import jv

    step = 0.5
    degree, low = np.meshgrid(np.arange(int(largest) + 1.0), np.arange(step, largest + step, step), indexing="ij")
    keep = low >= degree - step
    degree, low = degree[keep], low[keep]
    sign = np.sign(degree * jv(degree + a, low) - low * jv(degree + a + 1, low))
    change = (sign[1:] * sign[:-1] < 0) & (degree[1:] == degree[:-1])
    degree, low, sign = degree[:-1][change], low[:-1][change], sign[:-1][change]
    high, nu = low + step, degree + a
    for _ in range(8):
        z = (low + high) / 2
        same = np.sign(degree * jv(nu, z) - z * jv(nu + 1, z)) == sign
        low, high = np.where(same, z, low), np.where(same, high, z)
    z = (low + high) / 2
    for _ in range(4):
        j, above = jv(nu, z), jv(nu + 1, z)
        derivative = degree * (nu / z * j - above) - z * j + nu * above
        z = np.clip(z - (degree * j - z * above) / derivative, low, high)
    order = np.argsort(z, kind="stable")
    order = order[z[order] < largest]
    return degree[order], z[order]


def _multiplicities(d: int, count: int) -> Array:
    """Dimension of the spherical harmonics of degree 0..count-1 in R^d."""
    from scipy.special import gammaln

    n = np.arange(1.0, count)
    logs = np.log(2 * n + d - 2) + gammaln(n + d - 2) - gammaln(n + 1) - gammaln(d - 1)
    return np.append(1.0, np.exp(logs))


def _cosine_coefficients(d: int, count: int) -> Array:
    """[j, l]: coefficient (>= 0) of cos(j theta) in ``P_l = C_l^a(cos theta) / C_l^a(1)``, a = d/2 - 1.

    ``(l + d - 3) P_l = (2l + d - 4) cos P_{l-1} - (l - 1) P_{l-2}``; for d = 2 this is ``P_l = cos l theta``.
    """
    m = np.zeros((count + 1, count))
    m[0, 0] = 1.0
    m[1, 1:2] = 1.0
    for n in range(2, count):
        product = np.zeros(count + 1)
        product[1:] += m[:-1, n - 1] / 2
        product[:-1] += m[1:, n - 1] / 2
        product[1] += m[0, n - 1] / 2
        m[:, n] = ((2 * n + d - 4) * product - (n - 1) * m[:, n - 2]) / (n + d - 3)
    return m[:count]


def _chebyshev_size(largest: float) -> int:
    """Terms of one parity that resolve ``J_nu(lam r)``, lam <= largest, on [-1, 1] to rounding error."""
    return int(largest + 8 * largest ** (1 / 3) + 20) // 2


@functools.lru_cache(maxsize=16)
def _modes(d: int, device: torch.device) -> _Modes:
    """Tables for every mode that counts at ``sigma = FROM``; some 0.2 s."""
    from scipy.special import gammainccinv, jv

    a = d / 2 - 1
    reach = math.sqrt(2 * float(gammainccinv(d / 2, _TRUNCATION)))
    degree, lam = _roots(a, reach / FROM)
    nu, index = degree + a, degree.astype(np.int64)
    count = int(index.max()) + 1
    # squared norm 1/2 (1 - (nu^2 - a^2)/lam^2) J_nu(lam)^2; the multiplicity is shared between the two ends
    scale = np.sqrt(2 * _multiplicities(d, count)[index] / (1 - (nu**2 - a**2) / lam**2)) / np.abs(jv(nu, lam))
    n = _chebyshev_size(float(lam.max()))
    theta = (np.arange(n) + 0.5) * np.pi / (2 * n)
    r = np.cos(theta)[:, None]
    radial = []
    for odd in (0, 1):  # r^-a J_nu(lam r) has the parity of l: fit on positive nodes, even or odd terms only
        pick = index % 2 == odd
        j = jv(nu[pick], lam[pick] * r)
        with np.errstate(all="ignore"):
            sampled = np.where(j == 0, 0.0, r**-a * j) * scale[pick]
        k = 2 * np.arange(n) + odd
        transform = np.cos(np.outer(k, theta)) * np.where(k == 0, 1.0, 2.0)[:, None] / n
        full = np.zeros((2 * n, sampled.shape[1]))
        full[k] = transform @ sampled
        slope = np.zeros_like(full)
        slope[:-1] = np.polynomial.chebyshev.chebder(full, axis=0)
        parts = (lam[pick], index[pick], full[k], slope[1 - odd :: 2])
        radial.append(_Radial(*(torch.as_tensor(part, device=device) for part in parts)))
    turn = np.zeros((count, count))
    rise = np.arange(1, count)
    turn[:, 1:] = _cosine_coefficients(d + 2, count)[:, :-1] * (rise * (rise + d - 2) / (d - 1))
    angular = _cosine_coefficients(d, count)
    return _Modes(
        radial[0],
        radial[1],
        torch.as_tensor(angular, device=device),
        torch.as_tensor(turn, device=device),
        reach,
    )


def series(r: Tensor, r0: Tensor, u: Tensor, sigma: Tensor, d: int) -> Tensor:
    """``|S^{d-1}|`` times p, dp/dr and dp/dcos by the eigenfunction series.

    ``|S| p = d + sum_{l,k} exp(-lam^2 sigma^2/2) phi_lk(r) phi_lk(r0) N_l P_l(cos)``, N_l the multiplicity.

    Args:
        r: ``|x|`` in [0, 1], [B].
        r0: ``|x0|`` in [0, 1], [B].
        u: ``1 - cos`` of the angle between x and x0, [B].
        sigma: Brownian standard deviation, at least `FROM`, [B].
        d: dimension.

    Returns:
        The three, [3, B].
    """
    modes = _modes(d, r.device)
    out = r.new_zeros(3, r.shape[0])
    out[0] = d
    theta, arc, arc0 = 2 * (u / 2).sqrt().clamp(max=1).asin(), r.arccos(), r0.arccos()
    # rows of like sigma share a slice of the tables: the larger sigma, the fewer modes count
    octave = (2 * torch.log2(sigma / FROM)).floor().clamp(0, 40)
    for step in octave.unique().tolist():
        rows = (octave == step).nonzero()[:, 0]
        largest = modes.reach / (FROM * 2 ** (step / 2))
        size = min(_chebyshev_size(largest), modes.even.value.shape[0])
        count = min(int(largest) + 1, modes.angular.shape[0])
        k = torch.arange(max(2 * size, count), dtype=r.dtype, device=r.device)
        cosines = (theta[rows, None] * k[:count]).cos()
        angular, turn = cosines @ modes.angular[:count, :count], cosines @ modes.turn[:count, :count]
        chebyshev, chebyshev0 = (
            (arc[rows, None] * k[: 2 * size]).cos(),
            (arc0[rows, None] * k[: 2 * size]).cos(),
        )
        for odd, table in enumerate((modes.even, modes.odd)):
            m = int(torch.searchsorted(table.lam, largest))
            value, degree = table.value[:size, :m], table.degree[:m]
            weight = torch.exp(-0.5 * (table.lam[:m] * sigma[rows, None]).square())
            weight = weight * (chebyshev0[:, odd : 2 * size : 2] @ value)
            here = weight * (chebyshev[:, odd : 2 * size : 2] @ value)
            slope = weight * (chebyshev[:, 1 - odd : 2 * size : 2] @ table.slope[:size, :m])
            turned = angular[:, degree]
            terms = ((here * turned).sum(1), (slope * turned).sum(1), (here * turn[:, degree]).sum(1))
            out[:, rows] += torch.stack(terms)
    return out
