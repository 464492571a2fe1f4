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
    least = torch.finfo(x.dtype).tiny
    gap = distances.reshape(-1, distances.shape[-1]).clamp(min=least)
    speed = v @ normals.T
    rows = ((gap + speed).amin(-1) < 0).nonzero().squeeze(-1)  # those that meet a wall
    free = torch.ones(len(x), 1, dtype=x.dtype, device=x.device).index_fill(0, rows, 0)
    x += free * v
    v, gap, speed = (of.index_select(0, rows) for of in (v, gap, speed))
    left = torch.ones(len(rows), dtype=x.dtype, device=x.device)
    for _ in range(CAP):
        # A wall just left is moved away from, by the sign of its speed, so it is not hit again at once.
        wall = (speed / gap).min(-1).indices  # the wall that would be met first
        toward = speed.gather(-1, wall.unsqueeze(-1))
        first = torch.where(toward < 0, gap.gather(-1, wall.unsqueeze(-1)) / -toward, torch.inf).squeeze(-1)
        step = torch.minimum(first, left).unsqueeze(-1)
        x.index_add_(0, rows, step * v)
        keep = (first < left).nonzero().squeeze(-1)
        if not len(keep):
            break
        left = left - first
        wall, rows, left, gap, v, speed, step = (
            of.index_select(0, keep) for of in (wall, rows, left, gap, v, speed, step)
        )
        gap = (gap + step * speed).clamp(min=least)
        bounce = 2 * speed.gather(-1, wall.unsqueeze(-1))
        v = v - bounce * normals.index_select(0, wall)
        speed = speed - bounce * gram.index_select(0, wall)
    return x.reshape(shape)
