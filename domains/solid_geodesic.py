"""Shortest ways inside a solid.

May use: numpy, scipy, torch, networkx, and the solid's triangles and mesh. A way along the mesh's links is cut short
where it sees itself, and pulled tight: each of many points goes to the middle of its neighbours, and back inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import networkx
import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from .lists import Floats
from .shortest_ways import way

if TYPE_CHECKING:
    from .solid import Solid

__all__ = ["distances", "graph"]

_POINTS = 64  # on a way that is pulled tight
_HALVINGS, _SHORT = 8, 5e-4  # of pieces that cut corners, and how long such a piece may be, in diameters
_PULLS, _OVER = 200, 1.7  # rounds of it, and by how much more than to the middle a point goes


def graph(solid: Solid) -> networkx.Graph[Any]:
    """Links between points of neighbouring cells that see each other: ``place`` of nodes, ``weight`` of links."""
    cells = solid._cells
    met = cells.parts.any(1)
    index = np.stack(np.unravel_index(cells.cells[met], cells.shape), -1)
    centres = torch.from_numpy(cells.low + cells.width * (index + 0.5))
    points = solid.project(centres)
    number = np.full(cells.shape + 2, -1)  # with a rim, so that neighbours are there
    number[tuple(index.T + 1)] = np.arange(len(index))
    found: networkx.Graph[Any] = networkx.Graph()
    found.add_nodes_from((i, {"place": tuple(place)}) for i, place in enumerate(points.tolist()))
    for step in np.ndindex(3, 3, 3):
        if step <= (1, 1, 1):
            continue  # each link once
        other = number[tuple((index + np.array(step)).T)]
        i = np.flatnonzero(other >= 0)
        a, b = points[i], points[other[i]]
        seen = solid._triangles.sees(a, b).numpy()
        lengths = (a - b).norm(dim=-1).numpy()[seen]
        found.add_weighted_edges_from(zip(i[seen].tolist(), other[i][seen].tolist(), lengths.tolist(), strict=True))
    return found


def distances(solid: Solid, x: Tensor, y: Tensor) -> Tensor:
    """Lengths ``[n]`` of the shortest ways between points ``[n, 3]``, float64."""
    found: Tensor = (x - y).norm(dim=-1)
    hidden = (~solid._triangles.sees(x, y)).nonzero().squeeze(-1).tolist()
    if hidden:
        points = np.array([place for _, place in solid.graph.nodes(data="place")])
        tree = cKDTree(points)
        for row in hidden:
            line = way(solid, solid._triangles.sees, solid.graph, tree, x[row].numpy(), y[row].numpy())
            found[row] = _tight(solid, _cut_short(solid, line))
    return found


def _cut_short(solid: Solid, line: Floats) -> Floats:
    """The shortest line ``[m, 3]`` by some points of a line, between any two that see each other."""
    i, j = np.triu_indices(len(line), 1)
    a, b = torch.from_numpy(line[i]), torch.from_numpy(line[j])
    seen = solid._triangles.sees(a, b).numpy() | (j == i + 1)
    short: networkx.Graph[Any] = networkx.Graph()
    weights = (a - b).norm(dim=-1).numpy()[seen]
    short.add_weighted_edges_from(zip(i[seen].tolist(), j[seen].tolist(), weights.tolist(), strict=True))
    found: Floats = line[networkx.dijkstra_path(short, 0, len(line) - 1)]
    return found


def _tight(solid: Solid, line: Floats) -> float:
    """Length of the shortest way near a line ``[m, 3]``."""
    length = np.linalg.norm(np.diff(line, axis=0), axis=1)
    at = np.concatenate([[0.0], np.cumsum(length)])
    even = np.linspace(0, at[-1], _POINTS + 1)
    x = torch.from_numpy(np.stack([np.interp(even, at, line[:, i]) for i in range(3)], 1))
    x = torch.cat([x[:1], solid.project(x[1:-1]), x[-1:]])
    for _ in range(_PULLS):
        for first in (1, 2):  # those at odd places, then those at even ones
            some = torch.arange(first, _POINTS, 2)
            middle = (x[some - 1] + x[some + 1]) / 2
            x[some] = solid.project(x[some] + _OVER * (middle - x[some]))
    for _ in range(_HALVINGS):  # around corners that pieces cut
        cut = ~solid._triangles.sees(x[:-1], x[1:]) & (x.diff(dim=0).norm(dim=-1) > _SHORT * solid.diameter)
        rows = cut.nonzero().squeeze(-1)
        if not len(rows):
            break
        middle = solid.project((x[rows] + x[rows + 1]) / 2)
        x = torch.cat([x, middle])[torch.cat([torch.arange(len(x)), rows + 0.5]).argsort()]
    return float(min(x.diff(dim=0).norm(dim=-1).sum(), at[-1]))
