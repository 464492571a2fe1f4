"""What all figures share: colours, panels, arrays as input, and writing a file.

May use: numpy, matplotlib where used.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from constrained_diffusion.atomic import replacing
from constrained_diffusion.domains.checks import DomainError, ShapeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

__all__ = ["save_figure"]

Points = Tensor | npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

INK, FAINT = "#1d2433", "#c9ced8"
DATA, SAMPLES, OUTSIDE = "#24609c", "#c2253f", "#ff9500"


def save_figure(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> Path:
    """Write a figure; the file appears whole or not at all.

    Args:
        figure: what to write.
        path: where; the suffix names the format, and missing folders are made.
        dpi: dots per inch.

    Returns:
        The path.
    """
    target = Path(path)
    with replacing(target) as file:
        figure.savefig(file, format=target.suffix[1:] or "png", dpi=dpi, bbox_inches="tight", facecolor="white")
    return target


def make_panels(
    count: int, columns: int, limits: Floats, width: float, title: str | None, gap: float = 0.02
) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels ``width`` inches wide and a share ``gap`` apart."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}")
    rows = -(-count // columns)
    across, up = limits[1] - limits[0]
    size = (columns * (width + 0.1), rows * (width * up / across + 0.3) + (0.4 if title else 0.0))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.07, wspace=gap, compress=True))
    if title:
        figure.suptitle(title, fontsize=13, fontweight="bold", color=INK)
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def shades(colour: str) -> Colormap:
    """White, by way of ``colour``, to nearly black."""
    from matplotlib.colors import ListedColormap, to_rgb

    middle = np.array(to_rgb(colour))
    knots = np.stack([np.ones(3), 0.5 + 0.5 * middle, middle, 0.35 * middle])
    where = np.linspace(0, 3, 256)
    return ListedColormap(np.stack([np.interp(where, np.arange(4), channel) for channel in knots.T], 1))


def to_array(points: Points) -> Floats:
    return np.asarray(points.detach().cpu() if isinstance(points, Tensor) else points, dtype=np.float64)


def to_cloud(name: str, points: Points, width: int) -> Floats:
    """Finite points ``[n, width]``, at least one."""
    return to_points(name, points, (width,))


def to_points(name: str, points: Points, shape: Sequence[int]) -> Floats:
    """Finite points ``[n, *shape]``, at least one."""
    array = to_array(points)
    if array.ndim != 1 + len(shape) or len(array) == 0 or array.shape[1:] != tuple(shape):
        expected = ", ".join(map(str, ("n", *shape)))
        raise ShapeError(f"{name} has shape {list(array.shape)}; expected [{expected}] with n at least 1")
    if not np.isfinite(array).all():
        raise DomainError(f"{name} must be finite; a point that is not cannot be drawn")
    return array


def to_names(name: str, names: Sequence[str] | None, count: int, what: str = "a panel") -> Sequence[str]:
    """One name each, empty ones by default."""
    if names is not None and len(names) != count:
        raise ShapeError(f"{name} has {len(names)} entries; expected {count}, one {what}")
    return names or [""] * count
