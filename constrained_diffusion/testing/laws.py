"""Promises about moving, about the uniform law, and about numbers that describe the whole set.

May use: torch, and a domain's public methods.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .bench import BIAS_LIMIT, DOUBLE, Z_LIMIT, Bench, Finding, SkipCheck, promise, share, together, two_samples

__all__ = ["PROMISES", "statistics"]

_MOVES = (1e-6, 0.1, 1.0, 10.0, 1e3)  # lengths of moves, in inradii
_ENOUGH = 500  # proposals inside that make a test of uniformity
_WALK = 40  # steps of the walk that replaces proposals where a box is too empty
_CLIMB = 400  # steps towards the middle


@promise("reflect stays inside", "end every move inside, however long: where it cannot be mirrored, cut it in pieces")
def reflect_inside(bench: Bench) -> Finding:
    found = []
    for dtype in (DOUBLE, torch.float32):
        starts = [bench.inside[: bench.few]]
        if bench.bounded and bench.walled:
            starts.append(bench.on_wall)
        x = torch.cat(starts).to(dtype)
        x = x[bench.domain.contains(x, atol=bench.atol(dtype))]
        for size in _MOVES:
            y = bench.domain.reflect(x, size * bench.scale * bench.noise(x, f"move {size}"))
            good = bench.domain.contains(y, atol=bench.atol(dtype)) & bench.flat(y).isfinite().all(-1)
            found.append(share(f"moves of {size:g} inradii, {dtype}".replace("torch.", ""), good))
    bad = [f.detail for f in found if not f.ok]
    return Finding(not bad, "; ".join(bad[:3]) or f"{len(found)} times {len(x)} moves of 1e-6 to 1e3 inradii")


@promise("reflect far from walls is a sum", "return x + displacement (expmap) where that move meets no wall")
def plain_sum(bench: Bench) -> Finding:
    bench.need_exact_walls()
    x = bench.inside[bench.depth >= 0.5 * bench.scale][: bench.few]
    v = bench.noise(x, "sum")
    v = 0.2 * bench.scale * v / bench.wide(bench.length(x, v))
    error = bench.norm(bench.domain.reflect(x, v) - bench.domain.expmap(x, v))
    return share("reflect(x, v) = expmap(x, v)", error <= 1e-6 * bench.scale)


@promise("reflect keeps the uniform law", "mirror the move at the wall; do not stop, project or reject it there")
def keeps_uniform(bench: Bench) -> Finding:
    bench.need_uniform()
    start, fresh = _uniform_pair(bench, "keeps")
    x, step = start, 0.4 * bench.scale / math.sqrt(bench.domain.dim)
    generator = bench.generator("keeps")
    for _ in range(6):
        x = bench.domain.reflect(x, step * bench.domain.sample_noise(x, generator=generator))
    return two_samples(pairs(bench, x, fresh))


@promise("sample_uniform draws inside", "return points of the closed set; project away rounding errors")
def draws_inside(bench: Bench) -> Finding:
    bench.need_uniform()
    found = []
    for dtype in (DOUBLE, torch.float32):
        x = bench.domain.sample_uniform((bench.points,), generator=bench.generator("draws"), dtype=dtype)
        found.append(share(f"{dtype}".removeprefix("torch."), bench.domain.contains(x)))
    return together(*found)


@promise("sample_uniform is uniform", "draw from the uniform law of the volume; the default rejects from a box")
def is_uniform(bench: Bench) -> Finding:
    """Against points of a box that lie inside, or else moved by a random walk that keeps the uniform law."""
    bench.need_uniform()
    x = bench.uniform(bench.points, "is uniform")
    try:
        other = bench.accepted[: bench.points]
    except SkipCheck:
        other = x[:0]
    if len(other) >= _ENOUGH:
        return two_samples(pairs(bench, x, other))
    walked, step = bench.uniform(bench.points, "walk"), 0.5 * bench.scale / math.sqrt(bench.domain.dim)
    generator = bench.generator("steps")
    for _ in range(_WALK):  # Metropolis' algorithm, which asks for membership alone
        y = bench.domain.expmap(walked, step * bench.domain.sample_noise(walked, generator=generator))
        walked = torch.where(bench.wide(bench.domain.contains(y, atol=1e-9 * bench.scale)), y, walked)
    return two_samples(pairs(bench, x, walked))


@promise("bounding_box holds the set", "return the least and greatest value of every coordinate")
def box(bench: Bench) -> Finding:
    bench.need_uniform()
    low, high = bench.domain.bounding_box
    if low.shape != bench.event or high.shape != bench.event:
        return Finding(False, f"shapes {tuple(low.shape)}, {tuple(high.shape)}, not {tuple(bench.event)}")
    x, slack = bench.inside, 1e-6 * bench.scale
    good = bench.flat((x >= low.to(x) - slack) & (x <= high.to(x) + slack)).all(-1)
    seen = bench.flat(x).amax(0) - bench.flat(x).amin(0)
    return together(
        share("it holds uniform points", good),
        Finding(bool((high > low).all()), f"widths {float((high - low).min()):.3g} to {float((high - low).max()):.3g}"),
        Finding(bool(seen.isfinite().all()), "finite"),
    )


@promise("log_volume", "return the natural logarithm of the dim-dimensional volume")
def volume(bench: Bench) -> Finding:
    bench.need_uniform()
    claimed = float(bench.domain.log_volume)
    x = bench.inside[:20]
    prior, outside = (bench.domain.prior_log_prob(p, 1.0) for p in (x, x + 1e3 * bench.noise(x, "prior")))
    density = together(
        Finding(bool(((prior + claimed).abs() < 1e-6).all()), "prior_log_prob is -log_volume inside"),
        Finding(bool((outside == -math.inf).all()), "and -inf outside"),
    )
    tried, box_volume = len(bench.proposals[0]), bench.proposals[1]
    found = len(bench.accepted)
    if found < _ENOUGH:
        raise SkipCheck(f"only {found} of {tried} points of a box lie inside: too few to estimate it")
    seen = box_volume + bench.log_density + math.log(found / tried)
    error = math.sqrt((1 - found / tried) / found)
    z = (claimed - seen) / max(error, 1e-9)
    ok = abs(z) <= Z_LIMIT or abs(claimed - seen) <= BIAS_LIMIT
    return together(density, Finding(ok, f"{claimed:.4f}; by Monte Carlo {seen:.4f} +- {error:.4f}", z))


@promise("inradius", "return the radius of a ball that fits inside: not more, and not much less than the largest")
def inradius(bench: Bench) -> Finding:
    """Against the deepest point that climbing along normals reaches."""
    claimed = float(bench.domain.inradius)
    if claimed == math.inf and not bench.bounded:
        raise SkipCheck("there is no wall")
    bench.need_walls()
    x = bench.inside[bench.depth.argsort(descending=True)[:16]]
    deepest = bench.scale
    for i in range(_CLIMB):
        step = 0.3 * max(bench.scale, min(claimed, bench.domain.diameter)) * 0.985**i
        distances, normals = bench.domain.walls(x)
        weights = (-distances / step).softmax(-1)  # away from all walls that are about as near as the nearest
        way = (weights.reshape(*weights.shape, *(1,) * bench.k) * normals).sum(1)
        y = bench.domain.expmap(x, step * way)
        x = torch.where(bench.wide(bench.domain.contains(y, atol=bench.atol())), y, x)
        deepest = max(deepest, float(bench.domain.boundary(x)[0].max()))
    above = 1.1 if bench.domain.dim <= 8 else 1.5  # in many dimensions the climb stops short of the top
    ok = 0.5 * deepest <= claimed <= above * deepest
    return Finding(ok, f"{claimed:.4g}; the deepest point found is {deepest:.4g} from the wall")


@promise("diameter", "return an upper bound of the distance between two points, in the metric")
def diameter(bench: Bench) -> Finding:
    claimed = float(bench.domain.diameter)
    x = torch.cat([bench.on_wall, bench.inside[:200]]) if bench.bounded and bench.walled else bench.inside[:400]
    x = x[:: max(1, len(x) * len(x) * bench.size // (1 << 23))]
    a, b = x.unsqueeze(1).expand(len(x), *x.shape), x.unsqueeze(0).expand(len(x), *x.shape)
    seen = float(bench.length(a, bench.domain.logmap(a, b)).max())
    return Finding(seen <= claimed * (1 + 1e-6), f"{claimed:.4g}; two points found are {seen:.4g} apart")


@promise("spectral_gap", "return a lower bound of the first non-zero Neumann eigenvalue of -Laplacian, in the metric")
def gap(bench: Bench) -> Finding:
    """By Rayleigh's principle no function f has E|grad f|^2 / Var f below it, under the uniform law."""
    bench.need_uniform()
    claimed = float(bench.domain.spectral_gap)
    x = bench.uniform(4 * bench.points, "gap")
    curved = bench.turns or bench.wraps
    y = bench.flat(x) if curved else _coordinates(bench, x)
    train, held_back = y[::2], y[1::2]
    axes = torch.linalg.eigh(train.T.cov().reshape(y.shape[1], -1)).eigenvectors[:, -3:].T
    f, grad = _curved_functions(bench, x[::2], axes) if curved else _functions(train, axes)
    energy, variance = torch.einsum("nad,nbd->ab", grad, grad) / len(f), f.T @ f / len(f)
    values, vectors = torch.linalg.eigh(variance)
    whiten = vectors[:, values > 1e-6 * values.max()] * values[values > 1e-6 * values.max()].rsqrt()
    weights = whiten @ torch.linalg.eigh(whiten.T @ energy @ whiten).eigenvectors[:, 0]
    f, grad = _curved_functions(bench, x[1::2], axes) if curved else _functions(held_back, axes)
    square, steep = (f @ weights) ** 2, ((weights @ grad) ** 2).sum(-1)
    quotient = float(steep.mean() / square.mean())
    error = float((steep - quotient * square).std() / square.mean()) / math.sqrt(len(f))
    z = (claimed - quotient) / error
    ok = claimed > 0 and (z <= Z_LIMIT or claimed <= quotient * (1 + BIAS_LIMIT))
    return Finding(ok, f"{claimed:.4g}; a test function bounds it by {quotient:.4g} +- {error:.2g}", z)


