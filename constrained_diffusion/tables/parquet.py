"""Parquet files. May use: pyarrow, where used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .base import Array, Table, TableError
from .columns import arrow, kind_of, to_numbers

__all__ = ["ParquetTable"]

_BUFFER = 1 << 20  # bytes of a column read at a time, so that large row groups are not held as a whole


class ParquetTable(Table):
    """A Parquet file whose columns are not nested."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._arrow, parquet = arrow(path, "parquet")
        try:
            self._file = parquet.ParquetFile(
                path, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True
            )
        except (self._arrow.ArrowException, OSError) as error:
            raise self._torn(error) from None
        schema = self._file.schema_arrow
        self.names, self._types, self.rows = tuple(schema.names), list(schema.types), self._file.metadata.num_rows

    def _kind(self, column: int) -> str:
        return kind_of(self._types[column])

    def _pieces(self, columns: list[int], rows: int) -> Iterator[Array]:
        batches = self._file.iter_batches(rows, columns=[self.names[i] for i in columns], use_threads=False)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (self._arrow.ArrowException, OSError) as error:
                raise self._torn(error) from None
            yield np.stack([to_numbers(batch.column(self.names[i])) for i in columns], 1)

    def _torn(self, error: Exception) -> TableError:
        return TableError(f"{self.path} is torn, or no Parquet file: {str(error).strip().splitlines()[0]}")
