"""What can be learnt of a set by asking for projections and membership alone.

May use: torch. These are the defaults of :class:`~constrained_diffusion.domains.base.Domain` for a subclass
that gives nothing more; each is exact in the limit it names and slower than a formula.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from .checks import SolverError

if TYPE_CHECKING:
    from .base import Domain

_PROPOSALS = 1 << 16  # drawn at a time, and for the volume
_ROUNDS = 1000  # of proposals, before rejection sampling gives up
_TURNS = 16  # of a probe towards the wall's own normal
_BEND, _MOST_BENT, _DIRECTIONS = 0.005, 10.0, 8  # step along a wall and largest curvature, in inradii; vectors tried


def boundary_of_convex_set(domain: Domain, x: Tensor) -> tuple[Tensor, Tensor]:
    """Signed distance ``[*batch]`` and inward normal ``[*batch, *event_shape]`` from projections.

    A point beyond the wall along u projects to a point p of the wall with outward normal n, and the set lies behind
    the plane through p. Walking out along n again, to just beyond that plane, and so on descends to a
    wall nearest from that side; the best of 2 D coordinate directions is taken. Exact outside, and for boxes; close to
    exact near curved walls; an upper bound where the nearest wall is hidden from all starts.
    """
    k = len(domain.event_shape)
    batch = x.shape[: x.ndim - k]
    eye = torch.eye(domain.event_shape.numel(), dtype=x.dtype, device=x.device)
    starts = torch.cat([eye, -eye]).reshape(-1, *(1,) * len(batch), *domain.event_shape)
    origin = domain.project(x)
    u = starts.expand(-1, *x.shape)
    far = torch.full(u.shape[: u.ndim - k], 2 * domain.diameter, dtype=x.dtype, device=x.device)
    for _ in range(_TURNS):
        y = origin + domain.expand(far) * u
        foot = domain.project(y)
        u = _unit(domain, y - foot)
        distance = domain.inner(foot, foot - origin, u).clamp(min=0)
        far = 1.5 * distance + 1e-3 * domain.diameter
    best = distance.argmin(0)
    normal = -torch.take_along_dim(u, best.reshape(1, *batch, *(1,) * k), 0).squeeze(0)
    inside_distance = distance.amin(0)
    gap = (x - origin).flatten(len(batch)).norm(dim=-1)
    outside = gap > 8 * torch.finfo(x.dtype).eps * domain.magnitude
    normal = torch.where(domain.expand(outside), _unit(domain, origin - x), normal)
    return torch.where(outside, -gap, inside_distance), normal


def curvature(domain: Domain, x: Tensor) -> Tensor:
    """Mean curvature ``[*batch]`` of the wall where it is nearest to ``x``.

    The rate at which the normal turns on the parallel surface through x, by central differences along at most eight
    tangent vectors, carried to the wall. At edges, where normals jump, it is cut at ten over the inradius.
    """
    distance, n = domain.boundary(x)
    if domain.dim < 2:
        return torch.zeros_like(distance)
    step = _BEND * domain.inradius
    turned = lengths = torch.zeros_like(domain.inner(x, n, n))
    for e in domain.frame(x)[:_DIRECTIONS]:
        across = domain.inner(x, e, n)
        t = e - domain.expand(across) * n
        ends = [domain.expmap(x, s * step * t) for s in (1, -1)]
        ahead, behind = (domain.transp(y, x, domain.boundary(y)[1]) for y in ends)
        turned = turned - domain.inner(x, t, ahead - behind) / (2 * step)
        lengths = lengths + domain.inner(x, t, t)
    most = _MOST_BENT / domain.inradius
    bent = (turned / lengths).clamp(-most, most)
    return bent / (1 + bent * distance).clamp(min=0.1)


def bounding_box(domain: Domain) -> tuple[Tensor, Tensor]:
    """Smallest and largest coordinates: far points along each axis project to the set's extreme points."""
    n = domain.event_shape.numel()
    axes = torch.cat([torch.eye(n), -torch.eye(n)]).double().reshape(2 * n, *domain.event_shape)
    far = 1.0
    for _ in range(12):
        x = domain.project(far * axes)
        if bool((x.abs() < 1e-4 * far).all()):
            break
        far *= 10
    else:
        raise SolverError(f"{type(domain).__name__} seems unbounded: give `bounding_box` as an attribute")
    extreme = (x.reshape(2 * n, n) * axes.reshape(2 * n, n)).sum(-1)
    return -extreme[n:].reshape(domain.event_shape), extreme[:n].reshape(domain.event_shape)


def log_volume(domain: Domain) -> float:
    """Monte Carlo estimate in the bounding box, with 2^16 points and a fixed seed.

    Its relative standard error is sqrt((1 - a) / a) / 256 where a is the share of the box that is inside.
    """
    low, high = domain.bounding_box
    proposals = _proposals(domain, torch.Generator().manual_seed(0), None, torch.float64)
    share = float(domain.contains(proposals).double().mean())
    if share == 0:
        raise SolverError(f"no point of the bounding box was found inside {domain!r}: give `log_volume`")
    return float((high - low).log().sum()) + math.log(share)


def sample_by_rejection(
    domain: Domain,
    shape: torch.Size,
    generator: Generator | None,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> Tensor:
    """Uniform points ``[*shape, *event_shape]``: those of the bounding box that lie inside."""
    found: list[Tensor] = []
    missing = math.prod(shape)
    for _ in range(_ROUNDS):
        if missing <= 0:
            break
        x = _proposals(domain, generator, device, dtype)
        x = x[domain.contains(x)][:missing]
        found.append(x)
        missing -= len(x)
    else:
        raise SolverError(
            f"{domain!r} fills too little of its bounding box to sample by rejection: override `sample_uniform`"
        )
    if not found:
        return torch.empty(shape + domain.event_shape, device=device, dtype=dtype)
    return torch.cat(found).reshape(shape + domain.event_shape)


def _proposals(
    domain: Domain, generator: Generator | None, device: torch.device | str | None, dtype: torch.dtype | None
) -> Tensor:
    u = torch.rand((_PROPOSALS, *domain.event_shape), generator=generator, device=device, dtype=dtype)
    low, high = (b.to(u) for b in domain.bounding_box)
    return low + (high - low) * u


def _unit(domain: Domain, v: Tensor) -> Tensor:
    """Scale vectors to length one; a zero vector stays zero."""
    length = v.flatten(v.ndim - len(domain.event_shape)).norm(dim=-1)
    return v / domain.expand(torch.where(length > 0, length, 1.0))
