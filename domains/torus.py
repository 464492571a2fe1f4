"""The flat torus: several angles, such as the torsion angles of a molecule. No walls; the wrapped Gaussian kernel.

May use: torch and the circle's kernel.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from . import circle
from .base import Domain
from .checks import DomainError, batch_shape, check_scale
from .euclidean import event_shape
from .specs import Extent

__all__ = ["Torus"]

_WAVES = (1.0, 2.0, 3.0, 4.0)  # of the features


class Torus(Domain):
    """All tensors of angles in [-pi, pi], whose ends are the same.

    Everything is exact and separates over the angles: noise is wrapped, and the kernel is the product of wrapped
    Gaussians, as in torsional diffusion (Jing et al. 2022, arXiv 2206.01729). Points are the angles themselves, so
    that scores and displacements have as many components as there are angles. Rounding may turn an angle of pi
    into -pi, which is the same place.

    Args:
        shape: event shape, an integer (that many angles) or a tuple.
    """

    has_exact_kernel = True
    wall_curvature = (0.0, 0.0)
    magnitude = math.pi

    specs: ClassVar[dict[str, str]] = {"torus": "angles in radians, between -pi and pi"}

    def __init__(self, shape: int | tuple[int, ...]) -> None:
        self.event_shape = event_shape(shape)
        self.shape = tuple(self.event_shape)
        self.dim = self.event_shape.numel()
        self.log_volume = self.dim * math.log(2 * math.pi)
        self.spectral_gap = 1.0
        self.inradius = 1.0
        self.diameter = math.pi * math.sqrt(self.dim)
        high = torch.full(self.event_shape, math.pi, dtype=torch.float64)
        self.bounding_box = (-high, high)

    @classmethod
    def from_data(cls, data: Tensor | Extent, spec: str = "torus") -> Torus:
        """As many angles as data have columns."""
        if spec.partition(":")[2]:
            raise ValueError(f"{spec}: torus takes no argument")
        extent = Extent.of(data)
        most = max(-float(extent.low.min()), float(extent.high.max()))
        if most > math.pi + 1e-6:
            raise DomainError(f"angles must lie between -pi and pi, in radians; there is one of size {most:g}")
        return cls(len(extent.low))

    # ------------------------------------------------------------------ geometry

    def contains(self, x: Tensor, atol: float = 0.0) -> Tensor:
        """Whether all angles lie in [-pi, pi], ``[*batch]``."""
        self._check(x=x)
        most = x.abs().flatten(x.ndim - len(self.event_shape)).amax(-1)
        return most <= math.pi * (1 + torch.finfo(x.dtype).eps) + atol

    def project(self, x: Tensor) -> Tensor:
        """The same angles in [-pi, pi); those that lie there are returned as they are."""
        self._check(x=x)
        return circle.wrap(x)

    def boundary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Infinite distance ``[*batch]``, and no direction: zeros."""
        self._check(x=x)
        return torch.full(self._batch(x), math.inf, dtype=x.dtype, device=x.device), torch.zeros_like(x)

    def curvature(self, x: Tensor) -> Tensor:
        """There is no wall to bend: zeros ``[*batch, 1]``."""
        return torch.zeros(*self._batch(x), 1, dtype=x.dtype, device=x.device)

    def reflect(self, x: Tensor, displacement: Tensor) -> Tensor:
        """``x + displacement``, wrapped."""
        x, displacement = self._check_move(x, displacement)
        return circle.wrap(x + displacement)

    def expmap(self, x: Tensor, v: Tensor) -> Tensor:
        """``x + v``, wrapped."""
        return circle.wrap(x + v)

    def difference(self, x: Tensor, y: Tensor) -> Tensor:
        """The shorter way round, for each angle."""
        return circle.wrap(y - x)

    def interpolate(self, x: Tensor, y: Tensor, share: float) -> Tensor:
        """The shorter way round, for each angle; share 1 ends at ``y`` itself."""
        self._check(x=x, y=y)
        return circle.wrap(x + share * self.logmap(x, y)) if share < 1 else y

    def damp_normal(self, x: Tensor, v: Tensor, width: float | Tensor) -> Tensor:
        """``v`` itself: there is no wall."""
        self._check(x=x, v=v)
        check_scale("width", width, self._batch(x), x)
        return v

    # ------------------------------------------------------------------ laws

    def sample_uniform(
        self,
        shape: int | tuple[int, ...],
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Uniform angles ``[*shape, *event_shape]``."""
        size = batch_shape(shape) + self.event_shape
        u = torch.rand(size, generator=generator, device=device, dtype=dtype)
        return circle.wrap(2 * math.pi * (u - 0.5))

    def heat_kernel_log_prob(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
        """Log-density ``[*batch]``: the sum of the angles'."""
        x, x0, scale = self._check_pair(x, x0, sigma)
        terms = circle.log_prob_and_score(x, x0, self.expand(scale).expand_as(x))[0]
        return terms.flatten(x.ndim - len(self.event_shape)).sum(-1)

    def heat_kernel_score(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
        """Score ``[*batch, *event_shape]``."""
        x, x0, scale = self._check_pair(x, x0, sigma)
        return circle.log_prob_and_score(x, x0, self.expand(scale).expand_as(x))[1]

    def sample_heat_kernel(self, x0: Tensor, sigma: float | Tensor, *, generator: Generator | None = None) -> Tensor:
        """Exact draws: wrap ``x0 + sigma z``."""
        x0, scale = self._check_noising(x0, sigma)
        return circle.wrap(x0 + self.expand(scale) * self.sample_noise(x0, generator=generator))

    def covering(self, x: Tensor, margin: float = 0.0) -> Any:
        """There is none: raises NotImplementedError, since angles have a unit of their own."""
        raise NotImplementedError(f"{self!r} holds angles in radians: multiply degrees by pi / 180")

    # ------------------------------------------------------------------ networks

    def features(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Sines and cosines of the angles and of their multiples, ``[*batch, 8 dim]``."""
        return self.planes(x, sigma).flatten(x.ndim - len(self.event_shape))

    def planes(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The same in the points' own shape, ``[*batch, 8, *event_shape]``."""
        waves = [f(k * x) for k in _WAVES for f in (torch.sin, torch.cos)]
        return torch.stack(waves, x.ndim - len(self.event_shape))
