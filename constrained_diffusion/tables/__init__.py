"""Tables of numbers in files, read and written in pieces: CSV, TSV, Parquet, NPY and NPZ.

>>> table = open_table("wine.csv")
>>> table.names
('alcohol', 'ash', 'hue')
>>> for piece in table.pieces(["ash", "hue"]): ...  # float64 [rows, 2], every number finite

However long a table is, reading and writing it take the same memory. May use: numpy; pyarrow, imported where used
(the extra ``cli``). Never torch, so that a bad file is known at once. A new format is one new file, and a line here.
"""

from __future__ import annotations

import os
from pathlib import Path

from .arrays import NpyTable, NpzTable
from .base import Array, Table, TableError
from .delimited import DelimitedTable
from .parquet import ParquetTable
from .reservoir import Reservoir, sample_rows
from .writing import TableWriter, write_table

__all__ = ["Array", "Reservoir", "Table", "TableError", "TableWriter", "open_table", "sample_rows", "write_table"]

_FORMATS: dict[str, type[Table]] = {
    ".csv": DelimitedTable,
    ".tsv": DelimitedTable,
    ".parquet": ParquetTable,
    ".npy": NpyTable,
    ".npz": NpzTable,
}


def open_table(path: str | os.PathLike[str]) -> Table:
    """Find out what columns a file has; its suffix names the format.

    Args:
        path: of a file with one of the suffixes above.

    Returns:
        A :class:`Table`, which has read no more than the names so far.

    Raises:
        TableError: there is no such file, it is empty or torn, or its suffix is unknown.
    """
    path = Path(path)
    kind = _FORMATS.get(path.suffix.lower())
    if path.is_dir():
        raise TableError(f"{path} is a folder: give a file ({', '.join(_FORMATS)})")
    if kind is None:
        raise TableError(f"{path}: cannot read files that end in {path.suffix!r}: use {', '.join(_FORMATS)}")
    if not path.is_file():
        raise TableError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise TableError(f"{path} is empty")
    return kind(path)
