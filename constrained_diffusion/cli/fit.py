"""``fit``: from a table to a saved run. May use: the estimator, tables, and this folder."""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ..data import check_device
from ..domains import Domain
from ..domains.specs import Extent, words
from ..model import ReflectedDiffusion
from ..tables import Array, Reservoir, Table, open_table
from .choosing import choose, import_modules
from .output import Output, columns, span
from .parser import DEFAULTS
from .record import Record
from .runs import claimed

INTERRUPTED = 130


def run(options: Namespace, out: Output) -> int:
    """Run the command."""
    folder = Path(options.out)
    with claimed(folder, overwrite=options.overwrite):
        table = open_table(options.data)
        import_modules(options.imports)
        check_device(options.device)
        record = Record.chosen(table, options.columns, options.condition, options.total, _modules(options))
        extent, rows, seen = _survey(table, record, options, out)
        domain = choose(options.domain, extent, low=options.low, high=options.high)
        if seen == len(rows):
            record.check_inside(table, rows, domain)
        else:
            _check_all(table, record, domain, out)
        x, condition = record.parted(rows, domain)
        figures = _picked(domain, record, extent, len(rows), seen, options)
        out.say(_described(figures, domain, options))
        model = _model(domain, options)
        began = time.monotonic()
        interrupted = False
        try:
            model.fit(x, condition, progress=out.progress)
        except KeyboardInterrupt:
            if not getattr(model, "history_", None):
                raise  # nothing has been learnt yet that is worth keeping
            interrupted = True
            out.say(f"\ninterrupted: what was learnt so far is saved in {folder}")
        with record.saved_with_model(folder):
            model.save(folder)
    figures |= _reached(model, folder, time.monotonic() - began, interrupted)
    where = "" if model.sde_.domain == domain else f" in {model.sde_.domain!r}"
    out.result(figures, _told(figures, where), summary=True)
    return INTERRUPTED if interrupted else 0


def _modules(options: Namespace) -> list[str]:
    """What must be imported before the run is loaded again."""
    word, colon, _ = options.domain.partition(":")
    own = [word] if colon and word not in words() and not options.domain.endswith(".json") else []
    return list(dict.fromkeys([*options.imports, *own]))


def _survey(table: Table, record: Record, options: Namespace, out: Output) -> tuple[Extent, Array, int]:
    """One pass over a table: its extent, a random sample of its rows, and how many there are."""
    reservoir = Reservoir(options.rows, options.seed)
    names = tuple(f"{table.path}: column {name!r}" for name in record.columns)

    def extents() -> Iterator[Extent]:
        for piece in _watched(record, table, out, "reading"):
            reservoir.add(piece)
            yield Extent.of(torch.from_numpy(piece[:, : len(names)]), names)

    extent = reduce(Extent.joined, extents())  # there is a piece at least: a table without rows is refused
    return extent, reservoir.kept(), reservoir.seen


def _check_all(table: Table, record: Record, domain: Domain, out: Output) -> None:
    """A second pass: those rows that are not trained on must lie inside as well."""
    done = 0
    for piece in _watched(record, table, out, "checking"):
        record.check_inside(table, piece, domain, done)
        done += len(piece)


def _watched(record: Record, table: Table, out: Output, what: str) -> Iterator[Array]:
    """Pieces of a table, with a progress bar if that takes more than a second."""
    with tqdm(total=table.rows, unit=" rows", desc=what, delay=1, disable=not out.progress, leave=False) as bar:
        for piece in record.pieces(table):
            yield piece
            bar.update(len(piece))


def _model(domain: Domain, options: Namespace) -> ReflectedDiffusion:
    return ReflectedDiffusion(
        domain,
        **{name: getattr(options, name) for name in DEFAULTS},
        weighting=options.weighting,
        early_stopping=options.early_stopping,
        seed=options.seed,
        device=options.device,
    )


def _picked(domain: Domain, record: Record, extent: Extent, used: int, seen: int, options: Namespace) -> dict[str, Any]:
    """What was chosen, before training, in the data's units."""
    size = record.scale
    values = zip(record.columns, extent.low.tolist(), extent.high.tolist(), strict=True)
    bounds = None
    if math.isfinite(domain.diameter):
        ends = (b.flatten().tolist() for b in domain.bounding_box)
        bounds = {n: [a * size, b * size] for n, a, b in zip(record.columns, *ends, strict=True)}
    return {
        "command": "fit",
        "run": options.out,
        "domain": domain.config(),
        "columns": record.columns,
        "condition": record.condition,
        "total": record.total,
        "data_range": {name: [low * size, high * size] for name, low, high in values},
        "bounds": bounds,
        "rows": seen,
        "rows_used": used,
        "seed": options.seed,
    }


def _described(figures: dict[str, Any], domain: Domain, options: Namespace) -> str:
    """The same for people."""
    data, bounds = figures["data_range"], figures["bounds"]
    lines = [["", "data", "domain"]]
    lines += [[f"  {name}", span(*data[name]), span(*bounds[name]) if bounds else "any"] for name in data]
    by_data = options.domain in words() and options.low is None and options.high is None
    chosen = f", chosen by all {figures['rows']} rows" if by_data else ""
    heading = f"domain: {domain!r}{chosen}"
    depends = f", depending on {', '.join(figures['condition'])}" if figures["condition"] else ""
    used = f"training on {figures['rows_used']} of {figures['rows']} rows{depends}"
    return f"{heading}\n{columns(lines)}\n{used}"


def _reached(model: ReflectedDiffusion, folder: Path, seconds: float, interrupted: bool) -> dict[str, Any]:
    """What came of training."""
    validation = model.validation_history_
    return {
        "sigma_min": float(model.sde_.sigma_min),
        "sigma_max": float(model.sde_.sigma_max),
        "steps": model.history_[-1][0],
        "loss": model.history_[-1][1],
        "sigma_domain": model.sde_.domain.config(),
        "validation_loss": min(loss for _, loss in validation) if validation else None,
        "seconds": seconds,
        "interrupted": interrupted,
        "run": str(folder),
    }


def _told(figures: dict[str, Any], where: str) -> str:
    held_back = figures["validation_loss"]
    rows = [
        ["sigma", span(figures["sigma_min"], figures["sigma_max"]) + where],
        ["steps", f"{figures['steps']}{' (interrupted)' if figures['interrupted'] else ''}"],
        ["loss", f"{figures['loss']:.4f}"],
        *([["held back", f"{held_back:.4f}"]] if held_back is not None else []),
        ["seconds", f"{figures['seconds']:.0f}"],
        ["saved in", figures["run"]],
    ]
    return "\n".join(f"{name:10s}{value}" for name, value in rows)
