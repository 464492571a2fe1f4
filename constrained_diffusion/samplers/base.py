"""What all samplers share: the time grid, the loop, counting, frames on the way, the final denoising step.

May use: torch, tqdm, the process. A new sampler is one class with a ``step``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypedDict, final

import torch
from torch import Generator, Tensor
from tqdm.auto import tqdm

from ..domains.checks import SolverError, batch_shape, check_tensor, trusted, whole_number
from ..guidance import evaluations
from ..process import Process, Score
from .grids import Grid, checked_grid, even_times

__all__ = ["Options", "Sampler", "Samples", "Variance", "checked_variance"]

Condition = dict[str, Tensor]
Variance = Literal["large", "mean", "small"]


_POWERS: dict[Variance, int] = {"large": 0, "mean": 1, "small": 2}


def checked_variance(variance: Variance) -> Variance:
    """One of the known ones, or ValueError."""
    if variance not in _POWERS:
        raise ValueError(f"variance must be one of {', '.join(map(repr, _POWERS))}, not {variance!r}")
    return variance


class Options(TypedDict, total=False):
    """What every sampler takes; see :class:`Sampler`."""

    steps: int
    denoise: bool
    grid: Grid


@dataclass(frozen=True)
class Samples:
    """What a sampler returns.

    Attributes:
        x: samples ``[*shape, *event_shape]``, inside the domain.
        nfe: evaluations of the model for each sample; a guided score may take several a step.
        trajectory: frames on the way, ``[frames, *shape, *event_shape]``, the first at ``times[0]`` = 1 (the
            prior) and the last the samples; empty if none were asked for.
        times: time of each frame, ``[frames]``.
    """

    x: Tensor
    nfe: int
    trajectory: Tensor
    times: Tensor = field(default_factory=lambda: torch.empty(0))


class Sampler(ABC):
    """Walks down a grid of sigma, from the prior at time 1 to time 0, and removes the noise that is left.

    Args:
        process: what to reverse.
        score: its model, ``score(x, t, **condition)``: the score of an SDE, the velocity of a flow.
        steps: number of steps, at least 1.
        denoise: end with the step from sigma_min to no noise at all, x + sigma_min^2 score (Tweedie's formula),
            reflected: one more evaluation.
        grid: where to stop on the way, by default at equal steps of time.
    """

    needs: ClassVar[type] = Process  # a sampler for one kind of process names it

    def __init__(
        self, process: Process, score: Score, *, steps: int = 500, denoise: bool = True, grid: Grid = even_times
    ) -> None:
        steps = whole_number(steps, "steps must be a positive integer", 1)
        if not isinstance(process, self.needs):
            raise TypeError(f"{type(self).__name__} needs a {self.needs.__name__}, not a {type(process).__name__}")
        self.process, self.score, self.steps, self.denoise, self.grid = process, score, steps, denoise, grid
        self._nfe = 0

    @abstractmethod
    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor, *, generator: Generator | None, condition: Condition
    ) -> Tensor:
        """One step from time ``t`` down to ``t_next`` (scalar tensors), ``[*batch, *event_shape]``."""

    def begin(self) -> None:
        """Start a run: nothing is counted yet, and samplers that look back have nothing to look at."""
        self._nfe = 0

    def times(self, like: Tensor, frames: int = 0) -> Tensor:
        """The grid as times ``[steps + 1]``, decreasing; samplers whose steps are free stop for ``frames`` as well."""
        return checked_grid(self.grid, self.process, self.steps).to(like)

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
            frames: how many evenly spaced frames of the way to keep, as far as there are steps; 0 keeps none.
            device: where to sample (the latent's, if there is one).
            dtype: in which precision (the latent's, if there is one).

        Returns:
            :class:`Samples`.

        Raises:
            ValueError: the latent lies outside the domain or has another shape.
            SolverError: the score is not finite.
        """
        batch = batch_shape(shape)
        if condition is not None and not isinstance(condition, dict):
            raise TypeError(
                f'condition must be tensors by name, such as {{"label": ..}}, not {type(condition).__name__}'
            )
        frames = whole_number(frames, "frames must be an integer, not negative", 0)
        x = self._start(batch, latent, generator, device, dtype)
        times = self.times(x, frames)
        steps = len(times) - 1
        kept = self._frames(frames, steps)
        trajectory, at = [], []
        self.begin()
        with trusted():
            for i in tqdm(range(steps), disable=not progress, desc="sampling", leave=False, mininterval=0.5):
                if i in kept:
                    trajectory.append(x)
                    at.append(times[i])
                x = self.step(x, times[i], times[i + 1], generator=generator, condition=condition or {})
            if self.denoise:
                x = self._denoise(x, times[-1], condition or {})
        if frames:
            trajectory.append(x)
            at.append(times[-1])
        stacked = torch.stack(trajectory) if trajectory else x.new_empty((0, *x.shape))
        return Samples(x, self._nfe, stacked, torch.stack(at) if at else times[:0])

    def evaluate(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The model at ``x`` and scalar time ``t``, counted; raises ValueError where it is not finite."""
        self._nfe += evaluations(self.score)
        batch = x.shape[: x.ndim - len(self.process.domain.event_shape)]
        s = self.score(x, t.expand(batch), **condition)
        if not math.isfinite(float(s.sum())) and not bool(s.isfinite().all()):  # a sum is seen faster
            raise SolverError(
                f"the score is not finite at t = {float(t):.3f}: was the model trained, and its data finite?"
            )
        return s

    def slope(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The flow's dx/dsigma at ``x`` and scalar time ``t``: one evaluation."""
        return self.process.slope(self.evaluate(x, t, condition), t)

    def reverse_move(
        self,
        x: Tensor,
        t: Tensor,
        t_next: Tensor,
        *,
        variance: Variance,
        generator: Generator | None,
        condition: Condition,
    ) -> Tensor:
        """Displacement v s + sqrt(w) z of a reverse step of Brownian time v = sigma(t)^2 - sigma(t_next)^2.

        The drift is exact where the data are Gaussian. The variance w that belongs to it lies between v, for data
        spread widely ("large": Euler and Maruyama's), and v sigma(t_next)^2 / sigma(t)^2, for a single point ("small":
        Ho et al. 2020, arXiv 2006.11239, section 3.2). With v the samples of Gaussian data of any width have
        too large a variance, by a share of the step in log sigma; with the other, too small a one by the same. Their
        geometric mean ("mean") leaves an error of second order. In bounded sets, where at most noise levels the data
        are like a few points, "small" is the most accurate (docs/sampling.md has figures).
        """
        before, after = self.process.sigma(t), self.process.sigma(t_next)
        v = before**2 - after**2
        w = v * (after / before) ** _POWERS[variance]
        noise = w.sqrt() * self.process.domain.sample_noise(x, generator=generator)
        return v * self.evaluate(x, t, condition) + noise

    def langevin_move(
        self, x: Tensor, t: Tensor, snr: float, *, generator: Generator | None, condition: Condition
    ) -> Tensor:
        """Displacement e s + sqrt(2 e) z of a Langevin step at scalar time ``t``, e = 2 (snr sigma)^2.

        That is what Song et al. take from the norm of the score, for a score of its typical size 1/sigma in each
        dimension. It depends neither on the other samples of the batch nor on the sample's own score: a step that is
        longer where the score is short has another stationary law (its density is divided by e(x)), which shows
        in few dimensions.
        """
        s = self.evaluate(x, t, condition)
        z = self.process.domain.sample_noise(x, generator=generator)
        e = 2 * (snr * self.process.sigma(t)) ** 2
        return e * s + (2 * e).sqrt() * z

    def _start(
        self,
        batch: torch.Size,
        latent: Tensor | None,
        generator: Generator | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> Tensor:
        if latent is None:
            return self.process.sample_prior(batch, generator=generator, device=device, dtype=dtype)
        check_tensor("latent", latent, self.process.domain.event_shape)
        expected = batch + self.process.domain.event_shape
        if latent.shape != expected:
            raise ValueError(f"latent has shape {list(latent.shape)}; expected {list(expected)}")
        if latent.numel():
            self.process.check_data("latent", latent)
        return latent.clone()

    def _frames(self, frames: int, steps: int) -> set[int]:
        """Indices of the steps before which a frame is kept; the samples themselves are the last frame."""
        return {round(k * steps / (frames - 1)) for k in range(frames - 1)} if frames > 1 else set()

    def _denoise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.process.domain.reflect(x, -self.process.sigma(t) * self.slope(x, t, condition))
