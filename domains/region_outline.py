"""Rings of corners that bound a region: reading, checking, nesting, and finding them in masks and distances.

May use: numpy, torch, contourpy (which matplotlib brings) where used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checks import DomainError, ShapeError
from .lists import Floats
from .region_segments import inside_rings

__all__ = ["area", "depths", "pieces", "read", "rings_of_distance", "rings_of_mask"]

_FLAT = 1e-12  # area against the square of the size below which a ring has none
_PAIRS = 1 << 21


def read(rings: Any) -> list[Floats]:
    """Rings ``[k, 2]`` as they are given, checked and oriented: outer ones counter-clockwise, holes clockwise.

    Args:
        rings: a sequence of arrays, tensors or nested lists of corners; or one of them.

    Raises:
        ShapeError: a ring is not ``[k, 2]`` with k of at least 3.
        DomainError: a number is not finite, a ring has no area, or edges cross or touch.
    """
    found = [_ring(ring, f"rings[{i}]") for i, ring in enumerate(_listed(rings))]
    if not found:
        raise ShapeError("rings must hold at least one ring of corners [k, 2]")
    size = float(np.ptp(np.concatenate(found), axis=0).max())
    for i, ring in enumerate(found):
        if abs(area([ring])) <= _FLAT * size**2:
            raise DomainError(f"rings[{i}] encloses no area: its corners lie on a line, or it crosses itself")
    _refuse_crossings(found)
    return [
        ring if (area([ring]) > 0) == (depth % 2 == 0) else np.ascontiguousarray(ring[::-1])
        for ring, depth in zip(found, depths(found), strict=True)
    ]


def area(rings: Sequence[Floats]) -> float:
    """The area that oriented rings enclose: holes count as negative."""
    total = 0.0
    for ring in rings:
        x, y = (ring - ring[0]).T  # no digits are lost far from the origin
        total += float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2
    return total


def depths(rings: list[Floats]) -> list[int]:
    """How many other rings enclose each; those that an odd number encloses are holes."""
    first = np.stack([ring[0] for ring in rings])
    within = np.stack([inside_rings(first, ring) for ring in rings])
    np.fill_diagonal(within, False)
    return [int(d) for d in within.sum(0)]


def pieces(rings: list[Floats]) -> list[list[Floats]]:
    """The connected pieces of the set that the rings bound: an outer ring each, and the holes right within it."""
    depth = depths(rings)
    outer = [i for i, d in enumerate(depth) if d % 2 == 0]
    found: dict[int, list[Floats]] = {i: [rings[i]] for i in outer}
    for hole, d in enumerate(depth):
        if d % 2:
            around = next(i for i in outer if depth[i] == d - 1 and inside_rings(rings[hole][:1], rings[i])[0])
            found[around].append(rings[hole])
    return list(found.values())


def rings_of_mask(mask: Any, low: Any, high: Any) -> list[Floats]:
    """Rings around the true pixels of an image, by marching squares between the centres of pixels.

    Args:
        mask: ``[rows, columns]``, true or at least one half inside; its first row is at the top.
        low: lower left corner of the image.
        high: upper right corner.
    """
    array = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if array.ndim != 2 or not array.size:
        raise ShapeError(f"mask has shape {list(array.shape)}; expected [rows, columns]")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DomainError("mask must be finite")
    value = np.pad((array[::-1] >= 0.5 if array.dtype.kind == "f" else array[::-1] != 0).astype(np.float64), 1)
    corner, size = _box(low, high)
    width = size / np.array([array.shape[1], array.shape[0]])
    x, y = (corner[i] + width[i] * (np.arange(value.shape[1 - i]) - 0.5) for i in (0, 1))
    return _contours(x, y, value - 0.5, "mask has no pixel inside")


def rings_of_distance(function: Callable[[Tensor], Tensor], low: Any, high: Any, resolution: int) -> list[Floats]:
    """Rings where a function of points ``[n, 2]`` is zero; it is positive inside, as :meth:`Domain.boundary` is.

    Args:
        function: of float64 points; continuous, and near its zeros of a slope that does not vanish.
        low: lower left corner of a box that holds the set.
        high: upper right corner.
        resolution: cells along the longer side.
    """
    if resolution < 4:
        raise ValueError(f"resolution must be at least 4, not {resolution}")
    corner, size = _box(low, high)
    counts = np.maximum(np.ceil(resolution * size / size.max()), 4).astype(int)
    x, y = (np.linspace(corner[i], corner[i] + size[i], counts[i] + 1) for i in (0, 1))
    points = torch.from_numpy(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2))
    value = function(points)
    if not isinstance(value, Tensor) or value.shape != points.shape[:1]:
        what = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ShapeError(f"function returned {what} for points [n, 2]; expected a tensor [n]")
    grid = value.detach().double().cpu().numpy().reshape(len(y), len(x))
    if not np.isfinite(grid).all():
        raise DomainError("function must be finite in the box")
    edge = np.concatenate([grid[0], grid[-1], grid[:, 0], grid[:, -1]])
    if (edge >= 0).any():
        raise DomainError("the set reaches the edge of the box: move low and high apart")
    return _contours(x, y, grid, "function is positive nowhere on the grid: raise resolution, or look at low and high")


# ---------------------------------------------------------------------- parts


def _listed(rings: Any) -> list[Any]:
    """The rings, where one may stand for a list of one."""
    if isinstance(rings, (Tensor, np.ndarray)) and rings.ndim == 2:
        return [rings]
    found = list(rings)
    if found and not isinstance(found[0], (Tensor, np.ndarray)) and len(found[0]) and np.ndim(found[0][0]) == 0:
        return [found]
    return found


def _ring(ring: Any, name: str) -> Floats:
    try:
        array = np.array(ring.detach().cpu().numpy() if isinstance(ring, Tensor) else ring, dtype=np.float64)
    except (TypeError, ValueError):
        raise ShapeError(f"{name} must be an array of corners [k, 2]") from None
    if array.ndim != 2 or array.shape[1] != 2:
        raise ShapeError(f"{name} has shape {list(array.shape)}; expected [k, 2]")
    if not np.isfinite(array).all():
        raise DomainError(f"{name} must be finite; at corner {int((~np.isfinite(array)).any(1).argmax())} it is not")
    array = array[
        (array != np.roll(array, 1, 0)).any(1)
    ]  # no corner twice in a row, nor the first one again at the end
    if len(array) < 3:
        raise ShapeError(f"{name} has {len(array)} different corners; a ring needs at least 3")
    return np.asarray(array, dtype=np.float64)


def _refuse_crossings(rings: list[Floats]) -> None:
    """Raise where two edges that are no neighbours have a point in common, or two neighbours more than one."""
    a = np.concatenate(rings)
    b = np.concatenate([np.roll(r, -1, 0) for r in rings])
    label = np.repeat(np.arange(len(rings)), [len(r) for r in rings])
    number = np.concatenate([np.arange(len(r)) for r in rings])
    size = np.array([len(r) for r in rings])[label]
    order = np.argsort(np.minimum(a[:, 0], b[:, 0]), kind="stable")
    low, high = np.minimum(a, b)[order], np.maximum(a, b)[order]
    last = np.searchsorted(low[:, 0], high[:, 0], side="right")  # edges that begin before this one ends
    counts = last - np.arange(len(a)) - 1
    cuts = np.searchsorted(np.cumsum(counts), np.arange(_PAIRS, counts.sum(), _PAIRS))
    for rows in np.split(np.arange(len(a)), cuts):
        first = np.repeat(rows, counts[rows])
        before = np.repeat(np.cumsum(counts[rows]) - counts[rows], counts[rows])
        second = first + 1 + np.arange(len(first)) - before
        close = (low[first, 1] <= high[second, 1]) & (low[second, 1] <= high[first, 1])
        i, j = order[first[close]], order[second[close]]
        turn = (number[j] - number[i]) % size[i]
        same = label[i] == label[j]
        bad = np.zeros(len(i), dtype=bool)
        for follows, p, q in ((turn == 1, i, j), (turn == size[i] - 1, j, i)):  # q begins where p ends
            back, on = a[p] - b[p], b[q] - a[q]
            across = back[:, 0] * on[:, 1] - back[:, 1] * on[:, 0]
            bad |= same & follows & (across == 0) & ((back * on).sum(1) > 0)
        apart = ~(same & ((turn == 1) | (turn == size[i] - 1)))
        bad |= apart & _meet(a[i], b[i], a[j], b[j])
        if bad.any():
            k = int(bad.argmax())
            raise DomainError(
                f"edge {number[i[k]]} of rings[{label[i[k]]}] (from {_shown(a[i[k]])}) and edge {number[j[k]]} of "
                f"rings[{label[j[k]]}] (from {_shown(a[j[k]])}) cross or touch: rings must be simple and apart; "
                "mend them (such as by shapely.make_valid), or shrink a hole that touches a wall"
            )


def _meet(a: Floats, b: Floats, c: Floats, d: Floats) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether closed segments ``a b`` and ``c d`` with overlapping boxes, each ``[n, 2]``, have a common point."""

    def side(p: Floats, q: Floats, r: Floats) -> Floats:
        u, v = q - p, r - p
        found: Floats = np.sign(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
        return found

    met: np.ndarray[Any, np.dtype[np.bool_]] = side(a, b, c) * side(a, b, d) <= 0
    return met & (side(c, d, a) * side(c, d, b) <= 0)


def _shown(point: Floats) -> str:
    return f"[{point[0]:g}, {point[1]:g}]"


def _box(low: Any, high: Any) -> tuple[Floats, Floats]:
    corner, top = (np.broadcast_to(np.asarray(v, dtype=np.float64), (2,)) for v in (low, high))
    if not (np.isfinite(corner).all() and np.isfinite(top).all() and (top > corner).all()):
        raise DomainError(f"low must lie below high in both coordinates, not {corner.tolist()} and {top.tolist()}")
    return corner, top - corner


def _contours(x: Floats, y: Floats, value: Floats, nothing: str) -> list[Floats]:
    """Closed lines of value zero, without corners in the middle of straight parts."""
    from contourpy import contour_generator

    lines = contour_generator(x, y, value).lines(0.0)
    rings = [_straightened(np.asarray(line, dtype=np.float64)[:-1]) for line in lines if len(line) > 3]
    if not rings:
        raise DomainError(nothing)
    return rings


def _straightened(ring: Floats) -> Floats:
    ring = ring[(ring != np.roll(ring, 1, 0)).any(1)]
    before, after = ring - np.roll(ring, 1, 0), np.roll(ring, -1, 0) - ring
    across = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0])
    kept: Floats = ring[across > 1e-9 * np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)]
    return kept
