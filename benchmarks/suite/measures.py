"""What is measured of samples: distances from held-back points beside their floor, walls, and likelihoods."""

from __future__ import annotations

import math

import torch
from tasks import Task
from torch import Tensor

from constrained_diffusion import Domain
from constrained_diffusion.metrics import floor, mmd, sliced_wasserstein, violation

__all__ = ["Yardstick"]

_NEAR = 0.04  # of a face, in inradii: 2 % of the width of a largest ball inside
_SPLITS = 20  # of the floor: one of the distance between two clouds spreads by a third


class Yardstick:
    """Distances of clouds from a task's held-back points, and what two clouds of the law itself are apart.

    Args:
        task: the task.
        held_back: points ``[n, *event_shape]``.
        densities: points whose log-likelihood is taken.
    """

    def __init__(self, task: Task, held_back: Tensor, densities: int = 1000) -> None:
        self.task, self.held_back = task, held_back
        some = held_back[:2000].flatten(1).double()
        self.bandwidth = float(torch.pdist(some).median())
        size = len(held_back)
        pool = task.draw(2 * size, torch.Generator().manual_seed(99)).float()  # of real data, all of it
        mean_kernel = float(torch.exp(-0.5 * (torch.pdist(some) / self.bandwidth) ** 2).mean())
        self.floors = {
            "swd": floor(sliced_wasserstein, pool, size=size, splits=_SPLITS),
            "mmd": math.sqrt(2 * (1 - mean_kernel) / size),  # the root of its mean square, which is known
        }
        self.few = held_back[:densities]
        self.near = near_faces(task.domain, pool)
        self.truth = None if task.log_prob is None else float(task.log_prob(self.few).mean())

    def _mmd(self, a: Tensor, b: Tensor) -> float:
        return mmd(a, b, bandwidth=self.bandwidth)

    def of(self, x: Tensor) -> dict[str, float]:
        """Measures of samples ``[n, *event_shape]``."""
        finite = x.flatten(1).isfinite().all(1)
        outside = violation(self.task.domain, x, atol=1e-5 * self.task.domain.inradius)
        x = x[finite]
        if len(x) < 10:
            return {"outside": outside}
        near = near_faces(self.task.domain, self.task.domain.project(x))
        return {
            "swd": sliced_wasserstein(x, self.held_back) / self.floors["swd"],
            "mmd": self._mmd(x, self.held_back) / self.floors["mmd"],
            "outside": outside,
            "faces": float((near - self.near).abs().max()),
        }

    def of_density(self, log_prob: Tensor) -> dict[str, float]:
        """Mean log-likelihood of the held-back points, and how far below the law's own: an estimate of KL."""
        finite = log_prob.double().nan_to_num(nan=-1e3).clamp(min=-1e3)
        mean = float(finite.mean())
        found = {"log_likelihood": mean, "error": float(finite.std()) / math.sqrt(len(finite))}
        if self.truth is not None:
            found["kl"] = self.truth - mean
        return found


def near_faces(domain: Domain, x: Tensor) -> Tensor:
    """Share of points near each face ``[faces]``; of all walls together where there are no flat ones."""
    flat = domain.wall_curvature == (0.0, 0.0)
    parts = [domain.walls(part)[0] if flat else domain.boundary(part)[0].unsqueeze(-1) for part in x.split(2000)]
    return torch.cat([(part <= _NEAR * domain.inradius).double() for part in parts]).mean(0)
