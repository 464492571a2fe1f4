"""Boxes of any shape: the unit square, a prior's box, images. Everything is exact and separates over the axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import torch
from torch import Generator, Tensor

from . import interval
from .affine import FAR, Affine
from .base import Domain
from .checks import DomainError, ShapeError, batch_shape, check_scale, plain
from .euclidean import event_shape
from .specs import Extent, numbers, round_outwards

__all__ = ["Hypercube"]

_PLAIN = 1e6  # sides up to which, and down to one over which, the units are left alone
_FEW = 16  # coordinates up to which a network reads eigenfunctions of each as well

Bound = float | Sequence[float] | Tensor


class Hypercube(Domain):
    """The box ``low <= x <= high``, elementwise.

    The kernel is a product of interval kernels (:mod:`~constrained_diffusion.domains.interval`), sampled
    exactly by folding a Gaussian.

    Args:
        shape: event shape, such as ``2`` or ``(3, 32, 32)``.
        low: lower bounds, a number or something that broadcasts to ``shape``.
        high: upper bounds, likewise; finite and greater than ``low``.

    Raises:
        ValueError: a bound is not finite, of the wrong shape, or ``low >= high`` somewhere.
    """

    has_exact_kernel = True

    wall_curvature = (0.0, 0.0)

    specs: ClassVar[dict[str, str]] = {
        "box": "columns that vary; bounds from all rows, rounded outwards, or box:LOW,HIGH (--low, --high: by column)",
        "cube": "numbers between 0 and 1",
    }

    def __init__(self, shape: int | tuple[int, ...], low: Bound = 0.0, high: Bound = 1.0) -> None:
        self.event_shape = event_shape(shape)
        self.shape = tuple(self.event_shape)
        self.dim = self.event_shape.numel()
        self.low, self.high = _bound("low", low, self.event_shape), _bound("high", high, self.event_shape)
        low64, high64 = self.bounding_box
        sides = high64 - low64
        if not bool((sides > 0).all()):
            where = (sides <= 0).nonzero()[0].tolist()
            raise ValueError(
                f"low must be below high; at index {where} low={low64[tuple(where)]:g}, high={high64[tuple(where)]:g}"
            )
        self.magnitude = float(torch.maximum(low64.abs(), high64.abs()).max())
        self.log_volume = float(sides.log().sum())
        self.spectral_gap = (math.pi / float(sides.max())) ** 2
        self.inradius = float(sides.min()) / 2

    @classmethod
    def from_data(cls, data: Tensor | Extent, spec: str = "box") -> Hypercube:
        """The box around data, rounded outwards; ``box:LOW,HIGH``, numbers for each side ``box:a,b;c,d``, or ``cube``.

        Either side of the semicolon may be left out, and is then chosen by the data.
        """
        extent = Extent.of(data)
        word, _, argument = spec.partition(":")
        count = len(extent.low)
        if word == "cube":
            if argument:
                raise ValueError(f"{spec}: cube is the unit cube and takes no bounds; write box:{argument}")
            return cls(count)
        sides = argument.split(";") if ";" in argument else argument.split(",") if argument else ["", ""]
        if len(sides) != 2:
            raise ValueError(f"{spec}: write box:LOW,HIGH, or give --low and --high with one number for each column")
        given = [numbers(spec, side, count) if side else None for side in sides]
        low, high = (x if g is None else g for x, g in zip((extent.low, extent.high), given, strict=True))
        if given[0] is None or given[1] is None:
            flat = (low >= high).nonzero()
            if len(flat):
                i = int(flat[0])
                a, b = float(low[i]), float(high[i])
                what = f"is constant ({a:g})" if a == b else f"has no room from {a:g} to {b:g}"
                raise DomainError(f"{extent.names[i]} {what}: leave it out, or give its bounds (--low, --high)")
        around = torch.tensor(
            [round_outwards(*pair) for pair in zip(low.tolist(), high.tolist(), strict=True)], dtype=torch.float64
        ).T
        return cls(count, *(x if g is None else g for x, g in zip(around, given, strict=True)))

    @cached_property
    def bounding_box(self) -> tuple[Tensor, Tensor]:
        """The bounds as float64 tensors ``[*event_shape]``."""
        low, high = (torch.as_tensor(b, dtype=torch.float64).cpu() for b in (self.low, self.high))
        return low.expand(self.event_shape), high.expand(self.event_shape)

    def contains(self, x: Tensor, atol: float = 0.0) -> Tensor:
        """Whether every coordinate lies in its interval, ``[*batch]``."""
        self._check(x=x)
        low, high = self._bounds(x)
        k = x.ndim - len(self.event_shape)
        if isinstance(low, Tensor) or isinstance(high, Tensor):
            return ((x >= low - atol) & (x <= high + atol)).flatten(k).all(-1)
        least, most = torch.aminmax(x.flatten(k), dim=-1)  # NaN comes through, and compares as False
        return (least >= low - atol) & (most <= high + atol)

    def project(self, x: Tensor) -> Tensor:
        """Clip every coordinate to its interval."""
        self._check(x=x)
        return interval.clip(x, *self._bounds(x))

    def reflect(self, x: Tensor, displacement: Tensor) -> Tensor:
        """Fold every coordinate back: the specular move, exact for any displacement."""
        x, displacement = self._check_move(x, displacement)
        return interval.fold(x + displacement, *self._bounds(x))

    def boundary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distance ``[*batch]`` to the nearest face (outside: minus the distance to the box), inward normal."""
        self._check(x=x)
        low, high = self._bounds(x)
        flat = torch.minimum(x - low, high - x).flatten(x.ndim - len(self.event_shape))
        axis = flat.argmin(-1, keepdim=True)
        nearest = flat.gather(-1, axis)
        lower = (x - low).flatten(x.ndim - len(self.event_shape)).gather(-1, axis) <= nearest
        normal = torch.zeros_like(flat).scatter(-1, axis, torch.where(lower, 1.0, -1.0).to(x.dtype))
        back = (self.project(x) - x).flatten(x.ndim - len(self.event_shape))
        gap = back.norm(dim=-1, keepdim=True)
        normal = torch.where(gap > 0, back / torch.where(gap > 0, gap, 1.0), normal)
        return torch.where(gap > 0, -gap, nearest).squeeze(-1), normal.reshape(x.shape)

    def walls(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """All 2 ``dim`` faces: distances ``[*batch, 2 dim]``, normals ``[*batch, 2 dim, *event_shape]``."""
        low, high = self._bounds(x)
        k = x.ndim - len(self.event_shape)
        distances = torch.cat([(x - low).flatten(k), (high - x).flatten(k)], -1)
        eye = torch.eye(self.dim, dtype=x.dtype, device=x.device)
        normals = torch.cat([eye, -eye]).reshape(2 * self.dim, *self.event_shape)
        return distances, normals.expand(*self._batch(x), 2 * self.dim, *self.event_shape)

    def damp_normal(self, x: Tensor, v: Tensor, width: float | Tensor) -> Tensor:
        """Each component is damped by its own two faces."""
        self._check(x=x, v=v)
        low, high = self._bounds(x)
        scale = self.expand(check_scale("width", width, self._batch(x), x))
        half = (high - low) / 2
        reach = torch.minimum(scale, half / 2) if isinstance(half, Tensor) else scale.clamp(max=half / 2)
        return v * torch.tanh(torch.minimum(x - low, high - x).clamp(min=0) / reach)

    def sample_uniform(
        self,
        shape: int | tuple[int, ...],
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Independent uniform points ``[*shape, *event_shape]``."""
        size = batch_shape(shape) + self.event_shape
        u = torch.rand(size, generator=generator, device=device, dtype=dtype)
        low, high = self._bounds(u)
        return interval.clip(low + (high - low) * u, low, high)

    def heat_kernel_log_prob(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
        """Log-density ``[*batch]``: the sum of the axes' interval kernels."""
        x, x0, scale = self._check_pair(x, x0, sigma)
        terms = interval.log_prob(x, x0, *self._bounds(x), self.expand(scale))
        return terms.flatten(x.ndim - len(self.event_shape)).sum(-1)

    def heat_kernel_score(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
        """Score ``[*batch, *event_shape]``: |sigma * score| is off by 1e-6 at most, 1e-5 in float32."""
        x, x0, scale = self._check_pair(x, x0, sigma)
        low, high = self._bounds(x)
        by_rows = not (torch.compiler.is_compiling() or x.requires_grad or x0.requires_grad or scale.requires_grad)
        if by_rows and isinstance(low, float) and isinstance(high, float):
            flat = (x.reshape(-1, self.dim), x0.reshape(-1, self.dim))
            return interval.score_by_rows(*flat, low, high, scale.reshape(-1)).reshape(x.shape)
        return interval.score(x, x0, low, high, self.expand(scale))

    def sample_heat_kernel(self, x0: Tensor, sigma: float | Tensor, *, generator: Generator | None = None) -> Tensor:
        """Exact draws: fold ``x0 + sigma z``."""
        x0, scale = self._check_noising(x0, sigma)
        z = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        return interval.fold(x0 + self.expand(scale) * z, *self._bounds(x0))

    def sample_bridge(
        self, x0: Tensor, x: Tensor, below: float | Tensor, sigma: float | Tensor, *, generator: Generator | None = None
    ) -> Tensor:
        """Exact draws: each coordinate's path unfolds to a Brownian bridge on the line, to an image of ``x``."""
        x, x0, scale, less = self._check_bridge(x, x0, below, sigma)
        return interval.bridge(x0, x, *self._bounds(x), self.expand(less), self.expand(scale), generator)

    def normalised(self, x: Tensor) -> tuple[Domain, Affine | None]:
        """The unit cube, if the sides differ: noise that blurs the shortest would never reach across the longest.

        Also if a side is out of all proportion, or small for where it lies: single precision would not resolve it.
        """
        low, high = self.bounding_box
        sides = high - low
        side = float(sides.flatten()[0])
        if bool((sides == side).all()) and 1 / _PLAIN <= side <= _PLAIN and self.magnitude <= FAR * side:
            return self, None
        return Hypercube(self.shape), Affine(low, sides)

    def covering(self, x: Tensor, margin: float = 0.0) -> Affine:
        """Each coordinate's range fills its side, but for a margin at both ends."""
        low, high = self.bounding_box
        wide = x.double().cpu()
        least, most = wide.amin(0), wide.amax(0)
        width = torch.where(most > least, most - least, 1.0)
        least = torch.where(most > least, least, least - width / 2)
        scale = width / ((high - low) * (1 - 2 * margin))
        return Affine(least - scale * (low + margin * (high - low)), scale)

    def features(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Coordinates scaled to [-1, 1], and each one's distances to its faces against ``sigma``.

        Where coordinates are few, also some eigenfunctions cos(k pi x), which draw finer detail.
        """
        parts = self.planes(x, sigma)
        if self.dim <= _FEW:
            low, high = self._bounds(x)
            angle = math.pi * (x - low) / (high - low)
            k = x.ndim - len(self.event_shape)
            parts = torch.cat([parts, *(torch.cos(n * angle).unsqueeze(k) for n in (2, 4, 8))], k)
        return parts.flatten(x.ndim - len(self.event_shape))

    def planes(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Coordinates scaled to [-1, 1], and their distances to both faces against ``sigma``: ``m`` is 3."""
        low, high = self._bounds(x)
        s = self.expand(sigma)
        a, b = x - low, high - x
        parts = [(a - b) / (high - low), a / (a + s), b / (b + s)]
        return torch.stack(parts, x.ndim - len(self.event_shape))

    def _bounds(self, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """The bounds as numbers, or as tensors that fit ``like``."""
        low, high = (b.to(like) if isinstance(b, Tensor) else b for b in (self.low, self.high))
        return low, high


def _bound(name: str, value: Bound, shape: torch.Size) -> Tensor | float:
    """A bound as a plain number where it is one, else as a float64 tensor of the event's shape."""
    value = plain(name, value)
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64)
        tensor = tensor.expand(shape).contiguous() if tensor.ndim else tensor
    except (TypeError, ValueError, RuntimeError):
        raise ShapeError(f"{name} must be a number or broadcast to shape {list(shape)}; got {value!r}") from None
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} must be finite; for unbounded data use Euclidean")
    first = tensor.flatten()[0]
    return float(first) if bool((tensor == first).all()) else tensor
