"""``plot``: samples beside data, or the loss curve. May use: the estimator, plotting, tables."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..plotting import loss_curve, plot_samples, save_figure
from ..tables import open_table, sample_rows
from .output import Output
from .record import Record
from .runs import load
from .samplers import sampling

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..model import ReflectedDiffusion

_SUFFIXES = (".png", ".pdf", ".svg")


def run(options: Namespace, out: Output) -> int:
    """Run the command."""
    path = Path(options.out)
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"{path}: pictures end in {', '.join(_SUFFIXES)}")
    if options.data is None and not options.loss:
        raise ValueError("give DATA to draw samples beside, or --loss for the loss curve")
    if options.data is not None and options.loss:
        raise ValueError("--loss draws the loss curve and takes no DATA: draw the two in two files")
    model, record = load(options)
    if options.loss:
        figure, shown = loss_curve(model.history_, model.validation_history_ or None), 0
    else:
        figure, shown = _beside(model, record, options, out)
    save_figure(figure, path)
    figures = {"command": "plot", "run": options.run, "data": options.data, "out": options.out, "shown": shown}
    out.result(figures, f"picture: {path}", summary=True)
    return 0


def _beside(model: ReflectedDiffusion, record: Record, options: Namespace, out: Output) -> tuple[Figure, int]:
    """Samples beside as many rows of the data; conditions are those of the rows."""
    rows, _ = sample_rows(record.pieces(open_table(options.data)), options.n, options.seed)
    x, condition = record.parted(rows, model.domain)
    how = sampling(options.sampler, options.steps)
    samples = model.sample(len(x), condition, seed=options.seed, progress=out.progress, **how).astype(np.float64)
    title = f"{Path(options.data).name}: {len(x)} rows and as many samples"
    return plot_samples(model.domain, x, samples, names=list(record.columns), title=title), len(x)
