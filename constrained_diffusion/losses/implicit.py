r"""Implicit and sliced score matching: the score's own divergence takes the place of a denoising target.

For a field s whose normal component vanishes on the wall, the divergence theorem gives, for the density p of
the noised data and any target u with conditional expectation :math:`\nabla \log p`,

.. math:: E\left[\tfrac12 |s|^2 + \operatorname{div} s\right]
          = \tfrac12 E |s - u|^2 - \tfrac12 E |u|^2 + \oint p\, (s \cdot n_{out})\, dA,

with the last term zero (Hyvarinen 2005; with walls, Hyvarinen 2007): the same minimiser as denoising, from noised
points alone. The last term is why the score must have s . n = 0 on the wall, as
:class:`~constrained_diffusion.ScoreModel` has. Where the normal component is free the loss is unbounded below: it
pays to point hard away from the wall in a thin layer beside it. Where *all* of the score is damped the loss is sound
but the tangential score near the wall, which does not vanish there, cannot be learnt. And the score must be
differentiable: whatever of its damping or of its features autograd does not see is missing from the divergence.

The price is variance. At small noise div s is about -dim/sigma^2 and |s|^2 about dim/sigma^2, each with a spread of
sqrt(dim)/sigma^2 that does not fall as the score becomes right, whereas the denoising loss of R^d goes to the
conditional variance of u. Prefer denoising wherever :meth:`Domain.diffuse` gives targets. At large noise, where u is
exponentially small, a weight of 1/E|u|^2 would do the same to div s: these losses count E|u|^2 as
dim / inradius^2 at least.
"""

from __future__ import annotations

import operator

import torch
from torch import Generator, Tensor

from ..divergence import value_and_trace
from ..process import Process, Score
from ..sde import ReflectedSDE
from .base import ScoreMatching, TimeSampling, Weighting

__all__ = ["ImplicitScoreMatching", "SlicedScoreMatching"]


class ImplicitScoreMatching(ScoreMatching):
    r"""Monte Carlo estimate of :math:`\int_0^1 \lambda(t)\, E[\frac12 |s|^2 + \operatorname{div} s]\, dt`.

    Hyvarinen 2005 ("Estimation of non-normalized statistical models by score matching"). It differs from
    :class:`DenoisingScoreMatching` by a constant that does not depend on the score, *provided that the
    score has no normal component on the wall* (see the module). The divergence is exact, at the cost of ``dim``
    backward passes. Losses can be negative. Its variance is large at small noise, like 1/sigma^4.

    Arguments as in :class:`ScoreMatching`.
    """

    least_square = 1.0

    def noise(self, x0: Tensor, t: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, None]:
        """Noised points; no target is needed."""
        return _noise(self.sde, x0, t, generator)

    def local(
        self,
        score: Score,
        x: Tensor,
        t: Tensor,
        target: Tensor | None,
        *,
        generator: Generator | None = None,
        **condition: Tensor,
    ) -> Tensor:
        """|s|^2 / 2 + div s, ``[*batch]``."""
        domain = self.sde.domain
        s, divergence = value_and_trace(domain, lambda y: score(y, t, **condition), x, domain.frame(x))
        return domain.inner(x, s, s) / 2 + divergence.sum(0)


class SlicedScoreMatching(ScoreMatching):
    r"""Monte Carlo estimate of :math:`\int_0^1 \lambda(t)\, E[\frac12 |s|^2 + z \cdot J z]\, dt`, z standard normal.

    :class:`ImplicitScoreMatching` with the divergence estimated from random projections, in the variance-reduced
    form that keeps the exact ``|s|^2`` (Song, Garg, Shi & Ermon 2019, "Sliced Score Matching", arXiv 1905.07088). One
    backward pass for each projection, whatever the dimension; the same condition on the wall.

    Args:
        sde, weighting, time_sampling: as in :class:`ScoreMatching`.
        projections: random directions for each sample; the variance they add falls with their number.
    """

    least_square = 1.0

    def __init__(
        self,
        sde: ReflectedSDE,
        weighting: Weighting = "likelihood",
        time_sampling: TimeSampling = "importance",
        projections: int = 1,
    ) -> None:
        super().__init__(sde, weighting, time_sampling)
        try:
            self.projections = operator.index(projections)
        except TypeError:
            raise TypeError(f"projections must be an integer, not {projections!r}") from None
        if self.projections < 1:
            raise ValueError(f"projections must be positive, not {projections!r}")

    def noise(self, x0: Tensor, t: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, None]:
        """Noised points; no target is needed."""
        return _noise(self.sde, x0, t, generator)

    def local(
        self,
        score: Score,
        x: Tensor,
        t: Tensor,
        target: Tensor | None,
        *,
        generator: Generator | None = None,
        **condition: Tensor,
    ) -> Tensor:
        """|s|^2 / 2 + z . J z, ``[*batch]``."""
        domain = self.sde.domain
        z = torch.stack([domain.sample_noise(x, generator=generator) for _ in range(self.projections)])
        s, terms = value_and_trace(domain, lambda y: score(y, t, **condition), x, z)
        return domain.inner(x, s, s) / 2 + terms.mean(0)


def _noise(sde: Process, x0: Tensor, t: Tensor, generator: Generator | None) -> tuple[Tensor, None]:
    if not isinstance(sde, ReflectedSDE):
        raise TypeError(f"implicit score matching needs a ReflectedSDE, not a {type(sde).__name__}")
    return sde.domain.noise(x0, sde.sigma(t), generator=generator), None
