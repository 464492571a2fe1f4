"""Images in rows, and data images beside samples. May use: numpy, matplotlib where used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from constrained_diffusion.domains.checks import ShapeError

from .style import INK, Floats, Points, make_panels, to_array, to_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["compare_images", "image_grid"]


def image_grid(
    images: Points, *, columns: int = 8, titles: Sequence[str] | None = None, title: str | None = None
) -> Figure:
    """Images in rows.

    Args:
        images: grey ``[n, h, w]`` or colour ``[n, h, w, 3]``; 0 is black, 1 is white or full colour.
        columns: images in a row.
        titles: a line above each image.
        title: a line above the figure.
    """
    array = _images("images", images)
    limits = np.array([[0, 0], [array.shape[2], array.shape[1]]])
    figure, panels = make_panels(len(array), min(columns, len(array)), limits, 1.0, title)
    for panel, image, name in zip(panels, array, to_names("titles", titles, len(array)), strict=True):
        _draw_image(panel, image)
        panel.set_title(name, fontsize=8, color=INK)
    return figure


def compare_images(
    data: Points,
    samples: Points,
    *,
    columns: int = 8,
    titles: tuple[str, str] = ("data", "samples"),
    title: str | None = None,
) -> Figure:
    """A block of data images beside a block of sample images, as many whole rows as both have.

    Args:
        data: grey ``[n, h, w]`` or colour ``[n, h, w, 3]``; 0 is black, 1 is white or full colour.
        samples: images of the same size.
        columns: images in a row of each block.
        titles: a line above each block.
        title: a line above the figure.
    """
    pair = _images("data", data), _images("samples", samples)
    h, w, *colour = pair[0].shape[1:]
    if pair[1].shape[1:] != (h, w, *colour):
        raise ShapeError(f"samples has shape {list(pair[1].shape)}; expected [m, {h}, {w}] like the data")
    columns = min(columns, *map(len, pair))
    rows = min(map(len, pair)) // columns
    height, width = rows * (h + 1) - 1, columns * (w + 1) - 1  # a pixel between neighbours
    figure, panels = make_panels(2, 2, np.array([[0, 0], [width, height]]), 0.5 * columns, title, gap=0.06)
    for panel, images, name in zip(panels, pair, titles, strict=True):
        sheet = np.ones((height, width, *colour))
        for i, image in enumerate(images[: rows * columns]):
            top, left = i // columns * (h + 1), i % columns * (w + 1)
            sheet[top : top + h, left : left + w] = image
        _draw_image(panel, sheet)
        panel.set_title(name, fontsize=12, color=INK)
    return figure


def _draw_image(panel: Axes, image: Floats) -> None:
    panel.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    panel.set_axis_off()


def _images(name: str, images: Points) -> Floats:
    array = to_array(images)
    if len(array) == 0 or not (array.ndim == 3 or (array.ndim == 4 and array.shape[3] == 3)):
        raise ShapeError(f"{name} has shape {list(array.shape)}; expected [n, h, w] or [n, h, w, 3]")
    return np.clip(array, 0, 1)
