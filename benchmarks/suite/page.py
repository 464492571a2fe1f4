"""The page of results: README.md and results.png, from the figures of all cells."""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from methods import BASELINE, METHODS, REFERENCE
from tasks import NAMES

from constrained_diffusion.checkpoints import write_atomic
from constrained_diffusion.plotting import save_figure

__all__ = ["write"]

Cell = dict[str, Any]


class Measure(NamedTuple):
    """A column: what it is called, how it is read from a cell and a row, and how it is written."""

    title: str
    read: Callable[[Cell, str, Cell | None], float | None]
    form: str
    least_is_best: bool = True


def ratio(key: str) -> Callable[[Cell, str, Cell | None], float | None]:
    """Of a row's figure to the baseline's on the same task and seed, both in units of their machines."""

    def read(cell: Cell, row: str, base: Cell | None) -> float | None:
        if base is None or "rows" not in base or row == REFERENCE or version_of(base) != version_of(cell):
            return None
        if ("unit" in base) != ("unit" in cell):  # of two machines, of one of which that is not known
            return None
        faster = base.get("unit", 1.0) / cell.get("unit", 1.0)
        if key == "training_seconds":
            return faster * cell[key] / base[key]
        return faster * cell["rows"][row][key] / base["rows"][BASELINE][key]

    return read


def of_row(key: str) -> Callable[[Cell, str, Cell | None], float | None]:
    return lambda cell, row, base: cell["rows"][row].get(key)


def of_density(key: str) -> Callable[[Cell, str, Cell | None], float | None]:
    """A model has one density: it stands in its first row."""
    return lambda cell, row, base: cell.get(key) if row == next(iter(cell["rows"])) else None


MEASURES = (
    Measure("SWD / floor", of_row("swd"), "{:.2f}"),
    Measure("MMD / floor", of_row("mmd"), "{:.2f}"),
    Measure("error at faces", of_row("faces"), "{:.4f}"),
    Measure("outside", of_row("outside"), "{:.1%}"),
    Measure("KL", of_density("kl"), "{:.3f}"),
    Measure("log-likelihood", of_density("log_likelihood"), "{:.2f}", least_is_best=False),
    Measure("evaluations", of_row("nfe"), "{:.0f}", least_is_best=False),
    Measure("training time", ratio("training_seconds"), "{:.2f}"),
    Measure("sampling time", ratio("sampling_seconds"), "{:.2f}"),
)
BESIDE = {
    "pace.md": "training times again, in turn in one process; those below are of cells that ran at different times.",
    "micro.md": "what noise, moves, projections and single steps cost.",
    "scaling.png": "cost and quality against dimension, batch and number of facets; by [scaling.py](../scaling.py).",
}
COMPARED = {"SWD / floor", "MMD / floor", "error at faces", "KL", "log-likelihood"}


class Summary(NamedTuple):
    """Values by task, row and measure; titles of tasks; why cells are empty; rows of an earlier library, by task."""

    values: dict[str, dict[str, dict[str, list[float]]]]
    titles: dict[str, str]
    reasons: dict[str, dict[str, str]]
    earlier: dict[str, set[str]]


def gather(out: Path) -> tuple[list[Cell], Summary]:
    """Read all finished cells."""
    cells = [json.loads(path.read_text()) for path in sorted((out / "cells").glob("*.json"))]
    by_key = {(c["task"], c["method"], c["seed"]): c for c in cells}
    values: dict[str, Any] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    titles: dict[str, str] = {}
    reasons: dict[str, dict[str, str]] = defaultdict(dict)
    earlier: dict[str, set[str]] = defaultdict(set)
    newest = max((version_of(cell) for cell in cells), default=())
    for cell in cells:
        name = cell["task"]
        titles.setdefault(name, cell.get("title", name))
        for key in ("refused", "failed"):
            if key in cell:
                reasons[name][cell["method"]] = cell[key]
        base = by_key.get((name, BASELINE, cell["seed"]))
        for row in cell.get("rows", {}):
            if version_of(cell) != newest and row != REFERENCE:
                earlier[name].add(row)
            for measure in MEASURES:
                value = measure.read(cell, row, base)
                if value is not None:
                    values[name][row][measure.title].append(value)
    return cells, Summary(values, titles, reasons, earlier)


def version_of(cell: Cell) -> tuple[int, ...]:
    return tuple(map(int, cell["machine"]["library"].split(".")))