PROMISES = (
    reflect_inside,
    plain_sum,
    keeps_uniform,
    draws_inside,
    is_uniform,
    box,
    volume,
    inradius,
    diameter,
    gap,
)


def statistics(bench: Bench, x: Tensor) -> dict[str, Tensor]:
    """Numbers ``[n]`` by which laws are compared: distance from the wall, coordinates, random projections."""
    flat = bench.flat(x).double()
    generator = bench.generator("statistics")
    columns = torch.randperm(bench.size, generator=generator)[:6].sort().values.tolist()
    found = {f"coordinate {i}": flat[:, i] for i in columns}
    if bench.size > 1:
        found |= {
            f"projection {i}": flat @ torch.randn(bench.size, generator=generator, dtype=DOUBLE) for i in range(4)
        }
    distance = bench.domain.boundary(x)[0]
    return found | ({"distance from the wall": distance} if bool(distance.isfinite().any()) else {})


def pairs(bench: Bench, x: Tensor, other: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """The statistics of two samples."""
    a, b = statistics(bench, x), statistics(bench, other)
    return {name: (a[name], b[name]) for name in a}


def _uniform_pair(bench: Bench, purpose: str) -> tuple[Tensor, Tensor]:
    """Two independent samples of the uniform law, made without ``sample_uniform`` where that is possible."""
    try:
        found = bench.accepted[: 2 * bench.points]
    except SkipCheck:
        found = bench.inside[:0]
    if len(found) >= 2 * _ENOUGH:
        return found[::2], found[1::2]
    return bench.uniform(bench.points, purpose), bench.uniform(bench.points, f"{purpose}, fresh")


def _coordinates(bench: Bench, x: Tensor) -> Tensor:
    """Coordinates ``[n, m]`` in which the metric is Euclidean, centred; at most 64 of them."""
    frame = bench.domain.frame(bench.inside[:1])[:64, 0]
    y = torch.stack([bench.domain.inner(x, e.expand_as(x), x - bench.inside[0]) for e in frame], -1)
    return y - y.mean(0)


def _functions(y: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
    """Polynomials ``[n, f]`` of centred coordinates ``[n, m]``, of mean zero, and their gradients ``[n, f, m]``.

    With u along the given axes ``[a, m]``: u, u^2, u^3 and u |y|^2, among whose combinations are good copies of a
    first eigenfunction: the square's is off by 0.1 %, the disc's by less.
    """
    u = (y @ axes.T).unsqueeze(-1)
    slope = axes.unsqueeze(0).expand(len(y), *axes.shape)
    square, around = (y * y).sum(-1).reshape(-1, 1, 1), y.unsqueeze(1)
    f = torch.cat([u, u**2, u**3, u * square], 1).squeeze(-1)
    grad = torch.cat([slope, 2 * u * slope, 3 * u**2 * slope, square * slope + 2 * u * around], 1)
    return _standard(f, grad)


def _curved_functions(bench: Bench, x: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
    """Functions ``[n, f]`` that are continuous on a curved set, of mean zero, and their gradients ``[n, f, dim]``.

    Powers of coordinates of R^n along ``axes`` ``[a, size]``, unless they jump as angles do, and of squared distances
    from three points.
    """
    domain = bench.domain
    step = 0.1 * bench.scale * bench.noise(x, "jumps")
    jumps = bench.flat(domain.expmap(x, step) - x - step) @ axes.T
    kept = axes[jumps.abs().amax(0) < bench.length(x, step).max()]
    values = list((bench.flat(x) @ kept.T).unbind(-1))
    slopes = [domain.gradient(x, a.reshape(bench.event).expand_as(x)) for a in kept]
    if bench.wraps:
        ways = [domain.logmap(x, p.expand_as(x)) for p in bench.inside[:3]]
        values += [domain.inner(x, v, v) for v in ways]
        slopes += [-2 * v for v in ways]
    frame = domain.frame(x)
    coordinates = [torch.stack([domain.inner(x, e, g) for e in frame], -1) for g in slopes]
    pairs = list(zip(values, coordinates, strict=True))
    f = torch.stack([v**k for v, _ in pairs for k in (1, 2, 3)], 1)
    grad = torch.stack([(k * v ** (k - 1)).unsqueeze(-1) * c for v, c in pairs for k in (1, 2, 3)], 1)
    return _standard(f, grad)


def _standard(f: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    size = f.std(0)
    return (f - f.mean(0)) / size, grad / size.unsqueeze(-1)
