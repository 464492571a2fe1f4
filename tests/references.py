"""Slow, independent answers to compare the library with.

Nothing here imports the library. The kernels are evaluated in 40-digit arithmetic (mpmath) at exactly the
numbers they are given (a binary float is a rational number), by two expansions that have nothing in common -
method of images, and eigenfunctions - so that each checks the other. The simulators move particles by numpy.

Conventions: ``sigma`` is the Brownian standard deviation, log-densities are natural logarithms with respect
to the volume (for simplices: surface) measure of the domain, and scores are gradients in ``x``.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import mpmath as mp
import numpy as np
from scipy import special
from scipy.interpolate import PchipInterpolator

DIGITS = 40
mp.mp.dps = DIGITS
SMALLEST_EXPONENT = 60  # terms below exp(-60) of the largest are left out: 1e-26
INTERVAL_SWITCH = 0.4  # images below, eigenfunctions from here on; they agree to 20 digits on both sides
TRIANGLE_SWITCH = 0.6

Kernel = tuple[np.ndarray, np.ndarray]


# -------------------------------------------------------------------------------------------- interval [0, 1]
def _log_and_slope(exponents: list, slopes: list) -> tuple:
    """log sum_i exp(e_i) and its derivative, where ``slopes`` are the derivatives of the exponents."""
    top = max(exponents)
    pairs = zip(exponents, slopes, strict=True)
    kept = [(mp.exp(e - top), s) for e, s in pairs if e > top - SMALLEST_EXPONENT]
    total = mp.fsum(w for w, _ in kept)
    return top + mp.log(total), mp.fsum(w * s for w, s in kept) / total


def interval_images(x, x0, sigma) -> tuple:
    """log-density and score on [0, 1]: a Gaussian about every mirror image 2k + x0, 2k - x0 of the start."""
    x, x0, sigma = mp.mpf(x), mp.mpf(x0), mp.mpf(sigma)
    reach = int(mp.ceil(sigma * mp.sqrt(2 * SMALLEST_EXPONENT) + 1)) + 1
    gaps = [x - (2 * k + sign * x0) for k in range(-reach, reach + 1) for sign in (1, -1)]
    log_sum, slope = _log_and_slope([-(g**2) / (2 * sigma**2) for g in gaps], [-g / sigma**2 for g in gaps])
    return log_sum - mp.log(sigma * mp.sqrt(2 * mp.pi)), slope


def interval_cosines(x, x0, sigma) -> tuple:
    """log-density and score on [0, 1]: 1 + 2 sum_k exp(-k^2 pi^2 sigma^2 / 2) cos(k pi x) cos(k pi x0)."""
    x, x0, sigma = mp.mpf(x), mp.mpf(x0), mp.mpf(sigma)
    terms = int(mp.ceil(mp.sqrt(2 * SMALLEST_EXPONENT) / (mp.pi * sigma))) + 1
    density, slope = mp.mpf(1), mp.mpf(0)
    for k in range(1, terms + 1):
        weight = 2 * mp.exp(-((k * mp.pi * sigma) ** 2) / 2) * mp.cospi(k * x0)
        density += weight * mp.cospi(k * x)
        slope -= weight * k * mp.pi * mp.sinpi(k * x)
    return mp.log(density), slope / density


def interval_kernel(x, x0, sigma) -> tuple:
    """log-density and score on [0, 1], by whichever expansion is short."""
    return (interval_images if sigma < INTERVAL_SWITCH else interval_cosines)(x, x0, sigma)


def interval_cdf(x: np.ndarray, x0: float, sigma: float) -> np.ndarray:
    """Distribution function of reflected Brownian motion on [0, 1], started at x0, at distance sigma."""
    x = np.asarray(x, dtype=float)
    reach = math.ceil(9 * sigma) + 1
    shifts = 2.0 * np.arange(-reach, reach + 1)
    upper = np.zeros_like(x)
    for shift in shifts:
        for centre in (shift + x0, shift - x0):
            upper += special.ndtr((x - centre) / sigma) - special.ndtr(-centre / sigma)
    return upper


def box_kernel(x, x0, sigma, low=0.0, high=1.0) -> Kernel:
    """Kernel of a box: (log p [rows], score [rows, d]) of rows [rows, d], ``sigma`` a number or [rows].

    Axes are independent, and an axis of length L at distance sigma is the unit interval at sigma / L.
    """
    x, x0 = np.asarray(x, dtype=float), np.asarray(x0, dtype=float)
    rows, d = x.shape
    sigma = np.broadcast_to(np.asarray(sigma, dtype=float), (rows,))
    low, high = (np.broadcast_to(np.asarray(bound, dtype=float), (d,)) for bound in (low, high))
    log_p, score = np.empty(rows), np.empty((rows, d))
    for i in range(rows):
        total = mp.mpf(0)
        for j in range(d):
            bottom, length = mp.mpf(low[j]), mp.mpf(high[j]) - mp.mpf(low[j])
            u, u0 = (mp.mpf(x[i, j]) - bottom) / length, (mp.mpf(x0[i, j]) - bottom) / length
            log_one, score_one = interval_kernel(u, u0, mp.mpf(sigma[i]) / length)
            total += log_one - mp.log(length)
            score[i, j] = score_one / length
        log_p[i] = total
    return log_p, score


# --------------------------------------------------------------- equilateral triangle: the simplex of 3 parts
@functools.cache
def triangle_group(depth: int = 16) -> np.ndarray:
    """All products of up to ``depth`` reflections in the three walls, as matrices on barycentric points.

    Reflecting in the wall x_i = 0 maps x_i to -x_i and adds x_i to the two others, so group elements are
    integer matrices and duplicates are found exactly.
    """
    return _products(_mirrors(), depth)


def corner_group() -> np.ndarray:
    """The six products of reflections in the walls x_1 = 0 and x_2 = 0, which fix the corner (0, 0, 1)."""
    return _products(_mirrors()[:2], 3)


def _mirrors() -> list[np.ndarray]:
    mirrors = []
    for i in range(3):
        mirror = np.eye(3, dtype=np.int64)
        mirror[:, i] = 1
        mirror[i, i] = -1
        mirrors.append(mirror)
    return mirrors


def _products(mirrors: list[np.ndarray], depth: int) -> np.ndarray:
    identity = np.eye(3, dtype=np.int64)
    seen, layer = {identity.tobytes(): identity}, [identity]
    for _ in range(depth):
        fresh = []
        for element in layer:
            for mirror in mirrors:
                product = mirror @ element
                if product.tobytes() not in seen:
                    seen[product.tobytes()] = product
                    fresh.append(product)
        layer = fresh
    return np.stack(list(seen.values()))


def _on_plane(x) -> list:
    """A point as exact numbers, moved orthogonally to the plane sum = 1 (it is off by a rounding error)."""
    x = [mp.mpf(float(value)) for value in x]
    excess = (mp.fsum(x) - 1) / len(x)
    return [value - excess for value in x]


def triangle_images(x, x0, sigma) -> tuple:
    """log-density and score [3] on the 3-part simplex by the images of the start under all reflections."""
    group = triangle_group()
    rough = ((np.asarray(x, float) - group @ np.asarray(x0, float)) ** 2).sum(-1)
    near = group[rough - rough.min() <= 2 * float(sigma) ** 2 * SMALLEST_EXPONENT + 1e-6]
    x, x0, sigma = _on_plane(x), _on_plane(x0), mp.mpf(float(sigma))
    exponents, gaps = [], []
    for element in near:
        image = [mp.fsum(int(element[i, j]) * x0[j] for j in range(3)) for i in range(3)]
        gap = [a - b for a, b in zip(x, image, strict=True)]
        gaps.append(gap)
        exponents.append(-mp.fsum(g**2 for g in gap) / (2 * sigma**2))
    top = max(exponents)
    weights = [mp.exp(e - top) for e in exponents]
    total = mp.fsum(weights)
    mean_gap = [mp.fsum(w * g[i] for w, g in zip(weights, gaps, strict=True)) / total for i in range(3)]
    score = [-g / sigma**2 for g in mean_gap]
    return top + mp.log(total) - mp.log(2 * mp.pi * sigma**2), score


def triangle_fourier(x, x0, sigma) -> tuple:
    """log-density and score [3] on the 3-part simplex by plane waves of the unfolded, periodic kernel.

    The lines x_i = integer are all mirrors. Two neighbouring ones make a translation by twice the height of
    the triangle, (2, -1, -1) and its like; the waves are 2 pi times the dual lattice. What is left of the
    group is the six elements that fix the corner (0, 0, 1).
    """
    x, x0, sigma = _on_plane(x), _on_plane(x0), mp.mpf(float(sigma))
    root3, third = mp.sqrt(3), mp.mpf(1) / 3
    b1, b2 = (third, mp.mpf(0), -third), (mp.mpf(0), third, -third)  # dual to (2, -1, -1) and (-1, 2, -1)
    images = [[mp.fsum(int(g[i, j]) * x0[j] for j in range(3)) for i in range(3)] for g in corner_group()]
    gaps = [[a - b for a, b in zip(x, image, strict=True)] for image in images]
    shortest = 2 * mp.pi * mp.sqrt(2) / 3
    reach = int(mp.ceil(mp.sqrt(2 * SMALLEST_EXPONENT) / (sigma * shortest) * 2 / root3)) + 1
    density, slope = mp.mpf(0), [mp.mpf(0)] * 3
    for m in range(-reach, reach + 1):
        for n in range(-reach, reach + 1):
            wave = [2 * mp.pi * (m * b1[i] + n * b2[i]) for i in range(3)]
            decay = mp.fsum(w**2 for w in wave) * sigma**2 / 2
            if decay > SMALLEST_EXPONENT:
                continue
            amplitude = mp.exp(-decay)
            phases = [mp.fsum(w * g for w, g in zip(wave, gap, strict=True)) for gap in gaps]
            density += amplitude * mp.fsum(mp.cos(p) for p in phases)
            sines = amplitude * mp.fsum(mp.sin(p) for p in phases)
            slope = [slope[i] - sines * wave[i] for i in range(3)]
    cell = 6 * root3 / 2  # six triangles of area sqrt(3)/2
    return mp.log(density / cell), [s / density for s in slope]


def triangle_kernel(x, x0, sigma) -> Kernel:
    """Kernel of the 3-part simplex, Euclidean metric: (log p [rows], score [rows, 3]) of rows [rows, 3]."""
    x, x0 = np.asarray(x, dtype=float), np.asarray(x0, dtype=float)
    sigma = np.broadcast_to(np.asarray(sigma, dtype=float), (len(x),))
    log_p, score = np.empty(len(x)), np.empty((len(x), 3))
    for i in range(len(x)):
        one = (triangle_images if sigma[i] < TRIANGLE_SWITCH else triangle_fourier)(x[i], x0[i], sigma[i])
        log_p[i], score[i] = one[0], [float(s) for s in one[1]]
    return log_p, score


# ----------------------------------------------------------------------------- cumulative metric of a simplex
def partial_sums(x: np.ndarray) -> np.ndarray:
    """c_k = x_1 + .. + x_k, k < n."""
    return np.cumsum(np.asarray(x, dtype=float), axis=-1)[..., :-1]


def from_partial_sums(c: np.ndarray) -> np.ndarray:
    """The simplex point with the partial sums c."""
    zero, one = np.zeros_like(c[..., :1]), np.ones_like(c[..., :1])
    return np.diff(np.concatenate([zero, c, one], axis=-1), axis=-1)


def difference_matrix(n: int) -> np.ndarray:
    """D [n, n-1] of x = D c + (0, .., 0, 1): x_1 = c_1, x_k = c_k - c_{k-1}, x_n = 1 - c_{n-1}."""
    d = np.zeros((n, n - 1))
    d[np.arange(n - 1), np.arange(n - 1)] = 1.0
    d[np.arange(1, n), np.arange(n - 1)] = -1.0
    return d


def permanent_by_permutations(entries: list) -> mp.mpf:
    size = len(entries)
    return mp.fsum(mp.fprod(entries[i][order[i]] for i in range(size)) for order in itertools.permutations(range(size)))


def permanent(entries: list) -> mp.mpf:
    """Permanent of a small square matrix of non-negative numbers, by subsets of columns (no cancellation)."""
    sums = {0: mp.mpf(1)}
    for row in entries:
        following: dict[int, mp.mpf] = {}
        for used, value in sums.items():
            for j, entry in enumerate(row):
                if not used >> j & 1:
                    key = used | 1 << j
                    following[key] = following.get(key, mp.mpf(0)) + value * entry
        sums = following
    return sums[(1 << len(entries)) - 1]


def cumulative_kernel_one(x, x0, sigma, perm: Callable = permanent) -> tuple:
    """log-density and score [n] of one pair on a simplex in the cumulative metric.

    Reflected Brownian motion of the partial sums on the ordered set is that of the cube, modulo permutations:
    its density is the permanent of the one-dimensional kernels. The surface measure is sqrt(n) dc.
    """
    x, x0 = _on_plane(x), _on_plane(x0)
    n = len(x)
    c = [mp.fsum(x[: k + 1]) for k in range(n - 1)]
    c0 = [mp.fsum(x0[: k + 1]) for k in range(n - 1)]
    ones = [[interval_kernel(a, b, sigma) for b in c0] for a in c]
    densities = [[mp.exp(one[0]) for one in row] for row in ones]
    total = perm(densities)
    gradient = []
    for k in range(n - 1):
        slopes = [list(row) for row in densities]
        slopes[k] = [mp.exp(one[0]) * one[1] for one in ones[k]]
        gradient.append(perm(slopes) / total)
    score = [gradient[0]] + [gradient[k] - gradient[k - 1] for k in range(1, n - 1)] + [-gradient[-1]]
    return mp.log(total) - mp.log(n) / 2, score


def cumulative_kernel(x, x0, sigma) -> Kernel:
    """Kernel of a simplex, cumulative metric: (log p [rows], score in x [rows, n]) of rows [rows, n]."""
    x, x0 = np.asarray(x, dtype=float), np.asarray(x0, dtype=float)
    sigma = np.broadcast_to(np.asarray(sigma, dtype=float), (len(x),))
    log_p, score = np.empty(len(x)), np.empty(x.shape)
    for i in range(len(x)):
        one = cumulative_kernel_one(x[i], x0[i], sigma[i])
        log_p[i], score[i] = one[0], [float(s) for s in one[1]]
    return log_p, score


# ------------------------------------------------------------------------------------------- plain simulators
def fold_box(y: np.ndarray, low=0.0, high=1.0) -> np.ndarray:
    """Where a particle that would have gone to y ends when the walls of the box reflect it."""
    low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
    u = np.mod((y - low) / (high - low), 2.0)
    return low + (high - low) * np.minimum(u, 2.0 - u)


def fold_triangle(y: np.ndarray) -> np.ndarray:
    """The same for the 3-part simplex: reflect in any wall that y is behind until it is behind none."""
    y = np.array(y, dtype=float)
    for _ in range(100_000):
        behind = y < 0
        rows = behind.any(-1)
        if not rows.any():
            return y / y.sum(-1, keepdims=True)
        worst = y[rows].argmin(-1)
        some = y[rows]
        part = some[np.arange(len(some)), worst]
        some += part[:, None]
        some[np.arange(len(some)), worst] = -part
        y[rows] = some
    raise RuntimeError("folding did not end")


def fold_cumulative(y: np.ndarray) -> np.ndarray:
    """The same for a simplex in the cumulative metric: fold every partial sum, then sort."""
    return from_partial_sums(np.sort(fold_box(partial_sums(y)), axis=-1))


def symmetrise_ball(y: np.ndarray, radius: float = 1.0) -> np.ndarray:
    """2 P(y) - y for points outside the ball, P the nearest point."""
    length = np.linalg.norm(y, axis=-1, keepdims=True)
    return np.where(length > radius, y * (2 * radius / np.maximum(length, radius) - 1), y)


def noise_on_simplex(rng: np.random.Generator, rows: int, n: int, metric: str) -> np.ndarray:
    """Unit Brownian increments, sum zero: isotropic in the plane, or in the partial sums."""
    if metric == "euclidean":
        z = rng.standard_normal((rows, n))
        return z - z.mean(-1, keepdims=True)
    return rng.standard_normal((rows, n - 1)) @ difference_matrix(n).T


def simulate(
    x0: np.ndarray,
    sigma: float,
    steps: int,
    noise: Callable[[int], np.ndarray],
    fold: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Reflected Brownian motion from the rows of x0 over Brownian time sigma^2, in equal Gaussian steps."""
    x = np.array(x0, dtype=float)
    scale = sigma / math.sqrt(steps)
    for _ in range(steps):
        x = fold(x + scale * noise(len(x)))
    return x


