"""Where a trainer's batches come from. May use: torch, domains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Generator, Tensor

from .domains import Domain
from .domains.checks import require_tensors

__all__ = ["EncodedSource", "Source", "TensorSource", "take_rows"]


class Source(Protocol):
    """Data to train on, row by row."""

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    def batch(self, rows: Tensor, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Points ``[B, *event_shape]`` and conditions ``[B, ...]`` of rows ``[B]``, on the generator's device.

        Whatever is random in it (mirroring, hidden labels) is drawn from the generator.
        """
        ...


def take_rows(values: Tensor, rows: Tensor, device: torch.device) -> Tensor:
    """Rows ``[B]`` of a tensor ``[n, ...]``, on a device, which goes on computing while they are copied to it."""
    taken = values[rows.to(values.device)]
    if taken.device.type == "cpu" and device.type == "cuda":
        taken = taken.pin_memory()
    return taken.to(device, non_blocking=True)


class TensorSource:
    """Points in memory.

    Args:
        x: points ``[n, *event_shape]``.
        conditions: tensors ``[n, ...]`` that go with them, by the names that the network knows.
    """

    def __init__(self, x: Tensor, **conditions: Tensor) -> None:
        require_tensors(x=x, **conditions)
        for name, value in conditions.items():
            if len(value) != len(x):
                raise ValueError(f"{name} has {len(value)} rows; x has {len(x)}")
        self.x, self.conditions = x, conditions

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, rows: Tensor, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The rows as they are."""
        conditions = {k: take_rows(v, rows, generator.device) for k, v in self.conditions.items()}
        return take_rows(self.x, rows, generator.device), conditions


class EncodedSource:
    """Latents of another source's points: diffusion in the bounded latent space of a given autoencoder.

    Args:
        source: of points to encode.
        encode: from points ``[B, ...]`` to latents ``[B, *event_shape]``; called without gradients.
        domain: the latents are meant to lie in it, as those behind a sigmoid do in a box; projected onto it, so that
            rounding does not matter.
    """

    def __init__(self, source: Source, encode: Callable[[Tensor], Tensor], domain: Domain) -> None:
        self.source, self.encode, self.domain = source, encode, domain

    def __len__(self) -> int:
        return len(self.source)

    @torch.no_grad()
    def batch(self, rows: Tensor, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Latents ``[B, *event_shape]`` of the rows, and the conditions as they are."""
        x, condition = self.source.batch(rows, generator)
        return self.domain.project(self.encode(x)), condition
