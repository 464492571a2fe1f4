"""Inpainting: a trained run fills in the hidden half of held-back images, with no training for it.

    python examples/cifar10/inpaint.py --run out/cifar10

The score is guided by the pixels that are seen; every sample stays inside the cube, with nothing clipped. The picture
shows what is seen, two fillings and the truth in turn.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from pictures import read
from sample import load
from torch import Tensor

from constrained_diffusion import EulerMaruyama, Inpainting
from constrained_diffusion.images import save_grid, to_levels, to_unit


@dataclass(frozen=True)
class Options:
    """What to fill in."""

    run: Path
    """Folder of the run."""
    n: int = 12
    """Images."""
    steps: int = 250
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def fill(options: Options) -> tuple[Tensor, float]:
    """Seen, filled twice and true images ``[n, 4, C, H, W]``; root mean square error of the seen pixels."""
    config, model, names = load(options.run, options.device)
    pictures = read(config.data)
    truth = to_unit(pictures.test[: options.n]).to(options.device)
    mask = torch.ones(model.sde.domain.event_shape, dtype=torch.bool, device=options.device)
    mask[..., mask.shape[-1] // 2 :] = False
    condition = {}
    if names:
        condition["label"] = torch.full((len(truth),), len(names), device=options.device)  # none is known
    guided = Inpainting(model.sde, model, mask, truth)
    fillings = [
        EulerMaruyama(model.sde, guided, steps=options.steps)
        .sample(
            len(truth),
            condition=condition,
            generator=torch.Generator(options.device).manual_seed(options.seed + i),
            progress=True,
        )
        .x
        for i in range(2)
    ]
    off = float((fillings[0] - truth)[:, mask].square().mean().sqrt())
    return torch.stack([torch.where(mask, truth, 0.5), *fillings, truth], 1), off


def main(arguments: list[str] | None = None) -> None:
    options = tyro.cli(Options, args=arguments)
    try:
        images, off = fill(options)
        picture = save_grid(to_levels(images.flatten(0, 1)), options.run / "inpainting.png", columns=12)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"the pixels that are seen are met to {off:.4f} (root mean square); picture: {picture}")


if __name__ == "__main__":
    main()
