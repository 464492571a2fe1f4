"""Between a table and a domain: which columns are learnt, and in which unit. A run's folder keeps it.

May use: numpy, tables; torch, imported where used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..atomic import replacing
from ..tables import Array, Table, TableError

if TYPE_CHECKING:
    from ..domains import Domain

__all__ = ["Record"]

FILE = "table.json"
FORMAT = 1
_ROUNDING = 0.01  # share of the total by which a row's sum may differ: that is rounding, and more is another matter


@dataclass(frozen=True)
class Record:
    """What a run knows of the table that it was fitted to.

    Attributes:
        columns: names of the columns that are learnt.
        condition: names of the columns that samples can depend on.
        total: what rows sum to, which the model knows as one; None where numbers are taken as they are.
        modules: what has to be imported before the run is loaded.
        source: name of the file.
        version: of the library that fitted it.
    """

    columns: tuple[str, ...]
    condition: tuple[str, ...] = ()
    total: float | None = None
    modules: tuple[str, ...] = ()
    source: str = ""
    version: str = __version__

    @classmethod
    def chosen(
        cls,
        table: Table,
        columns: Sequence[str] | None,
        condition: Sequence[str],
        total: float | None,
        modules: Sequence[str],
    ) -> Record:
        """Columns of a table, checked; all but the conditions by default."""
        both = sorted(set(columns or ()) & set(condition))
        if both:
            raise TableError(f"column {both[0]!r} is in --columns and in --condition: learn it, or depend on it")
        if columns is None and not condition:
            table.select()  # complains of columns without a name
        chosen = [name for name in table.names if name not in condition] if columns is None else columns
        if not chosen:
            raise TableError(f"{table.path}: no column is left to learn: name fewer with --condition")
        table.select([*chosen, *condition])
        return cls(tuple(chosen), tuple(condition), total, tuple(modules), table.path.name)

    @property
    def scale(self) -> float:
        """Units of the data for one of the model."""
        return 1.0 if self.total is None else self.total

    @contextmanager
    def saved_with_model(self, folder: Path) -> Iterator[None]:
        """Keep it in a run's folder once the model, which is saved meanwhile, is there; not at all if that fails."""
        with replacing(folder / FILE) as file:
            file.write(json.dumps({"format": FORMAT, **asdict(self)}, indent=2).encode())
            file.flush()  # a full disk is noticed before the model is saved
            yield

    @classmethod
    def load(cls, folder: Path) -> Record | None:
        """That of a run; None if it was not fitted by the command line.

        Raises:
            ValueError: the file is torn or foreign, or from a newer version.
        """
        path = folder / FILE
        if not path.exists():
            return None
        try:
            values = json.loads(path.read_text())
            version = values.pop("format")
            kept: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            made = cls(**kept)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is torn, or not what a run keeps of its table: {error!r}") from None
        if version != FORMAT:
            raise ValueError(f"{path} has format {version!r}; this version reads {FORMAT}")
        return made

    @classmethod
    def plain(cls, size: int, condition: int) -> Record:
        """That of a model fitted to an array: columns without names."""
        return cls(tuple(f"c{i}" for i in range(size)), tuple(f"c{size + i}" for i in range(condition)))

    def pieces(
        self, table: Table, *, condition: bool = True, columns: bool = True, rows: int = 1 << 16
    ) -> Iterator[Array]:
        """Pieces of a table in the model's units, ``[<= rows, columns and conditions]``.

        A table that does not name its columns may have them in the run's order.
        """
        wanted = [*(self.columns if columns else ()), *(self.condition if condition else ())]
        if not table.named and not set(wanted) <= set(table.names) and len(table.names) == len(wanted):
            wanted = list(table.names)
        done = 0
        for piece in table.pieces(wanted, rows):
            if self.total is not None and columns:
                piece[:, : len(self.columns)] = self._closed(table, piece[:, : len(self.columns)], done)
            done += len(piece)
            yield piece

    def parted(self, rows: Array, domain: Domain) -> tuple[Array, Array | None]:
        """Points ``[n, *event_shape]`` and conditions ``[n, c]``, if there are any, of rows of a piece."""
        points = rows[:, : len(self.columns)].reshape(-1, *domain.event_shape)
        return points, rows[:, len(self.columns) :] if rows.shape[1] > len(self.columns) else None

    def back(self, points: Array) -> Array:
        """Points of the model ``[n, *event_shape]`` as rows in the data's units."""
        return points.reshape(len(points), -1) * self.scale

    def inside(self, points: Array, domain: Domain) -> NDArray[np.bool_]:
        """Which points ``[n, *event_shape]`` lie in the domain, up to rounding."""
        import torch

        rounding = 64 * torch.finfo(torch.float64).eps * max(1.0, domain.magnitude)
        found: NDArray[np.bool_] = domain.contains(torch.from_numpy(points), atol=rounding).numpy()
        return found

    def check_inside(self, table: Table, rows: Array, domain: Domain, done: int = 0) -> None:
        """Refuse rows outside the domain, by more than rounding; ``done`` of the table's rows came before."""
        points, _ = self.parted(rows, domain)
        out = np.flatnonzero(~self.inside(points, domain))
        if len(out):
            row = int(out[0])
            shown = list(zip(self.columns, self.back(points[row : row + 1])[0], strict=True))
            values = ", ".join(f"{name}={value:g}" for name, value in shown[:6]) + (", ..." if len(shown) > 6 else "")
            raise TableError(
                f"{table.path}: row {done + row + 1} ({values}) lies outside {domain!r}: drop such rows, or choose a "
                "larger domain"
            )

    def _closed(self, table: Table, piece: Array, done: int) -> Array:
        """Rows divided by their sums, which are the total but for rounding."""
        sums = piece.sum(1)
        off = np.flatnonzero(np.abs(sums - self.scale) > _ROUNDING * self.scale)
        if len(off):
            raise TableError(
                f"{table.path}: row {done + off[0] + 1} sums to {sums[off[0]]:g}, not to {self.scale:g}: drop it, name "
                "the parts with --columns, or give another --total"
            )
        closed: Array = piece / sums[:, None]
        return closed
