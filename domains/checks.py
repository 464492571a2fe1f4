"""Errors, and the checks that public methods make of what they are given.

May use: torch and numpy. Shape, type and device checks always run; they cost nothing. Checks that read values
(inside the domain, finite, positive) are skipped under `torch.compile` and inside :func:`trusted`, which
training and sampling loops enter once their inputs have been checked.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from .base import Domain

__all__ = ["DomainError", "ShapeError", "SolverError", "trusted"]


class DomainError(ValueError):
    """A value lies where it must not: outside the domain, not finite, not positive."""


class ShapeError(ValueError):
    """A tensor has the wrong shape."""


class SolverError(ValueError):
    """An iterative method did not reach its goal; the message says what to change."""


def plain(name: str, value: Any) -> Any:
    """A data frame, or its row or column, as an array of its own; all else as it is.

    Raises:
        TypeError: a masked array, whose masked values would be taken for numbers, or a column that holds no numbers.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, and masked values are no numbers: leave out rows that have some")
    if not hasattr(value, "to_numpy"):
        return value
    array = value.to_numpy()
    if array.dtype != object:
        return np.array(array)
    columns = list(getattr(value, "columns", ())) if array.ndim == 2 else []
    for column in columns:
        if getattr(value[column].dtype, "kind", "O") not in "fiub":
            raise TypeError(
                f"{name}: column {column!r} holds {value[column].dtype}, not real numbers: convert or drop it"
            )
    if not columns and getattr(getattr(value, "dtype", None), "kind", "O") not in "fiub":
        return array
    return value.to_numpy(dtype=float, na_value=math.nan)  # numbers of which some are missing


_TRUSTED: ContextVar[bool] = ContextVar("trusted", default=False)


@contextmanager
def trusted() -> Iterator[None]:
    """Skip the checks that read values: for loops whose inputs were checked before they began."""
    token = _TRUSTED.set(True)
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def values_are_checked() -> bool:
    """Whether checks that read values run here."""
    return not torch.compiler.is_compiling() and not _TRUSTED.get()


def require_tensors(**values: object) -> None:
    """Refuse what is no tensor, by name."""
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, not {type(value).__name__}")


def check_tensor(name: str, x: object, event_shape: torch.Size) -> Tensor:
    """Refuse what is not a floating-point tensor ``[*batch, *event_shape]``."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, not {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must have a floating-point dtype, not {x.dtype}")
    k = len(event_shape)
    if x.ndim < k or x.shape[x.ndim - k :] != event_shape:
        expected = ", ".join(["*batch", *map(str, event_shape)])
        raise ShapeError(f"{name} has shape {list(x.shape)}; expected [{expected}]")
    return x


def check_alike(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse two tensors of different dtype or device."""
    if x.dtype != other.dtype or x.device != other.device:
        raise TypeError(
            f"{name} ({x.dtype} on {x.device}) and {other_name} ({other.dtype} on {other.device}) "
            "must have the same dtype and device"
        )


def check_batch(name: str, shape: torch.Size, other_name: str, other: torch.Size) -> torch.Size:
    """Broadcast two batch shapes, or say which do not fit."""
    if shape == other:
        return shape
    try:
        return torch.Size(torch.broadcast_shapes(shape, other))
    except RuntimeError:
        raise ShapeError(
            f"{name} has batch shape {list(shape)}, which does not broadcast with the batch shape "
            f"{list(other)} of {other_name}"
        ) from None


def check_scale(name: str, value: float | Tensor, batch: torch.Size, like: Tensor, *, zero: bool = False) -> Tensor:
    """Bring a float or ``[*batch]`` tensor of positive numbers to a tensor that broadcasts with ``batch``.

    Args:
        name: the argument's name, for messages.
        value: a number, or a tensor of shape ``[*batch]`` (or one that broadcasts to it).
        batch: the batch shape it must fit.
        like: tensor whose dtype and device it must have (a plain number takes them).
        zero: whether zero is allowed.

    Returns:
        Tensor of shape ``[]`` or ``[*batch]``-broadcastable.
    """
    if isinstance(value, Tensor):
        check_alike(name, value, "x", like)
        fits = value.ndim <= len(batch)
        if not fits or check_batch(name, value.shape, "x", batch) != batch:
            raise ShapeError(f"{name} has shape {list(value.shape)}; expected a number or shape {list(batch)}")
        scale = value
    elif isinstance(value, Real):
        scale = torch.full((), float(value), dtype=like.dtype, device=like.device)
    else:
        raise TypeError(f"{name} must be a number or a torch.Tensor, not {type(value).__name__}")
    if values_are_checked():
        good = (scale >= 0 if zero else scale > 0) & scale.isfinite()
        if not bool(good.all()):
            row, bad = _first(~good, scale)
            sign = "non-negative" if zero else "positive"
            raise DomainError(f"{name} must be {sign} and finite; {row}it is {bad:g}")
    return scale


