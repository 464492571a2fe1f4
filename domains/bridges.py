"""Reflected Brownian motion tied down at both ends, drawn with nothing but the heat kernel. May use: torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from .checks import trusted

if TYPE_CHECKING:
    from .base import Domain

__all__ = ["bridge_by_resampling"]

_PROPOSALS = 32


def bridge_by_resampling(
    domain: Domain, x0: Tensor, x: Tensor, below: Tensor, sigma: Tensor, *, generator: Generator | None = None
) -> Tensor:
    """Draw z from a law in proportion to K_below(z | x0) K_rest(x | z), rest^2 = sigma^2 - below^2.

    Of 32 draws from the narrower kernel one is chosen in proportion to the wider one (importance
    resampling: Rubin 1987). Exact as their number grows; at 32 the law is off by some per cent where
    both kernels are alike, and by nothing much where one is far narrower, as in the steps of a sampler.

    Args:
        domain: with an exact kernel.
        x0: points at noise 0, ``[*batch, *event_shape]``.
        x: points at noise ``sigma``.
        below: noise of the points to draw, ``[*batch]``, less than sigma.
        sigma: noise ``[*batch]``.
        generator: source of randomness.

    Returns:
        Points ``[*batch, *event_shape]``.
    """
    k = len(domain.event_shape)
    batch = x.shape[: x.ndim - k]
    rest = (sigma**2 - below**2).clamp(min=0).sqrt().clamp(min=torch.finfo(x.dtype).tiny ** 0.25)
    from_start = below < rest
    mask = domain.expand(from_start)
    near, far = torch.where(mask, x0, x), torch.where(mask, x, x0)
    narrow, wide = torch.where(from_start, below, rest), torch.where(from_start, rest, below)
    with trusted():
        many = (_PROPOSALS, *near.shape)
        z = domain.sample_heat_kernel(near.expand(many), narrow.expand(_PROPOSALS, *batch), generator=generator)
        weight = domain.heat_kernel_log_prob(z, far.expand(many), wide.expand(_PROPOSALS, *batch))
    chance = torch.softmax(weight, 0).movedim(0, -1).reshape(-1, _PROPOSALS)
    chosen = torch.multinomial(chance, 1, generator=generator).reshape(1, *batch, *(1,) * k)
    return torch.take_along_dim(z, chosen, 0).squeeze(0)
