r"""The Neumann heat kernel of the equilateral triangle, which is the Euclidean simplex of three parts.

May use: torch. Reflections in the three sides of an equilateral triangle tile the plane with its copies (the
affine Weyl group of type A2), so a Gaussian can be folded exactly, and the kernel is a sum over images or, by
Poisson summation, over plane waves.

Points x are barycentric, x >= 0, sum 1, in the plane's own metric (side sqrt 2). Internally y is the sum-zero vector
whose gaps y_1 - y_2, y_2 - y_3, 1 - y_1 + y_3 are x. There the group is all permutations and all integer translations
q of sum zero, distances are those of x divided by sqrt 3, and with s = sigma / sqrt 3

.. math:: p(y | y_0) = \sum_{w, q} N(y; w y_0 + q, s^2)
          = \frac{1}{\sqrt 3} \sum_{\lambda} e^{-2 \pi^2 |\lambda|^2 s^2} \sum_w \cos 2 \pi \lambda \cdot (y - w y_0)

with lambda in the dual lattice. Sums run in float64: differences of squared distances would cancel in
float32.
"""

from __future__ import annotations

import functools
import itertools
import math

import torch
from torch import Tensor

SWITCH = 0.55  # sigma below which images are summed
_BANDS = ((0.14, 0.7), (0.3, math.inf), (SWITCH, math.inf))  # sigma and |x - x0| up to which the same images matter
_CHUNK = 1024  # rows at a time, which stay in a processor's cache
_NEGLIGIBLE = 26.0  # terms smaller than exp(-26) = 5e-12 of the largest are dropped
_PERMUTATIONS = list(itertools.permutations(range(3)))


def fold(x: Tensor) -> Tensor:
    """Reflect points of the plane ``[.., 3]`` (sum one) into the triangle."""
    y = _to_y(x)
    part = (y - y.floor()).sort(-1, descending=True).values
    excess = part.sum(-1, keepdim=True).round()  # this many of the largest fractions move down by one
    rank = torch.arange(3, device=x.device)
    return _to_x((part - (rank < excess).to(x.dtype)).sort(-1, descending=True).values)


def log_prob_and_score(x: Tensor, x0: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Log-density ``[B]`` against area, and its gradient in the plane ``[B, 3]`` (sum zero).

    Args:
        x: points of the triangle ``[B, 3]``.
        x0: starting points ``[B, 3]``.
        sigma: Brownian standard deviation ``[B]``.
    """
    x64, x064 = x.double(), x0.double()
    y, y0 = (_to_y(v / v.sum(-1, keepdim=True)) for v in (x64, x064))
    s = sigma.double() / math.sqrt(3.0)
    log_p, grad = torch.empty_like(s), torch.empty_like(y)
    chunk = _CHUNK if y.device.type == "cpu" else max(1, len(y))
    distance, left = (x64 - x064).norm(dim=-1), torch.ones_like(s, dtype=torch.bool)
    for band in _BANDS:
        here = left & (sigma < band[0]) & (distance < band[1])
        left = left & ~here
        for rows in here.nonzero()[:, 0].split(chunk):
            log_p[rows], grad[rows] = _images(y[rows], y0[rows], s[rows], *band)
    for rows in left.nonzero()[:, 0].split(chunk):
        log_p[rows], grad[rows] = _waves(y[rows], y0[rows], s[rows])
    # An area of y is three times as large in x; the chain rule takes a third of the (conformal) map to x.
    score = (grad - grad.roll(-1, -1)) / 3
    return (log_p - math.log(3.0)).to(x.dtype), score.to(x.dtype)


def _images(y: Tensor, y0: Tensor, s: Tensor, limit: float, reach: float) -> tuple[Tensor, Tensor]:
    order, shift = (t.to(y.device) for t in _nearby_images(limit, reach))
    offset = y.unsqueeze(1) - (y0[:, order] + shift)  # [B, images, 3]; the first image is y0 itself
    square = (offset**2).sum(-1)
    exponent = (square[:, :1] - square) / (2 * s**2).unsqueeze(-1)
    weight = torch.exp(exponent)
    total = weight.sum(-1)
    log_p = total.log() - square[:, 0] / (2 * s**2) - torch.log(2 * math.pi * s**2)
    grad = -(weight.unsqueeze(-1) * offset).sum(1) / (total * s**2).unsqueeze(-1)
    return log_p, grad


def _waves(y: Tensor, y0: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    waves, square = (t.to(y.device) for t in _long_waves())
    decay = 2 * torch.exp(-2 * math.pi**2 * square * (s**2).unsqueeze(-1))  # lambda and -lambda together
    phase = 2 * math.pi * (y @ waves.T)
    phase0 = 2 * math.pi * (y0[:, torch.tensor(_PERMUTATIONS, device=y.device)] @ waves.T)  # [B, 6, waves]
    even, odd = decay * torch.cos(phase0).sum(1), decay * torch.sin(phase0).sum(1)
    cos, sin = torch.cos(phase), torch.sin(phase)
    density = 6 + (cos * even + sin * odd).sum(-1)
    grad = 2 * math.pi * ((cos * odd - sin * even) @ waves)
    return torch.log(density / math.sqrt(3.0)), grad / density.unsqueeze(-1)


@functools.cache
def _nearby_images(limit: float, reach: float) -> tuple[Tensor, Tensor]:
    """Permutations ``[images, 3]`` and translations ``[images, 3]`` that matter in a band, identity first."""
    grid = [(i / 8, j / 8, (8 - i - j) / 8) for i in range(9) for j in range(9 - i)]
    places = torch.tensor(grid, dtype=torch.float64)
    points, far = _to_y(places), torch.cdist(places, places) > reach + math.sqrt(2) / 8
    least = _NEGLIGIBLE * 2 * limit**2 / 3
    kept = []
    for order in _PERMUTATIONS:
        for i, j in itertools.product(range(-4, 5), repeat=2):
            shift = torch.tensor([i, j, -i - j], dtype=torch.float64)
            image = points[:, list(order)] + shift
            extra = torch.cdist(points, image) ** 2 - torch.cdist(points, points) ** 2
            if float(extra.masked_fill(far, math.inf).min()) < least:
                kept.append((order, shift))
    kept.sort(key=lambda image: (image[0] != (0, 1, 2), float(image[1].norm())))
    return torch.tensor([order for order, _ in kept]), torch.stack([shift for _, shift in kept])


@functools.cache
def _long_waves() -> tuple[Tensor, Tensor]:
    """Dual lattice vectors ``[waves, 3]`` that matter above it, one of each pair, and their squared lengths."""
    kept = []
    for i, j in itertools.product(range(-12, 13), repeat=2):
        wave = (i * torch.tensor([2.0, -1.0, -1.0]).double() + j * torch.tensor([1.0, 1.0, -2.0]).double()) / 3
        if (i, j) > (0, 0) and 2 * math.pi**2 * float(wave @ wave) * SWITCH**2 / 3 < _NEGLIGIBLE:
            kept.append(wave)
    waves = torch.stack(kept)
    return waves, (waves**2).sum(-1)


def _to_y(x: Tensor) -> Tensor:
    a, b, _ = x.unbind(-1)
    return torch.stack([2 * a + b, b - a, -a - 2 * b], -1) / 3


def _to_x(y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    return torch.stack([a - b, b - c, 1 - a + c], -1)
