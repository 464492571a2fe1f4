"""Whether posteriors are calibrated. May use: numpy, scipy and matplotlib where used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from constrained_diffusion.domains.checks import DomainError, ShapeError

from .style import DATA, FAINT, INK, SAMPLES, Floats, Points, to_array, to_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["calibration_curve"]

_MOST_PLACES = 100  # at which curve and band are computed
_SIMULATED = 4000  # uniform sets of ranks, for the simultaneous band
_COLOURS = (DATA, SAMPLES, "#2f8f6b", "#7a4fa3", "#8c6d31", "#4a4f5a")  # none of them orange, which means violations
_DASHES = ("-", "--", ":")


def calibration_curve(
    ranks: Points,
    draws: int | None = None,
    names: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    band: Literal["simultaneous", "pointwise"] = "simultaneous",
    difference: bool = True,
    title: str | None = None,
) -> Figure:
    r"""Simulation-based calibration: how far the distribution of ranks is from the uniform one.

    If parameters are drawn from the prior, data from each, and ``draws`` posterior samples for each data set,
    then the rank of the true parameter among the samples is uniform on 0 .. draws where the posteriors are right
    (:func:`~constrained_diffusion.metrics.sbc_ranks` counts). The curve is the share F(z) of the n ranks with
    (rank + 1) / (draws + 1) <= z, less z; n F(z) is then binomial, which gives the band. A posterior that is
    too narrow rises above it on the left and falls below on the right, one that is too wide the other way;
    a shift stays on one side. Sources: Talts, Betancourt, Simpson, Vehtari & Gelman, "Validating Bayesian inference
    algorithms with simulation-based calibration", 2018, arXiv 1804.06788; Säilynoja, Bürkner & Vehtari, "Graphical test
    for discrete uniformity", 2021, arXiv 2103.10522 (the simultaneous band).

    Args:
        ranks: ``[n, k]`` or ``[n]``, from 0 to ``draws``; without ``draws``, levels in [0, 1] that should be uniform.
        draws: posterior samples for each data set.
        names: of the k parameters.
        level: probability with which a calibrated curve stays inside the band: the whole curve of one parameter
            (simultaneous), or each of its points (pointwise).
        band: which of the two.
        difference: whether z is taken away; otherwise F itself is drawn.
        title: a line above the figure.

    Raises:
        ShapeError: ``ranks`` is empty or has a wrong shape, or the names do not fit.
        DomainError: a rank is not finite, not whole or not in its range.
        ValueError: ``draws``, ``level`` or ``band`` is not what it can be.
    """
    array = _checked(ranks, draws)
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    if band not in ("simultaneous", "pointwise"):
        raise ValueError(f'band must be "simultaneous" or "pointwise", not {band!r}')
    n, k = array.shape
    labels = to_names("names", names, k, "a parameter")
    z = _places(draws)
    low, high = _band(n, z, level, simultaneous=band == "simultaneous")
    curves = np.stack([np.searchsorted(np.sort(column), z, side="right") / n for column in array.T])
    away = z if difference else np.zeros_like(z)
    figure, panel = _frame(title)
    edges = (*_whole(z, low, away), _whole(z, high, away)[1])
    style: dict[str, Any] = {"color": FAINT, "alpha": 0.55, "linewidth": 0}
    panel.fill_between(*edges, label=f"{100 * level:.4g} % band, {band}", **style)
    panel.plot(*_whole(z, z, away), color=INK, linewidth=0.8)
    for j, (curve, label) in enumerate(zip(curves, labels, strict=True)):
        colour, dashes = _COLOURS[j % len(_COLOURS)], _DASHES[j // len(_COLOURS) % len(_DASHES)]
        panel.plot(*_whole(z, curve, away), color=colour, linewidth=1.6, linestyle=dashes, label=label or None)
    panel.set_xlabel("level" if draws is None else "normalised rank", fontsize=10, color=INK)
    panel.set_ylabel("share below, less uniform" if difference else "share below", fontsize=10, color=INK)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9, ncols=1 + k // 12)
    return figure


def _frame(title: str | None) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    panel = figure.add_subplot()
    panel.set(xlim=(0, 1))
    panel.spines[["right", "top"]].set_visible(False)
    panel.tick_params(labelsize=8, colors=INK)
    if title:
        figure.suptitle(title, fontsize=13, fontweight="bold", color=INK)
    return figure, panel


def _checked(ranks: Points, draws: int | None) -> Floats:
    """Ranks as numbers ``[n, k]`` in [0, 1] that are uniform if the ranks are; levels as they are."""
    array = to_array(ranks)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or 0 in array.shape:
        raise ShapeError(f"ranks has shape {list(array.shape)}; expected [n, k] or [n] with n and k at least 1")
    if draws is not None and draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    if not np.isfinite(array).all():
        raise DomainError("ranks must be finite; one is not")
    most = 1 if draws is None else draws
    if array.min() < 0 or array.max() > most:
        cure = "" if draws else ": give draws, the number of posterior samples, if these are ranks"
        raise DomainError(f"ranks must lie in [0, {most}]; they range over [{array.min():g}, {array.max():g}]{cure}")
    if draws is None:
        return array
    if (array != np.round(array)).any():
        raise DomainError("ranks must be whole numbers where draws is given; leave it out if these are levels")
    return (array + 1) / (draws + 1)


def _places(draws: int | None) -> Floats:
    """Where curve and band are computed, inside (0, 1): where a rank can be, so that the binomial law is exact."""
    if draws is None or draws < 1:
        return np.arange(1, _MOST_PLACES) / _MOST_PLACES
    steps = np.unique(np.round(np.linspace(1, draws, min(draws, _MOST_PLACES))))
    places: Floats = steps / (draws + 1)
    return places


def _band(n: int, z: Floats, level: float, *, simultaneous: bool) -> tuple[Floats, Floats]:
    """Lowest and highest shares of n uniform ranks below each z that a band of this level allows."""
    from scipy.stats import binom

    tail = 1 - level
    if simultaneous:  # the smaller level of a point at which a share ``level`` of uniform sets stays inside everywhere
        steps = np.diff(z, prepend=0, append=1)
        below = np.random.default_rng(0).multinomial(n, steps, size=_SIMULATED).cumsum(1)[:, :-1]
        chance = 2 * np.minimum(binom.cdf(below, n, z), binom.sf(below - 1, n, z)).min(1)
        tail = min(1.0, float(np.quantile(chance, tail)))
    return binom.ppf(tail / 2, n, z) / n, binom.isf(tail / 2, n, z) / n


def _whole(z: Floats, share: Floats, away: Floats) -> tuple[Floats, Floats]:
    """A curve from 0 to 1, where every distribution function is 0 and 1."""
    last = 0.0 if away.any() else 1.0
    return np.array([0.0, *z, 1.0]), np.array([0.0, *(share - away), last])
