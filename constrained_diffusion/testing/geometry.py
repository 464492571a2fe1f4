"""Promises of the set itself: membership, projection, tangent space, walls, damping.

May use: torch, and a domain's public methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .bench import DOUBLE, SHARE, Bench, Finding, SkipCheck, promise, share, together

__all__ = ["PROMISES"]

_TOLERANCE = 1e-6  # of lengths, in units of the inradius, for what should be exact
_LOOSE = 1e-3  # for what a subclass may find by iteration
_FEW = 8  # dimensions up to which a metric may vary from place to place
_MOST = 1 << 24  # numbers in one tensor


@promise("contains", "compare with the closed set: True inside and on walls, False outside and for NaN")
def contains(bench: Bench) -> Finding:
    domain, x = bench.domain, bench.inside[: bench.few]
    found = [share("inside points are contained", domain.contains(x, atol=bench.atol()))]
    strange = x[:3].clone()
    for row, bad in enumerate((math.nan, math.inf, -math.inf)):
        bench.flat(strange)[row, 0] = bad
    with_bad = domain.contains(strange)
    found.append(Finding(not bool(with_bad.any()), f"NaN and infinity: {with_bad.tolist()}"))
    if bench.bounded:
        away = bench.noise(x, "far")
        far = x + 1e3 * (bench.scale + bench.norm(x).max()) * away / bench.wide(bench.norm(away))
        found.append(share("far points are not", ~domain.contains(far)))
    return together(*found)


@promise("contains agrees with project", "let contains(x) be whether project(x) leaves x where it is")
def membership(bench: Bench) -> Finding:
    y = bench.around(4 * bench.few, "membership")
    moved = bench.norm(bench.domain.project(y) - y)
    inside = bench.domain.contains(y, atol=bench.atol())
    outside = ~bench.domain.contains(y, atol=2 * _TOLERANCE * bench.scale)
    slack = _TOLERANCE * bench.scale
    return together(
        share("contained points stay", moved[inside] <= slack) if bool(inside.any()) else Finding(True, "none inside"),
        share("others move", moved[outside] > slack) if bool(outside.any()) else Finding(True, "none outside"),
        share("points off the curved set", ~bench.domain.contains(_off(bench))) if bench.turns else Finding(True, ""),
    )


@promise("project lands inside", "project on the closed set itself; keep a few units of rounding clear of the wall")
def project_inside(bench: Bench) -> Finding:
    found = []
    for dtype in (DOUBLE, torch.float32):
        y = torch.cat([bench.around(bench.few, "project"), _far(bench)]).to(dtype)
        p = bench.domain.project(y)
        good = bench.domain.contains(p, atol=bench.atol(dtype)) & bench.flat(p).isfinite().all(-1)
        found.append(share(f"{dtype}".removeprefix("torch."), good))
    return together(*found)


@promise("project is idempotent", "project(project(x)) must be project(x)")
def idempotent(bench: Bench) -> Finding:
    p = bench.domain.project(torch.cat([bench.around(bench.few, "project"), _far(bench)]))
    return _small("a second projection moves", bench.norm(bench.domain.project(p) - p), _TOLERANCE * bench.scale)


@promise("project leaves inside points", "return points inside as they are")
def inside_stays(bench: Bench) -> Finding:
    x = bench.inside[: bench.few]
    return _small("inside points move", bench.norm(bench.domain.project(x) - x), _TOLERANCE * bench.scale)


@promise("project finds the nearest point", "return the nearest point of the set, in R^n or in the metric")
def nearest(bench: Bench) -> Finding:
    bench.need_exact_walls()
    y = bench.outside(60, "nearest")
    p = bench.domain.project(y)
    rivals = max(40, min(600, _MOST // (8 * len(y) * bench.size)))
    z = bench.some(bench.inside, rivals).unsqueeze(0).expand(len(y), rivals, *bench.event)
    reach = torch.logspace(-2, 0, rivals, dtype=DOUBLE) * bench.scale
    close = p.unsqueeze(1).expand_as(z)
    close = bench.domain.expmap(close, bench.wide(reach) * bench.noise(close, "rivals") / math.sqrt(bench.domain.dim))
    allowed = bench.domain.contains(close, atol=bench.atol())
    y, p = y.unsqueeze(1), p.unsqueeze(1)
    lengths: dict[str, Callable[[Tensor], Tensor]] = {
        "R^n": lambda q: bench.norm(q - y),
        "the metric": lambda q: bench.length(p.expand_as(q), q - y),
        "geodesics": lambda q: bench.length(y.expand_as(q), bench.domain.logmap(y.expand_as(q), q)),
    }
    found = []
    for name, length in lengths.items():
        best = torch.where(allowed, length(close), math.inf).amin(1).minimum(length(z).amin(1))
        short = (length(p).squeeze(1) - best).clamp(min=0)
        found.append(_small(f"in {name}, other inside points are nearer by", short, _LOOSE * bench.scale))
        if found[-1].ok:
            return found[-1]
    return found[0]


@promise("tangent is a linear projection", "project on the tangent space: linear, idempotent, of rank dim")
def tangent(bench: Bench) -> Finding:
    domain, x = bench.domain, bench.inside[: bench.few]
    u, v = (torch.randn(x.shape, generator=bench.generator(name), dtype=DOUBLE) for name in "uv")
    tu, tv = domain.tangent(x, u), domain.tangent(x, v)
    found = [
        _small("twice differs by", bench.norm(domain.tangent(x, tu) - tu), _TOLERANCE),
        _small("linear up to", bench.norm(domain.tangent(x, 2 * u - 3 * v) - 2 * tu + 3 * tv), _TOLERANCE),
    ]
    if bench.size <= 256:
        axes = torch.eye(bench.size, dtype=DOUBLE).reshape(bench.size, *bench.event)
        trace = bench.flat(domain.tangent(x[:1].expand_as(axes), axes)).diagonal().sum()
        found.append(Finding(abs(float(trace) - domain.dim) < 1e-6, f"rank {float(trace):.6g}, dim {domain.dim}"))
    return together(*found)


@promise("white is an isometry", "take white numbers to tangent vectors that are white in inner, linearly")
def white(bench: Bench) -> Finding:
    """The images e_i of unit numbers have sum_i <e_i, u> <e_i, v> = <u, v>."""
    domain, x = bench.domain, bench.inside[: min(bench.few, 20)]
    z, u, v = (bench.noise(x, f"white {name}") for name in "zuv")
    made = domain.white(x, z)
    found = [
        _small("not tangent by", bench.norm(domain.tangent(x, made) - made), _TOLERANCE),
        _small("linear up to", bench.norm(domain.white(x, 2 * z - 3 * u) - 2 * made + 3 * domain.white(x, u)), _LOOSE),
    ]
    if bench.size <= 256:
        axes = torch.eye(bench.size, dtype=DOUBLE).reshape(bench.size, 1, *bench.event).expand(bench.size, *x.shape)
        e, u, v = domain.white(x.expand_as(axes), axes), u.expand_as(axes), v.expand_as(axes)
        along = [domain.inner(x.expand_as(axes), e, w) for w in (u, v)]
        error = (along[0] * along[1]).sum(0) - domain.inner(x, u[0], v[0])
        found.append(_small("inner products off by", error.abs(), _LOOSE))
    return together(*found)


@promise("frame is orthonormal", "return dim tangent vectors with inner products 0 and 1, in inner")
def frame(bench: Bench) -> Finding:
    if bench.domain.dim > 64:
        raise SkipCheck(f"{bench.domain.dim} vectors are too many to compare")
    x = bench.inside[:20]
    e = bench.domain.frame(x)
    gram = torch.stack([torch.stack([bench.domain.inner(x, a, b) for a in e]) for b in e])
    error = (gram - torch.eye(bench.domain.dim, dtype=DOUBLE).unsqueeze(-1)).abs().amax((0, 1))
    off = bench.norm(bench.domain.tangent(x.expand_as(e), e) - e).amax(0)
    return together(_small("Gram matrix off by", error, _TOLERANCE), _small("not tangent by", off, _TOLERANCE))


@promise("gradient in the metric", "return the vector whose inner product with tangent w is the sum of v * w, and back")
def gradient(bench: Bench) -> Finding:
    x = bench.inside[: bench.few]
    v = torch.randn(x.shape, generator=bench.generator("gradient in the metric"), dtype=DOUBLE)
    w = bench.noise(x, "gradient in the metric")
    found = bench.domain.gradient(x, v)
    error = (bench.domain.inner(x, found, w) - (bench.flat(v) * bench.flat(w)).sum(-1)).abs()
    off = bench.norm(bench.domain.tangent(x, found) - found)
    size = 1 + bench.norm(v) * bench.norm(w)
    back = bench.flat(bench.domain.covector(x, found) - v) * bench.flat(w)
    return together(
        _small("off by", error / size, _TOLERANCE),
        _small("not tangent by", off, _TOLERANCE),
        _small("its covector is off by", back.sum(-1).abs() / size, _TOLERANCE),
    )


@promise("expmap goes straight", "let expmap follow geodesics evenly, transp carry vectors along, logmap look back")
def straight(bench: Bench) -> Finding:
    """The geodesic equation by differences: at a constant velocity, carried along, with no tangent acceleration."""
    domain, x = bench.domain, bench.inside[: bench.few]
    v, w = (bench.noise(x, f"straight {i}") / math.sqrt(domain.dim) for i in range(2))
    v, step = 0.3 * bench.scale * v, 1e-3
    found = []
    for begin in (0.0, 1.0):
        y = domain.expmap(x, begin * v)
        ahead, behind = (domain.expmap(x, (begin + s * step) * v) for s in (1, -1))
        velocity, change = (ahead - behind) / (2 * step), (ahead - 2 * y + behind) / step**2
        turn = domain.tangent(y, change) + _bend(bench, y, velocity)
        off = torch.maximum(bench.norm(velocity - domain.transp(x, y, v)), bench.norm(turn))
        found.append(share(f"steady at {begin:g}", off <= _LOOSE * bench.scale, SHARE))
    y = domain.expmap(x, v)
    kept = domain.inner(y, domain.transp(x, y, v), domain.transp(x, y, w)) - domain.inner(x, v, w)
    off = bench.norm(domain.tangent(y, domain.transp(x, y, w)) - domain.transp(x, y, w))
    return together(
        *found,
        _small("at rest it moves", bench.norm(domain.expmap(x, 0 * v) - x), _TOLERANCE * bench.scale),
        _small("transp changes inner products by", kept.abs(), _TOLERANCE * bench.scale),
        _small("and leads out of the tangent space by", off, _TOLERANCE),
        _small("logmap off by", bench.norm(domain.logmap(x, y) - v), _LOOSE * bench.scale),
    )


@promise("interpolate", "lead from x (share 0) to y (share 1) inside the set")
def between(bench: Bench) -> Finding:
    x, y = bench.inside[: bench.few], bench.inside[: bench.few].flip(0)
    start, middle, end = (bench.domain.interpolate(x, y, part) for part in (0.0, 0.5, 1.0))
    ends = torch.maximum(bench.norm(start - x), bench.norm(end - y))
    inside = bench.domain.contains(middle, atol=bench.atol())
    return together(_small("ends off by", ends, _LOOSE * bench.scale), share("inside", inside))


@promise("boundary: sign of the distance", "positive inside, zero on the wall, negative outside")
def sign(bench: Bench) -> Finding:
    bench.need_walls()
    outside = bench.outside(bench.few, "sign")
    slack = _LOOSE * bench.scale
    return together(
        share("not negative inside", bench.depth >= -bench.atol()),
        share("negative outside", bench.domain.boundary(outside)[0] < 0),
        _small("on the wall it is", bench.domain.boundary(bench.on_wall)[0].abs(), slack),
    )


@promise("boundary: unit normal", "divide the normal by its length in inner, and make it tangent")
def unit(bench: Bench) -> Finding:
    bench.need_walls()
    x = torch.cat([bench.inside[: bench.few], bench.on_wall])
    n = bench.domain.boundary(x)[1]
    return together(
        _small("length off by", (bench.length(x, n) - 1).abs(), _LOOSE),
        _small("not tangent by", bench.norm(bench.domain.tangent(x, n) - n), _LOOSE),
    )


@promise("boundary: slope along the normal", "let the distance grow by t when a point moves by t along the normal")
def slope(bench: Bench) -> Finding:
    bench.need_exact_walls()
    x, _, n = _interior(bench)
    step = 1e-3 * bench.scale
    up, down = (bench.domain.boundary(bench.domain.expmap(x, s * step * n))[0] for s in (1, -1))
    rate = (up - down) / (2 * step)
    found = share("the slope is 1", (rate - 1).abs() < 0.03, SHARE)
    return Finding(found.ok, f"{found.detail}; median {float(rate.median()):.3f}")


@promise("boundary: foot on the wall", "return the distance to the wall: x - distance * normal must be on it")
def foot(bench: Bench) -> Finding:
    bench.need_exact_walls()
    x, d, n = _interior(bench)
    y = bench.domain.expmap(x, -bench.wide(d) * n)
    slack = 0.02 * d + _LOOSE * bench.scale
    good = bench.domain.boundary(y)[0].abs() <= slack
    back = bench.domain.expmap(y, bench.wide(slack) * bench.domain.transp(x, y, n))
    inside = bench.domain.contains(back, atol=_LOOSE * bench.scale)
    return share("x - distance * normal is on the wall", good & inside, SHARE)


@promise("walls: the nearest is boundary's", "return distances and inward unit normals of all walls in reach")
def walls(bench: Bench) -> Finding:
    bench.need_walls()
    x = bench.inside[: bench.few]
    distances, normals = bench.domain.walls(x)
    curvature = bench.domain.curvature(x)
    d, n = bench.domain.boundary(x)
    least, which = distances.min(-1)
    rows = torch.arange(len(x))
    same = bench.norm(normals[rows, which] - n) < _LOOSE
    some = torch.randint(distances.shape[-1], rows.shape, generator=bench.generator("walls"))
    some = torch.where(distances[rows, some].isfinite(), some, which)  # a factor of a product may have no wall
    other = normals[rows, some]
    return together(
        _small("nearest distance off by", (least - d).abs(), _LOOSE * bench.scale),
        share("its normal is boundary's", same, SHARE),
        _small("lengths of normals off by", (bench.length(x, other) - 1).abs(), _LOOSE),
        Finding(curvature.shape == distances.shape, f"{distances.shape[-1]} walls, curvature {tuple(curvature.shape)}"),
    )


@promise("curvature", "override curvature: the rate 1/R at which the wall bends, positive where the set is convex")
def curvature(bench: Bench) -> Finding:
    """Along a unit tangent t of the wall the inward normal n turns by -curvature t."""
    if bench.domain.dim < 2:
        raise SkipCheck("the wall is a point")
    x, _, n = bench.feet(0.02 * bench.scale)
    distances, _ = bench.domain.walls(x)
    claimed = bench.domain.curvature(x).gather(-1, distances.argmin(-1, keepdim=True)).squeeze(-1)
    step, bends = 0.05 * bench.scale, []
    for i in range(4):
        t = along_wall(bench, x, n, f"bend {i}")
        ends = [bench.domain.expmap(x, s * step * t) for s in (1, -1)]
        ahead, behind = (bench.domain.transp(y, x, bench.domain.boundary(y)[1]) for y in ends)
        bends.append(-bench.domain.inner(x, t, ahead - behind) / (2 * step))
    seen = torch.stack(bends)
    low, high = seen.amin(0), seen.amax(0)
    slack = 0.25 * torch.maximum(seen.abs().amax(0), claimed.abs()) + 0.1 / bench.scale
    good = (claimed >= low - slack) & (claimed <= high + slack)
    middle = seen.mean(0)
    found = share("agrees with how the normal turns", good, 0.8)
    example = int((claimed - middle).abs().argmax())
    note = f"; e.g. {float(claimed[example]):.3g} where it turns by {float(middle[example]):.3g}"
    return Finding(found.ok, found.detail + ("" if found.ok else note))


@promise("damp_normal", "at the wall remove the normal component and no other; change nothing far from it")
def damping(bench: Bench) -> Finding:
    bench.need_walls()
    width = 0.05 * bench.scale
    x = bench.on_wall
    v, n = bench.noise(x, "damping"), bench.domain.boundary(x)[1]
    damped = bench.domain.damp_normal(x, v, width)
    left = bench.domain.inner(x, damped, n).abs() / bench.length(x, v)
    deep = bench.inside[bench.depth > 0.6 * bench.scale]
    field = bench.noise(deep, "damping")
    change = bench.norm(bench.domain.damp_normal(deep, field, width) - field) / bench.norm(field)
    found = [
        share("no normal component on the wall", left < 0.05, SHARE),
        _small("change in the middle", change, _LOOSE),
    ]
    if bench.domain.dim > 1:
        x, _, n = bench.feet(1e-6 * bench.scale)
        t = along_wall(bench, x, n, "damping")
        kept = bench.domain.inner(x, bench.domain.damp_normal(x, t, width), t)
        found.append(share("the component along the wall is left", (kept - 1).abs() < 0.05, 0.8))
    return together(*found)


PROMISES = (
    contains,
    membership,
    project_inside,
    idempotent,
    inside_stays,
    nearest,
    tangent,
    white,
    frame,
    gradient,
    straight,
    between,
    sign,
    unit,
    slope,
    foot,
    walls,
    curvature,
    damping,
)


def along_wall(bench: Bench, x: Tensor, normal: Tensor, purpose: str) -> Tensor:
    """Random unit vectors, in the metric, at right angles to ``normal``."""
    t = bench.noise(x, purpose)
    t = t - bench.wide(bench.domain.inner(x, t, normal) / bench.domain.inner(x, normal, normal)) * normal
    return t / bench.wide(bench.length(x, t))


def _interior(bench: Bench) -> tuple[Tensor, Tensor, Tensor]:
    """Points that are neither at the wall nor in the very middle, with distances and normals."""
    bench.need_walls()
    chosen = (bench.depth > 0.02 * bench.scale) & (bench.depth < 0.9 * bench.scale)
    x = bench.inside[chosen][: bench.few]
    if not len(x):
        raise SkipCheck("no point between wall and middle was found")
    return x, *bench.domain.boundary(x)


def _bend(bench: Bench, y: Tensor, v: Tensor) -> Tensor:
    """What a metric that varies adds to the acceleration of coordinates: by Lagrange's equations, along a frame."""
    domain, step = bench.domain, 1e-4 * bench.scale
    total = torch.zeros_like(y)
    if domain.dim > _FEW:
        return total
    for e in domain.frame(y):
        along = (domain.inner(y + step * v, v, e) - domain.inner(y - step * v, v, e)) / (2 * step)
        across = (domain.inner(y + step * e, v, v) - domain.inner(y - step * e, v, v)) / (2 * step)
        total = total + bench.wide(along - across / 2) * e
    return total


def _far(bench: Bench) -> Tensor:
    """Points a hundred inradii and more away."""
    x = bench.inside[:40]
    return x + 100 * (bench.scale + bench.norm(x).max()) * bench.noise(x, "far")


def _off(bench: Bench) -> Tensor:
    """Points of R^n beside a curved set."""
    x = bench.inside[: bench.few]
    v = bench.noise(x, "off")
    return x + 0.3 * bench.scale * v / bench.wide(bench.norm(v))


def _small(name: str, values: Tensor, limit: float) -> Finding:
    most = float(values.max()) if values.numel() else 0.0
    return Finding(most <= limit, f"{name} {most:.1e}" + ("" if most <= limit else f" (allowed: {limit:.1e})"))
