r"""What samplers, losses and likelihoods need of a process: laws p_t in a domain, from data to a prior.

Time 0 is data, time 1 the prior. Each point of data moves away from where it was; ``sigma(t)`` says how far, and is the
clock of everything. What a network learns (a score, or a velocity) gives the *slope* :math:`dx/d\sigma` of the
deterministic flow that carries p_t along. Since a slope is the mean displacement from the data over sigma,
:math:`x - \sigma\,dx/d\sigma` is the denoised point, and one family of samplers serves them all.

May use: domains and schedules.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Generator, Tensor

from .domains import Domain
from .domains.checks import ShapeError, batch_shape, check_inside, check_tensor, values_are_checked
from .domains.given import require_domain
from .schedules import Schedule

__all__ = ["Process", "Score", "interpolate_rms", "log_kernel_rms"]

Score = Callable[..., Tensor]
"""``score(x, t, **condition)``: x ``[*batch, *event_shape]``, t ``[*batch]``, to a tensor like x."""

_TABLE_SIZE, _TABLE_POINTS = 32, 512
_TABLE_ENOUGH = 1 << 15  # coordinates at each noise level, beyond 32 points
_LEAST_RMS = 1e-8  # of a target, in inverse inradii: one that matters no more, and whose square float32 still holds
_MARGIN = math.log(2.0)  # by which exact targets may exceed what is about their size; they do by 1.43 at most, on tori
_TABLE_NUMBERS = 1 << 22  # coordinates simulated at a time


class Process(ABC):
    """From data to a prior, and what a network learns of it.

    A subclass gives :meth:`noise`, :meth:`slope` and its inverse :meth:`output`, and :meth:`natural_weight`.

    Args:
        domain: where.
        schedule: sigma as a function of time.
    """

    def __init__(self, domain: Domain, schedule: Schedule) -> None:
        require_domain(domain)
        self.domain, self.schedule = domain, schedule

    def __repr__(self) -> str:
        """Domain and schedule."""
        return f"{type(self).__name__}({self.domain!r}, schedule={self.schedule!r})"

    @property
    def sigma_min(self) -> float:
        """Sigma at time 0."""
        return self.schedule.sigma_min

    @property
    def sigma_max(self) -> float:
        """Sigma at time 1."""
        return self.schedule.sigma_max

    @property
    def simulates_paths(self) -> bool:
        """Whether noise is dear, so that it is used again."""
        return self.domain.simulates_paths

    @property
    def length(self) -> float:
        """The domain's inradius as the unit of tolerances; 1 where it has none."""
        return self.domain.inradius if math.isfinite(self.domain.inradius) else 1.0

    def sigma(self, t: Tensor) -> Tensor:
        """Distance from the data at times ``t`` ``[*batch]`` in [0, 1], in the units of the domain."""
        return self.schedule.sigma(t)

    def time(self, sigma: Tensor) -> Tensor:
        """Times ``[*batch]`` at which :meth:`sigma` has given values."""
        return self.schedule.time(sigma)

    @abstractmethod
    def noise(self, x0: Tensor, t: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Points of the law at times ``t`` ``[*batch]`` given data inside, and targets for the network's output."""

    @abstractmethod
    def slope(self, output: Tensor, t: Tensor) -> Tensor:
        """The flow's dx/dsigma ``[*batch, *event_shape]``, from a model's output there and times ``[*batch]``."""

    @abstractmethod
    def output(self, slope: Tensor, t: Tensor) -> Tensor:
        """The inverse of :meth:`slope`."""

    @abstractmethod
    def natural_weight(self, t: Tensor) -> Tensor:
        """The weight ``[*batch]`` of times ``[*batch]`` in the loss that theory asks for."""

    def perturb(self, x0: Tensor, t: Tensor | float, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Move data up to time ``t``.

        Args:
            x0: points inside ``[*batch, *event_shape]``.
            t: times in [0, 1], a number or ``[*batch]``.
            generator: source of randomness.

        Returns:
            Points of the law at ``t`` given ``x0``, and targets whose expectation given the former is what a
            model should answer, both ``[*batch, *event_shape]``.
        """
        check_tensor("x0", x0, self.domain.event_shape)
        t = torch.as_tensor(t, dtype=x0.dtype, device=x0.device) if not isinstance(t, Tensor) else t
        if values_are_checked() and not bool(((t >= 0) & (t <= 1)).all()):
            raise ValueError(f"t must lie in [0, 1]; it ranges over [{float(t.min()):g}, {float(t.max()):g}]")
        return self.noise(x0, t, generator=generator)

    def sample_prior(
        self,
        shape: int | tuple[int, ...],
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draws ``[*shape, *event_shape]`` from the law at time 1."""
        return self.domain.sample_prior(
            batch_shape(shape), self.sigma_max, generator=generator, device=device, dtype=dtype
        )

    def prior_log_prob(self, x: Tensor) -> Tensor:
        """Log-density ``[*batch]`` of the law at time 1."""
        return self.domain.prior_log_prob(x, self.sigma_max)

    def target_rms(self, sigma: Tensor) -> Tensor:
        """Root mean square, per dimension, of the target at ``sigma`` ``[*batch]``, for data of the prior's law.

        Of a denoising target it is near 1/sigma at small noise and falls exponentially once the law is uniform. Read
        from a table that is simulated once, with a fixed seed.
        """
        grid, log_rms = self.target_rms_table
        return interpolate_rms(log_rms, sigma.log(), float(grid[0]), float(grid[-1]))

    @cached_property
    def target_rms_table(self) -> tuple[Tensor, Tensor]:
        """Grid of log sigma, and the logarithm of the target's root mean square there."""
        generator = torch.Generator().manual_seed(0)
        grid = self._rms_grid()
        least = math.log(_LEAST_RMS / self.length)
        limit = self.log_output_rms(grid)
        if not self.domain.has_exact_walls and limit is not None:  # targets would be dear, and estimates
            return grid, limit.clamp(min=least)
        values = []
        size = self.domain.event_shape.numel()
        points = max(32, min(_TABLE_POINTS, _TABLE_ENOUGH // size))
        at_once = max(1, _TABLE_NUMBERS // (points * size))
        for part in grid.exp().split(at_once):
            shape = (len(part), points)
            x0 = self.domain.sample_prior(shape, self.sigma_max, generator=generator, dtype=torch.float64)
            t = self.time(part).clamp(0, 1).unsqueeze(-1).expand(shape)
            x, u = self.noise(x0, t, generator=generator)
            values.append((self.domain.inner(x, u, u).mean(-1) / self.domain.dim).log() / 2)
        return grid, torch.cat(values).clamp(min=least)

    @property
    def output_scale_table(self) -> Tensor:
        """Logarithm of the size of what is learnt, on the same grid: of targets, or of their mean where that is less.

        Targets of simulated paths are as long at large noise, where the score is nearly nothing; an answer that has
        their length would be off by a share of it.
        """
        grid, log_rms = self.target_rms_table
        limit = self.log_output_rms(grid)
        return (
            log_rms if limit is None else log_rms.minimum(limit + _MARGIN).clamp(min=math.log(_LEAST_RMS / self.length))
        )

    def log_output_rms(self, log_sigma: Tensor) -> Tensor | None:
        """About the logarithm of the root mean square of a kernel's exact target, per dimension; None if not known."""
        return None

    def restore_target_rms(self, log_rms: Tensor) -> None:
        """Take the values of a table that was simulated before, over the same domain and range of sigma."""
        if log_rms.shape != (_TABLE_SIZE,):
            raise ShapeError(f"log_rms has shape {list(log_rms.shape)}; expected [{_TABLE_SIZE}]")
        self.target_rms_table = self._rms_grid(), log_rms.double()

    def _rms_grid(self) -> Tensor:
        return torch.linspace(math.log(self.sigma_min), math.log(self.sigma_max), _TABLE_SIZE, dtype=torch.float64)

    def check_points(self, name: str, x: Tensor) -> None:
        """Refuse points of the wrong shape, not finite or outside the domain."""
        check_tensor(name, x, self.domain.event_shape)
        check_inside(self.domain, name, x)

    def check_data(self, name: str, x: Tensor) -> None:
        """Refuse data that are empty, of the wrong shape, not finite or outside the domain."""
        self.check_points(name, x)
        if x.numel() == 0:
            raise ValueError(f"{name} is empty: shape {list(x.shape)}")

    def expand(self, value: Tensor) -> Tensor:
        """Give a ``[*batch]`` tensor the event's dimensions, each of size one."""
        return self.domain.expand(value)


def log_kernel_rms(domain: Domain, log_sigma: Tensor) -> Tensor:
    """Both limits of the heat kernel's score, joined: 1/sigma, and the slope of the slowest eigenfunction."""
    gap = domain.spectral_gap
    return -(torch.expm1(gap * (2 * log_sigma).exp()) / gap).log() / 2 if gap > 0 else -log_sigma


def interpolate_rms(log_rms: Tensor, log_sigma: Tensor, low: float, high: float) -> Tensor:
    """Read a table of log rms, over an even grid of log sigma from low to high, at ``[*batch]``; constant outside."""
    log_rms, last = log_rms.to(log_sigma), len(log_rms) - 1
    position = ((log_sigma - low) * (last / (high - low))).clamp(0, last)
    left = position.detach().long().clamp(max=last - 1)
    return torch.exp(torch.lerp(log_rms[left], log_rms[left + 1], position - left))
