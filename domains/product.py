"""Several domains in one point: a box, a simplex and a ball, say. Exact where its factors are.

May use: torch and the interface of a domain. Everything is done factor by factor: the noise of one factor is
independent of the others', so kernels multiply and walls, features and targets stand side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import cached_property
from typing import TypeVar

import torch
from torch import Generator, Tensor

from .affine import Affine
from .base import Domain
from .checks import ShapeError, check_alike, check_batch, check_scale, check_tensor, trusted
from .given import require_domain

__all__ = ["Product"]

T = TypeVar("T")


class Product(Domain):
    """All points whose parts lie each in their own domain.

    A point is one vector ``[D]``: the flattened points of the factors one after another, D the sum of their
    sizes. :meth:`split` and :meth:`join` go from one form to the other. One ``sigma`` noises all parts, so give
    factors sizes of the same order; a factor may be unbounded, and the product then has no uniform law.

    Args:
        factors: one domain or more; products among them are allowed.

    Attributes:
        factors: the domains, a tuple.

    Raises:
        TypeError: a factor is not a Domain.
        ValueError: there is no factor.
    """

    def __init__(self, *factors: Domain) -> None:
        if not factors:
            raise ValueError("Product needs at least one factor, such as Product(Hypercube(2), Ball(3))")
        for i, factor in enumerate(factors):
            require_domain(factor, f"factor {i}")
        self.factors = factors
        self._sizes = tuple(f.event_shape.numel() for f in factors)
        self.event_shape = torch.Size([sum(self._sizes)])
        self.dim = sum(f.dim for f in factors)
        self.has_exact_kernel = all(f.has_exact_kernel for f in factors)
        self.magnitude = max(f.magnitude for f in factors)

    @property
    def simulates_paths(self) -> bool:
        """Whether a factor does."""
        return any(f.simulates_paths for f in self.factors)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The factors' parts of points or vectors.

        Args:
            x: ``[*batch, D]``.

        Returns:
            A tensor ``[*batch, *factor.event_shape]`` for each factor.
        """
        check_tensor("x", x, self.event_shape)
        parts = x.split(self._sizes, -1)
        return tuple(p.reshape(x.shape[:-1] + f.event_shape) for f, p in zip(self.factors, parts, strict=True))

    def join(self, *parts: Tensor) -> Tensor:
        """The inverse of :meth:`split`.

        Args:
            parts: a tensor ``[*batch, *factor.event_shape]`` for each factor; batch shapes broadcast.

        Returns:
            Points or vectors ``[*batch, D]``.

        Raises:
            ShapeError: their number or a shape is wrong.
        """
        if len(parts) != len(self.factors):
            raise ShapeError(f"join takes one part for each of the {len(self.factors)} factors; got {len(parts)}")
        flat, batch = [], torch.Size()
        for i, (factor, part) in enumerate(zip(self.factors, parts, strict=True)):
            check_tensor(f"part {i}", part, factor.event_shape)
            check_alike(f"part {i}", part, "part 0", parts[0])
            rows = part.shape[: part.ndim - len(factor.event_shape)]
            batch = check_batch(f"part {i}", rows, "the parts before", batch)
            flat.append(part.reshape(*rows, self._sizes[i]))
        return torch.cat([p.expand(*batch, p.shape[-1]) for p in flat], -1)

    # ------------------------------------------------------------------ geometry

    def contains(self, x: Tensor, atol: float = 0.0) -> Tensor:
        """Whether every part lies in its factor, within ``atol`` there; ``[*batch]``."""
        self._check(x=x)
        return torch.stack(self._each(lambda f, p: f.contains(p, atol), x)).all(0)

    def outside_hint(self, x: Tensor) -> str:
        """Which factors a point's parts lie outside of, and what they say of it."""
        inside = self._each(lambda f, p: f.contains(p, 64 * torch.finfo(p.dtype).eps * max(1.0, f.magnitude)), x)
        hints = self._each(lambda f, p: f"{f!r}{f.outside_hint(p)}", x)
        outside = [f"factor {i}, {h}" for i, (good, h) in enumerate(zip(inside, hints, strict=True)) if not bool(good)]
        return f": it is not in {' nor in '.join(outside)}" if outside else ""

    def project(self, x: Tensor) -> Tensor:
        """The nearest point: that of each factor, ``[*batch, D]``."""
        self._check(x=x)
        return self.join(*self._each(lambda f, p: f.project(p), x))

    def reflect(self, x: Tensor, displacement: Tensor) -> Tensor:
        """Each part moves in its own factor: a straight move that is mirrored at walls of a product is one of each."""
        x, displacement = self._check_move(x, displacement)
        return self.join(*self._each(lambda f, p, v: f.reflect(p, v), x, displacement))

    def boundary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distance ``[*batch]`` to the nearest wall of any factor, and its inward unit normal ``[*batch, D]``.

        Outside: minus the root of the sum of the squares of the factors' gaps, and the direction back.
        """
        self._check(x=x)
        pairs = self._each(lambda f, p: f.boundary(p), x)
        distances = torch.stack([d for d, _ in pairs], -1)
        gaps = (-distances).clamp(min=0)
        gap = gaps.norm(dim=-1)
        nearest = torch.nn.functional.one_hot(distances.argmin(-1), len(self.factors)).to(x.dtype)
        outside = gap > 0
        shares = gaps / torch.where(outside, gap, 1.0).unsqueeze(-1)
        weights = torch.where(outside.unsqueeze(-1), shares, nearest)
        parts = zip(self.factors, weights.unbind(-1), pairs, strict=True)
        normal = self.join(*(f.expand(w) * n for f, w, (_, n) in parts))
        return torch.where(outside, -gap, distances.amin(-1)), normal

    def walls(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """All walls of all factors: distances ``[*batch, m]`` and inward unit normals ``[*batch, m, D]``."""
        self._check(x=x)
        pairs = self._each(lambda f, p: f.walls(p), x)
        return torch.cat([d for d, _ in pairs], -1), torch.cat(self._pad(n for _, n in pairs), -2)

    def curvature(self, x: Tensor) -> Tensor:
        """Curvatures ``[*batch, m]`` of :meth:`walls`, in the same order."""
        self._check(x=x)
        return torch.cat(self._each(lambda f, p: f.curvature(p), x), -1)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """Each part of ``v`` made tangent to its factor, ``[*batch, D]``."""
        self._check(x=x, v=v)
        return self.join(*self._each(lambda f, p, w: f.tangent(p, w), x, v))

    def expmap(self, x: Tensor, v: Tensor) -> Tensor:
        """Each part moves in its own factor, ``[*batch, D]``."""
        self._check(x=x, v=v)
        return self.join(*self._each(lambda f, p, w: f.expmap(p, w), x, v))

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """The factors' shortest ways, ``[*batch, D]``."""
        self._check(x=x, y=y)
        return self.join(*self._each(lambda f, p, q: f.logmap(p, q), x, y))

    def difference(self, x: Tensor, y: Tensor) -> Tensor:
        """The factors' own, ``[*batch, D]``."""
        self._check(x=x, y=y)
        return self.join(*self._each(lambda f, p, q: f.difference(p, q), x, y))

    def interpolate(self, x: Tensor, y: Tensor, share: float) -> Tensor:
        """Each part goes its factor's way, ``[*batch, D]``."""
        self._check(x=x, y=y)
        return self.join(*self._each(lambda f, p, q: f.interpolate(p, q, share), x, y))

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Each part of ``v`` carried in its own factor, ``[*batch, D]``."""
        self._check(x=x, y=y, v=v)
        return self.join(*self._each(lambda f, p, q, w: f.transp(p, q, w), x, y, v))

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """The sum of the factors' inner products, ``[*batch]``."""
        self._check(x=x, u=u, v=v)
        terms = self._each(lambda f, p, a, b: f.inner(p, a, b), x, u, v)
        return torch.stack(torch.broadcast_tensors(*terms)).sum(0)

    def gradient(self, x: Tensor, v: Tensor) -> Tensor:
        """Each factor's own gradient, ``[*batch, D]``."""
        self._check(x=x, v=v)
        return self.join(*self._each(lambda f, p, w: f.gradient(p, w), x, v))

    def covector(self, x: Tensor, v: Tensor) -> Tensor:
        """Each factor's own, ``[*batch, D]``."""
        self._check(x=x, v=v)
        return self.join(*self._each(lambda f, p, w: f.covector(p, w), x, v))

    def white(self, x: Tensor, z: Tensor) -> Tensor:
        """Each factor's own, ``[*batch, D]``."""
        self._check(x=x, z=z)
        return self.join(*self._each(lambda f, p, w: f.white(p, w), x, z))

    def sample_noise(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """A Brownian increment over unit time, independent in each factor, ``[*batch, D]``."""
        return self.join(*self._each(lambda f, p: f.sample_noise(p, generator=generator), x))

    def frame(self, x: Tensor) -> Tensor:
        """The factors' frames one after another, ``[dim, *batch, D]``."""
        return torch.cat(self._pad(self._each(lambda f, p: f.frame(p), x)))

    def damp_normal(self, x: Tensor, v: Tensor, width: float | Tensor) -> Tensor:
        """Each factor damps its own part, as :meth:`Domain.damp_normal` says: walls of two factors are orthogonal."""
        self._check(x=x, v=v)
        scale = check_scale("width", width, self._batch(x), x)
        return self.join(*self._each(lambda f, p, w: f.damp_normal(p, w, scale), x, v))

    # ------------------------------------------------------------------ size
    # Lazy: some factor may have to simulate its own.

    @cached_property
    def bounding_box(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest coordinates, two float64 tensors ``[D]``."""
        low, high = zip(*(f.bounding_box for f in self.factors), strict=True)
        return self.join(*low), self.join(*high)

    @cached_property
    def diameter(self) -> float:
        """Root of the sum of the factors' squared diameters."""
        return math.hypot(*(f.diameter for f in self.factors))

    @cached_property
    def inradius(self) -> float:
        """The smallest of the factors'."""
        return min(f.inradius for f in self.factors)

    @cached_property
    def log_volume(self) -> float:
        """The sum of the factors'; infinite if one of them is unbounded."""
        return sum(f.log_volume for f in self.factors)

    @cached_property
    def spectral_gap(self) -> float:
        """The smallest of the factors': eigenvalues of a product are sums of eigenvalues."""
        return min(f.spectral_gap for f in self.factors)

    # ------------------------------------------------------------------ laws

    def sample_uniform(
        self,
        shape: int | tuple[int, ...],
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Independent uniform points ``[*shape, D]``; raises ValueError where a factor is unbounded."""
        draws = [f.sample_uniform(shape, generator=generator, device=device, dtype=dtype) for f in self.factors]
        return self.join(*draws)

    def sample_prior(
        self,
        shape: int | tuple[int, ...],
        sigma: float,
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Points ``[*shape, D]`` of the factors' priors, independently."""
        draws = [f.sample_prior(shape, sigma, generator=generator, device=device, dtype=dtype) for f in self.factors]
        return self.join(*draws)

    def prior_log_prob(self, x: Tensor, sigma: float) -> Tensor:
        """The sum of the factors' log-densities, ``[*batch]``; minus infinity outside."""
        parts = self.split(x)  # values are not checked here: outside is an answer, not an error
        return torch.stack([f.prior_log_prob(p, sigma) for f, p in zip(self.factors, parts, strict=True)]).sum(0)

    def heat_kernel_log_prob(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
        """Log-density ``[*batch]``: the sum of the factors'."""
        x, x0, scale = self._check_pair(x, x0, sigma)
        return torch.stack(self._each(lambda f, p, p0: f.heat_kernel_log_prob(p, p0, scale), x, x0)).sum(0)

    def heat_kernel_score(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
        """The factors' scores side by side, ``[*batch, D]``."""
        x, x0, scale = self._check_pair(x, x0, sigma)
        return self.join(*self._each(lambda f, p, p0: f.heat_kernel_score(p, p0, scale), x, x0))

    def sample_heat_kernel(self, x0: Tensor, sigma: float | Tensor, *, generator: Generator | None = None) -> Tensor:
        """Draws of each factor, independently, ``[*batch, D]``."""
        x0, scale = self._check_noising(x0, sigma)
        return self.join(*self._each(lambda f, p0: f.sample_heat_kernel(p0, scale, generator=generator), x0))

    def diffuse(
        self, x0: Tensor, sigma: float | Tensor, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Noise points; see :meth:`Domain.diffuse`.

        Each factor noises its part in its own way: targets are exact scores where it has them, of
        simulated paths where it has not.
        """
        x0, scale = self._check_noising(x0, sigma)
        pairs = self._each(lambda f, p0: f.diffuse(p0, scale, generator=generator), x0)
        return self.join(*(x for x, _ in pairs)), self.join(*(u for _, u in pairs))

    def noise(self, x0: Tensor, sigma: float | Tensor, *, generator: Generator | None = None) -> Tensor:
        """Noise points without targets, each part in its factor's own way; ``[*batch, D]``."""
        x0, scale = self._check_noising(x0, sigma)
        return self.join(*self._each(lambda f, p0: f.noise(p0, scale, generator=generator), x0))

    def normalised(self, x: Tensor) -> tuple[Domain, Affine | None]:
        """The product of the factors' normal forms."""
        each = [f.normalised(p) for f, p in zip(self.factors, self.split(x), strict=True)]
        if all(change is None for _, change in each):
            return self, None
        changes = [c or Affine.identity(f.event_shape) for f, c in each]
        return Product(*(f for f, _ in each)), Affine.joined(changes)

    def covering(self, x: Tensor, margin: float = 0.0) -> Affine:
        """The factors' maps, side by side."""
        return Affine.joined(f.covering(p, margin) for f, p in zip(self.factors, self.split(x), strict=True))

    def features(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The factors' features side by side, ``[*batch, k]``."""
        return torch.cat(self._each(lambda f, p: f.features(p, sigma), x), -1)

    def planes(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The factors' planes side by side, ``[*batch, m, D]``; those of factors that have fewer end in zeros."""
        parts = [part.flatten(x.ndim) for part in self._each(lambda f, p: f.planes(p, sigma), x)]
        most = max(part.shape[-2] for part in parts)
        return torch.cat([torch.nn.functional.pad(part, (0, 0, 0, most - part.shape[-2])) for part in parts], -1)

    # ------------------------------------------------------------------ parts

    def _each(self, call: Callable[..., T], *points: Tensor) -> list[T]:
        """``call(factor, parts..)`` for each factor. Values were checked before, with the product's own messages."""
        scope = nullcontext() if torch.compiler.is_compiling() else trusted()  # compiled code checks no values anyway
        with scope:
            return [call(f, *parts) for f, *parts in zip(self.factors, *map(self.split, points), strict=True)]

    def _pad(self, vectors: Iterable[Tensor]) -> list[Tensor]:
        """Vectors ``[.., *factor.event_shape]`` of each factor as vectors ``[.., D]``: zero in the other factors."""
        out, before = [], 0
        for factor, size, v in zip(self.factors, self._sizes, vectors, strict=True):
            flat = v.reshape(v.shape[: v.ndim - len(factor.event_shape)] + (size,))
            out.append(torch.nn.functional.pad(flat, (before, self.event_shape[0] - before - size)))
            before += size
        return out
