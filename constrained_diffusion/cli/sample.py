"""``sample``: new rows from a run, in the units and under the names of its table. May use: estimator, tables."""

from __future__ import annotations

import difflib
import time
from argparse import Namespace
from collections.abc import Iterator

import numpy as np
from tqdm.auto import tqdm

from ..metrics import violation
from ..model import ReflectedDiffusion
from ..tables import Array, TableWriter, open_table
from .output import Output
from .record import Record
from .runs import load
from .samplers import sampling

_PIECE = 50_000  # samples drawn and written at a time
_USUAL = 1000


def run(options: Namespace, out: Output) -> int:
    """Run the command."""
    given = options.condition_values or options.condition_file
    if options.guidance and not given:
        raise ValueError("--guidance leads towards a condition: give --condition-values or --condition-file")
    model, record = load(options)
    began = time.monotonic()
    outside = 0.0
    names = [*record.columns, *(record.condition if given else ())]
    wanted = options.n or _USUAL
    several = wanted > _PIECE or bool(options.condition_file)
    with (
        TableWriter(options.out, names) as writer,
        tqdm(total=options.n, unit=" rows", disable=not (several and out.progress), leave=False) as bar,
    ):
        for i, (size, condition) in enumerate(_conditions(options, record, wanted)):
            points = _draw(model, size, condition, options, i, out.progress and not several)
            outside += violation(model.domain, points) * size
            rows = record.back(points)
            writer.write(rows if condition is None else np.concatenate([rows, condition], 1))
            bar.update(size)
    figures = {
        "command": "sample",
        "run": options.run,
        "out": options.out,
        "rows": writer.rows,
        "columns": names,
        "outside": outside / writer.rows,
        "seed": options.seed,
        "seconds": time.monotonic() - began,
    }
    share = f"{100 * figures['outside']:g} % outside the domain"
    out.result(figures, f"{writer.rows} rows in {options.out}: {', '.join(names)}; {share}", summary=True)
    return 0


def _draw(
    model: ReflectedDiffusion, size: int, condition: Array | None, options: Namespace, part: int, progress: bool
) -> Array:
    """One part of the samples. The first is what the estimator draws for this seed; others have seeds of their own."""
    seed = options.seed
    if part:
        seed = int(np.random.SeedSequence([seed, part]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    how = sampling(options.sampler, options.steps)
    points: Array = model.sample(size, condition, guidance=options.guidance, seed=seed, progress=progress, **how)
    return points.astype(np.float64)


def _conditions(options: Namespace, record: Record, wanted: int) -> Iterator[tuple[int, Array | None]]:
    """Sizes of the parts, and the condition ``[size, c]`` of each sample in them."""
    if options.condition_file:
        table = open_table(options.condition_file)
        left = options.n
        _check_has_condition(record)
        for piece in record.pieces(table, columns=False, rows=_PIECE):
            part = piece if left is None else piece[:left]
            left = None if left is None else left - len(part)
            if len(part):
                yield len(part), part
        if left:
            raise ValueError(f"{options.condition_file} has {options.n - left} rows, fewer than -n {options.n}")
        return
    row = _row(options.condition_values, record)
    for begin in range(0, wanted, _PIECE):
        size = min(_PIECE, wanted - begin)
        yield size, None if row is None else np.tile(row, (size, 1))


def _row(values: dict[str, float] | None, record: Record) -> Array | None:
    """One condition, in the order of the run."""
    if values is None:
        return None
    _check_has_condition(record)
    for name in values:
        if name not in record.condition:
            near = difflib.get_close_matches(name, record.condition, 1)
            cure = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(record.condition)}"
            raise ValueError(f"the run has no condition {name!r}: {cure}")
    missing = [name for name in record.condition if name not in values]
    if missing:
        cure = ",".join(f"{name}=.." for name in record.condition)
        raise ValueError(f"--condition-values lacks {missing[0]!r}: give {cure}")
    return np.array([values[name] for name in record.condition])


def _check_has_condition(record: Record) -> None:
    if not record.condition:
        raise ValueError("the run was fitted without conditions: fit it with --condition")
