"""Lists of different lengths in one tensor, looked up in batches.

May use: numpy, torch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["PAIRS", "Floats", "Ints", "Lists", "OnDevice", "first_least"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PAIRS = 1 << 21  # of rows and items looked at together


class OnDevice:
    """A frozen dataclass of tensors and the like, which can be had on another device."""

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        found: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, (Tensor, OnDevice)):
                value = value.to(device)
            elif isinstance(value, tuple):
                value = tuple(v.to(device) if isinstance(v, Tensor) else v for v in value)
            found[field.name] = value
        return type(self)(**found)


@dataclass(frozen=True)
class Lists(OnDevice):
    """Lists of different lengths in one tensor: list i is ``items[starts[i] : starts[i + 1]]``."""

    starts: Tensor
    items: Tensor

    def of(self, which: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs of a row ``0..len(which)`` and an item of that row's list, rows in ascending order."""
        first = self.starts[which]
        counts = self.starts[which + 1] - first
        rows = torch.repeat_interleave(torch.arange(len(which), device=which.device), counts)
        shift = first + counts - torch.cumsum(counts, 0)  # from a pair's number to its item's
        number = torch.arange(len(rows), device=which.device) + shift.index_select(0, rows)
        return rows, self.items.index_select(0, number)

    def parts(self, which: Tensor) -> list[Tensor]:
        """Row numbers of ``which``, in parts that have few pairs each."""
        rows = torch.arange(len(which), device=which.device)
        counts = self.starts[which + 1] - self.starts[which]
        if int(counts.sum()) <= PAIRS:
            return [rows]
        part = torch.div(torch.cumsum(counts, 0), PAIRS, rounding_mode="floor")
        return [rows[part == p] for p in part.unique()]

    @staticmethod
    def make(keys: Ints, items: Ints, count: int) -> Lists:
        """From pairs of a list's number and an item."""
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange(count + 1))
        return Lists(torch.from_numpy(starts), torch.from_numpy(items[order].copy()))


def first_least(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """The number ``[count]`` of the first pair that has the least value of its row; rows without pairs get none."""
    least = torch.full((count,), torch.inf, dtype=values.dtype, device=values.device)
    least = least.scatter_reduce(0, rows, values, "amin")
    number = torch.arange(len(values), device=values.device)
    chosen = torch.where(values == least.index_select(0, rows), number, len(values))
    return torch.full((count,), len(values), device=values.device).scatter_reduce(0, rows, chosen, "amin")
