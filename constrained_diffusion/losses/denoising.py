"""Denoising score matching: regress the score of noised data on a target that comes with the noise."""

from __future__ import annotations

from torch import Generator, Tensor

from .base import ScoreMatching

__all__ = ["DenoisingScoreMatching"]


class DenoisingScoreMatching(ScoreMatching):
    r"""Monte Carlo estimate of :math:`\frac12 \int_0^1 \lambda(t)\, E |s(x_t, t) - u|^2 dt`: one time per sample.

    x0 is noised to x, and the score at x regressed on the denoising target u, whose conditional expectation
    given x is the score of the noised data (Vincent 2011; on domains with walls Lou & Ermon 2023, arXiv
    2304.04740). Over a :class:`RectifiedFlow` the same regression, of velocities, is flow matching. Norms are in the
    domain's metric. Arguments as in :class:`ScoreMatching`; the losses are non-negative.
    """

    def noise(self, x0: Tensor, t: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Noised points and their denoising targets."""
        return self.sde.perturb(x0, t, generator=generator)
