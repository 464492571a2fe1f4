"""Curves of a training. May use: numpy, matplotlib where used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from constrained_diffusion.domains.checks import ShapeError

from .style import DATA, FAINT, INK, SAMPLES, Floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["loss_curve"]

_SMOOTH = 40  # points of the smoothed curve's window, at most


def loss_curve(
    history: Sequence[Sequence[float]],
    validation: Sequence[Sequence[float]] | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """Loss against steps: each entry in grey, their running median, and the loss on held-back data in crimson.

    Args:
        history: entries (step, loss, ...), as ``ReflectedDiffusion.history_`` and ``Trainer.history`` are.
        validation: entries (step, loss, ...) on data that were held back, at steps of its own.
        title: a line above the figure.

    Raises:
        ShapeError: a list is empty, or an entry has fewer than two numbers.
    """
    from matplotlib.figure import Figure

    step, loss = _entries("history", history)
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    panel = figure.add_subplot()
    panel.plot(step, loss, color=FAINT, linewidth=1.0)
    panel.plot(step, _running_median(loss), color=DATA, linewidth=1.8, label="training, running median")
    settled = loss[len(loss) // 20 :]
    if validation is not None:
        at, held_back = _entries("validation", validation)
        panel.plot(at, held_back, color=SAMPLES, linewidth=1.4, marker="o", markersize=3.5, label="held back")
        panel.legend(frameon=False, fontsize=9)
        settled = np.concatenate([settled, held_back[at >= step[len(loss) // 20]]])
    panel.set_xlabel("step", fontsize=10, color=INK)
    panel.set_ylabel("loss", fontsize=10, color=INK)
    room = 0.15 * float(np.ptp(settled)) or 0.1
    panel.set_ylim(float(settled.min()) - room, float(settled.max()) + room)
    panel.spines[["right", "top"]].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=13, fontweight="bold", color=INK)
    return figure


def _entries(name: str, entries: Sequence[Sequence[float]]) -> tuple[Floats, Floats]:
    """Steps ``[n]`` and losses ``[n]``."""
    if not len(entries) or min(map(len, entries)) < 2:
        raise ShapeError(f"{name} must hold entries (step, loss, ...), at least one")
    step, loss = np.array([entry[:2] for entry in entries], dtype=np.float64).T
    return step, loss


def _running_median(values: Floats) -> Floats:
    half = min(_SMOOTH, max(1, len(values) // 10)) // 2
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return np.array([np.median(w) for w in windows])
