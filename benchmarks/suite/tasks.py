"""The tasks: laws in bounded domains, with known densities where possible, and real data.

A task draws training points and points held back from them; every draw follows from a seed. Densities are against the
volume of the domain, as the library's are.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from constrained_diffusion import Ball, Domain, Hypercube, Polytope, Region, Simplex

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))

__all__ = ["NAMES", "Task", "task"]

POINTS = 20_000  # in the training set, and again held back


@dataclass(frozen=True)
class Task:
    """A domain, and a law in it.

    Attributes:
        name: short.
        domain: where.
        draw: ``draw(n, generator)`` gives points ``[n, *event_shape]``; of real data a random part of what there is.
        log_prob: the law's log-density ``[n]`` at points, or None where it is not known.
        size: how many points there are to train on, and again to compare with.
        has_density: whether the law has one; not if a share of the points lies on the walls, where a likelihood
            can be as high as a model is sharp.
    """

    name: str
    domain: Domain
    draw: Callable[[int, Generator], Tensor]
    log_prob: Callable[[Tensor], Tensor] | None = None
    size: int = POINTS
    has_density: bool = True

    def data(self, seed: int) -> tuple[Tensor, Tensor]:
        """Points to train on and points held back, ``[size, *event_shape]`` each, float32."""
        both = self.draw(2 * self.size, torch.Generator().manual_seed(1000 + seed)).float()
        return both[: self.size], both[self.size :]


# ---------------------------------------------------------------------- laws


class KernelMixture:
    """An equal mixture of heat kernels: a smooth law with a known density in any domain that has a kernel."""

    def __init__(self, domain: Domain, centres: Tensor, sigma: float) -> None:
        self.domain, self.centres, self.sigma = domain, centres, sigma

    def draw(self, n: int, generator: Generator) -> Tensor:
        start = self.centres[torch.randint(len(self.centres), (n,), generator=generator)]
        return self.domain.sample_heat_kernel(start, self.sigma, generator=generator)

    def log_prob(self, x: Tensor) -> Tensor:
        terms = [self.domain.heat_kernel_log_prob(x.double(), c.expand_as(x), self.sigma) for c in self.centres]
        return torch.logsumexp(torch.stack(terms), 0) - math.log(len(self.centres))


class Ring:
    """A Gaussian in the radius of the unit disc, cut at its edge."""

    def __init__(self, radius: float = 0.9, width: float = 0.08) -> None:
        self.radius, self.width = radius, width
        self.grid = torch.linspace(0, 1, 20_001, dtype=torch.float64)
        weight = self._radial(self.grid)
        total = torch.cumulative_trapezoid(weight, self.grid)
        self.log_norm = math.log(2 * math.pi * float(total[-1]))
        self.cdf = torch.cat([torch.zeros(1, dtype=torch.float64), total / total[-1]])

    def _radial(self, r: Tensor) -> Tensor:
        return r * torch.exp(-((r - self.radius) ** 2) / (2 * self.width**2))

    def draw(self, n: int, generator: Generator) -> Tensor:
        u, v = torch.rand(2, n, generator=generator, dtype=torch.float64)
        r = torch.from_numpy(np.interp(u.numpy(), self.cdf.numpy(), self.grid.numpy()))
        return torch.stack([r * torch.cos(2 * math.pi * v), r * torch.sin(2 * math.pi * v)], 1)

    def log_prob(self, x: Tensor) -> Tensor:
        r = x.double().norm(dim=1)
        return -((r - self.radius) ** 2) / (2 * self.width**2) - self.log_norm


class TruncatedMixture:
    """A mixture of isotropic Gaussians along a domain's affine hull, cut at its walls; drawn by rejection."""

    def __init__(self, domain: Domain, centres: Tensor, widths: Tensor) -> None:
        self.domain, self.centres, self.widths = domain, centres, widths

    def _propose(self, n: int, generator: Generator) -> Tensor:
        which = torch.randint(len(self.centres), (n,), generator=generator)
        start = self.centres[which]
        noise = self.domain.sample_noise(start, generator=generator)
        return start + self.widths[which].reshape(-1, *(1,) * (start.ndim - 1)) * noise

    def draw(self, n: int, generator: Generator) -> Tensor:
        kept: list[Tensor] = []
        while sum(map(len, kept)) < n:
            x = self._propose(1 << 16, generator)
            kept.append(x[self.domain.contains(x, atol=1e-9)])
        return self.domain.project(torch.cat(kept)[:n])

    @cached_property
    def log_accepted(self) -> float:
        """Logarithm of the share of the Gaussians that lies inside, to some 0.001, by 2^20 draws."""
        generator = torch.Generator().manual_seed(0)
        shares = [self.domain.contains(self._propose(1 << 16, generator)).double().mean() for _ in range(16)]
        return math.log(float(torch.stack(shares).mean()))

    def log_prob(self, x: Tensor) -> Tensor:
        flat, dim = x.double().flatten(1), self.domain.dim
        square = torch.cdist(flat, self.centres.flatten(1)).square() / self.widths**2
        terms = -square / 2 - dim * torch.log(self.widths * math.sqrt(2 * math.pi))
        return torch.logsumexp(terms, 1) - math.log(len(self.centres)) - self.log_accepted


