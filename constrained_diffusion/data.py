"""From the arrays people have to tensors inside a domain, and what the data say of the noise to use.

May use: torch, numpy, domains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .domains import Domain
from .domains.checks import DomainError, ShapeError, check_inside, check_tensor, plain

__all__ = [
    "Array",
    "Kind",
    "check_columns",
    "check_device",
    "check_same_rows",
    "choose_sigma_min",
    "column_names",
    "condition_rows",
    "to_numbers",
    "to_tensor",
]

Array = NDArray[np.floating] | Tensor

_MOST_LOST = 0.01  # of the range of a condition, to rounding
_CONSTANT = 1e-12  # range, of its size, within which a condition is one number with its own rounding
_NEIGHBOURS = 4096  # points at most among which neighbours are looked for


@dataclass(frozen=True)
class Kind:
    """What sort of array a user works with, so that samples come back as the same.

    Attributes:
        library: ``"numpy"`` or ``"torch"``.
        dtype: name of its floating-point dtype, such as ``"float64"``.
        device: of a tensor; arrays are on the CPU.
    """

    library: str = "numpy"
    dtype: str = "float32"
    device: str = "cpu"

    def like(self, values: Tensor) -> Any:
        """Bring numbers of any shape to this kind."""
        same = values.to(device=self.device, dtype=getattr(torch, self.dtype))
        return same if self.library == "torch" else same.numpy()


def to_tensor(name: str, x: object, domain: Domain, *, device: torch.device | str | None = None) -> tuple[Tensor, Kind]:
    """Check data, and bring them to a float64 tensor, which keeps their digits until their units are changed.

    Args:
        name: the argument's name, for messages.
        x: numpy array, data frame or tensor of numbers, ``[n, *event_shape]``.
        domain: which they must lie in.
        device: where to put them; a tensor stays where it is by default.

    Returns:
        The data as a float64 tensor, and the kind of array they came as (integers count as float32).

    Raises:
        TypeError: not an array of real numbers.
        ShapeError, ValueError: wrong shape, empty, not finite, or outside.
    """
    wide, kind = to_numbers(name, x, domain.event_shape)
    _check_rows(name, wide, domain, kind)
    return wide.to(device or kind.device), kind


def to_numbers(name: str, x: object, event_shape: torch.Size) -> tuple[Tensor, Kind]:
    """Check that data are numbers ``[n, *event_shape]``, wherever they lie; otherwise like :func:`to_tensor`."""
    x = plain(name, x)
    if isinstance(x, Tensor):
        original = x.detach()
    elif isinstance(x, np.ndarray) and x.dtype.kind in "fiub":
        original = torch.from_numpy(native(x))
    else:
        what = f"an array of {x.dtype}" if isinstance(x, np.ndarray) else f"a {type(x).__name__}"
        raise TypeError(f"{name} must be a numpy array, a data frame or a torch.Tensor of real numbers, not {what}")
    if original.is_complex() or original.dtype == torch.bool:
        raise TypeError(f"{name} must hold real numbers, not {original.dtype}")
    wide = original.double()
    check_tensor(name, wide, event_shape)
    if wide.ndim != len(event_shape) + 1:
        raise ShapeError(f"{name} has shape {list(wide.shape)}; expected [n, {', '.join(map(str, event_shape))}]")
    if wide.numel() == 0:
        raise ValueError(f"{name} is empty: shape {list(wide.shape)}")
    dtype = original.dtype if original.is_floating_point() else torch.float32
    library = "torch" if isinstance(x, Tensor) else "numpy"
    return wide, Kind(library, str(dtype).removeprefix("torch."), str(original.device))


def native(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy of numbers in an order and dtype that torch can read: files may hold them as other machines do."""
    wide = x.dtype.kind == "f" and x.dtype.itemsize > 8
    return np.array(x, dtype=np.float64 if wide else x.dtype.newbyteorder("="), order="C")


def column_names(x: object) -> list[str] | None:
    """The names of a data frame's columns, if all are strings; else None."""
    names = list(getattr(x, "columns", ()))
    return names if names and all(isinstance(name, str) for name in names) else None


def check_columns(name: str, x: object, known: list[str] | None, fitted: str) -> None:
    """Refuse a data frame whose columns are not ``known``, which the attribute ``fitted``, "model.names", holds."""
    names = column_names(x)
    if names is not None and known is not None and names != known:
        raise ValueError(
            f"{name} has the columns {', '.join(names)}; {fitted.split('.')[0]} was fitted to {', '.join(known)}, in "
            f"that order: give {name}[{fitted}]"
        )


def check_device(device: torch.device | str | None) -> None:
    """Refuse a device that is not there, before anything else takes its time."""
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, ImportError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"device {device!r} cannot be used, try 'cpu' or 'cuda': {reason}") from None


