"""A posterior that the package ``sbi`` takes for one of its own: its diagnostics, analyses and plots then apply.

May use: the posterior; sbi, which is imported with this module and nowhere else
(``pip install "reflected-diffusion[sbi]"``). Source: Boelts et al., "sbi reloaded: a toolkit for simulation-based
inference workflows", 2025, arXiv 2411.17337.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from .domains import Domain
from .domains.checks import ShapeError
from .model import ReflectedDiffusion
from .posterior import Posterior

try:
    from sbi.inference.posteriors.base_posterior import (  # type: ignore[import-not-found, unused-ignore]
        NeuralPosterior,
    )
    from sbi.inference.potentials.base_potential import (  # type: ignore[import-not-found, unused-ignore]
        BasePotential,
    )
except ImportError as error:
    raise ImportError(
        'constrained_diffusion.sbi_posterior needs the package sbi: python -m pip install "reflected-diffusion[sbi]"'
    ) from error

__all__ = ["SbiPosterior", "UniformPrior"]

_MOMENTS = 10_000  # uniform points that give a prior's mean and variance, by which sbi standardises


class UniformPrior(Distribution):
    """The uniform law on a domain as a torch distribution: a prior for sbi where its own are boxes.

    Args:
        domain: bounded; a simplex, a ball, a polytope, ...
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch reads it from the class)

    def __init__(self, domain: Domain) -> None:
        if not math.isfinite(domain.log_volume):
            raise ValueError(f"domain must be bounded to have a uniform law; {domain!r} is not")
        self.domain = domain
        super().__init__(event_shape=domain.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """The domain."""
        return _Inside(self.domain)

    @property
    def mean(self) -> Tensor:
        """Of 10,000 points, always the same ``[*event_shape]``."""
        return self._points.mean(0)

    @property
    def variance(self) -> Tensor:
        """Of each coordinate, by the same points ``[*event_shape]``."""
        return self._points.var(0)

    @cached_property
    def _points(self) -> Tensor:
        return self.domain.sample_uniform(_MOMENTS, generator=torch.Generator().manual_seed(0))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Uniform points ``[*sample_shape, *event_shape]``, from torch's global random state as distributions do."""
        return self.domain.sample_uniform(tuple(sample_shape), generator=_stream())

    def log_prob(self, value: Tensor) -> Tensor:
        """Minus the log-volume inside and -inf outside, ``[*batch]``."""
        return torch.where(self.domain.contains(value), -self.domain.log_volume, -math.inf).to(value.dtype)


class SbiPosterior(NeuralPosterior):  # type: ignore[misc, unused-ignore]
    """A :class:`Posterior` as sbi's ``NeuralPosterior``.

    >>> posterior = SbiPosterior(model).set_default_x(observed)
    >>> ranks, samples = sbi.diagnostics.run_sbc(theta, x, posterior)

    Randomness comes from torch's global state, as everywhere in sbi. Its potential is the normalised log-density, whose
    gradient is the model's score.

    Args:
        model: fitted with the simulated observations as its condition, or a :class:`Posterior`.
        prior: what the parameters were drawn from; by default the uniform law on the domain.
    """

    _map: Tensor | None

    def __init__(self, model: ReflectedDiffusion | Posterior, prior: Any = None) -> None:
        self.posterior = model if isinstance(model, Posterior) else Posterior(model)
        self.prior = UniformPrior(self.posterior.domain) if prior is None else prior
        device = str(next(self.posterior.model.score_.parameters()).device)
        super().__init__(_LogDensity(self.posterior, self.prior, device))
        if self.posterior.x is not None:
            self.set_default_x(self.posterior.x)
        self._purpose = "It samples a reflected diffusion, which never leaves the prior's support."

    def sample(
        self, sample_shape: Any = (), x: Tensor | None = None, show_progress_bars: bool = False, **options: Any
    ) -> Tensor:
        """Draw parameters given one observation.

        Args:
            sample_shape: how many.
            x: ``[1, k]`` or ``[k]``; by default what ``set_default_x`` was given.
            show_progress_bars: whether to show one.
            options: of :meth:`Posterior.sample`.

        Returns:
            ``[*sample_shape, *event_shape]``, all in the prior's support.
        """
        row = _single(self._x_else_default_x(x), "sample_batched")
        return self._draw(sample_shape, row, show_progress_bars, options)

    def sample_batched(self, sample_shape: Any, x: Tensor, show_progress_bars: bool = False, **options: Any) -> Tensor:
        """Draw parameters given each of the observations ``[n, k]``: ``[*sample_shape, n, *event_shape]``."""
        return self._draw(sample_shape, self._x_else_default_x(x), show_progress_bars, options)

    def log_prob(
        self, theta: Tensor, x: Tensor | None = None, norm_posterior: bool = True, track_gradients: bool = False
    ) -> Tensor:
        """Log-density ``[n]`` at ``[n, *event_shape]`` given one observation; -inf outside the prior's support.

        It is normalised whatever ``norm_posterior`` says. With ``track_gradients`` its gradient is the model's score.
        """
        row = _single(self._x_else_default_x(x), "log_prob_batched")
        return _evaluate(self.posterior, self._batched(theta), row, track_gradients)

    def log_prob_batched(
        self, theta: Tensor, x: Tensor, norm_posterior: bool = True, track_gradients: bool = False
    ) -> Tensor:
        """Log-density ``[m, n]`` at ``[m, n, *event_shape]``, or ``[1, n]`` at ``[n, ..]``, given ``[n, k]``."""
        points = self._batched(theta)
        if points.ndim == 1 + len(self.posterior.domain.event_shape):
            points = points.unsqueeze(0)
        return _evaluate(self.posterior, points, self._x_else_default_x(x), track_gradients)

    def map(
        self,
        x: Tensor | None = None,
        num_iter: int = 200,
        num_to_optimize: int = 100,
        learning_rate: float = 0.05,
        show_progress_bars: bool = False,
        force_update: bool = False,
    ) -> Tensor:
        """The parameters of greatest density ``[1, *event_shape]`` given the default x: :meth:`Posterior.map`.

        Args:
            x: set it by ``set_default_x`` instead, as for all posteriors of sbi.
            num_iter: steps of each climb.
            num_to_optimize: how many samples climb.
            learning_rate: length of the first steps, in standard deviations of the samples.
            show_progress_bars: no difference.
            force_update: search again though the default x is the same.
        """
        if x is not None:
            raise ValueError("x must be set by set_default_x(x) before map() is called")
        if self._map is None or force_update:
            row = _single(self._x_else_default_x(None), "set_default_x with one of them")
            found = self.posterior.map(row, starts=num_to_optimize, steps=num_iter, rate=learning_rate, seed=_seed())
            self._map = found.unsqueeze(0)
        return self._map

    def _draw(self, sample_shape: Any, rows: Tensor, progress: bool, options: dict[str, Any]) -> Tensor:
        shape = tuple(sample_shape)
        return self.posterior.sample(shape, rows, seed=_seed(), progress=progress, **options)

    def _batched(self, theta: Tensor) -> Tensor:
        points = torch.as_tensor(theta)
        return points.unsqueeze(0) if points.shape == self.posterior.domain.event_shape else points


class _LogDensity(BasePotential):  # type: ignore[misc, unused-ignore]
    """What sbi calls a potential: here the normalised log-density given one observation."""

    def __init__(self, posterior: Posterior, prior: Any, device: str) -> None:
        self.posterior = posterior
        super().__init__(prior, None, device)

    def __call__(self, theta: Tensor, track_gradients: bool = True) -> Tensor:
        """Log-density ``[n]`` at ``[n, *event_shape]``."""
        return _evaluate(self.posterior, theta, _single(self.x_o, "one potential for each"), track_gradients)


class _Differentiable(torch.autograd.Function):
    """The log-density as autograd knows it: its value by the flow, its gradient by the score."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, row: Tensor, posterior: Posterior) -> Tensor:
        ctx.save_for_backward(theta, row)
        ctx.posterior = posterior
        return posterior.log_prob(theta, row)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None, None]:
        theta, row = ctx.saved_tensors
        slope = ctx.posterior.gradient(theta, row)
        return given[0].reshape(*given[0].shape, *(1,) * (slope.ndim - given[0].ndim)) * slope, None, None


def _evaluate(posterior: Posterior, theta: Tensor, row: Tensor, track_gradients: bool) -> Tensor:
    if not track_gradients:
        return posterior.log_prob(theta, row)
    value: Tensor = _Differentiable.apply(theta, row, posterior)  # type: ignore[no-untyped-call, unused-ignore]
    return value


def _single(x: Tensor, instead: str) -> Tensor:
    """The one observation ``[k]`` of a batch ``[1, k]``, as sbi keeps it."""
    if len(x) != 1:
        raise ShapeError(f"x has shape {list(x.shape)}, {len(x)} observations where one is meant: use {instead}")
    return x[0]


def _seed() -> int:
    return int(torch.randint(2**62, ()))


def _stream() -> torch.Generator:
    return torch.Generator().manual_seed(_seed())


class _Inside(constraints.Constraint):
    """Points of a domain."""

    is_discrete = False

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.event_dim = len(domain.event_shape)

    def check(self, value: Tensor) -> Tensor:
        """Which points ``[*batch, *event_shape]`` lie inside."""
        return self.domain.contains(value)