class DirichletMixture:
    """An equal mixture of Dirichlet laws on a simplex."""

    def __init__(self, domain: Simplex, alphas: Tensor) -> None:
        self.domain, self.alphas = domain, alphas.double()

    def draw(self, n: int, generator: Generator) -> Tensor:
        alpha = self.alphas[torch.randint(len(self.alphas), (n,), generator=generator)]
        # The logarithm of a gamma variable of a small shape a: that of shape a + 1 times U^(1/a).
        gamma = torch._standard_gamma(alpha + 1, generator=generator)
        log = gamma.log() + torch.rand(alpha.shape, generator=generator, dtype=alpha.dtype).log() / alpha
        return self.domain.project(torch.softmax(log, 1))

    def log_prob(self, x: Tensor) -> Tensor:
        parts = x.double().clamp(min=1e-30).log()
        terms = parts @ (self.alphas - 1).T + torch.lgamma(self.alphas.sum(1)) - torch.lgamma(self.alphas).sum(1)
        unit = self.domain.log_volume + math.lgamma(self.domain.n)  # of the domain's volume in that of n - 1 parts
        return torch.logsumexp(terms, 1) - math.log(len(self.alphas)) - unit


# ---------------------------------------------------------------------- tasks


def spiral() -> Task:
    disc = Ball(2)
    turn = 3 * math.pi * torch.linspace(0.05, 1, 64, dtype=torch.float64).sqrt()
    arm = torch.stack([turn.cos(), turn.sin()], 1) * (0.99 * turn / (3 * math.pi))[:, None]
    law = KernelMixture(disc, arm, 0.03)
    return Task("spiral in the disc", disc, law.draw, law.log_prob)


def ring() -> Task:
    law = Ring()
    return Task("ring in the disc", Ball(2), law.draw, law.log_prob)


def cube() -> Task:
    cube = Hypercube(8)
    generator = torch.Generator().manual_seed(8)
    centres = torch.rand(6, 8, generator=generator, dtype=torch.float64)
    law = KernelMixture(cube, torch.where(centres < 0.3, 0.0, torch.where(centres > 0.7, 1.0, centres)), 0.12)
    return Task("mixture in the 8-cube", cube, law.draw, law.log_prob)


def dirichlet() -> Task:
    simplex = Simplex(3)
    law = DirichletMixture(simplex, torch.tensor([[1.0, 0.1, 5.0]]))
    return Task("Dirichlet(1, 0.1, 5)", simplex, law.draw, law.log_prob)


def dirichlets(n: int) -> Task:
    simplex = Simplex(n)
    generator = torch.Generator().manual_seed(n)
    alphas = torch.exp(1.5 * torch.randn(3, n, generator=generator, dtype=torch.float64)).clamp(0.3, 10.0)
    law = DirichletMixture(simplex, alphas)
    return Task(f"Dirichlet mixture, {n} parts", simplex, law.draw, law.log_prob)


def birkhoff() -> Task:
    polytope = Polytope.birkhoff(3)
    permutations = torch.eye(3, dtype=torch.float64)[torch.tensor([[0, 1, 2], [1, 2, 0], [2, 1, 0]])]
    centres = 0.8 * permutations + 0.2 / 3
    law = TruncatedMixture(polytope, centres, torch.tensor([0.1, 0.2, 0.1], dtype=torch.float64))
    return Task("Birkhoff 3 x 3", polytope, law.draw, law.log_prob)


def polytope() -> Task:
    generator = torch.Generator().manual_seed(10)
    normals = torch.nn.functional.normalize(torch.randn(30, 10, generator=generator, dtype=torch.float64), dim=1)
    offsets = 0.7 + 0.6 * torch.rand(30, generator=generator, dtype=torch.float64)
    box = torch.eye(10, dtype=torch.float64)
    domain = Polytope(torch.cat([normals, box, -box]), torch.cat([offsets, torch.full((20,), 2.0).double()]))
    centres = domain.project(4 * torch.randn(4, 10, generator=generator, dtype=torch.float64))
    law = TruncatedMixture(domain, centres, torch.full((4,), 0.15, dtype=torch.float64))
    return Task("polytope in 10 dimensions", domain, law.draw, law.log_prob)


def from_data(name: str, domain: Domain, points: Tensor, has_density: bool = True) -> Task:
    def draw(n: int, generator: Generator) -> Tensor:
        return points[torch.randperm(len(points), generator=generator)[:n]]

    return Task(name, domain, draw, None, len(points) // 2, has_density)


def budgets() -> Task:
    from real_data import budget_shares

    shares, names = budget_shares()
    return from_data("household budgets", Simplex(len(names)), torch.from_numpy(shares), has_density=False)


def digits() -> Task:
    from real_data import digits

    return from_data("digits", Hypercube(64), torch.from_numpy(digits()).flatten(1), has_density=False)


def fires() -> Task:
    from region_fires import fires

    name, points, rings = fires(None)
    centre, size = np.concatenate(rings).mean(0), Region(rings).diameter
    domain = Region([(ring - centre) / size for ring in rings])
    data = torch.from_numpy((points - centre) / size)
    return from_data(name, domain, data[domain.contains(data)])


TASKS: dict[str, Callable[[], Task]] = {
    "spiral": spiral,
    "ring": ring,
    "cube": cube,
    "dirichlet": dirichlet,
    "dirichlet9": lambda: dirichlets(9),
    "dirichlet20": lambda: dirichlets(20),
    "birkhoff": birkhoff,
    "polytope": polytope,
    "budgets": budgets,
    "fires": fires,
    "digits": digits,
}
NAMES = tuple(TASKS)


@lru_cache(maxsize=1)
def task(name: str) -> Task:
    """The task of a name; raises what its data raise where they cannot be had."""
    return TASKS[name]()
