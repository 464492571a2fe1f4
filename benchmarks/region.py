"""What thousands of edges cost: queries of a Region against those of a square, and its kernel.

A coast of k corners around a lake; 512 points, float32, moves of a tenth of the inradius; medians, in turn. The first
columns are milliseconds; "/ square" is the ratio to the region of four edges.

    python benchmarks/region.py [--rounds 15]
"""

import argparse
import statistics
import time

import numpy as np
import torch

from constrained_diffusion import Region

POINTS = 512


def coast(count: int) -> list[np.ndarray]:
    t = 2 * np.pi * np.arange(count) / count
    waves = sum(0.2 / k * np.cos(k * t + k) for k in (3, 11, 23, 97))
    ring = np.stack([np.cos(t), np.sin(t)], 1)
    return [(1 + waves)[:, None] * ring, 0.3 * ring[:: count // 30]]


def clock(call) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    regions = {"square": Region([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])}
    regions |= {f"coast of {k}": Region(coast(k)) for k in (300, 1000, 3000)}
    times: dict[str, dict[str, list[float]]] = {}
    for name, region in regions.items():
        made = clock(lambda: region._segments)  # noqa: B023 - called at once
        solved = clock(lambda: region.spectral_gap)  # noqa: B023
        terms = len(region._eigenpairs.values)
        print(f"{name}: grid {made / 1000:.1f} s, mesh and {terms} eigenfunctions {solved / 1000:.1f} s")
    for k in range(rounds):
        generator = torch.Generator().manual_seed(k)
        for name, region in regions.items():
            x = region.sample_uniform(POINTS, generator=generator)
            v = 0.1 * region.inradius * torch.randn(x.shape, generator=generator)
            noise = 1.2 * region.least_sigma
            calls = {
                "contains": lambda: region.contains(x),  # noqa: B023
                "boundary": lambda: region.boundary(x),  # noqa: B023
                "reflect": lambda: region.reflect(x, v),  # noqa: B023
                "diffuse, series": lambda: region.diffuse(x, noise, generator=generator),  # noqa: B023
            }
            if k < 3:
                calls["diffuse, paths"] = lambda: region.diffuse(x, noise / 2, generator=generator)  # noqa: B023
            for what, call in calls.items():
                times.setdefault(what, {}).setdefault(name, []).append(clock(call))
    for what, found in times.items():
        medians = {name: statistics.median(values) for name, values in found.items()}
        print(what)
        for name, value in medians.items():
            print(f"    {name:14s} {value:9.2f} ms   {value / medians['square']:6.1f} / square")


if __name__ == "__main__":
    main()
