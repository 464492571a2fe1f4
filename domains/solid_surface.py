"""Closed surfaces of triangles that bound a solid: reading, checking, orienting, parting; and finding them on grids.

May use: numpy, scipy, torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checks import DomainError, ShapeError
from .lists import PAIRS, Floats, Ints

__all__ = ["depths", "on_grid", "pieces", "read", "shells", "surface_of_function", "surface_of_mask", "volume"]

_FLAT = 1e-12  # area against the square of the longest side below which a triangle has none
_LEAST_SHARE = 1e-3  # of a grid's edge, next to its ends, in which no vertex is put
_NEXT = [1, 2, 0]


def read(vertices: Any, faces: Any) -> tuple[Floats, Ints]:
    """Vertices and faces as they are given, checked; faces counter-clockwise as seen from outside of the set.

    Vertices at the same place become one, and those of no face are left out.

    Args:
        vertices: ``[v, 3]``.
        faces: numbers of three vertices each, ``[n, 3]``; neighbours run along their common side in opposite ways.

    Raises:
        ShapeError: an array has another shape.
        DomainError: a number is not finite, a face is flat or names no vertex, or the surface is not closed.
    """
    points, corners = _array("vertices", vertices, np.float64), _array("faces", faces, np.int64)
    if not np.isfinite(points).all():
        raise DomainError(f"vertices must be finite; vertex {int((~np.isfinite(points)).any(1).argmax())} is not")
    if (wrong := (corners < 0) | (corners >= len(points))).any():
        raise DomainError(f"faces must hold numbers of vertices, 0 to {len(points) - 1}, not {corners[wrong][0]}")
    used, compact = np.unique(points[corners.ravel()] + 0.0, axis=0, return_inverse=True)
    number = compact.reshape(corners.shape)
    step = used[number[:, _NEXT]] - used[number]
    area = np.linalg.norm(np.cross(step[:, 0], step[:, 1]), axis=1) / 2
    if (flat := area <= _FLAT * np.square(step).sum(2).max(1)).any():
        raise DomainError(f"face {int(flat.argmax())} has no area: its corners lie on a line; leave it out")
    _refuse_open(number, used)
    label = shells(number)
    size = np.array([volume(used, number[label == s]) for s in range(label.max() + 1)])
    nothing = np.abs(size) <= _FLAT * float(np.ptp(used, axis=0).max()) ** 3
    if nothing.any():
        face = int((label == nothing.argmax()).argmax())
        raise DomainError(f"the closed surface of face {face} encloses no volume; leave it out")
    # No outer shell has a volume below zero, and no hole one above.
    flipped = (size < 0) == (np.array(depths(used, number)) % 2 == 0)
    number[flipped[label]] = number[flipped[label]][:, ::-1]
    return used, number


def volume(vertices: Floats, faces: Ints) -> float:
    """The volume that oriented faces enclose."""
    a, b, c = ((vertices - vertices[0])[faces[:, i]] for i in range(3))
    return float((a * np.cross(b, c)).sum()) / 6


def shells(faces: Ints) -> Ints:
    """The number ``[n]`` of the connected surface that each face belongs to."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = int(faces.max()) + 1
    links = coo_array((np.ones(2 * len(faces)), (faces[:, :2].ravel("F"), faces[:, 1:].ravel("F"))), (count, count))
    _, label = np.unique(connected_components(links)[1][faces[:, 0]], return_inverse=True)
    return np.asarray(label, dtype=np.int64).ravel()


def depths(vertices: Floats, faces: Ints) -> list[int]:
    """How many other shells enclose each; those that an odd number encloses are holes."""
    label = shells(faces)
    first = np.array([faces[(label == s).argmax(), 0] for s in range(label.max() + 1)])
    around = [_encloses(vertices, faces[label == s], vertices[first]) for s in range(len(first))]
    within = np.stack(around)
    np.fill_diagonal(within, False)
    return [int(d) for d in within.sum(0)]


