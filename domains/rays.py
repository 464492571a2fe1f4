r"""Where the walls are, by asking for membership along the axes.

May use: torch. From a point inside, rays along the axes meet the wall after t_i^- and t_i^+ (down and up). Of

.. math:: w_i = 1/t_i^- - 1/t_i^+

the direction is the inward normal, and 1/|w| tends to the distance as that falls: for a half-space w = n/d,
for a quadric {q >= 0} it is the gradient of log q (the two hits are the roots of a quadratic), between parallel walls
it vanishes in the middle. It is smooth where the set is. The estimate of the distance itself takes the nearer
hit on each axis, :math:`1/\sqrt{\sum_i 1/\min(t_i^-, t_i^+)^2}`: exact for a half-space and for boxes away from
their edges, and never more than the nearest hit.

From the wall itself all rays out end at once, and their lengths say nothing; from outside a curved wall those along
it miss it. Either way w points inwards well enough to find a point a little deeper inside, and is taken there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_MARCH = 16  # points on a ray, at squares of even shares, between two of which the wall is first met
_PARTS, _TURNS = 4, 8  # each turn narrows the root of that share to a quarter: 2^-16 in all
_NUMBERS = 1 << 22  # coordinates asked for at a time
_LEAST = 1e-8  # of a side of the box: hits nearer than that count as that far, and are off by 1 % there
_LAYER = 1e-5  # of the box: from points nearer to the wall it is looked at from twice that further in
_NEAR, _ACROSS = 0.1, 1.1  # of the box: so near, points outside look from inside, that many distances further in
_SHIFT = 0.1  # of the nearer hit, by which points are shifted for derivatives

Member = Callable[[Tensor], Tensor]


class View(NamedTuple):
    """What rays find.

    Attributes:
        points: where w is taken, ``[B, D]``: the given ones, but for those beside the wall.
        down: hits from there down each axis, ``[B, D]``.
        up: hits up each axis.
        distance: that of the given points, ``[B]``.
        slope: w (see the module), ``[B, D]``; it points inwards for points outside too.
    """

    points: Tensor
    down: Tensor
    up: Tensor
    distance: Tensor
    slope: Tensor


def look(member: Member, x: Tensor, inside: Tensor, low: Tensor, high: Tensor) -> View:
    """Distance and w.

    Args:
        member: from points ``[n, D]`` to bool ``[n]``.
        x: points ``[B, D]``.
        inside: whether they are inside, ``[B]``.
        low: corner of the box ``[D]``; beyond it all is outside.
        high: the opposite corner.
    """
    down, up = cast(member, x, inside, low, high)
    distance = torch.minimum(down, up).pow(-2).sum(-1).rsqrt()
    w = torch.where(inside.unsqueeze(-1), 1 / down - 1 / up, 1 / up - 1 / down)
    side = high - low
    steepness = (side * w).norm(dim=-1)
    rows = (steepness * torch.where(inside, _LAYER, _NEAR) > 1).nonzero().squeeze(-1)
    if len(rows):
        v = w[rows]
        across = torch.where(inside[rows], 0.0, _ACROSS / v.square().sum(-1))
        deeper = x[rows] + (across.unsqueeze(-1) + (2 * _LAYER / steepness[rows]).unsqueeze(-1) * side.square()) * v
        good = member(deeper)
        rows, deeper = rows[good], deeper[good]
        x, found = x.index_copy(0, rows, deeper), cast(member, deeper, good[good], low, high)
        down[rows], up[rows] = found
        w[rows] = 1 / found[0] - 1 / found[1]
    return View(x, down, up, distance, w)


def slope_jacobian(member: Member, view: View, low: Tensor, high: Tensor) -> Tensor:
    """Derivatives of w in x, ``[B, D, D]``, for points inside, by central differences.

    Points are shifted along an axis by at most a tenth of the distance to its nearer hit, so that they stay inside.
    """
    inside = torch.ones(len(view.points), dtype=torch.bool, device=view.points.device)
    columns = []
    for j in range(view.points.shape[-1]):
        shift = _SHIFT * torch.minimum(view.down[:, j], view.up[:, j])
        move = torch.zeros_like(view.points)
        move[:, j] = shift
        ends = [cast(member, view.points + sign * move, inside, low, high) for sign in (1, -1)]
        ahead, behind = (1 / down - 1 / up for down, up in ends)
        columns.append((ahead - behind) / (2 * shift.unsqueeze(-1)))
    return torch.stack(columns, -1)


def cast(member: Member, x: Tensor, inside: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Distances along the axes at which membership first changes, down and up each axis: two ``[B, D]``.

    Infinite where it never changes. A part of the set, or a gap, that is thinner than the spacing of 16 points on the
    ray may be missed. Arguments are those of :func:`look`.
    """
    size = max(1, _NUMBERS // (2 * x.shape[-1] ** 2 * _MARCH))
    parts = [_cast(member, a, b, low, high) for a, b in zip(x.split(size), inside.split(size), strict=True)]
    t = torch.cat(parts, 1) if parts else x.new_empty(2, 0, x.shape[-1])
    return t[0], t[1]


def _cast(member: Member, x: Tensor, inside: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Distances ``[2, B, D]`` as :func:`cast` gives them."""
    d = x.shape[-1]
    eye = torch.eye(d, dtype=x.dtype, device=x.device)
    ways = torch.stack([-eye, eye]).unsqueeze(1)  # [2, 1, D, D]
    room = torch.stack([x - low, high - x]).clamp(min=0)  # to the edge of the box, [2, B, D]

    def changed(t: Tensor) -> Tensor:
        """Whether membership is another at distances ``[m, 2, B, D]``."""
        points = x.unsqueeze(-2) + t.unsqueeze(-1) * ways
        return member(points.reshape(-1, d)).reshape(t.shape) != inside.unsqueeze(-1)

    roots = torch.arange(_MARCH + 1, dtype=x.dtype, device=x.device) / _MARCH
    differs = changed(roots[1:].square().reshape(-1, 1, 1, 1) * room)
    before = (differs.cumsum(0) == 0).sum(0)  # marks passed before the first change
    near, step = before.clamp(max=_MARCH - 1) / _MARCH, 1 / _MARCH  # roots of shares of the room
    inner = torch.arange(1, _PARTS, dtype=x.dtype, device=x.device).reshape(-1, 1, 1, 1) / _PARTS
    for _ in range(_TURNS):
        passed = (changed((near + inner * step).square() * room).cumsum(0) == 0).sum(0)
        near, step = near + passed * (step / _PARTS), step / _PARTS
    # From inside, the edge of the box is a wall; from outside, a ray that meets nothing has no end.
    beyond = torch.where(inside.unsqueeze(-1), room, torch.inf)
    hit = (near + step / 2).square() * room
    return torch.where(before == _MARCH, beyond, hit).clamp(min=_LEAST * (high - low))
