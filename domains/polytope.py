"""Polytopes: all points that satisfy linear inequalities, and equalities if there are any."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Generator, Tensor

from . import billiard, halfspaces, spectral
from .affine import Affine, about_origin
from .base import Domain
from .checks import ShapeError, batch_shape, whole_number
from .euclidean import event_shape
from .mixing import Mixing, mix
from .nearest import nearest
from .specs import Extent
from .volume import log_volume_by_phases

__all__ = ["Polytope"]

_CHAINS = 512  # that mix once, and are drawn from
_ROUNDINGS = 8  # attempts to make the set round
_VOLUME_POINTS = 1 << 14
_MOST_FEATURES = 256  # facets whose distances a network reads one by one


class Polytope(Domain):
    """``{x : A x <= b, A_eq x = b_eq}``, bounded and with an interior within its affine hull.

    Noise is isotropic along the hull; densities are against the hull's own ``dim``-dimensional volume. Moves are
    specular, by ray casting. No closed kernel exists: :meth:`diffuse` follows simulated paths.

    Args:
        A: ``[m, n]``, an array, tensor or nested list; rows that constrain nothing are dropped.
        b: ``[m]``, finite.
        A_eq: ``[k, n]``, equality constraints; they reduce the dimension.
        b_eq: ``[k]``.
        shape: event shape of n numbers, if points are no vectors.

    Attributes:
        A: facets' outward unit normals ``[facets, n]``, float64, along the hull; no row is redundant.
        b: their offsets ``[facets]``.
        centre: centre of a largest ball inside, of radius ``inradius``.

    Raises:
        ShapeError: sizes do not fit.
        DomainError: a number is not finite, or the set is empty, unbounded or flat.
    """

    wall_curvature = (0.0, 0.0)

    specs: ClassVar[dict[str, str]] = {
        "polytope": "A x <= b: polytope:FILE.npz with arrays A and b, and if there are equalities A_eq and b_eq"
    }

    def __init__(self, A: Any, b: Any, A_eq: Any = None, b_eq: Any = None, shape: int | tuple[int, ...] | None = None):
        rows, values = halfspaces.read(A, b, "A")
        n = rows.shape[1]
        if (A_eq is None) != (b_eq is None):
            raise TypeError("A_eq and b_eq are given together or not at all")
        equal, level = halfspaces.read(A_eq, b_eq, "A_eq", n) if A_eq is not None else (np.zeros((0, n)), np.zeros(0))
        self._given = {"A": rows, "b": values, "A_eq": equal, "b_eq": level}
        self._system = system = halfspaces.order(rows, values, equal, level)
        self.event_shape = event_shape(n if shape is None else shape)
        if self.event_shape.numel() != n:
            raise ShapeError(f"shape is {list(self.event_shape)}; expected {n} numbers, as A has columns")
        self.shape = tuple(self.event_shape)
        self.dim = len(system.basis)
        self.inradius = system.inradius
        self.A, self.b = torch.from_numpy(system.A), torch.from_numpy(system.b)
        self.A_eq = torch.from_numpy(system.hull) if len(system.hull) else None
        self.b_eq = torch.from_numpy(system.level) if len(system.hull) else None
        self.centre = torch.from_numpy(system.centre).reshape(self.event_shape)
        self._slack = torch.from_numpy(system.b - system.A @ system.centre)

    @classmethod
    def from_data(cls, data: Tensor | Extent, spec: str = "polytope") -> Polytope:
        """``polytope:FILE.npz``: the constraints are read from a file, and have a column for each of the data's."""
        path = spec.partition(":")[2]
        if not path.endswith(".npz"):
            raise ValueError(f"{spec}: write polytope:FILE.npz, a file with arrays A and b (A x <= b)")
        found = halfspaces.read_file(Path(path))
        domain = cls(found["A"], found["b"], found.get("A_eq"), found.get("b_eq"))
        if domain.shape != (len(Extent.of(data).low),):
            raise ShapeError(f"{path}: A has {domain.shape[0]} columns, the data {len(Extent.of(data).low)}")
        return domain

    @classmethod
    def birkhoff(cls, n: int) -> Self:
        """Doubly stochastic matrices ``[n, n]``: non-negative, and every row and column sums to one."""
        n = whole_number(n, "n must be an integer of at least 2", 2)
        eye, ones = np.eye(n), np.ones((1, n))
        sums = np.concatenate([np.kron(eye, ones), np.kron(ones, eye)])
        return cls(-np.eye(n * n), np.zeros(n * n), sums, np.ones(2 * n), shape=(n, n))

    @classmethod
    def from_vertices(cls, vertices: Any) -> Self:
        """The convex hull of points ``[k, n]``; where they lie in a plane, within that plane."""
        points, _ = halfspaces.read(vertices, [0.0] * len(vertices), "vertices")
        A, b, across, level = halfspaces.from_points(points)
        return cls(A, b, across, level) if len(across) else cls(A, b)

    # ------------------------------------------------------------------ geometry

    def contains(self, x: Tensor, atol: float = 0.0) -> Tensor:
        """Whether every constraint holds up to the rounding of the coordinates, ``[*batch]``."""
        self._check(x=x)
        rounding = 16 * torch.finfo(x.dtype).eps * self.magnitude
        offset = self._offset(x)
        inside = (self._gaps(offset) >= -(atol + rounding)).all(-1)
        if self.A_eq is not None:
            inside &= (offset @ self.A_eq.to(x).T).norm(dim=-1) <= atol + rounding
        return inside & offset.isfinite().all(-1)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point: exact, by an active-set method in float64; slow for many points far outside."""
        self._check(x=x)
        offset = self._offset(x)
        out = (~self.contains(x)).reshape(-1)
        flat = offset.reshape(-1, offset.shape[-1])
        moved = nearest(self._along(flat[out].double()), self.A.to(x.device), self._slack.to(x.device))
        found = self._tidy(flat.index_put((out,), moved.to(x)))
        return torch.where(self.expand(out.reshape(self._batch(x))), found.reshape(x.shape), x)

    def reflect(self, x: Tensor, displacement: Tensor) -> Tensor:
        """The specular move, from facet to facet; it ends after 1,000 bounces."""
        x, displacement = self._check_move(x, displacement)
        offset, move = self._offset(x), self._along(displacement.flatten(x.ndim - len(self.event_shape)))
        end = billiard.move(offset, move, self._gaps(offset), -self.A.to(x))
        return self._tidy(end).reshape(x.shape)

    def boundary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distance ``[*batch]`` to the nearest facet (outside: minus the distance to the set), inward normal."""
        self._check(x=x)
        gaps = self._gaps(self._offset(x))
        distance, facet = gaps.min(-1)
        normal = -self.A.to(x)[facet].reshape(x.shape)
        back = self.project(x) - x
        squared = self.inner(x, back, back)
        out = squared > 0
        gap = torch.where(out, squared, 1.0).sqrt()  # inside it has a derivative, too
        unit = back / self.expand(gap)
        return torch.where(out, -gap, distance.clamp(min=0)), torch.where(self.expand(out), unit, normal)

    def walls(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distances to all facets ``[*batch, m]``, and their inward unit normals ``[*batch, m, *event_shape]``."""
        self._check(x=x)
        gaps = self._gaps(self._offset(x))
        normals = -self.A.to(x).reshape(-1, *self.event_shape)
        return gaps, normals.expand(*gaps.shape, *self.event_shape)

    def curvature(self, x: Tensor) -> Tensor:
        """Facets are flat: zeros ``[*batch, m]``."""
        return torch.zeros(*self._batch(x), len(self.b), dtype=x.dtype, device=x.device)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """Remove the components across the affine hull."""
        return self._along(v.flatten(v.ndim - len(self.event_shape))).reshape(v.shape)

    def frame(self, x: Tensor) -> Tensor:
        """The basis of the hull's directions, ``[dim, *batch, *event_shape]``; the same everywhere."""
        basis = torch.from_numpy(self._system.basis).to(x)
        return basis.reshape(self.dim, *(1,) * len(self._batch(x)), *self.event_shape).expand(self.dim, *x.shape)

    # ------------------------------------------------------------------ size

    @cached_property
    def bounding_box(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of each coordinate, by two linear programs each."""
        normals, slack = self._system.reduced()
        ends = [halfspaces.extent(normals, slack, sign * self._system.basis.T) for sign in (-1, 1)]
        low, high = (torch.from_numpy(s * e).reshape(self.event_shape) for s, e in zip((-1, 1), ends, strict=True))
        return self.centre + low, self.centre + high

    @cached_property
    def magnitude(self) -> float:
        """Largest coordinate of the set or of its size."""
        low, high = self.bounding_box
        return float(torch.stack([low.abs(), high.abs(), high - low]).max())

    @cached_property
    def vertices(self) -> Tensor | None:
        """Vertices ``[k, *event_shape]``; None where they may be too many to list (more than 20,000)."""
        corners = halfspaces.vertices(*self._system.reduced())
        if corners is None:
            return None
        return self.centre + torch.from_numpy(corners @ self._system.basis).reshape(-1, *self.event_shape)

    @cached_property
    def diameter(self) -> float:
        """Largest distance of two vertices; where they are too many, the diagonal of the smallest of two boxes."""
        if self.vertices is not None:
            flat = self.vertices.flatten(1)
            return max(float(torch.cdist(part, flat).max()) for part in flat.split(1024))
        low, high = self.bounding_box
        axes = np.linalg.eigh(np.cov(self._mixed.points.numpy() @ self._round.numpy().T, rowvar=False))[1].T
        normals, slack = self._system.reduced()
        sides = halfspaces.extent(normals, slack, axes) + halfspaces.extent(normals, slack, -axes)
        return min(float((high - low).norm()), float(np.linalg.norm(sides)))

    @cached_property
    def spectral_gap(self) -> float:
        """An estimate (:mod:`~constrained_diffusion.domains.spectral`), some tenth below the gap."""
        return spectral.spectral_gap(self)

    @cached_property
    def log_volume(self) -> float:
        """Natural logarithm of the ``dim``-dimensional volume.

        Of the hull of the vertices for five dimensions or fewer; above that by Monte Carlo, to a standard error
        of :attr:`log_volume_error`.
        """
        return self._volume[0]

    @cached_property
    def log_volume_error(self) -> float:
        """Standard error of :attr:`log_volume`; 0 where it is exact."""
        return self._volume[1]

    # ------------------------------------------------------------------ laws

    def sample_uniform(
        self,
        shape: int | tuple[int, ...],
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Uniform points ``[*shape, *event_shape]``, by the billiard walk of Gryazina & Polyak (2014).

        The first call makes the set round (by the covariance of its points) and runs chains from points near vertices
        until they agree; see :attr:`mixing`. Every point drawn is a chain of its own from there.

        Raises:
            SolverError: the chains did not mix.
        """
        size = batch_shape(shape)
        z = self._mixed.draw(math.prod(size), self._walk, generator)
        like = torch.empty(0, device=device, dtype=dtype)
        flat = (z @ (self._round.T @ torch.from_numpy(self._system.basis)).to(z)).to(like)
        return self._tidy(flat).reshape(size + self.event_shape)

    @property
    def mixing(self) -> Mixing:
        """The chains that uniform points are drawn from: ``r_hat``, ``steps``, ``chains``."""
        return self._mixed

    # ------------------------------------------------------------------ units

    def normalised(self, x: Tensor) -> tuple[Domain, Affine | None]:
        """Moved to the origin, if it lies so far from it that single precision would not resolve it."""
        return about_origin(self, self._less)

    def _less(self, point: Tensor) -> Polytope:
        """The set moved by minus a point."""
        p, g = point.numpy().reshape(-1), self._given
        if not len(g["A_eq"]):
            return Polytope(g["A"], g["b"] - g["A"] @ p, shape=self.shape)
        return Polytope(g["A"], g["b"] - g["A"] @ p, g["A_eq"], g["b_eq"] - g["A_eq"] @ p, self.shape)

    # ------------------------------------------------------------------ networks

    def features(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Coordinates scaled to [-1, 1], and the distances to the facets against ``sigma`` and on a log scale."""
        low, high = (b.to(x) for b in self.bounding_box)
        width = torch.where(high > low, high - low, 1.0)
        scaled = ((x - low) / width * 2 - 1).flatten(x.ndim - len(self.event_shape))
        gaps = self._gaps(self._offset(x)).clamp(min=0)
        s = sigma.unsqueeze(-1)
        if gaps.shape[-1] > _MOST_FEATURES:
            gaps = gaps.amin(-1, keepdim=True)
        return torch.cat([scaled, gaps / (gaps + s), torch.log((gaps + s) / self.inradius)], -1)

    # ------------------------------------------------------------------ values

    def config(self) -> dict[str, Any]:
        """The constraints as they were given."""
        values: dict[str, Any] = {"domain": type(self).__name__, "A": self._given["A"].tolist()}
        values["b"] = self._given["b"].tolist()
        if len(self._given["A_eq"]):
            values |= {k: self._given[k].tolist() for k in ("A_eq", "b_eq")}
        if len(self.shape) > 1:
            values["shape"] = list(self.shape)
        return values

    def __repr__(self) -> str:
        """Dimension, facets and event shape: the constraints would fill pages."""
        return f"Polytope(dim={self.dim}, facets={len(self.b)}, shape={self.shape})"

    # ------------------------------------------------------------------ parts

    def _offset(self, x: Tensor) -> Tensor:
        """Points as vectors from the centre, ``[*batch, n]``: no digits are lost far from the origin."""
        return (x - self.centre.to(x)).flatten(x.ndim - len(self.event_shape))

    def _gaps(self, offset: Tensor) -> Tensor:
        """Distances to the facets ``[*batch, m]``."""
        return self._slack.to(offset) - offset @ self.A.to(offset).T

    def _along(self, v: Tensor) -> Tensor:
        """Vectors ``[*batch, n]`` without their components across the hull."""
        if self.A_eq is None:
            return v
        across = self.A_eq.to(v)
        return v - (v @ across.T) @ across

    def _tidy(self, offset: Tensor) -> Tensor:
        """Points, from their vectors from the centre, without the rounding errors of a point that is inside."""
        offset = self._along(offset)
        over = (-self._gaps(offset)).amax(-1, keepdim=True).clamp(min=0)
        eps = torch.finfo(offset.dtype).eps
        shrink = torch.where(over > 0, over / (self.inradius + over) + 4 * eps, 0.0)
        return (offset * (1 - shrink)).reshape(*offset.shape[:-1], *self.event_shape) + self.centre.to(offset)

    @cached_property
    def _round(self) -> Tensor:
        """Lower-triangular L ``[dim, dim]``, float64: coordinates z, y = L z along the basis, make the set round."""
        rng = np.random.default_rng(0)
        directions = rng.standard_normal((max(32, self.dim + 2), self.dim))
        normals, slack = self._system.reduced()
        corners = [halfspaces.extreme(normals, slack, s * u) for u in directions for s in (1, -1)]
        self._corners = torch.from_numpy(np.array(corners))
        y, generator = 0.9 * self._corners, torch.Generator().manual_seed(0)
        y = y.repeat(-(-_CHAINS // len(y)), 1)[:_CHAINS]
        spread = torch.cov(y.T).reshape(self.dim, self.dim)
        ball = self.inradius**2 / (self.dim + 2)  # variance of the ball inside, which corners need not reach all round
        if float(torch.linalg.eigvalsh(spread)[0]) < ball:
            spread = spread + ball * torch.eye(self.dim, dtype=spread.dtype)
        factor = torch.linalg.cholesky(spread)
        for _ in range(_ROUNDINGS):
            z: Tensor = torch.linalg.solve_triangular(factor, y.T, upper=False).T
            for _ in range(8):
                z = self._walk_in(factor, z, generator)
            spread = torch.cov(z.T).reshape(self.dim, self.dim)
            y = z @ factor.T
            factor = factor @ torch.linalg.cholesky(spread)
            values = torch.linalg.eigvalsh(spread)
            if float(values[-1] / values[0]) < 4:
                break
        found: Tensor = factor
        return found

    def _walk_in(self, factor: Tensor, z: Tensor, generator: Generator | None) -> Tensor:
        """A billiard step in the coordinates of ``factor``: its length is exponential, about the set's own size."""
        normals = self._normals_in(factor, z)
        length = normals.norm(dim=1)
        at = torch.device("cpu") if generator is None else generator.device
        u = torch.randn(z.shape, generator=generator, dtype=z.dtype, device=at).to(z)
        reach = (
            -2 * math.sqrt(self.dim) * torch.rand(len(z), 1, generator=generator, dtype=z.dtype, device=at).to(z).log()
        )
        gaps = (self._slack.to(z) - z @ normals.T) / length
        return billiard.move(z, reach * u / u.norm(dim=1, keepdim=True), gaps, -normals / length.unsqueeze(1))

    def _normals_in(self, factor: Tensor, like: Tensor) -> Tensor:
        normals: Tensor = torch.from_numpy(self._system.reduced()[0]).to(like) @ factor.to(like)
        return normals

    def _walk(self, z: Tensor, generator: Generator | None) -> Tensor:
        return self._walk_in(self._round, z, generator)

    @cached_property
    def _mixed(self) -> Mixing:
        factor = self._round
        start = torch.linalg.solve_triangular(factor, 0.9 * self._corners.T, upper=False).T
        start = start.repeat(-(-_CHAINS // len(start)), 1)[:_CHAINS]
        return mix(repr(self), start, self._walk)

    @cached_property
    def _volume(self) -> tuple[float, float]:
        if self.dim <= 5 and self.vertices is not None:
            return math.log(halfspaces.hull_volume(*self._system.reduced())), 0.0
        generator, factor = torch.Generator().manual_seed(1), self._round
        points = self._mixed.draw(_VOLUME_POINTS, self._walk, generator)
        normals = self._normals_in(factor, points)
        length = normals.norm(dim=1)
        found, error = log_volume_by_phases(points, normals / length.unsqueeze(1), self._slack / length, generator)
        return found + float(factor.diagonal().log().sum()), error
