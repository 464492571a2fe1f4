"""Text with one row a line, its values parted by commas, semicolons or tabs. May use: pyarrow, where used."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Array, Table, TableError
from .columns import arrow, kind_of, to_numbers

if TYPE_CHECKING:
    import pyarrow

__all__ = ["DelimitedTable"]

_BLOCK = 1 << 20  # bytes read at a time
_NO_NUMBER = re.compile(
    r"In CSV column #(\d+): Row #(\d+): CSV conversion error to \w+: invalid value '(.*)'", re.DOTALL
)
_QUOTED = re.compile(r'"[^"]*"')
_RAGGED = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)")


class DelimitedTable(Table):
    """A CSV file in UTF-8, or a TSV file.

    Values are parted by tabs in ``.tsv``; otherwise by what the first line has most of: commas, semicolons or tabs.
    If all values of the first row are numbers, there is no header.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        first, self._delimiter, line = self._first_row()
        self.named = not all(map(_is_number, first))
        self._skip = line if self.named else line - 1  # lines before the first row of data
        self.names = tuple(v.strip() for v in first) if self.named else tuple(f"c{i}" for i in range(len(first)))

    def _first_row(self) -> tuple[list[str], str, int]:
        """The values of the first row that is not blank, what parts them, and the number of its line."""
        try:
            with self.path.open("rb") as file:
                lines = enumerate(iter(lambda: file.readline(_BLOCK), b""), 1)
                number, content = next(((i, text) for i, text in lines if text.strip()), (0, b""))
            line = content.decode("utf-8-sig")
            bare = _QUOTED.sub("", line)
            delimiter = "\t" if self.path.suffix.lower() == ".tsv" else max(",", ";", "\t", key=bare.count)
            row = next(csv.reader(io.StringIO(line), delimiter=delimiter), [])
        except UnicodeDecodeError:
            raise TableError(f"{self.path} is not text in UTF-8: save it as that") from None
        except csv.Error as error:
            raise TableError(f"{self.path}: the first row cannot be read: {error}") from None
        if not row:
            raise TableError(f"{self.path} is empty: all its lines are blank")
        return row, delimiter, number

    @cached_property
    def _types(self) -> list[pyarrow.DataType]:
        """What the columns seem to be by their first values."""
        return list(self._reader().schema.types)

    def _kind(self, column: int) -> str:
        kind = kind_of(self._types[column])
        return "" if kind == "text" else kind  # it may be one bad value, which reading finds

    def _numeric(self) -> list[str]:
        text = {n for n, t in zip(self.names, self._types, strict=True) if kind_of(t) == "text"}
        return [name for name in super()._numeric() if name not in text]

    def _pieces(self, columns: list[int], rows: int) -> Iterator[Array]:
        pa, _ = arrow(self.path)
        types = {i: pa.bool_() if pa.types.is_boolean(self._types[i]) else pa.float64() for i in columns}
        reader = self._reader(types)
        while True:
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                return
            except (pa.ArrowInvalid, OSError) as error:
                raise self._translated(str(error)) from None
            piece = np.stack([to_numbers(batch.column(j)) for j in range(len(columns))], 1)
            yield from (piece[i : i + rows] for i in range(0, len(piece), rows))

    def _reader(self, types: dict[int, Any] | None = None) -> pyarrow.csv.CSVStreamingReader:
        """Reads the columns at these positions as these types, or all as what they seem to be."""
        pa, csv = arrow(self.path)
        chosen = {str(i): kind for i, kind in (types or {}).items()}  # the file's own names may be double or missing
        try:
            return csv.open_csv(
                self.path,
                read_options=csv.ReadOptions(
                    use_threads=False,  # only so are rows counted, for messages
                    block_size=_BLOCK,
                    column_names=[str(i) for i in range(len(self.names))],
                    skip_rows=self._skip,
                ),
                parse_options=csv.ParseOptions(delimiter=self._delimiter),
                convert_options=csv.ConvertOptions(include_columns=list(chosen), column_types=chosen),
            )
        except (pa.ArrowInvalid, OSError) as error:
            raise self._translated(str(error)) from None

    def _translated(self, message: str) -> TableError:
        """Arrow's message in terms of the file; it counts the lines that are skipped as rows."""
        if found := _NO_NUMBER.search(message):
            column, row, value = int(found[1]), int(found[2]) - self._skip, found[3]
            shown = value if len(value) <= 40 else value[:37] + "..."
            return self._no_number(column, f"holds text: {shown!r} in row {row}", "correct it, or ")
        if found := _RAGGED.search(message):
            row = int(found[1]) - self._skip
            return TableError(f"{self.path}: row {row} has {found[3]} values, not {found[2]} like the first row")
        return TableError(f"{self.path} cannot be read: {' '.join(message.split())}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
