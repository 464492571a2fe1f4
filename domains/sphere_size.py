"""Volumes and spectral gaps of parts of a sphere. May use: torch, numpy, scipy where used."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .sphere_kernel import log_area

__all__ = ["cap_gap", "log_cap_volume", "log_star_volume", "ritz_gap"]

_CELLS = 1000  # of the difference scheme
_DIRECTIONS = 1 << 16
_MARGIN = 0.8  # what an estimate from above is multiplied by


def log_cap_volume(d: int, angle: float) -> float:
    """Log-volume of the points of S^d within ``angle`` of a pole."""
    from scipy.special import betainc

    half = betainc(d / 2, 0.5, math.sin(angle) ** 2) / 2
    return log_area(d) + math.log(half if angle <= math.pi / 2 else 1 - half)


def log_star_volume(centre: Tensor, reach: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Log-volume of a set that is seen whole from ``centre``: the mean over directions of the volume in each.

    On S^2 directions are even, with an error of 1e-8 or so; above they are random, 65,536 of them.

    Args:
        centre: ``[d + 1]``, float64.
        reach: maps points and unit tangent vectors ``[n, d + 1]`` to how far the set goes on ``[n]``.
    """
    from scipy.special import betainc

    d = len(centre) - 1
    x = centre.expand(_DIRECTIONS, d + 1)
    if d == 2:
        first = torch.linalg.svd(centre.unsqueeze(0)).Vh[1:]
        turn = 2 * math.pi * (torch.arange(_DIRECTIONS, dtype=x.dtype) + 0.5) / _DIRECTIONS
        v = torch.stack([turn.cos(), turn.sin()], -1) @ first
    else:
        v = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
        v = v - (v * x).sum(-1, keepdim=True) * x
        v = v / v.norm(dim=-1, keepdim=True)
    far = reach(x, v).numpy()
    half = betainc(d / 2, 0.5, np.sin(far) ** 2) / 2
    return log_area(d) + math.log(np.where(far <= math.pi / 2, half, 1 - half).mean())


def cap_gap(d: int, angle: float) -> float:
    """Least non-zero Neumann eigenvalue of a cap of S^d: that of functions f(theta), or f(theta) times a direction.

    By differences, which err by some 1e-5 of it; what is returned is as much less.
    """
    from scipy.linalg import eigh_tridiagonal

    h = angle / _CELLS
    middle, edge = (np.arange(_CELLS) + 0.5) * h, np.arange(1, _CELLS) * h
    weight, flow = np.sin(middle) ** (d - 1), np.sin(edge) ** (d - 1) / h**2
    found = []
    for turn, index in ((0, 1), (d - 1, 0)):
        diagonal = np.append(flow, 0.0) + np.append(0.0, flow) + turn * weight / np.sin(middle) ** 2
        root = np.sqrt(weight[1:] * weight[:-1])
        values = eigh_tridiagonal(diagonal / weight, -flow / root, True, "i", (index, index))
        found.append(float(values[0]))
    return min(found) * (1 - 1e-4)


def ritz_gap(x: Tensor) -> float:
    """0.8 of the least Rayleigh quotient of quadratic functions at uniform points ``[n, d + 1]`` of a part."""
    n, size = x.shape
    i, j = torch.triu_indices(size, size)
    eye = torch.eye(size, dtype=x.dtype)
    f = torch.cat([x, x[:, i] * x[:, j]], -1)
    grad = torch.cat([eye.expand(n, size, size), x[:, i, None] * eye[j] + x[:, j, None] * eye[i]], 1)
    grad = grad - (grad @ x.unsqueeze(-1)) * x.unsqueeze(1)
    f = f - f.mean(0)
    energy, variance = torch.einsum("nad,nbd->ab", grad, grad) / n, f.T @ f / n
    values, vectors = torch.linalg.eigh(variance)
    kept = values > 1e-8 * values[-1]
    whiten = vectors[:, kept] * values[kept].rsqrt()
    return _MARGIN * float(torch.linalg.eigvalsh(whiten.T @ energy @ whiten)[0])
