"""Changes of units, coordinate by coordinate: from a domain in which numbers are of order one to the data's own.

May use: torch, and a domain's bounding box and size of coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .base import Domain

__all__ = ["FAR", "Affine", "about_origin"]

FAR = 100.0  # widths from zero up to which a set is left where it is: in float32 that still resolves 1e-5 of them


@dataclass(frozen=True)
class Affine:
    """The map ``x = shift + scale * z``.

    Attributes:
        shift: float64 ``[*event_shape]``, in the units of x.
        scale: float64 ``[*event_shape]``, positive; units of x for one of z.
    """

    shift: Tensor
    scale: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """From ``z`` to ``x``, both ``[*batch, *event_shape]``, in float64: the sum may need its digits."""
        return self.shift.to(z.device) + self.scale.to(z.device) * z.double()

    def inverse(self, x: Tensor) -> Tensor:
        """From ``x`` to ``z``, both ``[*batch, *event_shape]``, in float64."""
        return (x.double() - self.shift.to(x.device)) / self.scale.to(x.device)

    @property
    def log_det(self) -> float:
        """Log |dx/dz|: a density of z divided by its exponential is one of x."""
        return float(self.scale.log().sum())

    @staticmethod
    def joined(parts: Iterable[Affine]) -> Affine:
        """One map of several vectors, side by side in one vector."""
        each = list(parts)
        return Affine(torch.cat([p.shift.reshape(-1) for p in each]), torch.cat([p.scale.reshape(-1) for p in each]))

    @staticmethod
    def identity(shape: torch.Size) -> Affine:
        """The map that changes nothing."""
        return Affine(torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64))


def about_origin(domain: Domain, moved: Callable[[Tensor], Domain]) -> tuple[Domain, Affine | None]:
    """A set that lies far from the origin for its width, moved there: what :meth:`Domain.normalised` returns.

    Args:
        domain: with a bounding box.
        moved: makes the domain less a float64 point ``[*event_shape]``.
    """
    low, high = domain.bounding_box
    if domain.magnitude <= FAR * float((high - low).max()):
        return domain, None
    middle = (low + high) / 2
    return moved(middle), Affine(middle, torch.ones_like(middle))
