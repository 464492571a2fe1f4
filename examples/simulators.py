"""Two simulators of a public benchmark whose exact posteriors can be drawn from, and its reference posteriors.

Both have a uniform prior in a box. Definitions: Lueckmann, Boelts, Greenberg, Goncalves & Macke, "Benchmarking
simulation-based inference", 2021, arXiv 2101.04653 (two moons; SLCP: simple likelihood, complex posterior).
"""

from __future__ import annotations

import bz2
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from constrained_diffusion import Hypercube

_AT_ONCE = 100_000  # proposals at a time
_MOST = 2_000_000_000  # proposals in all


class TwoMoons:
    """Two crescents: x = (r cos a + 1/4 - |u|, r sin a + v), where (u, v) is theta in axes turned by 45 degrees.

    The angle a is uniform on (-pi/2, pi/2), the radius r is N(0.1, 0.01^2).
    """

    name, label = "two_moons", "two moons"
    prior = Hypercube(2, -1.0, 1.0)

    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        """Observations ``[n, 2]`` of parameters ``[n, 2]``."""
        u, v = _turned(theta)
        return _crescent(len(theta), generator) + torch.stack([-u.abs(), v], -1)

    def exact(self, x: Tensor, n: int, generator: Generator) -> Tensor:
        """Draws ``[n, 2]`` of the posterior given one observation ``[2]``."""
        return _until(n, lambda: self._candidates(x, generator))

    def exact_log_prob(self, theta: Tensor, x: Tensor, generator: Generator) -> Tensor:
        """Log-density of the posterior ``[n]`` at parameters inside ``[n, 2]``, given observations ``[n, 2]``."""
        return self.log_likelihood(theta, x) - self.log_evidence(x, generator)

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        """log p(x | theta) ``[n]`` at ``[n, 2]`` both."""
        u, v = _turned(theta)
        p = x - torch.stack([0.25 - u.abs(), v], -1)
        r = p.norm(dim=-1)
        value = -0.5 * ((r - 0.1) / 0.01) ** 2 - math.log(0.01 * math.sqrt(2 * math.pi)) - (math.pi * r).log()
        return torch.where(p[:, 0] > 0, value, -math.inf)

    def log_evidence(self, x: Tensor, generator: Generator) -> Tensor:
        """Logarithm of the likelihood's integral over the box ``[n]``, for observations ``[n, 2]``.

        It is the share of candidates inside, for each of the two signs of u.
        """
        return torch.tensor([2 * len(self._candidates(row, generator)) / _AT_ONCE for row in x]).log()

    def _candidates(self, x: Tensor, generator: Generator) -> Tensor:
        """Draws inside the box, of as many as are made at a time.

        The prior is flat and (|u|, v) keeps areas, so that a point of the crescent less x is a draw of (|u|, -v).
        """
        size, minus_v = (_crescent(_AT_ONCE, generator) - x).T
        u = torch.where(torch.rand(_AT_ONCE, generator=generator) < 0.5, size, -size)
        theta = torch.stack([u + minus_v, u - minus_v], -1) / math.sqrt(2)
        return theta[(size >= 0) & self.prior.contains(theta)]


class SLCP:
    """Four draws of N(m, S) in the plane, flattened: m = theta[:2], standard deviations theta[2:4]^2, correlation tanh.

    The signs of theta[2] and theta[3] leave no trace, so that there are four modes, and the box cuts them off.
    """

    name, label = "slcp", "SLCP"
    prior = Hypercube(5, -3.0, 3.0)

    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        """Observations ``[n, 8]`` of parameters ``[n, 5]``."""
        z = torch.randn(len(theta), 4, 2, generator=generator)
        return _correlated(theta[:, None, :2], theta[:, None, 2:], z).flatten(1)

    def exact(self, x: Tensor, n: int, generator: Generator) -> Tensor:
        """Draws ``[n, 5]`` of the posterior given one observation ``[8]``, by rejection."""
        points = x.double().reshape(4, 2)
        return _until(n, lambda: self._candidates(points, generator)).float()

    def _candidates(self, points: Tensor, generator: Generator) -> Tensor:
        """What is left of as many uniform proposals of theta[2:] as are made at a time.

        With m integrated over the plane the likelihood is |S|^(-3/2) exp(-tr(A / S) / 2), A the scatter matrix, and
        greatest at S = A / 3. Given S, m is N(mean, S / 4); a draw of it outside the box is rejected, which weighs S.
        """
        mean, last = points.mean(0), self.prior.sample_uniform(_AT_ONCE, generator=generator).double()[:, 2:]
        A = (points - mean).T @ (points - mean)
        spread, rho = last[:, :2].square(), last[:, 2].tanh()
        squares, product = A.diagonal() / spread.square(), A[0, 1] / spread.prod(-1)
        trace = (squares.sum(-1) - 2 * rho * product) / (1 - rho.square())
        log_det = 2 * spread.log().sum(-1) + torch.log1p(-rho.square())
        ratio = 1.5 * (torch.logdet(A / 3) - log_det) + 3 - trace / 2
        kept = torch.rand(_AT_ONCE, generator=generator).double().log() < ratio
        z = torch.randn(int(kept.sum()), 2, generator=generator).double() / 2
        theta = torch.cat([_correlated(mean, last[kept], z), last[kept]], -1)
        return theta[self.prior.contains(theta)]


def reference(name: str, number: int) -> tuple[Tensor, Tensor] | None:
    """Observation ``[k]`` and reference posterior ``[10000, d]`` of the benchmark; None if its files are not installed.

    They are part of the package sbibm, which is not imported.
    """
    found = importlib.util.find_spec("sbibm")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "tasks" / name / "files" / f"num_observation_{number}"
    with bz2.open(folder / "reference_posterior_samples.csv.bz2", "rt") as file:
        samples = np.loadtxt(file, delimiter=",", skiprows=1, dtype=np.float32)
    x = np.loadtxt(folder / "observation.csv", delimiter=",", skiprows=1, dtype=np.float32)
    return torch.from_numpy(x), torch.from_numpy(samples)


def _turned(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates u and v, each ``[n]``, of points ``[n, 2]``."""
    return (theta[:, 0] + theta[:, 1]) / math.sqrt(2), (theta[:, 1] - theta[:, 0]) / math.sqrt(2)


def _crescent(n: int, generator: Generator) -> Tensor:
    """Points ``[n, 2]`` near a half circle."""
    a = math.pi * (torch.rand(n, generator=generator) - 0.5)
    r = 0.1 + 0.01 * torch.randn(n, generator=generator)
    return torch.stack([r * a.cos() + 0.25, r * a.sin()], -1)


def _correlated(mean: Tensor, last: Tensor, z: Tensor) -> Tensor:
    """Normal draws ``[*batch, 2]`` from standard ones; roots of deviations and what makes the correlation: ``last``."""
    (s, t), rho = last[..., :2].square().unbind(-1), last[..., 2].tanh()
    return mean + torch.stack([s * z[..., 0], t * (rho * z[..., 0] + (1 - rho.square()).sqrt() * z[..., 1])], -1)


def _until(n: int, draw: Callable[[], Tensor]) -> Tensor:
    """Draw again and again until there are ``n``."""
    found, count = [draw()], 0
    while sum(map(len, found)) < n:
        count += 1
        if count * _AT_ONCE > _MOST:
            raise ValueError("the posterior is too narrow to be drawn from by rejection")
        found.append(draw())
    return torch.cat(found)[:n]
