"""Curved spaces as geoopt has them, whole where they are compact, or cut by smooth functions.

May use: geoopt, imported where used, spaces of constant curvature, walls that are zeros of functions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor

from . import exploring, level_sets
from .base import Domain
from .checks import DomainError, batch_shape
from .euclidean import event_shape
from .named import function_named, name_of
from .product_space import Space
from .space_forms import describe, geoopt_manifold, pieces_of, title

__all__ = ["Manifold"]

Constraint = Callable[[Tensor], Tensor]

_MARGIN = 0.8  # of a Rayleigh quotient
_POINTS, _BOX = 1 << 14, 0.05  # random points for the box, and by which share it is wider
_SIDES = 16  # walls up to which a network reads the distance to each


class Manifold(Domain):
    r"""A Riemannian manifold of geoopt's, whole or cut by inequalities ``f(x) >= 0``.

    Brownian motion is that of the metric, moves follow geodesics that are mirrored where they meet a wall, the uniform
    law is that of the Riemannian volume, and **densities are against that volume**: in the Poincare ball of
    dimension d one against the coordinates is :math:`\lambda(x)^d` times as large. Scores are gradients in the
    metric (there :math:`\lambda^{-2}` times the partial derivatives). Diffusion models with such walls are those
    of Fishman, Klarner, De Bortoli, Mathieu & Hutchinson 2023, "Diffusion Models for Constrained Domains" (arXiv
    2304.05364); noise follows simulated paths, with their denoising targets.

    Spaces of constant curvature are known, and their products: ``geoopt.Sphere``, ``PoincareBall``,
    ``SphereProjection``, ``Stereographic``, ``Euclidean``, ``ProductManifold``. Where walls are flat or there are none,
    :class:`Sphere`, :class:`SphericalPolytope`, :class:`Torus` and :class:`Product` are faster and more exact.

    Args:
        manifold: of geoopt's; its curvature is read once.
        shape: shape of a point, such as 3 for ``geoopt.Sphere`` on the globe.
        constraints: functions from points ``[B, *shape]`` of the manifold, of any floating-point dtype, to ``[B]``,
            zero on a wall and positive inside, smooth, with a slope that does not vanish there. The set must be
            connected. A model can be saved where each is defined with ``def`` at the top level of a module.
        start: a point inside ``[*shape]``, from which the set is explored; by default one is looked for at random.
        radius: bound of the geodesic distance of points of the set from ``start``. By default it is found by random
            points at growing distances, which may overlook a thin spike.
        spectral_gap: smallest non-zero Neumann eigenvalue of minus the Laplacian, 1/length^2, or a lower bound. The
            default is exact for whole manifolds; with walls it is 0.8 of a Rayleigh quotient of
            quadratic functions: where the set has a bottleneck give a smaller one.

    Raises:
        TypeError: the manifold is none of those.
        ShapeError: points have no such shape, or a function does not return ``[B]``.
        DomainError: nothing bounds the set, or it reaches too near a chart's edge; ``start`` lies outside.
        SolverError: no point inside was found.
    """

    def __init__(
        self,
        manifold: Any,
        shape: int | tuple[int, ...],
        constraints: Constraint | str | Sequence[Constraint | str] = (),
        *,
        start: Any = None,
        radius: float | None = None,
        spectral_gap: float | None = None,
    ) -> None:
        self.event_shape = event_shape(shape)
        self.shape = tuple(self.event_shape)
        self._geoopt = geoopt_manifold(manifold)
        self.space = Space(pieces_of(self._geoopt, self.shape))
        self.manifold = describe(self._geoopt)
        given = constraints if isinstance(constraints, (list, tuple)) else (constraints,)
        self.constraints = tuple(function_named(f, "constraints") if isinstance(f, str) else f for f in given)
        self.dim, self.ricci = self.space.dim, self.space.ricci()
        name = title(self.manifold)
        if not self.constraints and not self.space.whole:
            raise DomainError(
                f"{name} is not compact: Brownian motion never becomes uniform there. Give constraints that bound "
                "the set, such as lambda x: 2 - manifold.dist0(x)"
            )
        for value, name in ((radius, "radius"), (spectral_gap, "spectral_gap")):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, not {value!r}")
        self.start = None if start is None else torch.as_tensor(start, dtype=torch.float64).cpu()
        self.radius, self._given_gap = radius, spectral_gap
        centre = exploring.middle(self.space, self.constraints, self.start, name)
        self._radii = exploring.extent(self.space, self.constraints, centre, radius, name)
        self._cut = exploring.cut(self.space, self.constraints, centre, self._radii)
        self.inradius = self._cut.scale
        if not self.constraints:
            self.wall_curvature = (0.0, 0.0)
        if spectral_gap is not None:
            self.spectral_gap = float(spectral_gap)

    # ------------------------------------------------------------------ geometry

    def contains(self, x: Tensor, atol: float = 0.0) -> Tensor:
        """Whether points lie on the manifold, and no function is negative there; ``[*batch]``.

        ``atol`` grants a distance, which is estimated to first order.
        """
        self._check(x=x)
        flat, centre = x.detach().reshape(-1, *self.event_shape), self._cut.centre.to(x)
        finite = flat.isfinite().all(-1)
        good = on = finite & self.space.on(torch.where(finite.unsqueeze(-1), flat, centre), atol)
        if self.constraints:
            clean = torch.where(on.unsqueeze(-1), flat, centre)
            good = on & self._cut.inside(clean)
            rows = (~good & on).nonzero().squeeze(-1)
            if atol > 0 and len(rows):
                good[rows] = self._cut.first_order(clean[rows]) >= -atol
        return good.reshape(self._batch(x))

    def project(self, x: Tensor) -> Tensor:
        """The nearest point in the metric, ``[*batch, *event_shape]``, as far as a descent from ``x`` finds it."""
        self._check(x=x)
        flat = x.reshape(-1, *self.event_shape)
        rows = (~self.contains(flat)).nonzero().squeeze(-1)
        if len(rows):
            y = self.space.projx(flat[rows])
            out = (~self._cut.inside(y)).nonzero().squeeze(-1) if self.constraints else rows[:0]
            if len(out):
                y = y.index_copy(0, out, self._cut.pull_in(y[out].detach()))
            flat = flat.index_copy(0, rows, y)
        return flat.reshape(x.shape)

    def boundary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Geodesic distance ``[*batch]`` to the nearest wall, negative behind one; and the unit vector away from it."""
        distances, normals = self.walls(x)
        nearest = distances.argmin(-1, keepdim=True)
        normal = torch.take_along_dim(normals, nearest.unsqueeze(-1), -2).squeeze(-2)
        return distances.gather(-1, nearest).squeeze(-1), normal

    def walls(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distances ``[*batch, m]`` to the zeros of each function; unit vectors ``[*batch, m, D]`` away from them."""
        self._check(x=x)
        distances, normals = self._cut.walls(x.reshape(-1, *self.event_shape))
        batch = self._batch(x)
        return distances.reshape(*batch, distances.shape[1]), normals.reshape(
            *batch, distances.shape[1], *self.event_shape
        )

    def curvature(self, x: Tensor) -> Tensor:
        """Mean geodesic curvatures ``[*batch, m]`` of :meth:`walls` where they are nearest, by differences."""
        if not self.constraints:
            return torch.zeros_like(x[..., :1])
        found = self._cut.curvature(x.reshape(-1, *self.event_shape))
        return found.reshape(*self._batch(x), len(self.constraints))

    def reflect(self, x: Tensor, displacement: Tensor) -> Tensor:
        """The end of the geodesic along the tangent part of the displacement, mirrored where it meets a wall."""
        x, v = self._check_move(x, displacement)
        flat = x.reshape(-1, *self.event_shape)
        v = self.space.proju(flat, v.reshape(flat.shape))
        if not self.constraints:
            return self.space.expmap(flat, v).reshape(x.shape)
        return self.project(self._cut.move(self.project(flat), v)).reshape(x.shape)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """Make vectors tangent, as geoopt's ``proju``."""
        return self.space.proju(x, v)

    def expmap(self, x: Tensor, v: Tensor) -> Tensor:
        """Along the geodesic, as if there were no walls."""
        return self.space.expmap(x, v)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Along the geodesic, as if there were no walls."""
        return self.space.logmap(x, y)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport along the geodesic."""
        return self.space.transp(x, y, v)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Inner product in the metric, ``[*batch]``."""
        return self.space.inner(x, u, v)

    def gradient(self, x: Tensor, v: Tensor) -> Tensor:
        """The gradient in the metric, as geoopt's ``egrad2rgrad``."""
        return self.space.egrad2rgrad(x, v)

    def covector(self, x: Tensor, v: Tensor) -> Tensor:
        """The partial derivatives whose gradient is ``v``."""
        return self.space.covector(x, v)

    def white(self, x: Tensor, z: Tensor) -> Tensor:
        """Made tangent, and in a ball divided by the conformal factor."""
        return self.space.white(x, z)

    def frame(self, x: Tensor) -> Tensor:
        """Orthonormal tangent vectors ``[dim, *batch, *event_shape]``."""
        return self.space.frame(x)

    def interpolate(self, x: Tensor, y: Tensor, share: float) -> Tensor:
        """Along the geodesic, then projected."""
        return self.project(self.expmap(x, share * self.logmap(x, y))) if share < 1 else y

    # ------------------------------------------------------------------ size

    @cached_property
    def bounding_box(self) -> tuple[Tensor, Tensor]:
        """A little more than the coordinates of random points."""
        x = self.sample_uniform(_POINTS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        low, high = x.amin(0), x.amax(0)
        room = _BOX * (high - low)
        return low - room, high + room

    @cached_property
    def diameter(self) -> float:
        """An upper bound: of each factor twice the radius, or half a great circle."""
        pairs = zip(self.space.pieces, self._radii, strict=True)
        return math.hypot(*(min(2 * r, p.injectivity) for p, r in pairs))

    @cached_property
    def log_volume(self) -> float:
        """Of the Riemannian volume: exact for whole manifolds, else along rays from a point inside.

        2,048 rays in two dimensions, good to some 1e-4; 8,192 in more, whose error is some 1e-3 for compact shapes.
        """
        depth = (lambda x: level_sets.values(self.constraints, x).amin(-1)) if self.constraints else None
        return self.space.log_volume(self._cut.centre, self._radii, depth)

    @cached_property
    def spectral_gap(self) -> float:
        """Exact for whole manifolds, else 0.8 of the least Rayleigh quotient of quadratic functions."""
        if not self.constraints:
            return min(p.dim * p.k for p in self.space.pieces)
        x = self.sample_uniform(1 << 13, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return _MARGIN * exploring.rayleigh_quotient(self.space, x)

    # ------------------------------------------------------------------ laws

    def sample_uniform(
        self,
        shape: int | tuple[int, ...],
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Independent points ``[*shape, *event_shape]``, uniform in the Riemannian volume.

        Of a geodesic ball around the set (of each factor), in which distances are drawn by rejection, those inside.
        """
        size, like = batch_shape(shape), torch.empty((), device=device, dtype=dtype)
        x = exploring.draw(self._cut, self._radii, math.prod(size), like, generator)
        return x.reshape(*size, *self.event_shape)

    # ------------------------------------------------------------------ networks

    def features(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Coordinates scaled to [-1, 1], and distances to walls (of many: to the nearest) against ``sigma``."""
        scaled = self._scaled(x)
        if not self.constraints:
            return scaled
        distances = self.walls(x)[0].clamp(0, self.diameter)
        distances = distances if len(self.constraints) <= _SIDES else distances.amin(-1, keepdim=True)
        return torch.cat([scaled, distances / (distances + sigma.unsqueeze(-1))], -1)

    def planes(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Scaled coordinates, and the distance to the nearest wall in each place, ``[*batch, 2, D]``."""
        distance = self.boundary(x)[0].clamp(0, self.diameter)
        near = (distance / (distance + sigma)).unsqueeze(-1).expand_as(x)
        return torch.stack([self._scaled(x), near], -2)

    @property
    def drawing(self) -> str:
        """The globe is seen from outside."""
        return "ball" if self.dim == 2 and self.shape == (3,) else super().drawing

    # ------------------------------------------------------------------ values

    def config(self) -> dict[str, Any]:
        """What rebuilds this domain; the manifold by its name and curvature, functions as ``"module:name"``.

        Raises:
            ValueError: a function cannot be found by a name, as lambdas, closures and methods cannot.
        """
        return {
            "domain": type(self).__name__,
            "manifold": self.manifold,
            "shape": list(self.shape),
            "constraints": [name_of(f, "constraints") for f in self.constraints],
            "start": None if self.start is None else self.start.tolist(),
            "radius": self.radius,
            "spectral_gap": self._given_gap,
        }

    def __eq__(self, other: object) -> bool:
        """The same manifold, functions and numbers."""
        return isinstance(other, Manifold) and self._identity() == other._identity()

    def __hash__(self) -> int:
        """Hash of what :meth:`__eq__` compares."""
        return hash(self._identity())

    def __repr__(self) -> str:
        """The manifold, the shape, and the functions' names."""
        names = ", ".join(getattr(f, "__qualname__", repr(f)) for f in self.constraints)
        return f"Manifold({title(self.manifold)}, {self.shape}" + (f", constraints=[{names}])" if names else ")")

    def _identity(self) -> tuple[Any, ...]:
        start = None if self.start is None else tuple(self.start.tolist())
        return (json.dumps(self.manifold), self.shape, self.constraints, start, self.radius, self._given_gap)
