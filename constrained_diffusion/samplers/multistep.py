"""The probability flow by a second-order multistep method on a grid of sigma: one evaluation a step.

May use: the process. Sources: Lu et al. 2022, arXiv 2211.01095 (DPM-Solver++ 2M, of which this is the reflected form).
"""

from __future__ import annotations

from torch import Generator, Tensor

from .base import Condition, Sampler

__all__ = ["Multistep"]


class Multistep(Sampler):
    """Exact for denoised points that change linearly with log sigma, which is extrapolated from the last step.

    With D = x - sigma dx/dsigma the denoised point, h = log(sigma / sigma') and D* = D + (h / 2 h_last) (D - D_last),
    the step is x <- reflect(x, (1 - sigma' / sigma) (D* - x)). The first step is of first order. On curved sets, and
    where angles go round, D - D_last is a tangent vector at x, to which what belongs to the last point is carried.

    Args:
        process: what to follow.
        score: its model.
        steps: number of steps; one evaluation each.
        denoise: end with a denoising step.
        grid: of sigma.
    """

    def begin(self) -> None:
        """Start a run, with nothing to look back on."""
        super().begin()
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def step(
        self, x: Tensor, t: Tensor, t_next: Tensor, *, generator: Generator | None, condition: Condition
    ) -> Tensor:
        """One step; see the class. It looks back on the step taken before it, until :meth:`begin`."""
        sigma, below = self.process.sigma(t), self.process.sigma(t_next)
        h = (sigma / below).log()
        toward = -sigma * self.slope(x, t, condition)  # D - x
        domain, ahead = self.process.domain, toward
        if self._last is not None:
            last, toward_last, h_last = self._last
            drift = toward - domain.transp(last, x, toward_last) - domain.logmap(x, last)
            ahead = toward + h / (2 * h_last) * drift
        self._last = x, toward, h
        return domain.reflect(x, (1 - below / sigma) * ahead)
