"""Triangles that fill a region: corners of the outline stay, triangles are about as wide as they are told to be.

May use: numpy, scipy, networkx, and shapely (in the extra ``geometry``) for outlines of very many corners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from .checks import SolverError
from .lists import Floats
from .region_outline import area
from .region_segments import Segments

if TYPE_CHECKING:
    import networkx

__all__ = ["Mesh", "graph", "triangulate"]

Ints = npt.NDArray[np.int64]

_ROUNDS = 60  # of cutting boundary edges that the triangles lack
_CLEAR = 0.5  # distance of inner points from the outline, in widths
_SMOOTHED = 3  # times that inner points are moved to the middle of their neighbours
_MOST_CORNERS = 4000  # of an outline that is kept to the last corner
_SIMPLER = 0.1  # widths by which a simpler outline may differ
_FLAT = 1e-9  # area of a triangle against the square of its longest edge


@dataclass(frozen=True)
class Mesh:
    """Triangles.

    Attributes:
        points: ``[p, 2]``.
        triangles: corners ``[t, 3]``, counter-clockwise.
        exact: whether they fill the region itself, and not one of a simpler outline.
    """

    points: Floats
    triangles: Ints
    exact: bool


def triangulate(rings: list[Floats], width: float) -> Mesh:
    """Fill oriented rings with triangles of the given width.

    Edges are cut into parts no longer than ``width``; points of a hexagonal grid fill the inside. Of the Delaunay
    triangles of all points, those inside are kept; parts of edges that are not among their sides are cut in
    halves until all are (Ruppert 1995). Outlines of more than 4,000 corners are simplified by a tenth of the width.

    Raises:
        SolverError: no such triangles were found.
    """
    exact = sum(map(len, rings)) <= _MOST_CORNERS
    if not exact:
        rings = _simpler(rings, _SIMPLER * width)
    segments = Segments.of(rings)
    fixed, links = _resampled(rings, width)
    inner = _hexagonal(segments, width)
    for again in range(_SMOOTHED + 1):
        fixed, links, inner, triangles = _conforming(segments, fixed, links, inner)
        if again < _SMOOTHED and len(inner):
            inner = _smoothed(np.concatenate([fixed, inner]), triangles, len(fixed))
            inner = inner[_depth(segments, inner) > 0]
    points = np.concatenate([fixed, inner])
    total, wanted = float(_areas(points, triangles).sum()), area(rings)
    if abs(total - wanted) > 1e-6 * wanted:
        raise SolverError(
            f"the triangles fill {total:.6g} of an area of {wanted:.6g}: raise resolution, or simplify the outline"
        )
    used, compact = np.unique(triangles, return_inverse=True)
    return Mesh(points[used], compact.reshape(triangles.shape), exact)


def graph(mesh: Mesh) -> networkx.Graph[Any]:
    """The mesh's sides as a graph: nodes are points' numbers, with ``weight`` the length of a side."""
    import networkx

    sides = np.unique(np.sort(mesh.triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1), axis=0)
    lengths = np.linalg.norm(mesh.points[sides[:, 0]] - mesh.points[sides[:, 1]], axis=1)
    found: networkx.Graph[Any] = networkx.Graph()
    found.add_nodes_from(range(len(mesh.points)))
    found.add_weighted_edges_from(zip(sides[:, 0].tolist(), sides[:, 1].tolist(), lengths.tolist(), strict=True))
    return found


# ---------------------------------------------------------------------- parts


def _resampled(rings: list[Floats], width: float) -> tuple[Floats, Ints]:
    """Points of the outline, no further apart than ``width``, and pairs of neighbours."""
    points, links, count = [], [], 0
    for ring in rings:
        step = np.roll(ring, -1, 0) - ring
        parts = np.maximum(np.ceil(np.linalg.norm(step, axis=1) / width), 1).astype(int)
        share = np.concatenate([np.arange(p) / p for p in parts])
        edge = np.repeat(np.arange(len(ring)), parts)
        points.append(ring[edge] + share[:, None] * step[edge])
        number = count + np.arange(len(edge))
        links.append(np.stack([number, np.roll(number, -1)], 1))
        count += len(edge)
    return np.concatenate(points), np.concatenate(links)


def _hexagonal(segments: Segments, width: float) -> Floats:
    """Points of a hexagonal grid that are inside and clear of the outline."""
    low, high = segments.start.numpy().min(0), segments.start.numpy().max(0)
    x, y = np.arange(low[0], high[0], width), np.arange(low[1], high[1], width * np.sqrt(0.75))
    grid = np.stack(np.meshgrid(x, y), -1)
    grid[1::2, :, 0] += width / 2
    points = grid.reshape(-1, 2)
    return points[_depth(segments, points) >= _CLEAR * width]


def _depth(segments: Segments, points: Floats) -> Floats:
    """Distance ``[n]`` from the outline; of points outside, less than zero."""
    x = torch.from_numpy(points)
    gap = segments.distance(x, segments.nearest(x))
    found: Floats = torch.where(segments.contains(x), gap, -1.0).numpy()
    return found


def _conforming(segments: Segments, fixed: Floats, links: Ints, inner: Floats) -> tuple[Floats, Ints, Floats, Ints]:
    """Delaunay triangles inside whose outer sides are the links, after as many of these were cut as need be."""
    for _ in range(_ROUNDS):
        points = np.concatenate([fixed, inner])
        triangles = _delaunay(segments, points)
        lacking = ~_present(triangles, links, len(points))
        if not lacking.any():
            return fixed, links, inner, triangles
        a, b = links[lacking].T
        number = len(fixed) + np.arange(len(a))
        middle = (fixed[a] + fixed[b]) / 2
        half = np.linalg.norm(fixed[a] - fixed[b], axis=1) / 2
        links = np.concatenate([links[~lacking], np.stack([a, number], 1), np.stack([number, b], 1)])
        fixed = np.concatenate([fixed, middle])
        if len(inner):
            from scipy.spatial import cKDTree

            tree = cKDTree(inner)
            crowded = {i for near in tree.query_ball_point(middle, 0.7 * half) for i in near}
            inner = np.delete(inner, sorted(crowded), axis=0)
    raise SolverError(
        f"{int(lacking.sum())} edges of the outline could not be made sides of triangles, near "
        f"{middle[0].tolist()}: it has a very sharp spike there; simplify the outline"
    )


def _delaunay(segments: Segments, points: Floats) -> Ints:
    """Delaunay triangles ``[t, 3]``, counter-clockwise, whose middle is inside."""
    from scipy.spatial import Delaunay

    middle = points.mean(0)
    far = np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]) * 4 * np.abs(points - middle).max()
    # With points far around no side of the outline lies on the hull, whose triangles may be flat.
    found = Delaunay(np.concatenate([points - middle, far])).simplices.astype(np.int64)
    found = found[(found < len(points)).all(1)]
    signed = _areas(points, found)
    found[signed < 0] = found[signed < 0][:, ::-1]
    longest = np.linalg.norm(points[found] - points[np.roll(found, 1, 1)], axis=2).max(1)
    found = found[np.abs(signed) > _FLAT * longest**2]
    inside: npt.NDArray[np.bool_] = segments.contains(torch.from_numpy(points[found].mean(1))).numpy()
    return np.asarray(found[inside], dtype=np.int64)


def _present(triangles: Ints, links: Ints, count: int) -> npt.NDArray[np.bool_]:
    """Which links ``[m, 2]`` are sides of exactly one triangle, with the triangle to their left."""
    sides = triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    left, right = (np.isin(links @ (count, 1), order @ (count, 1)) for order in (sides, sides[:, ::-1]))
    return left & ~right


def _smoothed(points: Floats, triangles: Ints, fixed: int) -> Floats:
    """Inner points in the middle of their neighbours; those that are in no triangle are left out."""
    sides = triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)  # inner sides occur in both directions
    total, count = np.zeros_like(points), np.zeros(len(points))
    np.add.at(total, sides[:, 0], points[sides[:, 1]])
    np.add.at(count, sides[:, 0], 1)
    kept = np.arange(len(points)) >= fixed
    kept &= count > 0
    return total[kept] / count[kept, None]


def _areas(points: Floats, triangles: Ints) -> Floats:
    """Signed areas ``[t]``."""
    a, b, c = (points[triangles[:, i]] for i in range(3))
    u, v = b - a, c - a
    found: Floats = (u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]) / 2
    return found


def _simpler(rings: list[Floats], tolerance: float) -> list[Floats]:
    """The same outline with fewer corners, by a distance of at most ``tolerance``; still one piece with its holes."""
    try:
        import shapely  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise ImportError(
            f"an outline of more than {_MOST_CORNERS} corners is simplified by shapely, which is missing; get it with\n"
            '    python -m pip install "reflected-diffusion[geometry]"'
        ) from error
    outer = max(rings, key=lambda ring: area([ring]))
    whole = shapely.Polygon(outer, [ring for ring in rings if ring is not outer])
    found = shapely.orient_polygons(whole.simplify(tolerance, preserve_topology=True))
    return [np.array(line.coords)[:-1] for line in (found.exterior, *found.interiors)]
