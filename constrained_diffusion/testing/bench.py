"""What all checks of a domain share: points in and around it, its scale, and how evidence is judged.

May use: torch, scipy (imported where used), and a domain's public methods.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from constrained_diffusion.domains import Domain

Z_LIMIT = 4.5  # standard errors that chance reaches once in 150,000 tries
BIAS_LIMIT = 0.03  # relative; smaller ones may be the error of a finite number of steps
P_LIMIT = 1e-6  # of two-sample tests
_STEPS = 100  # of a simulated path
_DENSE = 16  # dimensions up to which a metric may vary from place to place
_TUBE = 0.1  # half the width of the tube around a curved set, in its inradii
SHARE = 0.9  # of the points at which a pointwise law must hold: edges and medial axes are exceptions
DOUBLE = torch.float64


class Finding(NamedTuple):
    """Whether a promise was kept, what was seen, and the largest z-score."""

    ok: bool
    detail: str
    z: float | None = None


class SkipCheck(Exception):  # noqa: N818 - it is no error
    """The promise does not apply here, or cannot be tried; the message says why."""


@dataclass(frozen=True)
class Promise:
    """A promise, how to try it, and what to do when it is broken."""

    name: str
    cure: str
    check: Callable[[Bench], Finding]


def promise(name: str, cure: str) -> Callable[[Callable[[Bench], Finding]], Promise]:
    """Make a promise of the function that tries it."""
    return lambda check: Promise(name, cure, check)


class Bench:
    """A domain on the bench.

    Args:
        domain: what is checked.
        points: points at which geometry is tried, and draws in tests of the uniform law.
        paths: noised points in each test of ``diffuse``.
        seed: of everything random.
    """

    def __init__(self, domain: Domain, points: int, paths: int, seed: int) -> None:
        self.domain, self.points, self.paths, self.seed = domain, points, paths, seed
        self.event = torch.Size(domain.event_shape)
        self.k, self.size = len(self.event), self.event.numel()

    # ------------------------------------------------------------------ shapes

    def generator(self, purpose: str) -> Generator:
        """A source of randomness of its own for each purpose, so that no check depends on another."""
        return torch.Generator().manual_seed((self.seed * 7919 + zlib.crc32(purpose.encode())) % 2**63)

    def flat(self, v: Tensor) -> Tensor:
        """Events as vectors, ``[*batch, size]``."""
        return v.reshape(*v.shape[: v.ndim - self.k], self.size)

    def wide(self, value: Tensor) -> Tensor:
        """A ``[*batch]`` tensor with the event's dimensions, each of size one."""
        return value.reshape(value.shape + (1,) * self.k)

    def norm(self, v: Tensor) -> Tensor:
        """Euclidean length ``[*batch]``."""
        out: Tensor = self.flat(v).norm(dim=-1)
        return out

    def length(self, x: Tensor, v: Tensor) -> Tensor:
        """Length ``[*batch]`` in the metric."""
        return self.domain.inner(x, v, v).clamp(min=0).sqrt()

    def atol(self, dtype: torch.dtype = DOUBLE) -> float:
        """The rounding error that the library grants a point that should be inside."""
        return 64 * torch.finfo(dtype).eps * max(1.0, float(self.domain.magnitude))

    # ------------------------------------------------------------------ points

    @cached_property
    def bounded(self) -> bool:
        """Whether there is a uniform law. A volume that cannot be had is for its own check to report."""
        try:
            return float(self.domain.log_volume) < math.inf
        except Exception:
            return True

    def need_uniform(self) -> None:
        """Skip a check that needs a uniform law."""
        if not self.bounded:
            raise SkipCheck("infinite volume: there is no uniform law")

    @cached_property
    def walled(self) -> bool:
        """Whether there is a wall."""
        return bool(self.domain.boundary(self.inside[:1])[0].isfinite().all())

    def need_walls(self) -> None:
        """Skip a check that needs a wall."""
        if not self.walled:
            raise SkipCheck("there is no wall: the distance to it is infinite")

    def need_exact_walls(self) -> None:
        """Skip a check of what the domain says it only estimates."""
        if not self.domain.has_exact_walls:
            raise SkipCheck("boundary and project are estimates here: has_exact_walls is False")

    def uniform(self, count: int, purpose: str) -> Tensor:
        """Draws ``[count, *event_shape]`` of the domain's own uniform law."""
        x = self.domain.sample_uniform((count,), generator=self.generator(purpose), dtype=DOUBLE)
        if x.shape != (count, *self.event):
            raise ValueError(f"sample_uniform(({count},)) has shape {list(x.shape)}, not {[count, *self.event]}")
        return x

    @cached_property
    def inside(self) -> Tensor:
        """Points inside ``[points, *event_shape]``, which checks of geometry start from."""
        generator = self.generator("inside")
        if not self.bounded:
            return self.domain.sample_prior((self.points,), 1.0, generator=generator, dtype=DOUBLE)
        try:
            x = self.uniform(self.points, "inside")
            good = self.domain.contains(x)
            if not bool(x.isfinite().all()) or int(good.sum()) < 0.5 * self.points:
                raise ValueError("sample_uniform draws points that are not inside")
            return x[good]
        except Exception:  # it has a check of its own; the others go on with the best there is
            y = torch.randn((self.points, *self.event), generator=generator, dtype=DOUBLE)
            return self.domain.project(float(self.domain.magnitude) * y)

    @cached_property
    def depth(self) -> Tensor:
        """Distance ``[points]`` of :attr:`inside` from the wall."""
        return self.domain.boundary(self.inside)[0]

    @cached_property
    def scale(self) -> float:
        """The unit of length: the largest distance from the wall that was met, or one where there is no wall.

        Not the domain's own ``inradius``, which has a check of its own.
        """
        deepest = float(self.depth.max())
        return deepest if 0 < deepest < math.inf else float(self.domain.magnitude)

    def noise(self, x: Tensor, purpose: str) -> Tensor:
        """Random tangent vectors at ``x``, made without the domain's own noise; of length about sqrt(dim)."""
        z = torch.randn(x.shape, generator=self.generator(purpose), dtype=x.dtype)
        return self.domain.tangent(x, z)

    def around(self, count: int, purpose: str) -> Tensor:
        """Points inside and outside, near and far, all reached along tangent vectors."""
        x = self.some(self.inside, count)
        sizes = torch.tensor([0.3, 1.0, 4.0], dtype=x.dtype)[torch.arange(len(x)) % 3] * self.scale
        return self.domain.expmap(x, self.wide(sizes) * self.noise(x, purpose))

    def outside(self, count: int, purpose: str) -> Tensor:
        """Points beyond the walls by more than rounding; skips the check where none were found."""
        y = self.around(4 * count, purpose)
        y = y[~self.domain.contains(y, atol=1e-6 * self.scale)][:count]
        if not len(y):
            raise SkipCheck("no point outside was found")
        return y

    @cached_property
    def on_wall(self) -> Tensor:
        """Points of the wall, by projection from outside."""
        return self.domain.project(self.outside(self.few, "on the wall"))

    @property
    def few(self) -> int:
        """Points for checks that cost more than a glance."""
        return min(self.points, 400)

    @staticmethod
    def some(x: Tensor, count: int) -> Tensor:
        """The first ``count`` rows, taken again from the start where there are fewer."""
        return x[torch.arange(count) % len(x)]

    def feet(self, height: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Points at a ``height`` over the wall, mostly clear of corners: below the deepest points.

        Returns:
            Points ``[n, *event_shape]``, their depth before they were moved ``[n]``, and normals there.
        """
        self.need_walls()
        order = self.depth.argsort(descending=True)[: max(50, min(len(self.depth) // 3, self.few))]
        x, d = self.inside[order], self.depth[order]
        n = self.domain.boundary(x)[1]
        x = self.domain.expmap(x, -self.wide(d - height) * n)
        there, n = self.domain.boundary(x)
        good = self.domain.contains(x, atol=self.atol()) & ((there - height).abs() <= 0.1 * height + 1e-3 * self.scale)
        if not bool(good.any()):
            raise SkipCheck("boundary leads from no point to the wall")
        return x[good], d[good], n[good]

    @cached_property
    def start(self) -> tuple[Tensor, float]:
        """One point near the wall, repeated ``[paths, *event_shape]``, and a sigma to noise it by."""
        try:
            start = self.feet(0.2 * self.scale)[0][0]
        except SkipCheck:
            start = self.inside[0]
        return start.expand(self.paths, *self.event), 0.5 * self.scale

    @cached_property
    def end(self) -> Tensor:
        """The ends of paths of many small reflected steps from ``start``."""
        x, sigma = self.start
        generator = self.generator("reference")
        for _ in range(_STEPS):
            x = self.domain.reflect(x, sigma / math.sqrt(_STEPS) * self.domain.sample_noise(x, generator=generator))
        return x

    # ------------------------------------------------------------------ flat sets and curved ones

    @cached_property
    def turns(self) -> bool:
        """Whether the tangent space is not the same everywhere: a curved set within R^n."""
        if self.domain.dim == self.size:
            return False
        first, other = self._tangent_maps
        return float((first - other).abs().max()) > 1e-9

    @cached_property
    def wraps(self) -> bool:
        """Whether the shortest way between points is not the difference of their coordinates."""
        x, y = self.inside[: self.few], self.inside[: self.few].flip(0)
        return float(self.norm(self.domain.logmap(x, y) - (y - x)).max()) > 1e-6 * self.scale

    @cached_property
    def _tangent_maps(self) -> tuple[Tensor, Tensor]:
        axes = torch.eye(self.size, dtype=DOUBLE).reshape(self.size, *self.event)
        first, other = (
            self.flat(self.domain.tangent(x.expand_as(axes), axes)) for x in (self.inside[0], self.inside[-1])
        )
        return first, other

    @cached_property
    def plane(self) -> Tensor:
        """A Euclidean orthonormal basis ``[dim, size]`` of the plane a flat domain lies in."""
        if self.domain.dim == self.size:
            return torch.eye(self.size, dtype=DOUBLE)
        rows: Tensor = torch.linalg.svd(self._tangent_maps[0]).Vh[: self.domain.dim]
        return rows

    @cached_property
    def proposals(self) -> tuple[Tensor, float]:
        """Uniform points of a box in the domain's plane that holds the domain, and the log-volume of that box.

        Around a curved set: points of R^n, and the box's volume by that of the ball that a thin tube has across.
        """
        if self.size > 64:
            raise SkipCheck(f"{self.size} coordinates are too many to fill a box at random")
        if self.turns:
            return self._around_curved_set()
        if self.domain.dim == self.size:
            low, high = (self.flat(b) for b in self.domain.bounding_box)
            centre = torch.zeros(self.size, dtype=DOUBLE)
        else:
            centre = self.flat(self.inside).mean(0)
            y = (self.flat(torch.cat([self.inside, self.on_wall])) - centre) @ self.plane.T
            room = 0.1 * (y.amax(0) - y.amin(0))
            low, high = y.amin(0) - room, y.amax(0) + room
        count = 1 << 16 if self.size <= 16 else 1 << 13
        u = torch.rand((count, self.domain.dim), generator=self.generator("proposals"), dtype=DOUBLE)
        x = centre + (low + (high - low) * u) @ self.plane
        return x.reshape(-1, *self.event), float((high - low).log().sum())

    @property
    def accepted(self) -> Tensor:
        """Those proposals that lie inside: uniform whatever ``sample_uniform`` does."""
        return self._accepted[0]

    @property
    def log_density(self) -> float:
        """Logarithm of the volume for each unit of that of R^n, where that is greatest; 0 in a constant metric."""
        return self._accepted[1]

    @cached_property
    def _accepted(self) -> tuple[Tensor, float]:
        x = self.proposals[0]
        if self.turns:
            x = self._in_tube(x)
        else:
            x = x[self.domain.contains(x, atol=self.atol() if self.domain.dim < self.size else 0.0)]
        if self.domain.dim > _DENSE or not len(x):
            return x, 0.0
        e = self.flat(self.domain.frame(x)).movedim(0, -2)
        log_density = -torch.linalg.slogdet(e @ e.mT).logabsdet / 2
        most = float(log_density.max())
        if most - float(log_density.min()) < 1e-9:
            return x, 0.0
        u = torch.rand(len(x), generator=self.generator("density"), dtype=DOUBLE)
        return x[u < (log_density - most).exp()], most

    @property
    def _tube(self) -> float:
        return _TUBE * min(self.scale, float(self.domain.magnitude))

    def _around_curved_set(self) -> tuple[Tensor, float]:
        low, high = (self.flat(b) for b in self.domain.bounding_box)
        low, high = low - self._tube, high + self._tube
        u = torch.rand((1 << 16, self.size), generator=self.generator("proposals"), dtype=DOUBLE)
        x = (low + (high - low) * u).reshape(-1, *self.event)
        across = self.size - self.domain.dim
        log_ball = across * math.log(self._tube * math.sqrt(math.pi)) - math.lgamma(across / 2 + 1)
        return x, float((high - low).log().sum()) - log_ball

    def _in_tube(self, y: Tensor) -> Tensor:
        """The nearest points of those ``y`` that lie straight above or below the set, nearer than the tube is wide.

        Such points fill a volume of the set's times that of a ball across, but for curvature (the square of the width),
        and their nearest points are as uniform.
        """
        x = self.domain.project(y)
        away = self.norm(y - x)
        along = self.norm(self.domain.tangent(x, y - x))
        return x[(away < self._tube) & (along <= 1e-6 * away + self.atol())]


# ---------------------------------------------------------------------- evidence


def judge(name: str, values: Tensor, size: Tensor | float = 1.0, bias_limit: float = BIAS_LIMIT) -> Finding:
    """Whether the mean of ``values`` ``[n]`` is zero: broken if it is significant and not small against ``size``."""
    n = len(values)
    mean, spread = float(values.mean()), float(values.std())
    error = spread / math.sqrt(n) if spread > 0 else math.ulp(1.0)
    unit = float(torch.as_tensor(size).abs().double().mean()) or 1.0
    z, bias = mean / error, mean / unit
    ok = abs(z) <= Z_LIMIT or abs(bias) <= bias_limit
    return Finding(ok, f"{name}: {100 * bias:+.1f} % +- {100 * error / unit:.1f}", z)


def worst(findings: list[Finding], note: str = "") -> Finding:
    """All kept or not; details of the broken ones, or of the one with the largest z-score."""
    if not findings:
        raise SkipCheck("nothing could be tried")
    bad = [f for f in findings if not f.ok]
    top = max(bad or findings, key=lambda f: abs(f.z) if f.z is not None and f.z == f.z else math.inf)
    if bad:
        more = f" (and {len(bad) - 3} more)" if len(bad) > 3 else ""
        return Finding(False, "; ".join(f.detail for f in bad[:3]) + more, top.z)
    return Finding(True, f"{len(findings)} tests{note}; largest {top.detail}", top.z)


def two_samples(statistics: dict[str, tuple[Tensor, Tensor]]) -> Finding:
    """Kolmogorov-Smirnov tests between pairs of samples ``[n]``, ``[m]``; z is the normal equivalent of p."""
    from scipy import stats

    findings = []
    for name, (a, b) in statistics.items():
        if not bool(a.isfinite().all() & b.isfinite().all()):
            findings.append(Finding(False, f"{name} is not finite"))
            continue
        test = stats.ks_2samp(a.numpy(), b.numpy(), method="asymp")
        z = float(stats.norm.isf(max(test.pvalue, 1e-300) / 2))
        findings.append(Finding(test.pvalue > P_LIMIT, f"{name}: laws differ by {test.statistic:.3f}", z))
    return worst(findings)


def share(name: str, good: Tensor, least: float = 1.0) -> Finding:
    """Whether a pointwise law ``[n]`` holds at (nearly) all points."""
    held = int(good.sum())
    if not good.numel():
        raise SkipCheck("no suitable point was found")
    return Finding(held >= least * good.numel(), f"{name} at {held} of {good.numel()} points")


def together(*findings: Finding) -> Finding:
    """Several things that make one promise."""
    bad = [f.detail for f in findings if not f.ok]
    z = max((abs(f.z) for f in findings if f.z is not None), default=None)
    return Finding(not bad, "; ".join(bad or [f.detail for f in findings]), z)
