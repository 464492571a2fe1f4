"""The symmetrised step: a move that ends outside is mirrored in the wall. May use: a domain's ``boundary``.

Bossy, Gobet & Talay 2004, "A symmetrized Euler scheme for an efficient approximation of reflected diffusions".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .base import Domain

__all__ = ["move"]

_CAP = 64  # pieces into which one move is cut at most before it ends on the wall


def move(domain: Domain, x: Tensor, displacement: Tensor) -> Tensor:
    """End points ``[*batch, *event_shape]``; where a mirror image lies outside too, the move is cut in halves."""
    batch = x.shape[: x.ndim - len(domain.event_shape)]

    left, piece = displacement, torch.ones(batch, dtype=x.dtype, device=x.device)
    for _ in range(_CAP):
        end = domain.expmap(x, domain.expand(piece) * left)
        ahead = domain.transp(x, end, left)
        distance, normal = domain.boundary(end)
        mirrored = domain.expmap(end, -2 * domain.expand(distance) * normal)
        hit = distance < 0
        ok = ~hit | domain.contains(mirrored)
        turned = ahead - 2 * domain.expand(domain.inner(end, ahead, normal)) * normal
        turned = domain.transp(end, mirrored, turned)
        x = torch.where(domain.expand(ok), torch.where(domain.expand(hit), mirrored, end), x)
        rest = domain.expand(1 - piece) * torch.where(domain.expand(hit), turned, ahead)
        left = torch.where(domain.expand(ok), rest, left)
        piece = torch.where(ok, 1.0, piece / 2)
        if not bool(left.any()):
            return x
    return domain.project(domain.expmap(x, domain.expand(piece) * left))
