"""Scores as arrows. May use: numpy, torch, the interface of a domain, matplotlib where used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from constrained_diffusion.domains import Domain, DomainError
from constrained_diffusion.domains.checks import ShapeError
from constrained_diffusion.process import Score

from .charts import PARTS, Chart, chart_of
from .panels import draw_outline, draw_outside, draw_triangle
from .style import DATA, INK, SAMPLES, Floats, Points, make_panels, shades, to_array, to_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

__all__ = ["vector_field"]

_LONGEST = 0.95  # arrow, in distances between two
_LARGE = 0.95  # quantile of the lengths that is drawn as the longest
_DECADES = 1e-2  # of that length: what is shorter has the palest colour
_BAR = 0.9  # inches for the scale of the colours
_CLEAR = 0.25  # distance of an arrow's middle from the wall, in distances between two


def vector_field(
    domain: Domain,
    score: Score,
    t: float,
    *,
    points: Points | None = None,
    condition: Mapping[str, Tensor] | None = None,
    arrows: int = 22,
    names: Sequence[str] | None = None,
    title: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Figure:
    """A score on a grid of points inside, as arrows whose length grows as the root of the score's.

    The colour tells the true length, of which scores span several powers of ten.

    Args:
        domain: in the plane, or of compositions of three parts, which are drawn in a triangle.
        score: ``score(x, t, **condition)``, x ``[n, *event_shape]``, t ``[n]``; a model or any function.
        t: the time, from 0 (data) to 1 (prior).
        points: a cloud ``[n, *event_shape]`` behind the arrows, such as data noised up to ``t``.
        condition: keyword tensors for one point each, without a batch dimension.
        arrows: along the longer side.
        names: of the three parts, at the corners of the triangle.
        title: a line above the figure.
        device: where to evaluate the score.
        dtype: in which precision; torch's default if None.

    Raises:
        ShapeError: the domain is not flat, or the score returns another shape.
        DomainError: the score or a point is not finite, or no point of the grid is inside.
        ValueError: ``arrows`` is less than 2.
    """
    if arrows < 2:
        raise ValueError(f"arrows must be at least 2, not {arrows}")
    chart = chart_of(domain, "vector_field")
    cloud = None if points is None else chart.cloud("points", points, DATA)
    if chart.outline is None and cloud is None:
        raise DomainError(f"points must be given to draw arrows in {domain!r}, which has no end to draw up to")
    limits = chart.limits([] if cloud is None else [cloud.points])
    places, spacing = _grid(chart, limits, arrows)
    x = torch.as_tensor(chart.lift(places), dtype=dtype or torch.get_default_dtype(), device=device)
    vectors = chart.flat_vectors(_evaluate(domain, score, x, t, condition or {}))
    figure, (panel,) = make_panels(1, 1, limits, 5.0, title)
    figure.set_figwidth(figure.get_figwidth() + _BAR)
    panel.set(xlim=limits[:, 0], ylim=limits[:, 1], aspect="equal")
    panel.set_axis_off()
    if cloud is not None:
        inside = cloud.points[~cloud.outside]
        panel.scatter(inside[:, 0], inside[:, 1], s=5, color=DATA, alpha=0.4, linewidths=0, zorder=1, rasterized=True)
        draw_outside(panel, cloud.points[cloud.outside], limits)
    if chart.outline is not None:
        draw_outline(panel, chart.outline)
    if chart.is_triangle:
        draw_triangle(panel, to_names("names", names, 3, "a part") if names else PARTS)
    _draw_arrows(figure, panel, places, vectors, spacing)
    return figure


def _grid(chart: Chart, limits: Floats, arrows: int) -> tuple[Floats, float]:
    """Places ``[n, 2]`` of points inside, and the distance between two."""
    if chart.is_triangle:  # the middles of the upright ones of arrows**2 small triangles
        parts = [(i, j, arrows - 1 - i - j) for i in range(arrows) for j in range(arrows - i)]
        return chart.flat((np.array(parts) + 1 / 3) / arrows), 1 / arrows
    low, high = limits if chart.outline is None else (np.nanmin(chart.outline, 0), np.nanmax(chart.outline, 0))
    spacing = float((high - low).max()) / arrows
    counts = np.maximum(1, np.round((high - low) / spacing)).astype(int)
    sides = [a + (np.arange(n) + 0.5) * (b - a) / n for a, b, n in zip(low, high, counts, strict=True)]
    places = np.stack(np.meshgrid(*sides), -1).reshape(-1, 2)
    depth = to_array(chart.domain.boundary(torch.from_numpy(places))[0])
    places = places[depth > _CLEAR * spacing]
    if not len(places):
        raise DomainError(f"arrows = {arrows} along a side leave no point well inside {chart.domain!r}: take more")
    return places, spacing


def _evaluate(domain: Domain, score: Score, x: Tensor, t: float, condition: Mapping[str, Tensor]) -> Floats:
    """The score ``[n, k]``, tangent to the domain, at points ``[n, k]`` and one time."""
    rows = {name: value.expand(len(x), *value.shape) for name, value in condition.items()}
    with torch.no_grad():
        s = score(x, torch.full((len(x),), float(t), dtype=x.dtype, device=x.device), **rows)
    if s.shape != x.shape:
        raise ShapeError(f"score returned shape {list(s.shape)}; expected {list(x.shape)}, that of x")
    if not bool(s.isfinite().all()):
        raise DomainError(f"score must be finite; at t = {t:g} it is not: was the model trained?")
    return to_array(domain.tangent(x, s))


def _draw_arrows(figure: Figure, panel: Axes, places: Floats, vectors: Floats, spacing: float) -> None:
    """Arrows of compressed length, coloured by the true one, and the scale of the colours."""
    from matplotlib.colors import LogNorm

    length = np.linalg.norm(vectors, axis=1)
    large = float(np.quantile(length, _LARGE)) or float(length.max()) or 1.0
    share = np.sqrt(np.minimum(length / large, 1.0))
    direction = vectors / np.where(length > 0, length, 1.0)[:, None]
    arrows = panel.quiver(
        *places.T,
        *(spacing * _LONGEST * share[:, None] * direction).T,
        length.clip(large * _DECADES, large),
        norm=LogNorm(large * _DECADES, large),
        cmap=_tones(),
        angles="xy",
        scale_units="xy",
        scale=1,
        pivot="mid",
        units="xy",
        width=0.065 * spacing,
        headwidth=4,
        headlength=5,
        headaxislength=4.5,
        minlength=0.4,
        zorder=2,
    )
    bar = figure.colorbar(arrows, ax=panel, shrink=0.6, pad=0.02, aspect=28, extend="both")
    bar.set_label("length of the score", fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_visible(False)


def _tones() -> Colormap:
    """Crimson, from pale to dark, none so pale that an arrow is lost on white."""
    from matplotlib.colors import ListedColormap

    return ListedColormap(shades(SAMPLES)(np.linspace(0.22, 0.95, 256)))
