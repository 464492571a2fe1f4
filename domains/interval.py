r"""The Neumann heat kernel of an interval, in closed form and exact in the tails.

May use: torch. Boxes, the two-part simplex and the cumulative simplex are built from it.

On [0, L] with reflected Brownian motion of standard deviation sigma, two expansions of the same kernel are
used:

* sigma < L/3: images. The direct path is always the shortest, so its Gaussian is factored out and what remains are
  three exponentials w_1, w_2, w_3 in [0, 1]: the image in the lower wall, in the upper wall, and in both.
* sigma >= L/3: the cosine series, five terms,
  p = 1/L + (2/L) sum_k exp(-k^2 pi^2 sigma^2 / 2 L^2) cos(k pi x/L) cos(k pi x0/L).

Errors of sigma * score are below 1e-6 everywhere (derivation: method of images; Lou & Ermon 2023,
arXiv 2304.04740, appendix, uses the same two sums without the factoring).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SWITCH = 1 / 3  # in units of the length: where both expansions are accurate to 1e-6
_TERMS = 5
_LEAST_DENSITY = 0.02  # the series' range has 0.053 at least; where it is not used it may be anything
_FLOOR = -80.0  # exponents below this are zero in float32, and slow: exp of denormals costs ten times more


def log_prob(x: Tensor, x0: Tensor, low: Tensor | float, high: Tensor | float, sigma: Tensor) -> Tensor:
    """Log-density at ``x`` given ``x0``, elementwise; all arguments broadcast against each other."""
    length = high - low
    a, b, a0, b0 = x - low, high - x, x0 - low, high - x0
    direct = -(((x - x0) / sigma) ** 2) / 2 - torch.log(sigma * math.sqrt(2 * math.pi))
    one, two, three = _image_exponents(a, b, a0, b0, length, sigma)
    near = direct + torch.log1p(torch.exp(one) + torch.exp(two) + torch.exp(three))
    series, _ = _series(a, a0, length, sigma)
    far = torch.log(series / length)
    return torch.where(sigma < SWITCH * length, near, far)


def score(x: Tensor, x0: Tensor, low: Tensor | float, high: Tensor | float, sigma: Tensor) -> Tensor:
    """Derivative in ``x`` of :func:`log_prob`, elementwise; exactly zero on both walls."""
    a, a0, length = x - low, x0 - low, high - low
    near = _score_by_images(a, high - x, a0, high - x0, x - x0, length, sigma)
    return torch.where(sigma < SWITCH * length, near, _score_by_series(a, high - x, a0, length, sigma))


def score_by_rows(x: Tensor, x0: Tensor, low: float, high: float, sigma: Tensor) -> Tensor:
    """:func:`score` for ``x``, ``x0`` ``[B, D]``, ``sigma`` ``[B]``: each row computes the one expansion it needs."""
    length = high - low
    small = sigma < SWITCH * length
    count = int(small.sum())
    if count == len(sigma):
        s = sigma.unsqueeze(-1)
        return _score_by_images(x - low, high - x, x0 - low, high - x0, x - x0, length, s)
    if count == 0:
        return _score_by_series(x - low, high - x, x0 - low, length, sigma.unsqueeze(-1))
    out = torch.empty_like(x)
    rows, others = small.nonzero().squeeze(-1), (~small).nonzero().squeeze(-1)
    out[rows] = score_by_rows(x[rows], x0[rows], low, high, sigma[rows])
    out[others] = score_by_rows(x[others], x0[others], low, high, sigma[others])
    return out


def fold(x: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Reflect points of the line into [low, high]; points inside are returned as they are, bit for bit."""
    length = high - low
    u = torch.remainder(x - low, 2 * length)
    folded = low + torch.minimum(u, 2 * length - u)
    inside = (x >= low) & (x <= high)
    return clip(torch.where(inside, x, folded), low, high)


def clip(x: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Clip to [low, high], whether the bounds are numbers or tensors."""
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return torch.minimum(torch.maximum(x, torch.as_tensor(low).to(x)), torch.as_tensor(high).to(x))
    return x.clamp(low, high)


def _image_exponents(
    a: Tensor, b: Tensor, a0: Tensor, b0: Tensor, length: Tensor | float, sigma: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-weights of the three nearest images beside the direct path: products of distances, so no cancellation."""
    scale = -2 / sigma**2
    both = torch.minimum(a, a0) + torch.minimum(b, b0)  # length - |x - x0|, without its rounding error
    exponents = (scale * a * a0, scale * b * b0, scale * length * both)
    one, two, three = (e.clamp(min=_FLOOR) for e in exponents)
    return one, two, three


def _score_by_images(
    a: Tensor, b: Tensor, a0: Tensor, b0: Tensor, d: Tensor, length: Tensor | float, sigma: Tensor
) -> Tensor:
    """-(d Z + 2 (a0 w1 - b0 w2 -+ L w3)) / (Z sigma^2), Z the sum of weights, arranged around w - 1.

    Next to the lower wall w1 is nearly one and d + 2 a0 w1 / (1 + w1) would cancel; with a0 = a - d and b0 = b + d
    the numerator is d (1 - w1 - w2 + w3) + 2 (a w1 - b w2 -+ L w3), whose first bracket is exact from expm1.
    """
    one, two, three = _image_exponents(a, b, a0, b0, length, sigma)
    e1, e2, w3 = torch.expm1(one), torch.expm1(two), torch.exp(three)
    bracket = w3 - ((1 + torch.minimum(e1, e2)) + torch.maximum(e1, e2))
    w1, w2 = 1 + e1, 1 + e2
    numerator = d * bracket + 2 * (a * w1 - b * w2 - length * torch.sign(d) * w3)
    return _zero_on_walls(-numerator / ((1 + w1 + w2 + w3) * sigma**2), a, b)


def _series(a: Tensor, a0: Tensor, length: Tensor | float, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """L times the density, and its derivative in units of 1/L, by the cosine series."""
    phase, phase0 = math.pi * a / length, math.pi * a0 / length
    cos, sin, cos0 = torch.cos(phase), torch.sin(phase), torch.cos(phase0)
    decay = torch.exp(((-0.5 * math.pi**2) * (sigma / length) ** 2).clamp(min=_FLOOR))
    density, slope = torch.ones_like(cos * cos0 * decay), torch.zeros_like(cos * cos0 * decay)
    ck, sk, ck0 = cos, sin, cos0  # cos(k phase), sin(k phase), cos(k phase0)
    ck_, sk_, ck0_ = torch.ones_like(cos), torch.zeros_like(sin), torch.ones_like(cos0)
    for k in range(1, _TERMS + 1):
        weight = 2 * decay ** (k * k) * ck0
        density = density + weight * ck
        slope = slope - (k * math.pi) * weight * sk
        if k < _TERMS:
            ck, ck_ = 2 * cos * ck - ck_, ck
            sk, sk_ = 2 * cos * sk - sk_, sk
            ck0, ck0_ = 2 * cos0 * ck0 - ck0_, ck0
    return density.clamp(min=_LEAST_DENSITY), slope


def _score_by_series(a: Tensor, b: Tensor, a0: Tensor, length: Tensor | float, sigma: Tensor) -> Tensor:
    density, slope = _series(a, a0, length, sigma)
    return _zero_on_walls(slope / (density * length), a, b)


def _zero_on_walls(score: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The derivative is zero there; rounding leaves eps/sigma, which matters to an ODE that must stay inside."""
    return torch.where((a > 0) & (b > 0), score, 0.0)
