r"""The Neumann heat kernel of the unit ball in R^d: log density and score, as functions of tensors.

``p_sigma(x | x0)`` is the density, against Lebesgue measure, of reflected Brownian motion (generator: half the
Neumann Laplacian) at time ``sigma**2``. It depends on ``r = |x|``, ``r0 = |x0|`` and the angle between them.
This room holds two ways to evaluate it:

* the **eigenfunction series**, for ``sigma >= 0.1`` and points within some 6.8 ``sigma`` of each other (further
  apart it has no relative precision left). Radial eigenfunctions are kept as Chebyshev coefficients and Gegenbauer
  polynomials as cosine sums, so that a batch costs a few matrix products and not one Bessel function;
* a **Gaussian times a wall factor** elsewhere. Away from the wall the factor is exactly one. Near it, it is the
  half-line kernel of the radius, each image on its own angular clock (`_images`), times a small smooth correction
  of second order in ``sigma`` that is fitted to the series once for each d (`_correction`). More than some
  6 ``sigma`` away the factor goes over into its large-deviation form (`_tail`).

Against the series in high precision ``sigma * score`` is right to 1e-6 for ``sigma >= 0.1`` and to 1e-3 below, for d
from 2 to 10 and points up to 5 ``sigma`` apart. Much above d = 20 the series cancels and only the orders of magnitude
are right. Only torch, numpy and, while a table is built, scipy may be used here; everything is float64.

Sources: Carslaw & Jaeger, *Conduction of Heat in Solids*, 2nd ed. 1959, chapter XIV (series, Robin half-line);
Abramowitz & Stegun, *Handbook of Mathematical Functions*, 1964, chapters 9 and 22.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

_SERIES_FROM = 0.1
_SERIES_REACH = 46.0  # (|x - x0| / sigma)^2 up to which the series keeps relative precision in float64
_TRUNCATION = 1e-15  # share of the trace of the heat semigroup that the left-out modes would add
_IMAGE_REACH = 18.0  # alpha alpha0 / sigma^2 beyond which the wall changes nothing in float64
_CENTRE = 1e-7  # points nearer the centre are moved to this radius, where the angle is well defined
_CHUNK = 4096  # rows at a time, each of which takes a few hundred numbers

_FIT_SIGMAS = (0.1, 0.115, 0.13, 0.15, 0.17)
_SIGMA_UNIT = 0.17
_W_MAX = 4.2  # largest w = 2 r r0 (1 - cos) / sigma for which the correction is fitted


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


def _log_sphere(d: int) -> float:
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
    """Tables for every mode that counts at ``sigma = _SERIES_FROM``; some 0.2 s."""
    from scipy.special import gammainccinv, jv

    a = d / 2 - 1
    reach = math.sqrt(2 * float(gammainccinv(d / 2, _TRUNCATION)))
    degree, lam = _roots(a, reach / _SERIES_FROM)
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


def _series(r: Tensor, r0: Tensor, u: Tensor, sigma: Tensor, d: int) -> Tensor:
    """``|S^{d-1}|`` times p, dp/dr and dp/dcos by the eigenfunction series.

    ``|S| p = d + sum_{l,k} exp(-lam^2 sigma^2/2) phi_lk(r) phi_lk(r0) N_l P_l(cos)``, N_l the multiplicity.

    Args:
        r: ``|x|`` in [0, 1], [B].
        r0: ``|x0|`` in [0, 1], [B].
        u: ``1 - cos`` of the angle between x and x0, [B].
        sigma: Brownian standard deviation, at least `_SERIES_FROM`, [B].
        d: dimension.

    Returns:
        The three, [3, B].
    """
    modes = _modes(d, r.device)
    out = r.new_zeros(3, r.shape[0])
    out[0] = d
    theta, arc, arc0 = 2 * (u / 2).sqrt().clamp(max=1).asin(), r.arccos(), r0.arccos()
    # rows of like sigma share a slice of the tables: the larger sigma, the fewer modes count
    octave = (2 * torch.log2(sigma / _SERIES_FROM)).floor().clamp(0, 40)
    for step in octave.unique().tolist():
        rows = (octave == step).nonzero()[:, 0]
        largest = modes.reach / (_SERIES_FROM * 2 ** (step / 2))
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


# Near the wall, in units of sigma: A = (1 - r)/sigma, A0 = (1 - r0)/sigma, w = 2 r r0 (1 - cos)/sigma.


@functools.lru_cache(maxsize=4)
def _bridge_nodes(device: torch.device) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre in t with s = sin^2(pi t/2): smooth where a bridge starts and ends."""
    node, weight = np.polynomial.legendre.leggauss(16)
    t = math.pi / 4 * (node + 1)
    s, w = np.sin(t) ** 2, weight * math.pi / 2 * np.sin(t) * np.cos(t)
    return torch.as_tensor(s, device=device), torch.as_tensor(w, device=device)


