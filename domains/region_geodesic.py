"""Shortest ways inside a region.

May use: numpy, torch, networkx, and the region's segments and mesh. A way is found among the mesh's sides; what it sees of
itself, and of the corners near it, makes a small graph of straight pieces, of which the shortest way is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import networkx
import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from .region_segments import Floats

if TYPE_CHECKING:
    from .region import Region

__all__ = ["distances"]

_MOST = 80  # points of a way between which lines of sight are tried
_START = 6  # mesh points near an end that it may go to


def distances(region: Region, x: Tensor, y: Tensor) -> Tensor:
    """Lengths ``[n]`` of the shortest ways between points ``[n, 2]``, float64."""
    found = (x - y).norm(dim=-1)
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
    """Length of the shortest way among points of a line and the outline's corners beside it."""
    width = region.diameter / region.resolution
    corners = np.concatenate([ring.numpy() for ring in region.rings])
    gap = np.linalg.norm(corners[:, None] - line[None], axis=-1).min(1)
    beside = corners[gap < 2 * width][:: max(1, int((gap < 2 * width).sum()) // _MOST)]
    inner = line[1:-1][:: max(1, len(line) // _MOST)]
    points = np.concatenate([line[:1], inner, beside, line[-1:]])
    i, j = np.triu_indices(len(points), 1)
    a, b = torch.from_numpy(points[i]), torch.from_numpy(points[j])
    seen = region._segments.sees(a, b).numpy()
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(points)))
    weights = (a - b).norm(dim=-1).numpy()
    graph.add_weighted_edges_from(zip(i[seen].tolist(), j[seen].tolist(), weights[seen].tolist(), strict=True))
    along = float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())
    try:
        return min(along, float(networkx.dijkstra_path_length(graph, 0, len(points) - 1)))
    except networkx.NetworkXNoPath:
        return along
