"""Promises that have nothing to do with geometry: shapes, dtypes, seeds, values, finite numbers, gradients.

May use: torch, and a domain's public methods.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import torch
from torch import Tensor

from constrained_diffusion.domains import Domain

from .bench import DOUBLE, Bench, Finding, promise, together

__all__ = ["PROMISES"]

_BATCHES = ((), (7,), (2, 3), (0,))
_ANY = -1  # a size that is the method's own choice
Output = tuple[str, tuple[int, ...], Callable[[], Tensor]]


@promise(
    "project and boundary answer for each point",
    "return a distance [*batch] (without keepdim) and vectors like x, and make new tensors: change nothing in place",
)
def answers(bench: Bench) -> Finding:
    domain, bad = bench.domain, []
    x = torch.randn((4, *bench.event), generator=bench.generator("answers"), dtype=DOUBLE)
    for name in ("project", "boundary"):
        if getattr(type(domain), name) is getattr(Domain, name):
            continue
        given = x.clone()
        try:
            found = getattr(domain, name)(given)
        except Exception:
            found = None  # for the checks of its own to report
        for part, size in zip(_parts(found), ((4,), x.shape) if name == "boundary" else (x.shape,), strict=False):
            if isinstance(part, Tensor) and part.shape != size:
                bad.append(f"{name} of {list(x.shape)} gives {list(part.shape)}, not {list(size)}")
        if not torch.equal(given, x):
            bad.append(f"{name} changes the points that it is given")
    return Finding(not bad, "; ".join(bad) or "their shapes fit, and points stay as they are")


def _parts(found: object) -> tuple[object, ...]:
    return found if isinstance(found, tuple) else (found,)


@promise("event_shape and dim", "set event_shape to the torch.Size of one point and dim to the dimension of the set")
def sizes(bench: Bench) -> Finding:
    domain = bench.domain
    ok = isinstance(domain.event_shape, torch.Size) and isinstance(domain.dim, int) and 0 < domain.dim <= bench.size
    return Finding(ok, f"event_shape {domain.event_shape!r}, dim {domain.dim!r}")


@promise("shapes of outputs", "reduce over the last len(event_shape) dimensions only, and keep batch shapes ()")
def shapes(bench: Bench) -> Finding:
    bad, count = [], 0
    for batch in _BATCHES:
        for name, expected, call in _outputs(bench, batch, DOUBLE):
            count += 1
            try:
                found = tuple(call().shape)
            except Exception as error:
                bad.append(f"{name} of batch {batch} raised {_words(error)}")
                continue
            fits = len(found) == len(expected) and all(e in (f, _ANY) for f, e in zip(found, expected, strict=True))
            if not fits:
                bad.append(f"{name} of batch {batch} has shape {found}, not {_shown(expected)}")
    return _listed(bad, f"{count} outputs, batch shapes (), (7,), (2, 3), (0,)")


@promise("dtypes of outputs", "make new tensors with dtype=x.dtype, device=x.device, or move constants with .to(x)")
def dtypes(bench: Bench) -> Finding:
    bad, count = [], 0
    for dtype in (torch.float32, DOUBLE):
        for name, _, call in _outputs(bench, (7,), dtype):
            wanted = torch.bool if name == "contains" else dtype
            count += 1
            try:
                found = call().dtype
            except Exception as error:
                bad.append(f"{name} of {dtype} raised {_words(error)}")
                continue
            if found != wanted:
                bad.append(f"{name} of {dtype} is {found}")
    return _listed(bad, f"{count} outputs, float32 and float64")


@promise("seeds repeat", "draw everything random with generator=generator")
def seeds(bench: Bench) -> Finding:
    domain, x = bench.domain, bench.inside[:50]
    sigma = 0.2 * bench.scale
    calls: dict[str, Callable[[torch.Generator], Tensor]] = {
        "sample_noise": lambda g: domain.sample_noise(x, generator=g),
        "diffuse": lambda g: torch.cat(domain.diffuse(x, sigma, generator=g)),
        "noise": lambda g: domain.noise(x, sigma, generator=g),
        "sample_prior": lambda g: domain.sample_prior(50, sigma, generator=g),
    }
    if bench.bounded:
        calls["sample_uniform"] = lambda g: domain.sample_uniform(50, generator=g)
    if domain.has_exact_kernel:
        calls["sample_heat_kernel"] = lambda g: domain.sample_heat_kernel(x, sigma, generator=g)
    bad = []
    for name, call in calls.items():
        state = torch.get_rng_state()
        once, again, other = (call(torch.Generator().manual_seed(s)) for s in (1, 1, 2))
        if not torch.equal(once, again):
            bad.append(f"{name} differs for the same seed")
        if torch.equal(once, other):
            bad.append(f"{name} is the same for different seeds")
        if not torch.equal(state, torch.get_rng_state()):
            bad.append(f"{name} draws from the global generator")
    return _listed(bad, ", ".join(calls))


@promise("value: config, equality, hash", "keep every constructor argument in an attribute of the same name")
def value(bench: Bench) -> Finding:
    domain = bench.domain
    config = json.loads(json.dumps(domain.config()))
    again = Domain.from_config(config)
    checks = {
        "from_config(config()) differs": again == domain and domain == again,
        "the hash of the copy differs": hash(again) == hash(domain),
        "config() of the copy differs": again.config() == domain.config(),
        "to(float64) differs": domain.to(dtype=DOUBLE).event_shape == bench.event,
        "repr is no text": isinstance(repr(domain), str),
    }
    return _listed([name for name, good in checks.items() if not good], repr(config)[:60])


@promise("finite at centre, walls, corners", "avoid 0/0 and log 0: divide by a length only where it is positive")
def finite(bench: Bench) -> Finding:
    bad, tried = [], 0
    for x in (special_points(bench), special_points(bench).float()):
        x = x[bench.domain.contains(x, atol=bench.atol(x.dtype))]
        tried += len(x)
        for name, _, call in _outputs(bench, (len(x),), x.dtype, x):
            try:
                out = call()
            except Exception as error:
                bad.append(f"{name} raised {_words(error)}")
                continue
            unbounded = not bench.walled and name == "boundary: distance"
            if bool(out.isnan().any() | (out.isinf().any() & (not unbounded))) and not name.startswith("walls"):
                row = bench.flat(x)[_rows(~out.isfinite(), len(x))][0]
                bad.append(f"{name} at [{', '.join(f'{float(v):g}' for v in row[:4])}]")
    return _listed(list(dict.fromkeys(bad)), f"{tried} points, float32 and float64")


@promise("features", "and planes return numbers of order one, [*batch, k], always the same k, with finite gradients")
def features(bench: Bench) -> Finding:
    return together(_features(bench, "features"), _features(bench, "planes"))


def _features(bench: Bench, name: str) -> Finding:
    bad, widths, largest = [], set(), 0.0
    for dtype in (torch.float32, DOUBLE):
        for factor in (1e-3, 0.1, 1.0, 3.0):
            x = bench.inside[: bench.few].to(dtype).requires_grad_()
            sigma = torch.full((len(x),), factor * bench.scale, dtype=dtype)
            with torch.enable_grad():
                f = getattr(bench.domain, name)(x, sigma)
                fine = _finite_gradient(f, x)
            if not fine:
                bad.append(f"the gradient is not finite at sigma {float(sigma[0]):.2g}")
            f = f.detach()
            widths.add(f.shape[1])
            largest = max(largest, float(f.abs().max()))
            if not bool(f.isfinite().all()):
                bad.append(f"not finite at sigma {float(sigma[0]):.2g}")
    if len(widths) > 1:
        bad.append(f"their number changes: {sorted(widths)}")
    if not largest < 100:
        bad.append(f"as large as {largest:.3g}")
    return _listed(bad, f"{max(widths)} {name}, at most {largest:.3g}")


def _finite_gradient(f: Tensor, x: Tensor) -> bool:
    """Whether what ``f`` ``[*batch, k]`` was computed from ``x`` has a derivative, if autograd is to know one."""
    try:
        (slope,) = torch.autograd.grad(f.sum(), x, allow_unused=True) if f.requires_grad else (None,)
    except ValueError:  # found without autograd, and says so
        return True
    return slope is None or bool(slope.isfinite().all())


@promise("gradients", "let tangent, white and damp_normal be differentiable in v: score models train through them")
def gradients(bench: Bench) -> Finding:
    domain, x = bench.domain, special_points(bench)
    x = torch.cat([x[domain.contains(x, atol=bench.atol())], bench.inside[:50]])
    found = []
    with torch.enable_grad():
        for name, width in (("tangent", ()), ("white", ()), ("damp_normal", (0.3 * bench.scale,))):
            v = bench.noise(x, "gradients").requires_grad_()
            out = getattr(domain, name)(x, v, *width)
            (grad,) = torch.autograd.grad((out * out).sum() / 2, v)
            good = bool(grad.isfinite().all()) and bool((grad != 0).any())
            found.append(Finding(good, f"{name}: {'finite' if good else 'not finite, or all zero'}"))
    return together(*found)


ANSWERS = answers
PROMISES = (answers, sizes, shapes, dtypes, seeds, value, finite, features, gradients)


def special_points(bench: Bench) -> Tensor:
    """The centre, corners, extreme points and points on walls: where formulas divide by zero."""
    domain, zero = bench.domain, torch.zeros((1, *bench.event), dtype=DOUBLE)
    points = [zero, bench.inside.mean(0, keepdim=True)]
    if not bench.bounded:
        return torch.cat(points)
    try:
        low, high = domain.bounding_box
        ends = torch.rand((8, *bench.event), generator=bench.generator("corners")) < 0.5
        points += [((low + high) / 2).unsqueeze(0), torch.where(ends, low, high)]
    except Exception:  # reported where the box is checked
        ends = torch.zeros((0,))
    seen = torch.cat(points)
    projected = domain.project(seen)
    walls = [bench.on_wall[:8]] if bool(domain.boundary(bench.inside[:1])[0].isfinite()) else []
    return torch.cat([seen, projected, *walls])


def _outputs(bench: Bench, batch: tuple[int, ...], dtype: torch.dtype, x: Tensor | None = None) -> list[Output]:
    """Every output of a domain's methods: its name, the shape it should have, and how to get it."""
    d, event = bench.domain, tuple(bench.event)
    if x is None:
        x = bench.some(bench.inside, max(math.prod(batch), 1))[: math.prod(batch)].to(dtype).reshape(*batch, *event)
        x = d.project(x) if x.numel() else x  # rounding to float32 may lead out
    v, g = bench.noise(x, "outputs") * 0.1 * bench.scale, bench.generator("outputs")
    sigma = torch.full(batch, 0.3 * bench.scale, dtype=dtype)
    point, m = (*batch, *event), _ANY
    out: list[Output] = [
        ("contains", batch, lambda: d.contains(x)),
        ("project", point, lambda: d.project(x + 3 * v)),
        ("boundary: distance", batch, lambda: d.boundary(x)[0]),
        ("boundary: normal", point, lambda: d.boundary(x)[1]),
        ("walls: distances", (*batch, m), lambda: d.walls(x)[0]),
        ("walls: normals", (*batch, m, *event), lambda: d.walls(x)[1]),
        ("curvature", (*batch, m), lambda: d.curvature(x)),
        ("reflect", point, lambda: d.reflect(x, 3 * v)),
        ("tangent", point, lambda: d.tangent(x, v)),
        ("inner", batch, lambda: d.inner(x, v, v)),
        ("white", point, lambda: d.white(x, v)),
        ("sample_noise", point, lambda: d.sample_noise(x, generator=g)),
        ("frame", (d.dim, *point), lambda: d.frame(x)),
        ("damp_normal", point, lambda: d.damp_normal(x, v, 0.2)),
        ("damp_normal, widths", point, lambda: d.damp_normal(x, v, sigma)),
        ("features", (*batch, m), lambda: d.features(x, sigma)),
        ("planes", (*batch, m, *event), lambda: d.planes(x, sigma)),
        ("diffuse: point", point, lambda: d.diffuse(x, sigma, generator=g)[0]),
        ("diffuse: target", point, lambda: d.diffuse(x, 0.3 * bench.scale, generator=g)[1]),
        ("noise", point, lambda: d.noise(x, sigma, generator=g)),
    ]
    if bench.bounded:
        out.append(("sample_uniform", point, lambda: d.sample_uniform(batch, generator=g, dtype=dtype)))
        out.append(("prior_log_prob", batch, lambda: d.prior_log_prob(x, 1.0)))
    if d.has_exact_kernel:
        out.append(("heat_kernel_log_prob", batch, lambda: d.heat_kernel_log_prob(x, x, sigma)))
        out.append(("heat_kernel_score", point, lambda: d.heat_kernel_score(x, x, sigma)))
        out.append(("sample_heat_kernel", point, lambda: d.sample_heat_kernel(x, sigma, generator=g)))
    return out


def _rows(bad: Tensor, count: int) -> Tensor:
    """Which of ``count`` rows have a bad entry; outputs with another leading dimension count as a whole."""
    if bad.shape[:1] == (count,):
        return bad.reshape(count, -1).any(-1)
    return torch.ones(count, dtype=torch.bool)


def _listed(bad: list[str], note: str) -> Finding:
    more = f" (and {len(bad) - 4} more)" if len(bad) > 4 else ""
    return Finding(not bad, "; ".join(bad[:4]) + more if bad else note)


def _shown(expected: tuple[int, ...]) -> str:
    return "(" + ", ".join("m" if e == _ANY else str(e) for e in expected) + ")"


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:90] if str(error) else ''}"
