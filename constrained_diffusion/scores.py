"""From a network to a score: scaled, tangent to the domain, and with no component across the wall.

May use: torch, the process. A score is any callable ``score(x, t, **condition)`` with x ``[*batch,
*event_shape]`` and t ``[*batch]`` that returns a tensor like x.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .domains.checks import ShapeError
from .process import Process, interpolate_rms

__all__ = ["ScoreModel"]


class ScoreModel(nn.Module):
    """A score made of a network.

    The network answers ``network(x, log_sigma, **condition)`` with x ``[B, *event_shape]`` and log_sigma
    ``[B]``, in numbers of order one. They are multiplied by the size of the score at that noise
    (:attr:`Process.output_scale_table`) and made tangent (:meth:`Domain.white`, to which all directions of the metric
    are alike), and their normal component is let vanish within about sigma of the wall: the true score's does, and the
    probability-flow ODE stays inside because of it.

    Args:
        network: any module with that call.
        sde: the process.

    Attributes:
        precision: ``torch.bfloat16`` or ``torch.float16`` for mixed precision within the network, and nowhere else;
            None (the default) for that of the points.
    """

    log_rms: Tensor
    log_scale: Tensor

    def __init__(self, network: nn.Module, sde: Process) -> None:
        super().__init__()
        self.network = network
        self.sde = sde
        self.precision: torch.dtype | None = None
        grid, values = sde.target_rms_table
        self._ends = float(grid[0]), float(grid[-1])
        self.register_buffer("log_rms", values.float())
        self.register_buffer("log_scale", sde.output_scale_table.float())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Of models saved before there was a scale of its own, the targets' is that of the answer."""
        if prefix + "log_rms" in state_dict:
            state_dict.setdefault(prefix + "log_scale", state_dict[prefix + "log_rms"])
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def forward(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        """The score at ``x`` and times ``t``.

        Args:
            x: points ``[*batch, *event_shape]``.
            t: times in [0, 1], ``[*batch]`` or a scalar tensor.
            condition: tensors ``[*batch, ...]`` handed to the network.

        Returns:
            Tangent vectors ``[*batch, *event_shape]``, in the units of 1/sigma.
        """
        domain = self.sde.domain
        batch = x.shape[: x.ndim - len(domain.event_shape)]
        flat = x.reshape(-1, *domain.event_shape)
        if t.numel() > 1 and not any(t.stride()):  # one time, expanded, as samplers have it: computed once
            t = t[(0,) * t.ndim]
        one = self.sde.sigma(t).to(x.dtype)
        log_one = one.log()
        rms = interpolate_rms(self.log_scale, log_one, *self._ends)
        sigma, log_sigma, scale = (v.expand(batch).reshape(-1) for v in (one, log_one, rms))
        for name, value in condition.items():
            if value.shape[: len(batch)] != batch:
                raise ShapeError(f"{name} has shape {list(value.shape)}; expected [{', '.join(map(str, batch))}, ...]")
        rows = {k: v.reshape(len(flat), *v.shape[len(batch) :]) for k, v in condition.items()}
        if self.precision is None:
            raw = self.network(flat, log_sigma, **rows)
        else:
            with torch.autocast(x.device.type, self.precision):
                raw = self.network(flat, log_sigma, **rows).to(x.dtype)
        if raw.shape != flat.shape:
            raise ShapeError(f"network returned shape {list(raw.shape)}; expected that of x, {list(flat.shape)}")
        v = domain.white(flat, raw * domain.expand(scale))
        return domain.damp_normal(flat, v, sigma).reshape(x.shape)
