"""Processes in time: noise above and sampling below as a film strip, and as a moving picture.

May use: numpy, torch, processes and what samplers return, matplotlib and pillow where used.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor

from constrained_diffusion.atomic import replacing
from constrained_diffusion.domains import Domain
from constrained_diffusion.domains.checks import ShapeError
from constrained_diffusion.process import Process
from constrained_diffusion.samplers import Samples

from .charts import Chart, chart_of
from .clouds import flat_cloud
from .outlines import to_outline
from .panels import Cloud, Kind, draw_cloud, limits_of
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
    to_cloud,
    to_names,
    to_points,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image as Picture

__all__ = ["animate", "process_strip"]

Pixels = npt.NDArray[np.uint8]

_TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)
_SAME = 0.005  # times that are written alike
_WIDTH = 4.0  # of a moving picture, in inches


def process_strip(
    process: Process,
    data: Points,
    samples: Samples | None = None,
    *,
    times: Sequence[float] | None = None,
    generator: Generator | None = None,
    title: str | None = None,
    kind: Kind = "auto",
) -> Figure:
    """Data noised up to several times, above, and a sampler's way back at the same times, below.

    Above, time runs to the right, below to the left; where the model is right, both panels of a column show
    the same law, and they have the same colour scale.

    Args:
        process: what noises; its domain lies in the plane or is that of compositions of three parts.
        data: points ``[n, *event_shape]`` in the domain.
        samples: what a sampler returned for ``frames=``; without, there is no row below.
        times: of the columns, in [0, 1]; by default those of five of the sampler's frames, or every quarter. Below are
            the frames nearest to them, with their own times where these differ.
        generator: source of the noise.
        title: a line above the figure.
        kind: dots, a histogram, or ("auto") what suits the number of points.

    Raises:
        ShapeError: the domain is not flat, the data do not fit it, or the samples have no frames.
        DomainError: data lie outside, or a value is not finite.
        ValueError: a time is not in [0, 1].
    """
    chart = chart_of(process.domain, "process_strip")
    if samples is not None and not len(samples.trajectory):
        raise ShapeError("samples.trajectory is empty: ask the sampler for frames, .sample(.., frames=5)")
    columns = _columns(times, samples)
    array = to_points("data", data, process.domain.event_shape)
    x0 = data if isinstance(data, Tensor) and data.is_floating_point() else torch.from_numpy(array)
    above = [chart.cloud("data", process.perturb(x0, t, generator=generator)[0], DATA) for t in columns]
    rows, titles = [above], [[f"t = {t:.2f},  σ = {_sigma(process, t):.2g}" for t in columns]]
    if samples is not None:
        at = samples.times.double().cpu().numpy()
        picked = [int(np.abs(at - t).argmin()) for t in columns]
        rows.append([chart.cloud("samples.trajectory", samples.trajectory[i], SAMPLES) for i in picked])
        late = [float(at[i]) for i in picked]
        titles.append(["" if abs(a - t) < _SAME else f"t = {a:.2f}" for a, t in zip(late, columns, strict=True)])
    limits = limits_of([c.points for row in rows for c in row], chart.outline)
    figure, panels = make_panels(len(rows) * len(columns), len(columns), limits, 2.2, title)
    _draw_rows(panels, rows, titles, chart, limits, kind)
    return figure


def animate(
    frames: Sequence[Points] | Points,
    path: str | os.PathLike[str],
    titles: Sequence[str] | None = None,
    *,
    domain: Domain | None = None,
    outline: Points | None = None,
    title: str | None = None,
    kind: Kind = "auto",
    generated: Collection[int] = (),
    rate: float = 12.0,
    hold: float = 1.0,
    dpi: int = 100,
) -> Path:
    """Write a process as a moving picture (GIF); the file appears whole or not at all.

    Args:
        frames: clouds ``[n, 2]`` in the order in which they are shown, such as ``Samples.trajectory``; with
            ``domain`` points ``[n, *event_shape]`` of it.
        path: where; it ends in ``.gif``, and missing folders are made.
        titles: a line above each frame.
        domain: in the plane, or of compositions of three parts, which are drawn in a triangle.
        outline: in place of a domain, corners ``[k, 2]``, as :func:`film_strip` takes them.
        title: a line above all frames.
        kind: dots, a histogram on the first frame's colour scale, or ("auto") what suits the number of points.
        generated: indices of the frames that show samples, drawn in their colour.
        rate: frames a second.
        hold: seconds for which the last frame stays.
        dpi: dots per inch of a picture four inches wide.

    Returns:
        The path.

    Raises:
        ShapeError: there are no frames, or one has a wrong shape.
        DomainError: a value is not finite.
        ValueError: a number is not positive, ``path`` has another suffix, or domain and outline are both given.
    """
    target = Path(path)
    if target.suffix.lower() != ".gif":
        raise ValueError(f"path must end in .gif, not {target.suffix!r}: {target}")
    if not (rate > 0 and hold >= 0 and dpi > 0):
        raise ValueError(f"rate and dpi must be positive, hold not negative; got {rate}, {dpi}, {hold}")
    if domain is not None and outline is not None:
        raise ValueError("outline must be left out where domain is given, which has its own")
    clouds, edge, limits = _moving(list(frames), domain, outline, generated)
    names = to_names("titles", titles, len(clouds), "a frame")
    palette = _palette()
    indexed = [_indexed(picture, palette) for picture in _drawn(clouds, names, edge, limits, kind, title, dpi)]
    durations = [round(1000 / rate)] * len(indexed)
    durations[-1] += round(1000 * hold)
    with replacing(target) as file:
        indexed[0].save(
            file, format="GIF", save_all=True, append_images=indexed[1:], duration=durations, loop=0, optimize=False
        )
    return target


def _columns(times: Sequence[float] | None, samples: Samples | None) -> list[float]:
    if times is not None:
        if not len(times):
            raise ShapeError("times is empty; expected at least one")
        return [float(t) for t in times]
    if samples is None:
        return list(_TIMES)
    at = samples.times.double().cpu().numpy()[::-1]
    return [float(at[i]) for i in np.unique(np.linspace(0, len(at) - 1, len(_TIMES)).round().astype(int))]


def _sigma(process: Process, t: float) -> float:
    return float(process.sigma(torch.tensor(t, dtype=torch.float64)))


def _draw_rows(
    panels: Sequence[Axes],
    rows: Sequence[Sequence[Cloud]],
    titles: Sequence[Sequence[str]],
    chart: Chart,
    limits: Floats,
    kind: Kind,
) -> None:
    """Panels row by row; the colour scale of a column is that of its first panel."""
    count = len(rows[0])
    for column in range(count):
        top = None
        for row, (clouds, names) in enumerate(zip(rows, titles, strict=True)):
            panel = panels[row * count + column]
            top = draw_cloud(panel, clouds[column], chart.outline, limits, kind, top)
            panel.set_title(names[column], fontsize=10, color=INK)
    for row, (words, colour) in enumerate((("noising →", DATA), ("← sampling", SAMPLES))[: len(rows)]):
        panel = panels[row * count]
        place: dict[str, Any] = {"ha": "right", "va": "center", "rotation": 90, "fontsize": 11}
        panel.text(-0.03, 0.5, words, color=colour, transform=panel.transAxes, **place)


def _moving(
    frames: Sequence[Points], domain: Domain | None, outline: Points | None, generated: Collection[int]
) -> tuple[list[Cloud], Floats | None, Floats]:
    """The frames as clouds in the plane, the outline, and one window ``[2, 2]`` for all."""
    if not frames:
        raise ShapeError("frames is empty; expected at least one cloud")
    colours = [SAMPLES if i in generated else DATA for i in range(len(frames))]
    if domain is not None:
        chart = chart_of(domain, "animate")
        clouds = [chart.cloud(f"frames[{i}]", f, c) for i, (f, c) in enumerate(zip(frames, colours, strict=True))]
        edge = chart.outline
    else:
        edge = None if outline is None else to_outline(outline)
        flat = [to_cloud(f"frames[{i}]", f, 2) for i, f in enumerate(frames)]
        clouds = [flat_cloud(points, edge, colour) for points, colour in zip(flat, colours, strict=True)]
    return clouds, edge, limits_of([cloud.points for cloud in clouds], edge)


def _drawn(
    clouds: Sequence[Cloud],
    names: Sequence[str],
    edge: Floats | None,
    limits: Floats,
    kind: Kind,
    title: str | None,
    dpi: int,
) -> Iterable[Pixels]:
    """One picture after the other, all of one size, with the panel in one place."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure, (panel,) = make_panels(1, 1, limits, _WIDTH, title)
    figure.set_dpi(dpi)
    canvas, top = FigureCanvasAgg(figure), None
    for i, (cloud, name) in enumerate(zip(clouds, names, strict=True)):
        panel.clear()
        top = draw_cloud(panel, cloud, edge, limits, kind, top)
        panel.set_title(name or " ", fontsize=11, color=INK)
        canvas.draw()  # type: ignore[no-untyped-call]
        if i == 0:  # from now on the layout stays, so that nothing shakes
            figure.set_layout_engine("none")
            canvas.draw()  # type: ignore[no-untyped-call]
        yield np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


