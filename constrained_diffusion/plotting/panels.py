"""What goes into one panel: a cloud in the plane, in a triangle or in a ball, and a histogram.

Points outside the domain are drawn in orange, those beyond the panel as crosses on its edge.

May use: numpy, matplotlib where used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from .outlines import Bools, loops_of
from .style import FAINT, INK, OUTSIDE, Floats, shades

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import PathPatch

__all__ = [
    "TRIANGLE",
    "Cloud",
    "Kind",
    "draw_balls",
    "draw_cloud",
    "draw_histogram",
    "draw_outline",
    "draw_outside",
    "draw_triangle",
    "limits_of",
    "plain_axis",
    "triangle_limits",
]

Kind = Literal["auto", "scatter", "density"]

TRIANGLE = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])  # where pure first, second and third parts lie

_SCATTER_BELOW = 4000  # more points than this make a smear: draw their density instead
_BEYOND = 0.25  # how far beyond the outline a panel may reach to show violations, in outline widths


class Cloud(NamedTuple):
    """Points to draw.

    Attributes:
        points: ``[n, k]``.
        outside: which of them lie outside their domain, ``[n]``.
        colour: of those that do not.
        label: what they are.
    """

    points: Floats
    outside: Bools
    colour: str
    label: str = ""


def limits_of(clouds: Sequence[Floats], outline: Floats | None) -> Floats:
    """Corners ``[2, k]`` of a window on the outline or the points ``[n, k]``, with room for violations."""
    corners = [] if outline is None else [np.nanmin(outline, 0)[None], np.nanmax(outline, 0)[None]]
    points = np.concatenate([*clouds, *corners])
    low, high = points.min(0), points.max(0)
    if outline is not None:
        (inner,), (outer,) = corners
        low = low.clip(min=inner - _BEYOND * (outer - inner))
        high = high.clip(max=outer + _BEYOND * (outer - inner))
    margin = 0.03 * float((high - low).max() or 1.0)
    return np.stack([low - margin, high + margin])


def triangle_limits(clouds: Sequence[Floats]) -> Floats:
    """Corners ``[2, 2]`` of a window on the triangle and clouds ``[n, 2]``, with room for the parts' names."""
    window = limits_of(clouds, TRIANGLE)
    return np.stack([window[0].clip(max=[-0.08, -0.09]), window[1].clip(min=[1.08, 0.95])])


def draw_cloud(
    panel: Axes, cloud: Cloud, outline: Floats | None, limits: Floats, kind: Kind, top: float | None = None
) -> float | None:
    """Dots or a histogram with the outline around it; returns the top of the histogram's colour scale."""
    panel.set(xlim=limits[:, 0], ylim=limits[:, 1], aspect="equal")
    panel.set_axis_off()
    points = cloud.points
    edge = None if outline is None else draw_outline(panel, outline)
    draw_outside(panel, points[cloud.outside], limits)
    x, y = points[~cloud.outside].T
    if kind == "scatter" or (kind == "auto" and len(points) < _SCATTER_BELOW):
        size = float(np.clip(8000 / len(points), 2.5, 12.0)) if len(points) else 0.0
        panel.scatter(x, y, s=size, color=cloud.colour, alpha=0.55, linewidths=0, rasterized=True)
        return top
    low, high = limits if outline is None else (np.nanmin(outline, 0), np.nanmax(outline, 0))
    finest = 8 * float(np.clip(np.round(np.sqrt(len(points) / 20) / 8), 3, 20))
    cells = [max(1, round(finest * float(side) / float((high - low).max()))) for side in high - low]
    window = [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=cells, range=window)
    share = counts.T / len(points)
    if top is None:  # no single cell sets the scale, and an even density is not drawn in the darkest shade
        top = 1.25 * float(np.quantile(share[share > 0], 0.99)) if counts.any() else 1.0
    mesh = panel.pcolormesh(x_edges, y_edges, share, cmap=shades(cloud.colour), vmin=0, vmax=top, rasterized=True)
    if edge is not None:
        mesh.set_clip_path(edge)
    return top


def draw_outline(panel: Axes, outline: Floats) -> PathPatch:
    """The wall, as one curve of several loops."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    loops = [Curve(np.concatenate([loop, loop[:1]]), closed=True) for loop in loops_of(outline)]
    edge = PathPatch(Curve.make_compound_path(*loops), fill=False, edgecolor=INK, linewidth=1.2, zorder=3)
    panel.add_patch(edge)
    return edge


def draw_outside(panel: Axes, points: Floats, limits: Floats) -> None:
    """Points ``[n, 2]`` outside the domain, in orange; crosses on the edge of the panel stand for those beyond it."""
    panel.scatter(points[:, 0], points[:, 1], s=6, color=OUTSIDE, linewidths=0, zorder=4, rasterized=True)
    edge = points.clip(*limits)
    edge = edge[(edge != points).any(1)]
    if len(edge):
        panel.plot(*edge.T, "X", color=OUTSIDE, markersize=5, markeredgewidth=0, zorder=5, clip_on=False)


def draw_triangle(panel: Axes, labels: Sequence[str]) -> None:
    """Lines at every fifth of each part, and the parts' names at the corners."""
    for i, label in enumerate(labels):
        corner, sides = TRIANGLE[i], TRIANGLE[[i - 1, i - 2]] - TRIANGLE[i]
        for step in (0.2, 0.4, 0.6, 0.8):
            panel.plot(*(corner + step * sides).T, color=FAINT, linewidth=0.5, zorder=0.5)
        x, y = corner + [0, 0.025 if i == 2 else -0.025]
        across, up = ("left", "right", "center")[i], "bottom" if i == 2 else "top"
        panel.text(x, y, label, ha=across, va=up, fontsize=11, color=INK)


