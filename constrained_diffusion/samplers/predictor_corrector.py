"""Reverse steps, each followed by Langevin steps at the same noise level that correct the law.

May use: the SDE. Sources: Song et al. 2021, arXiv 2011.13456, algorithms 2 and 4; reflected as in
Lou & Ermon 2023, arXiv 2304.04740.
"""

from __future__ import annotations

import math
from typing import Unpack

from torch import Generator, Tensor

from ..domains.checks import whole_number
from ..process import Score
from ..sde import ReflectedSDE
from .base import Condition, Options, Sampler, Variance, checked_variance

__all__ = ["PredictorCorrector"]


class PredictorCorrector(Sampler):
    """Euler-Maruyama with a constrained Langevin corrector x <- reflect(x, e s + sqrt(2 e) z).

    The step size is that of :meth:`Sampler.langevin_move`.

    Args:
        sde: the forward process to reverse.
        score: its score.
        corrector_steps: Langevin steps after each predictor step; one evaluation each.
        snr: ratio of the Langevin drift to its noise.
        variance: of the predictor, as for :class:`EulerMaruyama`.
        options: ``steps``, ``denoise``, ``grid``; see :class:`Sampler`. One evaluation a step and one more for each
            corrector step.
    """

    needs = ReflectedSDE

    def __init__(
        self,
        sde: ReflectedSDE,
        score: Score,
        *,
        corrector_steps: int = 1,
        snr: float = 0.16,
        variance: Variance = "small",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(sde, score, **options)
        if not 0 < snr < math.inf:
            raise ValueError(f"snr must be positive and finite, got {snr!r}")
        self.corrector_steps = whole_number(corrector_steps, "corrector_steps must be an integer, not negative", 0)
        self.snr, self.variance = snr, checked_variance(variance)

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor, *, generator: Generator | None, condition: Condition
    ) -> Tensor:
        """A reverse step to ``t_next`` and the corrector there."""
        move = self.reverse_move(x, t, t_next, variance=self.variance, generator=generator, condition=condition)
        x = self.process.domain.reflect(x, move)
        for _ in range(self.corrector_steps):
            x = self.correct(x, t_next, generator=generator, condition=condition)
        return x

    def correct(self, x: Tensor, t: Tensor, *, generator: Generator | None, condition: Condition) -> Tensor:
        """One Langevin step at scalar time ``t``, ``[*batch, *event_shape]``."""
        move = self.langevin_move(x, t, self.snr, generator=generator, condition=condition)
        return self.process.domain.reflect(x, move)
