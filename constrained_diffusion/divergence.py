"""The divergence of a vector field on a domain: by autograd, fit to be trained through, or by differences.

May use: torch, domains.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .domains import Domain
from .domains.checks import ShapeError

__all__ = ["difference_trace", "value_and_trace"]


def value_and_trace(
    domain: Domain, field: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    r"""A vector field and :math:`\langle v_k, J v_k \rangle`, with J its Jacobian and v_k given directions.

    Over ``domain.frame(x)`` their sum is the divergence; of ``domain.sample_noise(x)`` each one's expectation is
    (Hutchinson 1990). The inner product is the domain's. One forward pass, so that random parts of the field
    such as dropout are the same in all of it, and one backward pass for each direction; rows
    of the batch must not mix. Gradients flow on to the field's parameters where gradients are enabled.

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
            terms.append((pull * v).reshape(*batch, -1).sum(-1))
    traces = torch.stack(terms) if terms else x.new_zeros(0, *batch)
    return (value, traces) if train else (value.detach(), traces.detach())


def difference_trace(
    domain: Domain, field: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """As :func:`value_and_trace` by central differences, one-sided at walls: for fields without autograd, in float64.

    Two more evaluations of the field for each direction; the error is of the order of the squared
    step, which is the cube root of the rounding error in units of the inradius.
    """
    length = domain.inradius if math.isfinite(domain.inradius) else 1.0
    k = len(domain.event_shape)
    rounding = 64 * torch.finfo(x.dtype).eps * max(1.0, domain.magnitude)
    step = length * torch.finfo(x.dtype).eps ** (1 / 3)
    value, terms = field(x), []
    for v in directions:
        ends, fields = [], []
        for sign in (1.0, -1.0):
            y = domain.expmap(x, sign * step * v)
            inside = domain.contains(y, atol=rounding).reshape(*y.shape[: y.ndim - k], *(1,) * k)
            ends.append(torch.where(inside, y, x))
            fields.append(field(ends[-1]))
        apart = domain.inner(x, ends[0] - ends[1], v).clamp(min=step / 2)
        terms.append(domain.inner(x, fields[0] - fields[1], v) * domain.inner(x, v, v) / apart)
    return value, torch.stack(terms)
