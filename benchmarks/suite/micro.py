"""What the parts cost: each domain's noise, moves and steps, beside plain Gaussian diffusion and textbook forms.

    python benchmarks/suite/micro.py [--quick] [--out FOLDER]

For 1,000 points at mixed noise levels: processor milliseconds of noising with its training target (`diffuse`), of a
move (`reflect`), a projection, a training step and a sampling step of the library's network of width 128 and depth 2,
and each over what the same costs in R^d of the same shape. Then the score of the interval's kernel in the two
forms of the textbooks: 200 terms of the cosine series, or 41 images, differentiated by autograd.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from run import machine
from timing import Clock
from torch import Tensor

from constrained_diffusion import (
    MLP,
    Ball,
    DenoisingScoreMatching,
    Domain,
    Euclidean,
    EulerMaruyama,
    Hypercube,
    Polytope,
    ReflectedSDE,
    ScoreModel,
    Simplex,
    Sphere,
    Torus,
)
from constrained_diffusion.checkpoints import write_atomic

POINTS = 1000
DOMAINS: dict[str, Callable[[], Domain]] = {
    "square": lambda: Hypercube(2),
    "cube, 64": lambda: Hypercube(64),
    "cube, 3 x 32 x 32": lambda: Hypercube((3, 32, 32)),
    "triangle": lambda: Simplex(3),
    "simplex, 20 parts": lambda: Simplex(20),
    "simplex, 20 parts, Euclidean": lambda: Simplex(20, "euclidean"),
    "disc": lambda: Ball(2),
    "ball, 10": lambda: Ball(10),
    "Birkhoff 3 x 3": lambda: Polytope.birkhoff(3),
    "polytope, 10, 40 facets": lambda: polytope(10, 40),
    "sphere": lambda: Sphere(2),
    "torus": lambda: Torus(2),
}


def polytope(d: int, facets: int) -> Polytope:
    """A ball's tangent planes at random places: a round polytope with about so many facets."""
    generator = torch.Generator().manual_seed(d)
    normals = torch.nn.functional.normalize(torch.randn(facets, d, generator=generator, dtype=torch.float64), dim=1)
    box = torch.eye(d, dtype=torch.float64)
    return Polytope(torch.cat([normals, box, -box]), torch.ones(facets + 2 * d, dtype=torch.float64))


def parts(domain: Domain, count: int, clock: Clock) -> dict[str, float]:
    """Milliseconds of each part, for ``count`` points."""
    sde = ReflectedSDE(domain, 0.01 * (domain.inradius if math.isfinite(domain.inradius) else 1.0), 1.0)
    generator = torch.Generator().manual_seed(0)
    x = domain.sample_prior(count, 1.0, generator=generator)
    t = torch.rand(count, generator=generator)
    sigma, move = sde.sigma(t), 0.1 * domain.sample_noise(x, generator=generator)
    model = ScoreModel(MLP(domain, 128, 2), sde)
    loss, optimiser = DenoisingScoreMatching(sde), torch.optim.Adam(model.parameters())
    walk = EulerMaruyama(sde, model, steps=1000)

    def train() -> None:
        optimiser.zero_grad()
        loss(model, x, generator=generator).mean().backward()
        optimiser.step()

    def step() -> None:
        with torch.no_grad():
            walk.step(x, torch.tensor(0.501), torch.tensor(0.5), generator=generator, condition={})

    return {
        "noising": clock.milliseconds(lambda: domain.diffuse(x, sigma, generator=generator)),
        "reflection": clock.milliseconds(lambda: domain.reflect(x, move)),
        "projection": clock.milliseconds(lambda: domain.project(x + move)),
        "training step": clock.milliseconds(train),
        "sampling step": clock.milliseconds(step),
    }


