"""Outlines of straight edges in the plane: nearest edge, membership and specular moves, by a grid of candidates.

May use: numpy, torch. A square of cells covers the outline. Each cell lists the edges that may be nearest to one of
its points, and those within one cell of it; lists are found from coarse cells to fine ones. Queries look at
the lists of their cells alone, in double precision, on the device of the points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .facets import Facets
from .lists import PAIRS, Floats, Lists, first_least
from .short_vectors import dot

__all__ = ["Segments", "inside_rings"]

_ROOM = 0.1  # of the square beyond the bounding box, in sides
_CELLS = 4  # per edge, about
_FEWEST, _MOST = 5, 8  # levels of cells: 32 to 256 along a side


@dataclass(frozen=True)
class Segments(Facets):
    """The edges of an outline, interior to their left, and a grid over them.

    Attributes:
        start: ``[n, 2]``, float64.
        along: unit vectors ``[n, 2]`` from there.
        length: ``[n]``.
        inward: unit vectors ``[n, 2]`` into the set, half-way between the edges that meet at each edge's start.
        following: number ``[n]`` of the next edge of the ring, whose start is this one's end to the last bit.
        low: lower left corner of the square of cells, ``[2]``.
        cell: side of a cell.
        side: number of cells along a side.
        near: of each cell, the edges that may be nearest.
        reach: of each cell, the edges within one cell of it.
        clear: a lower bound of the distance of a cell's points to the outline, ``[cells]``.
        inside: whether the centre of each cell is inside, ``[cells]``.
        rows: of each row of cells, the edges that cross it.
    """

    start: Tensor
    along: Tensor
    length: Tensor
    inward: Tensor
    following: Tensor
    low: Tensor
    cell: float
    side: int
    near: Lists
    reach: Lists
    clear: Tensor
    inside: Tensor
    rows: Lists

    @classmethod
    def of(cls, rings: list[Floats]) -> Segments:
        """From rings ``[k, 2]``: outer ones counter-clockwise, holes clockwise."""
        start = np.concatenate(rings)
        step = np.concatenate([np.roll(r, -1, 0) - r for r in rings])
        length = np.linalg.norm(step, axis=1)
        along = step / length[:, None]
        before = np.concatenate([np.roll(np.arange(len(r)), 1) + s for r, s in _with_starts(rings)])
        after = np.concatenate([np.roll(np.arange(len(r)), -1) + s for r, s in _with_starts(rings)])
        inward = np.stack([-along[:, 1], along[:, 0]], 1)
        inward = inward + inward[before]
        inward /= np.maximum(np.linalg.norm(inward, axis=1, keepdims=True), np.finfo(np.float64).tiny)
        low, high = start.min(0), start.max(0)
        size = float((high - low).max()) * (1 + 2 * _ROOM)
        corner = (low + high) / 2 - size / 2
        levels = int(np.clip(np.ceil(np.log2(_CELLS * len(start)) / 2), _FEWEST, _MOST))
        side = 1 << levels
        cell = size / side
        near, reach, clear = _candidates(start, along, length, corner, size, levels)
        first = np.floor((np.minimum(start, start + step)[:, 1] - corner[1]) / cell).astype(np.int64)
        last = np.floor((np.maximum(start, start + step)[:, 1] - corner[1]) / cell).astype(np.int64)
        edges = np.repeat(np.arange(len(start)), last - first + 1)
        within = np.arange(len(edges)) - np.repeat(np.cumsum(last - first + 1) - (last - first + 1), last - first + 1)
        rows = Lists.make(first[edges] + within, edges, side)
        self = cls(
            torch.from_numpy(start),
            torch.from_numpy(along),
            torch.from_numpy(length),
            torch.from_numpy(inward),
            torch.from_numpy(after),
            torch.from_numpy(corner),
            cell,
            side,
            near,
            reach,
            torch.from_numpy(clear),
            torch.zeros(0, dtype=torch.bool),
            rows,
        )
        index = torch.arange(side * side)
        return cls(**{**vars(self), "inside": self._crossings(self.centres(index))})

    @property
    def size(self) -> float:
        """Side of the square of cells."""
        return self.cell * self.side

    # ------------------------------------------------------------------ queries

    def normal_of(self, edge: Tensor) -> Tensor:
        """Inward unit normals ``[*edge, 2]``."""
        along = self.along[edge]
        return torch.stack([-along[..., 1], along[..., 0]], -1)

    def centres(self, index: Tensor) -> Tensor:
        """Centres ``[n, 2]`` of cells ``[n]``."""
        column, row = index % self.side, torch.div(index, self.side, rounding_mode="floor")
        return self.low + self.cell * (torch.stack([column, row], -1) + 0.5)

    def index(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The cell ``[n]`` of each point ``[n, 2]``, or the one next to it; and whether it lies in the square."""
        where = (x - self.low) / self.cell
        good = ((where >= 0) & (where < self.side)).all(-1)
        column, row = where.nan_to_num(0.0).clamp(0, self.side - 0.5).floor().long().unbind(-1)
        return row * self.side + column, good

    def contains(self, x: Tensor) -> Tensor:
        """Whether points ``[n, 2]`` lie inside, by the even-odd rule; on the outline either."""
        index, good = self.index(x)
        out = self.inside[index] & good
        rows = (good & (self.clear[index] <= 0)).nonzero().squeeze(-1)
        if len(rows):
            out[rows] = self._crossings(x[rows])
        return out

    def nearest(self, x: Tensor) -> Tensor:
        """The nearest edge ``[n]`` to each point ``[n, 2]``."""
        index, good = self.index(x)
        edge = torch.zeros(len(x), dtype=torch.long, device=x.device)
        rows = good.nonzero().squeeze(-1)
        for part in self.near.parts(index[rows]):
            some = rows[part]
            pair, item = self.near.of(index[some])
            gap = self._gap(x.index_select(0, some.index_select(0, pair)), item)
            edge[some] = item[first_least(gap, pair, len(some))]
        if len(rows) < len(x):
            every = torch.arange(len(self.length), device=x.device)
            for some in (~good).nonzero().squeeze(-1).split(max(1, PAIRS // len(every))):
                edge[some] = self._gap(x[some].unsqueeze(1), every).argmin(-1)
        return edge

    def distance(self, x: Tensor, edge: Tensor) -> Tensor:
        """Distance ``[n]`` of points ``[n, 2]`` from their edges ``[n]``."""
        gap: Tensor = self._gap(x, edge).sqrt()
        return gap

    # ------------------------------------------------------------------ parts

    def hit(
        self, p: Tensor, d: Tensor, index: Tensor, step: Tensor, tolerance: float, both: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Way ``[n]`` to the first edge that is met within ``step``, or infinity; and its number.

        Edges are met from inside, or from both sides.
        """
        pair, item = self.reach.of(index)
        n, along = self.normal_of(item), self.along.index_select(0, item)
        away, way = p.index_select(0, pair) - self.start.index_select(0, item), d.index_select(0, pair)
        height, speed = dot(away, n), -dot(way, n)
        if both:
            height, speed = height * speed.sign(), speed.abs()
        t = height.clamp(min=0) / torch.where(speed > 0, speed, 1.0)
        share = dot(away, along) + t * dot(way, along)
        length = self.length.index_select(0, item)
        met = (speed > 0) & (height >= -tolerance) & (share >= -tolerance) & (share <= length + tolerance)
        t = torch.where(met & (t <= step.index_select(0, pair)), t, torch.inf)
        first = first_least(t, pair, len(p))
        return torch.where(first < len(t), t[first.clamp(max=len(t) - 1)], torch.inf), item[first.clamp(max=len(t) - 1)]

    def _gap(self, x: Tensor, edge: Tensor) -> Tensor:
        """Squared distance of points ``[*batch, 2]`` from edges ``[n]``, with which their batches broadcast."""
        away, along = x - self.start.index_select(0, edge), self.along.index_select(0, edge)
        share = torch.minimum(dot(away, along).clamp(min=0), self.length.index_select(0, edge))
        off = away - share.unsqueeze(-1) * along
        return dot(off, off)

    def _crossings(self, x: Tensor) -> Tensor:
        """Even-odd rule along a ray to the right, for points ``[n, 2]`` of the square."""
        row = torch.div(self.index(x)[0], self.side, rounding_mode="floor")
        out = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for part in self.rows.parts(row):
            pair, item = self.rows.of(row[part])
            a = self.start[item]
            step = self.along[item] * self.length[item].unsqueeze(-1)
            y, x0 = x[part, 1][pair], x[part, 0][pair]
            end = self.start[self.following[item], 1]
            spans = (a[:, 1] <= y) != (end <= y)
            rise = torch.where(spans, step[:, 1], 1.0)
            hit = spans & (a[:, 0] + (y - a[:, 1]) / rise * step[:, 0] > x0)
            counts = torch.zeros(len(part), dtype=torch.long, device=x.device)
            out[part] = counts.index_add(0, pair, hit.long()) % 2 == 1
        return out


def inside_rings(points: Floats, ring: Floats) -> npt.NDArray[np.bool_]:
    """Which points ``[n, 2]`` a ring ``[k, 2]`` encloses."""
    a, b = ring, np.roll(ring, -1, 0)
    y = points[:, None, 1]
    spans = (a[:, 1] <= y) != (b[:, 1] <= y)
    rise = np.where(spans, b[:, 1] - a[:, 1], 1.0)
    hit = spans & (a[:, 0] + (y - a[:, 1]) / rise * (b[:, 0] - a[:, 0]) > points[:, None, 0])
    odd: npt.NDArray[np.bool_] = hit.sum(1) % 2 == 1
    return odd


def _with_starts(rings: list[Floats]) -> list[tuple[Floats, int]]:
    """Each ring, and the number of the first of its edges."""
    starts = np.cumsum([0, *(len(r) for r in rings)])
    return list(zip(rings, starts[:-1].tolist(), strict=True))


def _candidates(
    start: Floats, along: Floats, length: Floats, corner: Floats, size: float, levels: int
) -> tuple[Lists, Lists, Floats]:
    """Lists of near edges and of edges in reach of each cell, and how clear it is: by halving cells."""
    cell = size / (1 << levels)
    index, edge = np.zeros(len(start), dtype=np.int64), np.arange(len(start))
    for level in range(levels + 1):
        side = 1 << level
        if level:  # each cell of the level above is cut in four, which inherit its candidates
            row, column = np.divmod(index, side // 2)
            index = np.concatenate([(2 * row + i) * side + 2 * column + j for i in (0, 1) for j in (0, 1)])
            edge = np.tile(edge, 4)
        half = size / side / np.sqrt(2)  # half of the diagonal
        centre = corner + size / side * (np.stack([index % side, index // side], 1) + 0.5)
        away = centre - start[edge]
        share = np.clip((away * along[edge]).sum(1), 0, length[edge])
        gap = np.linalg.norm(away - share[:, None] * along[edge], axis=1)
        least = np.full(side * side, np.inf)
        np.minimum.at(least, index, gap)
        near, reach = gap <= least[index] + 2 * half * (1 + 1e-9), gap <= half + cell * (1 + 1e-8)
        if level < levels:
            kept = near | reach
            index, edge = index[kept], edge[kept]
    count = 1 << (2 * levels)
    return (
        Lists.make(index[near], edge[near], count),
        Lists.make(index[reach], edge[reach], count),
        np.maximum(least - half, 0.0),
    )
