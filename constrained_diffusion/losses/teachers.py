"""Losses whose targets come from a trained model: straighter flows, and samplers of fewer steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..domains.checks import trusted, whole_number
from ..flows import RectifiedFlow
from ..process import Process, Score
from .base import ScoreMatching, TimeSampling, Weighting

__all__ = ["ProgressiveDistillation", "Reflow"]


class Reflow(ScoreMatching):
    """Flow matching between draws of the prior and where a trained flow carries them: the lines become straighter.

    One round of rectification (Liu, Gong & Liu 2023, arXiv 2209.03003). The data handed to it serve only to say how
    many points are wanted.

    Args:
        flow: the process.
        decode: where the trained flow carries latents ``[*batch, *event_shape]``: a sampler's ``sample(latent=)`` or
            :func:`decode`.
        weighting, time_sampling: as in :class:`ScoreMatching`.
    """

    def __init__(
        self,
        flow: RectifiedFlow,
        decode: Callable[[Tensor], Tensor],
        weighting: Weighting = "fidelity",
        time_sampling: TimeSampling = "importance",
    ) -> None:
        super().__init__(flow, weighting, time_sampling)
        self.flow, self.decode = flow, decode

    def noise(self, x0: Tensor, t: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Points on the way from the flow's own data to the latents that they came from, and velocities."""
        batch = x0.shape[: x0.ndim - len(self.flow.domain.event_shape)]
        x1 = self.flow.sample_prior(tuple(batch), generator=generator, device=x0.device, dtype=x0.dtype)
        with torch.no_grad():
            return self.flow.between(self.decode(x1), x1, t)


class ProgressiveDistillation(ScoreMatching):
    """Teach a student to go in one deterministic step where its teacher goes in two (Salimans & Ho 2022, 2202.00512).

    Steps are those of ``AnnealedReflected(eta=0)``: equal steps of time, 1 / ``steps`` long, reflected. Start
    the student from the teacher's weights.

    Args:
        process: what the teacher was trained for.
        teacher: its model.
        steps: of the student, half as many as the teacher's.
        weighting, time_sampling: as in :class:`ScoreMatching`.
    """

    def __init__(
        self,
        process: Process,
        teacher: Score,
        steps: int,
        weighting: Weighting = "fidelity",
        time_sampling: TimeSampling = "uniform",
    ) -> None:
        super().__init__(process, weighting, time_sampling)
        self.teacher, self.steps = teacher, whole_number(steps, "steps must be a positive integer", 1)

    def noise(self, x0: Tensor, t: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Noised points, and the output with which one step ends where two of the teacher's do."""
        process = self.sde
        with trusted(), torch.no_grad():
            x, _ = process.noise(x0, t, generator=generator)
            y, time = x, t
            for part in (0.5, 1.0):
                later = (t - part / self.steps).clamp(min=0)
                move = process.expand(process.sigma(later) - process.sigma(time)) * process.slope(
                    self.teacher(y, time), time
                )
                y, time = process.domain.reflect(y, move), later
            way = process.expand(process.sigma(time) - process.sigma(t))
            went = process.domain.logmap(x, y)
            still = way == 0  # at time 0 there is nowhere to go: the teacher's own answer
            slope = torch.where(still, process.slope(self.teacher(x, t), t), went / torch.where(still, 1.0, way))
            return x, process.output(slope, t)
