"""The reverse SDE by Euler-Maruyama steps that reflect (or, for comparison, project).

May use: the SDE. Source: Lou & Ermon 2023, arXiv 2304.04740; weak orders: Bossy, Gobet & Talay 2004.
"""

from __future__ import annotations

from typing import Literal, Unpack

from torch import Generator, Tensor

from ..process import Score
from ..sde import ReflectedSDE
from .base import Condition, Options, Sampler, Variance, checked_variance

__all__ = ["EulerMaruyama"]


class EulerMaruyama(Sampler):
    """x <- reflect(x, v s + sqrt(w) z), v the Brownian time of the step and w a variance that is v to first order.

    Args:
        sde: the forward process to reverse.
        score: its score.
        boundary: ``"reflect"``, or ``"project"``: the thresholding of other samplers, which leaves atoms on
            the walls and is here to be compared with.
        variance: w: ``"small"`` is ancestral sampling, the most accurate for laws in bounded sets; ``"mean"`` is
            so for Gaussian data in R^d; ``"large"`` is v, the method of that name to the letter. See
            :meth:`Sampler.reverse_move`.
        options: ``steps``, ``denoise``, ``grid``; see :class:`Sampler`. One evaluation a step.
    """

    needs = ReflectedSDE

    def __init__(
        self,
        sde: ReflectedSDE,
        score: Score,
        *,
        boundary: Literal["reflect", "project"] = "reflect",
        variance: Variance = "small",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(sde, score, **options)
        if boundary not in ("reflect", "project"):
            raise ValueError(f'boundary must be "reflect" or "project", not {boundary!r}')
        self.boundary, self.variance = boundary, checked_variance(variance)

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor, *, generator: Generator | None, condition: Condition
    ) -> Tensor:
        """One reverse step; see the class."""
        move = self.reverse_move(x, t, t_next, variance=self.variance, generator=generator, condition=condition)
        domain = self.process.domain
        return domain.reflect(x, move) if self.boundary == "reflect" else domain.project(domain.expmap(x, move))
