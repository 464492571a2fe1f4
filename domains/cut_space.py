"""A curved space cut by functions: moves that are mirrored at the walls, distances and normals that carry derivatives.

May use: torch, walls that are zeros of functions. Points and vectors are ``[B, D]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import level_sets
from .level_sets import Function
from .product_space import Space

__all__ = ["CutSpace"]

_BOUNCES = 256  # and pieces of one move, before it ends where it is
_PIECE = 0.25  # of the inradius: the longest piece of a move of which the end alone is looked at
_ROWS = 1024  # of points whose distances from all anchors are compared at a time
_NUDGES = 20  # inwards, each twice as long as the one before
_ON_WALL = 1e-6  # share of a function's value that may be left where its zero was looked for
_TOUCHING = 1e-8  # inradii from a wall below which its normal is that of the function
_STEP = 1e-5  # inradii over which normals are differentiated
_MOST_BENT = 10.0  # largest curvature, over the inradius


class CutSpace:
    """The points of a space where no function is negative.

    Args:
        space: without walls.
        functions: whose zeros are the walls.
        centre: a point inside ``[D]``, in float64.
        scale: unit of length, about the inradius.
        sizes: about how large each function is inside, ``[m]``.
        anchors: some points inside ``[n, D]``, from one of which projections begin too.
    """

    def __init__(
        self,
        space: Space,
        functions: Sequence[Function],
        centre: Tensor,
        scale: float,
        sizes: Tensor,
        anchors: Tensor,
    ) -> None:
        self.space, self.functions, self.centre, self.scale = space, functions, centre, scale
        self.sizes, self.anchors = sizes, anchors

    def inside(self, x: Tensor) -> Tensor:
        """Whether no function is negative, ``[B]``."""
        return (level_sets.values(self.functions, x) >= 0).all(-1)

    # ------------------------------------------------------------------ moves

    def move(self, x: Tensor, v: Tensor) -> Tensor:
        """Ends of geodesics from points inside along tangent vectors, mirrored in the metric wherever they meet a wall.

        Pieces of a quarter of the inradius: a wall that is crossed and crossed back within one is overlooked.
        """
        space, x, v = self.space, x.clone(), v.clone()
        rows = v.any(-1).nonzero().squeeze(-1)
        for _ in range(_BOUNCES):
            if not len(rows):
                break
            y, ahead = x[rows], v[rows]
            share = (_PIECE * self.scale / space.norm(y, ahead)).clamp(max=1.0).unsqueeze(-1)
            piece = share * ahead
            end = space.expmap(y, piece)
            hit = (~self.inside(end)).nonzero().squeeze(-1)
            if len(hit):
                part = level_sets.cross(space, self.functions, y[hit], piece[hit]).unsqueeze(-1)
                share[hit] = share[hit] * part
                end[hit] = space.expmap(y[hit], part * piece[hit])
            ahead = (1 - share) * space.transp(y, end, ahead)
            if len(hit):
                ahead[hit] = self._mirrored(end[hit], ahead[hit])
            x[rows], v[rows] = end, ahead
            rows = rows[ahead.any(-1)]
        return x

    def _mirrored(self, x: Tensor, v: Tensor) -> Tensor:
        """Vectors at points of the wall, led away from the wall that is nearest."""
        f, g = level_sets.slopes(self.space, self.functions, x)
        length = self.space.norm(x.unsqueeze(1).expand_as(g), g).clamp(min=torch.finfo(x.dtype).tiny)
        which = (f / length).argmin(-1)
        rows = torch.arange(len(x), device=x.device)
        n = g[rows, which] / length[rows, which].unsqueeze(-1)
        across = self.space.inner(x, v, n)
        return v + (across.abs() - across).unsqueeze(-1) * n

    def pull_in(self, x: Tensor) -> Tensor:
        """The nearest points inside, for points of the space outside."""
        space, wide = self.space, x.double()
        starts = [None, torch.cat([self._anchor(p) for p in wide.split(_ROWS)])]
        ends = [level_sets.nearest(space, self.functions, wide, self.scale, wall=False, start=s) for s in starts]
        lacks = [(level_sets.values(self.functions, y) < -_ON_WALL * self.sizes.to(y).abs()).any(-1) for y in ends]
        ways = [space.norm(wide, space.logmap(wide, y)) for y in ends]
        best = torch.stack([torch.where(b, math.inf, w) for b, w in zip(lacks, ways, strict=True)]).argmin(0)
        y = torch.stack(ends)[best, torch.arange(len(x), device=x.device)].to(x.dtype)
        margin = 4 * torch.finfo(x.dtype).eps * self.scale
        for k in range(_NUDGES):
            rows = (~self.inside(y)).nonzero().squeeze(-1)
            if not len(rows):
                return y
            f, g = level_sets.slopes(space, self.functions, y[rows])
            length = space.norm(y[rows].unsqueeze(1).expand_as(g), g).clamp(min=torch.finfo(x.dtype).tiny)
            push = torch.where(f < 0, (margin * 2**k - f / length) / length, 0.0)
            y[rows] = space.expmap(y[rows], (push.unsqueeze(-1) * g).sum(1))
        start = self.centre.to(x).expand(len(rows), -1)  # what is still outside goes where the way from within ends
        way = space.logmap(start, y[rows])
        y[rows] = space.expmap(start, level_sets.cross(space, self.functions, start, way).unsqueeze(-1) * way)
        return y

    def _anchor(self, x: Tensor) -> Tensor:
        """The nearest of some points inside, where a descent begins that must not end in the wrong corner."""
        many = self.anchors.to(x).expand(len(x), *self.anchors.shape)
        at = x.unsqueeze(1).expand_as(many)
        nearest: Tensor = many[0][self.space.norm(at, self.space.logmap(at, many)).argmin(-1)]
        return nearest

    # ------------------------------------------------------------------ walls

    def first_order(self, x: Tensor) -> Tensor:
        """Values over slopes ``[B]``: the distance to the nearest wall to first order, negative outside."""
        f, g = level_sets.slopes(self.space, self.functions, x)
        length = self.space.norm(x.unsqueeze(1).expand_as(g), g)
        return (f / length.clamp(min=torch.finfo(x.dtype).tiny)).amin(-1)

    def walls(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distances ``[B, m]`` to the zeros of each function, and unit vectors ``[B, m, D]`` away from them.

        Where autograd asks for it they carry derivatives: distances exactly, normals by differences.
        """
        if not self.functions:
            return torch.full_like(x[:, :1], math.inf), torch.zeros_like(x).unsqueeze(1)
        pairs = [self._wall(i, x) for i in range(len(self.functions))]
        return torch.stack([d for d, _ in pairs], 1), torch.stack([n for _, n in pairs], 1)

    def curvature(self, x: Tensor) -> Tensor:
        """Mean curvatures ``[B, m]`` of the walls where they are nearest."""
        found, most = [], _MOST_BENT / self.scale
        for f in self.functions:
            foot = level_sets.nearest(self.space, [f], x.double(), self.scale, wall=True)
            found.append(level_sets.curvature(self.space, f, foot, self.scale).clamp(-most, most).to(x.dtype))
        return torch.stack(found, -1)

    def _wall(self, i: int, x: Tensor) -> tuple[Tensor, Tensor]:
        space, wide = self.space, x.detach().double()
        with torch.no_grad():
            distance, conormal, foot = self._foot(i, wide)
        follow = torch.is_grad_enabled() and x.requires_grad
        if not follow:
            return distance.to(x.dtype), space.egrad2rgrad(wide, conormal).to(x.dtype)
        step, shift = _STEP * self.scale, x - x.detach()
        slope = conormal.to(x.dtype)
        for e in space.frame(wide):
            with torch.no_grad():
                ahead, behind = (self._foot(i, space.expmap(wide, s * step * e), foot)[1] for s in (1, -1))
                turn = ((ahead - behind) / (2 * step)).to(x.dtype)
                along = space.covector(wide, e).to(x.dtype)
            slope = slope + turn * (along * shift).sum(-1, keepdim=True)
        first = distance.to(x.dtype) + (conormal.to(x.dtype) * shift).sum(-1)
        return first, space.egrad2rgrad(x, slope)

    def _foot(self, i: int, x: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Distance ``[B]`` to a wall, its partial derivatives ``[B, D]``, and the nearest point of the wall."""
        space, f = self.space, self.functions[i]
        foot = level_sets.nearest(space, [f], x, self.scale, wall=True, start=start)
        before, left = (level_sets.values([f], p).squeeze(-1) for p in (x, foot))
        way = space.logmap(x, foot)
        length = space.norm(x, way)
        sign = torch.where(before >= 0, 1.0, -1.0)
        inwards = (-sign / torch.where(length > 0, length, 1.0)).unsqueeze(-1) * way
        rows = (length < _TOUCHING * self.scale).nonzero().squeeze(-1)
        if len(rows):
            g = level_sets.slopes(space, [f], foot[rows])[1][:, 0]
            inwards[rows] = g / space.norm(foot[rows], g).clamp(min=torch.finfo(x.dtype).tiny).unsqueeze(-1)
        found = (left.abs() <= _ON_WALL * before.abs() + 1e-12 * self.sizes[i].to(x)) | (before < 0)
        distance = sign * torch.where(found, length, math.inf)
        return distance, space.covector(x, torch.where(found.unsqueeze(-1), inwards, 0.0)), foot