class _Dead(torch.autograd.Function):
    """A value whose derivative nobody has worked out."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, what: str, *inputs: Tensor) -> Tensor:
        ctx.what = what
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise ValueError(f'{ctx.what} carries no autograd graph: take differences instead (divergence="differences")')


def without_derivative(what: str, value: Tensor, *inputs: Tensor) -> Tensor:
    """Mark a ``value`` computed apart from autograd: to differentiate it in ``inputs`` raises."""
    if not torch.is_grad_enabled() or not any(v.requires_grad for v in inputs):
        return value
    marked: Tensor = _Dead.apply(value.detach(), what, *inputs)  # type: ignore[no-untyped-call]
    return marked


def check_order(name: str, less: Tensor, other_name: str, more: Tensor) -> None:
    """Refuse ``less`` where it exceeds ``more``, both ``[*batch]``."""
    if values_are_checked() and not bool((less <= more).all()):
        row, value = _first(less > more, less)
        raise DomainError(f"{name} must not exceed {other_name}; {row}it is {value:g}")


def is_plain(x: Tensor) -> bool:
    """Whether to look at values before the general way: free on the CPU; elsewhere, and in graphs, it is not."""
    return x.numel() > 0 and x.device.type == "cpu" and not x.requires_grad and not torch.compiler.is_compiling()


def check_finite(name: str, x: Tensor, event_ndim: int) -> None:
    """Refuse NaN and infinities, naming the first row that has one."""
    if values_are_checked():
        bad = ~x.isfinite()
        if bool(bad.any()):
            rows = bad.flatten(x.ndim - event_ndim).any(-1) if event_ndim else bad
            raise DomainError(f"{name} must be finite; {_first(rows, rows)[0]}it is not")


def check_inside(domain: Domain, name: str, x: Tensor) -> None:
    """Refuse points outside the domain (beyond rounding), naming the first such row."""
    if not values_are_checked():
        return
    good = domain.contains(x, atol=64 * torch.finfo(x.dtype).eps * max(1.0, domain.magnitude))
    if bool(good.all()):
        return
    row, _ = _first(~good, good)
    index = tuple((~good).nonzero()[0].tolist())
    point = x[index].flatten()
    shown = ", ".join(f"{float(v):g}" for v in point[:6]) + (", ..." if point.numel() > 6 else "")
    finite = bool(point.isfinite().all())
    why, hint = (f"lies outside {domain!r}", domain.outside_hint(x[index])) if finite else ("is not finite", "")
    raise DomainError(f"{name}: {row}the point [{shown}] {why} ({int((~good).sum())} of {good.numel()} points){hint}")


def _first(bad: Tensor, values: Tensor) -> tuple[str, float]:
    """Where the first True of ``bad`` is, as words, and the value there."""
    if bad.ndim == 0:
        return "", float(values)
    index = tuple(bad.nonzero()[0].tolist())
    where = index[0] if len(index) == 1 else list(index)
    return f"at row {where} ", float(values[index])


def whole_number(value: object, what: str, least: int, most: float = math.inf, hint: str = "") -> int:
    """A whole number of Python's or numpy's; raises ValueError with ``what`` it must be, "n must be an integer .."."""
    if isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= most:
        return int(value)
    raise ValueError(f"{what}, not {value!r}{hint}")


def batch_shape(shape: int | tuple[int, ...], name: str = "shape") -> torch.Size:
    """A batch shape given as one number or a tuple, checked."""
    try:
        sizes = tuple(map(operator.index, shape)) if isinstance(shape, Sequence) else (operator.index(shape),)
    except TypeError:
        raise TypeError(f"{name} must be an integer or a tuple of integers, not {shape!r}") from None
    if any(s < 0 for s in sizes):
        raise ValueError(f"{name} must not be negative; got {shape!r}")
    return torch.Size(sizes)
