"""Annealed Langevin dynamics: no reverse steps, only Langevin steps at one noise level after the other.

May use: the SDE. Source: Song & Ermon 2019, arXiv 1907.05600 (NCSN), algorithm 1; reflected here.
"""

from __future__ import annotations

import math
from typing import Unpack

from torch import Generator, Tensor

from ..domains.checks import whole_number
from ..process import Score
from ..sde import ReflectedSDE
from .base import Condition, Options, Sampler

__all__ = ["AnnealedLangevin"]


class AnnealedLangevin(Sampler):
    """At each noise level of the grid below the first, some steps x <- reflect(x, e s + sqrt(2 e) z).

    The step size is that of :meth:`Sampler.langevin_move`, proportional to sigma^2 as in NCSN. The law follows
    the levels if there are enough steps at each.

    Args:
        sde: the forward process, whose score is known.
        score: its score.
        langevin_steps: at each level; one evaluation each.
        snr: ratio of the Langevin drift to its noise.
        options: ``steps`` (levels), ``denoise``, ``grid``; see :class:`Sampler`.
    """

    needs = ReflectedSDE

    def __init__(
        self,
        sde: ReflectedSDE,
        score: Score,
        *,
        langevin_steps: int = 5,
        snr: float = 0.16,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(sde, score, **options)
        if not 0 < snr < math.inf:
            raise ValueError(f"snr must be positive and finite, got {snr!r}")
        self.langevin_steps = whole_number(langevin_steps, "langevin_steps must be a positive integer", 1)
        self.snr = snr

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor, *, generator: Generator | None, condition: Condition
    ) -> Tensor:
        """All Langevin steps at ``t_next``."""
        for _ in range(self.langevin_steps):
            move = self.langevin_move(x, t_next, self.snr, generator=generator, condition=condition)
            x = self.process.domain.reflect(x, move)
        return x