def write(out: Path) -> None:
    """Write ``README.md`` and ``results.png`` in a folder that has ``cells``."""
    cells, summary = gather(out)
    if not cells:
        return
    said = remarks(out / "remarks.md")
    page = [
        "# Side by side",
        "",
        f"{len(cells)} cells, {facts(cells)}. Medians over seeds, with their range in brackets. The command is in",
        "[run.py](../run.py); what is measured, in [measures.py](../measures.py): distances of samples from as many",
        "held-back points, divided by what two clouds of the law itself are apart on average; the largest error of the",
        "share of points near a face; the share outside before anything moves them inside; nats between the true",
        "density and the model's on held-back points (KL) where the truth is known; processor time over that of the",
        "unconstrained model. Likelihoods are left out where data lie on the walls, as shares of nothing and black",
        "pixels do: such data have no density. The best values of a column, and those whose range meets theirs, are",
        "bold. The first row is no model: it is the points that the models are trained on, which shows what chance",
        "does to a column.",
        *(["What has a star is of an earlier version of the library."] if any(summary.earlier.values()) else []),
        "",
        *[f"* [{file}]({file}): {what}" for file, what in BESIDE.items() if (out / file).exists()],
        "",
        "![results](results.png)",
        "",
        *leaders(summary),
        "",
        *([said["all"], ""] if "all" in said else []),
    ]
    for name in NAMES:
        if summary.values.get(name) or summary.reasons.get(name):
            page += [*section(name, summary), "", *([said[name], ""] if name in said else [])]
    write_atomic(out / "README.md", "\n".join(page).encode())
    if summary.values:
        save_figure(picture(summary), out / "results.png")


def facts(cells: list[Cell]) -> str:
    """Dates, versions, machine and budget, as far as they agree."""

    def all_of(read: Callable[[Cell], Any]) -> str:
        found = sorted({str(read(c)) for c in cells})
        return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"

    budget = cells[0]["budget"]
    return (
        f"{all_of(lambda c: c['date'])}, library {all_of(lambda c: c['machine']['library'])}, "
        f"torch {all_of(lambda c: c['machine']['torch'])}, {all_of(lambda c: c['machine']['processor'])}; "
        f"networks of width {budget['width']} and depth {budget['depth']}, {budget['steps']} steps of "
        f"{budget['batch_size']} points, {budget['walk']} steps of the samplers, {cells[0]['points']} samples"
    )


def remarks(path: Path) -> dict[str, str]:
    """What people have to say about the figures: the text under each heading, a task's name or ``all``."""
    if not path.exists():
        return {}
    parts = (part.partition("\n") for part in f"\n{path.read_text()}".split("\n## ")[1:])
    found = {name.strip(): text.strip() for name, _, text in parts}
    if unknown := found.keys() - {"all", *NAMES}:
        raise ValueError(f"{path}: a heading is `all` or one of {', '.join(NAMES)}, not {', '.join(sorted(unknown))}")
    return found


def leaders(summary: Summary) -> list[str]:
    """A table of who leads on each task by each measure, and where this library's best row is if it does not."""
    shown = [m for m in MEASURES if m.title in COMPARED and m.title != "log-likelihood"]
    lines = [
        "## Who leads",
        "",
        "By medians; behind a row of others the best of this library's, of which there are up to four and of most",
        "others one. Bold where one of this library leads, or its range meets the leader's.",
        "",
        "| | " + " | ".join(m.title for m in shown) + " |",
        "| --- |" + " --- |" * len(shown),
    ]
    own = {row for name, method in METHODS.items() if method.own for row in rows_of(name, summary)}
    for name in (n for n in NAMES if summary.values.get(n)):
        rows = summary.values[name]
        lines.append(
            f"| {summary.titles[name]} | "
            + " | ".join(leader(m, rows, own, summary.earlier[name]) for m in shown)
            + " |"
        )
    return lines


def leader(measure: Measure, rows: dict[str, dict[str, list[float]]], own: set[str], earlier: set[str]) -> str:
    """The row with the best median and its value, and the best own one; those of an earlier library with a star."""
    sign = 1 if measure.least_is_best else -1
    middle = {
        row: sign * statistics.median(values[measure.title])
        for row, values in rows.items()
        if measure.title in values and row != REFERENCE
    }
    if not middle:
        return ""

    def text(row: str) -> str:
        star = "\\*" if row in earlier else ""
        return f"{row}{star} {measure.form.format(sign * middle[row])}"

    tied = own & winners(measure, rows)
    shown = [min(middle, key=middle.__getitem__)]
    if shown[0] not in own:
        shown += sorted(tied or own & middle.keys(), key=middle.__getitem__)[:1]
    found = "; ".join(map(text, shown))
    return f"**{found}**" if tied else found


