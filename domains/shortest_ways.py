"""Shortest ways along a mesh between points that do not see each other. May use: networkx, scipy, torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import networkx
import numpy as np
import torch
from torch import Tensor

from .checks import SolverError
from .lists import Floats

__all__ = ["way"]

_START = 6  # mesh points near an end that it may go to


def way(
    domain: object,
    sees: Callable[[Tensor, Tensor], Tensor],
    network: networkx.Graph[Any],
    tree: Any,
    start: Floats,
    end: Floats,
) -> Floats:
    """The shortest line ``[m, d]`` from start to end along the links of a mesh.

    Args:
        domain: named in messages.
        sees: whether the straight way between points ``[n, d]`` stays inside, ``[n]``.
        network: the mesh, its points numbered, its links weighted by their lengths.
        tree: a k-d tree of its points.
        start: a point ``[d]``.
        end: a point ``[d]``.

    Raises:
        SolverError: the mesh does not connect them.
    """
    points = tree.data
    links = []
    for name, point in (("start", start), ("end", end)):
        gaps, near = tree.query(point, min(_START, len(points)))
        here = torch.from_numpy(np.tile(point, (len(near), 1)))
        seen = sees(here, torch.from_numpy(points[near])).numpy()
        seen = seen if seen.any() else np.arange(len(near)) == 0
        links += [(name, int(i), float(d)) for i, d in zip(near[seen], gaps[seen], strict=True)]
    network.add_weighted_edges_from(links)
    try:
        names = networkx.dijkstra_path(network, "start", "end")
    except networkx.NetworkXNoPath:
        raise SolverError(
            f"the mesh of {domain!r} is too coarse to lead from {start} to {end}: raise resolution"
        ) from None
    finally:
        network.remove_nodes_from(["start", "end"])
    return np.concatenate([start[None], points[names[1:-1]], end[None]])
