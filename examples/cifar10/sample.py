"""Draw images from a trained run: an ``.npz`` with x, y and a PNG grid.

python examples/cifar10/sample.py --run out/cifar10 --n 64 --guidance 1.5
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from config import Config
from torch import Tensor
from tqdm.auto import tqdm

from constrained_diffusion import (
    ClassifierFreeGuidance,
    EulerMaruyama,
    Multistep,
    PredictorCorrector,
    ProbabilityFlow,
    Sampler,
    ScoreModel,
)
from constrained_diffusion.checkpoints import write_atomic
from constrained_diffusion.data import check_device
from constrained_diffusion.images import save_grid, to_levels
from constrained_diffusion.process import Score
from constrained_diffusion.trainer import load_averaged

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "euler": EulerMaruyama,
    "predictor-corrector": PredictorCorrector,
    "multistep": Multistep,
    "ode": lambda process, score, steps: ProbabilityFlow(process, score),
}


@dataclass(frozen=True)
class Options:
    """What to draw."""

    run: Path
    """Folder of the run."""
    out: Path | None = None
    """The .npz to write; a .png of the same name shows the first of them. By default in the run's folder."""
    n: int = 64
    """How many images."""
    sampler: Literal["euler", "predictor-corrector", "multistep", "ode"] = "predictor-corrector"
    steps: int = 250
    """Of the sampler; the ode picks its own."""
    boundary: Literal["reflect", "project"] = "reflect"
    """How Euler's moves end inside."""
    guidance: float = 0.0
    """Weight of guidance towards the class."""
    label: int | None = None
    """One class for all; by default all classes in turn."""
    chunk: int = 256
    """Images computed at a time."""
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    grid: int = 64
    """Images in the picture."""


def load(run: Path, device: str) -> tuple[Config, ScoreModel, list[str]]:
    """The configuration, the averaged model and the names of the classes of a run."""
    check_device(device)
    config, shape, names = Config.load(run)
    model, _ = config.build(shape, len(names))
    load_averaged(run, model)
    return config, model.to(device), names if config.labels else []


def draw(options: Options) -> tuple[Tensor, Tensor | None]:
    """Levels ``[n, C, H, W]`` uint8 and labels ``[n]``; they depend on the seed and the chunk's size."""
    config, model, names = load(options.run, options.device)
    for name in ("n", "chunk", "grid"):
        if getattr(options, name) < 1:
            raise ValueError(f"{name} must be positive, not {getattr(options, name)}")
    if options.boundary != "reflect" and options.sampler != "euler":
        raise ValueError("boundary is how Euler's moves end: give --sampler euler with it")
    if options.out is not None and options.out.suffix != ".npz":
        raise ValueError(f"{options.out}: samples are written as an .npz, with a .png beside it")
    if options.label is not None and not 0 <= options.label < len(names):
        raise ValueError(f"label {options.label} is none of the run's {len(names)} classes")
    if options.guidance and not names:
        raise ValueError("the run has no classes to guide towards")
    labels = torch.arange(options.n) % len(names) if names else None
    if labels is not None and options.label is not None:
        labels = torch.full((options.n,), options.label)
    score: Score = model
    if options.guidance:
        score = ClassifierFreeGuidance(model, options.guidance, null={"label": torch.tensor(len(names))})
    if options.sampler == "euler":
        walk: Sampler = EulerMaruyama(model.sde, score, steps=options.steps, boundary=options.boundary)
    else:
        walk = SAMPLERS[options.sampler](model.sde, score, steps=options.steps)
    generator = torch.Generator(options.device).manual_seed(options.seed)
    done = []
    parts = range(0, options.n, options.chunk)
    for begin in tqdm(parts, desc="chunks", disable=len(parts) == 1):
        size = min(options.chunk, options.n - begin)
        condition = {} if labels is None else {"label": labels[begin : begin + size].to(options.device)}
        samples = walk.sample(
            size, generator=generator, condition=condition, device=options.device, progress=len(parts) == 1
        )
        done.append(to_levels(samples.x, dequantised=config.dequantise).cpu())
    return torch.cat(done), labels


def main(arguments: list[str] | None = None) -> None:
    options = tyro.cli(Options, args=arguments)
    try:
        levels, labels = draw(options)
        out = options.out or options.run / "samples.npz"
        arrays = {"x": levels.permute(0, 2, 3, 1).numpy()}
        if labels is not None:
            arrays["y"] = labels.numpy()
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)
        write_atomic(out, content.getvalue())
        picture = save_grid(levels[: options.grid], out.with_suffix(".png"))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{len(levels)} images in {out}; the first {min(options.grid, len(levels))} in {picture}")


if __name__ == "__main__":
    main()
