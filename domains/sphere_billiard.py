"""Specular moves on a sphere between small circles: great circles that are mirrored where they meet one.

May use: torch. On the great circle x cos s + u sin s a height n . x is R cos(s - phi), so hits are in closed form.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["move", "reach"]

CAP = 1000  # bounces of one move, before it ends where it is


def reach(x: Tensor, u: Tensor, normals: Tensor, heights: Tensor) -> Tensor:
    """How far great circles from ``x`` along unit vectors ``u`` go on to each wall n . y = c: infinite if they miss it.

    Args:
        x: points ``[B, D]`` with ``normals @ x >= heights``.
        u: unit tangent vectors ``[B, D]``.
        normals: ``[m, D]``, unit vectors.
        heights: ``[m]``.

    Returns:
        Angles ``[B, m]``.
    """
    up, ahead = x @ normals.T, u @ normals.T
    most = torch.hypot(up, ahead)
    share = heights / most.clamp(min=torch.finfo(x.dtype).tiny)
    way = torch.atan2(ahead, up) + share.clamp(-1, 1).acos()
    return torch.where(share <= -1, torch.inf, way.clamp(min=0))


def move(x: Tensor, v: Tensor, normals: Tensor, heights: Tensor) -> Tensor:
    """End points ``[B, D]`` of moves by tangent vectors ``v`` ``[B, D]``; see :func:`reach` for the others."""
    x = x.clone()
    left = v.norm(dim=-1)
    u = v / left.clamp(min=torch.finfo(x.dtype).tiny).unsqueeze(-1)
    rows = left.nonzero().squeeze(-1)
    u, left = u[rows], left[rows]
    for _ in range(CAP):
        if not len(rows):
            break
        y = x[rows]
        first, wall = reach(y, u, normals, heights).min(-1)
        step = torch.minimum(first, left).unsqueeze(-1)
        end = y * step.cos() + u * step.sin()
        u = u * step.cos() - y * step.sin()
        end = end / end.norm(dim=-1, keepdim=True)
        x[rows] = end
        keep = (first < left).nonzero().squeeze(-1)
        rows, left, end, u, n = rows[keep], (left - first)[keep], end[keep], u[keep], normals[wall[keep]]
        n = n - (n * end).sum(-1, keepdim=True) * end
        n = n / n.norm(dim=-1, keepdim=True)
        across = (u * n).sum(-1, keepdim=True)
        u = u + (across.abs() - across) * n  # away from the wall, whatever rounding said
        u = u - (u * end).sum(-1, keepdim=True) * end
        u = u / u.norm(dim=-1, keepdim=True)
    return x
