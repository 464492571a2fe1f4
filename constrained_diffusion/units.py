"""Between the arrays of a user and the tensors of a model: kind, place and units.

May use: torch, domains, data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from .data import Array, Kind, to_tensor
from .domains import Domain
from .domains.affine import Affine

__all__ = ["Units"]

_SHIFT, _SCALE = "units.shift", "units.scale"


@dataclass(frozen=True)
class Units:
    """Where the data lie, and the units in which a model computes.

    Attributes:
        domain: the user's.
        normal: its form in which a model computes (:meth:`Domain.normalised`).
        change: from the normal form to the user's units, or None if they are the same.
    """

    domain: Domain
    normal: Domain
    change: Affine | None

    @classmethod
    def of(cls, domain: Domain, x: Tensor) -> Self:
        """Those that suit data ``[n, *event_shape]`` inside a domain."""
        return cls(domain, *domain.normalised(x))

    @property
    def log_det(self) -> float:
        """What a log-density in the user's units is less than one in the model's."""
        return 0.0 if self.change is None else self.change.log_det

    def read(self, name: str, x: Array, device: torch.device | str | None) -> tuple[Tensor, Kind]:
        """A user's points, checked, as the model's; and what kind of array they were."""
        wide, kind = to_tensor(name, x, self.domain, device=device)
        return self.enter(wide), kind

    def enter(self, wide: Tensor) -> Tensor:
        """Float64 points in the user's units as float32 points of the normal form, inside in that precision too."""
        return self.normal.project((wide if self.change is None else self.change.inverse(wide)).float())

    def leave(self, points: Tensor, kind: Kind) -> Any:
        """A model's points as a user's array; projected once more, to lie inside in its dtype and units too."""
        own = points if self.change is None else self.change(points)
        return kind.like(self.domain.project(own.to(device=kind.device, dtype=getattr(torch, kind.dtype))))

    def observation(self, A: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """A linear observation ``y = A x`` of the user's points, as one of points in the normal form.

        For guidance by :class:`LinearInverse`, which computes there; what its noise is stays.

        Args:
            A: matrix ``[m, k]``, k the number of a point's coordinates.
            y: ``[*batch, m]``.

        Returns:
            Matrix and observation, in float64.
        """
        A, y = A.double(), y.double()
        if self.change is None:
            return A, y
        shift, scale = (v.flatten().to(A.device) for v in (self.change.shift, self.change.scale))
        return A * scale, y - A @ shift

    def tensors(self) -> dict[str, Tensor]:
        """What to save beside the weights."""
        return {} if self.change is None else {_SHIFT: self.change.shift, _SCALE: self.change.scale}

    @classmethod
    def restored(cls, domain: Domain, normal: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """From the configuration of the normal form, and tensors, of which those of :meth:`tensors` are taken out."""
        shift, scale = tensors.pop(_SHIFT, None), tensors.pop(_SCALE, None)
        change = None if shift is None or scale is None else Affine(shift, scale)
        return cls(domain, Domain.from_config(normal), change)
