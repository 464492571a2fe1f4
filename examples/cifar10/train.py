"""Train an image model; run it again after a crash and it goes on.

    python examples/cifar10/train.py fidelity --data data/cifar-10-binary.tar.gz --download
    torchrun --nproc_per_node 8 examples/cifar10/train.py fidelity --plan.precision bf16 --plan.compile

Needs ``pip install "reflected-diffusion[images]"``. Writes into the run's folder: checkpoints, TensorBoard logs, sample
grids, the loss curve. ``train.py PRESET --help`` lists every option.
"""

from __future__ import annotations

import sys

import torch
import tyro
from config import PRESETS, Config
from pictures import Pictures, read
from torch.utils.tensorboard import SummaryWriter

from constrained_diffusion import EulerMaruyama
from constrained_diffusion.images import ImageSource, save_grid, to_levels
from constrained_diffusion.plotting import loss_curve, save_figure
from constrained_diffusion.trainer import Trainer

GRID = 64


def train_on(config: Config, pictures: Pictures) -> Trainer:
    """Train up to the plan's last step, from the newest checkpoint if there is one."""
    shape, classes = tuple(pictures.train.shape[1:]), len(pictures.names)
    model, loss = config.build(shape, classes)
    source = ImageSource(
        pictures.train,
        pictures.train_labels if config.labels else None,
        classes=classes,
        flip=config.flip,
        hide=config.hide,
        dequantise=config.dequantise,
    )
    trainer = Trainer(model, loss, source, config.plan, config.out)
    first = trainer.rank == 0
    if first:
        config.save(shape, pictures.names)
        count = sum(p.numel() for p in model.parameters())
        print(f"{pictures}; {count / 1e6:.2f} million weights; {trainer.processes} x {trainer.device}")
        if trainer.step:
            print(f"going on from step {trainer.step}")
    writer = SummaryWriter(config.out / "tensorboard", purge_step=trainer.step) if first else None

    def log(trainer: Trainer) -> None:
        step, value, speed = trainer.history[-1]
        writer.add_scalar("loss", value, step)
        writer.add_scalar("images per second", speed, step)

    def grid(trainer: Trainer) -> None:
        generator = torch.Generator(trainer.device).manual_seed(config.plan.seed)
        condition = {"label": torch.arange(GRID, device=trainer.device) % classes} if source.labels is not None else {}
        walk = EulerMaruyama(model.sde, trainer.averaged, steps=config.grid_steps)
        samples = walk.sample(GRID, generator=generator, condition=condition, device=trainer.device).x
        levels = to_levels(samples, dequantised=config.dequantise)
        save_grid(levels, config.out / "grids" / f"{trainer.step:08d}.png")
        writer.add_images("samples", levels, trainer.step)

    try:
        trainer.run(every=[(config.plan.report_every, log), (config.grid_every, grid)], unit="img")
    finally:
        if writer is not None:
            writer.close()
            if trainer.history:
                save_figure(loss_curve(trainer.history), config.out / "loss.png")
    if first:
        print(f"{trainer.step} steps; {trainer.history[-1][2]:.0f} images/s; in {config.out}")
    return trainer


def main(arguments: list[str] | None = None) -> None:
    try:
        config = tyro.extras.overridable_config_cli(PRESETS, args=arguments)
        train_on(config, read(config.data, download=config.download))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
