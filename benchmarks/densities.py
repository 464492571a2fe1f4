"""Are log-densities densities? Their integral over the set, and the mean at held-back points beside the true one.

    python benchmarks/densities.py [--steps 1500] [--seeds 2] [--sets square ..]

Data: on a ring, a bump in angle and radius whose density is known; in the square and in the L, three bumps cut at the
walls. Each model is trained alike; its density is integrated over the cells of a grid that lie inside (midpoints).
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor
from tqdm import tqdm

from constrained_diffusion import Domain, Hypercube, ReflectedDiffusion, Region

F64 = torch.float64


class Annulus(Domain):
    """The ring of the README, a set of one's own."""

    event_shape, dim = torch.Size([2]), 2

    def __init__(self, hole: float = 0.4, radius: float = 1.0) -> None:
        self.hole, self.radius = hole, radius
        self.spectral_gap = 1 / radius**2

    def boundary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distance and inward normal."""
        r = x.norm(dim=-1)
        outward = x / r.clamp(min=1e-30).unsqueeze(-1)
        near_hole = (r - self.hole < self.radius - r).unsqueeze(-1)
        return torch.minimum(self.radius - r, r - self.hole), torch.where(near_hole, outward, -outward)

    def curvature(self, x: Tensor) -> Tensor:
        """Of the nearer wall."""
        near_hole = x.norm(dim=-1, keepdim=True) < (self.hole + self.radius) / 2
        return torch.where(near_hole, -1 / self.hole, 1 / self.radius).to(x)


def ring() -> Region:
    """The same set as a region of 400 corners."""
    turn = torch.linspace(0, 2 * math.pi, 401, dtype=F64)[:-1]
    circle = torch.stack([turn.cos(), turn.sin()], 1)
    return Region([circle, 0.4 * circle])


SETS = {
    "square": lambda: Hypercube(2),
    "L, a Region": lambda: Region([[0, 0], [1, 0], [1, 0.5], [0.5, 0.5], [0.5, 1], [0, 1]]),
    "ring, a Region": ring,
    "ring, one's own": Annulus,
}
BUMPS = {
    "ring": (torch.tensor([[0.3, 0.5], [-0.5, 0.4], [0.1, -0.8]], dtype=F64), 0.15),
    "else": (torch.tensor([[0.2, 0.25], [0.25, 0.8], [0.9, 0.1]], dtype=F64), 0.1),
}


def cells(domain: Domain) -> tuple[Tensor, float]:
    """Midpoints inside of a grid, and the area of each cell."""
    low, high = domain.bounding_box
    sides = [torch.linspace(float(a), float(b), 49, dtype=F64) for a, b in zip(low, high, strict=True)]
    middles = torch.cartesian_prod(*[(s[1:] + s[:-1]) / 2 for s in sides])
    inside = middles[domain.contains(middles)]
    return inside, math.exp(domain.log_volume) / len(inside)


def main() -> None:
    """Train, integrate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    options = parser.parse_args()
    print(f"{'set':18} {'seed':>4} {'integral':>9} {'nats':>7} {'true':>7} {'rms error':>9}")
    for name in tqdm(options.sets, leave=False):
        domain = SETS[name]()
        grid, area = cells(domain)
        centres, width = BUMPS["ring" if "ring" in name else "else"]

        def log_p(x: Tensor, centres: Tensor = centres, width: float = width) -> Tensor:
            return torch.logsumexp(-(x.unsqueeze(-2) - centres).square().sum(-1) / (2 * width**2), -1)

        total = (log_p(grid).exp() * area).sum().log()
        draws = torch.multinomial(log_p(grid).exp(), 2500, replacement=True, generator=torch.Generator().manual_seed(0))
        x = domain.project(grid[draws] + area**0.5 * (torch.rand(2500, 2, dtype=F64) - 0.5))
        for seed in range(options.seeds):
            model = ReflectedDiffusion(domain, width=128, batch_size=512, steps=options.steps, seed=seed)
            model.fit(x[:2000], progress=False)
            found, expected = model.log_prob(x[2000:]), log_p(x[2000:]) - total
            integral = float((model.log_prob(grid).exp() * area).sum())
            rms = float((found - expected).square().mean().sqrt())
            nats = f"{float(found.mean()):7.3f} {float(expected.mean()):7.3f}"
            print(f"{name:18} {seed:4} {integral:9.3f} {nats} {rms:9.3f}", flush=True)


if __name__ == "__main__":
    main()
