"""``log-prob``: the log-density of each row of a table of any length. May use: the estimator, tables."""

from __future__ import annotations

import math
import sys
import time
from argparse import Namespace
from contextlib import nullcontext

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
    began, done, total = time.monotonic(), 0, 0.0
    least, most = math.inf, -math.inf
    place = TableWriter(options.out, [COLUMN]) if options.out else nullcontext()
    with (
        place as writer,
        tqdm(total=table.rows, unit=" rows", desc="log-prob", disable=not out.progress, leave=False, delay=1) as bar,
    ):
        for piece in record.pieces(table, rows=_PIECE):
            record.check_inside(table, piece, model.domain, done)
            values = log_densities(model, record, *record.parted(piece, model.domain), options.seed)
            if writer is not None:
                writer.write(values[:, None])
            elif not out.json:
                sys.stdout.writelines(f"{float(v)!r}\n" for v in values)
            done, total = done + len(values), total + math.fsum(values)
            least, most = min(least, float(values.min())), max(most, float(values.max()))
            bar.update(len(values))
    figures = {
        "command": "log-prob",
        "run": options.run,
        "data": options.data,
        "out": options.out,
        "rows": done,
        "mean": total / done,
        "least": least,
        "largest": most,
        "seconds": time.monotonic() - began,
    }
    text = f"{done} rows, mean {total / done:.4f} nats"
    if options.out:
        out.result(figures, f"{text}, written to {options.out}")
    elif out.json:
        out.result(figures, "")
    else:
        out.say(text)
    return 0


def log_densities(model: ReflectedDiffusion, record: Record, x: Array, condition: Array | None, seed: int) -> Array:
    """Log-densities ``[n]`` against the volume in the data's units, of points ``[n, *event_shape]`` of the model."""
    values: Array = model.log_prob(x, condition, seed=seed)
    return values.astype("float64") - model.domain.dim * math.log(record.scale)
