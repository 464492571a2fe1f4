"""``evaluate``: samples against data, and the same between two halves of the data. May use: estimator, metrics."""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..domains import Domain
from ..metrics import boundary_mass, floor, mmd, sliced_wasserstein, violation
from ..model import ReflectedDiffusion
from ..tables import Array, TableError, open_table, sample_rows
from .log_prob import log_densities
from .output import Output, columns
from .record import Record
from .runs import load
from .samplers import sampling

Metric = Callable[[NDArray[Any], NDArray[Any]], float]

_SPLITS = 10  # of the data in two halves
_FEW = 100
_NEAR = 0.05  # of the inradius: what counts as near the wall


def run(options: Namespace, out: Output) -> int:
    """Run the command."""
    model, record = load(options)
    table = open_table(options.data)
    began = time.monotonic()
    rows, seen = sample_rows(record.pieces(table), 2 * options.n, options.seed)
    if len(rows) < 2:
        raise TableError(f"{table.path} has one row: samples are compared with halves of the data")
    x, condition = record.parted(rows, model.domain)
    size = len(x) // 2
    out.say(f"drawing {size} samples, to compare with {size} of {seen} rows")
    if size < _FEW:
        out.say(f"with fewer than {_FEW} of each the ratios are mostly chance")
    given = None if condition is None else condition[np.random.default_rng(options.seed).permutation(len(x))[:size]]
    how = sampling(options.sampler, options.steps)
    samples = model.sample(size, given, seed=options.seed, progress=out.progress, **how).astype(np.float64)
    figures: dict[str, Any] = {"command": "evaluate", "run": options.run, "data": options.data, "rows": seen}
    figures |= {"compared": size, "splits": _SPLITS, "seed": options.seed}
    figures |= _distances(record.back(x), record.back(samples))
    figures |= _places(model.domain, x, samples)
    if options.log_prob:
        figures |= _likelihood(model, record, x, condition, options.seed, out)
    figures["columns"] = _moments(record, record.back(x), record.back(samples))
    figures["seconds"] = time.monotonic() - began
    out.result(figures, _told(figures))
    return 0


def _distances(x: Array, samples: Array) -> dict[str, Any]:
    """Distances of samples ``[m, k]`` from halves of the data ``[n, k]``, each column in its standard deviations."""
    spread = x.std(0)
    unit = np.where(spread > 0, spread, 1.0)
    x, samples = x / unit, samples / unit
    some = torch.from_numpy(x[:: max(1, len(x) // 1000)])
    apart = torch.pdist(some)
    width = float(apart[apart > 0].median()) if bool((apart > 0).any()) else 1.0

    def apart_by(a: NDArray[Any], b: NDArray[Any]) -> float:
        return mmd(a, b, bandwidth=width)

    figures = {}
    metrics: dict[str, Metric] = {"sliced_wasserstein": sliced_wasserstein, "mmd": apart_by}
    for name, metric in metrics.items():
        random = np.random.default_rng(0)  # the halves that the floor is measured between
        halves = [x[random.permutation(len(x))[: len(samples)]] for _ in range(_SPLITS)]
        value = float(np.mean([metric(samples, half) for half in halves]))
        least = floor(metric, x, splits=_SPLITS, size=len(samples))
        figures[name] = {"value": value, "floor": least, "ratio": value / least if least else math.nan}
    return figures


def _places(domain: Domain, x: Array, samples: Array) -> dict[str, Any]:
    """Shares outside the domain, and near its walls, in the units in which it is round."""
    rounding = 64 * torch.finfo(torch.float64).eps * max(1.0, domain.magnitude)
    outside = {"data": violation(domain, x, rounding), "samples": violation(domain, samples)}
    normal, change = domain.normalised(torch.from_numpy(x))
    near: dict[str, float] | None = None
    if math.isfinite(normal.inradius):
        near = {}
        for name, points in (("data", x), ("samples", samples)):
            cloud = torch.from_numpy(points)
            cloud = cloud if change is None else change.inverse(cloud)
            near[name] = boundary_mass(normal, cloud, _NEAR * normal.inradius)
    return {"outside": outside, "near_wall": near}


def _likelihood(
    model: ReflectedDiffusion, record: Record, x: Array, condition: Array | None, seed: int, out: Output
) -> dict[str, Any]:
    """Mean log-density of those rows that lie inside, and its standard error."""
    out.say(f"computing {len(x)} log-densities")
    values = log_densities(model, record, x, condition, seed)
    values = values[values > -math.inf]
    if not len(values):
        return {"log_prob": None}
    error = float(values.std()) / math.sqrt(len(values))
    return {"log_prob": {"mean": float(values.mean()), "standard_error": error, "rows": len(values)}}


def _moments(record: Record, x: Array, samples: Array) -> dict[str, Any]:
    """Mean and standard deviation of each column."""
    return {
        name: {
            "mean": {"data": float(x[:, j].mean()), "samples": float(samples[:, j].mean())},
            "sd": {"data": float(x[:, j].std()), "samples": float(samples[:, j].std())},
        }
        for j, name in enumerate(record.columns)
    }


def _told(figures: dict[str, Any]) -> str:
    distances = [["", "samples", "floor", "ratio"]]
    for key, name in (("sliced_wasserstein", "sliced Wasserstein"), ("mmd", "MMD")):
        d = figures[key]
        distances.append([name, f"{d['value']:.4f}", f"{d['floor']:.4f}", f"{d['ratio']:.2f}"])
    shares = [["", "data", "samples"], ["outside the domain", *_percent(figures["outside"])]]
    if figures["near_wall"] is not None:
        shares.append([f"within {100 * _NEAR:g} % of the inradius of a wall", *_percent(figures["near_wall"])])
    moments = [["", "mean: data", "samples", "sd: data", "samples"]]
    for name, m in figures["columns"].items():
        values = (*m["mean"].values(), *m["sd"].values())
        moments.append([name, *(f"{v:.4g}" for v in values)])
    size = figures["compared"]
    heading = f"{size} samples against {size} of {figures['rows']} rows; the floor: two such halves of the data"
    parts = [f"{heading}\n(each column in its standard deviations)", columns(distances), columns(shares)]
    found = figures.get("log_prob")
    if found:
        parts.append(f"log-density: {found['mean']:.3f} +- {found['standard_error']:.3f} nats ({found['rows']} rows)")
    return "\n\n".join([*parts, columns(moments)])


def _percent(shares: dict[str, float]) -> list[str]:
    return [f"{100 * share:.2f} %" for share in shares.values()]
