"""Laws whose noised densities and scores are known exactly: atoms that a heat kernel has spread."""

from __future__ import annotations

import torch
from torch import Tensor

from constrained_diffusion import Domain, ReflectedSDE

_ROWS = 4000


class Atoms:
    """Finitely many points with weights; at time t each is a heat kernel of width sigma(t).

    Args:
        sde: the forward process.
        points: atoms ``[m, *event_shape]``.
        weights: their probabilities ``[m]``; equal by default.
    """

    def __init__(self, sde: ReflectedSDE, points: Tensor, weights: Tensor | None = None) -> None:
        self.sde, self.points = sde, points
        self.weights = torch.full((len(points),), 1 / len(points)).to(points) if weights is None else weights

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        return self.points[torch.multinomial(self.weights, n, replacement=True, generator=generator)]

    def _terms(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        domain: Domain = self.sde.domain
        wide, atoms = x.unsqueeze(-1 - len(domain.event_shape)), self.points
        s = sigma.unsqueeze(-1)
        log_p = domain.heat_kernel_log_prob(wide, atoms, s) + self.weights.log()
        return log_p, domain.heat_kernel_score(wide, atoms, s)

    def log_prob(self, x: Tensor, sigma: Tensor) -> Tensor:
        return torch.logsumexp(self._terms(x, sigma)[0], -1)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """The exact score of the noised law, callable as a score model; by rows that the cache holds."""
        return torch.cat([self._score(*rows) for rows in zip(x.split(_ROWS), t.split(_ROWS), strict=True)])

    def _score(self, x: Tensor, t: Tensor) -> Tensor:
        log_p, scores = self._terms(x, self.sde.sigma(t))
        share = torch.softmax(log_p, -1)
        k = len(self.sde.domain.event_shape)
        return (share.reshape(share.shape + (1,) * k) * scores).sum(-1 - k)
