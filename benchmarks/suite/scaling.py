"""How cost and quality change with the dimension, with the batch and with the number of facets.

    python benchmarks/suite/scaling.py [--quick] [--out FOLDER]

Dimensions 2 to 1,000 of cube, simplex, ball and polytope (the cube as half-spaces, so that nothing but the machinery
differs): milliseconds to noise 256 points with their targets, of a move and of a sampling step, and the
sliced Wasserstein distance over its floor of a small model of a mixture, at one budget for all dimensions. Then the
square at 1 to 100,000 points at a time, and polytopes in 5 dimensions of up to 3,000 facets. Each row is kept as soon
as it is there, in OUT/scaling.json: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from micro import polytope
from run import machine
from timing import Clock
from torch import Tensor
from tqdm import tqdm

from constrained_diffusion import Ball, Domain, Hypercube, Polytope, ReflectedDiffusion, Simplex
from constrained_diffusion.checkpoints import write_atomic
from constrained_diffusion.metrics import floor, sliced_wasserstein
from constrained_diffusion.plotting import save_figure

DIMENSIONS = (2, 5, 10, 30, 100, 300, 1000)
BATCHES = (1, 10, 100, 1000, 10_000, 100_000)
FACETS = (12, 30, 100, 300, 1000, 3000)
MOST = {"polytope": 300, "ball": 300}  # dimensions beyond which even the costs of a step take minutes
MODELS = {"polytope": 30}  # beyond which a model would take hours


def cube_by_facets(d: int) -> Polytope:
    eye = torch.eye(d, dtype=torch.float64)
    return Polytope(torch.cat([eye, -eye]), torch.cat([torch.ones(d), torch.zeros(d)]).double())


FAMILIES: dict[str, Callable[[int], Domain]] = {
    "cube": Hypercube,
    "simplex": lambda d: Simplex(d + 1),
    "ball": Ball,
    "polytope": cube_by_facets,
}


def mixture(domain: Domain, n: int) -> Tensor:
    """Noise around three points, of a quarter of the typical distance between points."""
    generator = torch.Generator().manual_seed(0)
    corners = domain.sample_uniform(3, generator=generator)
    start = corners[torch.randint(3, (n,), generator=generator)]
    width = 0.25 * float((corners[0] - corners[1]).norm()) / math.sqrt(domain.dim)
    return domain.reflect(start, width * domain.sample_noise(start, generator=generator))


def costs(domain: Domain, count: int, clock: Clock, source: Domain | None = None) -> dict[str, float]:
    """Milliseconds for ``count`` points, drawn from ``source`` where another form of the domain draws them sooner."""
    generator = torch.Generator().manual_seed(0)
    x = (source or domain).sample_uniform(count, generator=generator)
    sigma = domain.inradius * 0.03 * 100 ** torch.rand(count, generator=generator)
    move = 0.3 * domain.inradius * domain.sample_noise(x, generator=generator)
    return {
        "noising": clock.milliseconds(lambda: domain.diffuse(x, sigma, generator=generator)),
        "move": clock.milliseconds(lambda: domain.reflect(x, move)),
    }


def quality(domain: Domain, steps: int, points: int) -> float:
    """Sliced Wasserstein distance of samples over its floor."""
    data = mixture(domain, 3 * points)
    model = ReflectedDiffusion(domain, width=128, depth=2, steps=steps, batch_size=256)
    samples = model.fit(data[:points], progress=False).sample(points, steps=100)
    return sliced_wasserstein(samples, data[points : 2 * points]) / floor(sliced_wasserstein, data, size=points)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two dimensions, a few steps")
    parser.add_argument("--out", type=Path, help="folder (default: benchmarks/suite/results, or out/suite)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    clock = Clock(options.quick)
    steps, points, ends = (20, 200, slice(0, 2)) if options.quick else (2000, 4000, slice(None))
    out = options.out or (Path("out/suite") if options.quick else Path(__file__).parent / "results")
    path = out / "scaling.json"
    result: dict[str, Any] = {"dimension": {name: {} for name in FAMILIES}, "batch": {}, "facets": {}}
    result |= {"machine": machine(), "budget": [steps, points], "date": time.strftime("%Y-%m-%d")}
    if path.exists():
        found = json.loads(path.read_text())
        if (found["machine"], found["budget"]) != (result["machine"], result["budget"]):
            raise SystemExit(f"{path} is of another machine, version or budget: move it away, or give another --out")
        result = found
    out.mkdir(parents=True, exist_ok=True)

    def fill(table: dict[str, Any], title: str, sizes: Sequence[int], row: Callable[[int], dict[str, float]]) -> None:
        for size in tqdm(sizes, desc=title):
            if str(size) not in table:
                table[str(size)] = row(size)
                write_atomic(path, json.dumps(result, indent=1).encode())
                tqdm.write(f"{title} {size}: {table[str(size)]}")

    def row(name: str, d: int) -> dict[str, float]:
        domain = FAMILIES[name](d)
        found = costs(domain, 256, clock, Hypercube(d) if name == "polytope" else None)
        return found | ({"SWD / floor": quality(domain, steps, points)} if d <= MODELS.get(name, d) else {})

    for name in FAMILIES:
        sizes = [d for d in DIMENSIONS[ends] if d <= MOST.get(name, d)]
        fill(result["dimension"][name], name, sizes, lambda d, name=name: row(name, d))
    fill(result["batch"], "batch", BATCHES[ends], lambda n: costs(Hypercube(2), n, clock))
    fill(result["facets"], "facets", FACETS[ends], lambda m: costs(polytope(5, m), 256, clock))
    save_figure(picture(result), out / "scaling.png")
    print(f"results: {path}, {out / 'scaling.png'}")


def picture(result: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    panels = figure.subplots(2, 3).flat
    shown = {"noising": "noising 256 points (ms)", "move": "a move of 256 points (ms)", "SWD / floor": "SWD / floor"}
    for key, title in shown.items():
        panel = next(panels)
        for name, rows in result["dimension"].items():
            seen = {int(d): row[key] for d, row in rows.items() if key in row}
            panel.plot(list(seen), list(seen.values()), "o-", label=name, markersize=4)
        panel.set(title=title, xlabel="dimension", xscale="log", yscale="log")
        if key == "SWD / floor":  # hardly more than a decade: the ticks of powers of ten are too few
            panel.set_yticks((0.5, 1, 2, 5, 10), labels=("0.5", "1", "2", "5", "10"))
            panel.minorticks_off()
        panel.legend(fontsize=8, frameon=False)
    for group, label in (("batch", "points at a time"), ("facets", "facets (5 dimensions, 256 points)")):
        panel = next(panels)
        for key in ("noising", "move"):
            rows = result[group]
            panel.plot([int(n) for n in rows], [row[key] for row in rows.values()], "o-", label=key, markersize=4)
        panel.set(title="square (ms)" if group == "batch" else "polytope (ms)", xlabel=label)
        panel.set(xscale="log", yscale="log")
        panel.legend(fontsize=8, frameon=False)
    next(panels).set_axis_off()
    return figure


if __name__ == "__main__":
    main()
