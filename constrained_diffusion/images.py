"""Images as points of the unit cube: batches to train on, levels of grey, and PNG files.

May use: torch; pillow, imported where a file is read or written.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Generator, Tensor

from .checkpoints import write_atomic
from .domains.checks import ShapeError, require_tensors, trusted
from .likelihood import dequantise
from .sources import take_rows

__all__ = ["ImageSource", "save_grid", "tile", "to_levels", "to_unit"]

_CHANNELS = (1, 3, 4)


def to_unit(levels: Tensor) -> Tensor:
    """Levels 0 .. 255 of any shape, a tensor or what becomes one, as float32 numbers level / 255 in [0, 1]."""
    return torch.as_tensor(levels).float() / 255


def to_levels(x: Tensor, *, dequantised: bool = False) -> Tensor:
    """Points of the unit cube as uint8 levels: the nearest level, or the bin that a dequantised one lies in."""
    scaled = (x * 256).floor() if dequantised else (x * 255).round()
    return scaled.clamp(0, 255).to(torch.uint8)


class ImageSource:
    """Images in memory, as a trainer's source of points of the unit cube.

    Args:
        levels: uint8 ``[n, C, H, W]``.
        labels: classes ``[n]``, or None.
        classes: how many there are. A hidden label becomes -1, which networks know as none.
        flip: mirror each image with probability one half.
        hide: share of labels, and of images to condition on, that are hidden.
        dequantise: spread each level over its bin, as likelihoods ask for; otherwise a point is level / 255.
        condition: makes the image to condition on, ``[B, c, h, w]``, from points ``[B, C, H, W]`` and a generator.
    """

    def __init__(
        self,
        levels: Tensor,
        labels: Tensor | None = None,
        *,
        classes: int = 0,
        flip: bool = True,
        hide: float = 0.1,
        dequantise: bool = False,
        condition: Callable[[Tensor, Generator], Tensor] | None = None,
    ) -> None:
        require_tensors(levels=levels)
        if levels.dtype != torch.uint8 or levels.ndim != 4:
            raise ShapeError(f"levels must be uint8 [n, C, H, W], not {levels.dtype} {list(levels.shape)}")
        if levels.shape[-1] in _CHANNELS and levels.shape[1] not in _CHANNELS:
            raise ShapeError(f"levels has shape {list(levels.shape)}; channels come first: levels.permute(0, 3, 1, 2)")
        if labels is not None:
            require_tensors(labels=labels)
            if labels.is_floating_point() or labels.dtype == torch.bool:
                raise TypeError(f"labels must be of integers, not {labels.dtype}")
            if classes < 1:
                raise ValueError("labels were given without classes, how many there are")
            if labels.shape != levels.shape[:1]:
                raise ShapeError(f"labels has shape {list(labels.shape)}; expected [{len(levels)}]")
            if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
                raise ValueError(
                    f"labels run from {int(labels.min())} to {int(labels.max())}: not classes 0 .. {classes - 1}"
                )
        if not 0 <= hide <= 1:
            raise ValueError(f"hide must lie in [0, 1], not {hide!r}")
        self.levels, self.labels, self.classes = levels, labels, classes
        self.flip, self.hide, self.dequantise, self.condition = flip, hide, dequantise, condition

    def __len__(self) -> int:
        return len(self.levels)

    def batch(self, rows: Tensor, generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Points ``[B, C, H, W]``, and ``label`` ``[B]`` and ``image`` ``[B, c, h, w]`` where there are any."""
        device = generator.device
        levels = take_rows(self.levels, rows, device)
        with trusted():  # bytes are levels
            x = dequantise(levels, generator=generator) if self.dequantise else to_unit(levels)
        if self.flip:
            x = torch.where(self._drawn(rows, 0.5, generator)[:, None, None, None], x.flip(-1), x)
        condition = {}
        if self.labels is not None:
            label = take_rows(self.labels, rows, device)
            condition["label"] = label.long().masked_fill(self._drawn(rows, self.hide, generator), -1)
        if self.condition is not None:
            gone = self._drawn(rows, self.hide, generator)[:, None, None, None]
            condition["image"] = self.condition(x, generator).masked_fill(gone, math.nan)
        return x, condition

    @staticmethod
    def _drawn(rows: Tensor, share: float, generator: Generator) -> Tensor:
        return torch.rand(len(rows), generator=generator, device=generator.device) < share


def tile(levels: Tensor, columns: int) -> Tensor:
    """Images uint8 ``[n, C, H, W]`` as one ``[C, h, w]``, row by row, with a white pixel between."""
    n, c, h, w = levels.shape
    rows = -(-n // columns)
    framed = torch.full((rows * columns, c, h + 1, w + 1), 255, dtype=torch.uint8)
    framed[:n, :, :h, :w] = levels
    sheet = framed.reshape(rows, columns, c, h + 1, w + 1).permute(2, 0, 3, 1, 4)
    return sheet.reshape(c, rows * (h + 1), columns * (w + 1))[:, :-1, :-1]


def save_grid(levels: Tensor, path: str | Path, *, columns: int = 8, zoom: int = 2) -> Path:
    """Write images as one PNG, row by row with a pixel between; the file appears whole or not at all.

    Args:
        levels: uint8 ``[n, C, H, W]`` with C = 1 or 3.
        path: where.
        columns: images in a row.
        zoom: pixels across each pixel.

    Returns:
        The path.
    """
    from PIL import Image

    if levels.dtype != torch.uint8 or levels.ndim != 4 or levels.shape[1] not in (1, 3) or not len(levels):
        raise ShapeError(f"levels must be uint8 [n, 1 or 3, H, W], n > 0; not {levels.dtype} {list(levels.shape)}")
    for name, value in (("columns", columns), ("zoom", zoom)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    sheet = tile(levels.cpu(), min(columns, len(levels))).permute(1, 2, 0).numpy()
    picture = Image.fromarray(sheet.squeeze(-1) if levels.shape[1] == 1 else sheet)
    content = io.BytesIO()
    picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST).save(content, "PNG")
    write_atomic(path, content.getvalue())
    return Path(path)
