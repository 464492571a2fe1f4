"""Columns of Arrow as numbers, for the formats that it reads. May use: numpy; pyarrow, imported where used."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Array, TableError

if TYPE_CHECKING:
    import pyarrow

__all__ = ["arrow", "kind_of", "to_numbers"]


def arrow(path: Path, module: str = "csv") -> tuple[Any, Any]:
    """Pyarrow and one of its modules; TableError says how to get it."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module(f"pyarrow.{module}")
    except ImportError:
        raise TableError(
            f'{path}: {path.suffix} files need pyarrow: python -m pip install "reflected-diffusion[cli]" '
            "(.npy and .npz do without)"
        ) from None


def kind_of(kind: pyarrow.DataType) -> str:
    """What a column of this type holds, in a word, if it is not numbers; else nothing."""
    from pyarrow import types

    if types.is_temporal(kind):
        return "dates or times"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind) or types.is_binary(kind):
        return "text"
    numbers = types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    return "" if numbers or types.is_null(kind) else f"values of type {kind}"


def to_numbers(column: pyarrow.Array) -> Array:
    """A column as float64, NaN where a value is missing."""
    import pyarrow as pa

    values: Array = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return values.astype(np.float64, copy=False)
