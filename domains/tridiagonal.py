"""Batched tridiagonal systems by elimination, O(n). May use: torch."""

from __future__ import annotations

import torch
from torch import Tensor


def solve(lower: Tensor, diagonal: Tensor, upper: Tensor, rhs: Tensor) -> Tensor:
    """Solve A p = rhs for diagonally dominant A, without pivoting (Thomas algorithm).

    Args:
        lower: entries A[i, i - 1], ``[*batch, n - 1]``.
        diagonal: entries A[i, i], ``[*batch, n]``.
        upper: entries A[i, i + 1], ``[*batch, n - 1]``.
        rhs: ``[*batch, n]``.

    Returns:
        p, ``[*batch, n]``.
    """
    below, above = lower.unbind(-1), upper.unbind(-1)
    pivots, values = [diagonal[..., 0]], [rhs[..., 0]]
    for i, (d, b) in enumerate(zip(diagonal.unbind(-1)[1:], rhs.unbind(-1)[1:], strict=True)):
        ratio = below[i] / pivots[-1]
        pivots.append(d - ratio * above[i])
        values.append(b - ratio * values[-1])
    p = [values[-1] / pivots[-1]]
    for i in range(len(above) - 1, -1, -1):
        p.append((values[i] - above[i] * p[-1]) / pivots[i])
    return torch.stack(p[::-1], -1)