def _clock(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """``int_0^1 E|B_s| ds`` over the Brownian bridge from ``start`` to ``end``, and d/d``end``; [B] each."""
    s, weight = _bridge_nodes(start.device)
    mean, spread = start[:, None] * (1 - s) + end[:, None] * s, (s * (1 - s)).sqrt()
    z = mean / spread
    erf = torch.erf(z / math.sqrt(2))
    folded = spread * math.sqrt(2 / math.pi) * torch.exp(-0.5 * (z * z).clamp(max=160)) + mean * erf
    return folded @ weight, (s * erf) @ weight


def _images(A: Tensor, A0: Tensor, w: Tensor, sigma: Tensor, d: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""Log wall factor to first order in sigma, and its derivatives in A and w; all [B].

    ``K = (r r0)^{(d-1)/2} p`` solves a heat equation in the radius with ``dK/dr = kappa K`` at the wall,
    ``kappa = (d-1)/2``, while the angle runs on the clock ``tau = int ds/|X_s|^2`` with the law
    ``exp(-(1-cos)/tau) tau^-kappa``; in free space ``tau = sigma^2/(r r0)`` exactly. The half-line kernel is

        g(A - A0) + g(A + A0) (1 + rho),   rho = kappa sigma sqrt(2 pi) erfcx((A + A0 - kappa sigma)/sqrt 2),

    and folding a path at the wall changes its clock by the factor ``1 + 2 sigma D``, D the mean of |B| over the
    bridge from A0 to A (direct term) or to -A (image), less (A + A0)/2: to first order this multiplies the term by
    ``exp((w - 2 kappa sigma) D)``.
    """
    kappa = (d - 1) / 2
    half = (A + A0) / 2
    direct, direct_a = _clock(A0, A)
    image, image_a = _clock(A0, -A)
    speed = w - 2 * kappa * sigma
    y = (A + A0 - kappa * sigma).clamp(min=-35)
    rho = kappa * sigma * math.sqrt(2 * math.pi) * torch.special.erfcx(y / math.sqrt(2))
    rho_a = rho * y - 2 * kappa * sigma
    first = speed * (direct - half)
    second = speed * (image - half) - 2 * A * A0 + rho.log1p()
    value = torch.logaddexp(first, second)
    p, q = (first - value).exp(), (second - value).exp()
    by_a = p * speed * (direct_a - 0.5) + q * (rho_a / (1 + rho) - 2 * A0 - speed * (image_a + 0.5))
    return value, by_a, p * (direct - half) + q * (image - half)


_POWERS = np.array(
    [
        (i, j, k, n)
        for i, j, k, n in itertools.product(range(8), range(8), range(5), range(4))
        if i + j <= 7 and 2 <= k + n <= 4 and i + j + k + n <= 9
    ]
)


def _chebyshev(x: Tensor) -> tuple[Tensor, Tensor]:
    """``T_0 .. T_7`` and their derivatives, [B, 8] each."""
    first, second = [torch.ones_like(x), x], [torch.ones_like(x), 2 * x]
    for _ in range(6):
        first.append(2 * x * first[-1] - first[-2])
        second.append(2 * x * second[-1] - second[-2])
    slopes = [torch.zeros_like(x), *(n * second[n - 1] for n in range(1, 8))]
    return torch.stack(first, 1), torch.stack(slopes, 1)


def _terms(A: Tensor, A0: Tensor, w: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The correction's basis and its derivatives in A and w, [B, T] each.

    ``T_i(s) T_j(m) w^k sigma^n exp(-2 A A0)``, where s and m are the symmetric functions A + A0 and A A0 mapped
    from [0, inf) to [-1, 1]; k + n >= 2, as the first order is exact; the exponential is the weight of the image.
    """
    total, product = A + A0, A * A0
    (a, a_s), (b, b_m) = _chebyshev(1 - 6 / (total + 3)), _chebyshev(1 - 2 / (product + 1))
    a_s = a_s * (6 / (total + 3).square())[:, None]
    b_m = b_m * (2 / (product + 1).square())[:, None] - 2 * b
    k = torch.arange(5, dtype=A.dtype, device=A.device)
    c = w[:, None] ** k
    c_w = torch.cat([torch.zeros_like(c[:, :1]), c[:, :4] * k[1:]], 1)
    rest = (sigma[:, None] / _SIGMA_UNIT) ** k * torch.exp(-2 * product)[:, None]
    i, j, k, n = (torch.as_tensor(column, device=A.device) for column in _POWERS.T)
    a, b, rest = a[:, i], b[:, j], rest[:, n]
    along = (a_s[:, i] * b + A0[:, None] * a * b_m[:, j]) * c[:, k]
    return a * b * c[:, k] * rest, along * rest, a * b * c_w[:, k] * rest


def _fit_points(sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """``A``, ``A0``, ``w`` that fill what the correction must cover and the series can give; [P] each."""
    cube = torch.quasirandom.SobolEngine(4).draw(1500, dtype=torch.float64)
    edge = torch.sin(math.pi / 2 * cube).square()  # denser at the edges, where a fit is worst
    total = 7 * edge[:, 0]
    least = (total.square() - 16).clamp(min=0).sqrt()  # A A0 <= 4
    inner = ((cube[:, 1] - 0.15) / 0.85).clamp(min=0)  # a share of the pairs has its nearer point on the wall itself
    gap = (total - (total - least) * torch.sin(math.pi / 2 * inner).square()) * torch.where(cube[:, 3] < 0.5, 1.0, -1.0)
    w = (40 - gap.square()) * edge[:, 2] * sigma
    keep = (w >= 0) & (w <= _W_MAX)
    return (total + gap)[keep] / 2, (total - gap)[keep] / 2, w[keep]


@functools.lru_cache(maxsize=16)
def _correction(d: int, device: torch.device) -> Tensor:
    """Coefficients [T] of `_terms`: least squares on log p and both components of the score, from the series."""
    rows, values = [], []
    for size in _FIT_SIGMAS:
        A, A0, w = _fit_points(size)
        r, r0 = 1 - A * size, 1 - A0 * size
        u = w * size / (2 * r * r0)
        keep = (r > 0.15) & (r0 > 0.15) & (u < 1.5)
        A, A0, w, r, r0, u = (t[keep] for t in (A, A0, w, r, r0, u))
        sigma = torch.full_like(r, size)
        p, along, turn = _series(r, r0, u, sigma, d)
        base, base_a, base_w = _images(A, A0, w, sigma, d)
        terms, terms_a, terms_w = _terms(A, A0, w, sigma)
        free = -0.5 * (A - A0).square() - w / (2 * size) - d / 2 * math.log(2 * math.pi * size**2)
        side, pull = (2 * u).sqrt(), 2 * r * r0  # tangential: sigma side d/du; dw/du = pull/sigma
        inward, across = (w * size / r)[:, None], (side * pull)[:, None]
        rows += [terms, inward * terms_w - terms_a, across * terms_w]
        values += [
            p.log() - _log_sphere(d) - free - base,
            size * along / p - (A - A0 - w / (2 * r)) - (inward[:, 0] * base_w - base_a),
            -size * side * turn / p + side * pull / (2 * size) - across[:, 0] * base_w,
        ]
    matrix, target = torch.cat(rows), torch.cat(values)
    scale = matrix.square().mean(0).sqrt()
    matrix = matrix / scale
    normal = matrix.T @ matrix / len(matrix) + 1e-13 * torch.eye(len(scale), dtype=matrix.dtype)
    coefficients: Tensor = torch.linalg.solve(normal, matrix.T @ target / len(matrix)) / scale
    return coefficients.to(device)


def _tail(A: Tensor, A0: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log wall factor far out, and its derivatives in A and w; all [B].

    A long path crosses the ball along the chord and meets the wall at its two ends only, each with its own image:
    ``(1 + exp(-A (2 A0 + w))) (1 + exp(-A0 (2 A + w)))``, which cancels the Gaussian's normal derivative,
    ``A0 + w/2``, on the wall. For small w the two images are one: the last term of the product changes sign.
    """
    depth, half = (A + A0 + 1).square(), (w / 2).square()
    sign, slope = 1 - 2 * depth / (depth + half), 2 / (depth + half).square()
    one, two, both = (
        torch.exp(-A * (2 * A0 + w)),
        torch.exp(-A0 * (2 * A + w)),
        torch.exp(-2 * A * A0 - (A + A0) * w),
    )
    total = 1 + one + two + sign * both
    sign_a, sign_w = -2 * slope * half * (A + A0 + 1), slope * depth * w / 2
    by_a = (sign_a - sign * (2 * A0 + w)) * both - (2 * A0 + w) * one - 2 * A0 * two
    by_w = (sign_w - sign * (A + A0)) * both - A * one - A0 * two
    return total.log(), by_a / total, by_w / total


def _wall_factor(r: Tensor, r0: Tensor, u: Tensor, sigma: Tensor, d: int) -> tuple[Tensor, Tensor, Tensor]:
    """``log(p / Gaussian)``, its derivative in r and 1/r times its derivative in ``u = 1 - cos``; [B] each."""
    A, A0, w = (1 - r) / sigma, (1 - r0) / sigma, 2 * u * r * r0 / sigma
    capped = w.clamp(max=_W_MAX)
    near, near_a, near_w = _images(A, A0, capped, sigma, d)
    terms = _terms(A, A0, capped, sigma.clamp(max=_SIGMA_UNIT))
    value, by_a, by_w = (t @ _correction(d, r.device) for t in terms)
    near, near_a, near_w = near + value, near_a + by_a, near_w + by_w
    far, far_a, far_w = _tail(A, A0, w)
    # smooth steps out of the fitted region: w up to _W_MAX, and (A - A0)^2 + 7 w up to about 40
    v, g = (w - _W_MAX) / 0.8 + 1, ((A - A0).square() + 7 * w - 38) / 24
    v_w, g_w = ((v > 0) & (v < 1)) / 0.8, ((g > 0) & (g < 1)) / 24
    v, g = v.clamp(0, 1), g.clamp(0, 1)
    keep_v, keep_g = 1 - v * v * (3 - 2 * v), 1 - g * g * (3 - 2 * g)
    slope_v, slope_g = -6 * v * (1 - v) * v_w * keep_g, -6 * g * (1 - g) * g_w * keep_v
    keep, gap = keep_v * keep_g, near - far
    by_a = far_a + keep * (near_a - far_a) + 2 * slope_g * (A - A0) * gap
    by_w = far_w + keep * (near_w - far_w) + (slope_v + 7 * slope_g) * gap
    return far + keep * gap, (2 * u * r0 * by_w - by_a) / sigma, 2 * r0 / sigma * by_w


@torch.no_grad()
def log_prob_and_score(x: Tensor, x0: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Log density and score of reflected Brownian motion in the unit ball.

    The first call for a dimension builds its tables (under a second to two); they are kept.

    Args:
        x: points of the closed unit ball, [B, d], d >= 2, float64; the centre and the sphere included.
        x0: starts, likewise; may equal x.
        sigma: Brownian standard deviations (time ``sigma**2``), positive, [B], float64.

    Returns:
        ``log p_sigma(x | x0)`` against Lebesgue measure, [B], and its gradient in x, [B, d], whose normal component
        is zero on the sphere. Neither carries a graph.
    """
    d = x.shape[-1]
    size, size0 = x.norm(dim=-1, keepdim=True), x0.norm(dim=-1, keepdim=True)
    axis = torch.zeros_like(x)
    axis[:, 0] = 1.0
    e = torch.where(size > 0, x / torch.where(size > 0, size, 1.0), axis)
    e0 = torch.where(size0 > 0, x0 / torch.where(size0 > 0, size0, 1.0), e)
    e = torch.where(size > 0, e, e0)
    r, r0 = size[:, 0].clamp(_CENTRE, 1.0), size0[:, 0].clamp(max=1.0)
    u = 0.5 * (e - e0).square().sum(-1)
    step = (x - x0) / sigma[:, None]
    square = step.square().sum(-1)
    log_p = -0.5 * square - d / 2 * torch.log(2 * math.pi * sigma.square())
    score = -step / sigma[:, None]
    turn = e0 - e + u[:, None] * e  # r times the gradient of the cosine

    series = (sigma >= _SERIES_FROM) & (square < _SERIES_REACH)
    for rows in series.nonzero()[:, 0].split(_CHUNK):
        p, along, across = _series(r[rows], r0[rows], u[rows], sigma[rows], d)
        series[rows] = good = p > 0  # false for large d only, where the terms may cancel to nothing
        rows, p, along, across = rows[good], p[good], along[good], across[good]
        log_p[rows] = p.log() - _log_sphere(d)
        score[rows] = (along / p)[:, None] * e[rows] + (across / (p * r[rows]))[:, None] * turn[rows]
    near = ~series & ((1 - r) * (1 - r0) < _IMAGE_REACH * sigma.square())
    for rows in near.nonzero()[:, 0].split(_CHUNK):
        factor, by_r, by_u = _wall_factor(r[rows], r0[rows], u[rows], sigma[rows], d)
        log_p[rows] += factor
        score[rows] += by_r[:, None] * e[rows] - by_u[:, None] * turn[rows]
    # on the sphere the normal derivative is zero: what is left of it there is the error of the expansion
    on_wall = (r >= 1 - 1e-15)[:, None]
    return log_p, torch.where(on_wall, score - (score * e).sum(-1, keepdim=True) * e, score)
