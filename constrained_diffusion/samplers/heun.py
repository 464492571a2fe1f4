"""The probability flow by second-order Runge-Kutta steps on a grid of sigma, with or without churn.

May use: the process. Sources: Karras et al. 2022, arXiv 2206.00364, algorithm 2; Lu et al. 2022, arXiv 2206.00927
(DPM-Solver-2, the midpoint rule); reflected here.
"""

from __future__ import annotations

import math
from typing import Unpack

from torch import Generator, Tensor

from ..process import Process, Score
from ..sde import ReflectedSDE
from .base import Condition, Options, Sampler

__all__ = ["Heun"]


class Heun(Sampler):
    """x <- reflect(x, (sigma' - sigma) (d + d') / 2), d and d' the flow's slopes at both ends of a step of sigma.

    d' is taken where an Euler step ends, or at the nearest point inside, and on curved sets carried back to x along the
    geodesic. With ``midpoint`` one slope counts, that at sqrt(sigma sigma'), where half a step ends. With churn, each
    step from a sigma within ``churn_range`` first goes back up to sigma (1 + min(churn / steps, sqrt(2) - 1)) by fresh,
    reflected noise.

    Args:
        process: what to follow; an SDE if there is churn.
        score: its model.
        midpoint: use the midpoint rule, which errs less where steps are few.
        churn: amount of fresh noise, S_churn of the source; 0 is deterministic.
        churn_range: sigmas (S_min, S_max) between which noise is added.
        churn_noise: standard deviation of the fresh noise, S_noise of the source.
        options: ``steps``, ``denoise``, ``grid``; see :class:`Sampler`. Two evaluations a step.
    """

    def __init__(
        self,
        process: Process,
        score: Score,
        *,
        midpoint: bool = False,
        churn: float = 0.0,
        churn_range: tuple[float, float] = (0.0, math.inf),
        churn_noise: float = 1.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(process, score, **options)
        if not 0 <= churn < math.inf:
            raise ValueError(f"churn must be finite and not negative, got {churn!r}")
        if not 0 <= churn_noise < math.inf:
            raise ValueError(f"churn_noise must be finite and not negative, got {churn_noise!r}")
        if churn and not isinstance(process, ReflectedSDE):
            raise TypeError(f"churn adds the noise of a ReflectedSDE; {type(process).__name__} has none")
        self.midpoint, self.churn, self.churn_range, self.churn_noise = midpoint, churn, churn_range, churn_noise

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor, *, generator: Generator | None, condition: Condition
    ) -> Tensor:
        """One step; see the class."""
        domain = self.process.domain
        sigma, below = self.process.sigma(t), self.process.sigma(t_next)
        if self.churn and self.churn_range[0] <= float(sigma) <= self.churn_range[1]:
            higher = (sigma * (1 + min(self.churn / self.steps, math.sqrt(2) - 1))).clamp(max=self.process.sigma_max)
            fresh = (higher**2 - sigma**2).clamp(min=0).sqrt() * self.churn_noise
            x = domain.reflect(x, fresh * domain.sample_noise(x, generator=generator))
            sigma, t = higher, self.process.time(higher)
        slope = self.slope(x, t, condition)
        stage = (sigma * below).sqrt() if self.midpoint else below
        trial = domain.project(domain.expmap(x, (stage - sigma) * slope))
        trial_slope = domain.transp(trial, x, self.slope(trial, self.process.time(stage), condition))
        mean = trial_slope if self.midpoint else (slope + trial_slope) / 2
        return domain.reflect(x, (below - sigma) * mean)
