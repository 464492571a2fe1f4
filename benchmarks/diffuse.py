"""What one call of `diffuse` (noise and training target) costs in each domain, against the unit square.

512 points, float32, sigma log-uniform between 0.001 and sigma_max; in turn in one process, medians.

    python benchmarks/diffuse.py [--rounds 15]
"""

import argparse
import math
import statistics
import time

import torch

from constrained_diffusion import Ball, Domain, Euclidean, Hypercube, Polytope, Product, Simplex, mixing_sigma

POINTS = 512
DOMAINS = [
    Hypercube(2),
    Euclidean(2),
    Hypercube(64),
    Simplex(3),
    Simplex(6),
    Simplex(100),
    Hypercube(999),
    Simplex(1000),
    Simplex(6, "euclidean"),
    Simplex(10, "euclidean"),
    Polytope.birkhoff(3),
    Polytope.birkhoff(4),
    Product(Hypercube(2), Simplex(3), Ball(2)),
    Ball(2),
    Ball(3),
    Ball(10),
]


def seconds(domain: Domain, generator: torch.Generator) -> float:
    most = mixing_sigma(domain) if domain.spectral_gap > 0 else 1.0
    x0 = domain.sample_prior(POINTS, most, generator=generator)
    sigma = torch.exp(torch.empty(POINTS).uniform_(math.log(1e-3), math.log(most), generator=generator))
    start = time.perf_counter()
    domain.diffuse(x0, sigma, generator=generator)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    generator = torch.Generator().manual_seed(0)
    times: dict[Domain, list[float]] = {domain: [] for domain in DOMAINS}
    for _ in range(rounds + 2):  # the first calls build tables
        for domain in DOMAINS:
            times[domain].append(seconds(domain, generator))
    medians = {domain: 1000 * statistics.median(t[2:]) for domain, t in times.items()}
    base = medians[DOMAINS[0]]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {POINTS} points float32")
    for domain, ms in medians.items():
        print(f"{domain!r:48s} {ms:9.2f} ms {ms / base:8.1f}")


if __name__ == "__main__":
    main()
