"""What a specular move in a random polytope costs, and what Metropolis steps cost that are as accurate.

Facets: five times as many as dimensions, random unit normals, all at distance 1 from the origin; float32.

First table: one move of a given length (in inradii) from uniform points: time a point, bounces, and the largest
violation of a facet, recomputed in float64.

Second table: reflected Brownian motion until sigma = half the inradius, from a point at a tenth of it from a facet. The
error of N specular steps is the largest gap, over four smooth f, between E f and that of 256 specular steps, in
standard deviations of f; all paths share their Brownian increments, so the gaps are differences of paths and less
noisy than samples. Metropolis proposes the same Gaussian steps and stays where it is when one leaves the set. The
number of its steps that reaches the same error (for which a specular error counts as at least twice its standard
error) follows from its last two errors as a power law, of order 1/2 at least; a star marks those beyond the steps
that were run. The last column compares the time of both, drawing the noise left out.

    python benchmarks/billiards.py [--quick]
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from constrained_diffusion.domains import Polytope, trusted

DIMENSIONS = [2, 10, 50]
LENGTHS = [0.1, 0.3, 1.0, 3.0, 10.0]  # of moves, in inradii
SPECULAR = [4, 8, 16, 32]  # steps
FINEST = 256  # steps of the specular reference
METROPOLIS = [64, 256, 1024, 4096]
SPREAD = 0.5  # sigma, in inradii
FEW = 10  # dimensions up to which all paths are run, fewer beyond


def random_polytope(d: int) -> Polytope:
    normals = torch.randn(5 * d, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)
    return Polytope(normals / normals.norm(dim=-1, keepdim=True), torch.ones(5 * d))


def bounces(domain: Polytope, x: Tensor, v: Tensor) -> float:
    """Mean number of bounces of the moves v from x, [rows, d], by following them facet by facet."""
    A, b = domain.A, domain.b
    x, v, count = x.double(), v.double(), 0
    left = torch.ones(len(x), dtype=torch.float64)
    while len(x):
        speed = v @ A.T
        first, wall = torch.where(speed > 0, (b - x @ A.T).clamp(min=0) / speed, torch.inf).min(-1)
        hit = first < left
        x, v, wall, left = (x + first.unsqueeze(-1) * v)[hit], v[hit], wall[hit], (left - first)[hit]
        v = v - 2 * (v * A[wall]).sum(-1, keepdim=True) * A[wall]
        count += len(x)
    return count


def median_seconds(call: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def moves(domains: dict[int, Polytope], points: int, rounds: int) -> None:
    print(f"\none specular move, {points} points")
    print("   d  facets  length/inradius   us a point   bounces   largest violation")
    for d, domain in domains.items():
        generator = torch.Generator().manual_seed(0)
        x = domain.sample_uniform(points, generator=generator, dtype=torch.float32)
        z = torch.randn(points, d, generator=generator)
        for length in LENGTHS:
            v = length * domain.inradius * z / z.norm(dim=-1, keepdim=True)
            with trusted():
                seconds = median_seconds(partial(domain.reflect, x, v), rounds)
                y = domain.reflect(x, v)
            outside = float((y.double() @ domain.A.T - domain.b).max())
            mean = bounces(domain, x[:200], v[:200]) / 200
            print(
                f"{d:4d} {len(domain.b):7d} {length:16.1f} {1e6 * seconds / points:12.1f} {mean:9.2f} {outside:19.1e}"
            )


class Race:
    """Paths of both kinds and several step counts, all driven by the same Brownian increments."""

    def __init__(self, domain: Polytope, paths: int, most: int) -> None:
        self.domain, self.paths, self.most, d = domain, paths, most, domain.dim
        self.A, self.b = domain.A.float(), domain.b.float()
        self.sigma = SPREAD * domain.inradius
        near = int((domain.b - domain.A @ domain.centre).argmin())
        self.start = (domain.centre + 0.9 * domain.inradius * domain.A[near]).float()
        self.near = near
        levels = [("specular", n) for n in (*SPECULAR, FINEST)] + [("metropolis", n) for n in METROPOLIS if n <= most]
        self.x = {level: self.start.expand(paths, d) for level in levels}
        self.seconds: dict[tuple[str, int], list[float]] = {level: [] for level in levels}

    def specular(self, x: Tensor, v: Tensor) -> Tensor:
        return self.domain.reflect(x, v)

    def metropolis(self, x: Tensor, v: Tensor) -> Tensor:
        y = x + v
        return torch.where((y @ self.A.T <= self.b).all(-1, keepdim=True), y, x)

    def run(self, generator: torch.Generator) -> None:
        pending = {level: torch.zeros_like(x) for level, x in self.x.items()}
        for k in range(1, self.most + 1):
            z = self.sigma / math.sqrt(self.most) * torch.randn(next(iter(self.x.values())).shape, generator=generator)
            for level, x in self.x.items():
                pending[level] += z
                if k % (self.most // level[1]) == 0:
                    begin = time.perf_counter()
                    self.x[level] = getattr(self, level[0])(x, pending[level])
                    self.seconds[level].append(time.perf_counter() - begin)
                    pending[level] = torch.zeros_like(x)

    def observed(self, x: Tensor) -> Tensor:
        """Four smooth functions, [rows, 4]: one facet's distance, a crowd's, the way gone, a wave."""
        gap, away = self.b - x @ self.A.T, x - self.start
        reach = 0.3 * self.domain.inradius
        crowd = torch.exp(-gap / reach).sum(-1)
        wave = torch.cos(away.sum(-1) / (self.sigma * math.sqrt(self.domain.dim)))
        return torch.stack([gap[:, self.near], crowd, away.square().sum(-1), wave], -1).double()

    def error(self, level: tuple[str, int]) -> tuple[float, float]:
        """Largest of the four errors against the finest specular paths, and its standard error."""
        finest = self.observed(self.x["specular", FINEST])
        gap = (self.observed(self.x[level]) - finest) / finest.std(0)
        worst = gap.mean(0).abs().argmax()
        return float(gap.mean(0)[worst].abs()), float(gap.std(0)[worst]) / math.sqrt(len(gap))


def steps_for(error: float, steps: list[int], errors: list[float]) -> float:
    """Steps that reach an error, by the power law of the last two of ``errors``, taken to be of order 1/2 at least."""
    order = max(0.5, math.log(errors[-2] / errors[-1]) / math.log(steps[-1] / steps[-2]))
    return steps[-1] * (errors[-1] / error) ** (1 / order)


def accuracy(domains: dict[int, Polytope], paths: int, most: int) -> None:
    print(f"\nreflected Brownian motion until sigma = {SPREAD} inradii: error in standard deviations")
    for d, domain in domains.items():
        race = Race(domain, paths * FEW // max(d, FEW), most)
        with trusted():
            race.run(torch.Generator().manual_seed(1))
        cost = {level: statistics.median(times) / race.paths for level, times in race.seconds.items()}
        runs = [n for kind, n in race.x if kind == "metropolis"]
        errors = [race.error(("metropolis", n))[0] for n in runs]
        print(f"d = {d}, {len(domain.b)} facets, {race.paths} paths")
        print("  kind        steps      error   +-        us a step   Metropolis steps as accurate   times the cost")
        for kind, n in race.x:
            if (kind, n) == ("specular", FINEST):
                continue
            error, spread = race.error((kind, n))
            line = f"  {kind:10s} {n:6d} {error:10.4f} {spread:7.4f} {1e6 * cost[kind, n]:12.2f}"
            if kind == "specular":
                needed = steps_for(max(error, 2 * spread), runs, errors)
                ratio = needed * cost["metropolis", runs[-1]] / (n * cost[kind, n])
                line += f" {needed:28,.0f}{' ' if needed <= most else '*'} {ratio:15,.1f}"
            print(line)
    print("* beyond the steps that were run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer points, paths and steps, and no d = 50")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, float32")
    domains = {d: random_polytope(d) for d in (DIMENSIONS[:2] if quick else DIMENSIONS)}
    moves(domains, 500 if quick else 2000, 2 if quick else 5)
    accuracy(domains, 1000 if quick else 16_000, 1024 if quick else 4096)


if __name__ == "__main__":
    main()