def check_same_rows(x: object, condition: object) -> None:
    """Refuse two data frames whose indices differ: rows go together by their order."""
    one, other = (getattr(v, "index", None) if hasattr(v, "to_numpy") else None for v in (x, condition))
    if one is not None and other is not None and len(one) == len(other) and not one.equals(other):
        raise ValueError("x and condition have different indices, and rows go together by their order: align them")


def _check_rows(name: str, wide: Tensor, domain: Domain, kind: Kind) -> None:
    """Refuse points outside by more than the rounding of single precision, from which data of any dtype may have come.

    Equality constraints grant no more than the dtype's own rounding: such points are projected first.
    """
    precision = max(torch.finfo(getattr(torch, kind.dtype)).eps, torch.finfo(torch.float32).eps)
    rounding = 64 * precision * max(1.0, domain.magnitude)
    good = domain.contains(wide, atol=rounding)
    if bool(good.all()):
        return
    nearest = domain.project(torch.nan_to_num(wide))
    good |= (nearest - wide).flatten(1).norm(dim=1) <= rounding
    if bool(good.all()):
        return
    check_inside(domain, name, torch.where(good.reshape(-1, *(1,) * (wide.ndim - 1)), nearest, wide))
    raise DomainError(f"{name} has points outside {domain!r}")


def condition_rows(name: str, value: Array | None, n: int, like: Tensor, length: int | None = None) -> Tensor | None:
    """Conditions as a float32 tensor ``[n, k]`` on the device of ``like``; a row of NaN stands for none.

    One row ``[k]`` serves all; ``[n]`` numbers are one for each. ``length`` is k where it is known, and decides;
    where it is not, those are the first that are seen, and must be told apart in float32.
    """
    if value is None:
        return None
    value = plain(name, value)
    if not isinstance(value, Tensor):
        value = np.asarray(value)
        if value.dtype.kind not in "fiub":
            raise TypeError(f"{name} must hold numbers, not {value.dtype}: give classes as one-hot rows")
        value = native(value)
    rows = torch.as_tensor(value).to(device=like.device)
    rounded = rows.to(torch.float32)
    if length is None:
        _check_resolved(name, rows, rounded)
    rows = rounded
    if rows.ndim == 1 and length in (None, 1) and len(rows) == n:  # one number for each, as targets come
        rows = rows.unsqueeze(1)
    rows = rows.expand(n, -1) if rows.ndim == 1 else rows
    if rows.ndim != 2 or len(rows) != n or length not in (None, rows.shape[1]):
        raise ShapeError(f"{name} has shape {list(rows.shape)}; expected [{n}, {length or 'k'}]")
    missing = rows.isnan().all(-1, keepdim=True)
    bad = (~(rows.isfinite() | missing)).any(-1).nonzero()
    if len(bad):
        raise ValueError(
            f"{name} must be finite, and row {int(bad[0])} is not; a row of nothing but NaN stands for no condition"
        )
    return rows


def _check_resolved(name: str, rows: Tensor, rounded: Tensor) -> None:
    """Refuse numbers so far from zero, for how much they vary, that rounding blurs them."""
    if rows.ndim == 0 or len(rows) < 2:
        return
    known = rows.isfinite().reshape(len(rows), -1).all(-1)
    wide = rows[known].double()
    if len(wide) == 0:
        return
    span = wide.amax(0) - wide.amin(0)
    lost = (rounded[known].double() - wide).abs().amax(0)
    if bool(((lost > _MOST_LOST * span) & (span > _CONSTANT * wide.abs().amax(0))).any()):
        raise ValueError(
            f"{name} is so far from zero, for how little it varies, that float32 does not resolve it: subtract its mean"
        )


def choose_sigma_min(domain: Domain, x: Tensor) -> float:
    """Noise that is too small to be seen in the data.

    A tenth of the typical distance between neighbours (each in its own coordinate: divided by sqrt(dim)), or
    of the distance from the wall that one point in fifty falls short of, where that is less; at least 1e-4
    inradii.

    Args:
        domain: where the data lie.
        x: data ``[n, *event_shape]``.

    Returns:
        sigma_min, in the units of the data.
    """
    flat = x.flatten(1).double()
    some = flat[:: max(1, -(-len(flat) // _NEIGHBOURS))]
    size = min(domain.inradius, float((some - some.mean(0)).norm(dim=1).max()) or domain.inradius)
    if not 0 < size < math.inf:
        raise ValueError("sigma_min must be given: all data are one point of an unbounded domain")
    distances = torch.cdist(some, some).fill_diagonal_(torch.inf).amin(1)
    positive = distances[(distances > 0) & distances.isfinite()]
    spacing = float(positive.median()) / domain.dim**0.5 if len(positive) else 0.1 * size
    walls = domain.boundary(some.reshape(-1, *domain.event_shape).to(x.dtype))[0].double()
    off = walls[walls > 0]
    reach = float(off.quantile(0.02)) if len(off) and bool(off.isfinite().all()) else spacing
    return max(min(0.1 * spacing, reach), 1e-3 * size)
