"""One trained network, sampled in three ways at several weights of guidance, side by side.

    python examples/cifar10/compare.py --run out/cifar10

*Reflect*: the reverse of the process it was trained on. *Project*: the same steps, ended by clipping into the cube.
*Clip*: an unconstrained reverse diffusion with the same network, clipped once at the end. All start from the same
noise. Writes ``compare.png`` and ``compare.json`` into the run's folder; the latter has the share of coordinates within
1/255 of a face, which is what saturated images have too much of.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from pictures import read
from sample import load
from torch import Tensor

from constrained_diffusion import (
    ClassifierFreeGuidance,
    Euclidean,
    EulerMaruyama,
    ReflectedSDE,
    ScoreModel,
    SolverError,
    dequantise,
)
from constrained_diffusion.checkpoints import write_atomic
from constrained_diffusion.images import save_grid, tile, to_levels, to_unit

WAYS = ("reflect", "project", "clip")


@dataclass(frozen=True)
class Options:
    """What to compare."""

    run: Path
    """Folder of the run, trained with labels."""
    weights: tuple[float, ...] = (0.0, 1.5, 5.0, 15.0)
    """Of guidance."""
    n: int = 32
    """Images in each cell."""
    steps: int = 250
    shown: int = 16
    """Images of each cell in the picture, in a square."""
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def near_face(x: Tensor) -> float:
    """Share of coordinates within 1/255 of a face of the unit cube."""
    return float(((x < 1 / 255) | (x > 254 / 255)).double().mean())


def compare(options: Options) -> dict[str, dict[str, float | None]]:
    """Draw all cells; the share of coordinates near a face for each way and weight, and for the data.

    None, and a grey cell, where the numbers grew without bound.
    """
    config, model, names = load(options.run, options.device)
    if not names:
        raise ValueError("the run has no classes to guide towards")
    shape, cube = model.sde.domain.event_shape, model.sde
    free = ScoreModel(model.network, ReflectedSDE(Euclidean(shape), schedule=cube.schedule)).to(options.device)
    free.load_state_dict(model.state_dict())  # also the scale of the output that the network was trained with
    free.eval()
    labels = torch.arange(options.n, device=options.device) % len(names)
    latent = cube.sample_prior(
        options.n, generator=torch.Generator(options.device).manual_seed(options.seed), device=options.device
    )
    held_back = read(config.data).test
    data = dequantise(held_back) if config.dequantise else to_unit(held_back)
    shares: dict[str, dict[str, float | None]] = {"data": {"share near a face": near_face(data)}}
    cells = []
    for way in WAYS:
        base = free if way == "clip" else model
        shares[way] = {}
        for weight in options.weights:
            score = ClassifierFreeGuidance(base, weight, null={"label": torch.tensor(len(names))})
            walk = EulerMaruyama(
                base.sde, score, steps=options.steps, boundary="project" if way == "project" else "reflect"
            )
            try:
                x = walk.sample(
                    options.n,
                    latent=latent,
                    condition={"label": labels},
                    generator=torch.Generator(options.device).manual_seed(options.seed + 1),
                    progress=True,
                ).x.clamp(0, 1)
            except SolverError as error:  # without walls, far outside
                x, share = torch.full_like(latent, 0.5), None
                print(f"{way:8s} weight {weight:4g}: diverged ({error})", flush=True)
            else:
                share = near_face(x)
                print(f"{way:8s} weight {weight:4g}: {100 * share:.1f} % of coordinates near a face", flush=True)
            shares[way][f"weight {weight:g}"] = share
            levels = to_levels(x, dequantised=config.dequantise).cpu()[: options.shown]
            cells.append(tile(levels, max(1, int(len(levels) ** 0.5))))
    save_grid(torch.stack(cells), options.run / "compare.png", columns=len(options.weights), zoom=1)
    write_atomic(options.run / "compare.json", json.dumps(shares, indent=2).encode())
    return shares


def main(arguments: list[str] | None = None) -> None:
    options = tyro.cli(Options, args=arguments)
    try:
        shares = compare(options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(
        f"data: {100 * shares['data']['share near a face']:.1f} %; rows of {options.run}/compare.png: {', '.join(WAYS)}"
    )


if __name__ == "__main__":
    main()
