"""Tables written in pieces; the file appears whole or not at all. May use: numpy; pyarrow, imported where used."""

from __future__ import annotations

import csv
import io
import os
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO, Self

import numpy as np
from numpy.lib import format as npy

from ..atomic import replacing
from .base import Array, TableError
from .columns import arrow

__all__ = ["TableWriter", "write_table"]

_COPY = 1 << 17  # rows of a column copied at a time


class TableWriter:
    """Writes a table piece by piece.

    >>> with TableWriter("out.csv", ["a", "b"]) as writer:
    ...     writer.write(piece)  # [rows, 2]

    Args:
        path: where; the suffix names the format (.csv, .tsv, .parquet, .npy, .npz). Missing folders are made. The
            file is there once the block is left without an error.
        names: of the columns; a .npy file has none.

    Raises:
        TableError: the suffix is unknown, or the place cannot be written to.
    """

    def __init__(self, path: str | os.PathLike[str], names: Sequence[str]) -> None:
        self.path, self.names, self.rows = Path(path), list(names), 0
        if self.path.suffix.lower() not in _FORMATS:
            raise TableError(f"{path}: cannot write files that end in {self.path.suffix!r}: use {', '.join(_FORMATS)}")
        if self.path.is_dir():
            raise TableError(f"{path} is a folder: give a file")
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Make room for the file."""
        with ExitStack() as stack:
            try:
                file = stack.enter_context(replacing(self.path))
            except OSError as error:
                raise TableError(f"{self.path} cannot be written: {error.strerror}") from None
            self._format = _FORMATS[self.path.suffix.lower()](self.path, file, self.names)
            self._stack = stack.pop_all()
        return self

    def write(self, piece: Array) -> None:
        """Add rows ``[n, columns]``."""
        values = np.asarray(piece, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.names):
            raise TableError(f"{self.path}: a piece has shape {list(values.shape)}; expected [n, {len(self.names)}]")
        self._format.write(values)
        self.rows += len(values)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the file in its place, or remove what there is of it."""
        with self._stack as stack:
            try:
                if error is None:
                    self._format.close(self.rows)
            finally:
                self._format.release()
            if error is not None:
                stack.__exit__(kind, error, trace)


def write_table(path: str | os.PathLike[str], names: Sequence[str], array: Array) -> None:
    """Write an array ``[rows, columns]`` at once; see :class:`TableWriter`."""
    with TableWriter(path, names) as writer:
        writer.write(array)


class _Format(ABC):
    """One format. What is written goes to ``file``."""

    def __init__(self, path: Path, file: BinaryIO, names: list[str]) -> None:
        self.path, self.file, self.names = path, file, names

    @abstractmethod
    def write(self, piece: Array) -> None:
        """Add rows."""

    @abstractmethod
    def close(self, rows: int) -> None:
        """Finish the file, of so many rows."""

    def release(self) -> None:  # noqa: B027 (most have nothing)
        """Let go of what is left, whether the file was finished or not."""


class _Delimited(_Format):
    """Numbers are written with as many digits as bring them back exactly."""

    def __init__(self, path: Path, file: BinaryIO, names: list[str]) -> None:
        super().__init__(path, file, names)
        self._arrow, module = arrow(path)
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        header = io.StringIO()
        csv.writer(header, delimiter=delimiter, lineterminator="\n").writerow(names)
        file.write(header.getvalue().encode())
        options = module.WriteOptions(include_header=False, delimiter=delimiter)
        self._writer = module.CSVWriter(file, _schema(self._arrow, names), write_options=options)

    def write(self, piece: Array) -> None:
        self._writer.write(_batch(self._arrow, self.names, piece))

    def close(self, rows: int) -> None:
        self._writer.close()


class _Parquet(_Format):
    def __init__(self, path: Path, file: BinaryIO, names: list[str]) -> None:
        super().__init__(path, file, names)
        self._arrow, module = arrow(path, "parquet")
        self._writer = module.ParquetWriter(file, _schema(self._arrow, names), write_page_checksum=True)

    def write(self, piece: Array) -> None:
        self._writer.write(_batch(self._arrow, self.names, piece))

    def close(self, rows: int) -> None:
        self._writer.close()

    def release(self) -> None:
        self._writer.is_open = False  # or it would write its end when it is collected, to a file that is closed


class _Npy(_Format):
    """The header is written twice: numpy leaves room in it for the number of rows to grow."""

    def __init__(self, path: Path, file: BinaryIO, names: list[str]) -> None:
        super().__init__(path, file, names)
        self._header(0)
        self._begin = file.tell()

    def _header(self, rows: int) -> None:
        npy.write_array_header_1_0(self.file, _described((rows, len(self.names))))

    def write(self, piece: Array) -> None:
        self.file.write(np.ascontiguousarray(piece, "<f8").tobytes())

    def close(self, rows: int) -> None:
        self.file.seek(0)
        self._header(rows)
        if self.file.tell() != self._begin:
            raise TableError(f"{self.path}: the header has no room for {rows} rows")
        self.file.seek(0, os.SEEK_END)


class _Npz(_Format):
    """One array for each column. Members of an archive are written one by one, so the rows wait in a scratch file."""

    def __init__(self, path: Path, file: BinaryIO, names: list[str]) -> None:
        super().__init__(path, file, names)
        self._scratch: IO[bytes] = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 (closed at the end)

    def write(self, piece: Array) -> None:
        self._scratch.write(np.ascontiguousarray(piece, "<f8").tobytes())

    def close(self, rows: int) -> None:
        with zipfile.ZipFile(self.file, "w") as archive:
            for j, name in enumerate(self.names):
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    npy.write_array_header_1_0(member, _described((rows,)))
                    self._scratch.seek(0)
                    while content := self._scratch.read(_COPY * 8 * len(self.names)):
                        values = np.frombuffer(content, "<f8").reshape(-1, len(self.names))
                        member.write(np.ascontiguousarray(values[:, j]).tobytes())

    def release(self) -> None:
        self._scratch.close()


_FORMATS: dict[str, type[_Format]] = {
    ".csv": _Delimited,
    ".tsv": _Delimited,
    ".parquet": _Parquet,
    ".npy": _Npy,
    ".npz": _Npz,
}


def _described(shape: tuple[int, ...]) -> dict[str, Any]:
    return {"descr": "<f8", "fortran_order": False, "shape": shape}


def _schema(pa: Any, names: list[str]) -> Any:
    return pa.schema([(name, pa.float64()) for name in names])


def _batch(pa: Any, names: list[str], piece: Array) -> Any:
    columns = [pa.array(np.ascontiguousarray(piece[:, j])) for j in range(len(names))]
    return pa.record_batch(columns, schema=_schema(pa, names))
