"""Clouds of points: noised and sampled back, data beside samples, on a simplex, in a ball.

May use: numpy, matplotlib where used.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from constrained_diffusion.domains.checks import ShapeError

from .outlines import outside_loops, to_outline
from .panels import (
    TRIANGLE,
    Cloud,
    Kind,
    draw_balls,
    draw_cloud,
    draw_histogram,
    draw_triangle,
    limits_of,
    triangle_limits,
)
from .style import DATA, FAINT, INK, SAMPLES, Floats, Points, make_panels, to_cloud, to_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ball_3d", "compare_2d", "film_strip", "parts_histograms", "ternary"]


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
            part several loops: outer ones and holes (:func:`outline_of` finds them).
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
    edges = [None if edge is None else to_outline(edge) for edge in each]
    windows = [limits_of([cloud], edge) for cloud, edge in zip(clouds, edges, strict=True)]
    names = to_names("titles", titles, len(clouds))
    figure, panels = make_panels(len(clouds), columns or len(clouds), windows[0], 2.2, title)
    for i, (panel, cloud, edge, window) in enumerate(zip(panels, clouds, edges, windows, strict=True)):
        draw_cloud(panel, flat_cloud(cloud, edge, SAMPLES if i in generated else DATA), edge, window, kind)
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
        outline: corners ``[k, 2]`` of the domain, in order; rows of NaN part several loops.
        titles: a line above each panel.
        title: a line above the figure.
        kind: dots, a histogram, or ("auto") what suits the number of points.
    """
    edge = None if outline is None else to_outline(outline)
    clouds = [
        flat_cloud(to_cloud(name, points, 2), edge, colour, label)
        for name, points, colour, label in zip(
            ("data", "samples"), (data, samples), (DATA, SAMPLES), titles, strict=True
        )
    ]
    return beside_figure(clouds, edge, limits_of([c.points for c in clouds], edge), kind, title)[0]


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
    width, clouds = len(labels), []
    if len(parts) != 3 or len(set(parts)) != 3 or not all(0 <= part < width for part in parts):
        raise ValueError(f"parts must be three different numbers in 0 .. {width - 1}, not {parts!r}")
    pairs = (to_cloud("data", data, width), DATA, titles[0]), (to_cloud("samples", samples, width), SAMPLES, titles[1])
    for cloud, colour, label in pairs:
        chosen = cloud[cloud[:, parts].sum(1) > 0][:, parts]
        places = chosen / chosen.sum(1, keepdims=True) @ TRIANGLE
        clouds.append(flat_cloud(places, TRIANGLE, colour, label))
    return ternary_figure(clouds, [labels[part] for part in parts], kind, title)


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
    clouds = [
        flat_cloud(to_cloud("data", data, len(names)), None, DATA, labels[0]),
        flat_cloud(to_cloud("samples", samples, len(names)), None, SAMPLES, labels[1]),
    ]
    return histograms_figure(clouds, names, bins, columns, title)


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
    clouds = []
    pairs = (("data", data, DATA, titles[0]), ("samples", samples, SAMPLES, titles[1]))
    for name, points, colour, label in pairs:
        scaled = to_cloud(name, points, 3) / radius
        clouds.append(Cloud(scaled, np.linalg.norm(scaled, axis=1) > 1 + 1e-5, colour, label))
    return ball_figure(clouds, (), title)


def flat_cloud(points: Floats, outline: Floats | None, colour: str, label: str = "") -> Cloud:
    """A cloud ``[n, k]`` that an outline in the plane, if there is one, judges."""
    outside = np.zeros(len(points), dtype=bool) if outline is None else outside_loops(outline, points)
    return Cloud(points, outside, colour, label)


def beside_figure(
    clouds: Sequence[Cloud], outline: Floats | None, limits: Floats, kind: Kind, title: str | None
) -> tuple[Figure, list[Axes]]:
    """Clouds ``[n, 2]`` side by side, on the first one's colour scale."""
    figure, panels = make_panels(len(clouds), len(clouds), limits, 4.0, title)
    top = None
    for panel, cloud in zip(panels, clouds, strict=True):
        top = draw_cloud(panel, cloud, outline, limits, kind, top)
        panel.set_title(cloud.label, fontsize=12, color=INK)
    return figure, panels


def ternary_figure(clouds: Sequence[Cloud], labels: Sequence[str], kind: Kind, title: str | None) -> Figure:
    """Clouds ``[n, 2]`` in triangles side by side."""
    limits = triangle_limits([cloud.points for cloud in clouds])
    figure, panels = beside_figure(clouds, TRIANGLE, limits, kind, title)
    for panel in panels:
        draw_triangle(panel, labels)
    return figure


def histograms_figure(
    clouds: Sequence[Cloud], names: Sequence[str], bins: int, columns: int, title: str | None
) -> Figure:
    """A panel for each of k columns of the clouds ``[n, k]``."""
    figure, panels = make_panels(len(names), min(columns, len(names)), np.array([[0, 0], [1, 0.55]]), 2.9, title)
    for i, (panel, name) in enumerate(zip(panels, names, strict=True)):
        values = np.concatenate([cloud.points[:, i] for cloud in clouds])
        low, high = float(values.min()), float(values.max())
        if low == high:
            low, high = low - 0.5, high + 0.5
        edges = np.linspace(low, high, bins + 1)
        draw_histogram(panel, clouds, i, edges, edges[[0, -1]])
        panel.set_title(name, fontsize=10, color=INK)
    panels[0].legend(frameon=False, fontsize=9)
    return figure


def ball_figure(clouds: Sequence[Cloud], names: Sequence[str], title: str | None) -> Figure:
    """Clouds ``[n, 3]`` in the unit ball, and their shares within each distance from its centre."""
    count = len(clouds) + 1
    figure, (*balls, profile) = make_panels(count, count, np.array([[0, 0], [1, 1]]), 3.6, title)
    r = np.linspace(0, 1, 201)
    profile.plot(r, r**3, color=FAINT, linewidth=1.5, linestyle=(0, (4, 2)), label="uniform")
    draw_balls(balls, clouds, names)
    for i, (panel, cloud) in enumerate(zip(balls, clouds, strict=True)):
        panel.set_title(cloud.label, fontsize=12, color=INK)
        distance = np.sort(np.linalg.norm(cloud.points, axis=1))
        share = np.searchsorted(distance, r, side="right") / len(distance)
        # The samples' line lies on the data's: the wider one stays visible where they agree.
        width, label = (4.0, "data") if i < len(clouds) - 1 else (1.6, "samples")
        profile.plot(r, share, color=cloud.colour, linewidth=width, label=label)
    profile.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")
    profile.set_title("share of points within r", fontsize=12, color=INK)
    profile.set_xlabel("r / radius", fontsize=10, color=INK)
    profile.spines[["right", "top"]].set_visible(False)
    profile.legend(frameon=False, fontsize=10)
    return figure
