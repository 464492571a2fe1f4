"""Latent diffusion: the same training, in the bounded latent space of an autoencoder.

    python examples/cifar10/latent.py --shape box --data images.npz --out out/latent
    python examples/cifar10/latent.py --shape ball --data images.npz --out out/latent_ball

The autoencoder is anything with ``encode`` and ``decode`` whose latents lie in a box (a sigmoid's) or a ball; a small
one is trained here to have one. The diffusion knows nothing of images: its domain is the latents'.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import tyro
from pictures import read
from torch import Tensor, nn
from tqdm.auto import trange

from constrained_diffusion import (
    MLP,
    Ball,
    DenoisingScoreMatching,
    Domain,
    EulerMaruyama,
    Hypercube,
    ReflectedSDE,
    ScoreModel,
)
from constrained_diffusion.images import ImageSource, save_grid, to_levels
from constrained_diffusion.networks import UNet
from constrained_diffusion.sources import EncodedSource
from constrained_diffusion.trainer import Plan, Trainer

SHOWN = 32


@dataclass(frozen=True)
class Options:
    """What to train."""

    shape: Literal["box", "ball"] = "box"
    """Where the latents lie."""
    data: Path = Path("data/cifar-10-binary.tar.gz")
    """CIFAR-10 archive, .npz with x, or folder of pictures."""
    out: Path = Path("out/latent")
    size: int = 64
    """Latent numbers of an image in the ball; in the box they are 4 for each 4 x 4 pixels."""
    autoencoder_steps: int = 3000
    sampler_steps: int = 100
    plan: Plan = field(
        default_factory=lambda: Plan(steps=4000, learning_rate=1e-3, warm_up=200, average=0.999, save_every=1000)
    )


class Autoencoder(nn.Module):
    """Convolutions down to latents ``[4, H / 4, W / 4]`` in the unit box, or ``[size]`` in the unit ball, and back."""

    def __init__(self, shape: tuple[int, ...], kind: str, size: int, width: int = 48) -> None:
        super().__init__()
        c, h, w = shape
        self.kind, self.small = kind, (4, h // 4, w // 4)
        self.down = nn.Sequential(
            nn.Conv2d(c, width, 4, 2, 1), nn.SiLU(), nn.Conv2d(width, width, 4, 2, 1), nn.SiLU(), nn.Conv2d(width, 4, 1)
        )
        self.up = nn.Sequential(
            nn.Conv2d(4, width, 3, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(width, width, 4, 2, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(width, c, 4, 2, 1),
        )
        flat = 4 * (h // 4) * (w // 4)
        self.enter, self.leave = nn.Linear(flat, size), nn.Linear(size, flat)
        self.domain: Domain = Hypercube(self.small) if kind == "box" else Ball(size)

    def encode(self, x: Tensor) -> Tensor:
        h = self.down(x)
        if self.kind == "box":
            return h.sigmoid()
        z: Tensor = self.enter(h.flatten(1))
        return z / (1 + z.square().sum(-1, keepdim=True)).sqrt()

    def decode(self, z: Tensor) -> Tensor:
        h = z - 0.5 if self.kind == "box" else self.leave(z).reshape(-1, *self.small)
        return self.up(h).sigmoid()

    def fit(self, source: ImageSource, steps: int, generator: torch.Generator) -> float:
        """Train on reconstruction, from slightly noised latents, so that near ones decode alike; the last error."""
        optimiser = torch.optim.Adam(self.parameters(), lr=2e-3)
        for _ in trange(steps, desc="autoencoder", mininterval=1):
            rows = torch.randint(len(source), (128,), generator=generator)
            x, _ = source.batch(rows, generator)
            z = self.encode(x)
            z = self.domain.reflect(z, 0.02 * torch.randn(z.shape, generator=generator))
            loss = (self.decode(z) - x).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return float(loss.detach().sqrt())


def run(options: Options) -> tuple[Tensor, float]:
    """Train both; sampled images ``[n, C, H, W]`` and the autoencoder's error."""
    pictures = read(options.data)
    source = ImageSource(pictures.train, hide=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.plan.seed)
        autoencoder = Autoencoder(tuple(pictures.train.shape[1:]), options.shape, options.size)
        error = autoencoder.fit(source, options.autoencoder_steps, torch.Generator().manual_seed(options.plan.seed))
        domain = autoencoder.domain
        network = UNet(domain, 64, (1, 2), 1, (), 0.0) if options.shape == "box" else MLP(domain, 512, 4)
    sde = ReflectedSDE(domain, 0.01)
    model, loss = ScoreModel(network, sde), DenoisingScoreMatching(sde, "fidelity")
    trainer = Trainer(model, loss, EncodedSource(source, autoencoder.encode, domain), options.plan, options.out)
    trainer.run()
    walk = EulerMaruyama(sde, trainer.averaged, steps=options.sampler_steps)
    latents = walk.sample(SHOWN, generator=torch.Generator().manual_seed(options.plan.seed)).x
    with torch.no_grad():
        return autoencoder.decode(latents), error


def main(arguments: list[str] | None = None) -> None:
    options = tyro.cli(Options, args=arguments)
    try:
        images, error = run(options)
        picture = save_grid(to_levels(images), options.out / "latent.png")
    except (ValueError, OSError) as problem:
        sys.exit(f"error: {problem}")
    print(f"the autoencoder's error is {error:.3f} (root mean square); samples: {picture}")


if __name__ == "__main__":
    main()