def pieces(vertices: Floats, faces: Ints) -> list[tuple[Floats, Ints]]:
    """The connected pieces of the set: vertices and faces of an outer shell each, and of the holes right within it."""
    label, depth = shells(faces), depths(vertices, faces)
    parts = [faces[label == s] for s in range(len(depth))]
    found = {s: [parts[s]] for s, d in enumerate(depth) if d % 2 == 0}
    for hole, d in enumerate(depth):
        if d % 2:
            corner = vertices[parts[hole][:1, 0]]
            around = next(s for s in found if depth[s] == d - 1 and _encloses(vertices, parts[s], corner)[0])
            found[around].append(parts[hole])
    return [(vertices, np.concatenate(piece)) for piece in found.values()]


def surface_of_mask(mask: Any, low: Any, high: Any) -> tuple[Floats, Ints]:
    """The surface around the true voxels of ``[nx, ny, nz]``, half-way between their centres and their neighbours'.

    Args:
        mask: true or at least one half inside.
        low: low corner of the array's box.
        high: its high corner.
    """
    array = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if array.ndim != 3 or not array.size:
        raise ShapeError(f"mask has shape {list(array.shape)}; expected [nx, ny, nz]")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DomainError("mask must be finite")
    value = np.pad((array >= 0.5 if array.dtype.kind == "f" else array != 0).astype(np.float64) - 0.5, 1, "edge")
    for axis in range(3):
        ends = np.moveaxis(value, axis, 0)
        ends[0] = ends[-1] = -0.5
    corner, size = _box(low, high)
    width = size / np.array(array.shape)
    if not (value > 0).any():
        raise DomainError("mask has no voxel inside")
    return on_grid(value, corner - width / 2, width)


def surface_of_function(function: Callable[[Tensor], Tensor], low: Any, high: Any, cells: int) -> tuple[Floats, Ints]:
    """The surface where a function of points ``[n, 3]`` is zero; it is positive inside, as :meth:`Domain.boundary` is.

    Args:
        function: of float64 points; continuous, and near its zeros of a slope that does not vanish.
        low: low corner of a box that holds the set.
        high: its high corner.
        cells: along the longest side.
    """
    if cells < 4:
        raise ValueError(f"cells must be at least 4, not {cells}")
    corner, size = _box(low, high)
    counts = np.maximum(np.ceil(cells * size / size.max()), 4).astype(int)
    axes = [np.linspace(corner[i], corner[i] + size[i], counts[i] + 1) for i in range(3)]
    points = torch.from_numpy(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3))
    value = function(points)
    if not isinstance(value, Tensor) or value.shape != points.shape[:1]:
        what = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ShapeError(f"function returned {what} for points [n, 3]; expected a tensor [n]")
    grid = value.detach().double().cpu().numpy().reshape([len(a) for a in axes])
    if not np.isfinite(grid).all():
        raise DomainError("function must be finite in the box")
    if any((np.moveaxis(grid, axis, 0)[[0, -1]] >= 0).any() for axis in range(3)):
        raise DomainError("the set reaches the edge of the box: move low and high apart")
    if not (grid > 0).any():
        raise DomainError("function is positive nowhere on the grid: raise cells, or look at low and high")
    return on_grid(grid, corner, size / counts)


def on_grid(value: Floats, low: Floats, width: Floats) -> tuple[Floats, Ints]:
    """Marching tetrahedra: the closed surface where values ``[nx, ny, nz]`` change their sign, positive inside.

    Each cell is cut in six tetrahedra around its main diagonal (Kuhn 1960), so that neighbours fit.
    """
    shape = value.shape
    number = np.arange(value.size).reshape(shape)
    begins = np.ndindex(2, 2, 2)
    cut = [number[tuple(slice(b, n - 1 + b) for b, n in zip(begin, shape, strict=True))].ravel() for begin in begins]
    cells = np.stack(cut, 1)
    flat = value.ravel()
    mixed = (flat[cells] > 0).any(1) & (flat[cells] <= 0).any(1)
    tetrahedra = np.concatenate([cells[mixed][:, [0, a, a | b, 7]] for a in (1, 2, 4) for b in (1, 2, 4) if a != b])
    within = flat[tetrahedra] > 0
    order = np.argsort(~within, axis=1, kind="stable")  # those inside first
    tetrahedra, count = np.take_along_axis(tetrahedra, order, 1), within.sum(1)
    one, two, three = (tetrahedra[count == c] for c in (1, 2, 3))
    triples = [
        (one, ((0, 1), (0, 2), (0, 3))),
        (two, ((0, 2), (0, 3), (1, 3))),
        (two, ((0, 2), (1, 3), (1, 2))),
        (three, ((0, 3), (1, 3), (2, 3))),
    ]
    edges = np.concatenate([np.stack([t[:, pair] for pair in sides], 1) for t, sides in triples])
    inner = np.concatenate([t[:, 0] for t, _ in triples])
    places, compact = np.unique(np.sort(edges.reshape(-1, 2), 1), axis=0, return_inverse=True)
    where = np.stack(np.unravel_index(places, shape), -1).astype(np.float64)
    a, b = flat[places].T
    share = np.clip(a / (a - b), _LEAST_SHARE, 1 - _LEAST_SHARE)
    vertices = low + width * (where[:, 0] + share[:, None] * (where[:, 1] - where[:, 0]))
    faces = compact.reshape(-1, 3)
    corner = vertices[faces]
    out = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    middle = low + width * np.stack(np.unravel_index(inner, shape), -1)
    wrong = (out * (corner[:, 0] - middle)).sum(1) < 0
    faces[wrong] = faces[wrong][:, ::-1]
    return vertices, faces.astype(np.int64)