def billiard_simplex(x: np.ndarray, displacement: np.ndarray, limit: int = 10_000) -> np.ndarray:
    """One specular path in a simplex (Euclidean metric), wall by wall, in extended precision."""
    x, v = np.array(x, dtype=np.longdouble), np.array(displacement, dtype=np.longdouble)
    n, last = len(x), -1
    for _ in range(limit):
        times = np.array([-x[i] / v[i] if v[i] < 0 and i != last else np.inf for i in range(n)])
        hit = int(times.argmin())
        if times[hit] >= 1:
            return (x + v).astype(float)
        x, v, last = x + times[hit] * v, (1 - times[hit]) * v, hit
        x[hit] = 0
        normal = -np.ones(n, dtype=np.longdouble) / n
        normal[hit] += 1
        v = v - 2 * v[hit] * n / (n - 1) * normal
    raise RuntimeError("too many bounces")


def billiard_ball(x: np.ndarray, displacement: np.ndarray, radius: float = 1.0, limit: int = 10_000) -> np.ndarray:
    """One specular path in a ball, wall by wall, in extended precision."""
    x, v = np.array(x, dtype=np.longdouble), np.array(displacement, dtype=np.longdouble)
    radius = np.longdouble(radius)
    for _ in range(limit):
        square, along, inside = v @ v, x @ v, x @ x - radius**2
        if square == 0:
            return x.astype(float)
        time = (-along + np.sqrt(np.maximum(along**2 - square * np.minimum(inside, 0), 0))) / square
        if time >= 1:
            return (x + v).astype(float)
        x = x + time * v
        x *= radius / np.sqrt(x @ x)
        v = (1 - time) * (v - 2 * (v @ x) / radius**2 * x)
    raise RuntimeError("too many bounces")


