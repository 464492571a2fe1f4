"""Curvature of outlines of straight edges: how much they turn within a window of arc length.

May use: numpy, torch. Where an outline turns outwards on balance, corners of more than thirty degrees count as corners,
not as bends; where it turns inwards, everything counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .lists import Floats, OnDevice

__all__ = ["Arcs"]

_CORNER = math.radians(30)
_POINTS = 2048  # along the outline, for quantiles


@dataclass(frozen=True)
class Arcs(OnDevice):
    """Arc length along rings one after the other, and the angles by which they have turned.

    Attributes:
        begin: arc length at the start of each edge, ``[n]``.
        turned: angle from the ring's start to each edge, ``[n, 2]``: in all, and without corners.
        ring: of each edge ``[n]``.
        offset: arc length at each ring's start ``[rings]``.
        length: of each ring.
        whole: the angles by which each ring turns, ``[rings, 2]``.
    """

    begin: Tensor
    turned: Tensor
    ring: Tensor
    offset: Tensor
    length: Tensor
    whole: Tensor

    @classmethod
    def of(cls, rings: list[Floats]) -> Arcs:
        """From oriented rings ``[k, 2]``."""
        lengths, turns = [], []
        for ring in rings:
            step = np.roll(ring, -1, 0) - ring
            before = np.roll(step, 1, 0)
            across, onward = before[:, 0] * step[:, 1] - before[:, 1] * step[:, 0], (before * step).sum(1)
            angle = np.arctan2(across, onward)
            turns.append(np.stack([angle, np.where(np.abs(angle) > _CORNER, 0.0, angle)], 1))
            lengths.append(np.linalg.norm(step, axis=1))
        whole = np.array([length.sum() for length in lengths])
        offset = np.cumsum(whole) - whole
        begin = [o + np.cumsum(length) - length for o, length in zip(offset, lengths, strict=True)]
        parts = (
            np.concatenate(begin),
            np.concatenate([np.cumsum(t, 0) for t in turns]),
            np.repeat(np.arange(len(rings)), [len(r) for r in rings]),
            offset,
            whole,
            np.array([t.sum(0) for t in turns]),
        )
        return cls(*map(torch.from_numpy, parts))

    def curvature(self, edge: Tensor, share: Tensor, window: float) -> Tensor:
        """Angle per length ``[n]`` within ``window`` on both sides of the point ``share`` along each edge ``[n]``."""
        ring, at = self.ring[edge], self.begin[edge] + share
        every, soft = ((self._angle(at + window, ring) - self._angle(at - window, ring)) / (2 * window)).unbind(-1)
        return torch.where(every < 0, every, soft.clamp(min=0).minimum(every))

    def quantiles(self, window: float) -> tuple[float, float]:
        """The 5 % and 95 % quantiles of the curvature along the outline."""
        at = (torch.arange(_POINTS, dtype=self.begin.dtype) + 0.5) / _POINTS * self.length.sum()
        edge = torch.searchsorted(self.begin, at, right=True) - 1
        found = self.curvature(edge, at - self.begin[edge], window)
        low, high = found.quantile(torch.tensor([0.05, 0.95], dtype=found.dtype)).tolist()
        return low, high

    def _angle(self, at: Tensor, ring: Tensor) -> Tensor:
        """Angles ``[n, 2]`` up to an arc length that may lie beyond the ring's ends."""
        offset, length = self.offset[ring], self.length[ring]
        turns = torch.floor((at - offset) / length)
        within = torch.minimum((at - turns * length).clamp(min=0), self.begin[-1] + self.length[-1])
        edge = (torch.searchsorted(self.begin, torch.maximum(within, offset), right=True) - 1).clamp(min=0)
        # Rounding at a ring's end may lead to the first edge of the next.
        last = torch.searchsorted(self.ring, ring, right=True) - 1
        return self.turned[torch.minimum(edge, last)] + turns.unsqueeze(-1) * self.whole[ring]
