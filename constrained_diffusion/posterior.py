r"""Posteriors of simulators: parameters given an observation, never outside the prior's support.

Simulation-based inference draws parameters from a prior, simulates an observation of each, and learns the law of the
former given the latter (Cranmer, Brehmer & Louppe, "The frontier of simulation-based inference", 2020, arXiv
1911.01429). Priors are mostly bounded. Flows and diffusions on R^d leak across the bounds: samples outside are thrown
away, and the density must be divided by a share that is itself estimated for each observation. A reflected model has
nothing to throw away, and its density is normalised over the domain as it is.

May use: the estimator.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .domains.checks import DomainError, ShapeError, batch_shape, check_tensor
from .model import ReflectedDiffusion
from .sde import ReflectedSDE

__all__ = ["Posterior"]

_ROUNDING = 64 * torch.finfo(torch.float32).eps
_BLUR = 2.0  # least noises, of gradients; of a posterior ten wide a small network's was off by 38 % at one, 15 % at two
_WIDE = 0.3  # standard deviations of the samples: noise at which a climb begins


class Posterior:
    """The law of parameters theta given an observation x, as a conditional model has learnt it.

    >>> prior = Hypercube(2, low=-1.0, high=1.0)
    >>> theta = prior.sample_uniform(10_000)
    >>> model = ReflectedDiffusion(prior).fit(theta, condition=simulate(theta))
    >>> posterior = Posterior(model, x=observed)
    >>> posterior.sample((1000,)), posterior.log_prob(theta[:10]), posterior.map()

    Shapes are those of torch.distributions: an observation ``[k]`` makes one posterior, observations ``[*obs, k]``
    a batch of them.

    Args:
        model: fitted with the simulated observations as its condition, ``fit(theta, condition=x)``.
        x: the observation ``[*obs, k]`` that the methods take by default.

    Raises:
        RuntimeError: the model is not fitted.
        ValueError: the model was fitted without a condition, or ``x`` does not fit it.

    Attributes:
        domain: support of the prior.
        x_dim: length k of an observation.
    """

    def __init__(self, model: ReflectedDiffusion, x: Any = None) -> None:
        if not isinstance(model, ReflectedDiffusion):
            raise TypeError(f"model must be a ReflectedDiffusion, not {type(model).__name__}")
        if not hasattr(model, "score_"):
            raise RuntimeError(f"{model!r} is not fitted: call fit(theta, condition=x) first, or load a saved model")
        self.model, self.domain = model, model.domain
        self.x_dim = int(getattr(model.score_.network, "condition_dim", 0))
        if not self.x_dim:
            raise ValueError(
                f"{model!r} knows of no condition: fit it with the observations, fit(theta, condition=x); "
                "a network of one's own says the length of a condition in its attribute condition_dim"
            )
        self.x = None if x is None else self._observation(x)

    def __repr__(self) -> str:
        """The model, and the observation's shape."""
        seen = "" if self.x is None else f", x={list(self.x.shape)}"
        return f"Posterior({self.model!r}{seen})"

    def sample(
        self, sample_shape: int | tuple[int, ...] = (), x: Any = None, *, seed: int | None = None, **options: Any
    ) -> Tensor:
        """Draw parameters, all of them in the prior's support.

        Args:
            sample_shape: how many for each observation.
            x: observations ``[*obs, k]``; by default those given to the constructor.
            seed: makes this call repeatable by itself; see :meth:`ReflectedDiffusion.sample`.
            options: ``steps``, ``sampler``, ``guidance``, ``batch_size``, ``progress`` of that method.

        Returns:
            ``[*sample_shape, *obs, *event_shape]``, of the dtype that the model was fitted in.
        """
        rows = self._observation(x)
        shape = (*batch_shape(sample_shape, "sample_shape"), *rows.shape[:-1])
        rows = rows.expand(*shape, self.x_dim).reshape(-1, self.x_dim)
        points = torch.as_tensor(self.model.sample(len(rows), condition=rows, seed=seed, **options))
        return points.reshape(*shape, *self.domain.event_shape)

    def log_prob(self, theta: Any, x: Any = None, **options: Any) -> Tensor:
        """Log-density of the posterior, normalised over the prior's support.

        Args:
            theta: parameters ``[*batch, *event_shape]``, inside or not.
            x: observations ``[*obs, k]``, ``*obs`` broadcasting with ``*batch``; by default those given to the
                constructor.
            options: of :meth:`ReflectedDiffusion.log_prob`.

        Returns:
            ``[*batch]`` (broadcast with ``*obs``) in nats, against the domain's volume; -inf outside.
        """
        points, rows, shape = self._pairs(theta, x)
        inside = self._inside(points)
        value = points.new_full((len(points),), -math.inf)
        if bool(inside.any()):
            within = self.domain.project(points[inside])
            found = self.model.log_prob(within, condition=rows[inside], **options)
            value[inside] = torch.as_tensor(found).to(value)
        return value.reshape(shape)

    def gradient(self, theta: Any, x: Any = None, *, sigma: float | None = None) -> Tensor:
        """Gradient of the log-density in theta: the model's score, in one evaluation where the density takes hundreds.

        It is that of the posterior blurred by noise ``sigma``, and without a component across the walls on them.

        Args:
            theta: parameters inside ``[*batch, *event_shape]``.
            x: as for :meth:`log_prob`.
            sigma: the blur, in the unit of the model's ``sigma_min``; by default twice that, which suits posteriors
                some ten times as wide. A network's error is divided by sigma, so that less blur can mean a worse
                gradient: where the posterior is much wider, give a fifth of its standard deviation.

        Returns:
            ``[*batch, *event_shape]`` (broadcast with ``*obs``), in nats per unit of theta.

        Raises:
            ValueError: the model is a flow, which learns a velocity instead, or has no such noise.
            DomainError: a point lies outside.
        """
        blur, most = self._least_blur(), self.model.sde_.sigma_max
        if sigma is not None and not self.model.sde_.sigma_min <= sigma <= most:
            raise ValueError(f"sigma must lie in [{self.model.sde_.sigma_min:g}, {most:g}], not {sigma!r}")
        points, rows, shape = self._pairs(theta, x)
        if not bool(self._inside(points).all()):
            raise DomainError("theta has points outside the prior's support, where the density has no gradient")
        score = self._score(self._enter(points), rows, blur if sigma is None else sigma)
        change = self.model.units_.change
        own = score if change is None else score / change.scale.to(score)
        return own.to(points).reshape(*shape, *self.domain.event_shape)

    def map(
        self,
        x: Any = None,
        *,
        starts: int = 100,
        steps: int = 200,
        rate: float = 0.05,
        seed: int | None = None,
    ) -> Tensor:
        """The parameters of greatest density.

        Samples climb along the score, with ever shorter steps and at ever less noise, and the densest of the points
        that they reach is returned.

        Args:
            x: one observation ``[k]``; by default that given to the constructor.
            starts: how many samples climb, at least 2; more find narrow modes more surely.
            steps: of each climb.
            rate: length of the first steps, in standard deviations of the samples.
            seed: of the samples.

        Returns:
            ``[*event_shape]``.

        Raises:
            ValueError: the model is a flow, which has no score to climb along.
        """
        row = self._observation(x)
        if row.ndim != 1:
            raise ShapeError(f"x has shape {list(row.shape)}; expected one observation, [{self.x_dim}]")
        if starts < 2:
            raise ValueError(f"starts must be at least 2, whose spread is the length of a step; got {starts!r}")
        least = self._least_blur()
        points = self.sample((starts,), row, seed=seed)
        z = self._enter(points)
        spread = z.std(0)
        blur = max(least, _WIDE * float(spread.square().mean().sqrt()))
        reached = self._leave(self._climb(z, row, rate * spread, steps, (blur, least)), points)
        return reached[self.log_prob(reached, row).argmax()]

    def _climb(self, z: Tensor, row: Tensor, rate: Tensor, steps: int, blur: tuple[float, float]) -> Tensor:
        """Ascend from ``[n, *event_shape]``, in the model's units.

        Steps have lengths of ``rate`` ``[*event_shape]`` that fall to zero, while the noise falls from the first to the
        second ``blur``.
        """
        rows, ones = row.expand(len(z), -1), (1,) * len(self.domain.event_shape)
        tiny = torch.finfo(z.dtype).tiny
        for step in range(steps):
            done = step / steps
            uphill = rate * self._score(z, rows, blur[0] * (blur[1] / blur[0]) ** done)
            length = uphill.flatten(1).norm(dim=1).clamp(min=tiny).reshape(-1, *ones)
            z = self.model.sde_.domain.project(z + 0.5 * (1 + math.cos(math.pi * done)) * rate * uphill / length)
        return z

    def _score(self, z: Tensor, rows: Tensor, sigma: float) -> Tensor:
        """The model's score at noise ``sigma`` at ``[n, *event_shape]``, in the model's units."""
        process = self.model.sde_
        t = process.time(z.new_tensor(sigma)).expand(len(z))
        with torch.no_grad():
            score: Tensor = self.model.score_(z, t, condition=rows.to(z))
        return score

    def _least_blur(self) -> float:
        """The noise at which scores are good and the posterior is hardly blurred."""
        if not isinstance(self.model.sde_, ReflectedSDE):
            raise ValueError('gradients need a score: fit a model with process="diffusion"')
        return min(_BLUR * self.model.sde_.sigma_min, self.model.sde_.sigma_max)

    def _enter(self, points: Tensor) -> Tensor:
        """Points ``[n, *event_shape]`` in the units, dtype and place of the model."""
        device = next(self.model.score_.parameters()).device
        return self.model.units_.enter(points.to(device=device, dtype=torch.float64))

    def _leave(self, z: Tensor, like: Tensor) -> Tensor:
        """The inverse, in the dtype and place of ``like``."""
        change = self.model.units_.change
        return self.domain.project((z if change is None else change(z)).to(like))

    def _inside(self, points: Tensor) -> Tensor:
        """Which of ``[n, *event_shape]`` lie inside, but for the rounding of single precision, in which samples are."""
        return self.domain.contains(points, atol=_ROUNDING * max(1.0, self.domain.magnitude))

    def _pairs(self, theta: Any, x: Any) -> tuple[Tensor, Tensor, torch.Size]:
        """Parameters ``[n, *event_shape]``, their observations ``[n, k]``, and the shape that n values shall have."""
        rows = self._observation(x)
        points = _numbers("theta", theta)
        event = self.domain.event_shape
        check_tensor("theta", points, event)
        batch = points.shape[: points.ndim - len(event)]
        try:
            shape = torch.broadcast_shapes(batch, rows.shape[:-1])
        except RuntimeError:
            raise ShapeError(
                f"theta has shape {list(points.shape)} and x has shape {list(rows.shape)}: their leading sizes "
                f"{list(batch)} and {list(rows.shape[:-1])} do not broadcast"
            ) from None
        points = points.expand(*shape, *event).reshape(-1, *event)
        if bool(points.isnan().any()):
            raise DomainError("theta has NaN, which lies neither inside nor outside")
        rows = rows.to(points.device).expand(*shape, self.x_dim)
        return points, rows.reshape(-1, self.x_dim), shape

    def _observation(self, x: Any) -> Tensor:
        """Observations ``[*obs, k]``, checked."""
        if x is None:
            if self.x is None:
                raise ValueError("x must be given: this posterior was made without an observation")
            return self.x
        rows = _numbers("x", x)
        if rows.ndim < 1 or rows.shape[-1] != self.x_dim:
            raise ShapeError(
                f"x has shape {list(rows.shape)}; expected [*obs, {self.x_dim}], the length of the conditions that the "
                "model was fitted with"
            )
        if not bool(rows.isfinite().all()):  # a row of NaN would ask the estimator for the prior
            raise DomainError("x must be finite; the model knows nothing of missing or infinite observations")
        return rows


def _numbers(name: str, value: Any) -> Tensor:
    """Anything that holds real numbers as a floating-point tensor, without its graph."""
    tensor = value.detach() if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} must hold real numbers, not {tensor.dtype}")
    return tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())
