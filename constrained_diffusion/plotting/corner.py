"""Corner plots: each coordinate by itself, and each pair.

May use: numpy, scipy and matplotlib where used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from constrained_diffusion.domains.checks import DomainError, ShapeError

from .outlines import Bools
from .panels import Cloud, draw_histogram, draw_outside
from .style import DATA, FAINT, INK, SAMPLES, Floats, Points, shades, to_array, to_cloud, to_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["corner", "corner_figure"]

_MOST = 12  # columns: more make a figure that nobody can read
_FEWEST_BINS, _MOST_BINS = 10, 30  # of a histogram
_CELLS = 48  # along each side of a density
_SHARES = (0.95, 0.8, 0.5, 0.2)  # of the points, within the contours
_CONTOURS_FROM = 200  # points; fewer are drawn themselves
_BEYOND = 0.25  # how far an axis may reach beyond its bounds to show violations, in their distance
_TINY = 1e-5  # of the distance of two bounds: points beyond them by less are rounded ones


def corner(
    data: Points | None,
    samples: Points,
    names: Sequence[str] | None = None,
    *,
    low: float | Sequence[float] | Points | None = None,
    high: float | Sequence[float] | Points | None = None,
    labels: tuple[str, str] = ("data", "samples"),
    title: str | None = None,
) -> Figure:
    """Each coordinate's law on the diagonal, each pair's below: data filled in blue, samples as crimson lines.

    Contours hold 95, 80, 50 and 20 per cent of the points, from a density that is mirrored at the bounds (as it should
    be where points gather at walls); fewer than 200 points are drawn as dots. Points beyond a bound are orange.

    Args:
        data: points ``[n, k]``, k at most 12; or None to show the samples alone.
        samples: points ``[m, k]``.
        names: of the k coordinates.
        low: lower bounds, a number or ``[k]``; they are drawn. Infinite ones are none.
        high: upper bounds, likewise.
        labels: names of the two clouds, for the legend.
        title: a line above the figure.

    Raises:
        ShapeError: a shape does not fit, or k is more than 12.
        DomainError: a value is not finite, or a lower bound is not below the upper one.
    """
    array = to_array(samples)
    width = array.shape[1] if array.ndim == 2 else -1
    if not 1 <= width <= _MOST:
        raise ShapeError(
            f"samples has shape {list(array.shape)}; expected [m, k] with k from 1 to {_MOST}: choose columns"
        )
    names = to_names("names", names, width, "a column") if names else [f"x[{i}]" for i in range(width)]
    least, most = _bounds("low", low, width), _bounds("high", high, width)
    if (least >= most).any():  # NaN, where there is no bound, compares as False
        where = int(np.flatnonzero(least >= most)[0])
        raise DomainError(f"low must be below high; in column {where} low={least[where]:g}, high={most[where]:g}")
    clouds = [_bounded_cloud("samples", samples, least, most, SAMPLES, labels[1])]
    if data is not None:
        clouds.insert(0, _bounded_cloud("data", data, least, most, DATA, labels[0]))
    return corner_figure(clouds, names, least, most, title)


def corner_figure(
    clouds: Sequence[Cloud], names: Sequence[str], low: Floats, high: Floats, title: str | None
) -> Figure:
    """The figure, of clouds ``[n, k]`` between bounds ``[k]``, NaN where there is none."""
    from matplotlib.figure import Figure

    k = len(names)
    side = 3.4 if k == 1 else 2.2 if k < 4 else 1.7
    inches = side * k + 0.9
    figure = Figure(figsize=(inches, inches + (0.4 if title else 0.0)))
    height = figure.get_figheight()
    grid = figure.add_gridspec(
        k, k, left=0.7 / inches, right=1 - 0.2 / inches, bottom=0.6 / height, top=(inches - 0.2) / height
    )
    grid.update(wspace=0.07, hspace=0.07)
    axes = [_axis(clouds, j, low[j], high[j]) for j in range(k)]
    for i in range(k):
        for j in range(i + 1):
            panel = figure.add_subplot(grid[i, j])
            if i == j:
                draw_histogram(panel, clouds, j, axes[j][1], axes[j][0])
            else:
                _draw_pair(panel, clouds, (j, i), axes)
            _draw_bounds(panel, low[j], high[j], low[i], high[i], pair=i != j)
            _label(panel, names, i, j)
    _draw_legend(figure, clouds, k)
    if title:
        figure.suptitle(title, fontsize=13, fontweight="bold", color=INK)
    return figure


def _bounded_cloud(name: str, points: Points, low: Floats, high: Floats, colour: str, label: str) -> Cloud:
    array = to_cloud(name, points, len(low))
    room = np.nan_to_num(_TINY * (high - low))
    outside: Bools = np.any((array < low - room) | (array > high + room), axis=1)
    return Cloud(array, outside, colour, label)


def _bounds(name: str, bound: float | Sequence[float] | Points | None, width: int) -> Floats:
    """Bounds ``[k]``, NaN where there is none."""
    if bound is None:
        return np.full(width, np.nan)
    array = to_array(np.asarray(bound)) if isinstance(bound, (float, int, Sequence)) else to_array(bound)
    if array.shape not in ((), (width,)):
        raise ShapeError(f"{name} has shape {list(array.shape)}; expected a number or [{width}]")
    return np.where(np.isfinite(array), array, np.nan) * np.ones(width)


def _axis(clouds: Sequence[Cloud], j: int, low: float, high: float) -> tuple[Floats, Floats, Floats]:
    """Limits ``[2]`` of coordinate j, edges of its bins, and the range ``[2]`` over which its density is drawn."""
    values = np.concatenate([cloud.points[:, j] for cloud in clouds])
    inner = np.array([values.min() if np.isnan(low) else low, values.max() if np.isnan(high) else high])
    if not inner[0] < inner[1]:
        inner = inner + [-0.5, 0.5]
    width = float(np.ptp(inner))
    outer = np.array([values.min(), values.max()]).clip(inner[0] - _BEYOND * width, inner[1] + _BEYOND * width)
    limits = np.array([min(inner[0], outer[0]), max(inner[1], outer[1])]) + [-0.04 * width, 0.04 * width]
    bins = int(np.sqrt(min(len(cloud.points) for cloud in clouds)).clip(_FEWEST_BINS, _MOST_BINS))
    step = width / bins
    below, above = (int(np.ceil(gap / step)) for gap in (inner[0] - limits[0], limits[1] - inner[1]))
    return limits, inner[0] + step * np.arange(-below, bins + above + 1), inner


def _draw_pair(panel: Axes, clouds: Sequence[Cloud], pair: tuple[int, int], axes: Sequence[tuple[Floats, ...]]) -> None:
    """Two coordinates: the first of two clouds filled, the last as lines."""
    limits, inner = (np.stack([axes[j][part] for j in pair], 1) for part in (0, 2))
    for i, cloud in enumerate(clouds):
        points = cloud.points[:, pair]
        inside = points[~cloud.outside]
        if len(points) < _CONTOURS_FROM:
            panel.scatter(
                inside[:, 0], inside[:, 1], s=10, color=cloud.colour, alpha=0.6, linewidths=0, rasterized=True
            )
        elif len(inside):
            _draw_density(panel, inside, inner, cloud.colour, filled=i == 0)
        draw_outside(panel, points[cloud.outside], limits)
    panel.set(xlim=limits[:, 0], ylim=limits[:, 1])


def _draw_density(panel: Axes, points: Floats, window: Floats, colour: str, *, filled: bool) -> None:
    """Contours around shares of the points ``[n, 2]``."""
    centres, density = _density(points, window)
    ordered = np.sort(density[1:-1, 1:-1], axis=None)[::-1]
    cumulative = np.cumsum(ordered) / ordered.sum()
    held = np.searchsorted(cumulative, _SHARES).clip(max=len(ordered) - 1)
    # Below the peak, which a contour at its height would miss where one cell holds a fifth of the points.
    levels = np.unique(np.minimum(ordered[held], 0.99 * ordered[0]))
    x, y = centres
    if filled:
        tones = shades(colour)(np.linspace(0.12, 0.5, len(levels)))
        panel.contourf(x, y, density.T, levels=[*levels, 2 * density.max()], colors=list(tones), zorder=1)
    elif levels[-1] > density.min():  # an even density has no lines
        panel.contour(x, y, density.T, levels=levels, colors=colour, linewidths=np.linspace(0.8, 1.4, len(levels)))


def _density(points: Floats, window: Floats) -> tuple[list[Floats], Floats]:
    """A smoothed histogram, mirrored at the edges of the window, with a rim so that it reaches them.

    Returns:
        Coordinates ``[cells + 2]`` of both axes, and shares of points ``[cells + 2, cells + 2]``.
    """
    from scipy.ndimage import gaussian_filter

    ranges = [(float(a), float(b)) for a, b in window.T]
    x, y = points.clip(*window).T  # those that rounding put outside belong to the last cells
    counts, *edges = np.histogram2d(x, y, bins=_CELLS, range=ranges)
    step = np.ptp(window, axis=0) / _CELLS
    # Less than Scott's rule, because clusters are narrower than the whole; at most what shows a tenth of a side.
    width = (0.75 * points.std(0) * len(points) ** (-1 / 6) / step).clip(0.8, 3.0)
    smooth = np.pad(gaussian_filter(counts / len(points), width, mode="reflect"), 1, mode="edge")
    return [np.concatenate([e[:1], (e[1:] + e[:-1]) / 2, e[-1:]]) for e in edges], smooth


def _draw_bounds(panel: Axes, left: float, right: float, below: float, above: float, *, pair: bool) -> None:
    """The bounds of a panel, as far as there are any."""
    style: dict[str, Any] = {"color": INK, "linewidth": 0.8, "zorder": 3}
    for x in (left, right):
        if not np.isnan(x):
            panel.axvline(x, **style)
    for y in (below, above) if pair else ():
        if not np.isnan(y):
            panel.axhline(y, **style)


def _label(panel: Axes, names: Sequence[str], row: int, column: int) -> None:
    """Names and numbers on the outer panels alone."""
    from matplotlib.ticker import MaxNLocator

    panel.xaxis.set_major_locator(MaxNLocator(3))
    panel.tick_params(labelsize=8, colors=INK, length=2.5)
    last = row == len(names) - 1
    panel.tick_params(labelbottom=last)
    if last:
        panel.set_xlabel(names[column], fontsize=10, color=INK)
    if row == column:
        return
    panel.yaxis.set_major_locator(MaxNLocator(3))
    panel.tick_params(labelleft=column == 0)
    panel.spines[:].set_color(FAINT)
    if column == 0:
        panel.set_ylabel(names[row], fontsize=10, color=INK)


def _draw_legend(figure: Figure, clouds: Sequence[Cloud], k: int) -> None:
    """Top right, where a corner plot is empty; beside the curves where there is one panel."""
    first = figure.axes[0]
    if k == 1:
        first.legend(frameon=False, fontsize=9)
        return
    handles, labels = first.get_legend_handles_labels()
    box = figure.axes[-1].get_position()
    figure.legend(
        handles, labels, loc="upper right", bbox_to_anchor=(box.x1, first.get_position().y1), frameon=False, fontsize=11
    )
