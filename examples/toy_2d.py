"""Three toy densities in three domains: a checkerboard in a square, a spiral in a disc, petals in a triangle.

Draws the data, how the reflected SDE turns them into the uniform law, and how the trained model walks back.

    python examples/toy_2d.py [--quick] [--out FOLDER]
"""

import math

import torch
from report import halves, options, report
from torch import Tensor

from constrained_diffusion import Ball, Domain, EulerMaruyama, Hypercube, ReflectedDiffusion, Simplex
from constrained_diffusion.plotting import film_strip, save_figure

CORNERS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])  # of the triangle, drawn
FORWARD = [0.0, 0.45, 0.7, 1.0]


def checkerboard(n: int, generator: torch.Generator) -> Tensor:
    x = torch.rand(3 * n, 2, generator=generator)
    return x[(x * 4).floor().sum(1) % 2 == 0][:n]


def spiral(n: int, generator: torch.Generator) -> Tensor:
    turn = 3 * torch.pi * torch.rand(n, 1, generator=generator).sqrt()
    arm = torch.cat([turn.cos(), turn.sin()], 1) * turn / (3 * torch.pi)
    return Ball(2).reflect(0.96 * arm, 0.02 * torch.randn(n, 2, generator=generator))


def petals(n: int, generator: torch.Generator) -> Tensor:
    corner = torch.randint(3, (n,), generator=generator)
    along = torch.rand(n, generator=generator) * 0.85
    centre = torch.full((n, 3), 1 / 3) * (1 - along)[:, None] + torch.eye(3)[corner] * along[:, None]
    width = 0.12 * torch.sin(torch.pi * (along / 0.85)).clamp(min=0.1) * torch.randn(n, generator=generator)
    side = (torch.eye(3).roll(1, 0) - torch.eye(3).roll(2, 0))[corner] / math.sqrt(2)
    return Simplex(3).reflect(centre / centre.sum(1, keepdim=True), width[:, None] * side)


def flat(domain: Domain, x: Tensor) -> Tensor:
    return x @ CORNERS if domain.event_shape == (3,) else x


def main() -> None:
    run = options(__doc__)
    generator = torch.Generator().manual_seed(0)
    around = torch.linspace(0, 2 * torch.pi, 1441)[:, None]
    circle = torch.cat([around.cos(), around.sin()], 1)
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    frames, titles, outlines, notes = [], [], [], []
    for name, domain, draw, outline in [
        ("checkerboard, square", Hypercube(2), checkerboard, square),
        ("spiral, disc", Ball(2), spiral, circle),
        ("petals, triangle", Simplex(3), petals, CORNERS),
    ]:
        train, held_back = halves(draw(20_000, generator))
        model = ReflectedDiffusion(domain, width=128, seed=run.seed, steps=run.steps(5000)).fit(train)
        sde = model.sde_
        walk = EulerMaruyama(sde, model.score_, steps=run.sampler_steps(150))
        back = walk.sample(6000, generator=generator, frames=4)
        notes.append(report(name, domain, back.x, train, held_back))
        moments = [train[:5000]] + [sde.perturb(train[:5000], t, generator=generator)[0] for t in FORWARD[1:]]
        frames += [flat(domain, x) for x in [*moments, back.trajectory[1], back.trajectory[2], back.x]]
        titles += [f"data: {name}", *(f"noise {float(sde.sigma(torch.tensor(t))):.2f}" for t in FORWARD[1:])]
        titles += [f"back, t = {float(t):.2f}" for t in back.times[1:3]] + [f"samples: {notes[-1].split(',')[0]}"]
        outlines += [outline] * 7
    figure = film_strip(frames, titles, outline=outlines, columns=7, generated=[6, 13, 20], kind="scatter")
    run.finish(save_figure(figure, run.out / "toy_2d.png"))


if __name__ == "__main__":
    main()
