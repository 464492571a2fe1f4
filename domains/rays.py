r"""Where the walls are, by asking for membership along the axes.

May use: torch. From a point inside, rays along the axes meet the wall after t_i^- and t_i^+ (down and up). Of

.. math:: w_i = 1/t_i^- - 1/t_i^+

the direction is the inward normal, and 1/|w| tends to the distance as that falls: for a half-space w = n/d,
for a quadric {q >= 0} it is the gradient of log q (the two hits are the roots of a quadratic), between parallel walls
it vanishes in the middle. It is smooth where the set is. The estimate of the distance itself takes the nearer
hit on each axis, :math:`1/\sqrt{\sum_i 1/\min(t_i^-, t_i^+)^2}`: exact for a half-space and for boxes away from
their edges, and never more than the nearest hit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_MARCH = 16  # points on a ray, quadratically spaced, before it is known between which two the wall is first met
_PARTS, _TURNS = 4, 8  # each turn narrows that to a quarter: 2^-16 in all
_NUMBERS = 1 << 22  # coordinates asked for at a time
_LEAST = 1e-6  # of a side of the box: hits nearer than that count as that far
_SHIFT = 0.1  # of the nearer hit, by which points are shifted for derivatives

Casts = Callable[[Tensor], tuple[Tensor, Tensor]]


def cast(
    member: Callable[[Tensor], Tensor], x: Tensor, inside: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """Distances along the axes at which membership first changes.

    A part of the set, or a gap, that is thinner than the spacing of 16 points on the ray may be missed.

    Args:
        member: from points ``[n, D]`` to bool ``[n]``.
        x: points ``[B, D]``.
        inside: whether they are inside, ``[B]``.
        low: corner of the box ``[D]``; beyond it all is outside.
        high: the opposite corner.

    Returns:
        Distances down and up each axis, both ``[B, D]``; infinite where membership never changes.
    """
    size = max(1, _NUMBERS // (2 * x.shape[-1] ** 2 * _MARCH))
    parts = [_cast(member, a, b, low, high) for a, b in zip(x.split(size), inside.split(size), strict=True)]
    t = torch.cat(parts, 1) if parts else x.new_empty(2, 0, x.shape[-1])
    return t[0], t[1]


def depth(down: Tensor, up: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Distance ``[B]`` and w ``[B, D]`` (see the module) from the hits; w points inwards from outside too."""
    distance = torch.minimum(down, up).pow(-2).sum(-1).rsqrt()
    w = 1 / down - 1 / up
    return distance, torch.where(inside.unsqueeze(-1), w, -w)


def slope_jacobian(casts: Casts, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Derivatives of w in x, ``[B, D, D]``, for points inside, by central differences.

    Points are shifted along an axis by at most a tenth of the distance to its nearer hit, so that they stay inside.
    """
    inside = torch.ones(len(x), dtype=torch.bool, device=x.device)
    columns = []
    for j in range(x.shape[-1]):
        shift = _SHIFT * torch.minimum(down[:, j], up[:, j])
        move = torch.zeros_like(x)
        move[:, j] = shift
        ends = [depth(*casts(x + sign * move), inside)[1] for sign in (1, -1)]
        columns.append((ends[0] - ends[1]) / (2 * shift.unsqueeze(-1)))
    return torch.stack(columns, -1)


def _cast(member: Callable[[Tensor], Tensor], x: Tensor, inside: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Distances ``[2, B, D]`` as :func:`cast` gives them."""
    d = x.shape[-1]
    eye = torch.eye(d, dtype=x.dtype, device=x.device)
    ways = torch.stack([-eye, eye]).unsqueeze(1)  # [2, 1, D, D]
    room = torch.stack([x - low, high - x]).clamp(min=0)  # to the edge of the box, [2, B, D]

    def changed(t: Tensor) -> Tensor:
        """Whether membership is another at distances ``[m, 2, B, D]``."""
        points = x.unsqueeze(-2) + t.unsqueeze(-1) * ways
        return member(points.reshape(-1, d)).reshape(t.shape) != inside.unsqueeze(-1)

    fractions = (torch.arange(_MARCH + 1, dtype=x.dtype, device=x.device) / _MARCH).square()
    marks = fractions.reshape(-1, 1, 1, 1) * room
    before = (changed(marks[1:]).cumsum(0) == 0).sum(0)  # marks passed before the first change
    never = before == _MARCH
    left = before.clamp(max=_MARCH - 1).unsqueeze(0)
    near, far = marks.gather(0, left).squeeze(0), marks.gather(0, left + 1).squeeze(0)
    inner = torch.arange(1, _PARTS, dtype=x.dtype, device=x.device).reshape(-1, 1, 1, 1) / _PARTS
    for _ in range(_TURNS):
        step = far - near
        passed = (changed(near + inner * step).cumsum(0) == 0).sum(0)
        near, far = near + passed / _PARTS * step, near + (passed + 1) / _PARTS * step
    # From inside, the edge of the box is a wall; from outside, a ray that meets nothing has no end.
    beyond = torch.where(inside.unsqueeze(-1), room, torch.inf)
    least = _LEAST * (high - low)
    return torch.where(never, beyond, (near + far) / 2).clamp(min=least)
