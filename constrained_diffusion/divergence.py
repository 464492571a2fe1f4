"""The divergence of a vector field on a domain, exact or by random projections, fit to be trained through."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..domains import Domain
from ..domains.checks import ShapeError

__all__ = ["value_and_trace"]


def value_and_trace(
    domain: Domain, field: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    r"""A vector field and :math:`\sum_k \langle v_k, J v_k \rangle`, with J its Jacobian and v_k given directions.

    Over ``domain.frame(x)`` the sum is the divergence; over ``domain.sample_noise(x)`` its expectation is
    (Hutchinson 1990). The inner product is the domain's. One forward pass, so that random parts of the field
    such as dropout are the same in all of it, and one backward pass for each direction; rows
    of the batch must not mix. Gradients flow on to the field's parameters where gradients are enabled.

    Args:
        domain: where x lies.
        field: maps points ``[*batch, *event_shape]`` to tangent vectors there.
        x: points ``[*batch, *event_shape]``.
        directions: tangent vectors ``[m, *batch, *event_shape]``, any m.

    Returns:
        The field at ``x``, ``[*batch, *event_shape]``, and the sum ``[*batch]``.

    Raises:
        ShapeError: the field's values do not have the shape of the points.
        ValueError: the field's values carry no autograd graph back to the points.
    """
    train = torch.is_grad_enabled()
    batch = x.shape[: x.ndim - len(domain.event_shape)]
    total = x.new_zeros(batch)
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
            total = total + (pull * v).reshape(*batch, -1).sum(-1)
    return (value, total) if train else (value.detach(), total.detach())
