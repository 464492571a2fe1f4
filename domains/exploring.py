"""What is found out of a part of a curved space by asking its functions: a point inside, how far it reaches, its size.

May use: torch, the space. Points are ``[B, D]``, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from . import level_sets
from .checks import DomainError, ShapeError, SolverError
from .cut_space import CutSpace
from .level_sets import Function
from .product_space import Space

__all__ = ["cut", "draw", "extent", "middle", "rayleigh_quotient"]

_TRIED = 1 << 16  # points among which one inside is looked for, or drawn at a time
_ROUNDS = 1000
_SHELL = 1 << 13  # points at one distance, of which none is inside where the set has ended
_FIRST, _HALVINGS = 2.0**-24, 16  # share of the largest distance where the search for that begins, and how it ends
_ROOM = 1.02  # times the distance that was found
_DEEPEST, _ANCHORS = 512, 256  # points of which the deepest gives the inradius, and that are kept


def middle(space: Space, functions: Sequence[Function], start: Tensor | None, name: str) -> Tensor:
    """A point inside ``[D]``: ``start``, or of random ones that which is deepest to first order."""
    if start is not None:
        if start.shape != (space.size,):
            raise ShapeError(f"start must be one point [{space.size}], not {list(start.shape)}")
        x = space.projx(start.unsqueeze(0))
        on = bool(start.isfinite().all()) and bool(space.on(start, 1e-5))
        if not on or (functions and bool((_checked(functions, x) < 0).any())):
            raise DomainError("start lies outside the set")
        return x.squeeze(0)
    x = space.random(_TRIED, torch.Generator().manual_seed(0))
    if not functions:
        return x[0]
    x = x[(_checked(functions, x) >= 0).all(-1)]
    if not len(x):
        raise SolverError(f"none of {_TRIED} random points of {name} is inside: give one as start")
    f, g = level_sets.slopes(space, functions, x)
    return x[(f / space.norm(x.unsqueeze(1).expand_as(g), g).clamp(min=1e-12)).amin(-1).argmax()]


def extent(
    space: Space, functions: Sequence[Function], centre: Tensor, radius: float | None, name: str
) -> tuple[float, ...]:
    """Of each factor the distance from ``centre`` beyond which there is nothing of the set.

    A connected set meets every sphere around one of its points up to where it ends. So random points are
    tried at distances that double from almost nothing, and the last one is refined.
    """
    found = []
    before = 0
    for i, piece in enumerate(space.pieces):
        most = min(piece.reach(centre[before : before + piece.size]), piece.injectivity)
        before += piece.size
        if radius is not None and (radius < most or piece.whole):
            found.append(min(radius, most))
            continue
        if not functions or _meets(space, functions, centre, i, most):
            if not piece.whole:
                point = [round(v, 3) for v in centre.tolist()]
                raise DomainError(
                    f"the set reaches {most:.3g} far from the point {point} of {name}: constraints must bound it "
                    "before the chart's precision ends. Without bounds Brownian motion never becomes uniform"
                )
            found.append(most)
            continue
        near, far = 0.0, _FIRST * most
        while far < most and _meets(space, functions, centre, i, far):
            near, far = far, 2 * far
        for _ in range(_HALVINGS):
            between = (near + far) / 2
            near, far = (between, far) if _meets(space, functions, centre, i, between) else (near, between)
        found.append(min(_ROOM * far, most))
    return tuple(found)


def cut(space: Space, functions: Sequence[Function], centre: Tensor, radii: Sequence[float]) -> CutSpace:
    """The space with its walls, and the inradius as the unit of length."""
    around, one = centre.unsqueeze(0), centre.new_ones(len(functions))
    if not functions:
        return CutSpace(space, (), centre, min(p.injectivity for p in space.pieces) / math.pi, one, around)
    rough = CutSpace(space, functions, centre, min(radii), one, around)
    x = torch.cat([around, draw(rough, radii, _DEEPEST, centre, torch.Generator().manual_seed(0))])
    sizes = level_sets.values(functions, x).mean(0)
    rough = CutSpace(space, functions, centre, min(min(radii), float(rough.first_order(x).max())), sizes, x)
    return CutSpace(space, functions, centre, float(rough.walls(x)[0].amin(-1).max()), sizes, x[:_ANCHORS])


def draw(part: CutSpace, radii: Sequence[float], n: int, like: Tensor, generator: Generator | None) -> Tensor:
    """Uniform points ``[n, D]``: those inside of geodesic balls around the centre, where distances are by rejection."""
    found, missing = [like.new_empty((0, part.space.size))], n
    for _ in range(_ROUNDS):
        if missing <= 0:
            return torch.cat(found)
        x = part.space.draw(part.centre, radii, min(max(2 * missing, 1024), _TRIED), like, generator)
        x = x[part.inside(x)][:missing] if part.functions else x[:missing]
        found.append(x)
        missing -= len(x)
    raise SolverError(
        f"the set fills too little of balls of radius {list(radii)} around its middle: give start and radius"
    )


def rayleigh_quotient(space: Space, x: Tensor) -> float:
    """The least of quadratic functions of the coordinates, at uniform points ``[n, D]``; no eigenvalue is larger."""
    n, size = x.shape
    i, j = torch.triu_indices(size, size)
    eye = torch.eye(size, dtype=x.dtype)
    f = torch.cat([x, x[:, i] * x[:, j]], -1)
    partial = torch.cat([eye.expand(n, size, size), x[:, i, None] * eye[j] + x[:, j, None] * eye[i]], 1)
    slope = partial @ space.frame(x).permute(1, 2, 0)
    f = f - f.mean(0)
    energy, variance = torch.einsum("nad,nbd->ab", slope, slope) / n, f.T @ f / n
    values, vectors = torch.linalg.eigh(variance)
    kept = values > 1e-8 * values[-1]
    whiten = vectors[:, kept] * values[kept].rsqrt()
    return float(torch.linalg.eigvalsh(whiten.T @ energy @ whiten)[0])


def _checked(functions: Sequence[Function], x: Tensor) -> Tensor:
    """Values ``[B, m]``, once it is known that functions return what they should."""
    for f in functions:
        value = f(x)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            what = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"a constraint must return a tensor of floating-point numbers, not {what}")
        if value.shape != x.shape[:1]:
            raise ShapeError(
                f"a constraint returned shape {list(value.shape)} for points {list(x.shape)}; expected [B]"
            )
    return level_sets.values(functions, x)


def _meets(space: Space, functions: Sequence[Function], centre: Tensor, i: int, distance: float) -> bool:
    """Whether a point was found inside, as far as ``distance`` from ``centre`` in factor i, and anywhere in others."""
    generator, parts, before = torch.Generator().manual_seed(1), [], 0
    for k, piece in enumerate(space.pieces):
        z = torch.randn((_SHELL, piece.dim), generator=generator, dtype=torch.float64)
        u = torch.rand((_SHELL, 1), generator=generator, dtype=torch.float64)
        most = min(piece.reach(centre[before : before + piece.size]), piece.injectivity)
        before += piece.size
        far = distance if k == i else most * u**3
        parts.append(z / z.norm(dim=-1, keepdim=True) * far)
    x = space.shoot(centre, torch.cat(parts, -1))
    return bool((level_sets.values(functions, x) >= 0).all(-1).any())
