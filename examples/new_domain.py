"""A domain of one's own: an annulus, which is not convex, in some fifteen lines; checked, trained on, drawn.

The data are a spiral between the hole and the rim, some of it against either wall.

    python examples/new_domain.py [--quick] [--out FOLDER]
"""

import torch
from report import halves, options, report
from torch import Tensor

from constrained_diffusion import Domain, EulerMaruyama, ReflectedDiffusion
from constrained_diffusion.plotting import film_strip, save_figure
from constrained_diffusion.testing import check_domain


class Annulus(Domain):
    event_shape, dim = torch.Size([2]), 2

    def __init__(self, hole: float = 0.4, radius: float = 1.0) -> None:
        self.hole, self.radius = hole, radius
        self.spectral_gap = 1 / radius**2  # a lower bound; the default is for convex sets

    def boundary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r = x.norm(dim=-1)
        outward = x / r.clamp(min=1e-30).unsqueeze(-1)
        near_hole = (r - self.hole < self.radius - r).unsqueeze(-1)
        return torch.minimum(self.radius - r, r - self.hole), torch.where(near_hole, outward, -outward)

    def curvature(self, x: Tensor) -> Tensor:  # optional: faster than the default's differences of normals
        near_hole = x.norm(dim=-1, keepdim=True) < (self.hole + self.radius) / 2
        return torch.where(near_hole, -1 / self.hole, 1 / self.radius).to(x)


def spiral(domain: Annulus, n: int, generator: torch.Generator) -> Tensor:
    along = torch.rand(n, 1, generator=generator)
    angle = 4.5 * torch.pi * along
    r = domain.hole + 0.02 + (domain.radius - domain.hole - 0.04) * along
    return domain.reflect(r * torch.cat([angle.cos(), angle.sin()], 1), 0.02 * torch.randn(n, 2, generator=generator))


def main() -> None:
    run = options(__doc__)
    domain, generator = Annulus(), torch.Generator().manual_seed(0)
    print(check_domain(domain, points=1000, paths=2000) if run.quick else check_domain(domain))
    train, held_back = halves(spiral(domain, 24_000, generator))
    model = ReflectedDiffusion(domain, width=128, seed=run.seed, steps=run.steps(2500)).fit(train)
    back = EulerMaruyama(model.sde_, model.score_, steps=run.sampler_steps()).sample(
        6000, generator=generator, frames=4
    )
    note = report("spiral in an annulus", domain, back.x, train, held_back)
    forward = [model.sde_.perturb(train[:5000], t, generator=generator)[0] for t in (0.45, 0.7, 1.0)]
    frames = [train[:5000], *forward, back.trajectory[1], back.trajectory[2], back.x]
    titles = ["data", *(f"noise {float(model.sde_.sigma(torch.tensor(t))):.2f}" for t in (0.45, 0.7, 1.0))]
    titles += [f"back, t = {float(t):.2f}" for t in back.times[1:3]] + [f"samples: {note.split(',')[0]}"]
    around = torch.linspace(0, 2 * torch.pi, 721)[:, None]
    circle = torch.cat([around.cos(), around.sin()], 1)
    outline = torch.cat([domain.radius * circle, torch.full((1, 2), torch.nan), domain.hole * circle])
    figure = film_strip(frames, titles, outline=outline, columns=7, generated=[6], kind="scatter")
    run.finish(save_figure(figure, run.out / "new_domain.png"))


if __name__ == "__main__":
    main()
