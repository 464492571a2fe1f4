r"""How the wall of the unit ball changes the Gaussian kernel at small sigma.

The factor p / Gaussian is one away from the wall. Near it, it is the half-line kernel in the radius, whose every image
runs on its own angular clock (`_images`), times a small smooth correction of second order in sigma that is fitted once
for each d to the series (`_correction`), so that the two agree where they meet. More than some 6 sigma away the factor
goes over into its large-deviation form (`_tail`).

May use: torch, numpy, and the series. In units of sigma, A = (1 - r)/sigma, A0 = (1 - r0)/sigma,
w = 2 r r0 (1 - cos)/sigma.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import torch
from torch import Tensor

from . import ball_series

REACH = 18.0  # alpha alpha0 / sigma^2 beyond which the wall changes nothing in float64
_FIT_SIGMAS = (0.1, 0.115, 0.13, 0.15, 0.17)
_SIGMA_UNIT = 0.17
_W_MAX = 4.2  # largest w = 2 r r0 (1 - cos) / sigma for which the correction is fitted


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


def _factors(A: Tensor, A0: Tensor, w: Tensor, sigma: Tensor) -> tuple[Tensor, ...]:
    """What the correction's basis is made of: ``T_i(s) T_j(m) w^k sigma^n exp(-2 A A0)``.

    s and m are the symmetric functions A + A0 and A A0 mapped from [0, inf) to [-1, 1]; the exponential is the weight
    of the image. In turn T_i and its derivative in A, [B, 8]; likewise T_j, with the exponential's derivative; w^k and
    its derivative, [B, 5]; sigma^n exp(-2 A A0), [B, 5].
    """
    total, product = A + A0, A * A0
    (a, a_s), (b, b_m) = _chebyshev(1 - 6 / (total + 3)), _chebyshev(1 - 2 / (product + 1))
    a_s = a_s * (6 / (total + 3).square())[:, None]
    b_m = b_m * (2 / (product + 1).square())[:, None] - 2 * b
    k = torch.arange(5, dtype=A.dtype, device=A.device)
    c = w[:, None] ** k
    c_w = torch.cat([torch.zeros_like(c[:, :1]), c[:, :4] * k[1:]], 1)
    rest = (sigma[:, None] / _SIGMA_UNIT) ** k * torch.exp(-2 * product)[:, None]
    return a, a_s, b, A0[:, None] * b_m, c, c_w, rest


def _terms(A: Tensor, A0: Tensor, w: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The basis, of which `_POWERS` lists i, j, k and n, and its derivatives in A and w, [B, T] each: for the fit."""
    a, a_a, b, b_a, c, c_w, rest = _factors(A, A0, w, sigma)
    i, j, k, n = (torch.as_tensor(column, device=A.device) for column in _POWERS.T)
    a, b, c, rest = a[:, i], b[:, j], c[:, k], rest[:, n]
    return a * b * c * rest, (a_a[:, i] * b + a * b_a[:, j]) * c * rest, a * b * c_w[:, k] * rest


def _corrected(A: Tensor, A0: Tensor, w: Tensor, sigma: Tensor, d: int) -> tuple[Tensor, Tensor, Tensor]:
    """The fitted sum of the basis, and its derivatives in A and w, [B] each."""
    a, a_a, b, b_a, c, c_w, rest = _factors(A, A0, w, sigma)
    table = _correction(d, A.device)  # [5 * 5, 8 * 8]: sums over k and n are matrix products
    by_ij, slope_ij = ((one[:, :, None] * rest[:, None]).flatten(1) @ table for one in (c, c_w))
    by_i = (by_ij.view(-1, 8, 8) @ torch.stack([b, b_a], 2)).unbind(2)
    by_w = (slope_ij.view(-1, 8, 8) @ b[:, :, None])[:, :, 0]
    return (a * by_i[0]).sum(1), (a_a * by_i[0] + a * by_i[1]).sum(1), (a * by_w).sum(1)


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
    """Coefficients of the basis [5 k + n, 8 i + j]: least squares on log p and both components of the score."""
    rows, values = [], []
    for size in _FIT_SIGMAS:
        A, A0, w = _fit_points(size)
        r, r0 = 1 - A * size, 1 - A0 * size
        u = w * size / (2 * r * r0)
        keep = (r > 0.15) & (r0 > 0.15) & (u < 1.5)
        A, A0, w, r, r0, u = (t[keep] for t in (A, A0, w, r, r0, u))
        sigma = torch.full_like(r, size)
        p, along, turn = ball_series.series(r, r0, u, sigma, d)
        base, base_a, base_w = _images(A, A0, w, sigma, d)
        terms, terms_a, terms_w = _terms(A, A0, w, sigma)
        free = -0.5 * (A - A0).square() - w / (2 * size) - d / 2 * math.log(2 * math.pi * size**2)
        side, pull = (2 * u).sqrt(), 2 * r * r0  # tangential: sigma side d/du; dw/du = pull/sigma
        inward, across = (w * size / r)[:, None], (side * pull)[:, None]
        rows += [terms, inward * terms_w - terms_a, across * terms_w]
        values += [
            p.log() - ball_series.log_sphere(d) - free - base,
            size * along / p - (A - A0 - w / (2 * r)) - (inward[:, 0] * base_w - base_a),
            -size * side * turn / p + side * pull / (2 * size) - across[:, 0] * base_w,
        ]
    matrix, target = torch.cat(rows), torch.cat(values)
    scale = matrix.square().mean(0).sqrt()
    matrix = matrix / scale
    normal = matrix.T @ matrix / len(matrix) + 1e-13 * torch.eye(len(scale), dtype=matrix.dtype)
    coefficients = torch.linalg.solve(normal, matrix.T @ target / len(matrix)) / scale
    i, j, k, n = _POWERS.T
    table = torch.zeros(25, 64, dtype=torch.float64)
    table[5 * k + n, 8 * i + j] = coefficients
    return table.to(device)


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


def wall_factor(r: Tensor, r0: Tensor, u: Tensor, sigma: Tensor, d: int) -> tuple[Tensor, Tensor, Tensor]:
    """``log(p / Gaussian)``, its derivative in r and 1/r times its derivative in ``u = 1 - cos``; [B] each."""
    A, A0, w = (1 - r) / sigma, (1 - r0) / sigma, 2 * u * r * r0 / sigma
    capped = w.clamp(max=_W_MAX)
    near, near_a, near_w = _images(A, A0, capped, sigma, d)
    value, by_a, by_w = _corrected(A, A0, capped, sigma.clamp(max=_SIGMA_UNIT), d)
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
