"""Closed surfaces of triangles: nearest triangle, membership and specular moves.

May use: numpy, scipy, torch. Boxes of cells cover the surface; each cell lists the triangles within one cell of it, and
each column of cells those above and below. The nearest triangle is found down a tree of boxes around
triangles, from the distance of a good guess on. All in double precision, on the device of the points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .facets import Facets
from .lists import PAIRS, Floats, Ints, Lists, first_least
from .short_vectors import dot

__all__ = ["Triangles", "boxed"]

_ROOM = 0.02  # beyond the bounding box, in its longest side
_FEWEST, _MOST = 12, 72  # cells along the longest side
_LEAF, _LEVELS = 4, 2  # triangles in a leaf of the tree; halvings from one of its levels to the next
_ROWS = 1 << 12  # points whose nearest triangle is looked for at a time
_NEXT = [1, 2, 0]


@dataclass(frozen=True)
class Triangles(Facets):
    """The triangles of a closed surface, and what finds them.

    Attributes:
        corners: ``[n, 3, 3]``, float64.
        normal: inward unit normals ``[n, 3]``.
        sides: in each triangle's plane, unit vectors across its three sides that point into it, ``[n, 3, 3]``.
        inward: vectors into the set ``[n, 7, 3]`` at a triangle's face, its sides 01, 12, 20, and its corners 0, 1, 2:
            means of the normals that meet there, by their angles.
        order: triangles in the order of the tree's leaves, ``[leaves, 4]``.
        boxes: of each level of the tree, from the top, low and high corners ``[m, 2, 3]``.
        low: low corner of the cells, ``[3]``.
        cell: side of a cell.
        shape: cells along each axis, ``[3]``.
        reach: of each cell, the triangles within one cell of it.
        columns: of each column of cells along the first axis, the triangles that cross it.
        clear: a lower bound of the distance of a cell's points to the surface, ``[cells]``.
        guess: of each cell, a triangle near it.
        inside: whether the points of a cell that is clear lie inside, ``[cells]``.
    """

    corners: Tensor
    normal: Tensor
    sides: Tensor
    inward: Tensor
    order: Tensor
    boxes: tuple[Tensor, ...]
    low: Tensor
    cell: float
    shape: Tensor
    reach: Lists
    columns: Lists
    clear: Tensor
    guess: Tensor
    inside: Tensor

    @classmethod
    def of(cls, vertices: Floats, faces: Ints) -> Triangles:
        """From vertices ``[v, 3]`` and faces ``[n, 3]``, counter-clockwise as seen from outside of the set."""
        corners = vertices[faces]
        across = -np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normal = across / np.linalg.norm(across, axis=1, keepdims=True)
        sides = np.cross(corners[:, _NEXT] - corners, normal[:, None])
        sides /= np.linalg.norm(sides, axis=2, keepdims=True)
        base, top = corners.min((0, 1)), corners.max((0, 1))
        size = float((top - base).max())
        base, top = base - _ROOM * size, top + _ROOM * size
        width = float(np.sqrt(np.linalg.norm(across, axis=1).mean() / 2))
        cell = float(np.clip(width, size / _MOST, size / _FEWEST))
        shape = np.ceil((top - base) / cell).astype(np.int64)
        order, boxes = _tree(corners)
        columns = _columns(corners, base, cell, shape)
        none = Lists(torch.zeros(1, dtype=torch.long), torch.zeros(0, dtype=torch.long))
        empty = torch.zeros(0, dtype=torch.long)
        bare = cls(
            torch.from_numpy(corners),
            torch.from_numpy(normal),
            torch.from_numpy(sides),
            torch.from_numpy(_inward(vertices, faces, corners, normal)),
            torch.from_numpy(order),
            boxes,
            torch.from_numpy(base),
            cell,
            torch.from_numpy(shape),
            none,
            columns,
            empty,
            empty,
            empty,
        )
        return bare._with_cells()

    @property
    def size(self) -> float:
        """Length of the longest side of the boxes of cells."""
        return self.cell * int(self.shape.max())

    # ------------------------------------------------------------------ queries

    def normal_of(self, facet: Tensor) -> Tensor:
        """Inward unit normals ``[*facet, 3]``."""
        return self.normal[facet]

    def centres(self, index: Tensor) -> Tensor:
        """Centres ``[n, 3]`` of cells ``[n]``."""
        row, third = _divided(index, int(self.shape[2]))
        return self.low + self.cell * (torch.stack([*_divided(row, int(self.shape[1])), third], -1) + 0.5)

    def index(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The cell ``[n]`` of each point ``[n, 3]``, or the one next to it; and whether it lies in the boxes."""
        where = (x - self.low) / self.cell
        good = ((where >= 0) & (where < self.shape)).all(-1)
        i, j, k = torch.minimum(where.nan_to_num(0.0).clamp(min=0), self.shape - 0.5).floor().long().unbind(-1)
        return (i * self.shape[1] + j) * self.shape[2] + k, good

    def contains(self, x: Tensor) -> Tensor:
        """Whether points ``[n, 3]`` lie inside, by the even-odd rule; on the surface either."""
        index, good = self.index(x)
        out = self.inside[index] & good
        rows = (good & (self.clear[index] <= 0)).nonzero().squeeze(-1)
        if len(rows):
            out[rows] = self._crossings(x[rows])
        return out

    def nearest(self, x: Tensor) -> Tensor:
        """The nearest triangle ``[n]`` to each point ``[n, 3]``."""
        return torch.cat([self._down(part) for part in x.split(_ROWS)]) if len(x) else self.guess[:0]

    def distance(self, x: Tensor, facet: Tensor) -> Tensor:
        """Distance ``[n]`` of points ``[n, 3]`` from their triangles ``[n]``."""
        gap: Tensor = self._gap(x, facet).sqrt()
        return gap

    def foot(self, x: Tensor, facet: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest point ``[n, 3]`` of each triangle ``[n]``, and what it lies on, ``[n]``, as in :attr:`inward`."""
        corners, away, share, gap = self._to_sides(x, facet)
        side = gap.argmin(-1, keepdim=True)
        share = share.gather(-1, side).squeeze(-1)
        rows, begin = torch.arange(len(x), device=x.device), side.squeeze(-1)
        end = (begin + 1) % 3
        step = corners[rows, end] - corners[rows, begin]
        foot = corners[rows, begin] + share.unsqueeze(-1) * step
        what = torch.where(share <= 0, 4 + begin, torch.where(share >= 1, 4 + end, 1 + begin))
        height = dot(away[:, 0], self.normal[facet]).unsqueeze(-1)
        over = (dot(away, self.sides[facet]) >= 0).all(-1)
        foot = torch.where(over.unsqueeze(-1), x - height * self.normal[facet], foot)
        return foot, torch.where(over, 0, what)

    def hit(
        self, p: Tensor, d: Tensor, index: Tensor, step: Tensor, tolerance: float, both: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Way ``[n]`` to the first triangle that is met within ``step``, or infinity; and its number."""
        pair, item = self.reach.of(index)
        normal = self.normal[item]
        height, speed = dot(p[pair] - self.corners[item, 0], normal), -dot(d[pair], normal)
        if both:
            height, speed = height * speed.sign(), speed.abs()
        t = height.clamp(min=0) / torch.where(speed > 0, speed, 1.0)
        near = ((speed > 0) & (height >= -tolerance) & (t <= step[pair])).nonzero().squeeze(-1)
        pair, item, t = pair[near], item[near], t[near]
        place = p[pair] + t.unsqueeze(-1) * d[pair]
        depth = dot(place.unsqueeze(1) - self.corners[item], self.sides[item]).amin(-1)
        t = torch.where(depth >= -tolerance, t, torch.inf)
        if not len(t):
            return torch.full_like(step, torch.inf), torch.zeros_like(index)
        first = first_least(t, pair, len(p))
        found = first.clamp(max=len(t) - 1)
        return torch.where(first < len(t), t[found], torch.inf), item[found]

    # ------------------------------------------------------------------ parts

    def _to_sides(self, x: Tensor, facet: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Corners ``[n, 3, 3]``, ways from them, shares of the sides, and squared distances from them ``[n, 3]``."""
        corners = self.corners[facet]
        away = x.unsqueeze(1) - corners
        step = corners[:, _NEXT] - corners
        share = (dot(away, step) / dot(step, step)).clamp(0, 1)
        off = away - share.unsqueeze(-1) * step
        return corners, away, share, dot(off, off)

    def _gap(self, x: Tensor, facet: Tensor) -> Tensor:
        """Squared distance ``[n]`` of points ``[n, 3]`` from triangles ``[n]``."""
        _, away, _, gap = self._to_sides(x, facet)
        over = (dot(away, self.sides[facet]) >= 0).all(-1)
        return torch.where(over, dot(away[:, 0], self.normal[facet]).square(), gap.amin(-1))

    def _down(self, x: Tensor) -> Tensor:
        """The nearest triangle ``[n]``, down the tree: boxes further away than what is known are left out."""
        best = self.guess[self.index(x)[0]]
        least = self._gap(x, best)
        pair = torch.arange(len(x), device=x.device)
        node = torch.zeros_like(pair)
        for level, boxes in enumerate(self.boxes):
            children = len(boxes) if level == 0 else 1 << _LEVELS
            pair = pair.repeat_interleave(children)
            node = (node.unsqueeze(-1) * children + torch.arange(children, device=x.device)).flatten()
            p, (low, high) = x[pair], boxes[node].unbind(1)
            off = torch.maximum(torch.maximum(low - p, p - high), torch.zeros_like(p))
            gap = dot(off, off)
            near = (gap < least[pair]).nonzero().squeeze(-1)
            pair, node = pair[near], node[near]
        pair, item = pair.repeat_interleave(_LEAF), self.order[node].flatten()
        plane = dot(x[pair] - self.corners[item, 0], self.normal[item]).square()
        near = (plane < least[pair]).nonzero().squeeze(-1)
        pair, item = pair[near], item[near]
        for rows in torch.arange(len(pair), device=x.device).split(PAIRS):
            if not len(rows):
                break
            gap = self._gap(x[pair[rows]], item[rows])
            first = first_least(gap, pair[rows], len(x))
            found = first.clamp(max=len(gap) - 1)
            better = (first < len(gap)) & (gap[found] < least)
            best, least = torch.where(better, item[rows][found], best), torch.where(better, gap[found], least)
        return best

    def _crossings(self, x: Tensor) -> Tensor:
        """Even-odd rule along a ray in the direction of the first axis, for points ``[n, 3]`` in the boxes.

        Sides are crossed, seen along the ray, by the same numbers for both triangles that they part, so that no ray
        slips between these.
        """
        index = self.index(x)[0]
        column = index % (self.shape[1] * self.shape[2])
        out = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for part in self.columns.parts(column):
            pair, item = self.columns.of(column[part])
            p, corners = x[part][pair], self.corners[item]
            after = corners[:, _NEXT]
            y, z = p[:, 1:2], p[:, 2:3]
            up = (corners[..., 2] <= after[..., 2]).unsqueeze(-1)
            a, b = torch.where(up, corners, after), torch.where(up, after, corners)
            spans = (a[..., 2] <= z) & (z < b[..., 2])
            rise = torch.where(spans, b[..., 2] - a[..., 2], 1.0)
            beyond = spans & (a[..., 1] + (z - a[..., 2]) / rise * (b[..., 1] - a[..., 1]) > y)
            within = beyond.sum(-1) % 2 == 1
            n = self.normal[item]
            sideways = ((p - corners[:, 0]) * n)[:, 1:].sum(-1)
            first = corners[:, 0, 0] - sideways / torch.where(n[:, 0] == 0, 1.0, n[:, 0])
            first = torch.minimum(torch.maximum(first, corners[..., 0].amin(-1)), corners[..., 0].amax(-1))
            hit = within & (first > p[:, 0])
            counts = torch.zeros(len(part), dtype=torch.long, device=x.device)
            out[part] = counts.index_add(0, pair, hit.long()) % 2 == 1
        return out

    def _with_cells(self) -> Triangles:
        """The same with lists of the triangles in reach of cells, and what is known of these."""
        from scipy import ndimage

        shape = tuple(self.shape.tolist())
        half, base = self.cell * np.sqrt(3) / 2, self.low.numpy()
        radius = half + self.cell * (1 + 1e-8)
        corners = self.corners.numpy()
        index, item = boxed(corners.min(1) - radius, corners.max(1) + radius, base + self.cell / 2, self.cell, shape)
        parts = []
        for rows in torch.arange(len(index)).split(PAIRS // 4):
            some, t = index[rows.numpy()], torch.from_numpy(item[rows.numpy()])
            x = self.centres(torch.from_numpy(some))
            height = ((x - self.corners[t, 0]) * self.normal[t]).sum(-1).abs()
            kept = (height <= radius).nonzero().squeeze(-1)
            gap = self._gap(x[kept], t[kept]).sqrt()
            close = gap <= radius
            kept = kept[close]
            parts.append((some[kept.numpy()], t[kept].numpy(), gap[close].numpy()))
        cells, which, gaps = (np.concatenate(part) for part in zip(*parts, strict=True))
        count = int(np.prod(shape))
        least, guess = np.full(count, np.inf), np.zeros(count, dtype=np.int64)
        down = np.argsort(-gaps, kind="stable")
        least[cells[down]], guess[cells[down]] = gaps[down], which[down]  # the last one written is the nearest
        crossed = least <= half
        away, nearest = ndimage.distance_transform_edt(~crossed.reshape(shape), return_indices=True)
        far = np.ravel_multi_index(tuple(nearest), shape).ravel()
        listed = np.isfinite(least)
        clear = np.where(
            listed,
            np.maximum(least - half, 0.0),
            np.maximum(away.ravel() - np.sqrt(3), 1.0) * self.cell,
        )
        clear[crossed] = 0.0
        pieces, number = ndimage.label((clear > 0).reshape(shape))
        representative = np.zeros(number + 1, dtype=np.int64)
        representative[pieces.ravel()] = np.arange(count)
        within = self._crossings(self.centres(torch.from_numpy(representative))).numpy()
        return Triangles(
            **{
                **vars(self),
                "reach": Lists.make(cells, which, count),
                "clear": torch.from_numpy(clear),
                "guess": torch.from_numpy(np.where(listed, guess, guess[far])),
                "inside": torch.from_numpy(within[pieces.ravel()]),
            }
        )


def _divided(index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    return torch.div(index, size, rounding_mode="floor"), index % size


def _inward(vertices: Floats, faces: Ints, corners: Floats, normal: Floats) -> Floats:
    """Vectors ``[n, 7, 3]``, by the angles at which faces meet (Baerentzen & Aanaes 2005)."""
    step = corners[:, _NEXT] - corners
    step /= np.linalg.norm(step, axis=2, keepdims=True)
    angle = np.arccos(np.clip(-(step * step[:, [2, 0, 1]]).sum(2), -1, 1))
    at_corner = np.zeros_like(vertices)
    np.add.at(at_corner, faces, angle[..., None] * normal[:, None])
    pairs = np.sort(np.stack([faces, faces[:, _NEXT]], -1).reshape(-1, 2), 1)
    _, side = np.unique(pairs, axis=0, return_inverse=True)
    across = np.zeros((side.max() + 1, 3))
    np.add.at(across, side.ravel(), np.repeat(normal, 3, 0))
    found = np.concatenate([normal[:, None], across[side].reshape(-1, 3, 3), at_corner[faces]], 1)
    found /= np.maximum(np.linalg.norm(found, axis=2, keepdims=True), np.finfo(np.float64).tiny)
    return np.asarray(found, dtype=np.float64)


def _tree(corners: Floats) -> tuple[Ints, tuple[Tensor, ...]]:
    """A balanced tree: triangles in the order of its leaves ``[leaves, 4]``, and boxes of every second level.

    Nodes are halved at the middle of their longest side.
    """
    levels = max(0, int(np.ceil(np.log2(len(corners) / _LEAF))))
    size = _LEAF << levels
    order = np.concatenate([np.arange(len(corners)), np.full(size - len(corners), len(corners) - 1)])
    middle = corners.mean(1)
    for level in range(levels):
        groups = order.reshape(1 << level, -1)
        where = middle[groups]
        axis = np.ptp(where, axis=1).argmax(-1)
        key = np.take_along_axis(where, axis[:, None, None], 2).squeeze(2)
        order = np.take_along_axis(groups, np.argsort(key, axis=1, kind="stable"), 1).ravel()
    kept = range(levels, -1, -_LEVELS)
    boxes = []
    for level in reversed(kept):
        points = corners[order].reshape(1 << level, -1, 3)
        boxes.append(torch.from_numpy(np.stack([points.min(1), points.max(1)], 1)))
    return order.reshape(-1, _LEAF), tuple(boxes)


def boxed(low: Floats, high: Floats, first: Floats, cell: float, shape: tuple[int, ...]) -> tuple[Ints, Ints]:
    """Pairs of a cell whose centre lies in a box ``low .. high`` ``[n, d]``, and the number of the box."""
    begin = np.ceil((low - first) / cell).astype(np.int64).clip(min=0)
    end = np.minimum(np.floor((high - first) / cell).astype(np.int64), np.array(shape) - 1)
    counts = np.maximum(end - begin + 1, 0)
    total = counts.prod(1)
    which = np.repeat(np.arange(len(low)), total)
    offset = np.arange(len(which)) - np.repeat(np.cumsum(total) - total, total)
    index = np.zeros(len(which), dtype=np.int64)
    scale = 1
    for axis in range(len(shape) - 1, -1, -1):
        index += scale * (begin[which, axis] + offset % counts[which, axis])
        offset = offset // counts[which, axis]
        scale *= shape[axis]
    return index, which


def _columns(corners: Floats, base: Floats, cell: float, shape: Ints) -> Lists:
    """Of each column ``[cells along the second axis * along the third]`` the triangles that cross it."""
    flat = corners[..., 1:]
    slack = cell * (0.5 + 1e-6)
    sizes = (int(shape[1]), int(shape[2]))
    column, item = boxed(flat.min(1) - slack, flat.max(1) + slack, base[1:] + cell / 2, cell, sizes)
    return Lists.make(column, item, sizes[0] * sizes[1])
