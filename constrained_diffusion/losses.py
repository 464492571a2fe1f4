r"""Losses that teach a score.

Denoising score matching (Vincent 2011; on domains with walls Lou & Ermon 2023, arXiv 2304.04740): noise x0 to x, and
regress the score at x on the denoising target u, whose conditional expectation given x is the score of the noised
data.

May use: torch, the SDE.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
from torch import Generator, Tensor

from .sde import ReflectedSDE, Score

__all__ = ["DenoisingScoreMatching"]

_GRID = 1024
_FLOOR = 0.1  # share of uniform times beside importance sampling, so that no weight exceeds ten


class DenoisingScoreMatching:
    r"""Monte Carlo estimate of :math:`\frac12 \int_0^1 \lambda(t)\, E |s(x_t, t) - u|^2 dt`: one time per sample.

    Args:
        sde: the forward process.
        weighting: ``"likelihood"``: lambda = g^2, with which the loss is, up to a constant, a bound on the
            negative log-likelihood in nats (Song et al. 2021, arXiv 2101.09258). ``"fidelity"``: lambda = 2 /
            E|u|^2 (for uniform data), so that each noise level's relative error counts alike; on R^d that is
            lambda proportional to sigma^2.
        time_sampling: ``"importance"`` draws times in proportion to lambda E|u|^2, nine in ten of them, and
            the others uniformly, and divides by that density; ``"uniform"`` draws them uniformly. Both
            estimate the same integral.
    """

    def __init__(
        self,
        sde: ReflectedSDE,
        weighting: Literal["likelihood", "fidelity"] = "likelihood",
        time_sampling: Literal["importance", "uniform"] = "importance",
    ) -> None:
        if weighting not in ("likelihood", "fidelity"):
            raise ValueError(f'weighting must be "likelihood" or "fidelity", not {weighting!r}')
        if time_sampling not in ("importance", "uniform"):
            raise ValueError(f'time_sampling must be "importance" or "uniform", not {time_sampling!r}')
        self.sde, self.weighting, self.time_sampling = sde, weighting, time_sampling

    def weight(self, t: Tensor) -> Tensor:
        """lambda(t), ``[*batch]``."""
        if self.weighting == "likelihood":
            return self.sde.diffusion(t) ** 2
        return 2 / self._target_square(t)

    def sample_times(
        self, shape: torch.Size, like: Tensor, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw times ``[*shape]`` in [0, 1], and the density ``[*shape]`` they were drawn from.

        The draws are stratified: each alone is random, and together they spread evenly.
        """
        n = shape.numel()
        u = torch.rand(n, generator=generator, dtype=like.dtype, device=like.device)
        strata = torch.randperm(n, generator=generator, device=like.device)
        u = ((strata + u) / max(n, 1)).reshape(shape)
        if self.time_sampling == "uniform":
            return u, torch.ones_like(u)
        edges, density = (v.to(like) for v in self._importance)
        cdf = torch.cat([density.new_zeros(1), density.cumsum(0)]) / len(density)
        cell = (torch.searchsorted(cdf, u.contiguous(), right=True) - 1).clamp(0, len(density) - 1)
        t = edges[cell] + (u - cdf[cell]) / density[cell]
        return t.clamp(0, 1), density[cell]

    def __call__(self, score: Score, x0: Tensor, *, generator: Generator | None = None, **condition: Tensor) -> Tensor:
        """Loss of each sample.

        Args:
            score: the score to train.
            x0: data inside the domain, ``[*batch, *event_shape]``.
            generator: source of the times and the noise.
            condition: tensors ``[*batch, ...]`` handed to the score.

        Returns:
            Losses ``[*batch]``, non-negative; their mean is the loss.
        """
        self.sde.check_data("x0", x0)
        domain = self.sde.domain
        batch = x0.shape[: x0.ndim - len(domain.event_shape)]
        t, density = self.sample_times(batch, x0, generator=generator)
        x, target = self.sde.perturb(x0, t, generator=generator)
        error = score(x, t, **condition) - target
        return domain.inner(x, error, error) * self.weight(t) / (2 * density)

    def _target_square(self, t: Tensor) -> Tensor:
        return self.sde.domain.dim * self.sde.target_rms(self.sde.sigma(t)) ** 2

    @cached_property
    def _importance(self) -> tuple[Tensor, Tensor]:
        """Left edges and density of the time cells."""
        edges = torch.arange(_GRID, dtype=torch.float64) / _GRID
        middle = edges + 0.5 / _GRID
        wanted = self.weight(middle) * self._target_square(middle)
        return edges, (1 - _FLOOR) * wanted / wanted.mean() + _FLOOR
