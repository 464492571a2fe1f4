"""Uniform points from Markov chains, and the evidence that the chains have mixed.

May use: torch. A chain is any ``step(x, generator)`` that keeps the uniform law: reflected moves do, whatever their
length.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from .checks import SolverError

_LOG = logging.getLogger("constrained_diffusion")

_GOOD = 1.05  # potential scale reduction below which chains count as mixed
_FIRST, _MOST = 16, 1 << 12  # steps of the first attempt and of the last


@dataclass(frozen=True)
class Mixing:
    """Chains that have mixed.

    Attributes:
        points: where they are ``[chains, *event_shape]``, uniform.
        r_hat: potential scale reduction (Gelman & Rubin 1992), the largest over the coordinates; 1 is perfect.
        steps: that were needed, starting from points far apart.
    """

    points: Tensor
    r_hat: float
    steps: int

    @property
    def chains(self) -> int:
        """How many chains were run."""
        return len(self.points)

    def draw(self, n: int, step: Callable[[Tensor, Generator | None], Tensor], generator: Generator | None) -> Tensor:
        """Draw ``n`` points: chains that start from random ones of these and forget them.

        Each takes eight correlation times tau: chains of L points have (2 tau - 1) / L = R-hat^2 - 1.
        """
        at = self.points.device
        rows = torch.randint(
            self.chains, (n,), generator=generator, device=at if generator is None else generator.device
        )
        x = self.points[rows.to(at)]
        correlation = (1 + (self.steps - self.steps // 2) * (self.r_hat**2 - 1)) / 2
        for _ in range(max(4, math.ceil(8 * correlation))):
            x = step(x, generator)
        return x


def mix(name: str, start: Tensor, step: Callable[[Tensor, Generator | None], Tensor]) -> Mixing:
    """Run chains from ``start`` until their coordinates agree, in twice as many steps each time.

    Args:
        name: of the domain, for messages.
        start: points far apart ``[chains, *event_shape]``.
        step: one step of all chains.

    Returns:
        :class:`Mixing`, which is also logged at level INFO.

    Raises:
        SolverError: they disagree after 4,096 steps.
    """
    generator = torch.Generator(device=start.device).manual_seed(0)
    x, steps, value = start, _FIRST, math.inf
    while steps <= _MOST:
        total = torch.zeros_like(x)
        square = torch.zeros_like(x)
        first, pivot = steps // 2, x
        for k in range(steps):
            x = step(x, generator)
            if k >= first:
                total += x - pivot
                square += (x - pivot) ** 2
        value = r_hat(total + (steps - first) * pivot, square, total, steps - first)
        if value < _GOOD:
            _LOG.info("%s: uniform sampling by %d chains of %d steps, R-hat %.3f", name, len(x), steps, value)
            return Mixing(x, value, steps)
        steps *= 2
    raise SolverError(
        f"{name}: {len(start)} chains had not mixed after {_MOST} steps (R-hat {value:.2f}): "
        "override `sample_uniform`, or check that the set is connected and not very thin"
    )


def r_hat(total: Tensor, square: Tensor, shifted: Tensor, n: int) -> float:
    """The largest potential scale reduction over the coordinates.

    Args:
        total: sum of each chain's ``n`` points ``[chains, ...]``.
        square: sum of the squares of its points less a pivot.
        shifted: sum of its points less that pivot.
        n: points of each chain.
    """
    within = ((square - shifted**2 / n) / (n - 1)).mean(0)
    between = (total / n).var(0)
    still = torch.finfo(total.dtype).eps * between.amax().clamp(min=torch.finfo(total.dtype).tiny)
    ratio = torch.where(between > still, ((n - 1) / n * within + between) / within, 1.0)
    return float(ratio.amax().sqrt())
