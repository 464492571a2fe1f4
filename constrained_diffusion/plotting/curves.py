"""Curves of a training. May use: numpy, matplotlib where used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from constrained_diffusion.domains.checks import ShapeError

from .style import DATA, FAINT, INK, Floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["loss_curve"]

_SMOOTH = 40  # points of the smoothed curve's window, at most


def loss_curve(history: Sequence[Sequence[float]], *, title: str | None = None) -> Figure:
    """Loss against steps: each entry in grey, and their running median.

    Args:
        history: entries (step, loss, ...), as ``ReflectedDiffusion.history_`` and ``Trainer.history`` are.
        title: a line above the figure.
    """
    from matplotlib.figure import Figure

    if not history or min(map(len, history)) < 2:
        raise ShapeError("history must hold entries (step, loss, ...), at least one")
    step, loss = np.array([entry[:2] for entry in history], dtype=np.float64).T
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    panel = figure.add_subplot()
    panel.plot(step, loss, color=FAINT, linewidth=1.0)
    panel.plot(step, _running_median(loss), color=DATA, linewidth=1.8)
    panel.set_xlabel("step", fontsize=10, color=INK)
    panel.set_ylabel("loss", fontsize=10, color=INK)
    settled = loss[len(loss) // 20 :]
    room = 0.15 * float(np.ptp(settled)) or 0.1
    panel.set_ylim(float(settled.min()) - room, float(settled.max()) + room)
    panel.spines[["right", "top"]].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=13, fontweight="bold", color=INK)
    return figure


def _running_median(values: Floats) -> Floats:
    half = min(_SMOOTH, max(1, len(values) // 10)) // 2
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return np.array([np.median(w) for w in windows])
