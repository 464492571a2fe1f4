"""Shortest ways inside a region.

May use: numpy, scipy, torch, networkx, and the region's segments and mesh. A way is found among the mesh's sides. What
it sees of itself, and of the corners near it, makes a small graph of straight pieces, whose shortest way is taken.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import networkx
import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from .lists import Floats
from .shortest_ways import way

if TYPE_CHECKING:
    from .region import Region

__all__ = ["distances"]

_MOST = 300  # corners beside a way between which lines of sight are tried
_BESIDE = 3.0  # mesh widths from the line at which corners are looked at
_ROUNDS, _ENOUGH = 6, 1e-4  # of pulling, and the share of the length that is worth another


def distances(region: Region, x: Tensor, y: Tensor) -> Tensor:
    """Lengths ``[n]`` of the shortest ways between points ``[n, 2]``, float64."""
    found: Tensor = (x - y).norm(dim=-1)
    hidden = (~region._segments.sees(x, y)).nonzero().squeeze(-1).tolist()
    if hidden:
        tree = cKDTree(region.mesh.points)
        for row in hidden:
            line = way(region, region._segments.sees, region.graph, tree, x[row].numpy(), y[row].numpy())
            found[row] = _tight(region, line)
    return found


def _tight(region: Region, line: Floats) -> float:
    """Length of the shortest way near a line ``[m, 2]``: again and again among its points and the corners beside it."""
    width = region.diameter / region.resolution
    corners = np.concatenate([ring.numpy() for ring in region.rings])
    length = _length(line)
    for _ in range(_ROUNDS):
        near = cKDTree(_filled(line, width)).query(corners)[0]
        beside = corners[near < _BESIDE * width]
        points = np.concatenate([line[:1], line[1:-1], _some(beside), line[-1:]])
        i, j = np.triu_indices(len(points), 1)
        a, b = torch.from_numpy(points[i]), torch.from_numpy(points[j])
        seen = region._segments.sees(a, b).numpy()
        weights = (a - b).norm(dim=-1).numpy()
        graph: networkx.Graph[Any] = networkx.Graph()
        graph.add_nodes_from((0, len(points) - 1))
        graph.add_weighted_edges_from(zip(i[seen].tolist(), j[seen].tolist(), weights[seen].tolist(), strict=True))
        try:
            line = points[networkx.dijkstra_path(graph, 0, len(points) - 1)]
        except networkx.NetworkXNoPath:
            break
        before, length = length, min(length, _length(line))
        if length > (1 - _ENOUGH) * before:
            break
    return length


def _length(line: Floats) -> float:
    return float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())


def _some(points: Floats) -> Floats:
    """At most some three hundred of the points."""
    return points[:: len(points) // _MOST + 1]


def _filled(line: Floats, width: float) -> Floats:
    """Points ``[k, 2]`` along a line, no further apart than ``width``."""
    parts = [
        a + np.linspace(0, 1, int(np.linalg.norm(b - a) / width) + 2)[:, None] * (b - a) for a, b in pairwise(line)
    ]
    return np.concatenate(parts)
