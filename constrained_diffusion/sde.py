r"""The reflected SDE that noises data inside a domain, and its reverse.

Forward: :math:`dx = g(t)\,dB + dL`, Brownian motion that the wall's local time L keeps inside; over Brownian time
sigma(t)^2 its law is the domain's Neumann heat kernel, and it tends to the uniform law. Reversed from
t = 1 to 0: :math:`dx = -g^2 \nabla \log p_t\,dt + g\,dB + dL` (Lou & Ermon 2023, arXiv 2304.04740; Williams 1988).

May use: domains, schedules, process.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from .domains import Domain
from .domains.given import require_domain
from .process import Process, Score, log_kernel_rms
from .schedules import CustomSchedule, GeometricSchedule, Schedule

__all__ = ["ReflectedSDE", "mixing_sigma"]

_LEAST = 0.01  # sigma_min, unless said otherwise


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

    Raises:
        ValueError: no noise makes the domain uniform, or the distance is none that the bound speaks of.
    """
    if not 0 < distance <= 0.5:
        raise ValueError(f"distance must lie in (0, 0.5], not {distance!r}")
    if not domain.spectral_gap > 0:
        raise ValueError(f"sigma_max must be given: no noise makes {domain!r} uniform")
    return math.sqrt(math.log(2 * domain.dim / (4 * distance**2)) / domain.spectral_gap)


class ReflectedSDE(Process):
    """Reflected Brownian motion in a domain, run from data (time 0) to the prior (time 1).

    A network learns its score.

    Args:
        domain: where.
        sigma_min: Brownian standard deviation at time 0, in the units of the domain.
        sigma_max: at time 1; by default where the domain's spectral gap says that the law is uniform
            to 1e-3 (:func:`mixing_sigma`).
        schedule: a :class:`Schedule`, or a function of time, in place of ``sigma_min`` and ``sigma_max``; by
            default geometric.
    """

    def __init__(
        self,
        domain: Domain,
        sigma_min: float = _LEAST,
        sigma_max: float | None = None,
        schedule: Schedule | Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        require_domain(domain)
        if schedule is not None and (sigma_max is not None or sigma_min != _LEAST):
            raise ValueError("schedule says what sigma is: give it, or sigma_min and sigma_max, not both")
        if schedule is None:
            schedule = GeometricSchedule(sigma_min, mixing_sigma(domain) if sigma_max is None else sigma_max)
        elif not isinstance(schedule, Schedule):
            schedule = CustomSchedule(schedule)
        super().__init__(domain, schedule)

    def diffusion(self, t: Tensor) -> Tensor:
        """Coefficient g(t) of the noise, ``[*batch]``."""
        return self.schedule.diffusion(t)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Drift of the forward SDE: zero, ``[*batch, *event_shape]``."""
        return torch.zeros_like(x)

    def reverse_drift(self, score: Score, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        """Drift f - g^2 s of the reverse SDE in forward time, ``[*batch, *event_shape]``."""
        return self.drift(x, t) - self.expand(self.diffusion(t)) ** 2 * score(x, t, **condition)

    def noise(self, x0: Tensor, t: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Noised points and denoising targets; see :meth:`Domain.diffuse`."""
        return self.domain.diffuse(x0, self.sigma(t), generator=generator)

    def log_output_rms(self, log_sigma: Tensor) -> Tensor:
        """Of the kernel's score."""
        return log_kernel_rms(self.domain, log_sigma)

    def slope(self, output: Tensor, t: Tensor) -> Tensor:
        """The probability flow's -sigma s: dx/dt = -g^2 s / 2 with g^2 = d sigma^2 / dt."""
        return -self.expand(self.sigma(t)) * output

    def output(self, slope: Tensor, t: Tensor) -> Tensor:
        """The score, from the slope."""
        return -slope / self.expand(self.sigma(t))

    def natural_weight(self, t: Tensor) -> Tensor:
        """g(t)^2: with it denoising bounds the negative log-likelihood (Song et al. 2021, arXiv 2101.09258)."""
        return self.diffusion(t) ** 2
