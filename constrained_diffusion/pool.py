"""Batches of noised points to train on; where noise is dear, each point serves several batches.

May use: torch, losses. Noise costs more than a gradient step of a small network where kernels are series or paths are
simulated. Drawing it for many batches at a time spreads the cost of each call; for paths, using each noised
point a few times takes most of the rest off the training loop. A network fits points that it soon sees again, noise
and all, so the next use of a point is some rounds of batches later, and beside others: where points are used at once,
the squared error of the score at medium noise is half as large again (``benchmarks/reuse.py``).
"""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Generator, Tensor

from .losses import Noised, ScoreMatching

__all__ = ["NoisePool"]

_BATCHES = 64  # noised at a time
_APART = 4  # such rounds between two uses of a point
_NUMBERS = 1 << 24  # coordinates held at a time, at most


class NoisePool:
    """Draws batches of noised data.

    Args:
        loss: noises the data.
        x: data ``[n, *event_shape]``.
        condition: one row ``[n, k]`` for each, or None.
        batch_size: points in a batch.
        batches: how many batches will be asked for.
        reuse: how many batches each noised point serves.
        generator: source of randomness.
    """

    def __init__(
        self,
        loss: ScoreMatching,
        x: Tensor,
        condition: Tensor | None,
        *,
        batch_size: int,
        batches: int,
        reuse: int,
        generator: Generator,
    ) -> None:
        self.loss, self.x, self.condition, self.generator = loss, x, condition, generator
        self.batch_size, self.reuse = batch_size, reuse
        kept = _APART * (reuse - 1) + 1
        held = kept if reuse == 1 else kept + reuse  # rounds, with those laid beside one another
        most = max(1, _NUMBERS // (held * batch_size * x[0].numel()))
        self._chunk = min(_BATCHES, most, math.ceil(batches / reuse))
        self._rounds: deque[tuple[Tensor, Noised]] = deque(maxlen=kept)
        self._order: list[Tensor] = []

    def draw(self) -> tuple[Noised, dict[str, Tensor]]:
        """A batch of noised points, and the condition that goes with it, as keywords for the score."""
        if not self._order:
            self._begin_round()
        chosen = self._order.pop()
        return self._noised[chosen], self._extra(self._rows[chosen])

    def _begin_round(self) -> None:
        """Lay new points beside those of earlier rounds; or beside themselves, while there are none."""
        new = self._noise(self._chunk * self.batch_size)
        self._rounds.append(new)
        ago = [_APART * k for k in range(self.reuse)]
        parts = [self._rounds[-1 - k] if k < len(self._rounds) else new for k in ago]
        self._rows, self._noised = new if self.reuse == 1 else _joined(parts)
        order = torch.randperm(len(self._rows), generator=self.generator, device=self.x.device)
        self._order += order.split(self.batch_size)

    def _noise(self, size: int) -> tuple[Tensor, Noised]:
        """Rows of random data, and those data noised."""
        rows = torch.randint(len(self.x), (size,), generator=self.generator, device=self.x.device)
        return rows, self.loss.prepare(self.x[rows], generator=self.generator)

    def _extra(self, rows: Tensor) -> dict[str, Tensor]:
        return {} if self.condition is None else {"condition": self.condition[rows]}


def _joined(parts: list[tuple[Tensor, Noised]]) -> tuple[Tensor, Noised]:
    """Rows and noised points of several rounds, one after the other."""
    rows, noised = zip(*parts, strict=True)
    return torch.cat(rows), Noised(
        torch.cat([n.x for n in noised]),
        torch.cat([n.t for n in noised]),
        torch.cat([n.weight for n in noised]),
        None if noised[0].target is None else torch.cat([n.target for n in noised]),
    )