def section(name: str, summary: Summary) -> list[str]:
    """The table of a task."""
    rows = summary.values[name]
    shown = [m for m in MEASURES if any(m.title in rows[row] for row in rows)]
    best = {m.title: winners(m, rows) for m in shown if m.title in COMPARED}
    lines = [
        f"## {summary.titles[name]}",
        "",
        "| | " + " | ".join(m.title for m in shown) + " |",
        "| --- |" + " ---: |" * len(shown),
    ]
    for row in (r for method in METHODS for r in rows_of(method, summary) if r in rows):
        texts = []
        for m in shown:
            text = written(m, rows[row].get(m.title, []))
            texts.append(f"**{text}**" if row in best.get(m.title, ()) else text)
        star = "\\*" if row in summary.earlier[name] else ""
        lines.append(f"| {row}{star} | " + " | ".join(texts) + " |")
    for method, why in summary.reasons[name].items():
        lines += ["", f"{method}: {why}."]
    return lines


def written(measure: Measure, values: list[float]) -> str:
    if not values:
        return ""
    middle = measure.form.format(statistics.median(values))
    low, high = (measure.form.format(v) for v in (min(values), max(values)))
    return middle if low == high else f"{middle} ({low} .. {high})"


def winners(measure: Measure, rows: dict[str, dict[str, list[float]]]) -> set[str]:
    """Rows of models whose range meets that of the row with the best median."""
    sign = 1 if measure.least_is_best else -1
    found = {row: [sign * v for v in values[measure.title]] for row, values in rows.items() if measure.title in values}
    found.pop(REFERENCE, None)
    if not found:
        return set()
    best = min(found.values(), key=statistics.median)
    return {row for row, values in found.items() if min(values) <= max(best)}


def picture(summary: Summary) -> Any:
    """Three tables in colour: distance over its floor, error at the faces, and training time."""
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    names = [n for n in NAMES if summary.values.get(n)]
    order = [row for method in METHODS for row in rows_of(method, summary)]
    shown = {"SWD / floor": (1.0, 10.0), "error at faces": (1e-3, 1e-1), "training time": (0.5, 8.0)}
    figure = Figure(figsize=(3 + 0.95 * len(names), 1.2 + 3 * (0.36 * len(order) + 0.5)), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    for panel, (title, limits) in zip(panels, shown.items(), strict=True):
        table = np.full((len(order), len(names)), np.nan)
        form = next(m.form for m in MEASURES if m.title == title)
        for i, row in enumerate(order):
            for j, name in enumerate(names):
                if values := summary.values[name].get(row, {}).get(title):
                    table[i, j] = statistics.median(values)
        panel.imshow(table.clip(*limits), norm=LogNorm(*limits), cmap="YlOrRd", aspect="auto", alpha=0.85)
        for i, j in zip(*np.nonzero(np.isfinite(table)), strict=True):
            dark = np.log(table[i, j] / limits[0]) > 0.7 * np.log(limits[1] / limits[0])
            text = form.format(table[i, j]) if table[i, j] < 1000 else f"{table[i, j]:.0e}"
            text += "*" if order[i] in summary.earlier[names[j]] else ""
            panel.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "#1f2937")
        panel.set_yticks(range(len(order)), order, fontsize=8)
        panel.set_title(
            f"{title}{', in that of the unconstrained model' if title == 'training time' else ''}", fontsize=10
        )
        panel.set_facecolor("#f3f4f6")
        panel.tick_params(length=0)
        for side in panel.spines.values():
            side.set_visible(False)
    labels = [summary.titles[n].replace(" in ", "\nin ").replace(" mixture", "\nmixture") for n in names]
    panels[-1].set_xticks(range(len(names)), labels, fontsize=8)
    return figure


def rows_of(method: str, summary: Summary) -> list[str]:
    """Rows of the table that belong to a method, in order: they start with its first word."""
    seen = dict.fromkeys(row for rows in summary.values.values() for row in rows)
    owner = {row: max((m for m in METHODS if row == m or row.startswith(m + ",")), key=len, default="") for row in seen}
    return [row for row in seen if owner[row] == method]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).parent / "results")
    write(parser.parse_args().out)
