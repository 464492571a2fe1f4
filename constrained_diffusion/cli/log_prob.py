"""``log-prob``: the log-density of each row of a table of any length. May use: the estimator, tables."""

from __future__ import annotations

import math
import sys
import time
from argparse import Namespace
from contextlib import nullcontext
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..model import ReflectedDiffusion
from ..tables import Array, TableWriter, open_table
from .output import Output
from .record import Record
from .runs import load

_PIECE = 10_000  # rows at a time
COLUMN = "log_prob"


def run(options: Namespace, out: Output) -> int:
    """Run the command."""
    model, record = load(options)
    table = open_table(options.data)
    began, tally = time.monotonic(), _Tally()
    place = TableWriter(options.out, [COLUMN]) if options.out else nullcontext()
    with (
        place as writer,
        tqdm(total=table.rows, unit=" rows", desc="log-prob", disable=not out.progress, leave=False, delay=1) as bar,
    ):
        for piece in record.pieces(table, rows=_PIECE):
            values = log_densities(model, record, *record.parted(piece, model.domain), options.seed)
            if writer is not None:
                writer.write(values[:, None])
            elif not out.json:
                sys.stdout.writelines(f"{float(v)!r}\n" for v in values)
            tally.add(values)
            bar.update(len(values))
    figures = {"command": "log-prob", "run": options.run, "data": options.data, "out": options.out}
    figures |= tally.figures() | {"seconds": time.monotonic() - began}
    if tally.outside:
        out.say(f"{tally.outside} rows lie outside {model.domain!r}: their log-density is -inf")
    if options.out:
        out.result(figures, f"{tally.told()}, written to {options.out}", summary=True)
    elif out.json:
        out.result(figures, "")
    else:
        out.say(tally.told())
    return 0


def log_densities(model: ReflectedDiffusion, record: Record, x: Array, condition: Array | None, seed: int) -> Array:
    """Log-densities ``[n]`` against the volume in the data's units, of points ``[n, *event_shape]`` of the model.

    Outside the domain they are minus infinity.
    """
    inside = record.inside(x, model.domain)
    values = np.full(len(x), -math.inf)
    if inside.any():
        found = model.log_prob(x[inside], None if condition is None else condition[inside], seed=seed)
        values[inside] = found - model.domain.dim * math.log(record.scale)
    return values


class _Tally:
    """What there is to say of all rows at the end; of those inside, but for their number."""

    def __init__(self) -> None:
        self.rows = self.outside = 0
        self._sum, self._least, self._largest = 0.0, math.inf, -math.inf

    def add(self, values: Array) -> None:
        """Count the log-densities of some rows."""
        inside = values[values > -math.inf]
        self.rows, self.outside = self.rows + len(values), self.outside + len(values) - len(inside)
        self._sum += math.fsum(inside)
        self._least = min(self._least, float(inside.min(initial=math.inf)))
        self._largest = max(self._largest, float(inside.max(initial=-math.inf)))

    def figures(self) -> dict[str, Any]:
        """By name."""
        inside = self.rows - self.outside
        mean = self._sum / inside if inside else -math.inf
        return {
            "rows": self.rows,
            "outside": self.outside,
            "mean": mean,
            "least": self._least,
            "largest": self._largest,
        }

    def told(self) -> str:
        """For people."""
        which = f" ({self.rows - self.outside} inside)" if self.outside else ""
        return f"{self.rows} rows{which}, mean {self.figures()['mean']:.4f} nats"
