"""Clouds of points: noised and sampled back, data beside samples, on a simplex, in a ball.

May use: numpy, matplotlib where used.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from constrained_diffusion.domains.checks import ShapeError

from .style import (
    DATA,
    FAINT,
    INK,
    OUTSIDE,
    SAMPLES,
    Floats,
    Points,
    make_panels,
    shades,
    to_array,
    to_cloud,
    to_names,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path as Curve

__all__ = ["ball_3d", "compare_2d", "film_strip", "parts_histograms", "ternary"]

Bools = npt.NDArray[np.bool_]
Kind = Literal["auto", "scatter", "density"]

_SCATTER_BELOW = 4000  # more points than this make a smear: draw their density instead
_BEYOND = 0.25  # how far beyond the outline a panel may reach to show violations, in outline widths


def film_strip(
    frames: Sequence[Points],
    titles: Sequence[str] | None = None,
    *,
    outline: Points | Sequence[Points] | None = None,
    columns: int | None = None,
    title: str | None = None,
    kind: Kind = "auto",
    generated: Collection[int] = (),
) -> Figure:
    """A process in the plane, one panel a moment, each with its own colour scale.

    Args:
        frames: clouds ``[n, 2]``, in the order in which they are shown.
        titles: a line above each panel.
        outline: corners ``[k, 2]`` of the domain, in order; or a list of them, one for each panel. Rows of NaN
            part several loops: an outer one and holes.
        columns: panels in a row; by default all of them.
        title: a line above the figure.
        kind: dots, a histogram, or ("auto") what suits the number of points.
        generated: indices of the panels that show samples, drawn in their colour.
    """
    clouds = [to_cloud(f"frames[{i}]", f, 2) for i, f in enumerate(frames)]
    if not clouds:
        raise ShapeError("frames is empty; expected at least one cloud [n, 2]")
    one = outline if isinstance(outline, (Tensor, np.ndarray)) else None
    each = [one] * len(clouds) if one is not None or outline is None else list(outline)
    if len(each) != len(clouds):
        raise ShapeError(f"outline has {len(each)} entries; expected one, or {len(clouds)}, one a panel")
    edges = [None if edge is None else _outline(edge) for edge in each]
    windows = [_limits([cloud], edge) for cloud, edge in zip(clouds, edges, strict=True)]
    names = to_names("titles", titles, len(clouds))
    figure, panels = make_panels(len(clouds), columns or len(clouds), windows[0], 2.2, title)
    for i, (panel, cloud, edge, window) in enumerate(zip(panels, clouds, edges, windows, strict=True)):
        _draw_cloud(panel, cloud, edge, window, kind, SAMPLES if i in generated else DATA)
        panel.set_title(names[i], fontsize=10, color=INK)
    return figure


def compare_2d(
    data: Points,
    samples: Points,
    *,
    outline: Points | None = None,
    titles: tuple[str, str] = ("data", "samples"),
    title: str | None = None,
    kind: Kind = "auto",
) -> Figure:
    """Data and samples in the plane side by side, on one colour scale.

    Args:
        data: points ``[n, 2]``.
        samples: points ``[m, 2]``.
        outline: corners ``[k, 2]`` of the domain, in order.
        titles: a line above each panel.
        title: a line above the figure.
        kind: dots, a histogram, or ("auto") what suits the number of points.
    """
    clouds = [to_cloud("data", data, 2), to_cloud("samples", samples, 2)]
    edge = None if outline is None else to_cloud("outline", outline, 2)
    return _draw_pair(clouds, edge, _limits(clouds, edge), kind, titles, title)[0]


def ternary(
    data: Points,
    samples: Points,
    labels: Sequence[str],
    *,
    parts: tuple[int, int, int] = (0, 1, 2),
    titles: tuple[str, str] = ("data", "samples"),
    title: str | None = None,
    kind: Kind = "auto",
) -> Figure:
    """Compositions in a triangle with lines at every fifth, data and samples side by side.

    Args:
        data: compositions ``[n, k]``, k at least 3.
        samples: compositions ``[m, k]``.
        labels: names of the k parts.
        parts: which parts to show, left, right and top; they are divided by their sum, and points in which
            it is not positive are left out.
        titles: a line above each panel.
        title: a line above the figure.
        kind: dots, a histogram, or ("auto") what suits the number of points.
    """
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
    width, clouds = len(labels), []
    for cloud in (to_cloud("data", data, width), to_cloud("samples", samples, width)):
        chosen = cloud[cloud[:, parts].sum(1) > 0][:, parts]
        clouds.append(chosen / chosen.sum(1, keepdims=True) @ corners)
    limits = np.array([[-0.08, -0.09], [1.08, 0.95]])
    figure, panels = _draw_pair(clouds, corners, limits, kind, titles, title)
    for panel in panels:
        for i, part in enumerate(parts):
            corner, sides = corners[i], corners[[i - 1, i - 2]] - corners[i]
            for step in (0.2, 0.4, 0.6, 0.8):
                panel.plot(*(corner + step * sides).T, color=FAINT, linewidth=0.5, zorder=0.5)
            x, y = corner + [0, 0.025 if i == 2 else -0.025]
            across, up = ("left", "right", "center")[i], "bottom" if i == 2 else "top"
            panel.text(x, y, labels[part], ha=across, va=up, fontsize=11, color=INK)
    return figure


def parts_histograms(
    data: Points,
    samples: Points,
    names: Sequence[str],
    *,
    bins: int = 40,
    columns: int = 3,
    labels: tuple[str, str] = ("data", "samples"),
    title: str | None = None,
) -> Figure:
    """The law of each part by itself: data filled, samples a line; the height is the share in a bin.

    Args:
        data: points ``[n, k]``.
        samples: points ``[m, k]``.
        names: names of the k parts.
        bins: bins over the range of data and samples together.
        columns: panels in a row.
        labels: names of the two clouds, for the legend.
        title: a line above the figure.
    """
    a, b = to_cloud("data", data, len(names)), to_cloud("samples", samples, len(names))
    limits = np.array([[0, 0], [1, 0.55]])
    figure, panels = make_panels(len(names), min(columns, len(names)), limits, 2.9, title)
    for panel, name, x, y in zip(panels, names, a.T, b.T, strict=True):
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        if low == high:
            low, high = low - 0.5, high + 0.5
        edges = np.linspace(low, high, bins + 1)
        heights = [np.histogram(v, edges)[0] / len(v) for v in (x, y)]
        panel.stairs(heights[0], edges, fill=True, color=DATA, alpha=0.4, label=labels[0])
        panel.stairs(heights[1], edges, color=SAMPLES, linewidth=1.6, label=labels[1])
        panel.set(xlim=(low, high), ylim=(0, 1.08 * max(h.max() for h in heights)), yticks=[])
        panel.spines[["left", "right", "top"]].set_visible(False)
        panel.tick_params(labelsize=8, colors=INK)
        panel.set_title(name, fontsize=10, color=INK)
    panels[0].legend(frameon=False, fontsize=9)
    return figure


def ball_3d(
    data: Points,
    samples: Points,
    *,
    radius: float = 1.0,
    titles: tuple[str, str] = ("data", "samples"),
    title: str | None = None,
) -> Figure:
    """Points in a ball seen from outside (near ones larger and darker), and the share within each distance.

    Args:
        data: points ``[n, 3]``.
        samples: points ``[m, 3]``.
        radius: radius of the ball.
        titles: a line above the first two panels.
        title: a line above the figure.
    """
    clouds = [to_cloud("data", data, 3) / radius, to_cloud("samples", samples, 3) / radius]
    figure, (*balls, profile) = make_panels(3, 3, np.array([[0, 0], [1, 1]]), 3.6, title)
    r = np.linspace(0, 1, 201)
    profile.plot(r, r**3, color=FAINT, linewidth=1.5, linestyle=(0, (4, 2)), label="uniform")
    styles = (("data", DATA, 4.0), ("samples", SAMPLES, 1.6))
    for panel, cloud, name, (label, colour, width) in zip(balls, clouds, titles, styles, strict=True):
        _draw_ball(panel, cloud, colour)
        panel.set_title(name, fontsize=12, color=INK)
        distance = np.sort(np.linalg.norm(cloud, axis=1))
        share = np.searchsorted(distance, r, side="right") / len(distance)
        profile.plot(r, share, color=colour, linewidth=width, label=label)
    profile.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")
    profile.set_title("share of points within r", fontsize=12, color=INK)
    profile.set_xlabel("r / radius", fontsize=10, color=INK)
    profile.spines[["right", "top"]].set_visible(False)
    profile.legend(frameon=False, fontsize=10)
    return figure


def _draw_pair(
    clouds: Sequence[Floats],
    outline: Floats | None,
    limits: Floats,
    kind: Kind,
    titles: Sequence[str],
    title: str | None,
) -> tuple[Figure, list[Axes]]:
    """Data and samples ``[n, 2]`` side by side, on the data's colour scale."""
    figure, panels = make_panels(2, 2, limits, 4.0, title)
    top = None
    for panel, cloud, name, colour in zip(panels, clouds, titles, (DATA, SAMPLES), strict=True):
        top = _draw_cloud(panel, cloud, outline, limits, kind, colour, top)
        panel.set_title(name, fontsize=12, color=INK)
    return figure, panels


