"""The unit sphere S^d in R^(d+1): directions, places on the globe. No walls; the exact heat kernel.

May use: torch and the kernels of spheres and of the circle.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Generator, Tensor

from . import circle, sphere_kernel
from .base import Domain
from .checks import DomainError, batch_shape, check_scale, whole_number
from .specs import Extent

__all__ = ["Sphere", "tangent_direction"]

_WAVES = (1.0, 2.0, 4.0)  # of the features, times pi
_PARALLEL = 1e-7  # sine of an angle below which there is no direction


class Sphere(Domain):
    """All unit vectors x of R^(d+1), with the metric of R^(d+1): distances are angles.

    Moves follow great circles. The kernel is a series at larger sigma and an expansion in sigma^2 below, both to some
    1e-8, and is drawn from exactly (:mod:`~constrained_diffusion.domains.sphere_kernel`); on the circle it is the
    wrapped Gaussian. Diffusion models over it are those of De Bortoli et al. 2022, "Riemannian Score-Based Generative
    Modelling" (arXiv 2202.02763), with exact targets.

    Args:
        d: dimension, from 1 (the circle) to 32; 2 is the globe. Beyond 12 the kernel is approximate far from the start.
    """

    has_exact_kernel = True
    wall_curvature = (0.0, 0.0)

    specs: ClassVar[dict[str, str]] = {"sphere": "unit vectors, such as directions in space"}

    def __init__(self, d: int) -> None:
        d = whole_number(d, "d must be an integer from 1 to 32", 1, 32)
        self.d = self.dim = d
        self.event_shape = torch.Size([d + 1])
        self.ricci = float(d - 1)
        self.log_volume = sphere_kernel.log_area(d)
        self.spectral_gap = float(d)
        self.inradius, self.diameter = 1.0, math.pi
        one = torch.ones(d + 1, dtype=torch.float64)
        self.bounding_box = (-one, one)

    @classmethod
    def from_data(cls, data: Tensor | Extent, spec: str = "sphere") -> Sphere:
        """The sphere of unit vectors with as many coordinates as data have columns."""
        if spec.partition(":")[2]:
            raise ValueError(f"{spec}: sphere takes no argument")
        extent = Extent.of(data)
        if extent.length > 1 + 1e-6 or len(extent.low) < 2:
            raise DomainError(f"rows must be unit vectors; the longest has length {extent.length:g}")
        return cls(len(extent.low) - 1)

    @property
    def drawing(self) -> str:
        """Seen from outside in three dimensions."""
        return "ball" if self.d == 2 else "corner"

    # ------------------------------------------------------------------ geometry

    def contains(self, x: Tensor, atol: float = 0.0) -> Tensor:
        """Whether ``|x|`` is one within rounding, ``[*batch]``."""
        self._check(x=x)
        near: Tensor = (x.norm(dim=-1) - 1).abs() <= atol + 8 * torch.finfo(x.dtype).eps
        return near

    def project(self, x: Tensor) -> Tensor:
        """Divide by the length; zero goes to the first axis."""
        self._check(x=x)
        scaled = x / x.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        length = scaled.norm(dim=-1, keepdim=True)
        pole = torch.zeros_like(x)
        pole[..., 0] = 1.0
        return torch.where(length > 0, scaled / torch.where(length > 0, length, 1.0), pole)

    def boundary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Infinite distance ``[*batch]``, and no direction: zeros ``[*batch, d + 1]``."""
        self._check(x=x)
        return torch.full(self._batch(x), math.inf, dtype=x.dtype, device=x.device), torch.zeros_like(x)

    def curvature(self, x: Tensor) -> Tensor:
        """There is no wall to bend: zeros ``[*batch, 1]``."""
        return torch.zeros_like(x[..., :1])

    def reflect(self, x: Tensor, displacement: Tensor) -> Tensor:
        """The end of the great circle that leaves ``x`` along the displacement, as long as its tangent part."""
        x, displacement = self._check_move(x, displacement)
        return self.expmap(x, self.tangent(x, displacement))

    def expmap(self, x: Tensor, v: Tensor) -> Tensor:
        """``x cos |v| + v sin |v| / |v|``, ``[*batch, d + 1]``."""
        square = v.square().sum(-1, keepdim=True)
        length = torch.where(square > 0, square, 1.0).sqrt() * (square > 0)
        end = x * torch.cos(length) + v * torch.sinc(length / math.pi)
        on_sphere: Tensor = end / end.norm(dim=-1, keepdim=True)
        return on_sphere

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """The tangent vector at ``x`` towards ``y``, as long as the angle; any one where y is opposite."""
        direction, angle = tangent_direction(x, y)
        return direction * angle.unsqueeze(-1)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport: v - (x + y) <y, v> / (1 + <x, y>)."""
        both = x + y
        square = both.square().sum(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).eps)
        return self.tangent(y, v - both * (2 * (y * v).sum(-1, keepdim=True) / square))

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """Remove the component along ``x``, twice so that no rounding error is left of a large one."""
        v = v - (x * v).sum(-1, keepdim=True) * x
        return v - (x * v).sum(-1, keepdim=True) * x

    def frame(self, x: Tensor) -> Tensor:
        """Orthonormal tangent vectors ``[d, *batch, d + 1]``: the axes but one, by the mirror that takes it to x."""
        first = torch.where(x[..., :1] >= 0, 1.0, -1.0)
        axis = torch.zeros_like(x)
        axis[..., :1] = first
        w = x + axis
        eye = torch.eye(self.d + 1, dtype=x.dtype, device=x.device)[1:]
        shares = 2 * w[..., 1:] / w.square().sum(-1, keepdim=True)
        return torch.stack([e - s.unsqueeze(-1) * w for e, s in zip(eye, shares.unbind(-1), strict=True)])

    def interpolate(self, x: Tensor, y: Tensor, share: float) -> Tensor:
        """Along the great circle; share 1 ends at ``y`` itself."""
        self._check(x=x, y=y)
        return self.expmap(x, share * self.logmap(x, y)) if share < 1 else y

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
        """Uniform points ``[*shape, d + 1]``: normal vectors divided by their lengths."""
        size = batch_shape(shape)
        return self.project(torch.randn((*size, self.d + 1), generator=generator, device=device, dtype=dtype))

    def heat_kernel_log_prob(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
        """Log-density ``[*batch]`` against surface measure."""
        return self._kernel(x, x0, sigma)[0]

    def heat_kernel_score(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
        """Score ``[*batch, d + 1]``, along the great circle through ``x0``."""
        return self._kernel(x, x0, sigma)[1]

    def sample_heat_kernel(self, x0: Tensor, sigma: float | Tensor, *, generator: Generator | None = None) -> Tensor:
        """Exact draws: an angle by rejection, in a uniform direction."""
        x0, scale = self._check_noising(x0, sigma)
        start, s = x0.reshape(-1, self.d + 1), scale.reshape(-1)
        z = self.sample_noise(start, generator=generator)
        if self.d == 1:
            return self.expmap(start, s.unsqueeze(-1) * z).reshape(x0.shape)
        angle = sphere_kernel.sample_angles(s.double(), self.d, generator).to(x0.dtype)
        length = z.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(x0.dtype).tiny)
        return self.expmap(start, z / length * angle.unsqueeze(-1)).reshape(x0.shape)

    # ------------------------------------------------------------------ networks

    def features(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Coordinates, and plane waves along the axes, which draw finer detail; ``[*batch, 7 (d + 1)]``."""
        return self.planes(x, sigma).flatten(x.ndim - 1)

    def planes(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The same in the points' own shape, ``[*batch, 7, d + 1]``."""
        waves = [f(k * math.pi * x) for k in _WAVES for f in (torch.sin, torch.cos)]
        return torch.stack([x, *waves], x.ndim - 1)

    # ------------------------------------------------------------------ parts

    def _kernel(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
        x, x0, scale = self._check_pair(x, x0, sigma)
        y, y0 = (p.reshape(-1, self.d + 1).double() for p in (x, x0))
        s = scale.reshape(-1).double()
        if self.d == 1:
            angle, start = (torch.atan2(p[:, 1], p[:, 0]) for p in (y, y0))
            log_p, slope = circle.log_prob_and_score(angle, start, s)
            score = slope.unsqueeze(-1) * torch.stack([-y[:, 1], y[:, 0]], -1)
        else:
            log_p, score = sphere_kernel.log_prob_and_score(y, y0, s)
        return log_p.reshape(self._batch(x)).to(x.dtype), score.reshape(x.shape).to(x.dtype)


def tangent_direction(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Unit tangent vectors at ``x`` towards ``y``, unit vectors ``[.., d + 1]``, and the angle between ``[..]``."""
    way = y - x
    e = way.square().sum(-1, keepdim=True) / 2
    across = way + e * x  # y - <x, y> x, without cancellation
    sine = across.norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(way.norm(dim=-1), (x + y).norm(dim=-1))
    axis = torch.zeros_like(x).scatter(-1, x.abs().argmin(-1, keepdim=True), 1.0)
    other = axis - (x * axis).sum(-1, keepdim=True) * x
    other = other / other.norm(dim=-1, keepdim=True)
    lost = (sine <= _PARALLEL) & (e > 1)  # y is opposite: any direction will do
    near = torch.where(sine > 0, across / torch.where(sine > 0, sine, 1.0), other)
    return torch.where(lost, other, near), angle
