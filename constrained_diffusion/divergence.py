"""The divergence of a vector field on a domain: by autograd, fit to be trained through, or by differences.

May use: torch, domains.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .domains import Domain
from .domains.checks import ShapeError, SolverError

__all__ = ["difference_trace", "value_and_trace"]

_REACHES = tuple(2.0**k for k in range(1, 10))  # steps by which differences move in where they have no room


def value_and_trace(
    domain: Domain, field: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    r"""A vector field F and :math:`\langle v_k, \nabla_{v_k} F \rangle`, its derivative along given directions v_k.

    Over ``domain.frame(x)`` their sum is the divergence; of ``domain.sample_noise(x)`` each one's expectation is
    (Hutchinson 1990). The inner product is the domain's, and the derivative the covariant one: by Lie's formula
    :math:`\langle v, J v \rangle + \frac12 \partial_F \langle v, v \rangle`, J the Jacobian of the coordinates, where
    the second term says how the metric changes along F while the coordinates of v do not. One forward pass, so that
    random parts of the field such as dropout are the same in all of it, and one backward pass for each direction;
    rows of the batch must not mix. Gradients flow on to the field's parameters where gradients are enabled.

    Args:
        domain: where x lies.
        field: maps points ``[*batch, *event_shape]`` to tangent vectors there.
        x: points ``[*batch, *event_shape]``.
        directions: tangent vectors ``[m, *batch, *event_shape]``, any m.

    Returns:
        The field at ``x``, ``[*batch, *event_shape]``, and the terms ``[m, *batch]``.

    Raises:
        ShapeError: the field's values do not have the shape of the points.
        ValueError: the field's values carry no autograd graph back to the points.
    """
    train = torch.is_grad_enabled()
    batch = x.shape[: x.ndim - len(domain.event_shape)]
    terms = []
    with torch.enable_grad():
        x = x.detach()
        leaf = x.clone().requires_grad_()
        value = field(leaf)
        if value.shape != x.shape:
            raise ShapeError(f"score returned shape {list(value.shape)}; expected that of x, {list(x.shape)}")
        for v in directions:
            pull = None
            if value.requires_grad:
                along = domain.inner(x, v, value).sum()
                (pull,) = torch.autograd.grad(along, leaf, create_graph=train, retain_graph=True, allow_unused=True)
            if pull is None:
                raise ValueError(
                    "score(x, t) carries no autograd graph back to x, so it cannot be differentiated: compute it from "
                    "x without detach, no_grad or numpy (to a constant score add 0 * x)"
                )
            terms.append((pull * v).reshape(*batch, -1).sum(-1) + _stretch(domain, x, v, value))
    traces = torch.stack(terms) if terms else x.new_zeros(0, *batch)
    return (value, traces) if train else (value.detach(), traces.detach())


def difference_trace(
    domain: Domain, field: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """As :func:`value_and_trace` by central differences, one-sided at walls: for fields without autograd, in float64.

    Two more evaluations of the field for each direction, carried back to x along the geodesic; the error is of the
    order of the squared step, which is the cube root of the rounding error in units of the inradius. Where neither
    way along a direction stays inside, as in sharp corners, differences are taken at a point some steps further in.

    Raises:
        SolverError: nor does any near such a point.
    """
    length = domain.inradius if math.isfinite(domain.inradius) else 1.0
    step = length * torch.finfo(x.dtype).eps ** (1 / 3)
    value, terms = field(x), []
    for v in directions:
        base, (ahead, behind) = _with_room(domain, x, v, step)
        fields, moved = [], torch.zeros_like(domain.inner(x, v, v))
        for sign, inside in ((1.0, ahead), (-1.0, behind)):
            y = torch.where(domain.expand(inside), domain.expmap(base, sign * step * v), base)
            fields.append(domain.transp(y, x, field(y)))
            moved = moved + step * inside
        terms.append(domain.inner(x, fields[0] - fields[1], v) / moved)
    return value, torch.stack(terms)


def _with_room(domain: Domain, x: Tensor, v: Tensor, step: float) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Points, x itself where possible, from which moves by ``step * v`` or its opposite stay inside; and which do."""
    rounding = 64 * torch.finfo(x.dtype).eps * max(1.0, domain.magnitude)
    base = x
    for reach in _REACHES:
        ways = [domain.contains(domain.expmap(base, sign * step * v), atol=rounding) for sign in (1.0, -1.0)]
        stuck = ~(ways[0] | ways[1])
        if not bool(stuck.any()):
            return base, (ways[0], ways[1])
        distance, normal = domain.walls(x)
        near = (distance < 2 * reach * step).to(x.dtype)
        inward = (domain.expand(near) * normal).sum(x.ndim - len(domain.event_shape))
        further = domain.project(domain.expmap(x, reach * step * inward))
        base = torch.where(domain.expand(stuck), further, base)
    raise SolverError(
        'points lie in corners too sharp for differences: give divergence="exact" or "hutchinson", and a score that '
        "torch can differentiate"
    )


def _stretch(domain: Domain, x: Tensor, v: Tensor, value: Tensor) -> Tensor:
    """Half the rate ``[*batch]`` at which <v, v> changes along the field's ``value``: 0 in a constant metric."""
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        square = domain.inner(leaf, v.detach(), v.detach())
    batch = x.shape[: x.ndim - len(domain.event_shape)]
    if not square.requires_grad:
        return value.new_zeros(batch)
    (slope,) = torch.autograd.grad(square.sum(), leaf)
    return (slope * value).reshape(*batch, -1).sum(-1) / 2
