"""Whether a classifier can tell samples from data. May use: numpy, torch, the clouds of metrics; scikit-learn."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from .domains.checks import DomainError, ShapeError
from .metrics import Points

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["c2st"]

_UNITS = 10  # hidden units of the classifier for each coordinate


def c2st(x: Points, y: Points, *, folds: int = 5, max_epochs: int = 1000, seed: int = 0) -> float:
    """Classifier two-sample test: the share of held-back points whose cloud a classifier names rightly.

    0.5 where the clouds have one law, 1 where they can be told apart entirely. The classifier is that of the benchmark
    of simulation-based inference: a perceptron with two hidden layers of ten units for each coordinate, on points
    standardised by those of ``x``, cross-validated. Its chance error is about half the inverse root of the number of
    points. Sources: Lopez-Paz & Oquab, "Revisiting classifier two-sample tests", 2017, arXiv 1610.06545; Lueckmann,
    Boelts, Greenberg, Goncalves & Macke, "Benchmarking simulation-based inference", 2021, arXiv 2101.04653.

    It needs scikit-learn (``pip install scikit-learn``).

    Args:
        x: points ``[n, *event]``.
        y: as many points ``[n, *event]``; were there more of one sort, naming that one would be right too often.
        folds: parts, each of which is held back once.
        max_epochs: passes of the classifier over its points; it stops earlier where it no longer learns.
        seed: of the classifier's weights and of the folds.

    Returns:
        The mean accuracy over the folds.

    Raises:
        ShapeError: the clouds differ in shape, or have fewer points than folds.
        DomainError: a cloud has a value that is not finite.
        ValueError: ``folds`` is less than two.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    if folds < 2:
        raise ValueError(f"folds must be at least 2, not {folds}")
    a, b = _rows("x", x, folds), _rows("y", y, folds)
    if a.shape != b.shape:
        raise ShapeError(f"y has shape {list(b.shape)} and x {list(a.shape)}, flattened; give equal numbers of both")
    spread = a.std(0)
    points = (np.concatenate([a, b]) - a.mean(0)) / np.where(spread > 0, spread, 1.0)
    clouds = np.repeat([0, 1], [len(a), len(b)])
    units = _UNITS * a.shape[1]
    classifier = MLPClassifier((units, units), max_iter=max_epochs, random_state=seed)
    parts = KFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # that it would learn on is what max_epochs is for
        return float(cross_val_score(classifier, points, clouds, cv=parts).mean())


def _rows(name: str, points: Points, least: int) -> npt.NDArray[np.float64]:
    """One cloud as float64 ``[n, d]``."""
    array = np.asarray(points.detach().cpu() if hasattr(points, "detach") else points, dtype=np.float64)
    if array.ndim == 0 or len(array) < least or array.size == 0:
        raise ShapeError(f"{name} has shape {list(array.shape)}; expected [n, *event] with n at least {least}")
    if not np.isfinite(array).all():
        raise DomainError(f"{name} must be finite; drop or repair the points that are not")
    return array.reshape(len(array), -1)
