"""What all samplers share: the time grid, the loop, counting, frames on the way, the final denoising step.

May use: torch, tqdm, the SDE. A new sampler is one class with a ``step``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Generator, Tensor
from tqdm.auto import tqdm

from ..domains.base import batch_shape
from ..domains.checks import trusted
from ..sde import ReflectedSDE, Score

__all__ = ["Sampler", "Samples"]

Condition = dict[str, Tensor]


@dataclass(frozen=True)
class Samples:
    """What a sampler returns.

    Attributes:
        x: samples ``[*shape, *event_shape]``, inside the domain.
        nfe: evaluations of the score for each sample.
        trajectory: frames on the way, ``[frames, *shape, *event_shape]``, the first at ``times[0]`` = 1 (the
            prior) and the last the samples; empty if none were asked for.
        times: time of each frame, ``[frames]``.
    """

    x: Tensor
    nfe: int
    trajectory: Tensor
    times: Tensor = field(default_factory=lambda: torch.empty(0))


class Sampler(ABC):
    """Walks from time 1 to time 0 at equal steps of time, and removes the noise that is left.

    Args:
        sde: the forward process to reverse.
        score: its score, ``score(x, t, **condition)``.
        steps: number of steps, at least 1.
        denoise: end with x + sigma_min^2 score (Tweedie's formula), reflected: one more evaluation.
    """

    def __init__(self, sde: ReflectedSDE, score: Score, *, steps: int = 500, denoise: bool = True) -> None:
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps must be a positive integer, not {steps!r}")
        self.sde, self.score, self.steps, self.denoise = sde, score, steps, denoise
        self._nfe = 0

    @abstractmethod
    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor, *, generator: Generator | None, condition: Condition
    ) -> Tensor:
        """One step from time ``t`` down to ``t_next`` (scalar tensors), ``[*batch, *event_shape]``."""

    def times(self, like: Tensor) -> Tensor:
        """The grid, ``[steps + 1]``, from 1 down to 0."""
        return torch.linspace(1, 0, self.steps + 1, dtype=like.dtype, device=like.device)

    @final
    @torch.no_grad()
    def sample(
        self,
        shape: int | tuple[int, ...],
        *,
        generator: Generator | None = None,
        condition: Condition | None = None,
        latent: Tensor | None = None,
        progress: bool = False,
        frames: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Samples:
        """Draw samples.

        Args:
            shape: batch shape, a number or a tuple.
            generator: source of randomness.
            condition: keyword tensors ``[*shape, ...]`` for the score.
            latent: where to start at time 1, ``[*shape, *event_shape]``; by default drawn from the prior. It
                is not modified.
            progress: show a progress bar.
            frames: how many evenly spaced frames of the way to keep; 0 keeps none.
            device: where to sample (the latent's, if there is one).
            dtype: in which precision (the latent's, if there is one).

        Returns:
            :class:`Samples`.

        Raises:
            ValueError: the latent lies outside the domain or has another shape, or the score is not finite.
        """
        batch = batch_shape(shape)
        x = self._start(batch, latent, generator, device, dtype)
        times = self.times(x)
        kept = self._frames(frames)
        trajectory, at = [], []
        self._nfe = 0
        with trusted():
            for i in tqdm(range(self.steps), disable=not progress, desc="sampling", leave=False, mininterval=0.5):
                if i in kept:
                    trajectory.append(x)
                    at.append(times[i])
                x = self.step(x, times[i], times[i + 1], generator=generator, condition=condition or {})
            if self.denoise:
                x = self._denoise(x, condition or {})
        if frames:
            trajectory.append(x)
            at.append(times[-1])
        stacked = torch.stack(trajectory) if trajectory else x.new_empty((0, *x.shape))
        return Samples(x, self._nfe, stacked, torch.stack(at) if at else times[:0])

    def evaluate(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The score at ``x`` and scalar time ``t``, counted; raises ValueError where it is not finite."""
        self._nfe += 1
        batch = x.shape[: x.ndim - len(self.sde.domain.event_shape)]
        s = self.score(x, t.expand(batch), **condition)
        if not bool(s.isfinite().all()):
            raise ValueError(
                f"the score is not finite at t = {float(t):.3f}: was the model trained, and its data finite?"
            )
        return s

    def reverse_move(
        self, x: Tensor, t: Tensor, t_next: Tensor, *, generator: Generator | None, condition: Condition
    ) -> Tensor:
        """Displacement v s + sqrt(v) z of a reverse Euler step, v = sigma(t)^2 - sigma(t_next)^2 its Brownian time."""
        v = self.sde.sigma(t) ** 2 - self.sde.sigma(t_next) ** 2
        noise = v.sqrt() * self.sde.domain.sample_noise(x, generator=generator)
        return v * self.evaluate(x, t, condition) + noise

    def _start(
        self,
        batch: torch.Size,
        latent: Tensor | None,
        generator: Generator | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> Tensor:
        if latent is None:
            return self.sde.sample_prior(batch, generator=generator, device=device, dtype=dtype)
        expected = batch + self.sde.domain.event_shape
        if latent.shape != expected:
            raise ValueError(f"latent has shape {list(latent.shape)}; expected {list(expected)}")
        if latent.numel():
            self.sde.check_data("latent", latent)
        return latent.clone()

    def _frames(self, frames: int) -> set[int]:
        """Indices of the steps before which a frame is kept; the samples themselves are the last frame."""
        return {round(k * self.steps / (frames - 1)) for k in range(frames - 1)} if frames > 1 else set()

    def _denoise(self, x: Tensor, condition: Condition) -> Tensor:
        t = torch.zeros((), dtype=x.dtype, device=x.device)
        s = self.evaluate(x, t, condition)
        return self.sde.domain.reflect(x, self.sde.sigma(t) ** 2 * s)
