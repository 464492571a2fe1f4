"""The kernel of sorted points: a permanent of one-dimensional kernels, in the log domain.

May use: torch. Sorted independent coordinates, started at the sorted c0, have the density
sum over permutations pi of prod_i k(c_i | c0_pi(i)). Ryser's formula would cancel in the tails; the
recursion over subsets has only positive terms. Its cost, 2^m m, is why it stops at eight.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

MOST = 8


@functools.cache
def _subsets(m: int) -> list[tuple[Tensor, Tensor]]:
    """For each size r: which (smaller subset, added column) give each subset of size r, as ``[subsets, r]`` indices."""
    plan = []
    by_size: list[list[int]] = [[] for _ in range(m + 1)]
    for s in range(1 << m):
        by_size[s.bit_count()].append(s)
    for r in range(1, m + 1):
        position = {s: i for i, s in enumerate(by_size[r - 1])}
        columns = [[j for j in range(m) if s >> j & 1] for s in by_size[r]]
        smaller = [[position[s ^ (1 << j)] for j in js] for s, js in zip(by_size[r], columns, strict=True)]
        plan.append((torch.tensor(smaller), torch.tensor(columns)))
    return plan


def log_permanent(log_k: Tensor) -> Tensor:
    """Logarithm of the permanent of exp(``log_k``) ``[B, m, m]``, as ``[B]``."""
    m = log_k.shape[-1]
    f = log_k.new_zeros(len(log_k), 1)
    for r, (smaller, columns) in enumerate(_subsets(m)):
        f = torch.logsumexp(f[:, smaller.to(f.device)] + log_k[:, r][:, columns.to(f.device)], -1)
    return f.squeeze(-1)


def log_permanent_and_weights(log_k: Tensor) -> tuple[Tensor, Tensor]:
    """The log-permanent ``[B]``, and the probability ``[B, m, m]`` that row i is matched to column j."""
    graph = torch.is_grad_enabled() and log_k.requires_grad
    with torch.enable_grad():
        leaf = log_k if graph else log_k.detach().requires_grad_()
        value = log_permanent(leaf)
        (weights,) = torch.autograd.grad(value.sum(), leaf, create_graph=graph)
    return (value, weights) if graph else (value.detach(), weights)
