"""Volume of a convex polytope of many dimensions, by Monte Carlo in phases.

May use: torch. The set K is cut by balls around its centre whose volumes grow twofold, from one that fits inside to
one that holds K; the ratio of the volumes of neighbouring cuts is the share of uniform points of the larger
that lie in the smaller (Kannan, Lovasz & Simonovits 1997).
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor


def log_volume_by_phases(points: Tensor, normals: Tensor, slack: Tensor, generator: Generator) -> tuple[float, float]:
    """Log-volume of {z : normals z <= slack}, slack > 0, and its standard error.

    Args:
        points: uniform points of the set ``[k, d]``, which should be round.
        normals: unit rows ``[m, d]``.
        slack: ``[m]``.
        generator: source of randomness.
    """
    d = points.shape[1]
    inner = float(slack.min())
    radius = float(points.norm(dim=1).max())
    log_ratio = variance = 0.0
    z = points
    while radius > inner:
        smaller = max(inner, radius * 2 ** (-1 / d))
        kept = z[z.norm(dim=1) <= smaller]
        share = len(kept) / len(z)
        log_ratio += math.log(share)
        variance += (1 - share) / (share * len(z))
        rows = torch.randint(len(kept), (len(z),), generator=generator)
        z, radius = kept[rows], smaller
        for _ in range(2 * d):
            z = _chord_step(z, normals, slack, radius, generator)
    log_ball = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1) + d * math.log(inner)
    return log_ball - log_ratio, math.sqrt(variance)


def _chord_step(z: Tensor, normals: Tensor, slack: Tensor, radius: float, generator: Generator) -> Tensor:
    """To a uniform point of a random chord of the set within the ball: hit-and-run (Smith 1984)."""
    u = torch.randn(z.shape, generator=generator, dtype=z.dtype)
    u = u / u.norm(dim=1, keepdim=True)
    along = (z * u).sum(1)
    reach = (along**2 + (radius**2 - z.square().sum(1)).clamp(min=0)).sqrt()
    speed, gap = u @ normals.T, (slack - z @ normals.T).clamp(min=0)
    ahead = torch.where(speed > 0, gap / speed, torch.inf).amin(1)
    behind = torch.where(speed < 0, gap / -speed, torch.inf).amin(1)
    high, low = torch.minimum(ahead, reach - along), -torch.minimum(behind, reach + along)
    share: Tensor = torch.rand(len(z), generator=generator, dtype=z.dtype)
    end: Tensor = z + (low + (high - low) * share).unsqueeze(1) * u
    return end
