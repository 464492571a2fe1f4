"""A cascade: one model draws small images, given a class; the super-resolution model enlarges them.

    python examples/cifar10/cascade.py cpu --data images.npz --out out/cascade

Both stages are trained here, in folders of their own, or taken up from there.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch
import tyro
from config import PRESETS, Config
from pictures import Pictures, read
from super_resolution import enlarge, in_turn, shrink, train_upsampler
from torch import Tensor
from train import train_on

from constrained_diffusion import EulerMaruyama
from constrained_diffusion.images import save_grid, to_levels, to_unit

SHOWN = 32


def small_pictures(pictures: Pictures) -> Pictures:
    """The same images, FACTOR times smaller."""
    train, test = (to_levels(shrink(to_unit(x))) for x in (pictures.train, pictures.test))
    return replace(pictures, train=train, test=test)


def stages(config: Config) -> tuple[Config, Config]:
    """Configurations of the two: the first has as many resolutions less as its images are smaller."""
    sizes = replace(config.unet, multipliers=config.unet.multipliers[: max(1, len(config.unet.multipliers) - 2)])
    return replace(config, unet=sizes, out=config.out / "small"), replace(config, out=config.out / "large")


def draw(config: Config, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Small images ``[n, C, H / 4, W / 4]`` and enlarged ones ``[n, C, H, W]``, in [0, 1]."""
    pictures = read(config.data, download=config.download)
    first, second = stages(config)
    trainer = train_on(first, small_pictures(pictures))
    upsampler = train_upsampler(second, pictures)
    device = trainer.device
    generator = torch.Generator(device).manual_seed(seed)
    classes = len(pictures.names) if config.labels else 0
    condition = {"label": torch.arange(n, device=device) % classes} if classes else {}
    walk = EulerMaruyama(trainer.model.sde, trainer.averaged, steps=config.grid_steps)
    small = walk.sample(n, generator=generator, condition=condition, device=device).x
    return small, enlarge(upsampler, small, steps=config.grid_steps, seed=seed + 1)


def main(arguments: list[str] | None = None) -> None:
    try:
        config = tyro.extras.overridable_config_cli(PRESETS, args=arguments)
        small, large = draw(config, SHOWN)
        picture = save_grid(in_turn(small, large), config.out / "cascade.png", columns=16)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"small and enlarged images in turn: {picture}")


if __name__ == "__main__":
    main()
