r"""Promises of noising: the noise, its law, denoising targets, and the heat kernel where there is one.

A target u is unbiased if its expectation given start and end is the score of the kernel. Then, for every
field :math:`\phi` that has no component across the wall at the wall, :math:`E[u \cdot \phi(X)] = -E[div\, \phi(X)]`: an
identity that asks for no kernel. The fields here depend on the start too, since averaged over a
uniform start both sides vanish whatever u is. Divergences are traces of finite differences along a frame.

May use: torch, and a domain's public methods.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from .bench import (
    BIAS_LIMIT,
    DOUBLE,
    Z_LIMIT,
    Bench,
    Finding,
    SkipCheck,
    judge,
    promise,
    share,
    together,
    two_samples,
    worst,
)
from .laws import pairs

__all__ = ["PROMISES"]

Field = Callable[[Tensor], Tensor]

_SIGMAS = (0.1, 0.5, 1.0)  # in inradii
_STARTS = 128  # different ones near the wall
_PATCH = 24  # points at which a patch of the wall is tried
_LEAST_SHARE = 0.05  # of points that count when a kernel is integrated over uniform ones
_DEAR = 4  # bridges drawn by resampling cost thirty kernels each: one path in four has one
_WHOLE_FRAME = 4  # dimensions up to which a divergence takes all directions


@promise("sample_noise is white and tangent", "draw tangent vectors with E <z, v>^2 = <v, v> in inner")
def white(bench: Bench) -> Finding:
    domain = bench.domain
    x = bench.some(bench.inside, max(bench.paths, 1000))
    z = domain.sample_noise(x, generator=bench.generator("white"))
    off = float(bench.norm(domain.tangent(x, z) - z).max())
    found = [judge("squared length", domain.inner(x, z, z) / domain.dim - 1)]
    for i in range(5):
        v = domain.tangent(x, bench.noise(x[:1], f"direction {i}").expand_as(x))
        component = domain.inner(x, z, v) / bench.length(x, v)
        found += [judge(f"direction {i}: variance", component**2 - 1), judge(f"direction {i}: mean", component)]
    return together(Finding(off <= 1e-6, f"not tangent by {off:.1e}"), worst(found))


@promise("diffuse stays inside", "return finite points inside and finite tangent targets")
def stays_inside(bench: Bench) -> Finding:
    found = []
    for dtype in (DOUBLE, torch.float32):
        x0 = bench.inside[: bench.few].to(dtype)
        x0 = x0[bench.domain.contains(x0, atol=bench.atol(dtype))]
        for factor in (0.01, 0.3, 2.0):
            x, u = bench.domain.diffuse(x0, factor * bench.scale, generator=bench.generator("stays inside"))
            name = f"sigma of {factor:g} inradii, {dtype}".replace("torch.", "")
            good = bench.domain.contains(x, atol=bench.atol(dtype)) & bench.flat(u).isfinite().all(-1)
            tangent = bench.norm(bench.domain.tangent(x, u) - u) <= 1e-4 * (bench.norm(u) + 1 / bench.scale)
            found += [share(f"points inside, {name}", good), share(f"targets tangent, {name}", tangent)]
    bad = [f.detail for f in found if not f.ok]
    return Finding(not bad, "; ".join(bad[:3]) or f"{len(found) // 2} times {len(x0)} points")


@promise("targets are unbiased inside", "return targets u with E[u . phi] = -E[div phi]: check factors, signs, walls")
def unbiased(bench: Bench) -> Finding:
    """Fields that vanish on the wall: distance times x - x0, and times the start's own normal."""
    domain, found = bench.domain, []
    has_wall = bool(bench.depth.isfinite().all())
    for where in ("uniform starts", "near a wall") if has_wall else ("all starts",):
        for factor in _SIGMAS:
            sigma = factor * bench.scale
            name = f"{where}, sigma {factor:g} inradii"
            if where == "near a wall":
                x0, _, normal = _near_wall(bench, sigma)
            else:
                x0 = bench.some(bench.inside, bench.paths)
                normal = domain.boundary(x0)[1]
            x, u = domain.diffuse(x0, sigma, generator=bench.generator(name))

            def fields(y: Tensor, x0: Tensor = x0, normal: Tensor = normal) -> Tensor:
                d = domain.boundary(y)[0] if has_wall else torch.ones(len(y), dtype=DOUBLE)
                away = bench.wide(d) * _away(bench, y, x0)
                if not has_wall:
                    return away.unsqueeze(0)
                return torch.stack([away, bench.wide(d) * domain.tangent(y, normal)])

            found += _identities(bench, name, x, u, fields)
    return worst(found, f" of {bench.paths} paths")