def series(x: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
    """Log of the interval's kernel by 200 cosines."""
    k = math.pi * torch.arange(1, 201, dtype=x.dtype)
    waves = torch.exp(-((k * sigma.unsqueeze(-1)) ** 2) / 2) * torch.cos(k * x.unsqueeze(-1))
    return torch.log(1 + 2 * (waves * torch.cos(k * x0.unsqueeze(-1))).sum(-1))


def images(x: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
    """Log of the interval's kernel by 41 images."""
    n = 2 * torch.arange(-10, 11, dtype=x.dtype)
    centres = torch.cat([x0.unsqueeze(-1) + n, n - x0.unsqueeze(-1)], -1)
    return torch.logsumexp(-((x.unsqueeze(-1) - centres) ** 2) / (2 * sigma.unsqueeze(-1) ** 2), -1) - sigma.log()


def textbook(count: int, clock: Clock) -> dict[str, float]:
    """Milliseconds of scores of the unit interval's kernel, and their worst relative errors."""
    generator = torch.Generator().manual_seed(0)
    x, x0, u = torch.rand(3, count, generator=generator)
    sigma = 0.01 * 100**u
    interval = Hypercube(1)
    exact = interval.heat_kernel_score(x.double().unsqueeze(1), x0.double().unsqueeze(1), sigma.double())[:, 0]
    found = {"library": clock.milliseconds(lambda: interval.heat_kernel_score(x.unsqueeze(1), x0.unsqueeze(1), sigma))}
    for form in (series, images):

        def score(form: Callable[..., Tensor] = form) -> Tensor:
            leaf = x.clone().requires_grad_()
            return torch.autograd.grad(form(leaf, x0, sigma).sum(), leaf)[0]

        wrong = (score() - exact).abs() * sigma
        found[form.__name__] = clock.milliseconds(score)
        found[f"{form.__name__}, share off by 0.01/sigma or more"] = float((~(wrong < 0.01)).double().mean())
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few points, two domains")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    clock = Clock(options.quick)
    count = 50 if options.quick else POINTS
    rows: dict[str, dict[str, float]] = {}
    plain: dict[torch.Size, dict[str, float]] = {}
    for name, make in list(DOMAINS.items())[: 2 if options.quick else None]:
        domain = make()
        shape = domain.event_shape
        if shape not in plain:
            plain[shape] = parts(Euclidean(tuple(shape)), count, clock)
        rows[name] = parts(domain, count, clock)
        rows[name] |= {f"{part}, ratio": ms / plain[shape][part] for part, ms in list(rows[name].items())}
        print(f"{name:30s}", "  ".join(f"{part} {ms:.2f}" for part, ms in rows[name].items()), flush=True)
    rows["interval's score"] = textbook(100 * count, clock)
    print("interval's score", rows["interval's score"])
    options.out.mkdir(parents=True, exist_ok=True)
    result = {"points": count, "machine": machine(), "rows": rows}
    write_atomic(options.out / "micro.json", json.dumps(result, indent=1).encode())
    write_atomic(options.out / "micro.md", "\n".join(table(rows, count)).encode())


def table(rows: dict[str, dict[str, float]], count: int) -> list[str]:
    """Markdown: milliseconds, and in brackets their ratio to the same in R^d."""
    names = ["noising", "reflection", "projection", "training step", "sampling step"]
    lines = [
        "# Parts",
        "",
        f"Processor milliseconds for {count} points, and over what the same costs in plain Gaussian diffusion.",
        "Command: `python benchmarks/suite/micro.py`.",
        "",
        "| | " + " | ".join(names) + " |",
        "| --- |" + " ---: |" * len(names),
    ]
    for name, row in rows.items():
        if "noising" in row:
            cells = [f"{row[part]:.2f} ({row[part + ', ratio']:.1f})" for part in names]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    book = rows["interval's score"]
    lines += ["", f"Score of the interval's kernel, {100 * count} numbers, sigma from 0.01 to 1:", ""]
    return lines + [f"- {key}: {value:.3g}" for key, value in book.items()] + [""]


if __name__ == "__main__":
    main()
