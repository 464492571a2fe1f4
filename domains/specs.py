"""Domains by a word, as the command line spells them: ``box:0,1``, ``simplex``, ``ball:2.5``; their size by the data.

May use: torch, the interface of a domain. A class of domains offers a word in its ``specs`` and reads it in
``from_data``; nothing here knows which there are.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .checks import DomainError, ShapeError

if TYPE_CHECKING:
    from .base import Domain

__all__ = ["Extent", "build", "numbers", "round_outwards", "words"]


@dataclass(frozen=True)
class Extent:
    """What one pass over points tells of them: enough to choose a domain that contains them.

    Attributes:
        low: least value of each coordinate, float64 ``[k]``.
        high: largest value of each, float64 ``[k]``.
        length: the largest Euclidean length of a point.
        totals: least and largest sum of a point's coordinates.
        names: of the coordinates, for messages.
    """

    low: Tensor
    high: Tensor
    length: float
    totals: tuple[float, float]
    names: tuple[str, ...]

    @classmethod
    def of(cls, points: Tensor | Extent, names: tuple[str, ...] = ()) -> Extent:
        """The extent of points ``[n, k]``, n at least 1; an extent is returned as it is.

        Raises:
            ShapeError: the points have another shape.
            DomainError: a number is not finite.
        """
        if isinstance(points, Extent):
            return points
        if points.ndim != 2 or not points.numel():
            raise ShapeError(f"data has shape {list(points.shape)}; expected [n, k] with n and k at least 1")
        x = points.double().cpu()
        if not bool(x.isfinite().all()):
            raise DomainError("data must be finite")
        sums = x.sum(1)
        names = names or tuple(f"column {i}" for i in range(x.shape[1]))
        length = float(torch.linalg.vector_norm(x, dim=1).max())
        return cls(x.amin(0), x.amax(0), length, (float(sums.min()), float(sums.max())), names)

    def joined(self, other: Extent) -> Extent:
        """The extent of both clouds of points."""
        return Extent(
            torch.minimum(self.low, other.low),
            torch.maximum(self.high, other.high),
            max(self.length, other.length),
            (min(self.totals[0], other.totals[0]), max(self.totals[1], other.totals[1])),
            self.names,
        )


def words() -> dict[str, type[Domain]]:
    """The words that are known, and the class that reads each; a user's own are among them once imported."""
    from .base import Domain

    found: dict[str, type[Domain]] = {}
    for kind in Domain.registered():
        for word in vars(kind).get("specs", {}):  # its own: a subclass does not take over the words of its base
            found.setdefault(word, kind)
    return found


def build(spec: str, data: Tensor | Extent) -> Domain:
    """The domain that a word describes, after a colon what the word needs; its size by the data where it needs none.

    Args:
        spec: such as ``"box"``, ``"box:0,1"`` or ``"simplex:cumulative"``.
        data: points ``[n, k]``, or their extent.

    Raises:
        ValueError: the word is not known, or the data do not fit it.
    """
    word, known = spec.partition(":")[0], words()
    if word not in known:
        near = difflib.get_close_matches(word, known, 1)
        cure = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
        raise ValueError(f"there is no domain {word!r}: {cure}")
    return known[word].from_data(data, spec)


def numbers(spec: str, text: str, count: int) -> Tensor:
    """``text``, part of a spec, as float64 ``[count]``: so many numbers parted by commas, or one for all."""
    try:
        values = [float(v) for v in text.split(",")]
    except ValueError:
        raise ValueError(f"{spec}: {text!r} must be numbers parted by commas") from None
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{spec}: {text!r} must be finite")
    if len(values) not in (1, count):
        raise ValueError(
            f"{spec}: {text!r} has {len(values)} numbers; expected one, or one for each of {count} columns"
        )
    return torch.tensor(values, dtype=torch.float64).expand(count).clone()


def round_outwards(low: float, high: float) -> tuple[float, float]:
    """Round numbers around an interval: by less than a twentieth of its width, and never across zero.

    They are multiples of 1, 2 or 5 times a power of ten, which is 2 to 5 per cent of the width.
    """
    wish = (high - low) / 20
    if not 0 < wish < math.inf:
        return low, high
    exponent = math.floor(math.log10(wish))
    unit = next((m for m in (5, 2) if m * 10.0**exponent <= wish), 1) * 10.0**exponent
    digits = max(0, -exponent)
    slack = 1e-9  # of a unit: a bound that is round already stays
    below = round(math.floor(low / unit + slack) * unit, digits)
    above = round(math.ceil(high / unit - slack) * unit, digits)
    return min(low, below), max(high, above)