@promise("targets are unbiased along walls", "keep the target's part along the wall; give the wall's curvature")
def unbiased_along_walls(bench: Bench) -> Finding:
    """A field that lives on a patch of the wall around the start, where it runs along the wall."""
    if bench.domain.dim < 2:
        raise SkipCheck("the wall is a point")
    found = []
    for factor in _SIGMAS:
        sigma = factor * bench.scale
        x0, reach = _patches(bench, *_near_wall(bench, sigma)[:2], sigma)
        if not len(x0):
            continue
        x, u = bench.domain.diffuse(x0, sigma, generator=bench.generator(f"along {factor}"))
        found += _identities(bench, f"sigma {factor:g} inradii", x, u, _along(bench, x0, reach))
    if not found:
        raise SkipCheck("no patch of the wall without an edge was found")
    return worst(found, f" of {bench.paths} paths")


@promise("diffuse has the law of reflection", "noise must have the law of many small reflected steps")
def law(bench: Bench) -> Finding:
    (x0, sigma), end = bench.start, bench.end
    x, _ = bench.domain.diffuse(x0, sigma, generator=bench.generator("law"))
    return two_samples(pairs(bench, x, end))


@promise("each sample has its own sigma", "broadcast sigma [*batch] over the event, one value for each point")
def own_sigma(bench: Bench) -> Finding:
    """Spreads of two groups of one batch against those of batches with one sigma."""
    domain, n = bench.domain, max(bench.paths // 2, 200)
    x0 = bench.inside[bench.depth.argmax()].expand(2 * n, *bench.event)
    sigmas = (0.1 * bench.scale, 0.6 * bench.scale)
    mixed = torch.tensor(sigmas, dtype=DOUBLE).repeat(n)
    found = []
    noise: dict[str, Callable[[Tensor, float | Tensor, Generator], tuple[Tensor, Tensor]]] = {
        "diffuse": lambda x, s, g: domain.diffuse(x, s, generator=g),
        "noise": lambda x, s, g: (domain.noise(x, s, generator=g), torch.zeros_like(x)),
    }
    for name, call in noise.items():
        x, u = call(x0, mixed, bench.generator(f"mixed {name}"))
        for group, sigma in enumerate(sigmas):
            alone, v = call(x0[:n], sigma, bench.generator(f"alone {name} {group}"))
            for what, a, b in (("spread", (x - x0)[group::2], alone - x0[:n]), ("target", u[group::2], v)):
                a, b = (domain.inner(x0[:n], w, w) for w in (a, b))
                if what == "spread" or name == "diffuse":
                    label = f"{what} in {name} at sigma {sigma:.3g}, mixed against alone"
                    found.append(judge(label, a - b, (a + b) / 2, 3 * BIAS_LIMIT))
    return worst(found)


@promise("kernel integrates to one", "divide the kernel by its integral over the domain's volume")
def normalised(bench: Bench) -> Finding:
    """E p / uniform density = 1 under the uniform law, and p's moments are those of the sampler."""
    _need_kernel(bench)
    bench.need_uniform()
    domain, found = bench.domain, []
    y = bench.uniform(4 * bench.points, "normalised")
    for i, factor in enumerate((0.5, 1.0, 2.0, 4.0)):
        x0, sigma = bench.inside[i].expand_as(y), factor * bench.scale
        ratio = (domain.heat_kernel_log_prob(y, x0, sigma) + domain.log_volume).exp()
        if float(ratio.sum()) ** 2 < _LEAST_SHARE * len(y) * float((ratio * ratio).sum()):
            continue  # a few points would carry the mean
        found.append(judge(f"integral at sigma {sigma:.3g}", ratio - 1))
        x = domain.sample_heat_kernel(x0[: bench.points], sigma, generator=bench.generator(f"moments {i}"))
        scatter = domain.inner(x0, y - x0, y - x0)
        away = domain.inner(x0[: len(x)], x - x0[: len(x)], x - x0[: len(x)])
        by_density, by_draws = (scatter * ratio).mean(), away.mean()
        error = float((((scatter * ratio).var() / len(y)) + away.var() / len(x)).sqrt())
        z, bias = float(by_density - by_draws) / error, float((by_density - by_draws) / by_draws)
        note = f"squared distance at sigma {sigma:.3g}: density against draws {100 * bias:+.1f} %"
        found.append(Finding(abs(z) <= Z_LIMIT or abs(bias) <= BIAS_LIMIT, note, z))
    return worst(found)


@promise("kernel score is the gradient", "return the gradient in x of heat_kernel_log_prob, in the metric")
def gradient(bench: Bench) -> Finding:
    """Against central differences, along random directions of the tangent space."""
    _need_kernel(bench)
    domain, found = bench.domain, []
    for factor in (0.1, 0.5, 2.0):
        sigma = factor * bench.scale
        x0 = bench.inside[: bench.few]
        x = domain.sample_heat_kernel(x0, sigma, generator=bench.generator(f"gradient {factor}"))
        step = 1e-3 * min(sigma, bench.scale)
        clear = domain.boundary(x)[0] > 4 * step
        x, x0 = x[clear], x0[clear]
        score = domain.heat_kernel_score(x, x0, sigma)
        t = bench.noise(x, f"gradient {factor}")
        t = t / bench.wide(bench.length(x, t))
        ends = [domain.expmap(x, s * step * t) for s in (1, -1)]
        ahead, behind = (domain.heat_kernel_log_prob(end, x0, sigma) for end in ends)
        error = (domain.inner(x, score, t) - (ahead - behind) / (2 * step)).abs() * sigma
        found.append(share(f"at sigma {sigma:.3g}", error < 0.02 * (1 + sigma * bench.length(x, score)), 0.98))
    return together(*found)


@promise("kernel's draws have its law", "draw from the kernel: exactly, or by many small reflected steps")
def draws(bench: Bench) -> Finding:
    _need_kernel(bench)
    (x0, sigma), end = bench.start, bench.end
    x = bench.domain.sample_heat_kernel(x0, sigma, generator=bench.generator("draws"))
    return two_samples(pairs(bench, x, end))


@promise("bridge has the law of the path", "draw z in proportion to K_below(z | x0) K_rest(x | z)")
def bridge(bench: Bench) -> Finding:
    """Averaged over where it ends, a bridge has the law of the kernel at the time between."""
    _need_kernel(bench)
    x0, sigma = bench.start[0][::_DEAR], bench.start[1]
    generator = bench.generator("bridge")
    x = bench.domain.sample_heat_kernel(x0, sigma, generator=generator)
    found = []
    for part in (0.4, 0.9):
        z = bench.domain.sample_bridge(x0, x, part * sigma, sigma, generator=generator)
        y = bench.domain.sample_heat_kernel(x0, part * sigma, generator=generator)
        found.append(two_samples(pairs(bench, z, y)))
    return together(*found)


@promise("kernel: absence is said", "raise NotImplementedError in log_prob and score where has_exact_kernel is False")
def absent(bench: Bench) -> Finding:
    if bench.domain.has_exact_kernel:
        raise SkipCheck("there is a kernel")
    x, bad = bench.inside[:2], []
    for name, arguments in (
        ("heat_kernel_log_prob", (x, x, 0.1)),
        ("heat_kernel_score", (x, x, 0.1)),
    ):
        try:
            getattr(bench.domain, name)(*arguments)
        except NotImplementedError:
            continue
        bad.append(name)
    return Finding(not bad, f"no NotImplementedError from {', '.join(bad)}" if bad else "NotImplementedError, twice")


PROMISES = (
    white,
    stays_inside,
    law,
    own_sigma,
    unbiased,
    unbiased_along_walls,
    normalised,
    gradient,
    draws,
    bridge,
    absent,
)


def _identities(bench: Bench, name: str, x: Tensor, target: Tensor, fields: Field) -> list[Finding]:
    """Judge E[target . phi + div phi] = 0 for fields ``[f, n, *event_shape]`` at points ``[n, *event_shape]``."""
    phi, divergence = fields(x), _divergence(bench, x, fields)
    gains = torch.stack([bench.domain.inner(x, target, p) for p in phi])
    return [
        judge(f"{name}, field {i + 1}", gain + div, div)
        for i, (gain, div) in enumerate(zip(gains, divergence, strict=True))
    ]


def _divergence(bench: Bench, x: Tensor, fields: Field) -> Tensor:
    """Traces ``[f, n]`` of the fields' derivatives: over a frame, or in many dimensions along two random vectors."""
    domain, step = bench.domain, 1e-4 * bench.scale
    if domain.dim <= _WHOLE_FRAME:
        directions = list(domain.frame(x))
    else:
        generator = bench.generator("divergence")
        directions = [domain.sample_noise(x, generator=generator) for _ in range(2)]
    total = torch.zeros(1, dtype=DOUBLE)
    for e in directions:
        ends = [domain.expmap(x, s * step * e) for s in (1, -1)]
        ahead, behind = ([domain.transp(y, x, p) for p in fields(y)] for y in ends)
        change = [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]
        total = total + torch.stack([domain.inner(x, e, c) for c in change])
    return total if domain.dim <= _WHOLE_FRAME else total / len(directions)


def _away(bench: Bench, y: Tensor, x0: Tensor) -> Tensor:
    """The way from ``x0``; where shortest ways jump it ends smoothly one unit of length away."""
    if not bench.wraps:
        return bench.domain.tangent(y, y - x0)
    way = bench.domain.logmap(y, x0)
    bump = (1 - (bench.length(y, way) / bench.scale) ** 2).clamp(min=0) ** 2
    return -bench.wide(bump) * way


def _near_wall(bench: Bench, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Starts ``[paths, *event_shape]`` within sigma of the wall, mostly clear of corners; depth before; normals."""
    lows = [bench.feet(share_of * min(sigma, 0.5 * bench.scale)) for share_of in (0.05, 0.3, 0.8)]
    parts = [torch.cat([low[i][: _STARTS // 3] for low in lows]) for i in range(3)]
    x0, depth, normal = (bench.some(p, bench.paths) for p in parts)
    return x0, depth, normal


def _patches(bench: Bench, x0: Tensor, depth: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Starts whose surroundings have one smooth wall, and how far these reach ``[n]``.

    A patch is refused if the normal turns by more than its size allows between any two of its points: an edge.
    """
    distinct = min(len(x0), _STARTS)
    chosen, reach = x0[:distinct], torch.zeros(distinct, dtype=DOUBLE)
    for part in (0.7, 0.35, 0.2):
        size = (part * depth[:distinct]).clamp(max=2.5 * sigma)
        smooth = _is_smooth(bench, chosen, size)
        reach = torch.where((reach == 0) & smooth, size, reach)
    kept = reach > 0
    if not bool(kept.any()):
        return x0[:0], depth[:0]
    return bench.some(chosen[kept], bench.paths), bench.some(reach[kept], bench.paths)


def _is_smooth(bench: Bench, x0: Tensor, size: Tensor) -> Tensor:
    """Whether normals around starts ``[s, *event_shape]`` are a smooth field."""
    centre = x0.unsqueeze(1).expand(len(x0), _PATCH, *bench.event)
    z = bench.noise(centre, "patch")
    radius = size.unsqueeze(1) * torch.rand(z.shape[:2], generator=bench.generator("radius"), dtype=DOUBLE)
    y = bench.domain.expmap(centre, bench.wide(radius / bench.length(centre, z)) * z)
    d, n = bench.domain.boundary(y)
    used = bench.domain.contains(y, atol=bench.atol()) & (d < size.unsqueeze(1))
    steps, turns = (bench.flat(v).unsqueeze(1) - bench.flat(v).unsqueeze(2) for v in (y, n))
    both = used.unsqueeze(1) & used.unsqueeze(2)
    steep = turns.norm(dim=-1) * size.reshape(-1, 1, 1) > steps.norm(dim=-1) + 1e-6 * bench.scale
    smooth: Tensor = ~(steep & both).flatten(1).any(-1)
    return smooth


def _along(bench: Bench, x0: Tensor, reach: Tensor) -> Field:
    r"""The field :math:`b(|v| / r) (v - c(d / r) n \langle n, v \rangle)`, v = x - x0, r the reach.

    The bumps b and c end smoothly at 1.
    """
    domain = bench.domain

    def field(y: Tensor) -> Tensor:
        v = domain.tangent(y, y - x0)
        d, n = domain.boundary(y)
        bump = (1 - (bench.length(y, v) / reach) ** 2).clamp(min=0) ** 2
        close = (1 - d / reach).clamp(0, 1) ** 2 * domain.inner(y, n, v)
        return (bench.wide(bump) * (v - bench.wide(close) * n)).unsqueeze(0)

    return field


def _need_kernel(bench: Bench) -> None:
    if not bench.domain.has_exact_kernel:
        raise SkipCheck("no closed kernel exists")
