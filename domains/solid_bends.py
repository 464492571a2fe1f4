"""Curvature of surfaces of triangles: by how much faces turn at the sides that they share, per area.

May use: numpy, scipy, torch. The mean of the principal curvatures, integrated over a patch, is half the sum over its
sides of length times angle (Cohen-Steiner & Morvan 2003). Sides of more than thirty degrees count as edges: where they
turn outwards on balance they are no bends; where they turn inwards, everything counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .lists import PAIRS, Floats, Ints, Lists, OnDevice
from .solid_triangles import Triangles, boxed

__all__ = ["Bends"]

_EDGE = math.radians(30)
_FACES = 2.5  # widths of a face within which what bends is averaged
_POINTS = 2048  # on the surface, for quantiles


@dataclass(frozen=True)
class Bends(OnDevice):
    """Where a surface bends.

    Attributes:
        soft: mean curvature of each face ``[n]`` by sides that are no edges.
        start: of edges ``[m, 3]``.
        along: unit vectors ``[m, 3]``.
        length: ``[m]``.
        angle: by which the faces beside each turn outwards, ``[m]``.
        lists: of each cell of the surface's, the edges within a window of it.
        window: radius of the patch over which edges are averaged.
    """

    soft: Tensor
    start: Tensor
    along: Tensor
    length: Tensor
    angle: Tensor
    lists: Lists
    window: float

    @classmethod
    def of(cls, vertices: Floats, faces: Ints, triangles: Triangles, window: float) -> Bends:
        """Of oriented faces ``[n, 3]`` and their grid."""
        from scipy.spatial import cKDTree

        corners = vertices[faces]
        normal = -triangles.normal.numpy()
        sides = np.sort(np.stack([faces, np.roll(faces, -1, 1)], -1).reshape(-1, 2), 1)
        order = np.lexsort(sides.T[::-1])  # the two faces of a side one after the other
        first, second = order[::2] // 3, order[1::2] // 3
        ends = vertices[sides[order[::2]]]
        step = ends[:, 1] - ends[:, 0]
        length = np.linalg.norm(step, axis=1)
        between = corners[second].mean(1) - corners[first].mean(1)
        outwards = np.sign((between * (normal[second] - normal[first])).sum(1))
        turn = np.linalg.norm(np.cross(normal[first], normal[second]), axis=1)
        angle = outwards * np.arctan2(turn, (normal[first] * normal[second]).sum(1))
        is_edge = np.abs(angle) > _EDGE
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
        bent = np.zeros(len(faces))
        for side in (first, second):  # half of a side's share to each of its faces
            np.add.at(bent, side[~is_edge], (length * angle)[~is_edge] / 4)
        reach = min(window, _FACES * float(np.sqrt(area.mean())))
        near = cKDTree(corners.mean(1)).sparse_distance_matrix(cKDTree(corners.mean(1)), reach, output_type="ndarray")
        total = [np.bincount(near["i"], v[near["j"]], len(faces)) for v in (bent, area)]
        start, step, length, angle = (v[is_edge] for v in (ends[:, 0], step, length, angle))
        half = window + triangles.cell * math.sqrt(3) / 2
        shape = tuple(triangles.shape.tolist())
        low, high = np.minimum(start, start + step), np.maximum(start, start + step)
        first_centre = triangles.low.numpy() + triangles.cell / 2
        cells, which = boxed(low - half, high + half, first_centre, triangles.cell, shape)
        lists = Lists.make(cells, which, math.prod(shape))
        soft, start, along, length, angle = map(
            torch.from_numpy, (total[0] / total[1], start, step / length[:, None], length, angle)
        )
        return cls(soft, start, along, length, angle, lists, window)

    def curvature(self, x: Tensor, face: Tensor, cell: Tensor) -> Tensor:
        """Mean curvature ``[n]`` at points ``[n, 3]`` of faces ``[n]``, in cells ``[n]``."""
        edges = torch.zeros_like(x[:, 0])
        for part in self.lists.parts(cell):
            pair, item = self.lists.of(cell[part])
            turned = self._within(x[part][pair], item, self.window) * self.angle[item]
            edges[part] = torch.zeros_like(edges[part]).index_add(0, pair, turned)
        return self._balance(self.soft[face], edges / (2 * math.pi * self.window**2))

    def quantiles(self, triangles: Triangles, window: float) -> tuple[float, float]:
        """The 5 % and 95 % quantiles of the curvature over the surface, of edges over a window of its own."""
        a, b, c = triangles.corners.unbind(1)
        areas = torch.linalg.cross(b - a, c - a).norm(dim=-1)
        g = torch.Generator().manual_seed(0)
        face = torch.multinomial(areas, _POINTS, replacement=True, generator=g)
        u = torch.rand((2, _POINTS, 1), generator=g, dtype=areas.dtype)
        u = torch.where(u.sum(0) > 1, 1 - u, u)
        x = a[face] + u[0] * (b - a)[face] + u[1] * (c - a)[face]
        edges = torch.zeros_like(x[:, 0])
        every = torch.arange(len(self.length))
        for rows in torch.arange(_POINTS).split(max(1, PAIRS // max(1, len(every)))):
            edges[rows] = (self._within(x[rows].unsqueeze(1), every, window) * self.angle).sum(-1)
        found = self._balance(self.soft[face], edges / (2 * math.pi * window**2))
        low, high = found.quantile(torch.tensor([0.05, 0.95], dtype=found.dtype)).tolist()
        return low, high

    @staticmethod
    def _balance(soft: Tensor, edges: Tensor) -> Tensor:
        every = soft + edges
        return torch.where(every < 0, every, soft.clamp(min=0).minimum(every))

    def _within(self, x: Tensor, edge: Tensor, window: float) -> Tensor:
        """Length of edges within a ball around points."""
        away = x - self.start[edge]
        share = (away * self.along[edge]).sum(-1)
        reach = (window**2 - away.square().sum(-1) + share.square()).clamp(min=0).sqrt()
        found: Tensor = torch.minimum(share + reach, self.length[edge]) - (share - reach).clamp(min=0)
        return torch.where(reach > 0, found.clamp(min=0), 0.0)
