"""Samples of any domain beside data, in the picture that suits the domain.

May use: numpy, the interface of a domain, matplotlib where used.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from constrained_diffusion.domains import Domain

from .charts import PARTS, chart_of, cloud_of
from .clouds import ball_figure, beside_figure, histograms_figure, ternary_figure
from .corner import corner_figure
from .outlines import is_bounded
from .panels import Cloud, Kind, limits_of
from .style import DATA, INK, SAMPLES, Floats, Points, to_array, to_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_samples"]

_MOST_PAIRS, _MOST_PARTS = 8, 12  # coordinates and parts that one figure shows
_BINS = 40

Draw = Callable[[Domain, list[Cloud], Sequence[str] | None, "str | None", Kind], "Figure"]


def plot_samples(
    domain: Domain,
    data: Points | None,
    samples: Points,
    names: Sequence[str] | None = None,
    *,
    titles: tuple[str, str] = ("data", "samples"),
    title: str | None = None,
    kind: Kind = "auto",
) -> Figure:
    """Data and samples of any domain, in the picture that suits it.

    In the plane with the wall around them; compositions of three parts in a triangle, others part by part; a ball from
    outside; all else as pairs of coordinates. Where there are more than a figure shows, those of the greatest
    variance are drawn, and the title says so. Points outside the domain are orange.

    Args:
        domain: where the points should be; its ``drawing`` says how they are shown.
        data: points ``[n, *event_shape]``, or None to show the samples alone.
        samples: points ``[m, *event_shape]``.
        names: of the coordinates or parts, in the order of a flattened point.
        titles: names of the two clouds.
        title: a line above the figure.
        kind: in the plane and the triangle: dots, a histogram, or ("auto") what suits the number of points.

    Raises:
        ShapeError: points or names do not fit the domain.
        DomainError: a value is not finite.
        ValueError: the domain's ``drawing`` is none of those named above.
    """
    if domain.drawing not in _DRAWINGS:
        choices = ", ".join(map(repr, _DRAWINGS))
        raise ValueError(f"domain.drawing must be one of {choices}, not {domain.drawing!r}, which {domain!r} gives")
    clouds = [cloud_of(domain, "samples", samples, SAMPLES, titles[1])]
    if data is not None:
        clouds.insert(0, cloud_of(domain, "data", data, DATA, titles[0]))
    if names is not None:
        to_names("names", names, domain.event_shape.numel(), "a coordinate")
    return _DRAWINGS[domain.drawing](domain, clouds, names, title, kind)


def _draw_flat(
    domain: Domain, clouds: list[Cloud], names: Sequence[str] | None, title: str | None, kind: Kind
) -> Figure:
    chart = chart_of(domain, "plot_samples")
    flat = [cloud._replace(points=chart.flat(cloud.points)) for cloud in clouds]
    if chart.is_triangle:
        return ternary_figure(flat, names or PARTS, kind, title)
    figure, panels = beside_figure(flat, chart.outline, limits_of([c.points for c in flat], chart.outline), kind, title)
    across, up = names or ("", "")
    for panel in panels:
        style: dict[str, Any] = {"transform": panel.transAxes, "fontsize": 10, "color": INK}
        panel.text(0.5, -0.01, across, ha="center", va="top", **style)
        panel.text(-0.01, 0.5, up, ha="right", va="center", rotation=90, **style)
    return figure


def _draw_parts(
    domain: Domain, clouds: list[Cloud], names: Sequence[str] | None, title: str | None, kind: Kind
) -> Figure:
    names = names or [f"part {i + 1}" for i in range(domain.event_shape.numel())]
    clouds, chosen, title = _most_variable(clouds, _MOST_PARTS, title, "parts")
    columns = 4 if len(chosen) > 6 else 3
    return histograms_figure(clouds, [names[i] for i in chosen], _BINS, columns, title)


def _draw_ball(
    domain: Domain, clouds: list[Cloud], names: Sequence[str] | None, title: str | None, kind: Kind
) -> Figure:
    return ball_figure([c._replace(points=c.points / domain.magnitude) for c in clouds], names or (), title)


def _corner_figure(
    domain: Domain, clouds: list[Cloud], names: Sequence[str] | None, title: str | None, kind: Kind
) -> Figure:
    names = names or _indexed(domain.event_shape)
    clouds, chosen, title = _most_variable(clouds, _MOST_PAIRS, title, "coordinates")
    low = high = np.full(len(chosen), np.nan)
    if is_bounded(domain):
        low, high = (to_array(bound).reshape(-1)[chosen] for bound in domain.bounding_box)
    return corner_figure(clouds, [names[i] for i in chosen], low, high, title)


_DRAWINGS: dict[str, Draw] = {
    "plane": _draw_flat,
    "ternary": _draw_flat,
    "parts": _draw_parts,
    "ball": _draw_ball,
    "corner": _corner_figure,
}


def _most_variable(
    clouds: list[Cloud], most: int, title: str | None, what: str
) -> tuple[list[Cloud], Sequence[int], str | None]:
    """At most so many columns, those of the greatest variance in the first cloud, in their order; and the title."""
    width = clouds[0].points.shape[1]
    if width <= most:
        return clouds, range(width), title
    chosen: Floats = clouds[0].points.var(0)
    columns = sorted(np.argsort(-chosen, kind="stable")[:most].tolist())
    note = f"the {most} of {width} {what} that vary most"
    title = f"{title}: {note}" if title else note[0].upper() + note[1:]
    return [cloud._replace(points=cloud.points[:, columns]) for cloud in clouds], columns, title


def _indexed(shape: Sequence[int]) -> list[str]:
    """``x[i, j]`` for each coordinate, as one would index a point."""
    return [f"x[{', '.join(map(str, index))}]" for index in itertools.product(*map(range, shape))]
