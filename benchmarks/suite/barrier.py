r"""Diffusion in the metric of a log-barrier (Fishman, Klarner, De Bortoli et al. 2023, arXiv 2304.05364).

In {x : A x <= b} let G(x) be the Hessian of the barrier -sum log(b - A x). The noising

    dX = 1/2 div(G^-1) dt + G^(-1/2) dW

slows down towards the walls, never reaches them, and has the uniform law as its limit. Its reversal adds to the
same drift v = G^-1 grad log p_t, which a network learns by implicit score matching: E[v . G v / 2 + div v].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

import torch
from torch import Generator, Tensor

from constrained_diffusion import MLP, Euclidean

if TYPE_CHECKING:
    from methods import Budget

_STEPS = 100  # of a noising path
_SHORTEST, _LONGEST = 1e-4, 8.0  # times, in units of the metric, in which distances from the middle are of order one
_REUSE = 4  # gradient steps for each simulated batch


class BarrierDiffusion:
    """A model of points ``[n, d]`` in a polytope.

    Args:
        A: ``[m, d]``.
        b: ``[m]``.
        uniform: draws from the uniform law ``[n, d]``, where samples start.
        budget: network, training and sampling.
        seed: of everything random in training.
    """

    def __init__(
        self, A: Tensor, b: Tensor, uniform: Callable[[int, Generator], Tensor], budget: Budget, seed: int
    ) -> None:
        self.A, self.b, self.uniform, self.budget = A.double(), b.double(), uniform, budget
        self.generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.d = A.shape[1]
        self.squares = (self.A.unsqueeze(2) * self.A.unsqueeze(1)).flatten(1)  # a_i a_i^T, in rows
        self.unit = torch.eye(self.d, dtype=torch.float64)
        self.network = MLP(Euclidean(self.d), width=budget.width, depth=budget.depth)

    # ------------------------------------------------------------------ geometry

    def inverse_metric(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A square root of G^-1, by L^-T of G = L L^T ``[n, d, d]``, and half the divergence of G^-1 ``[n, d]``.

        div(G^-1) = -G^-1 (dG : G^-1); for the barrier the derivative of G along x_k is 2 sum_i a_i a_i^T a_ik / s_i^3.
        """
        n, d = x.shape
        slack = self.b - x @ self.A.T
        L = torch.linalg.cholesky_ex((slack.pow(-2) @ self.squares).reshape(n, d, d))[0]
        root = torch.linalg.solve_triangular(L, self.unit.expand(n, d, d), upper=False).mT
        inverse = root @ root.mT
        leverage = inverse.reshape(n, d * d) @ self.squares.T  # a_i^T G^-1 a_i
        return root, -times(inverse, (leverage / slack**3) @ self.A)

    def move(self, x: Tensor, drift: Tensor, root: Tensor, h: Tensor) -> Tensor:
        """One Euler step of variance ``h`` ``[n, 1]``; one that would leave is not made."""
        z = torch.randn(x.shape, generator=self.generator, dtype=x.dtype)
        step = h * drift + h.sqrt() * times(root, z)
        moved = x + step
        inside = ((self.b - moved @ self.A.T) > 1e-5 * self.b.abs().clamp(min=1)).all(1, keepdim=True)
        return torch.where(inside & moved.isfinite().all(1, keepdim=True), moved, x)

    def noise(self, x: Tensor, t: Tensor) -> Tensor:
        """Points at times ``t`` ``[n]``, by steps that grow with the time gone by."""
        for k in range(_STEPS):
            h = t * ((k + 1) ** 2 - k**2) / _STEPS**2
            root, drift = self.inverse_metric(x)
            x = self.move(x, drift, root, h.unsqueeze(1))
        return x

    # ------------------------------------------------------------------ model

    def whitened(self, x: Tensor, t: Tensor) -> Tensor:
        """G^(-1/2) score ``[n, d]``: the network's answer over the size of the noise."""
        scale = (1 / (1 - torch.exp(-t))).sqrt().unsqueeze(1)
        return scale * self.network(x.float(), 0.5 * t.log().float()).double()

    def fit(self, data: Tensor) -> Self:
        """Train on points inside ``[n, d]``."""
        budget = self.budget
        middle = data.mean(0)
        data = (middle + (1 - 1e-3) * (data - middle)).double()  # off the walls, where the metric is infinite
        optimiser = torch.optim.Adam(self.network.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, budget.steps)
        for step in range(budget.steps):
            if step % _REUSE == 0:
                size = (_REUSE * budget.batch_size,)
                rows = data[torch.randint(len(data), size, generator=self.generator)]
                u = torch.rand(size, generator=self.generator, dtype=data.dtype)
                times = _SHORTEST * (_LONGEST / _SHORTEST) ** u
                with torch.no_grad():
                    points = self.noise(rows, times)
                order = torch.randperm(len(points), generator=self.generator).chunk(_REUSE)
            part = order[step % _REUSE]
            loss = self.loss(points[part], times[part])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        return self

    def loss(self, x: Tensor, t: Tensor) -> Tensor:
        """The implicit loss, weighted by the variance of the noise, with one random direction for the divergence."""
        x = x.detach().requires_grad_()
        root, _ = self.inverse_metric(x)
        whitened = self.whitened(x, t)
        v = times(root, whitened)
        z = torch.randn(x.shape, generator=self.generator, dtype=x.dtype)
        (pull,) = torch.autograd.grad((v * z).sum(), x, create_graph=True)
        local = whitened.square().sum(1) / 2 + (pull * z).sum(1)
        return (local * (1 - torch.exp(-t))).mean()

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """Points ``[n, d]`` by the reverse process from uniform ones."""
        self.generator = generator
        x = self.uniform(n, generator).double()
        ends = math.log10(_LONGEST), math.log10(_SHORTEST)
        for t, after in itertools.pairwise(torch.logspace(*ends, self.budget.walk + 1, dtype=x.dtype)):
            root, drift = self.inverse_metric(x)
            v = times(root, self.whitened(x, t.expand(n)))
            x = self.move(x, drift + v, root, (t - after).expand(n, 1))
        return x


def times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """``[n, d, d]`` by ``[n, d]``."""
    return (matrices @ vectors.unsqueeze(-1)).squeeze(-1)