def _palette() -> Pixels:
    """At most 256 colours ``[k, 3]`` of a moving picture: the figures' own, paler and paler, and densities' shades.

    One palette for all frames, so that nothing flickers, and not one that a quantiser picks: it would have no place
    for the few orange points that matter most.
    """
    from matplotlib.colors import to_rgb

    pale = [np.linspace(0, 1, 36)[:, None] * (1 - np.array(to_rgb(c))) + to_rgb(c) for c in (DATA, SAMPLES)]
    pale += [np.linspace(0, 1, 24)[:, None] * (1 - np.array(to_rgb(c))) + to_rgb(c) for c in (OUTSIDE, INK, FAINT)]
    deep = [shades(c)(np.linspace(0, 1, 56))[:, :3] for c in (DATA, SAMPLES)]
    colours: Pixels = np.unique(np.round(255 * np.concatenate(pale + deep)).astype(np.uint8), axis=0)
    return colours


def _indexed(picture: Pixels, palette: Pixels) -> Picture:
    """A picture ``[h, w, 3]`` in the nearest colours of a palette; pillow's own search turns white into a grey."""
    from PIL import Image
    from scipy.spatial import cKDTree

    # As numbers, because sorting them is ten times as fast as sorting rows.
    codes: npt.NDArray[np.int64] = picture.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    colours, where = np.unique(codes, return_inverse=True)
    nearest = cKDTree(palette).query(np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1))[1]
    image = Image.fromarray(nearest.astype(np.uint8)[where].reshape(codes.shape))
    image.putpalette(palette.reshape(-1).tolist())
    return image
