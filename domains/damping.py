"""Letting the normal component of a vector field vanish at the walls, and leaving the tangential one.

May use: torch, and a domain's ``walls`` and ``covector``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .base import Domain


_SOFTEST = 1e-7  # share of a normal component that may be left on the wall itself: the rounding of single precision
_MANY = 64  # walls beyond which it may be left in double precision too


def ramp(distance: Tensor, width: Tensor, inradius: float) -> Tensor:
    """0 at the wall, 1 a few widths away; never so wide that the middle of the domain is damped."""
    return torch.tanh(distance.clamp(min=0) / width.clamp(max=0.5 * inradius))


def damp(v: Tensor, normals: Tensor, conormals: Tensor, h: Tensor) -> Tensor:
    r"""The minimiser u of :math:`|u - v|^2 + \sum_i (1/h_i - 1) (n_i \cdot u)^2`.

    Args:
        v: vectors ``[*batch, D]``.
        normals: unit normals of the walls ``[*batch, m, D]``.
        conormals: what takes a vector to its component along each; the normals themselves in the metric of R^D.
        h: 0 at each wall, 1 far from it, ``[*batch, m]``.

    Returns:
        Vectors ``[*batch, D]``.
    """
    m, size = normals.shape[-2:]
    across = (conormals @ v.unsqueeze(-1)).squeeze(-1)
    if m == 1:
        push = (1 - h) * across
    elif m > (max(size, _MANY) if v.dtype == torch.float64 else size):
        # The system of the vector's components is smaller, but stiff: in double precision.
        n, c, w = normals.double(), conormals.double(), ((1 - h) / h.clamp(min=_SOFTEST)).double()
        matrix = torch.eye(size, dtype=n.dtype, device=n.device) + (n.mT * w.unsqueeze(-2)) @ c
        damped: Tensor = torch.linalg.solve(matrix, v.double().unsqueeze(-1)).squeeze(-1)
        return damped.to(v.dtype)
    else:
        gram = conormals @ normals.mT
        matrix = torch.diag_embed(h + torch.finfo(v.dtype).eps) + (1 - h).unsqueeze(-1) * gram
        push = torch.linalg.solve(matrix, ((1 - h) * across).unsqueeze(-1)).squeeze(-1)
    return v - (normals.mT @ push.unsqueeze(-1)).squeeze(-1)


def damp_normal(domain: Domain, x: Tensor, v: Tensor, width: Tensor) -> Tensor:
    """Vectors ``[*batch, *event_shape]`` at ``x``, damped at all walls in reach of ``width`` ``[*batch]``."""
    k = len(domain.event_shape)
    distances, normals = domain.walls(x)
    h = ramp(distances, width.unsqueeze(-1), domain.inradius)
    conormals = domain.covector(x.unsqueeze(x.ndim - k).expand_as(normals), normals)
    normals, conormals = (n.flatten(n.ndim - k) for n in (normals, conormals))
    return damp(v.flatten(v.ndim - k), normals, conormals, h).reshape(v.shape)
