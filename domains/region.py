"""Regions of the plane: bounded sets with any outline, and holes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Generator, Tensor

from . import region_mesh, region_outline, region_spectrum
from .affine import Affine, about_origin
from .base import Domain
from .checks import DomainError, batch_shape
from .meshed import Meshed
from .region_arcs import Arcs
from .region_segments import Segments
from .short_vectors import dot

if TYPE_CHECKING:
    import networkx

__all__ = ["Region"]

_LEAST = 5.0  # mesh widths that the least sigma of the series is
_WINDOW, _WIDE_WINDOW = 0.05, 0.25  # of curvature, in inradii
_MOST_BENT = 20.0  # curvature, in 1/inradius
_NUDGES = 40


class Region(Meshed):
    """A bounded, connected set in the plane with a polygon as outline, and polygons as holes.

    The outline itself, to its last corner, decides membership, distances and specular moves: by ray casting over a grid
    of candidate edges, in double precision. A mesh carries the Laplacian's eigenfunctions, from which come the
    spectral gap and, from :attr:`least_sigma` on, the heat kernel: :meth:`diffuse` then draws from it and returns its
    score, and follows simulated paths for less noise. Mesh and eigenfunctions are made when they are first asked for,
    and need scikit-fem (the extra ``geometry``).

    Args:
        rings: arrays of corners ``[k, 2]``, by the even-odd rule: a ring within another is a hole. Or one array.
        resolution: mesh widths along the diameter. Root mean square errors of sigma times the score at the least
            sigma are some 0.005 for 50, and fall with the square; time and memory grow with it.

    Attributes:
        rings: outer rings counter-clockwise, holes clockwise; float64.
        area: of the set.

    Raises:
        ShapeError: a ring is not ``[k, 2]`` with at least three different corners.
        DomainError: a number is not finite, a ring is flat, edges cross, or there are several separate pieces.
    """

    event_shape, dim = torch.Size([2]), 2

    def __init__(self, rings: Any, resolution: float = 50.0) -> None:
        if not (math.isfinite(resolution) and resolution >= 4):
            raise ValueError(f"resolution must be finite and at least 4, not {resolution!r}")
        self.resolution = float(resolution)
        self._rings = region_outline.read(rings)
        pieces = region_outline.depths(self._rings)
        if (count := sum(d % 2 == 0 for d in pieces)) > 1:
            raise DomainError(
                f"rings bound {count} separate pieces, between which nothing diffuses: Region.components(rings) gives "
                "one Region each, and its share of the area"
            )
        self.area = region_outline.area(self._rings)
        self.log_volume = math.log(self.area)
        corners = torch.from_numpy(np.concatenate(self._rings))
        self.bounding_box = corners.amin(0), corners.amax(0)
        self.magnitude = float(torch.cat([corners.abs().amax(0), corners.amax(0) - corners.amin(0)]).max())

    @classmethod
    def from_mask(cls, mask: Any, low: Any = 0.0, high: Any = None, *, resolution: float = 50.0) -> Self:
        """The true pixels of an image ``[rows, columns]``, its first row at the top, by marching squares.

        Args:
            mask: booleans, or numbers of which those from one half on are inside.
            low: lower left corner of the image.
            high: upper right corner; by default pixels have sides of one.
            resolution: see the class.
        """
        return cls(cls.rings_from_mask(mask, low, high), resolution)

    @classmethod
    def from_signed_distance(
        cls, function: Callable[[Tensor], Tensor], low: Any, high: Any, *, cells: int = 256, resolution: float = 50.0
    ) -> Self:
        """Where a function of points ``[n, 2]`` is positive, which is so inside only, by marching squares.

        Args:
            function: such as the signed distance to the wall, ``[n]``; it need not be a distance.
            low: lower left corner of a box that holds the set.
            high: upper right corner.
            cells: along the longer side; parts narrower than one can be missed.
            resolution: see the class.
        """
        return cls(region_outline.rings_of_distance(function, low, high, cells), resolution)

    @staticmethod
    def rings_from_mask(mask: Any, low: Any = 0.0, high: Any = None) -> list[Tensor]:
        """The rings of :meth:`from_mask`, of one piece or several."""
        if high is None:
            high = np.asarray(low, dtype=np.float64) + np.array(np.shape(mask)[:2][::-1])
        return [torch.from_numpy(ring) for ring in region_outline.rings_of_mask(mask, low, high)]

    @classmethod
    def components(cls, rings: Any, resolution: float = 50.0) -> list[tuple[Self, float]]:
        """A region for each connected piece that rings bound, and its share of the area; the largest first."""
        found = [cls(piece, resolution) for piece in region_outline.pieces(region_outline.read(rings))]
        found.sort(key=lambda region: -region.area)
        total = math.fsum(region.area for region in found)
        return [(region, region.area / total) for region in found]

    @property
    def rings(self) -> tuple[Tensor, ...]:
        """The outline, ``[k, 2]`` each."""
        return tuple(torch.from_numpy(ring.copy()) for ring in self._rings)

    @property
    def outline(self) -> Tensor:
        """Corners ``[k, 2]`` of closed loops parted by rows of NaN, for plots."""
        gap = torch.full((1, 2), math.nan, dtype=torch.float64)
        return torch.cat([part for ring in self.rings for part in (gap, ring, ring[:1])][1:])

    # ------------------------------------------------------------------ geometry

    def contains(self, x: Tensor, atol: float = 0.0) -> Tensor:
        """Whether points lie in the region, up to the rounding of the coordinates, ``[*batch]``."""
        self._check(x=x)
        flat, segments = self._flat(x.detach())
        inside = segments.contains(flat)
        out = (~inside).nonzero().squeeze(-1)
        if len(out):
            near = flat[out]
            slack = atol + 16 * torch.finfo(x.dtype).eps * self.magnitude
            inside[out] = segments.distance(near, segments.nearest(near)) <= slack
        return inside.reshape(self._batch(x))

    def project(self, x: Tensor) -> Tensor:
        """The nearest point; points inside are returned as they are."""
        self._check(x=x)
        flat, segments = self._flat(x.detach())
        out = (~segments.contains(flat)).nonzero().squeeze(-1)
        if not len(out):
            return x
        foot, inward = self._foot(flat[out])
        margin, rows = 4 * torch.finfo(x.dtype).eps * self.magnitude, torch.arange(len(out), device=x.device)
        found = foot.clone()
        for _ in range(_NUDGES):
            found[rows] = foot[rows] + margin * inward[rows]
            rows = rows[~segments.contains(found[rows])]
            if not len(rows):
                break
            margin = 2 * margin
        found[rows] = foot[rows]  # the very tip of a spike
        moved: Tensor = x.reshape(-1, 2).index_put((out,), found.to(x.dtype))
        return moved.reshape(x.shape)

    def boundary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distance ``[*batch]`` to the nearest edge, and the inward unit normal ``[*batch, 2]``.

        At corners the direction from the nearest point, or towards it from outside.
        """
        self._check(x=x)
        flat, segments = self._flat(x)
        edge = segments.nearest(flat.detach())
        away, along = flat - segments.start[edge], segments.along[edge]
        share, normal = dot(away, along), segments.normal_of(edge)
        length = segments.length[edge]
        distance = dot(away, normal)
        at_corner = ((share < 0) | (share > length)).nonzero().squeeze(-1)
        if len(at_corner):
            first = edge[at_corner]
            corner = torch.where(share[at_corner] < 0, first, segments.following[first])
            off = flat[at_corner] - segments.start[corner]
            gap = off.norm(dim=-1)
            inward = dot(off, segments.inward[corner])
            signed = torch.where(inward < 0, -gap, gap)
            distance = distance.index_put((at_corner,), signed)
            normal = normal.index_put((at_corner,), off / signed.unsqueeze(-1))
        return distance.reshape(self._batch(x)).to(x.dtype), normal.reshape(x.shape).to(x.dtype)

    def curvature(self, x: Tensor) -> Tensor:
        """The angle by which the outline turns within a twentieth of the inradius, per length; ``[*batch, 1]``.

        Zero on straight parts; corners that stick out by more than thirty degrees do not count.
        """
        self._check(x=x)
        flat, segments = self._flat(x.detach())
        edge = segments.nearest(flat)
        share = dot(flat - segments.start[edge], segments.along[edge])
        share = share.clamp(min=0).minimum(segments.length[edge])
        most = _MOST_BENT / self.inradius
        arcs: Arcs = self._on("_arcs", x.device)
        found = arcs.curvature(edge, share, _WINDOW * self.inradius).clamp(-most, most)
        return found.reshape(*self._batch(x), 1).to(x.dtype)

    def reflect(self, x: Tensor, displacement: Tensor) -> Tensor:
        """The specular move, from edge to edge; a move of more than a thousand pieces ends where it is."""
        x, displacement = self._check_move(x, displacement)
        flat, segments = self._flat(x.detach())
        tolerance = 64 * torch.finfo(x.dtype).eps * self.magnitude  # a start may be outside by as much
        end, met = segments.move(flat, displacement.detach().reshape(-1, 2).double(), tolerance)
        rows = met.nonzero().squeeze(-1)
        if len(rows):
            end[rows] = self.project(end[rows])
        return end.reshape(x.shape).to(x.dtype)

    def geodesic_distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Length ``[*batch]`` of the shortest way from ``x`` to ``y`` inside; batch shapes broadcast.

        Straight where nothing is in between; otherwise along the mesh's sides (Dijkstra), pulled tight around
        corners. One search for each pair that does not see each other: for plots and metrics.
        """
        self._check(x=x, y=y)
        from . import region_geodesic  # which takes networkx

        a, b = torch.broadcast_tensors(self.project(x), self.project(y))
        found = region_geodesic.distances(self, a.reshape(-1, 2).double().cpu(), b.reshape(-1, 2).double().cpu())
        return found.reshape(self._batch(a)).to(x)

    # ------------------------------------------------------------------ size

    @cached_property
    def diameter(self) -> float:
        """Largest distance of two corners."""
        from scipy.spatial import ConvexHull, distance

        corners = np.concatenate(self._rings)
        hull = corners[ConvexHull(corners).vertices]
        return float(distance.pdist(hull).max())

    @cached_property
    def inradius(self) -> float:
        """Radius of a ball that fits inside: the largest that a search from the deepest of 4,096 points found."""
        x = self.sample_uniform(4096, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        x, step = x[self.boundary(x)[0].topk(64).indices], self._segments.cell
        offsets = torch.cartesian_prod(*[torch.linspace(-1, 1, 3, dtype=torch.float64)] * 2)
        for _ in range(60):
            tried = (x.unsqueeze(1) + step * offsets).reshape(-1, 2)
            depth = self.boundary(tried)[0].reshape(len(x), -1)
            x = tried.reshape(len(x), -1, 2)[torch.arange(len(x)), depth.argmax(-1)]
            step *= 0.8
        return float(depth.max())

    @cached_property
    def wall_curvature(self) -> tuple[float, float]:
        """Quantiles of the outline's curvature, over half an inradius of its length."""
        return self._arcs.quantiles(_WIDE_WINDOW * self.inradius)

    @cached_property
    def spectral_gap(self) -> float:
        """The first positive eigenvalue on the mesh, less twice its estimated error."""
        return self._eigenpairs.gap

    @property
    def least_sigma(self) -> float:
        """Noise from which on the kernel is evaluated: five mesh widths, a tenth of the diameter by default."""
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
        """Independent uniform points ``[*shape, 2]``: of the cells that the region meets, those inside."""
        size = batch_shape(shape)
        like = torch.empty(0, device=device, dtype=dtype)
        segments: Segments = self._on("_segments", like.device)
        return segments.sample_uniform(math.prod(size), self.area, generator).reshape(*size, 2).to(like)

    # ------------------------------------------------------------------ units

    def normalised(self, x: Tensor) -> tuple[Domain, Affine | None]:
        """Moved to the origin, if it lies so far from it that single precision would not resolve it."""
        return about_origin(self, lambda middle: Region([r - middle.numpy() for r in self._rings], self.resolution))

    # ------------------------------------------------------------------ values

    def config(self) -> dict[str, Any]:
        """Rings as nested lists, and the resolution."""
        rings = [ring.tolist() for ring in self._rings]
        return {"domain": type(self).__name__, "rings": rings, "resolution": self.resolution}

    def __eq__(self, other: object) -> bool:
        """The same rings and resolution."""
        return isinstance(other, Region) and self._values() == other._values()

    def __hash__(self) -> int:
        """Hash of what :meth:`__eq__` compares."""
        return hash(self._values())

    def __repr__(self) -> str:
        """Rings, corners and area: the corners themselves would fill pages."""
        corners = sum(map(len, self._rings))
        return (
            f"Region(rings={len(self._rings)}, corners={corners}, area={self.area:g}, resolution={self.resolution:g})"
        )

    # ------------------------------------------------------------------ what is made once

    @cached_property
    def mesh(self) -> region_mesh.Mesh:
        """Triangles of about a width of ``diameter / resolution``, made when they are first asked for."""
        return region_mesh.triangulate(self._rings, self.diameter / self.resolution)

    @cached_property
    def graph(self) -> networkx.Graph[Any]:
        """The mesh's sides: nodes are numbers of its points, ``weight`` is a side's length."""
        return region_mesh.graph(self.mesh)

    @cached_property
    def _segments(self) -> Segments:
        return Segments.of(self._rings)

    @cached_property
    def _arcs(self) -> Arcs:
        return Arcs.of(self._rings)

    @cached_property
    def _eigenpairs(self) -> region_spectrum.Eigenpairs:
        return region_spectrum.eigenpairs(self.mesh, 2 * region_spectrum.LEAST_TERM / self.least_sigma**2)

    @cached_property
    def _kernel(self) -> region_spectrum.Kernel:
        return region_spectrum.Kernel.of(self._eigenpairs)

    # ------------------------------------------------------------------ parts

    def _flat(self, x: Tensor) -> tuple[Tensor, Segments]:
        """Points ``[n, 2]`` in float64, and the edges on their device."""
        return x.reshape(-1, 2).double(), self._on("_segments", x.device)

    def _foot(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """The point of the outline nearest to points outside ``[n, 2]``, and a direction that leads inside from it."""
        segments: Segments = self._on("_segments", flat.device)
        edge = segments.nearest(flat)
        share = dot(flat - segments.start[edge], segments.along[edge])
        length, after = segments.length[edge], segments.following[edge]
        foot = segments.start[edge] + share.clamp(min=0).minimum(length).unsqueeze(-1) * segments.along[edge]
        foot = torch.where((share >= length).unsqueeze(-1), segments.start[after], foot)
        inward = torch.where((share <= 0).unsqueeze(-1), segments.inward[edge], segments.normal_of(edge))
        return foot, torch.where((share >= length).unsqueeze(-1), segments.inward[after], inward)

    def _values(self) -> tuple[Any, ...]:
        return (type(self), self.resolution, *((len(r), r.tobytes()) for r in self._rings))
