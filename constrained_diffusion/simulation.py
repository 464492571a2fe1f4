r"""Simulating a reflected SDE of one's own: a drift and a diffusion coefficient over any domain, no model, no data.

.. math:: dX = b(X, t)\,dt + a(X, t)\,dB + dL

(Itô). B is Brownian motion in the domain's metric and L the least push along the walls' inward normals that keeps X
inside. Each step is Euler's, brought back inside in one of three ways; see :func:`sample_sde`.

May use: domains, torch, tqdm.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

import torch
from torch import Generator, Tensor
from tqdm.auto import tqdm

from .domains import Domain
from .domains.checks import ShapeError, check_alike, check_inside, check_tensor, trusted
from .domains.given import require_domain

__all__ = ["Paths", "sample_sde"]

Boundary = Literal["specular", "symmetrised", "project"]
Drift = Callable[[Tensor, Tensor], Tensor]
Coefficient = float | Tensor
Diffusion = Coefficient | Callable[[Tensor, Tensor], Coefficient]


@dataclass(frozen=True)
class Paths:
    """What :func:`sample_sde` returns.

    Attributes:
        x: end points ``[*batch, *event_shape]``, inside the domain.
        trajectory: frames on the way ``[frames, *batch, *event_shape]``, from the start to the end points; empty if
            none were asked for.
        times: time of each frame ``[frames]``.
    """

    x: Tensor
    trajectory: Tensor
    times: Tensor


def sample_sde(
    domain: Domain,
    x0: Tensor,
    drift: Drift | None = None,
    diffusion: Diffusion = 1.0,
    *,
    duration: float = 1.0,
    steps: int = 100,
    start: float = 0.0,
    boundary: Boundary = "specular",
    generator: Generator | None = None,
    frames: int = 0,
    progress: bool = False,
) -> Paths:
    r"""Simulate :math:`dX = b\,dt + a\,dB + dL` by Euler steps of equal length h that stay inside.

    A step proposes y = x + b(x, t) h + a(x, t) sqrt(h) z, with one draw z of ``domain.sample_noise``. What brings it
    inside, and the weak order that was measured (``docs/simulation.md``):

    * ``"specular"``: ``domain.reflect``, the straight move mirrored where it meets the walls. Order 1.
    * ``"symmetrised"``: the mirror image 2 P(y) - y of the end point in the wall, projected once more
      should that lie outside. Order 1. Needs the projection P alone.
    * ``"project"``: P(y). Order 1/2, and atoms on the walls; here to be compared with.

    Args:
        domain: where.
        x0: starting points inside, ``[*batch, *event_shape]``; dtype and device follow it.
        drift: b, called once a step as ``drift(x, t)`` with x ``[*batch, *event_shape]`` and a scalar tensor t; returns
            a tensor like x, of which the part tangent to the domain is used. None: no drift.
        diffusion: a, a number or a tensor (or what becomes one), or a function ``(x, t)`` that returns one:
            ``[*batch]`` one coefficient for each point; ``[*batch, *event_shape]`` for each coordinate; ``[*batch,
            *event_shape, *event_shape]`` a matrix. One that is no function may leave out ``*batch``, where that cannot
            be mistaken. Where the domain has tangents (a simplex), the result is made tangent.
        duration: length of time to simulate, positive.
        steps: how many steps; h = duration / steps.
        start: time at the start; drift and diffusion are given start + k h.
        boundary: see above. The last two want a domain whose metric is that of R^n, in which P is normal.
        generator: source of randomness.
        frames: how many evenly spaced frames to keep, at most steps + 1 (1 keeps the end alone).
        progress: show a progress bar.

    Returns:
        :class:`Paths`. Gradients flow along them where the domain's methods let them; enter ``torch.no_grad()`` if a
        drift with parameters is not to be differentiated.

    Raises:
        DomainError: a starting point lies outside.
        ShapeError: drift or diffusion returned a tensor of a shape that does not fit.
        ValueError: drift or diffusion is not finite (the message says when), or an argument is out of range.
        TypeError: an argument is of the wrong type.

    Sources: Lépingle, *Euler scheme for reflected stochastic differential equations*, 1995 (projection and exact
    half-space steps); Bossy, Gobet & Talay, *A symmetrized Euler scheme for an efficient approximation of
    reflected diffusions*, 2004.
    """
    steps, frames = _check_counts(steps, frames)
    start, h = _check_number("start", start), _check_number("duration", duration) / steps
    if not h > 0:
        raise ValueError(f"duration must be positive, not {duration!r}")
    _check_setting(domain, x0, drift, boundary)
    if not callable(diffusion) and not isinstance(diffusion, Real):
        diffusion = _for_all("diffusion", diffusion, x0, domain)
    kept = {round(k * steps / (frames - 1)) for k in range(frames - 1)} if frames > 1 else set()
    trajectory, at = [], []
    x = x0.clone()
    with trusted():
        for k in tqdm(range(steps), disable=not progress, desc="simulating", leave=False, mininterval=0.5):
            now = start + k * h
            if k in kept:
                trajectory.append(x)
                at.append(now)
            x = _inside(domain, x, _move(domain, x, drift, diffusion, now, h, generator), boundary)
    if frames:
        trajectory.append(x)
        at.append(start + steps * h)
    stacked = torch.stack(trajectory) if trajectory else x.new_empty((0, *x.shape))
    return Paths(x, stacked, torch.tensor(at, dtype=x.dtype, device=x.device))


def _move(
    domain: Domain,
    x: Tensor,
    drift: Drift | None,
    diffusion: Diffusion,
    now: float,
    h: float,
    generator: Generator | None,
) -> Tensor:
    """The tangent vector b h + a sqrt(h) z ``[*batch, *event_shape]`` at ``x`` and time ``now``."""
    t = torch.tensor(now, dtype=x.dtype, device=x.device)
    a = diffusion(x, t) if callable(diffusion) else diffusion
    move = math.sqrt(h) * _times("diffusion", a, domain.sample_noise(x, generator=generator), domain, now)
    if drift is not None:
        b = drift(x, t)
        if not isinstance(b, Tensor):
            raise TypeError(f"drift must return a torch.Tensor, not {type(b).__name__}")
        if b.shape != x.shape:
            raise ShapeError(f"drift returned shape {list(b.shape)}; expected that of x, {list(x.shape)}")
        check_alike("drift", b, "x", x)
        _check_finite("drift", b, now)
        move = move + h * b
    return domain.tangent(x, move)


def _for_all(name: str, a: object, x0: Tensor, domain: Domain) -> Tensor:
    """A coefficient that is no function, with the shape of the batch in front if it is one for all points."""
    try:
        a = torch.as_tensor(a, dtype=None if isinstance(a, Tensor) else x0.dtype, device=x0.device)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{name} must be a number, a torch.Tensor or a function that returns one, not {type(a).__name__}"
        ) from None
    event = domain.event_shape
    batch = x0.shape[: x0.ndim - len(event)]
    readings = {"point": (batch,), "coordinate": (event, x0.shape), "pair of coordinates": (event + event,)}
    possible = [f"one for each {what}" for what, shapes in readings.items() if a.shape in shapes]
    if event.numel() > 1 and len(possible) > 1:
        shapes = [list(batch + rest) for rest in (torch.Size(), event, event + event)]
        raise ShapeError(
            f"{name} of shape {list(a.shape)} may be {' or '.join(possible)}: give a function of x and t, whose values "
            f"are for the whole batch, of a shape in {shapes}"
        )
    if a.shape in (batch, x0.shape):
        return a
    return a.expand(batch + a.shape) if a.shape in (event, event + event) else a


def _times(name: str, a: Coefficient, z: Tensor, domain: Domain, now: float) -> Tensor:
    """A coefficient, of any of its shapes, times noise ``[*batch, *event_shape]``."""
    if isinstance(a, Real):
        if not math.isfinite(a):
            raise ValueError(f"{name} must be finite; at t = {now:g} it is {a}")
        return float(a) * z
    if not isinstance(a, Tensor):
        raise TypeError(
            f"{name} must be a number, a torch.Tensor or a function that returns one, not {type(a).__name__}"
        )
    check_alike(name, a, "x", z)
    _check_finite(name, a, now)
    k = len(domain.event_shape)
    batch = z.shape[: z.ndim - k]
    if a.ndim == 0 or a.shape == z.shape:
        return a * z
    if a.shape == batch:
        return domain.expand(a) * z
    if a.shape == z.shape + domain.event_shape:
        size = domain.event_shape.numel()
        product = a.reshape(*batch, size, size) @ z.reshape(*batch, size, 1)
        return product.reshape(z.shape)
    shapes = [list(s) for s in (batch, z.shape, z.shape + domain.event_shape)]
    raise ShapeError(f"{name} has shape {list(a.shape)}; expected a number or one of {shapes}")


def _inside(domain: Domain, x: Tensor, move: Tensor, boundary: Boundary) -> Tensor:
    """Where ``x`` ends, ``[*batch, *event_shape]``."""
    if boundary == "specular":
        return domain.reflect(x, move)
    y = x + move
    nearest = domain.project(y)
    return nearest if boundary == "project" else domain.project(2 * nearest - y)


def _check_counts(steps: int, frames: int) -> tuple[int, int]:
    for name, value, least in (("steps", steps, 1), ("frames", frames, 0)):
        try:
            operator.index(value)
        except TypeError:
            raise TypeError(f"{name} must be an integer, not {value!r}") from None
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    if frames > steps + 1:
        raise ValueError(f"frames must be at most steps + 1 = {steps + 1}, not {frames}")
    return operator.index(steps), operator.index(frames)


def _check_number(name: str, value: float) -> float:
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, not {value!r}")
    return float(value)


def _check_setting(domain: Domain, x0: Tensor, drift: Drift | None, boundary: Boundary) -> None:
    require_domain(domain)
    check_tensor("x0", x0, domain.event_shape)
    check_inside(domain, "x0", x0)
    if drift is not None and not callable(drift):
        raise TypeError(f"drift must be None or a function of x and t, not {type(drift).__name__}")
    if boundary not in get_args(Boundary):
        raise ValueError(f'boundary must be "specular", "symmetrised" or "project", not {boundary!r}')
    if boundary != "specular" and x0.numel():
        # Two quadratic forms that agree on a random vector are the same. The projection is along the walls'
        # normals of R^n; in another metric the scheme would converge to another, obliquely reflected, process.
        one = x0.detach().reshape(-1, *domain.event_shape)[:1]
        u = domain.sample_noise(one, generator=Generator(device=one.device).manual_seed(0))
        lengths = domain.inner(one, u, u), (u * u).flatten(1).sum(-1)
        if not torch.allclose(*lengths, rtol=1e-3):
            raise ValueError(f'{domain!r} has a metric of its own: boundary must be "specular", not {boundary!r}')


def _check_finite(name: str, value: Tensor, now: float) -> None:
    if not bool(value.isfinite().all()):
        raise ValueError(f"{name} is not finite at t = {now:g}")
