"""What thousands of facets cost: queries of a Region against those of a square, of a Solid against a cube; kernels.

A coast of k corners around a lake, a wavy ball of k triangles; 512 points, float32, moves of a tenth of the inradius;
medians, in turn. The first columns are milliseconds; "/ first" is the ratio to the square of four edges, or to the cube
of twelve triangles.

    python benchmarks/region.py [--rounds 15]
"""

import argparse
import statistics
import time

import numpy as np
import torch

from constrained_diffusion import Region, Solid

POINTS = 512


def coast(count: int) -> list[np.ndarray]:
    t = 2 * np.pi * np.arange(count) / count
    waves = sum(0.2 / k * np.cos(k * t + k) for k in (3, 11, 23, 97))
    ring = np.stack([np.cos(t), np.sin(t)], 1)
    return [(1 + waves)[:, None] * ring, 0.3 * ring[:: count // 30]]


def wavy_ball(cells: int) -> Solid:
    def inside(x: torch.Tensor) -> torch.Tensor:
        return 1 + 0.1 * torch.cos(5 * x).prod(-1) - x.norm(dim=-1)

    return Solid.from_signed_distance(inside, -1.3, 1.3, cells=cells, resolution=10)


def clock(call) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    square = Region([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    compare(rounds, {"square": square} | {f"coast of {k}": Region(coast(k)) for k in (300, 1000, 3000)})
    corners = np.array(list(np.ndindex(2, 2, 2)), dtype=float)
    faces = [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1]]
    faces += [[2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
    balls = [wavy_ball(cells) for cells in (8, 16, 32)]
    cube = Solid(corners, faces, resolution=10)
    compare(rounds, {"cube": cube} | {f"ball of {len(ball.faces)}": ball for ball in balls})


def compare(rounds: int, regions: dict[str, Region] | dict[str, Solid]) -> None:
    times: dict[str, dict[str, list[float]]] = {}
    for name, region in regions.items():
        made = clock(lambda: region.boundary(region.bounding_box[0]))  # noqa: B023 - called at once
        solved = clock(lambda: region.spectral_gap)  # noqa: B023
        print(f"{name}: grid {made / 1000:.1f} s, mesh and eigenfunctions {solved / 1000:.1f} s")
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
            print(f"    {name:14s} {value:9.2f} ms   {value / medians[next(iter(regions))]:6.1f} / first")


if __name__ == "__main__":
    main()
