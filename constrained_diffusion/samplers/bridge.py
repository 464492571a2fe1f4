r"""Ancestral sampling through the reflected Brownian bridge, where the kernel is exact.

As in DDPM (Ho, Jain & Abbeel 2020, arXiv 2006.11239): predict the data x0 from x, then draw the point at the next
noise level from its law given both. On R^d that law is a Gaussian; in a domain with walls it is that of reflected
Brownian motion tied down at x0 and x, :math:`p(z) \propto K_{s}(z | x_0) K_{r}(x | z)`.

May use: the SDE.
"""

from __future__ import annotations

from typing import Unpack

from torch import Generator, Tensor

from ..process import Score
from ..sde import ReflectedSDE
from .base import Condition, Options, Sampler

__all__ = ["ReflectedBridge"]

_ITERATIONS = 8


class ReflectedBridge(Sampler):
    """x <- a draw of the reflected bridge from the predicted x0 to x, at the next noise level.

    The prediction is that x0 from which the kernel's score at x is the model's: x + sigma^2 s on R^d, and further
    from a wall near one. It is found by fixed-point steps.

    Args:
        sde: the forward process to reverse, over a domain with an exact kernel.
        score: its score.
        options: ``steps``, ``denoise``, ``grid``; see :class:`Sampler`. One evaluation a step.
    """

    needs = ReflectedSDE

    def __init__(self, sde: ReflectedSDE, score: Score, **options: Unpack[Options]) -> None:
        super().__init__(sde, score, **options)
        if not sde.domain.has_exact_kernel:
            raise ValueError(
                f"{sde.domain!r} has no exact kernel, so no bridge: use EulerMaruyama or AnnealedReflected"
            )

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor, *, generator: Generator | None, condition: Condition
    ) -> Tensor:
        """One draw; see the class."""
        x0 = self.predict(x, self.evaluate(x, t, condition), t)
        sigma, below = self.process.sigma(t), self.process.sigma(t_next)
        return self.process.domain.sample_bridge(x0, x, below, sigma, generator=generator)

    def predict(self, x: Tensor, score: Tensor, t: Tensor) -> Tensor:
        """The point x0 for which the kernel's score at ``x`` and scalar time ``t`` is ``score``."""
        domain, sigma = self.process.domain, self.process.sigma(t)
        x0 = domain.project(x + sigma**2 * score)
        for _ in range(_ITERATIONS):
            x0 = domain.project(x0 + sigma**2 * (score - domain.heat_kernel_score(x, x0, sigma)))
        return x0
