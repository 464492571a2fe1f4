r"""The reflected SDE that noises data inside a domain, and its reverse.

Forward: :math:`dx = g(t)\,dB + dL`, Brownian motion that the wall's local time L keeps inside; over Brownian time
sigma(t)^2 its law is the domain's Neumann heat kernel, and it tends to the uniform law. Reversed from
t = 1 to 0: :math:`dx = -g^2 \nabla \log p_t\,dt + g\,dB + dL` (Lou & Ermon 2023, arXiv 2304.04740; Williams 1988).

May use: domains and schedules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Generator, Tensor

from .domains import Domain
from .domains.base import batch_shape
from .domains.checks import check_inside, check_tensor, values_are_checked
from .schedules import CustomSchedule, GeometricSchedule, Schedule

__all__ = ["ReflectedSDE", "Score", "mixing_sigma"]

Score = Callable[..., Tensor]
"""``score(x, t, **condition)``: x ``[*batch, *event_shape]``, t ``[*batch]``, to a tensor like x."""

_TABLE_SIZE, _TABLE_POINTS = 32, 512
_TABLE_NUMBERS = 1 << 22  # coordinates simulated at a time


def mixing_sigma(domain: Domain, distance: float = 1e-3) -> float:
    """Noise after which nothing is left of the data.

    The kernel's chi-square distance to uniform is at most about 2 dim exp(-gap sigma^2): as many
    eigenfunctions as dimensions at the spectral gap, each of squared size 2 at most (as in the corner of a
    cube). Half its root bounds the total variation distance.

    Args:
        domain: of finite volume.
        distance: total variation distance from the uniform law to reach.

    Returns:
        sigma, in the units of the domain.
    """
    if not domain.spectral_gap > 0:
        raise ValueError(f"sigma_max must be given: no noise makes {domain!r} uniform")
    return math.sqrt(math.log(2 * domain.dim / (4 * distance**2)) / domain.spectral_gap)


def interpolate_rms(grid: Tensor, log_rms: Tensor, sigma: Tensor) -> Tensor:
    """Read a table of log rms, over an even grid of log sigma, at ``sigma`` ``[*batch]``; constant outside."""
    grid, log_rms = grid.to(sigma), log_rms.to(sigma)
    position = (sigma.log() - grid[0]) / (grid[-1] - grid[0]) * (len(grid) - 1)
    left = position.detach().floor().clamp(0, len(grid) - 2)
    weight = (position - left).clamp(0, 1)
    index = left.long()
    return torch.exp(log_rms[index] * (1 - weight) + log_rms[index + 1] * weight)


class ReflectedSDE:
    """Reflected Brownian motion in a domain, run from data (time 0) to the prior (time 1).

    Args:
        domain: where.
        sigma_min: Brownian standard deviation at time 0, in the units of the domain.
        sigma_max: at time 1; by default where the domain's spectral gap says that the law is uniform
            to 1e-3 (:func:`mixing_sigma`).
        schedule: a :class:`Schedule`, or a function of time; replaces ``sigma_min`` and ``sigma_max``. By
            default geometric.
    """

    def __init__(
        self,
        domain: Domain,
        sigma_min: float = 0.01,
        sigma_max: float | None = None,
        schedule: Schedule | Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if not isinstance(domain, Domain):
            raise TypeError(f"domain must be a Domain, not {type(domain).__name__}")
        self.domain = domain
        if schedule is None:
            schedule = GeometricSchedule(sigma_min, mixing_sigma(domain) if sigma_max is None else sigma_max)
        elif not isinstance(schedule, Schedule):
            schedule = CustomSchedule(schedule)
        self.schedule = schedule

    def __repr__(self) -> str:
        """Domain and schedule."""
        return f"ReflectedSDE({self.domain!r}, schedule={self.schedule!r})"

    @property
    def sigma_min(self) -> float:
        """Noise at time 0."""
        return self.schedule.sigma_min

    @property
    def sigma_max(self) -> float:
        """Noise at time 1."""
        return self.schedule.sigma_max

    def sigma(self, t: Tensor) -> Tensor:
        """Brownian standard deviation at times ``t`` ``[*batch]`` in [0, 1]."""
        return self.schedule.sigma(t)

    def diffusion(self, t: Tensor) -> Tensor:
        """Coefficient g(t) of the noise, ``[*batch]``."""
        return self.schedule.diffusion(t)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Drift of the forward SDE: zero, ``[*batch, *event_shape]``."""
        return torch.zeros_like(x)

    def reverse_drift(self, score: Score, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        """Drift f - g^2 s of the reverse SDE in forward time, ``[*batch, *event_shape]``."""
        g = self.diffusion(t)
        return self.drift(x, t) - self._expand(g) ** 2 * score(x, t, **condition)

    def perturb(self, x0: Tensor, t: Tensor | float, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Noise data up to time ``t``.

        Args:
            x0: points inside ``[*batch, *event_shape]``.
            t: times in [0, 1], a number or ``[*batch]``.
            generator: source of randomness.

        Returns:
            Noised points and denoising targets (see :meth:`Domain.diffuse`), both ``[*batch, *event_shape]``.
        """
        check_tensor("x0", x0, self.domain.event_shape)
        t = torch.as_tensor(t, dtype=x0.dtype, device=x0.device) if not isinstance(t, Tensor) else t
        if values_are_checked() and not bool(((t >= 0) & (t <= 1)).all()):
            raise ValueError(f"t must lie in [0, 1]; it ranges over [{float(t.min()):g}, {float(t.max()):g}]")
        return self.domain.diffuse(x0, self.sigma(t), generator=generator)

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
        """Root mean square, per dimension, of the denoising target at noise ``sigma`` ``[*batch]``.

        For uniform data: near 1/sigma at small noise; falls exponentially once the law is uniform. Read from a table
        that is simulated once, with a fixed seed.
        """
        return interpolate_rms(*self.target_rms_table, sigma)

    @cached_property
    def target_rms_table(self) -> tuple[Tensor, Tensor]:
        """Grid of log sigma, and the logarithm of the target's root mean square there."""
        generator = torch.Generator().manual_seed(0)
        grid = torch.linspace(math.log(self.sigma_min), math.log(self.sigma_max), _TABLE_SIZE, dtype=torch.float64)
        values = []
        at_once = max(1, _TABLE_NUMBERS // (_TABLE_POINTS * self.domain.event_shape.numel()))
        for part in grid.exp().split(at_once):
            shape = (len(part), _TABLE_POINTS)
            x0 = self.domain.sample_prior(shape, self.sigma_max, generator=generator, dtype=torch.float64)
            x, u = self.domain.diffuse(x0, part.unsqueeze(-1).expand(shape), generator=generator)
            values.append((self.domain.inner(x, u, u).mean(-1) / self.domain.dim).log() / 2)
        return grid, torch.cat(values)

    def check_data(self, name: str, x: Tensor) -> None:
        """Refuse data that are empty, of the wrong shape, not finite or outside the domain."""
        check_tensor(name, x, self.domain.event_shape)
        if x.numel() == 0:
            raise ValueError(f"{name} is empty: shape {list(x.shape)}")
        check_inside(self.domain, name, x)

    def _expand(self, value: Tensor) -> Tensor:
        return value.reshape(value.shape + (1,) * len(self.domain.event_shape))
