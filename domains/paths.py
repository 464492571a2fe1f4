r"""Noising by simulated reflected paths, with denoising targets: no kernel needed.

May use: torch, and the domain's public methods.

A path X_0 = x0, .., X_N takes reflected steps of variance h_k, sum h_k = sigma^2. Read backwards from its end it is
again reflected Brownian motion, so a Bismut-Elworthy-Li formula (Elworthy & Li 1994; Thalmaier 1997) for that motion
gives a vector whose expectation given (x0, X_N) is the score of the kernel at X_N. With dB_k the Brownian
part of the k-th backward step, as far as the map that came before lets it count, and P_k the map that its touches of
the walls leave behind (:mod:`~constrained_diffusion.domains.touches`),

.. math:: \sigma^2\, target = dB_N + P_N (dB_{N-1} + P_{N-1} (dB_{N-2} + \dots)),

which is evaluated forwards, from the innermost bracket, while the path is simulated: nothing is stored. Any part of the
path that ends at X_N will do, with its own variance for sigma^2. Where walls bend outwards the P_k grow with the time
spent there, and sums that go far back have heavy tails: they begin the squared radius of the sharpest such
wall, or half the inradius, before the end; and what is longer than six times the root mean square of a sum without
walls is cut to that, as a few that have grown a hundredfold would drown the rest of a batch.

On curved sets sums are carried from point to point along geodesics, and damped by exp(-Ricci h / 2) on the way (they
grow where curvature is negative).

**Steps.** Where one flat wall is in reach a step is exact at any length. What errs are steps from which several
walls that are not at right angles, or the bend of one, are in reach. Such a step has at most the variance
sigma^2 / 128, and a length of at most a quarter of the inradius and 0.04 times 2 / (sum of principal curvatures); but
1/64 of the time that is left, and a quarter of what is left beyond four squared inradii, are always allowed, since what
lies far from the path's end hardly counts. Where moves are not specular but symmetrised, which errs more the longer
they are, the latter holds only from 6 / spectral gap before the end. The number of steps so grows like
log(sigma / inradius), and the bias that remains is of the order of one step: ``benchmarks/paths.py`` measures it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from .checks import trusted
from .touches import backward_step

if TYPE_CHECKING:
    from .base import Domain

__all__ = ["STEPS", "simulate"]

STEPS = 128  # taken where several walls are in reach all the way, by a path of about the inradius
_BESIDE = 0.25  # longest step beside several walls, in inradii
_CURVED = 0.04  # longest step beside a curved wall, in units of 2 / (sum of its principal curvatures)
_ROUND = 0.05  # largest variance of a step on a curved set, over its sectional curvature
_STRAIGHT = 1e-3  # curvature in 1/inradius that counts as none
_SHARE = 2.0  # of the time that is left, times the number of steps
_FAR, _FAR_SHARE = 2.0, 0.25  # inradii to the path's end beyond which a step may take that share of what is left
_FORGOTTEN = 6.0  # time to the path's end, times the spectral gap, from which on any error is below a twentieth
_LONGEST = 6.0  # sum beside walls that bend outwards, over its root mean square where there are no walls
_FIRST, _SECOND = 1 / 3, 1 / 2  # step in units of the distance to the nearest wall and to the second one


def simulate(
    domain: Domain, x0: Tensor, sigma: Tensor, *, steps: int = STEPS, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Simulate reflected paths.

    Args:
        domain: where; only ``reflect``, ``sample_noise``, ``walls``, ``curvature``, ``inradius``,
            ``wall_curvature``, and on curved sets ``logmap``, ``transp`` and ``ricci`` are used.
        x0: starting points inside, ``[*batch, *event_shape]``.
        sigma: Brownian standard deviation at the end, ``[*batch]``.
        steps: how fine the steps are; see the module. The bias falls with their number.
        generator: source of randomness.

    Returns:
        End points and denoising targets, both ``[*batch, *event_shape]``.
    """
    x = x0.reshape(-1, *domain.event_shape).clone()
    total = torch.zeros_like(x)
    variance = (sigma.reshape(-1) ** 2).to(x)
    low, high = domain.wall_curvature
    bend = (domain.dim - 1) / 2 * max(-low, high)  # how fast a curved wall's distance drifts
    beside = min(_BESIDE * domain.inradius, _CURVED / bend if bend > 0 else math.inf)
    least = (variance / steps).clamp(max=beside**2)
    concave = min(low, 0.0) * domain.inradius
    memory = max(-domain.inradius / concave, domain.inradius / 2) ** 2 if concave < -_STRAIGHT else math.inf
    ricci = torch.as_tensor(domain.ricci).to(x)
    most = float(ricci.abs().max())
    planes = 1 if ricci.ndim else domain.dim - 1  # that share the curvature of a direction
    settled = (_FAR * domain.inradius) ** 2
    if not domain.has_specular_moves:
        settled = max(settled, _FORGOTTEN / domain.spectral_gap if domain.spectral_gap > 0 else math.inf)
    flat = _ROUND * planes / most if most else math.inf
    window = variance.clamp(max=memory)  # the end of the path, which the target is made of
    left, rows = variance.clone(), torch.arange(len(x), device=x.device)  # of those still on their way
    with trusted():
        distances, _ = domain.walls(x)
        while len(rows):
            start, beyond, time, shortest, end_part = (v.index_select(0, rows) for v in (x, total, left, least, window))
            h = torch.maximum(shortest, _clearance(distances) ** 2).clamp(max=flat)
            h = h.maximum(time * (_SHARE / steps)).maximum((time - settled) * _FAR_SHARE)
            before = time - end_part
            goal = torch.where(before > 0, before, time)
            h = torch.where(1.5 * h >= goal, goal, h)
            noise = domain.sample_noise(start, generator=generator)
            end = domain.reflect(start, domain.expand(h.sqrt()) * noise)
            beta, (distances, normals) = distances, domain.walls(end)
            beyond = domain.transp(start, end, beyond)
            if most:
                beyond = torch.exp(-ricci / 2 * domain.expand(h)) * beyond
            value = backward_step(domain, end, start, h, beyond, distances, beta, normals, generator)
            total.index_copy_(0, rows, value.masked_fill(domain.expand(before > 0), 0.0))
            x.index_copy_(0, rows, end)
            left.index_copy_(0, rows, time - h)
            moving = (time > h).nonzero().squeeze(-1)
            rows, distances = rows.index_select(0, moving), distances.index_select(0, moving)
    if math.isfinite(memory):
        size = domain.inner(x, total, total).sqrt() / (domain.dim * window).sqrt()
        total = total * domain.expand(_LONGEST / size.clamp(min=_LONGEST))
    target = domain.tangent(x, total / domain.expand(window))
    return x.reshape(x0.shape), target.reshape(x0.shape)


def _clearance(distances: Tensor) -> Tensor:
    """Length of a step ``[B]`` from which at most one of the walls ``[B, m]`` is in reach, or none is."""
    first, wall = distances.min(-1)
    free = _FIRST * first.clamp(min=0)
    if distances.shape[-1] == 1:
        return free
    second = distances.scatter(-1, wall.unsqueeze(-1), torch.inf).amin(-1)
    return torch.maximum(free, _SECOND * second.clamp(min=0))
