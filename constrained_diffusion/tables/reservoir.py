"""A uniform random sample of the rows of a table of any length, in one pass. May use: numpy."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .base import Array

__all__ = ["Reservoir", "sample_rows"]


class Reservoir:
    """Keeps some of the rows that come by, each set of them as likely as any other.

    Row i takes a uniform place among i; if that is one of the reservoir, it replaces what is there (algorithm R of
    Waterman; Vitter 1985, "Random sampling with a reservoir"). Nothing depends on the size of the pieces.

    Args:
        rows: how many to keep, at least 1.
        seed: of the sample.

    Attributes:
        seen: rows that came by.
    """

    def __init__(self, rows: int, seed: int = 0) -> None:
        if rows < 1:
            raise ValueError(f"rows must be at least 1, not {rows}")
        self.rows, self.seen = rows, 0
        self._generator = np.random.default_rng(seed)
        self._filling: list[Array] = []
        self._kept: Array | None = None

    def add(self, piece: Array) -> None:
        """Let rows ``[n, k]`` come by."""
        room = max(0, self.rows - self.seen)
        first, rest = piece[:room], piece[room:]
        if len(first):
            self._filling.append(first)
        if len(rest):
            kept = self.kept()
            at = np.arange(self.seen + len(first), self.seen + len(piece))
            # 53 random bits for each row: uneven by less than 1e-6 up to 2^33 rows, and the same for any pieces
            place = (self._generator.random(len(rest)) * (at + 1)).astype(np.int64)
            inside = place < self.rows
            kept[place[inside]] = rest[inside]  # of several rows for one place the last stays, as one by one
        self.seen += len(piece)

    def kept(self) -> Array:
        """The sample so far ``[<= rows, k]``; while all rows fit, they are in order."""
        if self._filling:
            before = [] if self._kept is None else [self._kept]
            self._kept = np.concatenate([*before, *self._filling])
            self._filling = []
        return np.empty((0, 0)) if self._kept is None else self._kept


def sample_rows(pieces: Iterable[Array], rows: int, seed: int = 0) -> tuple[Array, int]:
    """A uniform random sample of at most ``rows`` rows ``[rows, k]``, and how many there were."""
    reservoir = Reservoir(rows, seed)
    for piece in pieces:
        reservoir.add(piece)
    return reservoir.kept(), reservoir.seen
