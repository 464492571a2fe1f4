"""The probability flow by an adaptive solver. May use: the process, the solver."""

from __future__ import annotations

from typing import Unpack

from torch import Generator, Tensor

from ..ode import flow_field, solve
from ..process import Process, Score
from .base import Condition, Options, Sampler
from .grids import checked_grid

__all__ = ["ProbabilityFlow"]


class ProbabilityFlow(Sampler):
    """The flow from prior to data by an adaptive Runge-Kutta method, in the variable log sigma.

    Deterministic: a latent leads to one sample and back (:func:`encode`). The error that is controlled is that of
    the whole batch.

    Args:
        process: what to follow.
        score: its model.
        rtol: relative error allowed in a step.
        atol: absolute error, in units of the domain's inradius (1 where there is none). Both well below what
            sigma_min is in these units: where much of the data lies within a few sigma_min of a wall, such as nearly
            empty parts of a composition, 1e-5 for both is worth its half as many evaluations again.
        method: of torchdiffeq, one that adapts.
        max_evaluations: beyond which :class:`SolverError` is raised, in each of the ``steps``.
        options: ``denoise``, ``grid`` and ``steps`` as for :class:`Sampler`, but one step, which is the default, is
            one whole solution. Frames on the way are further solutions.
    """

    def __init__(
        self,
        process: Process,
        score: Score,
        *,
        rtol: float = 1e-4,
        atol: float = 1e-4,
        method: str = "dopri5",
        max_evaluations: int = 10_000,
        **options: Unpack[Options],
    ) -> None:
        options.setdefault("steps", 1)
        super().__init__(process, score, **options)
        self.rtol, self.atol, self.method, self.max_evaluations = rtol, atol, method, max_evaluations

    def times(self, like: Tensor, frames: int = 0) -> Tensor:
        """The grid, fine enough for that many frames, as times ``[steps + 1]``."""
        return checked_grid(self.grid, self.process, max(self.steps, frames - 1)).to(like)

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor, *, generator: Generator | None, condition: Condition
    ) -> Tensor:
        """The flow from ``t`` to ``t_next``."""
        field = flow_field(self.process, lambda y, time: self.evaluate(y, time, condition))
        (end,) = solve(
            lambda w, state: (field(w, self.process.domain.project(state[0])),),
            (x,),
            self.process.sigma(t).log(),
            self.process.sigma(t_next).log(),
            rtol=self.rtol,
            atol=self.atol * self.process.length,
            method=self.method,
            max_evaluations=self.max_evaluations,
        )
        return self.process.domain.project(end)
