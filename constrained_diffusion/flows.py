r"""Reflected flow matching: from prior to data on straight lines, of which a network learns the mean velocity.

With x1 from the prior, :math:`x_t = (1 - r) x_0 + r x_1`, r = sigma(t) / sigma_max, lies inside if the domain is
convex. The velocity x1 - x0 is what a network regresses; its mean at x is that of a flow which carries the prior to the
data (Lipman et al. 2023, arXiv 2210.02747; Liu et al. 2023, arXiv 2209.03003; on convex domains Xie et al. 2024,
"Reflected Flow Matching").

Where straight lines leave the domain, :class:`DiffusionFlow` regresses the velocity of the law that noise spreads
instead, which is there in every domain (the diffusion paths of flow matching: Lipman et al., section 4.1).

Both share everything with diffusions: train them with :class:`DenoisingScoreMatching`, sample them with the
deterministic samplers, guide them by :class:`ClassifierFreeGuidance`, straighten the former by :class:`Reflow`.

May use: the process.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from .domains import Domain
from .domains.checks import DomainError, batch_shape
from .process import Process, log_kernel_rms
from .schedules import GeometricSchedule, LinearSchedule
from .sde import mixing_sigma

__all__ = ["DiffusionFlow", "RectifiedFlow", "flow_over"]

_PAIRS, _BETWEEN = 1024, 16  # uniform points between which it is seen whether lines stay inside


class RectifiedFlow(Process):
    """Straight lines from data (time 0) to the prior (time 1) in a convex domain; a network learns their velocity.

    Sigma is a distance on the way: it grows evenly up to sigma_max where the point of the prior is reached.

    Args:
        domain: where; convex.
        sigma_max: the length that counts as the whole way, by default the domain's inradius; over R^d the
            standard deviation of the prior.
        sigma_min: where the way is taken to begin; the last bit is the denoising step of the samplers. By default
            a thousandth of sigma_max.

    Raises:
        DomainError: some straight line between two points leaves the domain.
    """

    def __init__(self, domain: Domain, sigma_max: float | None = None, sigma_min: float | None = None) -> None:
        most = domain.inradius if sigma_max is None else sigma_max
        if not math.isfinite(most):
            raise ValueError(f"sigma_max must be given: {domain!r} has no size of its own")
        super().__init__(domain, LinearSchedule(1e-3 * most if sigma_min is None else sigma_min, most))
        if not self._lines_stay_inside():
            raise DomainError(f"{domain!r} is not convex: straight lines leave it. Use a DiffusionFlow")

    @property
    def simulates_paths(self) -> bool:
        """No: lines are straight."""
        return False

    def noise(self, x0: Tensor, t: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Points on the way to draws of the prior, and the velocities x1 - x0; both ``[*batch, *event_shape]``."""
        batch = x0.shape[: x0.ndim - len(self.domain.event_shape)]
        x1 = self.sample_prior(tuple(batch), generator=generator, device=x0.device, dtype=x0.dtype)
        return self.between(x0, x1, t)

    def between(self, x0: Tensor, x1: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The points at times ``[*batch]`` on the way from ``x0`` to ``x1``, and the velocities x1 - x0."""
        share = self.expand(self.sigma(t) / self.sigma_max)
        way = self.domain.difference(x0, x1)  # x1 - x0; the shorter way round for angles
        return self.domain.expmap(x0, share * way), way

    def slope(self, output: Tensor, t: Tensor) -> Tensor:
        """Velocity over sigma_max: dx/dsigma."""
        return output / self.sigma_max

    def output(self, slope: Tensor, t: Tensor) -> Tensor:
        """The velocity, from the slope."""
        return slope * self.sigma_max

    def natural_weight(self, t: Tensor) -> Tensor:
        """One: every part of the way counts alike."""
        return torch.ones_like(t)

    def _lines_stay_inside(self) -> bool:
        """Whether the set is flat, and lines between points of the prior stay inside."""
        generator = torch.Generator().manual_seed(0)
        a, b = self.sample_prior(batch_shape((2, _PAIRS)), generator=generator, dtype=torch.float64)
        way = self.domain.difference(a, b)
        if not torch.allclose(way, self.domain.logmap(a, b)):
            return False
        shares = torch.linspace(0, 1, _BETWEEN + 2)[1:-1].tolist()
        between = (self.domain.expmap(a, share * way) for share in shares)
        return all(bool(self.domain.contains(x, atol=1e-9 * self.length).all()) for x in between)


class DiffusionFlow(Process):
    r"""Flow matching in any domain: the velocity :math:`dx/d\sigma` of the law that reflected noise spreads.

    Given data, the law at sigma is the heat kernel's, whose flow is :math:`dx/d\sigma = -\sigma \nabla \log K`; with a
    denoising target u in place of the gradient, :math:`-\sigma u` has the velocity of all the data as its mean. No wall
    need be flat and no line stay inside. It is of order one, and 0 once the law is uniform.

    Args:
        domain: where.
        sigma_max: noise at which the law is uniform, by default :func:`mixing_sigma`.
        sigma_min: least noise.
    """

    def __init__(self, domain: Domain, sigma_max: float | None = None, sigma_min: float = 0.01) -> None:
        super().__init__(domain, GeometricSchedule(sigma_min, mixing_sigma(domain) if sigma_max is None else sigma_max))

    def noise(self, x0: Tensor, t: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Points noised up to times ``[*batch]``, and velocities -sigma u; both ``[*batch, *event_shape]``."""
        sigma = self.sigma(t)
        x, target = self.domain.diffuse(x0, sigma, generator=generator)
        return x, -self.expand(sigma) * target

    def log_output_rms(self, log_sigma: Tensor) -> Tensor:
        """Of the kernel's score, times sigma."""
        return log_sigma + log_kernel_rms(self.domain, log_sigma)

    def slope(self, output: Tensor, t: Tensor) -> Tensor:
        """The velocity is the slope."""
        return output

    def output(self, slope: Tensor, t: Tensor) -> Tensor:
        """The slope is the velocity."""
        return slope

    def natural_weight(self, t: Tensor) -> Tensor:
        """One: every part of the way counts alike."""
        return torch.ones_like(t)


def flow_over(domain: Domain, sigma_max: float | None = None, sigma_min: float | None = None) -> Process:
    """Straight lines where they stay inside, else the paths of noise."""
    try:
        return RectifiedFlow(domain, sigma_max, sigma_min)
    except DomainError:
        return DiffusionFlow(domain, sigma_max, 0.01 * domain.inradius if sigma_min is None else sigma_min)
