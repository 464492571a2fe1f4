"""Hot, blue stars on the celestial sphere: young ones, in the Milky Way and in the belt around the Sun's neighbourhood.

Train on half of the directions, on the whole sphere and on the northern sky alone, which ends at the equator; judge by
the log-likelihood of the other half, beside the uniform law and a kernel density estimate.

    python examples/sphere.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from report import Run, halves, options
from torch import Tensor

from constrained_diffusion import Domain, ReflectedDiffusion, Sphere, SphericalPolytope
from constrained_diffusion.metrics import violation
from constrained_diffusion.plotting import save_figure
from constrained_diffusion.plotting.style import DATA, FAINT, INK, SAMPLES, shades
from real_data import hot_stars

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NORTH = SphericalPolytope.cap([0.0, 0.0, 1.0], math.pi / 2)
KAPPAS = [5.0, 10.0, 20.0, 40.0, 70.0, 100.0, 150.0, 250.0, 400.0, 800.0]


def main() -> None:
    run = options(__doc__)
    stars = torch.from_numpy(hot_stars())
    whole = study("whole sky", Sphere(2), stars, run)
    north = study("northern sky", NORTH, stars[stars[:, 2] >= 0], run)
    run.finish(save_figure(picture(whole, north, run), run.out / "sphere.png", dpi=200))


def study(name: str, domain: Domain, stars: Tensor, run: Run) -> tuple[ReflectedDiffusion, Tensor, Tensor]:
    """Train, print how likely held-back stars are, and return the model, all stars, and as many samples."""
    train, held_back = halves(stars)
    model = ReflectedDiffusion(
        domain, width=128, steps=run.steps(1200), sigma_min=0.03, dropout=0.2, seed=run.seed
    ).fit(train)
    samples = model.sample(len(stars), steps=run.sampler_steps())
    judged = held_back[: 40 if run.quick else 1000]
    ours = model.log_prob(judged, rtol=1e-3, atol=1e-3)
    kappa = max(KAPPAS, key=lambda k: float(cross_validated(train, k)))
    inside = domain.sample_uniform(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_mass = float((kernel_estimate(inside, train, kappa).exp().mean()).log()) + domain.log_volume
    theirs = kernel_estimate(judged, train, kappa) - log_mass
    print(f"{name}: {len(train)} stars to train on; nats per held-back star above the uniform law")
    for label, value in {"diffusion": ours, f"kernel estimate (kappa {kappa:g}, cross-validated)": theirs}.items():
        gain = value + domain.log_volume
        print(f"  {label:45s} {gain.mean():.3f} +- {gain.std() / math.sqrt(len(gain)):.3f}")
    apart = ours - theirs
    print(f"  {'difference':45s} {apart.mean():+.3f} +- {apart.std() / math.sqrt(len(apart)):.3f}")
    print(f"  samples outside the domain: {100 * violation(domain, samples):.1f} %")
    return model, stars, samples


def kernel_estimate(x: Tensor, centres: Tensor, kappa: float) -> Tensor:
    """Log-density ``[n]`` of a mixture of von Mises-Fisher laws around ``centres`` ``[m, 3]``."""
    log_scale = math.log(kappa / (2 * math.pi)) - math.log1p(-math.exp(-2 * kappa)) - math.log(len(centres))
    return torch.cat([torch.logsumexp(kappa * (part @ centres.T - 1), 1) + log_scale for part in x.split(2000)])


def cross_validated(train: Tensor, kappa: float, folds: int = 5) -> Tensor:
    """Mean log-density of each fifth under the estimate from the others."""
    parts = train.split(-(-len(train) // folds))
    values = [kernel_estimate(p, torch.cat([*parts[:i], *parts[i + 1 :]]), kappa) for i, p in enumerate(parts)]
    return torch.cat(values).mean()


# ---------------------------------------------------------------------- picture


def picture(
    whole: tuple[ReflectedDiffusion, Tensor, Tensor], north: tuple[ReflectedDiffusion, Tensor, Tensor], run: Run
) -> Figure:
    """Stars, samples and the model's density: the whole sky above, the northern one from its pole below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.6))
    grid = figure.add_gridspec(2, 3, height_ratios=(1, 1.2), left=0.01, right=0.99, top=0.9, bottom=0.09)
    grid.update(wspace=0.04, hspace=0.3)
    figure.suptitle(
        "Hot stars: a diffusion model on the celestial sphere, and one that ends at the equator",
        fontsize=15,
        fontweight="bold",
        color=INK,
    )
    for row, (model, stars, samples) in enumerate((whole, north)):
        names = ("stars", "samples", "density of the model")
        for column, name in enumerate(names):
            panel = figure.add_subplot(grid[row, column], projection="mollweide" if row == 0 else None)
            if row == 0:
                whole_sky(panel)
            else:
                northern_sky(panel)
            place = mollweide if row == 0 else from_pole
            if column < 2:
                cloud = (stars, samples)[column]
                panel.scatter(*place(cloud), s=3.0, color=(DATA, SAMPLES)[column], alpha=0.6, linewidths=0, zorder=2)
            else:
                density(panel, model, row == 0, 24 if run.quick else 60)
            where = f"{len(stars):,} {name}" if column < 2 else name
            panel.set_title(f"{('whole', 'northern')[row]} sky: {where}", fontsize=11.5, color=INK)
    return figure


