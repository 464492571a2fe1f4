r"""Which walls a step of a reflected path touched, when, and what of a Bismut-Elworthy-Li sum is left by it.

May use: torch, and the domain's ``curvature``, ``covector`` and ``logmap``.

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
    row, wall, drift = _touched(domain, a, h, alpha, beta, generator)
    out = step + total
    count = torch.bincount(row, minlength=len(a))
    place = torch.arange(len(row), device=a.device) - (count.cumsum(0) - count)[row]  # of a touch among its row's
    most = int(count.max()) if count.numel() else 0
    fewer, several = 0, 1
    while fewer < most:  # those that touched 1, 2, 3 or 4, 5 to 8, .. walls
        chosen = (count > fewer) & (count <= several)
        rows, these = chosen.nonzero().squeeze(-1), chosen[row]
        width, fewer, several = min(several, alpha.shape[-1]), several, 2 * several
        if not len(rows):
            continue
        at = (chosen.cumsum(0)[row[these]] - 1, place[these])
        touches = (wall[these], drift[these], torch.ones_like(drift[these]))
        which, toward, mask = (v.new_zeros(len(rows), width).index_put(at, v) for v in touches)
        n = normals[rows.unsqueeze(-1), which]
        across = domain.covector(a[rows].unsqueeze(1).expand_as(n), n).flatten(2) * mask.unsqueeze(-1)
        n = n.flatten(2) * mask.unsqueeze(-1)  # zero for those not hit
        there, back = (_positive(distance[rows].gather(-1, which)) for distance in (alpha, beta))
        carried, time = total[rows].flatten(1), h[rows].unsqueeze(-1)
        if bool(toward.any()):
            bent = toward / ((domain.dim - 1) / 2 * time)
            local_time = _local_time(there + back, toward, time, generator)
            carried = carried * torch.exp(-(bent * local_time * mask).sum(-1, keepdim=True))
        if width > 1:
            found = _after_events(n, across, mask, there, back, time, step[rows].flatten(1), carried, generator)
        else:
            moved = step[rows].flatten(1) + carried
            found = moved - n[:, 0] * ((across[:, 0] * moved).sum(-1, keepdim=True) + there)
        out[rows] = found.reshape(-1, *domain.event_shape)
    return out


def _touched(
    domain: Domain, a: Tensor, h: Tensor, alpha: Tensor, beta: Tensor, generator: Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and walls of all touches, in the order of the rows, and how far those distances drift in the step."""
    row, wall = (alpha * beta < _NEVER * h.unsqueeze(-1)).nonzero(as_tuple=True)
    there, back, time = _positive(alpha[row, wall]), _positive(beta[row, wall]), h[row]
    apart = torch.tanh(there * back / time)  # probability of no touch
    drift = torch.zeros_like(apart)
    near = torch.bincount(row[apart < _APART], minlength=len(a)).nonzero().squeeze(-1)
    curvature = domain.curvature(a[near]) if len(near) else alpha[:0]
    if bool(curvature.any()):
        drift = torch.zeros_like(alpha).index_put((near,), curvature)[row, wall] * ((domain.dim - 1) / 2 * time)
        apart = apart / (apart + (1 - apart) * (1 + _tilt(there + back, drift, time)).clamp(min=0))
    touched = torch.rand(row.shape, generator=generator, dtype=apart.dtype, device=apart.device) > apart
    return row[touched], wall[touched], drift[touched]


def _positive(distance: Tensor) -> Tensor:
    """Distances that products and quotients of them can be taken of."""
    return distance.clamp(min=torch.finfo(distance.dtype).tiny ** 0.25)


def _after_events(
    n: Tensor,
    across: Tensor,
    mask: Tensor,
    alpha: Tensor,
    beta: Tensor,
    h: Tensor,
    step: Tensor,
    carried: Tensor,
    generator: Generator | None,
) -> Tensor:
    """The sum where several walls were touched.

    Normals, and what gives components along them, are ``[b, k, D]``, vectors ``[b, D]``, the rest ``[b, k]``.
    """
    first, last = _first_and_last_touch(alpha, beta, h, generator)
    never = mask == 0
    times = torch.cat([first.masked_fill(never, 2.0), last.masked_fill(never, 2.0)], -1)  # shares of the step
    times, order = times.sort(-1)
    wall = order % n.shape[1]
    times = times.clamp(max=1)
    gap = ((1 - times) * alpha.gather(-1, wall) + times * beta.gather(-1, wall)).unsqueeze(-1)
    normal, along = (torch.take_along_dim(v, wall.unsqueeze(-1), 1) for v in (n, across))
    between = torch.diff(times, dim=-1, prepend=torch.zeros_like(times[:, :1])).unsqueeze(-1) * step.unsqueeze(1)
    v = (1 - times[:, -1:]) * step + carried
    for e in range(times.shape[-1] - 1, -1, -1):
        m = normal[:, e]
        v = v + between[:, e] - m * ((along[:, e] * v).sum(-1, keepdim=True) + gap[:, e])
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
