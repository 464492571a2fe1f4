"""Solids: bounded sets in space with any surface of triangles, and cavities."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Generator, Tensor

from . import solid_spectrum, solid_surface
from .affine import Affine, about_origin
from .base import Domain
from .checks import DomainError, batch_shape
from .meshed import Meshed
from .solid_bends import Bends
from .solid_triangles import Triangles

if TYPE_CHECKING:
    import networkx

__all__ = ["Solid"]

_WINDOW, _WIDE_WINDOW = 0.05, 0.25  # of curvature at edges, in inradii
_MOST_BENT = 20.0  # curvature, in 1/inradius
_ON = 1e-9  # distance from the surface, in its size, below which a point lies on it
_NUDGES = 40
_LEAST = 1.5  # mesh widths that the least sigma of the series is


class Solid(Meshed):
    """A bounded, connected set in space whose surface is made of triangles, with cavities if there are any.

    The surface itself, to its last vertex, decides membership, distances and specular moves: by ray casting over a grid
    of candidate triangles, in double precision. A mesh of cells carries the Laplacian's eigenfunctions, from which come
    the spectral gap and, from :attr:`least_sigma` on, the heat kernel: :meth:`diffuse` then draws from it and returns
    its score, and follows simulated paths for less noise. All of these are made when they are first asked for.

    Args:
        vertices: ``[v, 3]``.
        faces: numbers of the three vertices of each triangle, ``[n, 3]``; together they form closed surfaces, of which
            one within another is a cavity, by the even-odd rule.
        resolution: mesh widths along the diameter. Root mean square errors of sigma times the score at the least
            sigma are some 0.01 to 0.02 in a cube and a ball; where edges stick in, the score has no bound at them and
            errors there are larger. Gaps thinner than a mesh width are not seen by the kernel. Time and memory grow
            with the sixth power: seconds for 12, minutes for 18.

    Attributes:
        vertices: without those of no face; float64.
        faces: counter-clockwise as seen from outside of the set.
        volume: of the set.

    Raises:
        ShapeError: an array has another shape.
        DomainError: a number is not finite, a face is flat, the surface is open, or there are several separate pieces.
    """

    event_shape, dim = torch.Size([3]), 3

    def __init__(self, vertices: Any, faces: Any, resolution: float = 12.0) -> None:
        if not (math.isfinite(resolution) and resolution >= 4):
            raise ValueError(f"resolution must be finite and at least 4, not {resolution!r}")
        self.resolution = float(resolution)
        self._vertices, self._faces = solid_surface.read(vertices, faces)
        depths = solid_surface.depths(self._vertices, self._faces)
        if (count := sum(d % 2 == 0 for d in depths)) > 1:
            raise DomainError(
                f"the surface bounds {count} separate pieces, between which nothing diffuses: "
                "Solid.components(vertices, faces) gives one Solid each, and its share of the volume"
            )
        self._shells = len(depths)
        self.volume = solid_surface.volume(self._vertices, self._faces)
        self.log_volume = math.log(self.volume)
        corners = torch.from_numpy(self._vertices)
        self.bounding_box = corners.amin(0), corners.amax(0)
        self.magnitude = float(torch.cat([corners.abs().amax(0), corners.amax(0) - corners.amin(0)]).max())

    @classmethod
    def from_mask(cls, mask: Any, low: Any = 0.0, high: Any = None, *, resolution: float = 12.0) -> Self:
        """The true voxels of an array ``[nx, ny, nz]``, by marching tetrahedra.

        Args:
            mask: booleans, or numbers of which those from one half on are inside.
            low: low corner of the array's box.
            high: its high corner; by default voxels have sides of one.
            resolution: see the class.
        """
        return cls(*cls.surface_from_mask(mask, low, high), resolution)

    @classmethod
    def from_signed_distance(
        cls, function: Callable[[Tensor], Tensor], low: Any, high: Any, *, cells: int = 32, resolution: float = 12.0
    ) -> Self:
        """Where a function of points ``[n, 3]`` is positive, which is so inside only, by marching tetrahedra.

        Args:
            function: such as the signed distance to the wall, ``[n]``; it need not be a distance.
            low: low corner of a box that holds the set.
            high: its high corner.
            cells: along the longest side; parts narrower than one can be missed.
            resolution: see the class.
        """
        return cls(*solid_surface.surface_of_function(function, low, high, cells), resolution)

    @staticmethod
    def surface_from_mask(mask: Any, low: Any = 0.0, high: Any = None) -> tuple[Tensor, Tensor]:
        """Vertices and faces of :meth:`from_mask`, of one piece or several."""
        if high is None:
            high = np.asarray(low, dtype=np.float64) + np.array(np.shape(mask)[:3])
        vertices, faces = solid_surface.surface_of_mask(mask, low, high)
        return torch.from_numpy(vertices), torch.from_numpy(faces)

    @classmethod
    def components(cls, vertices: Any, faces: Any, resolution: float = 12.0) -> list[tuple[Self, float]]:
        """A solid for each connected piece that a surface bounds, and its share of the volume; the largest first."""
        parts = solid_surface.pieces(*solid_surface.read(vertices, faces))
        found = [cls(*part, resolution) for part in parts]
        found.sort(key=lambda solid: -solid.volume)
        total = math.fsum(solid.volume for solid in found)
        return [(solid, solid.volume / total) for solid in found]

    @property
    def vertices(self) -> Tensor:
        """Vertices of the surface, ``[v, 3]``."""
        return torch.from_numpy(self._vertices.copy())

    @property
    def faces(self) -> Tensor:
        """Numbers of the vertices of each triangle, ``[n, 3]``."""
        return torch.from_numpy(self._faces.copy())

    # ------------------------------------------------------------------ geometry

    def contains(self, x: Tensor, atol: float = 0.0) -> Tensor:
        """Whether points lie in the solid, up to the rounding of the coordinates, ``[*batch]``."""
        self._check(x=x)
        flat, triangles = self._flat(x.detach())
        inside = triangles.contains(flat)
        out = (~inside).nonzero().squeeze(-1)
        slack = atol + 16 * torch.finfo(x.dtype).eps * self.magnitude
        low, high = (b.to(flat) for b in self.bounding_box)
        out = out[((flat[out] >= low - slack) & (flat[out] <= high + slack)).all(-1)]
        if len(out):
            near = flat[out]
            inside[out] = triangles.distance(near, triangles.nearest(near)) <= slack
        return inside.reshape(self._batch(x))

    def project(self, x: Tensor) -> Tensor:
        """The nearest point; points inside are returned as they are."""
        self._check(x=x)
        flat, triangles = self._flat(x.detach())
        out = (~triangles.contains(flat)).nonzero().squeeze(-1)
        if not len(out):
            return x
        face = triangles.nearest(flat[out])
        foot, what = triangles.foot(flat[out], face)
        inward = triangles.inward[face, what]
        margin, rows = 4 * torch.finfo(x.dtype).eps * self.magnitude, torch.arange(len(out), device=x.device)
        found = foot.clone()
        for _ in range(_NUDGES):
            found[rows] = foot[rows] + margin * inward[rows]
            rows = rows[~triangles.contains(found[rows].to(x.dtype).double())]
            if not len(rows):
                break
            margin = 2 * margin
        found[rows] = foot[rows]  # the very tip of a spike
        moved: Tensor = x.reshape(-1, 3).index_put((out,), found.to(x.dtype))
        return moved.reshape(x.shape)

    def boundary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distance ``[*batch]`` to the nearest triangle, and the inward unit normal ``[*batch, 3]``.

        At edges and vertices the direction from the nearest point, or towards it from outside.
        """
        self._check(x=x)
        flat, triangles = self._flat(x)
        there = flat.detach()
        face = triangles.nearest(there)
        foot, what = triangles.foot(there, face)
        inward, away = triangles.inward[face, what], there - foot
        gap = away.norm(dim=-1)
        signed = torch.where((away * inward).sum(-1) < 0, -gap, gap)
        plain = (what == 0) | (gap <= _ON * triangles.size)
        normal = torch.where(plain.unsqueeze(-1), inward, away / torch.where(signed == 0, 1.0, signed).unsqueeze(-1))
        distance = ((flat - foot) * normal).sum(-1)  # its gradient in x is the normal
        return distance.reshape(self._batch(x)).to(x.dtype), normal.reshape(x.shape).to(x.dtype)

    def curvature(self, x: Tensor) -> Tensor:
        """The mean of the principal curvatures where the surface is nearest, ``[*batch, 1]``.

        Zero on flat parts; edges that stick out by more than thirty degrees do not count, those that stick in count
        within a twentieth of the inradius.
        """
        self._check(x=x)
        flat, triangles = self._flat(x.detach())
        face = triangles.nearest(flat)
        foot, _ = triangles.foot(flat, face)
        most = _MOST_BENT / self.inradius
        bends: Bends = self._on("_bends", x.device)
        found = bends.curvature(foot, face, triangles.index(foot)[0]).clamp(-most, most)
        return found.reshape(*self._batch(x), 1).to(x.dtype)

    def reflect(self, x: Tensor, displacement: Tensor) -> Tensor:
        """The specular move, from triangle to triangle; a move of more than a thousand pieces ends where it is."""
        x, displacement = self._check_move(x, displacement)
        flat, triangles = self._flat(x.detach())
        tolerance = 64 * torch.finfo(x.dtype).eps * self.magnitude  # a start may be outside by as much
        end, met = triangles.move(flat, displacement.detach().reshape(-1, 3).double(), tolerance)
        end = end.to(x.dtype)
        rows = met.nonzero().squeeze(-1)
        if len(rows):
            end[rows] = self.project(end[rows])
        return end.reshape(x.shape)

    def geodesic_distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Length ``[*batch]`` of the shortest way from ``x`` to ``y`` inside; batch shapes broadcast.

        Straight where nothing is in between; otherwise along the mesh's links (Dijkstra), pulled tight. One search for
        each pair that does not see each other: for plots and metrics.
        """
        self._check(x=x, y=y)
        from . import solid_geodesic  # which takes networkx

        a, b = torch.broadcast_tensors(self.project(x), self.project(y))
        found = solid_geodesic.distances(self, a.reshape(-1, 3).double().cpu(), b.reshape(-1, 3).double().cpu())
        return found.reshape(self._batch(a)).to(x)

    # ------------------------------------------------------------------ size

    @cached_property
    def diameter(self) -> float:
        """Largest distance of two vertices."""
        from scipy.spatial import ConvexHull

        hull = torch.from_numpy(self._vertices[ConvexHull(self._vertices).vertices])
        mode = "donot_use_mm_for_euclid_dist"
        return max(float(torch.cdist(some, hull, compute_mode=mode).max()) for some in hull.split(256))

    @cached_property
    def inradius(self) -> float:
        """Radius of a ball that fits inside: the largest that a search from the deepest of 2,048 points found."""
        x = self.sample_uniform(2048, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        depth = self.boundary(x)[0]
        x, step = x[depth.topk(4).indices], float(depth.max()) / 4
        offsets = torch.cartesian_prod(*[torch.linspace(-1, 1, 3, dtype=torch.float64)] * 3)
        for _ in range(24):
            tried = (x.unsqueeze(1) + step * offsets).reshape(-1, 3)
            depth = self.boundary(tried)[0].reshape(len(x), -1)
            x = tried.reshape(len(x), -1, 3)[torch.arange(len(x)), depth.argmax(-1)]
            step *= 0.7
        return float(depth.max())

    @cached_property
    def wall_curvature(self) -> tuple[float, float]:
        """Quantiles of the surface's curvature, at edges over a quarter of the inradius."""
        return self._bends.quantiles(self._triangles, _WIDE_WINDOW * self.inradius)

    @cached_property
    def spectral_gap(self) -> float:
        """The first positive eigenvalue on the mesh, less its difference to one twice as coarse."""
        return self._kernel.gap

    @property
    def least_sigma(self) -> float:
        """Noise from which on the kernel is evaluated: 1.5 mesh widths, an eighth of the diameter by default."""
        return _LEAST * self.diameter / self.resolution

    # ------------------------------------------------------------------ laws

    def sample_uniform(
        self,
        shape: int | tuple[int, ...],
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Independent uniform points ``[*shape, 3]``: of the cells that the solid meets, those inside."""
        size = batch_shape(shape)
        like = torch.empty(0, device=device, dtype=dtype)
        triangles: Triangles = self._on("_triangles", like.device)
        return triangles.sample_uniform(math.prod(size), self.volume, generator).reshape(*size, 3).to(like)

    # ------------------------------------------------------------------ units

    def normalised(self, x: Tensor) -> tuple[Domain, Affine | None]:
        """Moved to the origin, if it lies so far from it that single precision would not resolve it."""
        return about_origin(self, lambda m: Solid(self._vertices - m.numpy(), self._faces, self.resolution))

    # ------------------------------------------------------------------ values

    def config(self) -> dict[str, Any]:
        """Vertices and faces as nested lists, and the resolution."""
        parts = {"vertices": self._vertices.tolist(), "faces": self._faces.tolist()}
        return {"domain": type(self).__name__, **parts, "resolution": self.resolution}

    def __eq__(self, other: object) -> bool:
        """The same vertices, faces and resolution."""
        return isinstance(other, Solid) and self._values() == other._values()

    def __hash__(self) -> int:
        """Hash of what :meth:`__eq__` compares."""
        return hash(self._values())

    def __repr__(self) -> str:
        """Numbers of faces and cavities, and the volume: the vertices themselves would fill pages."""
        parts = f"faces={len(self._faces)}, cavities={self._shells - 1}, volume={self.volume:g}"
        return f"Solid({parts}, resolution={self.resolution:g})"

    # ------------------------------------------------------------------ what is made once

    @cached_property
    def graph(self) -> networkx.Graph[Any]:
        """Links of the mesh: a node for each cell, ``place`` its point inside, ``weight`` a link's length."""
        from . import solid_geodesic

        return solid_geodesic.graph(self)

    @cached_property
    def _triangles(self) -> Triangles:
        return Triangles.of(self._vertices, self._faces)

    @cached_property
    def _bends(self) -> Bends:
        return Bends.of(self._vertices, self._faces, self._triangles, _WINDOW * self.inradius)

    @cached_property
    def _cells(self) -> solid_spectrum.Cells:
        return solid_spectrum.Cells.over(self._triangles, self.diameter / self.resolution)

    @cached_property
    def _kernel(self) -> solid_spectrum.Kernel:
        most = 2 * solid_spectrum.LEAST_TERM / self.least_sigma**2
        solid_spectrum.check_terms(self.volume, most)
        return solid_spectrum.Kernel.of(self._cells, self._triangles, self.volume, most)

    # ------------------------------------------------------------------ parts

    def _flat(self, x: Tensor) -> tuple[Tensor, Triangles]:
        """Points ``[n, 3]`` in float64, and the triangles on their device."""
        return x.reshape(-1, 3).double(), self._on("_triangles", x.device)

    def _values(self) -> tuple[Any, ...]:
        return (type(self), self.resolution, self._vertices.tobytes(), self._faces.tobytes())
