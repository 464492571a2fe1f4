"""What all score matching losses share: how noise levels are weighted, and how times are drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from ..process import Process, Score
from .levels import NoiseLevels

__all__ = ["Noised", "ScoreMatching", "TimeSampling", "Weighting"]

Weighting = Literal["likelihood", "fidelity", "adaptive"]
TimeSampling = Literal["importance", "uniform"]

_GRID = 1024
_FLOOR = 0.1  # share of uniform times beside importance sampling, so that no weight exceeds ten


@dataclass(frozen=True)
class Noised:
    """Noised points, ready for a loss.

    Attributes:
        x: points ``[*batch, *event_shape]``.
        t: their times ``[*batch]``.
        weight: of each in the loss ``[*batch]``.
        target: denoising targets ``[*batch, *event_shape]``, or None for losses that need none.
    """

    x: Tensor
    t: Tensor
    weight: Tensor
    target: Tensor | None

    def __getitem__(self, rows: Tensor) -> Noised:
        """Some of them."""
        return Noised(self.x[rows], self.t[rows], self.weight[rows], None if self.target is None else self.target[rows])


class ScoreMatching(ABC):
    r"""Monte Carlo estimate of :math:`\int_0^1 \lambda(t)\, \ell(t)\, dt`, where l is :meth:`at`: one time per sample.

    Args:
        sde: the forward process.
        weighting: ``"likelihood"``: lambda = g^2, with which the denoising loss is, up to a constant, a bound on
            the negative log-likelihood in nats (Song et al. 2021, arXiv 2101.09258); lambda = 1 for flows.
            ``"fidelity"``: lambda = 2 / E|u|^2 (u the target, for uniform data), so that each noise level's relative
            error counts alike; on R^d that is lambda proportional to sigma^2.
            ``"adaptive"``: that times a density of times that :meth:`learn` finds out while a model is trained, larger
            where noise destroys more of what is special about the data (:class:`~.levels.NoiseLevels`): least
            error for a given number of steps. The integral changes while it learns.
        time_sampling: ``"importance"`` draws times in proportion to lambda E|u|^2, nine in ten of them, and
            the others uniformly, and divides by that density; ``"uniform"`` draws them uniformly. Both
            estimate the same integral.
    """

    least_square: float = 0.0  # of a target that weights and densities are made of, a dimension, in 1/inradius^2

    def __init__(
        self, sde: Process, weighting: Weighting = "likelihood", time_sampling: TimeSampling = "importance"
    ) -> None:
        if weighting not in get_args(Weighting):
            known = ", ".join(f'"{name}"' for name in get_args(Weighting))
            raise ValueError(f"weighting must be one of {known}, not {weighting!r}")
        if time_sampling not in ("importance", "uniform"):
            raise ValueError(f'time_sampling must be "importance" or "uniform", not {time_sampling!r}')
        self.sde, self.weighting, self.time_sampling = sde, weighting, time_sampling
        self._levels = NoiseLevels() if weighting == "adaptive" else None

    def __repr__(self) -> str:
        """Name, and all arguments that are numbers or words."""
        plain = {k: v for k, v in vars(self).items() if isinstance(v, (str, int, float)) and not k.startswith("_")}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in plain.items())})"

    @abstractmethod
    def noise(self, x0: Tensor, t: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, Tensor | None]:
        """Noise data ``[*batch, *event_shape]`` up to times ``[*batch]``; with a target where the loss needs one."""

    def local(
        self,
        score: Score,
        x: Tensor,
        t: Tensor,
        target: Tensor | None,
        *,
        generator: Generator | None = None,
        **condition: Tensor,
    ) -> Tensor:
        """Unweighted loss ``[*batch]`` at noised points ``[*batch, *event_shape]``, in 1/length^2.

        The default is regression: half the squared distance to the target, in the domain's metric.
        """
        if target is None:
            raise ValueError("this loss needs a target: noise the points with it")
        error = score(x, t, **condition) - target
        return self.sde.domain.inner(x, error, error) / 2

    def at(
        self, score: Score, x0: Tensor, t: Tensor, *, generator: Generator | None = None, **condition: Tensor
    ) -> Tensor:
        """Loss of each sample at given times, unweighted.

        Args:
            score: the score to train.
            x0: data inside the domain, ``[*batch, *event_shape]``.
            t: times in [0, 1], ``[*batch]``.
            generator: source of the noise.
            condition: tensors ``[*batch, ...]`` handed to the score.

        Returns:
            Losses ``[*batch]``, in 1/length^2.
        """
        x, target = self.noise(x0, t, generator=generator)
        return self.local(score, x, t, target, generator=generator, **condition)

    def prepare(self, x0: Tensor, *, generator: Generator | None = None) -> Noised:
        """Noise data ``[*batch, *event_shape]`` up to random times: what :meth:`evaluate` can use more than once."""
        batch = x0.shape[: x0.ndim - len(self.sde.domain.event_shape)]
        t, density = self.sample_times(batch, x0, generator=generator)
        x, target = self.noise(x0, t, generator=generator)
        return Noised(x, t, self.weight(t) / density, target)

    def evaluate(
        self, score: Score, noised: Noised, *, generator: Generator | None = None, **condition: Tensor
    ) -> Tensor:
        """Loss ``[*batch]`` of each sample that :meth:`prepare` has noised, weighted."""
        x, t, target = noised.x, noised.t, noised.target
        return self.local(score, x, t, target, generator=generator, **condition) * noised.weight

    def __call__(self, score: Score, x0: Tensor, *, generator: Generator | None = None, **condition: Tensor) -> Tensor:
        """Loss of each sample at a random time, weighted.

        Args:
            score: the score to train.
            x0: data inside the domain, ``[*batch, *event_shape]``.
            generator: source of the times and the noise.
            condition: tensors ``[*batch, ...]`` handed to the score.

        Returns:
            Losses ``[*batch]``; their mean is the loss.
        """
        self.sde.check_data("x0", x0)
        return self.evaluate(score, self.prepare(x0, generator=generator), generator=generator, **condition)

    @torch.no_grad()
    def learn(self, noised: Noised, value: Tensor) -> None:
        """Note how well a score did, from what :meth:`evaluate` gave; of use to the adaptive weighting only.

        Args:
            noised: the points.
            value: their losses ``[*batch]``.
        """
        if self._levels is None:
            return
        u, unweighted = noised.target, value / noised.weight
        nothing = 0.0 if u is None else self.sde.domain.inner(noised.x, u, u) / 2  # loss of a score of zero
        self._levels.learn(noised.t, self.sde.natural_weight(noised.t) * (nothing - unweighted))

    def weight(self, t: Tensor) -> Tensor:
        """lambda(t), ``[*batch]``."""
        if self.weighting == "likelihood":
            return self.sde.natural_weight(t)
        even = 2 / self._target_square(t)
        return even if self._levels is None else even * self._levels(t)

    def sample_times(
        self, shape: torch.Size, like: Tensor, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw times ``[*shape]`` in [0, 1], and the density ``[*shape]`` they were drawn from.

        The draws are stratified: each alone is random, and together they spread evenly.
        """
        n = shape.numel()
        u = torch.rand(n, generator=generator, dtype=like.dtype, device=like.device)
        strata = torch.randperm(n, generator=generator, device=like.device)
        u = ((strata + u) / max(n, 1)).reshape(shape)
        if self.time_sampling == "uniform":
            return u, torch.ones_like(u)
        edges, density = (v.to(like) for v in self._importance())
        cdf = torch.cat([density.new_zeros(1), density.cumsum(0)]) / len(density)
        cell = (torch.searchsorted(cdf, u.contiguous(), right=True) - 1).clamp(0, len(density) - 1)
        t = edges[cell] + (u - cdf[cell]) / density[cell]
        return t.clamp(0, 1), density[cell]

    def _target_square(self, t: Tensor) -> Tensor:
        square = self.sde.target_rms(self.sde.sigma(t)) ** 2
        return self.sde.domain.dim * square.clamp(min=self.least_square / self.sde.domain.inradius**2)

    def _importance(self) -> tuple[Tensor, Tensor]:
        """Left edges and density of the time cells."""
        edges, wanted = self._first_importance
        if self._levels is not None:
            wanted = wanted * self._levels(edges + 0.5 / _GRID)
        return edges, (1 - _FLOOR) * wanted / wanted.mean() + _FLOOR

    @cached_property
    def _first_importance(self) -> tuple[Tensor, Tensor]:
        """Left edges of the time cells, and lambda E|u|^2 there before anything has been learnt."""
        edges = torch.arange(_GRID, dtype=torch.float64) / _GRID
        middle = edges + 0.5 / _GRID
        return edges, self.weight(middle) * self._target_square(middle)
