"""Specular moves between flat walls, by ray casting in the coordinates of the walls.

May use: torch. A point is followed by its distances from all walls and its speeds towards them; a bounce off
wall i changes the speeds by the i-th row of the walls' Gram matrix. A bounce costs O(walls + dimensions), and
only points that are still moving are kept in the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

CAP = 1000  # bounces of one move, before it ends where it is


def move(x: Tensor, displacement: Tensor, distances: Tensor, normals: Tensor) -> Tensor:
    """Move points along straight lines that are mirrored at the walls.

    Args:
        x: points inside ``[*batch, D]``.
        displacement: moves ``[*batch, D]``.
        distances: of the points from each wall ``[*batch, m]``.
        normals: inward unit normals of the walls ``[m, D]``.

    Returns:
        End points ``[*batch, D]``, inside but for rounding.
    """
    shape = x.shape
    gram = normals @ normals.T
    x, v = x.reshape(-1, shape[-1]).clone(), displacement.reshape(-1, shape[-1])
    gap = distances.reshape(-1, distances.shape[-1]).clamp(min=0)
    speed = v @ normals.T
    rows = ((gap + speed).amin(-1) < 0).nonzero().squeeze(-1)  # those that meet a wall
    free = torch.ones(len(x), 1, dtype=x.dtype, device=x.device).index_fill(0, rows, 0)
    x += free * v
    v, gap, speed = v[rows], gap[rows], speed[rows]
    left = torch.ones(len(rows), dtype=x.dtype, device=x.device)
    for _ in range(CAP):
        # A wall just left is moved away from, by the sign of its speed, so it is not hit again at once.
        first, wall = torch.where(speed < 0, gap / -speed, torch.inf).min(-1)
        step = torch.minimum(first, left).unsqueeze(-1)
        x[rows] += step * v
        keep = (first < left).nonzero().squeeze(-1)
        if not len(keep):
            break
        wall, rows, left = wall[keep], rows[keep], left[keep] - first[keep]
        gap = (gap + step * speed)[keep].clamp(min=0)
        v, speed = v[keep], speed[keep]
        bounce = 2 * speed.gather(-1, wall.unsqueeze(-1))
        v = v - bounce * normals[wall]
        speed = speed - bounce * gram[wall]
    return x.reshape(shape)