def whole_sky(panel: Axes) -> None:
    panel.grid(color=FAINT, linewidth=0.5, zorder=0)
    panel.tick_params(labelbottom=False, labelleft=False)
    for spine in panel.spines.values():
        spine.set_color(INK)


def northern_sky(panel: Axes) -> None:
    turn = np.linspace(0, 2 * np.pi, 400)
    for degrees in (0, 30, 60):
        radius = 2 * np.sin((np.pi / 2 - np.radians(degrees)) / 2)
        edge = degrees == 0
        panel.plot(
            radius * np.cos(turn),
            radius * np.sin(turn),
            color=INK if edge else FAINT,
            linewidth=1.2 if edge else 0.5,
            zorder=3 if edge else 0,
        )
    panel.set_aspect("equal")
    panel.set(xlim=(-1.45, 1.45), ylim=(-1.45, 1.45))
    panel.set_axis_off()


def mollweide(points: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension, growing to the left as seen from the Earth, and declination."""
    x, y, z = points.double().numpy().T
    return -np.arctan2(y, x), np.arcsin(np.clip(z, -1, 1))


def from_pole(points: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Lambert's azimuthal projection, which keeps areas."""
    x, y, z = points.double().numpy().T
    scale = np.sqrt(2 / (1 + np.clip(z, 0, 1)))
    return -scale * x, scale * y


def density(panel: Axes, model: ReflectedDiffusion, all_sky: bool, rows: int) -> None:
    """The model's density over the uniform one, cell by cell."""
    if all_sky:
        edges = np.linspace(-np.pi, np.pi, 2 * rows + 1), np.linspace(-np.pi / 2, np.pi / 2, rows + 1)
    else:
        edges = np.linspace(0, 2 * np.pi, 2 * rows + 1), np.linspace(0, np.pi / 2, rows // 2 + 1)
    longitude, latitude = np.meshgrid(*((e[1:] + e[:-1]) / 2 for e in edges))
    parts = np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)
    points = torch.from_numpy(np.stack(parts, -1).reshape(-1, 3))
    values = torch.cat([model.log_prob(p, rtol=1e-2, atol=1e-2) for p in points.split(2000)]).reshape(latitude.shape)
    ratio = (values + model.domain.log_volume).exp().numpy()
    corners = list(np.meshgrid(*edges))
    if all_sky:
        corners[0] = -corners[0]
    else:
        polar = 2 * np.sin((np.pi / 2 - corners[1]) / 2)
        corners = [-polar * np.cos(corners[0]), polar * np.sin(corners[0])]
    mesh = panel.pcolormesh(*corners, ratio, cmap=shades(SAMPLES), vmin=0, vmax=float(np.quantile(ratio, 0.995)))
    mesh.set_rasterized(True)
    below = panel.inset_axes((0.25, -0.07, 0.5, 0.035))
    bar = panel.figure.colorbar(mesh, cax=below, orientation="horizontal")
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.set_label("times the uniform density", fontsize=8.5, color=INK, labelpad=1)
    bar.outline.set_visible(False)


if __name__ == "__main__":
    main()
