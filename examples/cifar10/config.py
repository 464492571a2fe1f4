"""The configuration that training, sampling and evaluation share, with its presets."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from constrained_diffusion import DenoisingScoreMatching, Hypercube, ReflectedSDE, ScoreModel
from constrained_diffusion.checkpoints import write_atomic
from constrained_diffusion.networks import ImageTransformer, UNet
from constrained_diffusion.trainer import Plan


@dataclass(frozen=True)
class UNetSize:
    """Of the U-Net: channels, their multipliers, blocks a resolution, widths with attention."""

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 4
    attention: tuple[int, ...] = (16,)
    dropout: float = 0.1


@dataclass(frozen=True)
class TransformerSize:
    """Of the transformer."""

    width: int = 384
    depth: int = 12
    heads: int = 6
    patch: int = 2
    dropout: float = 0.0


@dataclass(frozen=True)
class Config:
    """A run. The defaults are the published recipe for sample quality (Lou & Ermon 2023, arXiv 2304.04740)."""

    data: Path = Path("data/cifar-10-binary.tar.gz")
    """CIFAR-10 archive (binary or python version), .npz with x, y, folder of pictures, or photos (two, to try)."""
    out: Path = Path("out/cifar10")
    """Folder of the run."""
    download: bool = False
    """Fetch the archive if it is missing."""
    network: Literal["unet", "transformer"] = "unet"
    unet: UNetSize = field(default_factory=UNetSize)
    transformer: TransformerSize = field(default_factory=TransformerSize)
    labels: bool = True
    """Condition on the class, where the data have classes."""
    hide: float = 0.1
    """Share of labels hidden while training, for guidance."""
    flip: bool = True
    """Mirror images at random."""
    dequantise: bool = False
    """Spread each level over its bin, as likelihoods ask for."""
    weighting: Literal["likelihood", "fidelity"] = "fidelity"
    sigma_min: float = 0.01
    sigma_max: float = 5.0
    grid_every: int = 5000
    """Steps between two sample grids."""
    grid_steps: int = 100
    """Of the sampler that draws them."""
    plan: Plan = field(default_factory=Plan)

    def save(self, shape: tuple[int, ...], names: list[str]) -> None:
        """Write the configuration, with the images' shape and the classes' names, into the run's folder."""
        values = {**asdict(self), "shape": list(shape), "names": names}
        write_atomic(self.out / "config.json", json.dumps(values, indent=2, default=str).encode())

    @staticmethod
    def load(folder: Path) -> tuple[Config, tuple[int, ...], list[str]]:
        """Read what :meth:`save` wrote: the configuration, the images' shape, and the classes' names."""
        path = folder / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"no run in {folder}: {path.name} is missing")
        try:
            values: dict[str, Any] = json.loads(path.read_text())
            shape, names = tuple(values.pop("shape")), values.pop("names")
            for name, kind in (("unet", UNetSize), ("transformer", TransformerSize), ("plan", Plan)):
                part = {k: tuple(v) if isinstance(v, list) else v for k, v in values[name].items()}
                values[name] = kind(**part)
            config = Config(**{**values, "data": Path(values["data"]), "out": folder})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not the configuration of a run: {error!r}") from None
        return config, shape, names

    def build(
        self, shape: tuple[int, ...], classes: int, *, image_channels: int = 0
    ) -> tuple[ScoreModel, DenoisingScoreMatching]:
        """The score model, whose weights the seed decides, and the loss."""
        sde = ReflectedSDE(Hypercube(shape), self.sigma_min, self.sigma_max)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.plan.seed)
            conditions = {"classes": classes if self.labels else 0, "image_channels": image_channels}
            network: nn.Module
            if self.network == "unet":
                network = UNet(sde.domain, **conditions, **asdict(self.unet))
            else:
                network = ImageTransformer(sde.domain, **conditions, **asdict(self.transformer))
        return ScoreModel(network, sde), DenoisingScoreMatching(sde, self.weighting)


_FULL = Config()
_SHORT = replace(_FULL, sigma_max=1.5, dequantise=True, grid_every=1000)
PRESETS: dict[str, tuple[str, Config]] = {
    "fidelity": ("the published recipe for sample quality; a GPU for days", _FULL),
    "likelihood": (
        "for bits per dimension: dequantised, likelihood weighting, unconditional",
        replace(
            _FULL,
            out=Path("out/cifar10_likelihood"),
            weighting="likelihood",
            dequantise=True,
            labels=False,
            sigma_min=1e-3,
        ),
    ),
    "transformer": ("a diffusion transformer", replace(_FULL, network="transformer", out=Path("out/cifar10_dit"))),
    "gpu": (
        "the published network with half its blocks, for minutes on one GPU",
        replace(
            _SHORT,
            out=Path("out/cifar10_gpu"),
            unet=UNetSize(blocks=2),
            plan=Plan(
                steps=10_000,
                batch_size=256,
                learning_rate=5e-4,
                warm_up=500,
                average=0.999,
                precision="bf16",
                save_every=2000,
            ),
        ),
    ),
    "cpu": (
        "a small network for an hour on two cores",
        replace(
            _SHORT,
            out=Path("out/cifar10_cpu"),
            unet=UNetSize(16, (1, 2, 4, 4), 1, (8,), 0.0),
            plan=Plan(
                steps=8000,
                batch_size=64,
                learning_rate=1e-3,
                warm_up=500,
                average=0.999,
                save_every=500,
            ),
        ),
    ),
    "tiny": (
        "a few steps, to see that everything works",
        replace(
            _FULL,
            out=Path("out/cifar10_tiny"),
            unet=UNetSize(8, (1, 2), 1, (), 0.1),
            dequantise=True,
            grid_every=3,
            grid_steps=4,
            plan=Plan(steps=3, batch_size=8, micro_batch=4, warm_up=2, save_every=2, report_every=1),
        ),
    ),
}
