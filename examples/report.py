"""What every example script shares: the command line's options, and figures that say how good the samples are."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from constrained_diffusion import Domain
from constrained_diffusion.metrics import floor, mmd, sliced_wasserstein, violation

_MOST = 3000  # points at most in each cloud that is compared


@dataclass
class Run:
    """The options of a script, and a clock."""

    quick: bool
    out: Path
    seed: int = 0
    data: Path | None = None
    started: float = field(default_factory=time.monotonic)

    def steps(self, full: int) -> int:
        """Training steps: all of them, or few enough to see that the script works."""
        return 40 if self.quick else full

    def sampler_steps(self, full: int = 250) -> int:
        return 20 if self.quick else full

    def finish(self, path: Path) -> None:
        print(f"picture: {path}    ({time.monotonic() - self.started:.0f} s in all)")


def options(description: str, data: str | None = None) -> Run:
    """What the command line says; with ``data``, a description, also a folder of data of one's own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a few steps only: shows that the script works")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the pictures (default: out)")
    parser.add_argument("--seed", type=int, default=0, help="of the model's training and samples (default: 0)")
    if data is not None:
        parser.add_argument("--data", type=Path, help=data)
    given = parser.parse_args()
    return Run(given.quick, given.out, given.seed, getattr(given, "data", None))


def halves(data: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A random half to train on and the other half, held back."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return data[order[: len(data) // 2]], data[order[len(data) // 2 :]]


def report(name: str, domain: Domain, samples: Tensor, train: Tensor, held_back: Tensor) -> str:
    """Print distances of samples from held-back data beside their floor, and return a short form for a title.

    The floor is the same distance between two random halves of the data (or clouds of the size that is
    compared): what a perfect model would reach on average. Samples are compared in as many clouds of that size as there
    are, with one part of the held-back points after the other.
    """
    n = min(len(samples), len(held_back), _MOST)
    clouds, parts = (x.split(n)[: len(x) // n] for x in (samples, held_back))
    data = torch.cat([train, held_back])
    size = min(n, len(data) // 2)
    spread = torch.cdist(data[:_MOST].flatten(1), data[:_MOST].flatten(1))
    width = float(spread[spread > 0].median())
    print(f"{name}: {len(clouds)} x {n} samples against {len(parts)} x {n} held-back points")
    note = ""
    for label, distance in {
        "sliced Wasserstein": sliced_wasserstein,
        "MMD": lambda a, b: mmd(a, b, bandwidth=width),
    }.items():
        value = sum(distance(cloud, parts[i % len(parts)]) for i, cloud in enumerate(clouds)) / len(clouds)
        least = floor(distance, data, size=size, splits=20)
        print(f"  {label:20s} {value:.4f}   between two halves of the data {least:.4f}   ratio {value / least:.2f}")
        note = note or f"SWD {value / least:.2f} times its floor"
    outside = 100 * violation(domain, samples)
    print(f"  outside the domain   {outside:.1f} %")
    return f"{note}, {outside:.0f} % outside"
