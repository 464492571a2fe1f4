"""Outlines of domains in the plane: loops of corners, found from the distance to the wall.

May use: numpy, torch, the interface of a domain, contourpy (which matplotlib brings) where used.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from constrained_diffusion.domains import Domain, DomainError
from constrained_diffusion.domains.checks import ShapeError

from .style import Floats, Points, to_array, to_cloud

__all__ = ["Bools", "is_bounded", "loops_of", "outline_of", "outside_loops", "to_outline"]

Bools = npt.NDArray[np.bool_]

_WIDER = 0.05  # how far the grid reaches beyond the bounding box, in box sides
_ROWS = 1 << 15  # points whose distances are asked at a time
_BENT = 0.98  # cosine of the angle between neighbouring normals from which on there is a corner between them
_ON_WALL = 0.02  # distance from the wall at which a corner is believed, in cells: normals may be estimates
_ROUNDING = 1e-5  # of the outline's size: points so near to it are in the domain
_PAIRS = 1 << 20  # distances from points to edges computed at a time


def outline_of(domain: Domain, resolution: int = 400) -> Floats:
    """The wall of a domain in the plane, for :func:`film_strip` and :func:`compare_2d`.

    The zero contour of the signed distance on a grid, moved onto the wall along the normals; where these turn
    sharply, the corner is where the walls on both sides meet. Parts and holes narrower than a cell can be missed.

    Args:
        domain: of event shape ``[2]`` and dimension 2, bounded; it need not be convex or in one piece.
        resolution: cells of the grid along each side of the bounding box.

    Returns:
        Corners ``[k, 2]``: loops, outer ones and holes in any order, parted by rows of NaN.

    Raises:
        ShapeError: the domain does not lie in the plane.
        DomainError: it is unbounded, or no wall was found.
        ValueError: ``resolution`` is less than 2.
    """
    from contourpy import contour_generator

    if domain.event_shape != (2,) or domain.dim != 2:
        raise ShapeError(
            f"domain must lie in the plane (event shape [2], dimension 2) to have an outline; {domain!r} has event "
            f"shape {list(domain.event_shape)} and dimension {domain.dim}"
        )
    if resolution < 2:
        raise ValueError(f"resolution must be at least 2, not {resolution}")
    if not is_bounded(domain):
        raise DomainError(f"domain must be bounded to have an outline; {domain!r} is not: draw it without one")
    low, high = (to_array(bound) for bound in domain.bounding_box)
    room = _WIDER * (high - low)
    x, y = np.linspace(low - room, high + room, resolution + 1).T
    cell = np.array([x[1] - x[0], y[1] - y[0]])
    lines = contour_generator(x, y, _signed_distance(domain, x, y)).lines(0.0)
    loops = [_sharpened(domain, np.asarray(line, dtype=np.float64), cell) for line in lines if len(line) > 3]
    if not loops:
        raise DomainError(f"domain shows no wall on a grid of {resolution} by {resolution} cells: raise resolution")
    gap = np.full((1, 2), np.nan)
    return np.concatenate([part for loop in loops for part in (gap, loop)][1:])


def is_bounded(domain: Domain) -> bool:
    """Whether there is a bounding box to draw in."""
    return math.isfinite(domain.diameter)


def to_outline(points: Points) -> Floats:
    """Check corners ``[k, 2]``, loops parted by rows of NaN."""
    array = to_array(points)
    finite = array[~np.isnan(array).all(-1)] if array.ndim == 2 else array
    to_cloud("outline", finite, 2)
    if not loops_of(array):
        raise ShapeError(f"outline has {len(finite)} corners and no loop of at least three")
    return array


def loops_of(outline: Floats) -> list[Floats]:
    """The loops ``[k, 2]`` of an outline, each without a repeated last corner."""
    breaks = np.flatnonzero(np.isnan(outline).all(-1))
    parts = [part[~np.isnan(part).all(-1)] for part in np.split(outline, breaks)]
    return [part[:-1] if np.array_equal(part[0], part[-1]) else part for part in parts if len(part) > 2]


def outside_loops(outline: Floats, points: Floats) -> Bools:
    """Which points ``[n, 2]`` lie outside: within an even number of loops, and not on one up to rounding."""
    from matplotlib.path import Path as Curve

    loops = loops_of(outline)
    within = [Curve(np.concatenate([loop, loop[:1]]), closed=True).contains_points(points) for loop in loops]
    outside: Bools = ~np.logical_xor.reduce([np.zeros(len(points), dtype=bool), *within])
    rows = np.flatnonzero(outside)
    starts, ends = (np.concatenate([np.roll(loop, -shift, 0) for loop in loops]) for shift in (0, 1))
    near = _ROUNDING * float(np.ptp(starts, axis=0).max())
    for some in np.array_split(rows, max(1, len(rows) * len(starts) // _PAIRS)):
        outside[some] = _distance(points[some], starts, ends) > near
    return outside


def _distance(points: Floats, starts: Floats, ends: Floats) -> Floats:
    """Distance ``[n]`` of points ``[n, 2]`` to the nearest of m edges."""
    along = ends - starts
    away = points[:, None] - starts
    share = (away * along).sum(-1) / np.maximum((along * along).sum(-1), np.finfo(np.float64).tiny)
    gap: Floats = np.linalg.norm(away - share.clip(0, 1)[..., None] * along, axis=-1)
    return gap.min(1) if len(points) else np.zeros(0)


def _signed_distance(domain: Domain, x: Floats, y: Floats) -> Floats:
    """Distance to the wall ``[rows, columns]`` on a grid; further than a cell from it no more than its sign.

    Membership is cheap and distances are not everywhere, so these are asked only beside the wall.
    """
    points = np.stack(np.meshgrid(x, y), -1)
    flat = torch.from_numpy(points.reshape(-1, 2))
    inside = torch.cat([domain.contains(rows) for rows in flat.split(_ROWS)]).numpy().reshape(points.shape[:-1])
    low, high = inside.copy(), inside.copy()  # whether some, and whether all, of a point and its neighbours are inside
    for axis, shift in ((0, 1), (0, -1), (1, 1), (1, -1)):
        beside = np.roll(inside, shift, axis)  # wraps around an edge of the grid, which is outside everywhere
        low, high = low | beside, high & beside
    value = np.where(inside, 1.0, -1.0)
    band = low & ~high
    value[band] = _boundary(domain, points[band])[0]
    return value


def _boundary(domain: Domain, points: Floats) -> tuple[Floats, Floats]:
    """Signed distances ``[n]`` and inward normals ``[n, 2]``."""
    pairs = [domain.boundary(rows) for rows in torch.from_numpy(points).split(_ROWS)]
    return to_array(torch.cat([d for d, _ in pairs])), to_array(torch.cat([n for _, n in pairs]))


def _sharpened(domain: Domain, line: Floats, cell: Floats) -> Floats:
    """Move the corners of a contour onto the wall, and put in those that the grid cut off."""
    size = float(np.linalg.norm(cell))
    for _ in range(2):
        distance, normal = _boundary(domain, line)
        step = np.where(np.abs(distance) < size, distance, 0.0)  # further away is no wall of this contour
        line = line - step[:, None] * normal
    normal = _boundary(domain, line)[1]
    a, b, n, m = line[:-1], line[1:], normal[:-1], normal[1:]
    turned = np.abs(n[:, 0] * m[:, 1] - n[:, 1] * m[:, 0])
    rows = np.flatnonzero(((n * m).sum(1) < _BENT) & (turned > 1e-3))
    sides = np.stack([n[rows], m[rows]], 1)
    offsets = np.stack([(n * a).sum(1)[rows], (m * b).sum(1)[rows]], 1)
    corners = np.linalg.solve(sides, offsets[..., None])[..., 0]
    near = np.linalg.norm(corners - (a[rows] + b[rows]) / 2, axis=1) < 2 * size
    near &= np.abs(_boundary(domain, corners)[0]) < _ON_WALL * size
    return np.insert(line, rows[near] + 1, corners[near], axis=0)
