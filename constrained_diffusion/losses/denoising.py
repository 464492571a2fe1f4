"""Denoising score matching: regress the score of noised data on a target that comes with the noise."""

from __future__ import annotations

from torch import Generator, Tensor

from ..sde import Score
from .base import ScoreMatching

__all__ = ["DenoisingScoreMatching"]


class DenoisingScoreMatching(ScoreMatching):
    r"""Monte Carlo estimate of :math:`\frac12 \int_0^1 \lambda(t)\, E |s(x_t, t) - u|^2 dt`: one time per sample.

    x0 is noised to x, and the score at x regressed on the denoising target u, whose conditional expectation
    given x is the score of the noised data (Vincent 2011; on domains with walls Lou & Ermon 2023, arXiv
    2304.04740). Norms are in the domain's metric. Arguments as in :class:`ScoreMatching`; the losses are
    non-negative.
    """

    def at(
        self, score: Score, x0: Tensor, t: Tensor, *, generator: Generator | None = None, **condition: Tensor
    ) -> Tensor:
        """Half the squared distance to the target, ``[*batch]``; see :meth:`ScoreMatching.at`."""
        x, target = self.sde.perturb(x0, t, generator=generator)
        error = score(x, t, **condition) - target
        return self.sde.domain.inner(x, error, error) / 2
