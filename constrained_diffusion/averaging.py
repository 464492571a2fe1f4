"""The exponential average of a model's weights while it is trained. May use: torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

__all__ = ["WeightAverage"]


class WeightAverage(AveragedModel):
    """An :class:`AveragedModel` whose update goes over lists made once, which counts where networks are small.

    Args:
        model: whose weights are averaged; it must keep its parameters and buffers, whatever their values.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._weights: list[Tensor] = list(model.parameters())
        self._averages: list[Tensor] = list(self.module.parameters())
        self._buffers_of = list(zip(self.module.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """``decay`` times the average and the rest of the weights as they are; the first update is these weights."""
        first = not bool(self.n_averaged)
        torch._foreach_lerp_(self._averages, self._weights, 1.0 if first else 1 - decay)
        for averaged, current in self._buffers_of:
            averaged.copy_(current)
        self.n_averaged += 1
