"""Super-resolution: a model of large images given small ones, which is one more condition for the same network.

    python examples/cifar10/super_resolution.py cpu --data images.npz --out out/super_resolution

Trains on images and their averages over blocks of 4 x 4 pixels, slightly noised so that small images which another
model drew serve as well (Ho et al. 2022, "Cascaded Diffusion Models", arXiv 2106.15282); then enlarges held-back
ones. The picture shows small image, enlarged image and truth in turn.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch
import tyro
from config import PRESETS, Config
from pictures import Pictures, read
from torch import Generator, Tensor, nn

from constrained_diffusion import EulerMaruyama, Hypercube, ScoreModel
from constrained_diffusion.images import ImageSource, save_grid, to_levels, to_unit
from constrained_diffusion.trainer import Trainer

FACTOR = 4
NOISE = 0.02
SHOWN = 12


def shrink(x: Tensor) -> Tensor:
    """Averages over blocks of pixels: ``[B, C, H, W]`` to ``[B, C, H / 4, W / 4]``."""
    return nn.functional.avg_pool2d(x, FACTOR)


def noised_small(x: Tensor, generator: Generator) -> Tensor:
    """What the model is conditioned on while it trains."""
    small = shrink(x)
    z = torch.randn(small.shape, generator=generator, device=small.device)
    return Hypercube(small.shape[1:]).reflect(small, NOISE * z)


def train_upsampler(config: Config, pictures: Pictures) -> ScoreModel:
    """Train, or go on training, and return the averaged model."""
    shape = tuple(pictures.train.shape[1:])
    model, loss = replace(config, labels=False).build(shape, 0, image_channels=shape[0])
    source = ImageSource(
        pictures.train, flip=config.flip, hide=config.hide, dequantise=config.dequantise, condition=noised_small
    )
    trainer = Trainer(model, loss, source, config.plan, config.out)
    trainer.run()
    return trainer.averaged


def enlarge(model: ScoreModel, small: Tensor, *, steps: int = 100, seed: int = 0) -> Tensor:
    """Large images ``[n, C, H, W]`` whose averages are small ones ``[n, C, H / 4, W / 4]``, in [0, 1]."""
    generator = torch.Generator(small.device).manual_seed(seed)
    walk = EulerMaruyama(model.sde, model, steps=steps)
    return walk.sample(len(small), generator=generator, condition={"image": small}, device=small.device).x


def in_turn(small: Tensor, *large: Tensor) -> Tensor:
    """Each small image, drawn as large as the others, and the others after it: uint8 ``[k n, C, H, W]``."""
    blocks = small.repeat_interleave(FACTOR, -1).repeat_interleave(FACTOR, -2)
    return to_levels(torch.stack([blocks, *large], 1).flatten(0, 1))


def main(arguments: list[str] | None = None) -> None:
    try:
        config = tyro.extras.overridable_config_cli(PRESETS, args=arguments)
        pictures = read(config.data, download=config.download)
        model = train_upsampler(config, pictures)
        truth = to_unit(pictures.test[:SHOWN]).to(next(model.parameters()).device)
        small = shrink(truth)
        large = enlarge(model, small, steps=config.grid_steps)
        off = float((shrink(large) - small).square().mean().sqrt())
        picture = save_grid(in_turn(small, large, truth), config.out / "super_resolution.png", columns=12)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"averages of the enlarged images are off by {off:.3f} (root mean square); picture: {picture}")


if __name__ == "__main__":
    main()
