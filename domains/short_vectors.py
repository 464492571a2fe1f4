"""Products of vectors of two or three numbers, component by component: reductions over so short an axis are slow.

May use: torch.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["dot"]


def dot(u: Tensor, v: Tensor) -> Tensor:
    """Inner products ``[*batch]`` of vectors ``[*batch, d]``; batch shapes broadcast."""
    total = u[..., 0] * v[..., 0]
    for i in range(1, u.shape[-1]):
        total = torch.addcmul(total, u[..., i], v[..., i])
    return total
