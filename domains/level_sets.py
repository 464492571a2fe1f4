r"""Walls on a curved space that are given as the zeros of smooth functions: crossings, nearest points, curvature.

May use: torch, and a space without walls. Points and vectors are ``[B, D]``. A function f is not negative inside; its
partial derivatives come from autograd, and every length is measured in the metric.

The nearest point y of a wall f = 0 is where the way back to x is normal to the wall. It is found by steps
:math:`\delta` that minimise :math:`|\delta - a \log_y x|^2` where :math:`f(y) + \langle \nabla f, \delta \rangle = 0`
(of a set with several walls: not negative, for each): the normal part is Newton's step, the tangential one a descent
of the distance, whose length a is that of Barzilai & Borwein (1988). Both converge faster than linearly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .product_space import Space

__all__ = ["cross", "curvature", "nearest", "slopes", "values"]

Function = Callable[[Tensor], Tensor]

_CAP = 40  # steps towards a nearest point
_BISECTIONS = 80  # of a search for a crossing, at most
_SWEEPS = 30  # over the walls, where several are near
_SMALL, _LARGE = 0.02, 50.0  # shortest and longest tangential step, in units of the way left
_LAST = 4  # of those steps, which lead straight to the wall
_CLOSE = 1e-9  # in inradii, of a nearest point
_LEVEL = 1e3  # inradii that Newton's step is long where a function counts as having no slope
_BEND = 1e-4  # in inradii, over which normals are compared


def values(functions: Sequence[Function], x: Tensor) -> Tensor:
    """What the functions are, ``[B, m]``; NaN counts as outside."""
    with torch.no_grad():
        out = torch.stack([f(x).to(x.dtype).reshape(len(x)) for f in functions], -1)
    return torch.where(out.isnan(), -torch.inf, out)


def slopes(space: Space, functions: Sequence[Function], x: Tensor) -> tuple[Tensor, Tensor]:
    """Values ``[B, m]`` and gradients in the metric ``[B, m, D]``."""
    found, gradients = [], []
    for f in functions:
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            value = f(leaf)
            (partial,) = torch.autograd.grad(value.sum(), leaf)
        found.append(value.detach())
        gradients.append(space.egrad2rgrad(x, partial.nan_to_num()))
    return torch.stack(found, -1), torch.stack(gradients, 1)


def cross(space: Space, functions: Sequence[Function], x: Tensor, v: Tensor) -> Tensor:
    """The share ``[B]`` of the move ``v`` that leads from ``x`` inside to the first wall; the end of it is outside.

    By false position (in its Illinois form) between a point inside and one outside, every fifth time and at first by
    bisection: where ``x`` is on a wall itself, nothing can be learnt from what is left there of the function.
    What is returned is inside, within rounding of the wall.
    """
    low, high = torch.zeros_like(x[:, 0]), torch.ones_like(x[:, 0])
    f_low, f_high = (values(functions, y).amin(-1) for y in (x, space.expmap(x, v)))
    least = 2 * torch.finfo(x.dtype).eps
    before = torch.zeros_like(low)  # on which side the last point was: 1 inside, -1 outside
    for k in range(_BISECTIONS):
        width = high - low
        share = f_low / (f_low - f_high)
        share = torch.where(share.isfinite() & (low > 0) & (k % 5 != 4), share, 0.5)
        middle = low + torch.minimum((share * width).clamp(min=least), (width - least).clamp(min=0))
        f = values(functions, space.expmap(x, middle.unsqueeze(-1) * v)).amin(-1)
        inside = f >= 0
        f_low = torch.where(inside, f, torch.where(before < 0, f_low / 2, f_low))
        f_high = torch.where(inside, torch.where(before > 0, f_high / 2, f_high), f)
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
        before = torch.where(inside, 1.0, -1.0)
        if bool((high - low <= 2 * least).all()):
            break
    return low


def nearest(
    space: Space, functions: Sequence[Function], x: Tensor, scale: float, *, wall: bool, start: Tensor | None = None
) -> Tensor:
    """The nearest points ``[B, D]`` of the wall of one function, or of the set where no function is negative.

    Args:
        space: in which both lie.
        functions: of the walls; one of them where ``wall``.
        x: points in float64.
        scale: unit of length, about the inradius; steps are at most that long.
        wall: whether to go to the zeros of the function, not to where it is not negative.
        start: where to begin, by default ``x``.
    """
    y = (_off_the_middle(space, functions, x, scale) if start is None else start).clone()
    pace = x.new_ones(len(x))
    last, moved = torch.zeros_like(x), torch.zeros_like(x)  # what was left to go along the wall, and what was gone
    rows = torch.arange(len(x), device=x.device)
    for k in range(_CAP):
        at = y[rows]
        f, g = slopes(space, functions, at)
        way = space.logmap(at, x[rows])
        many = at.unsqueeze(1).expand_as(g)
        gram = space.inner(many.unsqueeze(2), g.unsqueeze(2), g.unsqueeze(1))
        toward = space.inner(many, g, way.unsqueeze(1))
        a = pace[rows]
        push = _pushes(gram, f + a.unsqueeze(-1) * toward, free=wall)
        held = _pushes(gram, toward, free=True, among=None if wall else push > 0)
        along = way + (held.unsqueeze(-1) * g).sum(1)
        if k:
            turn = space.inner(at, moved[rows], last[rows] - along)
            fitted = space.inner(at, moved[rows], moved[rows]) / turn
            a = torch.where((turn > 0) & fitted.isfinite(), fitted, 1.0).clamp(_SMALL, _LARGE) * (k < _CAP - _LAST)
            push = _pushes(gram, f + a.unsqueeze(-1) * toward, free=wall)
        step = a.unsqueeze(-1) * way + (push.unsqueeze(-1) * g).sum(1)
        length = space.norm(at, step)
        step = step * (scale / length.clamp(min=scale)).unsqueeze(-1)
        end = space.expmap(at, step)
        y[rows] = end
        gone = a.unsqueeze(-1) * along * (scale / length.clamp(min=scale)).unsqueeze(-1)
        moved[rows], last[rows] = space.transp(at, end, gone), space.transp(at, end, along)
        rows = rows[length > _CLOSE * scale]
        if not len(rows):
            break
    return y


def curvature(space: Space, function: Function, y: Tensor, scale: float) -> Tensor:
    """Mean of the principal curvatures ``[B]`` of the wall at points ``y`` of it: minus the mean slope of normals."""
    total, step = torch.zeros_like(y[:, 0]), _BEND * scale
    for e in space.frame(y):
        ends = [space.expmap(y, s * step * e) for s in (1, -1)]
        ahead, behind = (space.transp(p, y, _normal(space, function, p)) for p in ends)
        total -= space.inner(y, e, ahead - behind) / (2 * step)
    return total / max(1, space.dim - 1)


def _normal(space: Space, function: Function, x: Tensor) -> Tensor:
    g = slopes(space, [function], x)[1][:, 0]
    return g / space.norm(x, g).clamp(min=torch.finfo(x.dtype).tiny).unsqueeze(-1)


def _pushes(gram: Tensor, lack: Tensor, *, free: bool, among: Tensor | None = None) -> Tensor:
    """Multiples p ``[B, m]`` of the gradients such that lack + gram p is zero; or not negative, with p not negative.

    By sweeps of Gauss & Seidel over the walls, a single step where there is one.
    """
    own = gram.diagonal(dim1=-2, dim2=-1)
    push = torch.zeros_like(lack)
    for _ in range(1 if lack.shape[-1] == 1 else _SWEEPS):
        for j in range(lack.shape[-1]):
            rest = lack[:, j] + (gram[:, j] * push).sum(-1) - own[:, j] * push[:, j]
            value = torch.where(own[:, j] > 0, -rest / torch.where(own[:, j] > 0, own[:, j], 1.0), 0.0)
            if not free:
                value = value.clamp(min=0)
            if among is not None:
                value = torch.where(among[:, j], value, 0.0)
            push[:, j] = value
    return push


def _off_the_middle(space: Space, functions: Sequence[Function], x: Tensor, scale: float) -> Tensor:
    """``x``, but a little aside where a function has no slope there, as in the middle of a disc."""
    f, g = slopes(space, functions, x)
    many = x.unsqueeze(1).expand_as(g)
    level = (_LEVEL * scale * space.norm(many, g) < f.abs()).any(-1, keepdim=True)
    return torch.where(level, space.expmap(x, 0.05 * scale * space.frame(x).mean(0)), x)
