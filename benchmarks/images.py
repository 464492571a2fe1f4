"""Training an image model: what a step costs beside the network's own arithmetic, images per second, peak memory.

Full steps of the trainer (reading, noising, targets, loss, clipping, Adam, average) alternate with bare ones
(``network(x, log_sigma, label)``, its square, backward); the share is of the medians. A round is ``--steps`` of them
on end, as in training: a GPU computes one while the next is prepared. A preset of examples/cifar10.

    python benchmarks/images.py [cpu] [--rounds 12] [--steps 1] [--precision no] [--compile]
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parent.parent / "examples" / "cifar10"))

from config import PRESETS

from constrained_diffusion.images import ImageSource
from constrained_diffusion.trainer import Trainer

IMAGES, CLASSES, SHAPE = 2048, 10, (3, 32, 32)


def seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", nargs="?", default="cpu", choices=[k for k in PRESETS if k != "likelihood"])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=1, help="in a round")
    parser.add_argument("--precision", default="no", choices=["no", "bf16", "fp16"])
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    config = PRESETS[arguments.preset][1]
    plan = replace(config.plan, precision=arguments.precision, compile=arguments.compile)
    model, loss = config.build(SHAPE, CLASSES)
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(256, (IMAGES, *SHAPE), dtype=torch.uint8, generator=generator)
    labels = torch.randint(CLASSES, (IMAGES,), generator=generator)
    source = ImageSource(levels, labels, classes=CLASSES, dequantise=config.dequantise)
    trainer = Trainer(model, loss, source, plan)
    size, device = plan.batch_size, trainer.device
    x = torch.rand(size, *SHAPE, device=device)
    log_sigma, label = torch.full((size,), -1.0, device=device), labels[:size].to(device)

    autocast = nullcontext() if model.precision is None else torch.autocast(device.type, model.precision)

    def bare() -> None:
        for _ in range(arguments.steps):
            model.network.zero_grad()
            with autocast:
                out = model.network(x, log_sigma, label=label)
            out.float().square().mean().backward()

    def full() -> None:
        trainer.run(trainer.step + arguments.steps, progress=False)

    took: dict[str, list[float]] = {"full": [], "bare": []}
    for i in range(arguments.rounds + 2):
        for name, call in (("full", full), ("bare", bare)):
            spent = seconds(call, device) / arguments.steps
            if i >= 2:  # the first rounds compile, allocate, and check data
                took[name].append(spent)
    whole, network = (statistics.median(took[name]) for name in ("full", "bare"))
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**30
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, preset {arguments.preset}")
    print(f"a step of {size} images: {1000 * whole:.1f} ms, of which the network {1000 * network:.1f} ms")
    print(f"{size / whole:.0f} images/s, peak memory {memory:.2f} GiB")
    print(f"not in the network: {100 * (1 - network / whole):.1f} % of the time")


if __name__ == "__main__":
    main()
