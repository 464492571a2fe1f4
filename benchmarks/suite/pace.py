"""Training time of this library's models on every task, over that of the unconstrained model, in turn in one process.

    python benchmarks/suite/pace.py [--quick] [--tasks spiral ring ..] [--out FOLDER]

The networks, batches and data of run.py. Each model trains some 200 steps, then the next, and again: a ratio is of
neighbours in time, and what else the machine does moves both. Medians of processor time, with quartiles. Rows that this
machine has made of other tasks, with this version of the library, are kept.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from charts import FlatChart, Standardised
from methods import METHODS, Budget, simulated
from run import QUICK, machine
from tasks import NAMES, Task, task

from constrained_diffusion import Euclidean, ReflectedDiffusion
from constrained_diffusion.checkpoints import write_atomic

BASE, PATHS = "unconstrained", "reflected, path targets"


def models(setting: Task, budget: Budget) -> dict[str, Callable[[int], Any]]:
    """By name, functions that train so many steps more."""
    train, _ = setting.data(0)
    chart = Standardised(FlatChart(setting.domain), train)
    flat = chart.to(train).float()
    fits = {BASE: (Euclidean(flat.shape[1]), flat), "reflected": (setting.domain, train)}
    if METHODS[PATHS].refuses(setting) is None:
        fits[PATHS] = simulated(setting.domain), train
    made = {name: (ReflectedDiffusion(place, **budget.options), x) for name, (place, x) in fits.items()}
    return {
        name: lambda steps, model=model, x=x: model.partial_fit(x, steps=steps, progress=False)
        for name, (model, x) in made.items()
    }


def ratios(setting: Task, budget: Budget, steps: int, rounds: int) -> dict[str, list[float]]:
    """Lower quartile, median and upper quartile of each model's time over the baseline's."""
    goes = models(setting, budget)
    for go in goes.values():
        go(8)  # tables
    took: dict[str, list[float]] = {name: [] for name in goes}
    for _ in range(rounds):
        for name, go in goes.items():
            start = time.process_time()
            go(steps)
            took[name].append(time.process_time() - start)
    base = np.array(took.pop(BASE))
    found = {name: np.quantile(np.array(times) / base, [0.25, 0.5, 0.75]).tolist() for name, times in took.items()}
    return found | {"milliseconds a step": (1000 * np.quantile(base / steps, [0.25, 0.5, 0.75])).tolist()}


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "# Training time",
        "",
        "Processor time of a training step over that of the unconstrained model's: median, and quartiles in brackets.",
        f"Command: `python benchmarks/suite/pace.py`; {result['date']}, {result['machine']['processor']}.",
        "",
        "| | targets: the kernel's score, where there is one | others: paths, bridges | unconstrained, ms |",
        "| --- | ---: | ---: | ---: |",
    ]
    for row in result["tasks"].values():
        own = row["reflected"]
        exact, paths = (own, row.get(PATHS)) if row["kernel"] else (None, own)
        cells = ["" if v is None else f"{v[1]:.2f} ({v[0]:.2f} - {v[2]:.2f})" for v in (exact, paths)]
        lines.append(f"| {row['title']} | {cells[0]} | {cells[1]} | {row['milliseconds a step'][1]:.2f} |")
    return "\n".join([*lines, ""])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps of small networks")
    parser.add_argument("--tasks", nargs="+", choices=NAMES, default=list(NAMES), metavar="TASK")
    parser.add_argument("--out", type=Path, help="folder (default: benchmarks/suite/results, or out/suite)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    budget, steps, rounds = (QUICK, 3, 2) if options.quick else (Budget(), 192, 9)
    out = options.out or (Path("out/suite") if options.quick else Path(__file__).parent / "results")
    out.mkdir(parents=True, exist_ok=True)
    file = out / "pace.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    kept = before["tasks"] if before.get("machine") == machine() else {}
    result: dict[str, Any] = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "tasks": kept}
    for name in options.tasks:
        try:
            setting = task(name)
        except (ImportError, OSError) as error:
            print(f"{name}: no data: {error}")
            continue
        if options.quick:
            setting = replace(setting, size=min(setting.size, 400))
        row = ratios(setting, budget, steps, rounds)
        result["tasks"][name] = row | {"title": setting.name, "kernel": setting.domain.has_exact_kernel}
        print(name, row, flush=True)
        result["tasks"] = {name: result["tasks"][name] for name in NAMES if name in result["tasks"]}
        write_atomic(file, json.dumps(result, indent=1).encode())
        write_atomic(out / "pace.md", table(result).encode())


if __name__ == "__main__":
    main()
