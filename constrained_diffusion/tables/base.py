"""What all tables share: choosing columns by name, and refusing what is no number. May use: numpy."""

from __future__ import annotations

import csv
import difflib
import io
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Table", "TableError"]

Array = NDArray[np.float64]

PIECE = 1 << 16  # rows at a time
_SHOWN = 12  # names in a message


class TableError(ValueError):
    """A table cannot be read or written as it is; one line that names the file, and the row and column if known."""


class Table(ABC):
    """Columns of numbers in a file. Rows are counted from 1, a header not among them.

    Args:
        path: the file, which exists.

    Attributes:
        names: of all its columns, in order.
        named: whether the file itself gives them; otherwise they are c0, c1, ...
        rows: how many there are; None where only reading tells.
    """

    names: tuple[str, ...]
    named: bool = True
    rows: int | None = None

    def __init__(self, path: Path) -> None:
        self.path = path

    def pieces(self, columns: Sequence[str] | None = None, rows: int = PIECE) -> Iterator[Array]:
        """Read the table from its beginning.

        Args:
            columns: names of the columns to read, in the order wanted; all by default.
            rows: at most so many at a time.

        Yields:
            Pieces ``[<= rows, columns]``, one after another; every number is finite.

        Raises:
            TableError: a column is unknown or holds no numbers, a value is missing, or the file is torn.
        """
        chosen = self.select(columns)
        done = 0
        for piece in self._pieces(chosen, rows):
            self._check_finite(piece, chosen, done)
            done += len(piece)
            if len(piece):
                yield piece
        if not done:
            raise TableError(f"{self.path} has no rows")

    def select(self, columns: Sequence[str] | None = None) -> list[int]:
        """The positions of columns, by name; all by default. Raises TableError where one cannot be read."""
        if columns is None:
            nameless = [i for i, name in enumerate(self.names) if _is_index(name)]
            if nameless:
                raise TableError(
                    f"{self.path}: column {nameless[0] + 1} has no name (the index of a data frame?): choose columns "
                    f"with --columns {_listed(self._numeric())}"
                )
        wanted = self.names if columns is None else columns
        for name in wanted:
            if name not in self.names:
                raise self._unknown(name)
            if list(wanted).count(name) > 1:
                where = "two columns are named" if columns is None else "columns: asked twice for"
                raise TableError(f"{self.path}: {where} {name!r}: give each a name of its own")
            if self.names.count(name) > 1:
                raise TableError(f"{self.path}: two columns are named {name!r}: give each a name of its own")
        chosen = [self.names.index(name) for name in wanted]
        for i in chosen:
            kind = self._kind(i)
            if kind:
                raise self._no_number(i, f"holds {kind}")
        return chosen

    @abstractmethod
    def _kind(self, column: int) -> str:
        """What a column holds, in a word or two, if it is not numbers; else nothing."""

    @abstractmethod
    def _pieces(self, columns: list[int], rows: int) -> Iterator[Array]:
        """Pieces ``[<= rows, columns]`` of the columns at these positions; NaN where a value is missing."""

    def _numeric(self) -> list[str]:
        """The names of the columns of numbers."""
        return [n for i, n in enumerate(self.names) if not _is_index(n) and not self._kind(i)]

    def _no_number(self, column: int, what: str, first: str = "") -> TableError:
        rest = [name for name in self._numeric() if name != self.names[column]]
        cure = f"{first}fit without it: --columns {_listed(rest)}" if rest else "columns must hold numbers"
        return TableError(f"{self.path}: column {self.names[column]!r} {what}: {cure}")

    def _unknown(self, name: str) -> TableError:
        near = difflib.get_close_matches(name, self.names, 3)
        if near:
            return TableError(f"{self.path} has no column {name!r}: did you mean {' or '.join(map(repr, near))}?")
        shown = ", ".join(self.names[:_SHOWN]) + (", ..." if len(self.names) > _SHOWN else "")
        return TableError(f"{self.path} has no column {name!r}: it has {shown}")

    def _check_finite(self, piece: Array, columns: list[int], done: int) -> None:
        bad = ~np.isfinite(piece)
        if bad.any():
            row, j = (int(i) for i in np.argwhere(bad)[0])
            value = piece[row, j]
            what = "is missing or NaN" if np.isnan(value) else f"is {value}"
            raise TableError(
                f"{self.path}: row {done + row + 1}: column {self.names[columns[j]]!r} {what}: fill it in, or drop the "
                "row"
            )


def _is_index(name: str) -> bool:
    """Whether a column is the index of a data frame, which pandas writes without a name."""
    return not name or (name.startswith("__index_level_") and name.endswith("__"))


def _listed(names: Sequence[str]) -> str:
    """Names as ``--columns`` takes them on a command line: those with commas quoted, as in a CSV file."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(names[:_SHOWN])
    shown = line.getvalue()
    return (shlex.quote(shown) if '"' in shown else shown) + (",..." if len(names) > _SHOWN else "")
