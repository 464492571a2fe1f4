"""The latent space of a model: its deterministic flow carries data to the prior and back. May use: samplers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .domains.checks import check_tensor, trusted
from .ode import flow_field, solve, tight
from .process import Process, Score
from .samplers import ProbabilityFlow

__all__ = ["decode", "encode", "interpolate"]


def encode(
    process: Process,
    score: Score,
    x: Tensor,
    *,
    condition: dict[str, Tensor] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    **options: Any,
) -> Tensor:
    """Carry points from time 0 to the prior at time 1.

    Args:
        process: what to follow.
        score: its model.
        x: points inside ``[*batch, *event_shape]``.
        condition: keyword tensors ``[*batch, ...]`` for the score.
        rtol: relative error allowed in a step of the solver; by default 1e-6, 1e-5 in float32.
        atol: absolute error, in inradii; the same by default.
        options: ``method``, ``max_evaluations``; see :class:`ProbabilityFlow`.

    Returns:
        Latents ``[*batch, *event_shape]`` inside the domain.
    """
    process.check_points("x", x)
    domain, extra = process.domain, condition or {}
    batch = x.shape[: x.ndim - len(domain.event_shape)]
    field = flow_field(process, lambda y, t: score(y, t.expand(batch), **extra))
    with trusted(), torch.no_grad():
        (end,) = solve(
            lambda w, state: (field(w, domain.project(state[0])),),
            (x,),
            x.new_tensor(process.sigma_min).log(),
            x.new_tensor(process.sigma_max).log(),
            rtol=tight(x.dtype) if rtol is None else rtol,
            atol=(tight(x.dtype) if atol is None else atol) * process.length,
            **options,
        )
        return domain.project(end)


def decode(
    process: Process,
    score: Score,
    latent: Tensor,
    *,
    condition: dict[str, Tensor] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    **options: Any,
) -> Tensor:
    """The inverse of :func:`encode`: latents ``[*batch, *event_shape]`` to points at time 0, not denoised."""
    check_tensor("latent", latent, process.domain.event_shape)
    rtol, atol = (tight(latent.dtype) if tol is None else tol for tol in (rtol, atol))
    walk = ProbabilityFlow(process, score, rtol=rtol, atol=atol, denoise=False, **options)
    batch = latent.shape[: latent.ndim - len(process.domain.event_shape)]
    return walk.sample(tuple(batch), latent=latent, condition=condition).x


def interpolate(
    process: Process,
    score: Score,
    x: Tensor,
    y: Tensor,
    steps: int = 9,
    *,
    condition: dict[str, Tensor] | None = None,
    **options: Any,
) -> Tensor:
    """A path of plausible points between two: both are encoded, and a path between their latents decoded.

    Args:
        process: what to follow.
        score: its model.
        x: points inside ``[*batch, *event_shape]``, where paths begin.
        y: of the same shape, where they end.
        steps: points on each path, both ends among them, at least 2.
        condition: keyword tensors ``[*batch, ...]`` for the score.
        options: of :func:`encode` and :func:`decode`.

    Returns:
        Paths ``[steps, *batch, *event_shape]`` inside the domain.
    """
    if steps < 2:
        raise ValueError(f"steps must be at least 2, not {steps!r}")
    if x.shape != y.shape:
        raise ValueError(f"x and y must have the same shape, not {list(x.shape)} and {list(y.shape)}")
    begin, end = (encode(process, score, p, condition=condition, **options) for p in (x, y))
    shares = torch.linspace(0, 1, steps, dtype=x.dtype, device=x.device)
    latents = torch.stack([process.domain.interpolate(begin, end, float(share)) for share in shares])
    many = {k: v.expand(steps, *v.shape) for k, v in (condition or {}).items()}
    return decode(process, score, latents, condition=many, **options)
