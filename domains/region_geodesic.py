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

if TYPE_CHECKING:
    from .region import Region

__all__ = ["distances"]

_MOST = 300  # corners beside a way between which lines of sight are tried
_START = 6  # mesh points near an end that it may go to
_BESIDE = 3.0  # mesh widths from the line at which corners are looked at
_ROUNDS, _ENOUGH = 6, 1e-4  # of pulling, and the share of the length that is worth another


def distances(region: Region, x: Tensor, y: Tensor) -> Tensor:
    """Lengths ``[n]`` of the shortest ways between points ``[n, 2]``, float64."""
    found: Tensor = (x - y).norm(dim=-1)
    hidden = (~region._segments.sees(x, y)).nonzero().squeeze(-1).tolist()
    if hidden:
        tree = cKDTree(region.mesh.points)
        for row in hidden:
            found[row] = _tight(region, _way(region, tree, x[row].numpy(), y[row].numpy()))
    return found


def _way(region: Region, tree: Any, start: Floats, end: Floats) -> Floats:
    """The shortest line ``[m, 2]`` along sides of the mesh."""
    points, graph = region.mesh.points, region.graph
    links = []
    for name, point in (("start", start), ("end", end)):
        gaps, near = tree.query(point, min(_START, len(points)))
        here = torch.from_numpy(np.tile(point, (len(near), 1)))
        seen = region._segments.sees(here, torch.from_numpy(points[near])).numpy()
        seen = seen if seen.any() else np.arange(len(near)) == 0
        links += [(name, int(i), float(d)) for i, d in zip(near[seen], gaps[seen], strict=True)]
    graph.add_weighted_edges_from(links)
    try:
        way = networkx.dijkstra_path(graph, "start", "end")
    finally:
        graph.remove_nodes_from(["start", "end"])
    return np.concatenate([start[None], points[way[1:-1]], end[None]])


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
