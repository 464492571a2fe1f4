"""R^d: no walls, the Gaussian kernel; standard diffusion models are reflected ones over this domain."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Generator, Size, Tensor

from .affine import Affine
from .base import Domain
from .checks import batch_shape
from .specs import Extent

__all__ = ["Euclidean"]

_PARALLEL = 1e-4  # sine of the angle below which an arc is as good as straight


class Euclidean(Domain):
    """All tensors of one shape.

    Args:
        shape: event shape, an integer or a tuple of positive integers.
    """

    has_exact_kernel = True

    specs: ClassVar[dict[str, str]] = {"euclidean": "any numbers: there are no walls"}

    def __init__(self, shape: int | tuple[int, ...]) -> None:
        self.event_shape = event_shape(shape)
        self.shape = tuple(self.event_shape)
        self.dim = self.event_shape.numel()
        self.log_volume = math.inf
        self.spectral_gap = 0.0
        self.inradius = self.diameter = math.inf

    @classmethod
    def from_data(cls, data: Tensor | Extent, spec: str = "euclidean") -> Euclidean:
        """The space that data lie in."""
        if spec.partition(":")[2]:
            raise ValueError(f"{spec}: euclidean has no bounds and takes no argument")
        return cls(len(Extent.of(data).low))

    def contains(self, x: Tensor, atol: float = 0.0) -> Tensor:
        """True ``[*batch]`` for finite points."""
        self._check(x=x)
        return x.isfinite().flatten(x.ndim - len(self.event_shape)).all(-1)

    def project(self, x: Tensor) -> Tensor:
        """The point itself."""
        self._check(x=x)
        return x

    def boundary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Infinite distance ``[*batch]``, and no direction: zeros ``[*batch, *event_shape]``."""
        self._check(x=x)
        return torch.full(self._batch(x), math.inf, dtype=x.dtype, device=x.device), torch.zeros_like(x)

    def reflect(self, x: Tensor, displacement: Tensor) -> Tensor:
        """``x + displacement``."""
        x, displacement = self._check_move(x, displacement)
        return x + displacement

    def interpolate(self, x: Tensor, y: Tensor, share: float) -> Tensor:
        """On a great circle, lengths changing evenly: between normal draws a straight line passes where none lie."""
        k = x.ndim - len(self.event_shape)
        a, b = (self.expand(p.flatten(k).norm(dim=-1)) for p in (x, y))
        u, v = (p / r.clamp(min=torch.finfo(x.dtype).tiny) for p, r in ((x, a), (y, b)))
        angle = self.expand(self.inner(x, u, v).clamp(-1, 1).acos())
        sine = torch.where((a > 0) & (b > 0), angle.sin(), 0.0)
        bent = (u * ((1 - share) * angle).sin() + v * (share * angle).sin()) / torch.where(sine > _PARALLEL, sine, 1.0)
        return torch.where(sine > _PARALLEL, (a + share * (b - a)) * bent, x + share * (y - x))

    def damp_normal(self, x: Tensor, v: Tensor, width: float | Tensor) -> Tensor:
        """``v`` itself: there is no wall."""
        return v

    def sample_uniform(self, shape: int | tuple[int, ...], **kwargs: Any) -> Tensor:
        """There is no uniform law on R^d: raises ValueError."""
        raise ValueError(f"{self!r} has infinite volume and no uniform law; sample_prior draws from N(0, sigma^2)")

    def curvature(self, x: Tensor) -> Tensor:
        """There is no wall to bend: zeros ``[*batch, 1]``."""
        return torch.zeros(*self._batch(x), 1, dtype=x.dtype, device=x.device)

    def sample_prior(
        self,
        shape: int | tuple[int, ...],
        sigma: float,
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draws ``[*shape, *event_shape]`` from N(0, sigma^2)."""
        size = batch_shape(shape) + self.event_shape
        return sigma * torch.randn(size, generator=generator, device=device, dtype=dtype)

    def prior_log_prob(self, x: Tensor, sigma: float) -> Tensor:
        """Log-density ``[*batch]`` of N(0, sigma^2)."""
        return self.heat_kernel_log_prob(x, torch.zeros_like(x), sigma)

    def heat_kernel_log_prob(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
        """Log-density ``[*batch]`` of N(x0, sigma^2)."""
        x, x0, scale = self._check_pair(x, x0, sigma)
        d = (x - x0).flatten(x.ndim - len(self.event_shape)) / scale.unsqueeze(-1)
        return -(d**2).sum(-1) / 2 - self.dim * torch.log(scale * math.sqrt(2 * math.pi))

    def heat_kernel_score(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
        """``(x0 - x) / sigma**2``."""
        x, x0, scale = self._check_pair(x, x0, sigma)
        return (x0 - x) / self.expand(scale) ** 2

    def sample_heat_kernel(self, x0: Tensor, sigma: float | Tensor, *, generator: Generator | None = None) -> Tensor:
        """``x0 + sigma z``."""
        x0, scale = self._check_noising(x0, sigma)
        return x0 + self.expand(scale) * self.sample_noise(x0, generator=generator)

    def sample_bridge(
        self, x0: Tensor, x: Tensor, below: float | Tensor, sigma: float | Tensor, *, generator: Generator | None = None
    ) -> Tensor:
        """The Brownian bridge: normal around ``x0 + (below / sigma)^2 (x - x0)``."""
        x, x0, scale, less = self._check_bridge(x, x0, below, sigma)
        share, spread = (less / scale) ** 2, less * (1 - (less / scale) ** 2).sqrt()
        z = self.sample_noise(x, generator=generator)
        return x0 + self.expand(share) * (x - x0) + self.expand(spread) * z

    def normalised(self, x: Tensor) -> tuple[Domain, Affine | None]:
        """The same space, in which the data have mean zero and standard deviation one in each coordinate."""
        wide = x.double().cpu()
        spread = wide.std(0, correction=0)
        return self, Affine(wide.mean(0), torch.where(spread > 0, spread, 1.0))

    def features(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Coordinates divided by the noisy data's scale, ``[*batch, dim]``, and on a compressed scale without it."""
        flat = x.flatten(x.ndim - len(self.event_shape))
        return torch.cat([flat / (1 + sigma.unsqueeze(-1)), torch.asinh(flat)], -1)

    def planes(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The same in the points' own shape, ``[*batch, 2, *event_shape]``."""
        parts = [x / (1 + self.expand(sigma)), torch.asinh(x)]
        return torch.stack(parts, x.ndim - len(self.event_shape))


def event_shape(shape: int | tuple[int, ...]) -> Size:
    """An event shape given as one number or a tuple, checked: at least one positive size."""
    try:
        sizes = tuple(map(operator.index, shape)) if isinstance(shape, Iterable) else (operator.index(shape),)
    except TypeError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise ValueError(f"shape must be a positive integer or a tuple of them, not {shape!r}")
    return Size(sizes)