# ------------------------------------------------------------------------------------------------- quadrature
@functools.cache
def unit_quadrature(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    return (nodes + 1) / 2, weights / 2


def box_quadrature(d: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes [order^d, d] and weights of the unit cube."""
    nodes, weights = unit_quadrature(order)
    grid = np.stack(np.meshgrid(*[nodes] * d, indexing="ij"), -1).reshape(-1, d)
    mass = np.stack(np.meshgrid(*[weights] * d, indexing="ij"), -1).reshape(-1, d).prod(-1)
    return grid, mass


def simplex_quadrature(n: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes [order^(n-1), n] and weights (surface measure) of the n-part simplex, by collapsing the cube."""
    grid, mass = box_quadrature(n - 1, order)
    left, parts = np.ones(len(grid)), []
    for k in range(n - 1):
        parts.append(left * grid[:, k])
        mass = mass * (1 - grid[:, k]) ** (n - 2 - k)
        left = left * (1 - grid[:, k])
    parts.append(left)
    return np.stack(parts, -1), mass * math.sqrt(n)


def first_part_cdf(density: Callable[[np.ndarray], np.ndarray], panels: int = 60, order: int = 40) -> Callable:
    """Distribution function of the first part under a density on the 3-part simplex (surface measure)."""
    inner, inner_weight = unit_quadrature(order)
    nodes, weights = unit_quadrature(6)
    first = ((np.arange(panels)[:, None] + nodes) / panels).ravel()
    rest = (1 - first)[:, None] * inner
    points = np.stack(np.broadcast_arrays(first[:, None], rest, (1 - first)[:, None] - rest), -1)
    values = density(points.reshape(-1, 3)).reshape(len(first), order)
    marginal = math.sqrt(3) * (1 - first) * (values @ inner_weight)
    steps = (marginal.reshape(panels, 6) @ weights) / panels
    edges, heights = np.linspace(0, 1, panels + 1), np.concatenate([[0.0], np.cumsum(steps)])
    return PchipInterpolator(edges, heights)


def nearest_on_simplex(y: np.ndarray) -> np.ndarray:
    """Nearest point of the simplex by trying every support (2^n - 1 faces): brute force for small n."""
    y = np.asarray(y, dtype=float)
    best, best_distance = None, np.inf
    for size in range(1, len(y) + 1):
        for support in itertools.combinations(range(len(y)), size):
            index = list(support)
            candidate = np.zeros_like(y)
            candidate[index] = y[index] + (1 - y[index].sum()) / size
            distance = ((candidate - y) ** 2).sum()
            if candidate.min() >= -1e-15 and distance < best_distance:
                best, best_distance = np.maximum(candidate, 0), distance
    return best


# ------------------------------------------------------------------------------------------ places to test at
SIGMAS = (1e-4, 1e-3, 0.01, 0.05, 0.1, 0.2, 0.3, 0.333, 0.334, 0.4, 0.5, 1.0, 3.0, 50.0)


def interval_points(rng: np.random.Generator, rows: int, sigma: float) -> np.ndarray:
    """Points of [0, 1] [rows]: anywhere, near the faces at every scale, and on the faces."""
    away = np.where(rng.random(rows) < 0.5, 10.0 ** rng.uniform(-9, -0.3, rows), sigma * rng.random(rows))
    away = np.minimum(away, 0.5)
    near = np.where(rng.random(rows) < 0.5, away, 1 - away)
    face = (rng.random(rows) < 0.5).astype(float)
    kind = rng.random(rows)
    return np.where(kind < 0.45, rng.random(rows), np.where(kind < 0.8, near, face))


def interval_pairs(rng: np.random.Generator, rows: int, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs x, x0 [rows]: half of the x are drawn from the kernel, half are anywhere; then the corners."""
    x0 = interval_points(rng, rows, sigma)
    x = np.where(
        np.arange(rows) % 2 == 0,
        fold_box(x0 + sigma * rng.standard_normal(rows)),
        interval_points(rng, rows, sigma),
    )
    corners = np.array(list(itertools.product((0.0, 1.0, 0.5), repeat=2)))
    return np.concatenate([x, corners[:, 0]]), np.concatenate([x0, corners[:, 1]])


def box_pairs(
    rng: np.random.Generator, rows: int, sigma: float, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same in a box, [rows + 9, d]; exactly on its faces where the unit pair is."""
    low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
    columns = [interval_pairs(rng, rows, sigma / length) for length in high - low]
    return tuple(np.clip(low + (high - low) * np.stack([c[which] for c in columns], -1), low, high) for which in (0, 1))


def simplex_points(rng: np.random.Generator, rows: int, n: int) -> np.ndarray:
    """Points of a simplex [rows, n]: anywhere, with tiny parts, with parts that are zero, and the corners."""
    x = rng.dirichlet(np.ones(n), rows)
    which = rng.integers(n, size=rows)
    kind = rng.random(rows)
    x[np.arange(rows), which] = np.where(
        kind < 0.3,
        x[np.arange(rows), which],
        np.where(kind < 0.6, 10.0 ** rng.uniform(-9, -1, rows), 0.0),
    )
    x /= x.sum(-1, keepdims=True)
    corner = kind > 0.9
    x[corner] = np.eye(n)[which[corner]]
    return x


def simplex_pairs(
    rng: np.random.Generator, rows: int, n: int, sigma: float, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs x, x0 [rows, n]: half of the x from the kernel (n = 3 or cumulative), half anywhere."""
    x0, x = simplex_points(rng, rows, n), simplex_points(rng, rows, n)
    fold = fold_triangle if metric == "euclidean" else fold_cumulative
    x[::2] = fold(x0[::2] + sigma * noise_on_simplex(rng, len(x0[::2]), n, metric))
    return x, x0


# ------------------------------------------------------------------------------------------------- statistics
ALPHA = 1e-5  # of every Kolmogorov-Smirnov test
LARGEST_Z = 4.5  # of every comparison of a mean with its standard error


def z_scores(samples: np.ndarray, expected: float | np.ndarray = 0.0) -> np.ndarray:
    """(mean - expected) / standard error over the first axis; a constant that is as expected scores 0."""
    samples = np.asarray(samples, dtype=float)
    error = samples.std(0, ddof=1) / math.sqrt(len(samples))
    gap = samples.mean(0) - expected
    return np.where(np.abs(gap) < 1e-12, 0.0, gap / np.maximum(error, 1e-300))


def exchange_residuals(p: np.ndarray, target: np.ndarray) -> np.ndarray:
    """<target, phi> + div phi, [rows, n(n-1)/2], for phi = p_i p_j (e_i - e_j), i < j, on a simplex.

    Its mean is zero when the score is the conditional expectation of ``target``, given as the components of a
    covector, so that target_i - target_j is the derivative in the direction e_i - e_j.
    """
    i, j = np.triu_indices(p.shape[-1], 1)
    return p[:, i] * p[:, j] * (target[:, i] - target[:, j]) + p[:, j] - p[:, i]


def scaled_errors(
    value: np.ndarray, reference: np.ndarray, scale: np.ndarray | float, rowwise: bool = False
) -> tuple[float, float]:
    """Largest error of scale * value, absolute and relative to max(1, |scale * reference|).

    ``rowwise`` measures a vector against its own largest component.
    """
    error, size = np.abs((np.asarray(value, dtype=float) - reference) * scale), np.abs(reference * scale)
    if rowwise:
        size = size.max(-1, keepdims=True)
    return float(error.max()), float((error / np.maximum(1, size)).max())


def rounding_of_score(x: np.ndarray, x0: np.ndarray, sigma: float) -> np.ndarray:
    """How much sigma * score changes when x moves by a rounding error, [rows, 1]: no code can be better.

    A simplex point lies off its plane by about eps, and far from the start two images may weigh the same to
    within eps |x - x0| / sigma^2, while they pull with |x - x0| / sigma each.
    """
    square = ((np.asarray(x) - np.asarray(x0)) ** 2).sum(-1, keepdims=True)
    return 8 * np.finfo(float).eps * square / sigma**3
