"""Reverse steps, each followed by Langevin steps at the same noise level that correct the law.

May use: the SDE. Sources: Song et al. 2021, arXiv 2011.13456, algorithms 2 and 4; reflected as in
Lou & Ermon 2023, arXiv 2304.04740.
"""

from __future__ import annotations

from torch import Generator, Tensor

from ..sde import ReflectedSDE, Score
from .base import Condition, Sampler

__all__ = ["PredictorCorrector"]


class PredictorCorrector(Sampler):
    """Euler-Maruyama with a constrained Langevin corrector x <- reflect(x, e s + sqrt(2 e) z).

    The step size is e = 2 (snr sigma)^2 at noise level sigma: what Song et al. take from the norm of the score, for a
    score of its typical size 1/sigma in each dimension. It depends neither on the other samples
    of the batch nor on the sample's own score: a step that is longer where the score is short has another
    stationary law (its density is divided by e(x)), which shows in few dimensions.

    Args:
        sde: the forward process to reverse.
        score: its score.
        steps: number of predictor steps.
        denoise: end with a denoising step.
        corrector_steps: Langevin steps after each predictor step; one evaluation each.
        snr: ratio of the Langevin drift to its noise.
    """

    def __init__(
        self,
        sde: ReflectedSDE,
        score: Score,
        *,
        steps: int = 500,
        denoise: bool = True,
        corrector_steps: int = 1,
        snr: float = 0.16,
    ) -> None:
        super().__init__(sde, score, steps=steps, denoise=denoise)
        if corrector_steps < 0:
            raise ValueError(f"corrector_steps must not be negative, got {corrector_steps!r}")
        if not snr > 0:
            raise ValueError(f"snr must be positive, got {snr!r}")
        self.corrector_steps, self.snr = corrector_steps, snr

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor, *, generator: Generator | None, condition: Condition
    ) -> Tensor:
        """A reverse step to ``t_next`` and the corrector there."""
        move = self.reverse_move(x, t, t_next, generator=generator, condition=condition)
        x = self.sde.domain.reflect(x, move)
        for _ in range(self.corrector_steps):
            x = self.correct(x, t_next, generator=generator, condition=condition)
        return x

    def correct(self, x: Tensor, t: Tensor, *, generator: Generator | None, condition: Condition) -> Tensor:
        """One Langevin step at scalar time ``t``, ``[*batch, *event_shape]``."""
        domain = self.sde.domain
        s = self.evaluate(x, t, condition)
        z = domain.sample_noise(x, generator=generator)
        e = 2 * (self.snr * self.sde.sigma(t)) ** 2
        return domain.reflect(x, e * s + (2 * e).sqrt() * z)
