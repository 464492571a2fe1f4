"""Noise schedules: the Brownian standard deviation sigma as a function of time t in [0, 1].

Time 0 is data, time 1 is the prior. May use: torch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["CustomSchedule", "GeometricSchedule", "Schedule"]


class Schedule(ABC):
    """An increasing sigma(t) > 0 on [0, 1].

    Attributes:
        sigma_min: noise at time 0, in the units of the data.
        sigma_max: noise at time 1.
    """

    sigma_min: float
    sigma_max: float

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Brownian standard deviation at times ``t``, of the same shape."""

    def diffusion(self, t: Tensor) -> Tensor:
        """The coefficient g(t) = sqrt(d sigma^2 / dt) of the noise, of the same shape; by autograd here."""
        with torch.enable_grad():
            leaf = t.detach().requires_grad_()
            (slope,) = torch.autograd.grad((self.sigma(leaf) ** 2).sum(), leaf)
        return slope.clamp(min=0).sqrt()


class GeometricSchedule(Schedule):
    """sigma(t) = sigma_min (sigma_max / sigma_min)^t: equal time for each octave of noise.

    Source: Song et al. 2021, arXiv 2011.13456.

    Args:
        sigma_min: noise at time 0, positive, in the units of the data.
        sigma_max: noise at time 1, larger.
    """

    def __init__(self, sigma_min: float, sigma_max: float) -> None:
        if not (math.isfinite(sigma_max) and 0 < sigma_min < sigma_max):
            raise ValueError(
                f"need 0 < sigma_min < sigma_max < inf; got sigma_min={sigma_min!r}, sigma_max={sigma_max!r}"
            )
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)

    def sigma(self, t: Tensor) -> Tensor:
        """See the class."""
        return self.sigma_min * torch.exp(t * math.log(self.sigma_max / self.sigma_min))

    def diffusion(self, t: Tensor) -> Tensor:
        """sigma(t) sqrt(2 log(sigma_max / sigma_min))."""
        return self.sigma(t) * math.sqrt(2 * math.log(self.sigma_max / self.sigma_min))

    def __repr__(self) -> str:
        """Name and arguments."""
        return f"GeometricSchedule({self.sigma_min:g}, {self.sigma_max:g})"


class CustomSchedule(Schedule):
    """A schedule given as a function.

    Args:
        function: maps a tensor of times in [0, 1] to standard deviations of the same shape: positive,
            increasing, differentiable by autograd.

    Raises:
        ValueError: the function is not positive and increasing on a grid of 257 times.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        grid = torch.linspace(0, 1, 257, dtype=torch.float64)
        values = function(grid)
        if values.shape != grid.shape or not bool(values.isfinite().all()):
            raise ValueError("schedule must map a tensor of times to finite standard deviations of the same shape")
        if not bool((values > 0).all()):
            raise ValueError(f"schedule must be positive on [0, 1]; its least value is {float(values.min()):g}")
        down = (values.diff() <= 0).nonzero()
        if len(down):
            raise ValueError(f"schedule must increase on [0, 1]; it does not at t = {float(grid[down[0, 0]]):.3f}")
        self.sigma_min, self.sigma_max = float(values[0]), float(values[-1])

    def sigma(self, t: Tensor) -> Tensor:
        """The given function."""
        return self.function(t)
