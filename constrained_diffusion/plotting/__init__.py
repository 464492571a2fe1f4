"""Pictures of samples beside data: arrays in, a matplotlib figure out.

Nothing here touches pyplot or any global state, so the functions serve scripts, notebooks and threads alike;
:func:`save_figure` writes the file. Data are drawn in blue, samples in crimson. Points outside the outline
of their domain are never clipped away but drawn as orange dots: a picture must not hide a violation.
Every cloud and image may be a numpy array or a tensor; shapes that do not fit raise ``ShapeError``.

May use: numpy, tensors as input, and matplotlib (imported where used).
"""

from .clouds import ball_3d, compare_2d, film_strip, parts_histograms, ternary
from .curves import loss_curve
from .images import compare_images, image_grid
from .style import DATA, INK, OUTSIDE, SAMPLES, save_figure

__all__ = [
    "DATA",
    "INK",
    "OUTSIDE",
    "SAMPLES",
    "ball_3d",
    "compare_2d",
    "compare_images",
    "film_strip",
    "image_grid",
    "loss_curve",
    "parts_histograms",
    "save_figure",
    "ternary",
]
