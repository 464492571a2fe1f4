"""How far samples are from data, and whether they stayed inside.

Two distances between clouds of points (:func:`sliced_wasserstein`, :func:`mmd`), two shares that say what
happens at the wall (:func:`violation`, :func:`boundary_mass`), and :func:`floor`: the value that a distance
takes between two parts of the data themselves, below which samples cannot be told from the truth. For models
given a condition, :func:`sbc_ranks` says whether the spread of their samples is that of the truth.

May use: torch, numpy, and :class:`~constrained_diffusion.domains.Domain` through its interface. Clouds are
``[n, *event]``, numpy arrays, data frames or tensors of any real dtype; all arithmetic is float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor

from constrained_diffusion.data import column_names, native
from constrained_diffusion.domains.checks import DomainError, ShapeError, check_tensor, plain

if TYPE_CHECKING:
    from constrained_diffusion.domains import Domain

__all__ = ["boundary_mass", "floor", "mmd", "sbc_ranks", "sliced_wasserstein", "violation"]

Points = Tensor | npt.NDArray[np.generic]
Cloud = TypeVar("Cloud", Tensor, npt.NDArray[np.generic])

_CHUNK = 2**22  # float64 values that one intermediate tensor may hold: 32 MiB
_ROUNDING = 1e-6  # of points in single precision, in units of the domain's size
_MEDIAN_POINTS = 2000  # pooled points among which the median distance is taken


def sliced_wasserstein(
    x: Points,
    y: Points,
    *,
    projections: int = 256,
    p: float = 1.0,
    generator: Generator | None = None,
) -> float:
    r"""Sliced Wasserstein distance between two clouds of points.

    .. math:: SW_p(x, y)^p = \frac1K \sum_{k=1}^K W_p(\theta_k \cdot x,\; \theta_k \cdot y)^p

    over K uniform unit vectors of the flattened space. On a line, W_p^p is the integral over u in [0, 1] of
    :math:`|F_x^{-1}(u) - F_y^{-1}(u)|^p`, both quantile functions being steps; it is summed exactly, also
    when the clouds differ in size. Sources: Rabin, Peyre, Delon & Bernot, "Wasserstein barycenter and its
    application to texture mixing", 2011; Bonneel, Rabin, Peyre & Pfister, "Sliced and Radon Wasserstein
    barycenters of measures", 2015.

    ``p = 1`` is the default because its sampling error falls as n^-1/2 for every bounded law; with
    ``p = 2`` it falls only as n^-1/4 where the projected law has a gap.

    Args:
        x: points ``[n, *event]``.
        y: points ``[m, *event]``; m need not be n.
        projections: number of directions K. If a point is a single number, one is exact and one is used.
        p: order of the distance, at least 1.
        generator: source of the directions; by default one with seed 0, so that equal clouds
            give equal values.

    Returns:
        The distance, in the units of the points.

    Raises:
        ShapeError: a cloud is empty, or the shapes of single points differ.
        DomainError: a cloud has a value that is not finite.
        ValueError: ``projections`` or ``p`` is less than one.
    """
    a, b = _two_clouds(x, y)
    if projections < 1:
        raise ValueError(f"projections must be at least 1, not {projections}")
    if not 1 <= p < math.inf:
        raise ValueError(f"p must be at least 1 and finite, not {p}")
    directions = _directions(a.shape[1], projections, generator).to(a.device)
    left, right, weight = _matching(len(a), len(b), a.device)
    chunk = max(1, _CHUNK // (len(a) + len(b) + len(weight)))
    total = 0.0
    for theta in directions.split(chunk):
        quantiles_a = (theta @ a.T).sort(dim=1).values
        quantiles_b = (theta @ b.T).sort(dim=1).values
        gap = (quantiles_a[:, left] - quantiles_b[:, right]).abs_()
        total += float((gap**p @ weight).sum())
    return math.pow(total / len(directions), 1 / p)


def mmd(x: Points, y: Points, *, bandwidth: float | None = None) -> float:
    r"""Maximum mean discrepancy with a Gaussian kernel: the square root of the biased V-statistic.

    .. math:: MMD^2 = \frac1{n^2} \sum_{ij} k(x_i, x_j) + \frac1{m^2} \sum_{ij} k(y_i, y_j)
        - \frac2{nm} \sum_{ij} k(x_i, y_j), \qquad k(u, v) = \exp\Big(-\frac{|u - v|^2}{2 h^2}\Big)

    It is the distance between the mean embeddings of the two empirical laws: never negative, zero only if
    these laws are equal, at most sqrt 2. For two samples of one law it is of order n^-1/2.
    Source: Gretton, Borgwardt, Rasch, Scholkopf & Smola, "A kernel two-sample test", 2012.

    Args:
        x: points ``[n, *event]``.
        y: points ``[m, *event]``; m need not be n.
        bandwidth: h, in the units of the points. The default is the median distance between two of
            the pooled points (of 2,000 evenly spaced ones if there are more). It depends on both clouds:
            give a number where values are to be compared.

    Returns:
        The discrepancy, between 0 and sqrt 2.

    Raises:
        ShapeError: a cloud is empty, or the shapes of single points differ.
        DomainError: a cloud has a value that is not finite.
        ValueError: ``bandwidth`` is not positive, or its default is zero because most points coincide.
    """
    a, b = _two_clouds(x, y)
    centre = (a.mean(0) + b.mean(0)) / 2  # smaller numbers, smaller rounding in the distances
    a, b = a - centre, b - centre
    h = _median_distance(a, b) if bandwidth is None else float(bandwidth)
    if not (h > 0 and 0 < h * h < math.inf):
        cure = "most points coincide; give a number" if bandwidth is None else "give a positive, finite one"
        raise ValueError(f"bandwidth is {h:g}: {cure}")
    squared = _mean_kernel(a, a, h) + _mean_kernel(b, b, h) - 2 * _mean_kernel(a, b, h)
    return math.sqrt(max(squared, 0.0))  # rounding can leave -1e-16


def violation(domain: Domain, x: Points, atol: float = 0.0) -> float:
    """Share of points that lie outside the domain.

    Args:
        domain: the domain.
        x: points ``[*batch, *event_shape]``; a point with a NaN or an infinity counts as outside.
        atol: distance by which a point may lie outside, in the units of the points.

    Returns:
        A share in [0, 1].

    Raises:
        ShapeError: ``x`` does not fit the domain or has no points.
    """
    points = _points(domain, x)
    finite = points.flatten(1).isfinite().all(1)
    inside = domain.contains(points[finite], atol)
    return 1.0 - int(inside.sum()) / len(points)


def boundary_mass(domain: Domain, x: Points, width: float) -> float:
    """Share of points within a given distance of the wall: what thresholding and clipping inflate.

    Args:
        domain: the domain.
        x: points ``[*batch, *event_shape]``. Points outside count as within.
        width: distance from the wall, in the units of the points, at least 0.

    Returns:
        A share in [0, 1].

    Raises:
        ShapeError: ``x`` does not fit the domain or has no points.
        DomainError: ``x`` has a value that is not finite.
        ValueError: ``width`` is negative or not a number.
    """
    if not width >= 0:
        raise ValueError(f"width must be at least 0, not {width}")
    points = _points(domain, x)
    _refuse_not_finite("x", points.flatten(1))
    outside = (points - domain.project(points)).flatten(1).norm(dim=1) > _ROUNDING * max(1.0, domain.magnitude)
    return int((outside | (domain.boundary(points)[0] <= width)).sum()) / len(points)


def floor(
    metric: Callable[[Cloud, Cloud], float],
    data: Cloud,
    *,
    splits: int = 10,
    size: int | None = None,
    seed: int = 0,
) -> float:
    """What a perfect model would score: the mean of a metric between disjoint random parts of the data.

    A model's samples cannot be expected to be nearer to the data than the data to themselves. Compare
    ``metric(samples, held_out)`` at equal sizes: the value falls about as ``size ** -0.5``.

    Args:
        metric: called with two clouds ``[size, *event]`` of the kind that ``data`` is.
        data: points ``[n, *event]``.
        splits: number of random splits to average over.
        size: points in each part; by default half the data.
        seed: seed of the splits.

    Returns:
        The mean value of the metric.

    Raises:
        ShapeError: two parts of ``size`` points need more points than the data has.
        ValueError: ``splits`` or ``size`` is less than one.
    """
    data = plain("data", data)
    part = len(data) // 2 if size is None else size
    if splits < 1:
        raise ValueError(f"splits must be at least 1, not {splits}")
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    if part < 1 or 2 * part > len(data):
        raise ShapeError(f"data has {len(data)} points; two disjoint parts of {max(part, 1)} need more")
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(splits):
        order = rng.permutation(len(data))
        values.append(float(metric(data[order[:part]], data[order[part : 2 * part]])))
    return math.fsum(values) / splits


def sbc_ranks(theta: Cloud, samples: Points, *, generator: Generator | None = None) -> Cloud:
    """Ranks of true parameters among posterior samples, for simulation-based calibration.

    Draw parameters from the prior, data from each, and L posterior samples given each data set. If the posteriors
    are right, then the number of samples below the true value is uniform on 0, 1, .., L, for every coordinate; see
    :func:`~constrained_diffusion.plotting.calibration_curve`. Samples equal to the true value, as at a wall
    that holds mass, count below it or not at random, which keeps that law. Source: Talts, Betancourt, Simpson,
    Vehtari & Gelman, "Validating Bayesian inference algorithms with simulation-based calibration", 2018,
    arXiv 1804.06788.

    Args:
        theta: true parameters ``[n, *k]``.
        samples: posterior samples ``[L, n, *k]``, independent of one another.
        generator: where ties fall; by default one with seed 0.

    Returns:
        Ranks ``[n, *k]`` from 0 to L, int64, of the kind that ``theta`` is.

    Raises:
        ShapeError: a shape does not fit, or there is nothing to rank.
        DomainError: a value is not finite.
    """
    truth: Tensor = _as_tensor("theta", theta).detach()
    draws = _as_tensor("samples", samples).detach().to(truth.device)
    if truth.ndim == 0 or truth.numel() == 0:
        raise ShapeError(f"theta has shape {list(truth.shape)}; expected [n, *k] with at least one parameter")
    if draws.ndim != truth.ndim + 1 or draws.shape[1:] != truth.shape or len(draws) == 0:
        expected = ", ".join(map(str, truth.shape))
        raise ShapeError(f"samples has shape {list(draws.shape)}; expected [L, {expected}] with L at least 1")
    _refuse_not_finite("theta", truth.reshape(len(truth), -1))
    _refuse_not_finite("samples", draws.reshape(len(draws), -1))
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    if draws.is_floating_point() and truth.is_floating_point():  # as coarse as the coarser: rounding decides no rank
        coarse = min(draws.dtype, truth.dtype, key=lambda kind: -torch.finfo(kind).eps)
        draws, truth = draws.to(coarse), truth.to(coarse)
    below, ties = (draws < truth).sum(0), (draws == truth).sum(0)
    u = torch.rand(truth.shape, generator=generator, device=generator.device, dtype=torch.float64).to(truth.device)
    ranks = below + (u * (ties + 1)).long()  # of the ties, any number from none to all
    return ranks if isinstance(theta, Tensor) else ranks.cpu().numpy()


def _two_clouds(x: Points, y: Points) -> tuple[Tensor, Tensor]:
    """Check two clouds and flatten them to float64 ``[n, d]`` and ``[m, d]`` on the device of the first."""
    a, b = _cloud("x", x), _cloud("y", y)
    names, others = column_names(x), column_names(y)
    if names is not None and others is not None and names != others:
        raise ValueError(f"x has the columns {', '.join(names)}, y has {', '.join(others)}: give y[x.columns]")
    if x.shape[1:] != y.shape[1:]:
        raise ShapeError(
            f"y has shape {list(y.shape)}; expected [m, {', '.join(map(str, x.shape[1:]))}] "
            f"because x has shape {list(x.shape)}"
        )
    return a, b.to(a.device)


def _cloud(name: str, points: Points) -> Tensor:
    """One cloud as float64 ``[n, d]``."""
    cloud = _as_tensor(name, points).detach()
    if cloud.ndim == 0 or cloud.numel() == 0:
        raise ShapeError(f"{name} has shape {list(cloud.shape)}; expected [n, *event] with at least one point")
    cloud = cloud.to(torch.float64).reshape(len(cloud), -1)
    _refuse_not_finite(name, cloud)
    return cloud


def _as_tensor(name: str, points: Points) -> Tensor:
    points = plain(name, points)
    if isinstance(points, np.ndarray) and points.dtype.kind in "fiub":
        return torch.from_numpy(native(points))
    if isinstance(points, Tensor) and not points.is_complex():
        return points
    kind = getattr(points, "dtype", None)
    what = f"of {kind}" if kind is not None else type(points).__name__
    raise TypeError(f"{name} must be a numpy array, a data frame or a torch.Tensor of real numbers, not {what}")


def _refuse_not_finite(name: str, rows: Tensor) -> None:
    """Refuse ``[n, d]`` rows with NaN or infinities, naming the first."""
    bad = ~rows.isfinite().all(1)
    if bool(bad.any()):
        raise DomainError(
            f"{name} must be finite; row {int(bad.nonzero()[0])} is not ({int(bad.sum())} of {len(bad)} rows)"
        )


def _points(domain: Domain, x: Points) -> Tensor:
    """Points of a domain as ``[n, *event_shape]``, with at least one."""
    points = _as_tensor("x", x).detach()
    if not points.is_floating_point():
        points = points.to(torch.float64)
    check_tensor("x", points, domain.event_shape)
    points = points.reshape(-1, *domain.event_shape)
    if len(points) == 0:
        raise ShapeError(f"x has shape {list(x.shape)}; expected at least one point")
    return points


def _directions(dim: int, count: int, generator: Generator | None) -> Tensor:
    """Uniform unit vectors ``[count, dim]``; in one dimension there is only one, up to sign."""
    if dim == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    z = torch.randn(count, dim, generator=generator, device=generator.device, dtype=torch.float64)
    return torch.nn.functional.normalize(z, dim=1)


def _matching(n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Which sorted points the monotone coupling of n equal masses with m equal masses joins.

    Returns:
        Indices below n, indices below m, and the mass that goes from one to the other; the masses sum to one.
    """
    # In units of 1/(n m), the steps of the quantile functions lie at multiples of m and of n: all integers.
    steps = torch.cat([torch.arange(0, n * m + 1, m), torch.arange(0, n * m + 1, n)]).unique()
    start, mass = steps[:-1], steps.diff().to(torch.float64) / (n * m)
    return (start // m).to(device), (start // n).to(device), mass.to(device)


def _median_distance(a: Tensor, b: Tensor) -> float:
    """Median distance between pooled points ``[n, d]`` and ``[m, d]``; a thinned pool if it is large."""
    pooled = len(a) + len(b)
    if pooled > _MEDIAN_POINTS:
        a, b = (c[_evenly(len(c), math.ceil(_MEDIAN_POINTS * len(c) / pooled))] for c in (a, b))
    return float(torch.pdist(torch.cat([a, b])).median())


def _evenly(n: int, count: int) -> Tensor:
    """``count`` evenly spaced indices below ``n``."""
    return torch.arange(count) * n // count


def _mean_kernel(a: Tensor, b: Tensor, h: float) -> float:
    """Mean of exp(-|u - v|^2 / (2 h^2)) over all pairs, a block of rows at a time."""
    rows = max(1, _CHUNK // len(b))
    total = sum(float(torch.cdist(block, b).square_().mul_(-0.5 / h**2).exp_().sum()) for block in a.split(rows))
    return total / (len(a) * len(b))