# ---------------------------------------------------------------------- parts


def _array(name: str, value: Any, dtype: Any) -> Any:
    try:
        array = np.array(value.detach().cpu().numpy() if isinstance(value, Tensor) else value)
        found = array.astype(dtype)
    except (TypeError, ValueError, OverflowError):
        raise ShapeError(f"{name} must be an array [n, 3]") from None
    if found.ndim != 2 or found.shape[1] != 3 or not len(found):
        raise ShapeError(f"{name} has shape {list(found.shape)}; expected [n, 3]")
    if dtype is np.int64 and not np.array_equal(found, array):
        raise ShapeError(f"{name} must hold whole numbers")
    return found


def _refuse_open(faces: Ints, vertices: Floats) -> None:
    """Raise where a side is not that of two faces which run along it in opposite ways."""
    sides = np.stack([faces, faces[:, _NEXT]], -1).reshape(-1, 2)
    count = len(vertices)
    forth, back = sides @ np.array([count, 1]), sides[:, ::-1] @ np.array([count, 1])
    where = "face {} from [{:g}, {:g}, {:g}]"

    def shown(row: int) -> str:
        return where.format(row // 3, *vertices[sides[row, 0]])

    times = _times(np.minimum(forth, back))
    if (times == 1).any():
        row = int((times == 1).argmax())
        raise DomainError(
            f"the surface is open: the side of {shown(row)} is that of no other face; close the hole there"
        )
    if (times > 2).any():
        row = int((times > 2).argmax())
        raise DomainError(f"the side of {shown(row)} belongs to more than two faces: part the surfaces that meet there")
    if (same := _times(forth) > 1).any():
        row = int(same.argmax())
        raise DomainError(f"the side of {shown(row)} runs the same way in two faces: turn one round, and so all alike")


def _times(values: Ints) -> Ints:
    """How often each value occurs."""
    _, compact, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray(counts[compact.ravel()], dtype=np.int64)


def _encloses(vertices: Floats, faces: Ints, points: Floats) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which points ``[n, 3]`` a closed surface encloses: those around which its solid angle is not zero."""
    found = np.zeros(len(points), dtype=bool)
    for rows in np.array_split(np.arange(len(points)), len(points) * len(faces) // PAIRS + 1):
        a, b, c = (vertices[faces[:, i]] - points[rows, None] for i in range(3))
        u, v, w = (np.linalg.norm(side, axis=-1) for side in (a, b, c))
        above = (a * np.cross(b, c)).sum(-1)
        below = u * v * w + (a * b).sum(-1) * w + (b * c).sum(-1) * u + (c * a).sum(-1) * v
        found[rows] = np.abs(np.arctan2(above, below).sum(-1)) > np.pi
    return found


def _box(low: Any, high: Any) -> tuple[Floats, Floats]:
    corner, top = (np.broadcast_to(np.asarray(v, dtype=np.float64), (3,)) for v in (low, high))
    if not (np.isfinite(corner).all() and np.isfinite(top).all() and (top > corner).all()):
        raise DomainError(f"low must lie below high in all coordinates, not {corner.tolist()} and {top.tolist()}")
    return corner, top - corner
