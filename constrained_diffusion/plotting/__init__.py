"""Pictures of samples beside data: arrays in, a matplotlib figure out.

Nothing here touches pyplot or any global state, so the functions serve scripts, notebooks and threads alike;
:func:`save_figure` writes the file. Data are drawn in blue, samples in crimson. Points outside the outline
of their domain are never clipped away but drawn as orange dots, or as orange crosses on the edge of a panel that ends
before them: a picture must not hide a violation. Every cloud and image may be a numpy array or a tensor; shapes that
do not fit raise ``ShapeError``. :func:`plot_samples` picks the picture that suits a domain.

May use: numpy, tensors as input, domains and processes through their interfaces, and matplotlib (imported where used).
"""

from .calibration import calibration_curve
from .clouds import ball_3d, compare_2d, film_strip, parts_histograms, ternary
from .corner import corner
from .curves import loss_curve
from .fields import vector_field
from .images import compare_images, image_grid
from .motion import animate, process_strip
from .outlines import outline_of
from .samples import plot_samples
from .style import DATA, INK, OUTSIDE, SAMPLES, save_figure

__all__ = [
    "DATA",
    "INK",
    "OUTSIDE",
    "SAMPLES",
    "animate",
    "ball_3d",
    "calibration_curve",
    "compare_2d",
    "compare_images",
    "corner",
    "film_strip",
    "image_grid",
    "loss_curve",
    "outline_of",
    "parts_histograms",
    "plot_samples",
    "process_strip",
    "save_figure",
    "ternary",
    "vector_field",
]
