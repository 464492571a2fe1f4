r"""The annealed family: reverse processes with any share of the noise, from DDIM to ancestral sampling.

For every noise level :math:`0 \le \bar g \le g`, :math:`dx = -(g^2 + \bar g^2)/2\; s\,dt + \bar g\,dB + dL` runs
through the same laws: the reverse SDE at one end, the probability flow at the other (Lou & Ermon 2023, arXiv
2304.04740). On R^d its first-order steps are those of DDIM (Song, Meng & Ermon 2021, arXiv 2010.02502).

May use: the SDE.
"""

from __future__ import annotations

from typing import Unpack

from torch import Generator, Tensor

from ..process import Process, Score
from ..sde import ReflectedSDE
from .base import Condition, Options, Sampler

__all__ = ["AnnealedReflected"]


class AnnealedReflected(Sampler):
    r"""Steps with the noise level eta g: x <- reflect(x, (sigma - sqrt(sigma'^2 - w)) sigma s + sqrt(w) z).

    Here sigma' is the next noise level and :math:`w = \eta^2 \sigma'^2 (\sigma^2 - \sigma'^2) / \sigma^2`. On R^d
    this is DDIM for every eta: deterministic at 0; at 1 ancestral sampling as in DDPM (Ho, Jain & Abbeel 2020,
    arXiv 2006.11239).

    Args:
        process: what to reverse; an SDE if eta > 0.
        score: its model.
        eta: share of the noise, 0 to 1.
        options: ``steps``, ``denoise``, ``grid``; see :class:`Sampler`. One evaluation a step.
    """

    def __init__(self, process: Process, score: Score, *, eta: float = 0.0, **options: Unpack[Options]) -> None:
        super().__init__(process, score, **options)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {eta!r}")
        if eta and not isinstance(process, ReflectedSDE):
            raise TypeError(f"eta adds the noise of a ReflectedSDE; {type(process).__name__} has none")
        self.eta = eta

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor, *, generator: Generator | None, condition: Condition
    ) -> Tensor:
        """One step; see the class."""
        domain = self.process.domain
        sigma, below = self.process.sigma(t), self.process.sigma(t_next)
        w = self.eta**2 * below**2 * (1 - (below / sigma) ** 2)
        move = ((below**2 - w).sqrt() - sigma) * self.slope(x, t, condition)
        if self.eta > 0:
            move = move + w.sqrt() * domain.sample_noise(x, generator=generator)
        return domain.reflect(x, move)
