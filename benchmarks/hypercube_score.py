"""What the hypercube's score costs at image size, against the textbook sums and against drawing noise.

Batch [128, 3, 32, 32], float32, sigma log-uniform in [0.01, 5]. All in one process and in turn, so that the
ratios mean something on a noisy machine; times are medians.

    python benchmarks/hypercube_score.py [--rounds 5] [--no-compile]
"""

import argparse
import math
import statistics
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from constrained_diffusion import Hypercube
from constrained_diffusion.domains import trusted


def textbook(x: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
    """Both expansions everywhere, 20 eigenfunctions and 42 images, and a choice between them at sigma = 1/3."""
    s = sigma.reshape(-1, 1, 1, 1)
    density, slope = torch.ones_like(x), torch.zeros_like(x)
    for k in range(1, 21):
        decay = 2 * torch.exp(-0.5 * (k * math.pi * s) ** 2) * torch.cos(k * math.pi * x0)
        density = density + decay * torch.cos(k * math.pi * x)
        slope = slope - k * math.pi * decay * torch.sin(k * math.pi * x)
    total, pull = torch.zeros_like(x), torch.zeros_like(x)
    for k in range(-10, 11):
        for image in (x0 + 2 * k, -x0 + 2 * k):
            weight = torch.exp(-0.5 * ((x - image) / s) ** 2)
            total = total + weight
            pull = pull - weight * (x - image) / s**2
    return torch.where(s < 1 / 3, pull / (total + 1e-12), slope / (density + 1e-12))


def median_milliseconds(calls: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, float]:
    """Each call in blocks of a fifth of a second, all in turn, round after round; the median of its blocks."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
            times[name].append(timer.blocked_autorange(min_run_time=0.2).median)
    return {name: 1000 * statistics.median(t) for name, t in times.items()}


def show(medians: dict[str, float], base: float) -> None:
    for name, ms in medians.items():
        print(f"{name:46s} {ms:9.2f} {base / ms:14.1f} {ms / medians['torch.randn_like']:16.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--no-compile", action="store_true", help="leave out torch.compile (which needs a C++ compiler)"
    )
    given = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    domain = Hypercube((3, 32, 32))
    x0 = domain.sample_uniform(128, generator=generator)
    sigma = torch.exp(torch.empty(128).uniform_(math.log(0.01), math.log(5), generator=generator))
    x = domain.sample_heat_kernel(x0, sigma, generator=generator)

    def ours() -> Tensor:
        return domain.heat_kernel_score(x, x0, sigma)

    def unchecked() -> Tensor:
        with trusted():
            return domain.heat_kernel_score(x, x0, sigma)

    noise = {"torch.randn_like": lambda: torch.randn_like(x)}
    eager = {
        "textbook, eager": lambda: textbook(x, x0, sigma),
        "this library, eager": ours,
        "this library, eager, inside a training loop": unchecked,
        "diffuse (noise and score), eager": lambda: domain.diffuse(x0, sigma)[1],
    }
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch [128, 3, 32, 32] float32")
    print(f"{'':46s} {'ms':>9s} {'textbook / it':>14s} {'it / randn_like':>16s}")
    medians = median_milliseconds({**noise, **eager}, given.rounds)
    base = medians["textbook, eager"]
    show(medians, base)
    if not given.no_compile:  # after the others: the compiler brings a thread pool of its own into the process
        compiled = torch.compile(domain.heat_kernel_score, dynamic=False)
        compiled_textbook = torch.compile(textbook, dynamic=False)
        fused = {
            "textbook, torch.compile": lambda: compiled_textbook(x, x0, sigma),
            "this library, torch.compile": lambda: compiled(x, x0, sigma),
        }
        show(median_milliseconds({**noise, **fused}, given.rounds), base)
    near = (x - x0).abs() < 5 * sigma.reshape(-1, 1, 1, 1)
    scale = sigma.reshape(-1, 1, 1, 1)
    gap = (scale * (ours() - textbook(x, x0, sigma))).abs()[near & (scale > 0.02)].max()
    print(f"largest difference of sigma * score from the textbook version, where that is right: {float(gap):.1e}")


if __name__ == "__main__":
    main()
