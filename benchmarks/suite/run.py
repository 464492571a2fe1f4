"""The comparison: every method on every task, cell by cell, and one page of results.

    python benchmarks/suite/run.py [--quick] [--seeds 5] [--tasks spiral ring ..] [--methods ..] [--out FOLDER]

A cell is one method trained on one task with one seed; its figures are a file of their own in OUT/cells, so that a run
that was stopped goes on where it was, and several processes may share the work. Cells of an earlier version of the
library stay, and are marked in the page, until `--redo VERSION` makes them again. `--quick` takes few steps and points:
it shows within minutes that all of it runs, and its figures mean nothing. The page is written by page.py, which
this program calls at the end (and after each cell with `--live`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from measures import Yardstick
from methods import METHODS, Budget, Fitted, Method
from page import write
from tasks import NAMES, Task, task
from timing import Clock
from tqdm import tqdm

from constrained_diffusion.checkpoints import write_atomic

QUICK = Budget(width=32, depth=1, steps=30, batch_size=64, walk=10)
POINTS, QUICK_POINTS = 20_000, 400


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps and points: shows that it runs")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds (default: 5; quick: 1)")
    parser.add_argument("--tasks", nargs="+", choices=NAMES, default=list(NAMES), metavar="TASK")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD")
    parser.add_argument("--out", type=Path, help="folder of results (default: benchmarks/suite/results, or out/suite)")
    parser.add_argument("--live", action="store_true", help="write the page after each cell")
    parser.add_argument("--redo", metavar="VERSION", help="make cells of this version of the library again")
    options = parser.parse_args(arguments)
    budget, points = (QUICK, QUICK_POINTS) if options.quick else (Budget(), POINTS)
    seeds = 1 if options.quick else options.seeds
    out = options.out or (Path("out/suite") if options.quick else Path(__file__).parent / "results")
    (out / "cells").mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    cells = [(seed, name, METHODS[m]) for seed in range(seeds) for name in options.tasks for m in options.methods]
    with tqdm(cells, unit="cell", file=sys.stderr) as bar:
        for seed, name, method in bar:
            bar.set_description(f"{name}, {method.name}, seed {seed}")
            path = out / "cells" / f"{name}-{slug(method.name)}-{seed}.json"
            if is_there(path, options.redo) or not claim(path):
                continue
            try:
                write_atomic(path, json.dumps(cell(name, method, budget, seed, points), indent=1).encode())
            finally:
                lock_of(path).unlink()
            if options.live:
                write(out)
    write(out)
    print(f"results: {out / 'README.md'}")


def is_there(path: Path, redo: str | None) -> bool:
    """Whether a cell is done, and not by the version that is to be made again."""
    return path.exists() and (redo is None or json.loads(path.read_text())["machine"]["library"] != redo)


def lock_of(path: Path) -> Path:
    return path.with_suffix(".lock")


def claim(path: Path) -> bool:
    """Take a cell that nobody has: create its lock, which only one process can.

    One of two hours ago was left by a process that was killed.
    """
    lock = lock_of(path)
    if lock.exists() and time.time() - lock.stat().st_mtime > 7200:
        lock.unlink(missing_ok=True)
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


def cell(name: str, method: Method, budget: Budget, seed: int, points: int) -> dict[str, Any]:
    """All figures of one method on one task with one seed."""
    found: dict[str, Any] = {
        "task": name,
        "method": method.name,
        "seed": seed,
        "budget": asdict(budget),
        "points": points,
        "machine": machine(),
        "unit": unit(),
        "date": time.strftime("%Y-%m-%d"),
    }
    try:
        setting = task(name)
    except (ImportError, OSError) as error:
        return found | {"refused": f"no data: {error}".splitlines()[0]}
    found["title"] = setting.name
    if (why := method.refuses(setting)) is not None:
        return found | {"refused": why}
    setting = replace(setting, size=min(setting.size, points))
    train, held_back = setting.data(seed)
    few = 1000 if points >= POINTS else 50
    yardstick = yardstick_of(setting, held_back, few, seed)
    found |= {"floors": yardstick.floors, "truth": yardstick.truth, "rows": {}}
    try:
        start = time.process_time()
        fitted = method.fit(setting, train, budget, seed)
        found["training_seconds"] = time.process_time() - start
        for label, x, nfe, spent in samples(fitted, len(held_back), seed):
            found["rows"][label] = yardstick.of(x.float()) | {"nfe": nfe, "sampling_seconds": spent}
        if fitted.log_prob is not None and setting.has_density:
            found |= yardstick.of_density(fitted.log_prob(yardstick.few))
    except (ValueError, RuntimeError) as error:  # a baseline that diverges is a result
        traceback.print_exc()
        found["failed"] = f"{type(error).__name__}: {error}".splitlines()[0]
    return found


def samples(fitted: Fitted, n: int, seed: int) -> Iterator[tuple[str, torch.Tensor, int, float]]:
    """Of every row its name, points ``[n, *event_shape]``, network evaluations and seconds."""
    for label, draw in fitted.draws.items():
        start = time.process_time()
        x, nfe = draw(n, seed)
        drawn = time.process_time()
        yield label, x, nfe, drawn - start
        for other in (name for name, (of, _) in fitted.moved.items() if of == label):
            begin = time.process_time()
            y = fitted.moved[other][1](x)
            yield other, y, nfe, drawn - start + time.process_time() - begin


_yardsticks: dict[tuple[str, int, int], Yardstick] = {}


def yardstick_of(setting: Task, held_back: torch.Tensor, few: int, seed: int) -> Yardstick:
    """That of a task and seed, made once for the methods that follow one another."""
    key = (setting.name, len(held_back), seed)
    if key not in _yardsticks:
        _yardsticks.clear()
        _yardsticks[key] = Yardstick(setting, held_back, few)
    return _yardsticks[key]


def unit() -> float:
    """Milliseconds of a fixed piece of work, in which times of cells that different machines made can be compared."""
    layers = torch.nn.Sequential(*[torch.nn.Linear(128, 128) for _ in range(4)])
    x = torch.ones(256, 128)
    return Clock().milliseconds(lambda: layers(x).sum().backward())


def machine() -> dict[str, str]:
    return {
        "processor": f"{os.cpu_count()} cores, {platform.machine()}, one thread",
        "python": platform.python_version(),
        "torch": version("torch"),
        "library": version("reflected-diffusion"),
    }


if __name__ == "__main__":
    main()
