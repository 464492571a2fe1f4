"""Where on the way from sigma_max to sigma_min a sampler stops: grids of sigma. May use: torch, the process.

A grid is any function ``grid(process, steps)`` that returns ``steps + 1`` decreasing values of sigma.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..process import Process

__all__ = ["Grid", "KarrasGrid", "checked_grid", "even_times"]

_ROUNDING = 1e-5  # relative, of grids in single precision

Grid = Callable[[Process, int], Tensor]


def even_times(process: Process, steps: int) -> Tensor:
    """Equal steps of the process's own time, ``[steps + 1]`` in float64."""
    return process.sigma(torch.linspace(1, 0, steps + 1, dtype=torch.float64))


class KarrasGrid:
    """sigma^(1/rho) falls evenly (Karras et al. 2022, arXiv 2206.00364, equation 5).

    Args:
        rho: 1 for equal steps of sigma; the larger, the more steps at little noise.
        sigma_max: where to begin, if below the process's own; on bounded domains little happens above the diameter.
    """

    def __init__(self, rho: float = 7.0, sigma_max: float | None = None) -> None:
        if not (math.isfinite(rho) and rho > 0):
            raise ValueError(f"rho must be positive and finite, not {rho!r}")
        self.rho, self.sigma_max = rho, sigma_max

    def __call__(self, process: Process, steps: int) -> Tensor:
        """The grid ``[steps + 1]``, in float64."""
        most = process.sigma_max if self.sigma_max is None else min(self.sigma_max, process.sigma_max)
        if not most > process.sigma_min:
            raise ValueError(f"sigma_max = {most:g} must exceed the process's sigma_min = {process.sigma_min:g}")
        high, low = most ** (1 / self.rho), process.sigma_min ** (1 / self.rho)
        roots = torch.linspace(high, low, steps + 1, dtype=torch.float64)
        return torch.pow(roots, self.rho)


def checked_grid(grid: Grid, process: Process, steps: int) -> Tensor:
    """The times ``[steps + 1]`` of a grid in float64; raises ValueError for what is none."""
    sigma = torch.as_tensor(grid(process, steps), dtype=torch.float64)
    if sigma.shape != (steps + 1,) or not bool((sigma > 0).all() & (sigma.diff() < 0).all()):
        raise ValueError(f"grid must return {steps + 1} positive, decreasing values of sigma; got {sigma!r}")
    least, most = process.sigma_min, process.sigma_max
    if not bool((sigma >= least * (1 - _ROUNDING)).all() & (sigma <= most * (1 + _ROUNDING)).all()):
        raise ValueError(
            f"grid goes from {float(sigma[0]):g} to {float(sigma[-1]):g}, beyond the process's sigma, from {most:g} to "
            f"{least:g}: its model knows no other noise"
        )
    return process.time(sigma)