def _draw_cloud(
    panel: Axes,
    points: Floats,
    outline: Floats | None,
    limits: Floats,
    kind: Kind,
    colour: str,
    top: float | None = None,
) -> float | None:
    """Dots or a histogram with the outline around it; returns the top of the histogram's colour scale."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    panel.set(xlim=limits[:, 0], ylim=limits[:, 1], aspect="equal")
    panel.set_axis_off()
    edge, outside = None, np.zeros(len(points), dtype=bool)
    if outline is not None:
        loops = [Curve(np.concatenate([loop, loop[:1]]), closed=True) for loop in _loops(outline)]
        edge = PathPatch(Curve.make_compound_path(*loops), fill=False, edgecolor=INK, linewidth=1.2, zorder=3)
        panel.add_patch(edge)
        outside = ~np.logical_xor.reduce([_inside(loop, points, hole=i > 0) for i, loop in enumerate(loops)])
    x, y = points[outside].T
    panel.scatter(x, y, s=6, color=OUTSIDE, linewidths=0, zorder=4, rasterized=True)
    x, y = points[~outside].T
    if kind == "scatter" or (kind == "auto" and len(points) < _SCATTER_BELOW):
        size = float(np.clip(8000 / len(points), 2.5, 12.0)) if len(points) else 0.0
        panel.scatter(x, y, s=size, color=colour, alpha=0.55, linewidths=0, rasterized=True)
        return top
    low, high = limits if outline is None else (np.nanmin(outline, 0), np.nanmax(outline, 0))
    finest = 8 * float(np.clip(np.round(np.sqrt(len(points) / 20) / 8), 3, 20))
    cells = [max(1, round(finest * float(side) / float((high - low).max()))) for side in high - low]
    window = [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=cells, range=window)
    share = counts.T / len(points)
    if top is None:  # no single cell sets the scale, and an even density is not drawn in the darkest shade
        top = 1.25 * float(np.quantile(share[share > 0], 0.99)) if counts.any() else 1.0
    mesh = panel.pcolormesh(x_edges, y_edges, share, cmap=shades(colour), vmin=0, vmax=top, rasterized=True)
    if edge is not None:
        mesh.set_clip_path(edge)
    return top


def _draw_ball(panel: Axes, points: Floats, colour: str) -> None:
    """Points ``[n, 3]`` in the unit ball, and three great circles, seen from somewhat above the equator."""
    around, above = np.deg2rad(-55.0), np.deg2rad(22.0)
    right = np.array([-np.sin(around), np.cos(around), 0])
    towards = np.array([np.cos(around) * np.cos(above), np.sin(around) * np.cos(above), np.sin(above)])
    view = np.stack([right, np.cross(towards, right), towards])
    angle = np.linspace(0, 2 * np.pi, 241)
    circle = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)])
    for x, y, depth in (view @ circle, view @ circle[[0, 2, 1]], view @ circle[[2, 0, 1]]):
        panel.plot(x, y, color=FAINT, linewidth=0.6, linestyle=(0, (2, 3)), zorder=1)
        panel.plot(np.where(depth > 0, x, np.nan), y, color=FAINT, linewidth=0.9, zorder=1)
    panel.plot(*circle[:2], color=INK, linewidth=1.2, zorder=3)
    x, y, depth = view @ points[np.argsort(points @ towards)].T
    near = np.clip((depth + 1) / 2, 0, 1)
    size = (2 + 9 * near) * float(np.clip(np.sqrt(1500 / len(points)), 0.3, 1.6))
    shade = shades(colour)(0.3 + 0.6 * near, alpha=0.8)
    panel.scatter(x, y, s=size, c=shade, linewidths=0, zorder=2, rasterized=True)
    x, y, _ = view @ points[np.linalg.norm(points, axis=1) > 1 + 1e-5].T
    panel.scatter(x, y, s=8, color=OUTSIDE, linewidths=0, zorder=4, rasterized=True)
    panel.set(xlim=(-1.08, 1.08), ylim=(-1.08, 1.08), aspect="equal")
    panel.set_axis_off()


def _limits(clouds: Sequence[Floats], outline: Floats | None) -> Floats:
    """Corners ``[2, 2]`` of a window on the outline or the points, with room for violations."""
    points = np.concatenate(clouds)
    low, high = points.min(0), points.max(0)
    if outline is not None:
        inner, outer = np.nanmin(outline, 0), np.nanmax(outline, 0)
        low = np.clip(low, inner - _BEYOND * (outer - inner), inner)
        high = np.clip(high, outer, outer + _BEYOND * (outer - inner))
    margin = 0.03 * float((high - low).max() or 1.0)
    return np.stack([low - margin, high + margin])


def _outline(points: Points) -> Floats:
    """Corners ``[k, 2]``, loops parted by rows of NaN."""
    array = to_array(points)
    finite = array[~np.isnan(array).all(-1)] if array.ndim == 2 else array
    to_cloud("outline", finite, 2)
    return array


def _loops(outline: Floats) -> list[Floats]:
    """The loops of an outline."""
    breaks = np.flatnonzero(np.isnan(outline).all(-1))
    parts = np.split(outline, breaks)
    return [part[~np.isnan(part).all(-1)] for part in parts if len(part) > 1]


def _inside(loop: Curve, points: Floats, *, hole: bool) -> Bools:
    """Which points are in a loop; those on it count as in the domain, so they are moved by a rounding error first."""
    centre = np.asarray(loop.vertices)[:-1].mean(0)
    inside: Bools = loop.contains_points(centre + (points - centre) * (1 + 1e-5 if hole else 1 - 1e-5))
    return inside
