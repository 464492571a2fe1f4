"""A product of spaces of constant curvature: vectors side by side, and coordinates around a point.

May use: torch, its factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from . import sphere_kernel
from .space_forms import Piece

__all__ = ["Space"]

_CIRCLE, _SPHERE = 2048, 8192  # directions over which a volume is summed, in two dimensions and in more
_CELLS = 256  # of each
_PROPOSALS = 1 << 16


class Space:
    """Points and vectors ``[*batch, size]``, those of the factors one after another."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = tuple(pieces)
        self.sizes = [p.size for p in pieces]
        self.size, self.dim = sum(self.sizes), sum(p.dim for p in pieces)
        self.whole = all(p.whole for p in pieces)

    def _each(self, call: Callable[..., Tensor], *vectors: Tensor) -> list[Tensor]:
        if len(self.pieces) == 1:
            return [call(self.pieces[0], *vectors)]
        parts = [v.split(self.sizes, -1) for v in vectors]
        return [call(p, *each) for p, *each in zip(self.pieces, *parts, strict=True)]

    def _joined(self, call: Callable[..., Tensor], *vectors: Tensor) -> Tensor:
        parts = self._each(call, *vectors)
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def on(self, x: Tensor, atol: float) -> Tensor:
        """Whether each part belongs to its factor, ``[*batch]``."""
        return torch.stack(self._each(lambda p, y: p.on(y, atol), x)).all(0)

    def projx(self, x: Tensor) -> Tensor:
        """Points of the space."""
        return self._joined(lambda p, y: p.projx(y), x)

    def proju(self, x: Tensor, v: Tensor) -> Tensor:
        """Tangent vectors."""
        return self._joined(lambda p, y, u: p.proju(y, u), x, v)

    def expmap(self, x: Tensor, v: Tensor) -> Tensor:
        """Ends of geodesics."""
        return self._joined(lambda p, y, u: p.expmap(y, u), x, v)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Shortest ways."""
        return self._joined(lambda p, a, b: p.logmap(a, b), x, y)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport."""
        return self._joined(lambda p, a, b, u: p.transp(a, b, u), x, y, v)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Inner product ``[*batch]``."""
        terms = self._each(lambda p, y, a, b: (p.scale(y) ** 2 * a * b).sum(-1), x, u, v)
        return terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)

    def norm(self, x: Tensor, v: Tensor) -> Tensor:
        """Lengths ``[*batch]``."""
        return self.inner(x, v, v).sqrt()

    def egrad2rgrad(self, x: Tensor, v: Tensor) -> Tensor:
        """The gradient of a function whose partial derivatives are ``v``."""
        return self._joined(lambda p, y, u: p.proju(y, u) / p.scale(y) ** 2, x, v)

    def covector(self, x: Tensor, v: Tensor) -> Tensor:
        """The inverse of :meth:`egrad2rgrad` on tangent vectors."""
        return self._joined(lambda p, y, u: p.scale(y) ** 2 * u, x, v)

    def white(self, x: Tensor, z: Tensor) -> Tensor:
        """Standard normal tangent vectors, in the metric, from standard normal numbers ``[*batch, size]``."""
        return self._joined(lambda p, y, u: p.proju(y, u) / p.scale(y), x, z)

    def frame(self, x: Tensor) -> Tensor:
        """Orthonormal tangent vectors ``[dim, *batch, size]``."""
        rows, before = [], 0
        for part in self._each(lambda p, y: p.frame(y), x):
            after = self.size - before - part.shape[-1]
            rows.append(torch.nn.functional.pad(part, (before, after)))
            before += part.shape[-1]
        return torch.cat(rows)

    def ricci(self) -> float | Tensor:
        """Ricci curvature: a number, or where the factors' differ that of each coordinate ``[size]``."""
        values = [p.ricci for p in self.pieces]
        if min(values) == max(values):
            return values[0]
        return torch.cat([torch.full((p.size,), p.ricci, dtype=torch.float64) for p in self.pieces])

    def random(self, n: int, generator: Generator | None) -> Tensor:
        """Points ``[n, size]`` in float64, near and far, among which to look for one inside."""
        return torch.cat([p.random(n, generator) for p in self.pieces], -1)

    # ------------------------------------------------------------------ around a point

    def shoot(self, centre: Tensor, v: Tensor) -> Tensor:
        """Ends ``[N, size]`` of geodesics from ``centre`` ``[size]`` whose velocities have coordinates ``[N, dim]``."""
        frame = self.frame(centre).to(v)
        return self.expmap(centre.to(v).expand(len(v), -1), v @ frame)

    def stretch(self, v: Tensor) -> Tensor:
        """Volume ``[N]`` around those ends for each unit of volume around the coordinates ``[N, dim]``."""
        parts = zip(self.pieces, v.split([p.dim for p in self.pieces], -1), strict=True)
        factors = [p.stretch(u.norm(dim=-1)) ** (p.dim - 1) for p, u in parts]
        return torch.stack(factors).prod(0)

    def draw(self, centre: Tensor, radii: Sequence[float], n: int, like: Tensor, generator: Generator | None) -> Tensor:
        """At most ``n`` independent points, uniform in the product of balls of ``radii`` around ``centre``."""
        rows, kept = [], torch.ones(n, dtype=torch.bool, device=like.device)
        for p, radius in zip(self.pieces, radii, strict=True):
            z = torch.randn((n, p.dim), generator=generator, dtype=like.dtype, device=like.device)
            if p.whole and radius >= p.injectivity:  # all of it: no need to reject
                extra = torch.randn((n, 1), generator=generator, dtype=like.dtype, device=like.device)
                rows.append(p.projx(torch.cat([z, extra], -1)))
                continue
            u = torch.rand((2, n), generator=generator, dtype=like.dtype, device=like.device)
            r = radius * u[0] ** (1 / p.dim)
            most = p.stretch(r.new_tensor(radius if p.k < 0 else 0.0)) ** (p.dim - 1)
            kept &= u[1] * most <= p.stretch(r) ** (p.dim - 1)
            v = z / z.norm(dim=-1, keepdim=True) * r.unsqueeze(-1)
            before = sum(self.sizes[: len(rows)])
            part = centre.to(like)[before : before + p.size]
            rows.append(p.expmap(part.expand(n, -1), v @ p.frame(part)))
        return torch.cat(rows, -1)[kept]

    def log_volume(self, centre: Tensor, radii: Sequence[float], depth: Callable[[Tensor], Tensor] | None) -> float:
        """Logarithm of the volume where ``depth`` ``[N]`` of points ``[N, size]`` is not negative.

        Along rays from ``centre`` in directions that are spread evenly, each up to the product of balls of ``radii``;
        where depth changes sign within a cell the share of the cell is interpolated.
        """
        if depth is None:
            return sum(sphere_kernel.log_area(p.dim) for p in self.pieces)
        total, rays = 0.0, _directions(self.dim)
        step = max(1, _PROPOSALS // _CELLS)
        sizes = [p.dim for p in self.pieces]
        for ways in rays.split(step):
            shares = torch.stack([u.norm(dim=-1) for u in ways.split(sizes, -1)], -1)
            limit = (torch.tensor(radii, dtype=ways.dtype) / shares).amin(-1, keepdim=True)
            edges = torch.linspace(0, 1, _CELLS + 1, dtype=ways.dtype) * limit
            x = self.shoot(centre, (edges.unsqueeze(-1) * ways.unsqueeze(1)).flatten(0, 1))
            f = depth(x).reshape(edges.shape)
            a, b = f[:, :-1], f[:, 1:]
            part = torch.where((a >= 0) & (b >= 0), 1.0, a.clamp(min=0) + b.clamp(min=0))
            part = part / torch.where((a >= 0) == (b >= 0), 1.0, (a - b).abs())
            part = torch.where((a < 0) & (b < 0), 0.0, part)
            start = (a < 0) & (b >= 0)  # the inner part of the cell is outside
            left = torch.where(start, 1 - part, 0.0)
            width = limit / _CELLS
            middle = edges[:, :-1] + (left + part / 2) * width
            at = (middle.unsqueeze(-1) * ways.unsqueeze(1)).flatten(0, 1)
            density = middle ** (self.dim - 1) * self.stretch(at).reshape(middle.shape)
            total += float((density * part * width).sum())
        return math.log(total / len(rays)) + sphere_kernel.log_area(self.dim - 1) if total > 0 else -math.inf


def _directions(dim: int) -> Tensor:
    """Unit vectors ``[N, dim]``, spread evenly."""
    if dim == 1:
        return torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    if dim == 2:
        turn = 2 * math.pi * (torch.arange(_CIRCLE, dtype=torch.float64) + 0.5) / _CIRCLE
        return torch.stack([turn.cos(), turn.sin()], -1)
    u = torch.quasirandom.SobolEngine(dim, scramble=True, seed=0).draw(_SPHERE, dtype=torch.float64)
    z = torch.special.ndtri(u.clamp(1e-9, 1 - 1e-9))
    ways: Tensor = z / z.norm(dim=-1, keepdim=True)
    return ways
