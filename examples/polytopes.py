"""Convex sets without a closed kernel: ten-part compositions with isotropic noise, and doubly stochastic matrices.

Each is trained by denoising along simulated paths. Draws the two coordinates that vary most, of data and of samples.

    python examples/polytopes.py [--quick] [--out FOLDER]
"""

import time

import torch
from report import halves, options, report
from torch import Tensor

from constrained_diffusion import Domain, Polytope, ReflectedDiffusion, Simplex
from constrained_diffusion.plotting import film_strip, save_figure

POINTS = 24_000
SQUARE = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])  # around two coordinates


def dirichlet_mixture(n: int, generator: torch.Generator) -> Tensor:
    """Three kinds of compositions of n parts: two that lean to either end, one that is even and spread out."""
    concentrations = torch.stack([torch.linspace(1, 6, n), torch.linspace(6, 1, n), torch.full((n,), 1.5)])
    kind = torch.randint(3, (POINTS,), generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.distributions.Dirichlet(concentrations.double()[kind]).sample()


def noisy_assignments(domain: Polytope, n: int, generator: torch.Generator) -> Tensor:
    """Half-way between the centre and one of four permutations, and reflected noise."""
    permutations = torch.eye(n, dtype=torch.float64)[
        torch.stack([torch.randperm(n, generator=generator) for _ in range(4)])
    ]
    vertex = permutations[torch.randint(4, (POINTS,), generator=generator)]
    z = torch.randn(POINTS, n, n, generator=generator, dtype=torch.float64)
    return domain.reflect(0.4 * domain.centre + 0.6 * vertex, 0.08 * domain.tangent(vertex, z))


def main() -> None:
    run = options(__doc__)
    generator = torch.Generator().manual_seed(0)
    three, four = Polytope.birkhoff(3), Polytope.birkhoff(4)
    problems: list[tuple[str, Domain, Tensor]] = [
        ("compositions of ten parts", Simplex(10, "euclidean"), dirichlet_mixture(10, generator)),
        ("doubly stochastic 3 x 3", three, noisy_assignments(three, 3, generator)),
        ("doubly stochastic 4 x 4", four, noisy_assignments(four, 4, generator)),
    ]
    data_frames, sample_frames, titles = [], [], []
    for name, domain, data in problems:
        train, held_back = halves(data)
        start = time.monotonic()
        model = ReflectedDiffusion(domain, width=128, seed=run.seed, steps=run.steps(6000)).fit(train)
        print(f"{name}: {1000 * (time.monotonic() - start) / model.steps:.1f} ms a training step")
        samples = model.sample(400 if run.quick else len(held_back), steps=run.sampler_steps())
        note = report(name, domain, samples, train, held_back)
        widest = held_back.flatten(1).var(0).topk(2).indices
        data_frames.append(held_back.flatten(1)[:4000, widest])
        sample_frames.append(samples.flatten(1)[:4000, widest])
        titles.append(note.split(",")[0])
    triangle, square = SQUARE[[0, 1, 3]], SQUARE
    figure = film_strip(
        data_frames + sample_frames,
        ["ten parts", "3 x 3", "4 x 4", *titles],
        outline=[triangle, square, square] * 2,
        columns=3,
        generated=[3, 4, 5],
        kind="scatter",
    )
    run.finish(save_figure(figure, run.out / "polytopes.png"))


if __name__ == "__main__":
    main()