def draw_balls(panels: Sequence[Axes], clouds: Sequence[Cloud], names: Sequence[str]) -> None:
    """Clouds ``[n, 3]`` in the unit ball, one a panel, seen from somewhat above the equator."""
    around, above = np.deg2rad(-55.0), np.deg2rad(22.0)
    right = np.array([-np.sin(around), np.cos(around), 0])
    towards = np.array([np.cos(around) * np.cos(above), np.sin(around) * np.cos(above), np.sin(above)])
    view = np.stack([right, np.cross(towards, right), towards])
    room = 1.22 if names else 1.08
    outside = [cloud.points[cloud.outside] @ view[:2].T for cloud in clouds]
    window = limits_of(outside, np.array([[-1.0, -1.0], [1.0, 1.0]]))
    limits = np.stack([window[0].clip(max=-room), window[1].clip(min=room)])
    for panel, cloud, bad in zip(panels, clouds, outside, strict=True):
        _draw_ball(panel, cloud, view)
        draw_outside(panel, bad, limits)
        for name, axis in zip(names, view.T, strict=bool(names)):
            x, y = 1.13 * axis[:2] / np.linalg.norm(axis[:2])
            panel.text(x, y, name, ha="center", va="center", fontsize=10, color=INK)
        panel.set(xlim=limits[:, 0], ylim=limits[:, 1], aspect="equal")
        panel.set_axis_off()


def _draw_ball(panel: Axes, cloud: Cloud, view: Floats) -> None:
    """Points and three great circles; ``view`` ``[3, 3]`` gives what is right, up and near."""
    angle = np.linspace(0, 2 * np.pi, 241)
    circle = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)])
    for x, y, depth in (view @ circle, view @ circle[[0, 2, 1]], view @ circle[[2, 0, 1]]):
        panel.plot(x, y, color=FAINT, linewidth=0.6, linestyle=(0, (2, 3)), zorder=1)
        panel.plot(np.where(depth > 0, x, np.nan), y, color=FAINT, linewidth=0.9, zorder=1)
    panel.plot(*circle[:2], color=INK, linewidth=1.2, zorder=3)
    inside = cloud.points[~cloud.outside]
    x, y, depth = view @ inside[np.argsort(inside @ view[2])].T
    near = np.clip((depth + 1) / 2, 0, 1)
    size = (2 + 9 * near) * float(np.clip(np.sqrt(1500 / len(cloud.points)), 0.3, 1.6))
    shade = shades(cloud.colour)(0.3 + 0.6 * near, alpha=0.8)
    panel.scatter(x, y, s=size, c=shade, linewidths=0, zorder=2, rasterized=True)


def draw_histogram(panel: Axes, clouds: Sequence[Cloud], column: int, edges: Floats, limits: Floats) -> None:
    """The share of each cloud in each bin: the first of several filled, the last a line; orange dots for violations.

    Args:
        panel: where.
        clouds: one or two.
        column: which coordinate.
        edges: of the bins.
        limits: ends ``[2]`` of the axis; violations beyond are crosses on the edge.
    """
    tallest = 0.0
    for i, cloud in enumerate(clouds):
        share = np.histogram(cloud.points[:, column], edges)[0] / len(cloud.points)
        if i < len(clouds) - 1:
            panel.stairs(share, edges, fill=True, color=cloud.colour, alpha=0.4, label=cloud.label)
        else:
            panel.stairs(share, edges, color=cloud.colour, linewidth=1.6, label=cloud.label)
        tallest = max(tallest, float(share.max()))
    top = 1.08 * (tallest or 1.0)
    panel.set(xlim=limits, ylim=(0, top), yticks=[])
    for cloud in clouds:
        values = cloud.points[cloud.outside, column]
        floor = np.stack([values, np.full_like(values, 0.05 * top)], 1)
        draw_outside(panel, floor, np.array([[limits[0], 0.0], [limits[1], top]]))
    plain_axis(panel)


def plain_axis(panel: Axes) -> None:
    """Nothing but the axis below."""
    panel.spines[["left", "right", "top"]].set_visible(False)
    panel.tick_params(labelsize=8, colors=INK)
