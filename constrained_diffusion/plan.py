"""How a long training goes: the numbers of its recipe, checked. May use: torch, the domains' checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from .domains.checks import whole_number

__all__ = ["PRECISIONS", "Plan"]

PRECISIONS = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Plan:
    """How to train; the defaults are those published for CIFAR-10 (Lou & Ermon 2023, arXiv 2304.04740).

    Attributes:
        steps: gradient steps in all.
        batch_size: points in each, over all processes.
        micro_batch: points that pass through the network at a time; by default a process's whole share. With a number
            given, results do not depend on how many processes there are.
        learning_rate: of Adam.
        warm_up: steps over which the learning rate rises to it.
        clip: largest norm of the gradient.
        average: decay of the exponential average of the weights; at most (1 + step) / (10 + step).
        precision: of the network's arithmetic: ``"no"`` for float32, ``"bf16"`` or ``"fp16"`` mixed with it.
        compile: compile the network (``torch.compile``).
        seed: of everything random but a network's first weights, which come with it (``torch.manual_seed``).
        save_every: steps between two checkpoints.
        keep: how many of the newest checkpoints stay.
        report_every: steps between two entries of the loss curve.
    """

    steps: int = 400_000
    batch_size: int = 128
    micro_batch: int | None = None
    learning_rate: float = 2e-4
    warm_up: int = 5000
    clip: float = 1.0
    average: float = 0.9999
    precision: Literal["no", "bf16", "fp16"] = "no"
    compile: bool = False
    seed: int = 0
    save_every: int = 5000
    keep: int = 3
    report_every: int = 50

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        for name in ("steps", "batch_size", "micro_batch", "save_every", "keep", "report_every"):
            value = getattr(self, name)
            if value is not None or name != "micro_batch":
                object.__setattr__(self, name, whole_number(value, f"{name} must be a positive integer", 1))
        object.__setattr__(self, "seed", whole_number(self.seed, "seed must be a non-negative integer", 0))
        if self.micro_batch is not None and self.batch_size % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch!r} does not divide batch_size {self.batch_size}")
        if not self.learning_rate > 0 or not self.clip > 0:
            raise ValueError(f"learning_rate and clip must be positive, not {self.learning_rate!r}, {self.clip!r}")
        if not 0 <= self.average < 1:
            raise ValueError(f"average must lie in [0, 1), not {self.average!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f'precision must be "no", "bf16" or "fp16", not {self.precision!r}')

    def rate(self, step: int) -> float:
        """Learning rate at a step, as a share of its final value."""
        return min(1.0, (step + 1) / max(1, self.warm_up))
