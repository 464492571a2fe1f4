"""Numpy's own files, read as streams: nothing is mapped into memory, and nothing is ever unpickled. May use: numpy."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from .base import Array, Table, TableError

__all__ = ["NpyTable", "NpzTable"]

Open = Callable[[], IO[bytes]]

_TORN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class _Stored:
    """An array in a file: how to open it, and what its header says."""

    open: Open
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int

    @classmethod
    def found(cls, where: str, opened: Open) -> _Stored:
        """Read a header; TableError says what is wrong with it."""
        try:
            with opened() as file:
                version = npy.read_magic(file)
                read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
                if read is None:
                    raise ValueError(f"its version is {version}")
                shape, fortran, dtype = read(file)
                return cls(opened, shape, fortran, dtype, file.tell())
        except (ValueError, *_TORN) as error:
            raise TableError(f"{where} is torn, or no array of numpy: {' '.join(str(error).split())}") from None

    @property
    def kind(self) -> str:
        """What it holds, if it is not numbers; else nothing."""
        if self.dtype.hasobject:
            return "Python objects, which are never unpickled"
        words = {"M": "dates or times", "m": "dates or times", "U": "text", "S": "text", "c": "complex numbers"}
        return "" if self.dtype.kind in "biuf" else words.get(self.dtype.kind, f"values of type {self.dtype}")


@dataclass
class _Stream:
    """Numbers one after another: ``width`` columns of a row each time, of which some are wanted."""

    file: IO[bytes]
    dtype: np.dtype[Any]
    width: int
    wanted: list[int]

    def read(self, rows: int) -> Array:
        """The next rows, fewer where the file ends."""
        size = self.width * self.dtype.itemsize
        content = self.file.read(rows * size)
        whole = len(content) // size
        values = np.frombuffer(content, self.dtype, whole * self.width).reshape(whole, self.width)
        return values[:, self.wanted].astype(np.float64)


class _ArrayTable(Table):
    """Arrays ``[rows]`` or ``[rows, columns]`` that all have as many rows.

    Attributes:
        _place: for each column, which array and which of its columns it is.
    """

    rows: int

    def __init__(self, path: Path, arrays: dict[str, _Stored]) -> None:
        super().__init__(path)
        self._arrays = arrays
        self._place = [(name, j) for name, a in arrays.items() for j in range(a.shape[1] if len(a.shape) == 2 else 1)]

    def _kind(self, column: int) -> str:
        return self._arrays[self._place[column][0]].kind

    def _pieces(self, columns: list[int], rows: int) -> Iterator[Array]:
        done = 0
        with ExitStack() as stack:
            try:
                streams = [(at, self._stream(stack, part)) for at, part in self._parts(columns)]
                while done < self.rows:
                    size = min(rows, self.rows - done)
                    piece = np.empty((size, len(columns)))
                    for at, stream in streams:
                        values = stream.read(size)
                        if len(values) < size:
                            raise EOFError(f"it ends after row {done + len(values)} of {self.rows}")
                        piece[:, at] = values
                    done += size
                    yield piece
            except _TORN as error:
                raise TableError(f"{self.path} is torn: {error}") from None

    def _parts(self, columns: list[int]) -> Iterator[tuple[list[int], list[tuple[str, int]]]]:
        """Which columns of a piece come from one stream: all of an array that is stored by rows, else one."""
        by_array: dict[object, list[int]] = {}
        for at, column in enumerate(columns):
            name, j = self._place[column]
            by_array.setdefault((name, j) if self._arrays[name].fortran else name, []).append(at)
        for at_all in by_array.values():
            yield at_all, [self._place[columns[at]] for at in at_all]

    def _stream(self, stack: ExitStack, part: list[tuple[str, int]]) -> _Stream:
        array = self._arrays[part[0][0]]
        file = stack.enter_context(array.open())
        first = part[0][1] if array.fortran else 0
        file.seek(array.offset + first * array.shape[0] * array.dtype.itemsize)
        if array.fortran or len(array.shape) == 1:
            return _Stream(file, array.dtype, 1, [0])
        return _Stream(file, array.dtype, array.shape[1], [j for _, j in part])


class NpyTable(_ArrayTable):
    """One array ``[rows, columns]``, or ``[rows]`` for one column; the columns are named c0, c1, ..."""

    named = False

    def __init__(self, path: Path) -> None:
        array = _Stored.found(str(path), lambda: path.open("rb"))
        _check_shape(str(path), array)
        super().__init__(path, {"": array})
        self.names, self.rows = tuple(f"c{j}" for _, j in self._place), array.shape[0]


class NpzTable(_ArrayTable):
    """An archive of arrays ``[rows]``, which name the columns, or of one array ``[rows, columns]``."""

    def __init__(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                members = [name for name in archive.namelist() if name.endswith(".npy")]
        except (zipfile.BadZipFile, OSError) as error:
            raise TableError(f"{path} is torn, or no archive of numpy: {error}") from None
        arrays = {m[:-4]: _Stored.found(f"{path}: array {m[:-4]!r}", _opener(path, m)) for m in members}
        if not arrays:
            raise TableError(f"{path} holds no arrays")
        for name, array in arrays.items():
            _check_shape(f"{path}: array {name!r}", array)
        lengths = {a.shape[0] for a in arrays.values()}
        self.named = all(len(a.shape) == 1 for a in arrays.values())
        if len(lengths) > 1 or (not self.named and len(arrays) > 1):
            shapes = ", ".join(f"{n} {list(a.shape)}" for n, a in arrays.items())
            raise TableError(f"{path} holds {shapes}: expected columns of one length, or one array [rows, columns]")
        super().__init__(path, arrays)
        self.names = tuple(arrays) if self.named else tuple(f"c{j}" for _, j in self._place)
        (self.rows,) = lengths


def _opener(path: Path, member: str) -> Open:
    """Opens a member of an archive; the archive is closed with it."""

    def opened() -> IO[bytes]:
        with zipfile.ZipFile(path) as archive:  # the member keeps the file open until it is closed itself
            return archive.open(member)

    return opened


def _check_shape(where: str, array: _Stored) -> None:
    if array.dtype.fields is None and (len(array.shape) not in (1, 2) or 0 in array.shape[1:]):
        raise TableError(f"{where} has shape {list(array.shape)}: expected [rows, columns]")
    if array.dtype.fields is not None:
        raise TableError(f"{where} holds records: save its columns with np.savez(file, name=values, ...)")
