r"""Which walls a step of a reflected path touched, when, and what of a Bismut-Elworthy-Li sum is left by it.

May use: torch, and the domain's ``curvature``, ``wall_curvature``, ``covector`` and ``logmap``.

Read backwards, a step of variance h goes from a to b. Distances alpha and beta from a flat wall being known, the
path between touched that wall with probability 1 - tanh(alpha beta / h). Up to its first touch Brownian
motion moved exactly -alpha across the wall; after it, whatever goes across the wall is lost, and on a wall of curvature
kappa the rest is damped by exp(-kappa L), L the local time. Beside a flat wall L + alpha + beta, given a touch, has
Rayleigh's law beyond alpha + beta. Beside a curved one the distance drifts by -mu, mu half the sum of the
principal curvatures, which tilts laws by exp(mu L): touches are more likely and L is longer, both in closed form.

Where one step touched several walls, each is taken to have been touched for the first time and for the last as if
it were alone. These times have closed laws: with y = f / (h - f), f the time of the first touch of a bridge that goes
through the wall, y is inverse Gaussian of mean alpha / beta and shape alpha^2 / h; from then on the last touch is a
first one from the other end, where the law is Levy's. The events are put in order, the path is taken to be on
the wall at each and straight between them, and at each event what goes across that wall is lost. Walls at right
angles have no error; others, and curved ones, have one of the order of the step.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

if TYPE_CHECKING:
    from .base import Domain

__all__ = ["backward_step"]

_APART = 0.999  # probability of no touch up to which a wall's curvature is asked for
_NEVER = 20.0  # product of the distances, over the variance, from which that probability is 1 in double precision


def backward_step(
    domain: Domain,
    a: Tensor,
    b: Tensor,
    h: Tensor,
    total: Tensor,
    alpha: Tensor,
    beta: Tensor,
    normals: Tensor,
    generator: Generator | None,
) -> Tensor:
    """DB + P ``total`` for backward steps.

    Args:
        domain: where.
        a: points from which the steps go, ``[B, *event_shape]``.
        b: points to which they go.
        h: their variances ``[B]``.
        total: what was summed beyond ``b``, as tangent vectors at ``a``, ``[B, *event_shape]``.
        alpha: distances of ``a`` from the walls, ``[B, m]``.
        beta: distances of ``b``.
        normals: inward unit normals of the walls at ``a``, ``[B, m, *event_shape]``.
        generator: source of randomness.

    Returns:
        The sum from ``a`` on, ``[B, *event_shape]``.
    """
    step = domain.logmap(a, b)
    place, row, drift = _touched(domain, a, h, alpha, beta, generator)
    out = step + total
    m = alpha.shape[-1]
    alike = normals.stride(0) == 0  # the same walls for all points
    directions = (normals[:1] if alike else normals).reshape(-1, *domain.event_shape)
    count = torch.bincount(row, minlength=len(a))
    start = count.cumsum(0) - count
    most = int(count.max()) if count.numel() else 0
    fewer, several = 0, 1
    while fewer < most:  # those that touched 1, 2, 3 or 4, 5 to 8, .. walls
        rows = ((count > fewer) & (count <= several)).nonzero().squeeze(-1)
        width, fewer, several = min(several, m), several, 2 * several
        if not len(rows):
            continue
        number, first = (v.index_select(0, rows).unsqueeze(-1) for v in (count, start))
        slot = torch.arange(width, device=a.device)
        touch = first + slot.minimum(number - 1)  # ``[b, width]``, the last one again where there are fewer
        where = _pick(place, touch)
        there, back = _positive(_pick(alpha, where)), _positive(_pick(beta, where))
        carried, time = total.index_select(0, rows).flatten(1), h.index_select(0, rows).unsqueeze(-1)
        toward = None if drift is None else _pick(drift, touch) * (slot < number)
        if toward is not None and bool(toward.any()):
            bent = toward / ((domain.dim - 1) / 2 * time)
            local_time = _local_time(there + back, toward, time, generator)
            carried = carried * torch.exp(-(bent * local_time).sum(-1, keepdim=True))
        wall = where - (m * rows).unsqueeze(-1) if alike else where
        lose = _Losses(domain, a.index_select(0, rows), directions)
        across = step.index_select(0, rows).flatten(1)
        if width > 1:
            found = _after_events(lose, wall, number, there, back, time, across, carried, generator)
        else:
            found = lose(across + carried, wall[:, 0], there)
        out.index_copy_(0, rows, found.reshape(-1, *domain.event_shape))
    return out


class _Losses:
    """What sums ``[b, D]`` at points ``[b, *event_shape]`` lose at walls of inward normals ``[k, *event_shape]``."""

    def __init__(self, domain: Domain, at: Tensor, directions: Tensor) -> None:
        self.domain, self.at, self.directions = domain, at, directions

    def __call__(self, v: Tensor, wall: Tensor, distance: Tensor, happened: Tensor | None = None) -> Tensor:
        """``v`` without what goes across walls ``[b]``, and ``distance`` ``[b, 1]`` less; where that ``happened``."""
        n = self.directions.index_select(0, wall)
        lost = (self.domain.covector(self.at, n).flatten(1) * v).sum(-1, keepdim=True) + distance
        return v - n.flatten(1) * (lost if happened is None else lost * happened)


def _touched(
    domain: Domain, a: Tensor, h: Tensor, alpha: Tensor, beta: Tensor, generator: Generator | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """All touches: their places in ``alpha``, flattened; their rows, ascending; how far those distances drift."""
    place = (alpha * beta < _NEVER * h.unsqueeze(-1)).flatten().nonzero().squeeze(-1)
    row = torch.div(place, alpha.shape[-1], rounding_mode="floor")
    there, back, time = _positive(_pick(alpha, place)), _positive(_pick(beta, place)), h.index_select(0, row)
    apart = torch.tanh(there * back / time)  # probability of no touch
    drift = _drift(domain, a, time, place, row, apart) if domain.wall_curvature != (0.0, 0.0) else None
    if drift is not None:
        apart = apart / (apart + (1 - apart) * (1 + _tilt(there + back, drift, time)).clamp(min=0))
    u = torch.rand(row.shape, generator=generator, dtype=apart.dtype, device=apart.device)
    touched = (u > apart).nonzero().squeeze(-1)
    return _pick(place, touched), _pick(row, touched), None if drift is None else _pick(drift, touched)


def _drift(domain: Domain, a: Tensor, time: Tensor, place: Tensor, row: Tensor, apart: Tensor) -> Tensor | None:
    """How far distances from walls that may be touched drift, or None where those are flat."""
    near = torch.bincount(row[apart < _APART], minlength=len(a)).nonzero().squeeze(-1)
    if not len(near):
        return None
    curvature = domain.curvature(a[near])
    if not bool(curvature.any()):
        return None
    every = curvature.new_zeros(len(a), curvature.shape[-1]).index_copy(0, near, curvature)
    return _pick(every, place) * ((domain.dim - 1) / 2 * time)


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """Elements of ``values``, flattened, of any number and shape of ``index``: faster than indexing is."""
    return values.flatten().index_select(0, index.flatten()).reshape(index.shape)


def _positive(distance: Tensor) -> Tensor:
    """Distances that products and quotients of them can be taken of."""
    return distance.clamp(min=torch.finfo(distance.dtype).tiny ** 0.25)


def _after_events(
    lose: _Losses,
    wall: Tensor,
    number: Tensor,
    alpha: Tensor,
    beta: Tensor,
    h: Tensor,
    step: Tensor,
    carried: Tensor,
    generator: Generator | None,
) -> Tensor:
    """The sum where several walls were touched: the first ``number`` ``[b, 1]`` of each row.

    Vectors are ``[b, D]``; ``wall`` and the distances ``[b, k]``, variances ``[b, 1]``.
    """
    k = wall.shape[-1]
    first, last = _first_and_last_touch(alpha, beta, h, generator)
    times = torch.cat([first, last], -1)  # shares of the step
    slot = torch.arange(2 * k, device=wall.device)
    times = times.masked_fill(slot % k >= number, 2.0)
    times, order = times.sort(-1)
    happened = (slot < 2 * number).to(times)
    times = times.clamp(max=1)
    order = order - k * (order >= k)
    wall = wall.gather(-1, order)
    gap = (1 - times) * alpha.gather(-1, order) + times * beta.gather(-1, order)
    v = (1 - times[:, -1:]) * step + carried
    between = torch.diff(times, dim=-1, prepend=torch.zeros_like(times[:, :1]))
    for e in range(2 * k - 1, -1, -1):
        lost = lose(v, wall[:, e], gap[:, e : e + 1], happened[:, e : e + 1])
        v = torch.addcmul(lost, between[:, e : e + 1], step)
    return v


def _tilt(c: Tensor, drift: Tensor, h: Tensor) -> Tensor:
    """E exp(mu L) - 1 given a touch, with c = alpha + beta and the way ``drift`` = mu h."""
    root = (2 * h).sqrt()
    tilt: Tensor = drift / h * (math.sqrt(math.pi) / 2 * root) * torch.special.erfcx((c - drift) / root)
    return tilt


def _local_time(c: Tensor, drift: Tensor, h: Tensor, generator: Generator | None) -> Tensor:
    """Local times ``[b, k]`` given a touch: r = L + c has a density in proportion to r exp(-(r - drift)^2 / 2h), r > c.

    That is a mixture of Rayleigh's law and a normal one, both cut and shifted; of the first alone where the
    drift is negative.
    """
    u = torch.rand((2, *c.shape), generator=generator, dtype=c.dtype, device=c.device)
    tail = (c - drift).clamp(min=0)
    rayleigh = (tail**2 - 2 * h * torch.log1p(-u[0])).sqrt()
    cut = torch.special.ndtr(-tail / h.sqrt()).clamp(min=torch.finfo(c.dtype).tiny)
    normal = -h.sqrt() * torch.special.ndtri((1 - u[0]) * cut)
    is_normal = u[1] * (1 + _tilt(c, drift, h)) > 1
    longer: Tensor = (drift - c + torch.where(is_normal, normal, rayleigh)).clamp(min=0)
    return longer


def _first_and_last_touch(alpha: Tensor, beta: Tensor, h: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
    """Times ``[b, k]`` of the first and the last touch of each wall, in shares of the step, given that it was touched.

    The inverse Gaussian by Michael, Schucany & Haas (1976).
    """
    z = torch.randn((2, *alpha.shape), generator=generator, dtype=alpha.dtype, device=alpha.device)
    u = torch.rand(alpha.shape, generator=generator, dtype=alpha.dtype, device=alpha.device)
    mean = alpha / beta
    w = z[0] ** 2 * h / (2 * alpha * beta)
    y = mean / (1 + w + (w * (w + 2)).sqrt())
    y = torch.where(u * (mean + y) <= mean, y, mean * (mean / y))
    first = 1 / (1 + 1 / y)
    rest = 1 - first
    y = beta**2 / (h * rest * z[1] ** 2).clamp(min=torch.finfo(alpha.dtype).tiny)
    return first, 1 - rest / (1 + 1 / y)
