"""A residual multilayer perceptron that reads the domain's own coordinates. May use: torch, domains."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..domains import Domain
from ..domains.checks import ShapeError

__all__ = ["MLP", "null_condition"]

_FREQUENCIES = 16  # of the embedding of log sigma
_CONTEXT = 64  # units that carry noise level and condition to the blocks
_DIRECT = 4  # units of width for a dimension, below which coordinates get a direct line
_SPAN = 8.0  # natural logarithms of sigma over which the slowest of them turns once


class MLP(nn.Module):
    """Residual blocks whose activations are scaled and shifted by the noise level (and by a condition).

    Where there are many dimensions for the width, each coordinate also has a line of its own to the answer, whose
    slopes depend on the noise level (and condition) alone. What pulls a noised point back to its mode is such a line
    in as many directions as there are dimensions, more than the blocks carry well: in a cube of 100 dimensions, with
    blocks of 128 units, samples were five times as far from the data without it (``benchmarks/suite/scaling.py``).
    In few dimensions it only adds to the variance.

    Args:
        domain: gives the input coordinates (:meth:`Domain.features`) and the output's shape.
        width: hidden units.
        depth: residual blocks, of two layers each.
        condition_dim: length of a vector ``condition`` ``[B, condition_dim]``; 0 for none. A row of NaN is the null
            token: no condition, as :func:`null_condition` makes it.
        dropout: share of hidden units left out while training; more where data are few.
    """

    condition_shift: Tensor
    condition_scale: Tensor

    def __init__(
        self, domain: Domain, width: int = 256, depth: int = 3, condition_dim: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.domain, self.condition_dim, self.dropout = domain, condition_dim, dropout
        x = domain.sample_prior(1, 1.0)
        inputs = domain.features(x, torch.ones(1)).shape[-1]
        self.enter = nn.Linear(inputs, width)
        self.embed = nn.Sequential(nn.Linear(2 * _FREQUENCIES + 1 + _inputs(condition_dim), _CONTEXT), nn.SiLU())
        self.blocks = nn.ModuleList(_Block(width, dropout) for _ in range(depth))
        self.leave = nn.Linear(width, domain.event_shape.numel())
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        if _DIRECT * domain.dim > width:
            planes = domain.planes(x, torch.ones(1)).shape[1]
            self.direct: nn.Linear | None = nn.Linear(_CONTEXT, (planes + 1) * domain.event_shape.numel())
            nn.init.zeros_(self.direct.weight)
            nn.init.zeros_(self.direct.bias)
        else:
            self.direct = None
        if condition_dim:
            self.register_buffer("condition_shift", torch.zeros(condition_dim))
            self.register_buffer("condition_scale", torch.ones(condition_dim))

    def standardise(self, condition: Tensor) -> None:
        """Measure conditions by the mean and spread of these, ``[n, condition_dim]``; rows of NaN do not count."""
        known = condition[~condition.isnan().any(-1)].double()
        if len(known):
            spread = known.std(0, correction=0)
            self.condition_shift.copy_(known.mean(0))
            self.condition_scale.copy_(torch.where(spread > 0, spread, 1.0))

    def config(self) -> dict[str, Any]:
        """The constructor's arguments but the domain."""
        return {
            "width": self.enter.out_features,
            "depth": len(self.blocks),
            "condition_dim": self.condition_dim,
            "dropout": self.dropout,
        }

    def forward(self, x: Tensor, log_sigma: Tensor, condition: Tensor | None = None) -> Tensor:
        """Raw scores ``[B, *event_shape]`` at ``x`` ``[B, *event_shape]`` and ``log_sigma`` ``[B]``."""
        if condition is not None and not self.condition_dim:
            raise ShapeError(
                "condition was given to a network built without one (condition_dim=0): fit the model with condition="
            )
        if self.condition_dim and (condition is None or condition.shape != (len(x), self.condition_dim)):
            given = "it is missing" if condition is None else f"not {list(condition.shape)}"
            raise ShapeError(f"condition must have shape [{len(x)}, {self.condition_dim}]; {given}")
        rate = torch.arange(1, _FREQUENCIES + 1, dtype=x.dtype, device=x.device) * (2 * math.pi / _SPAN)
        # One noise level for all rows, expanded, as samplers have it: embedded once, where no condition differs.
        levels = log_sigma if condition is not None or any(log_sigma.stride()) else log_sigma[:1]
        phase = levels.unsqueeze(-1) * rate
        level = [levels.unsqueeze(-1) / _SPAN, phase.cos(), phase.sin()]
        if condition is not None:
            missing = condition.isnan().any(-1, keepdim=True)
            standard = (condition.to(x.dtype) - self.condition_shift) / self.condition_scale
            level += [torch.where(missing, 0.0, standard), missing.to(x.dtype)]
        context = self.embed(torch.cat(level, -1))
        sigma = log_sigma.exp()
        h = self.enter(self.domain.features(x, sigma))
        for block in self.blocks:
            h = block(h, context)
        out: Tensor = self.leave(nn.functional.silu(h))
        if self.direct is not None:
            planes = self.domain.planes(x, sigma).flatten(2)
            offset, *gains = self.direct(context).unflatten(-1, (-1, planes.shape[-1])).unbind(1)
            out = out + offset + sum(gain * plane for gain, plane in zip(gains, planes.unbind(1), strict=True))
        return out.reshape(x.shape)


def null_condition(condition_dim: int) -> Tensor:
    """The token that stands for no condition, ``[condition_dim]``: NaN, which no condition is."""
    return torch.full((condition_dim,), math.nan)


def _inputs(condition_dim: int) -> int:
    """Numbers that tell of a condition: itself, and whether it is missing."""
    return condition_dim + 1 if condition_dim else 0


class _Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.modulate = nn.Linear(_CONTEXT, 2 * width)

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        scale, shift = self.modulate(context).chunk(2, -1)
        y = self.first(nn.functional.silu(self.norm(h) * (1 + scale) + shift))
        out: Tensor = h + self.second(self.drop(nn.functional.silu(y)))
        return out
