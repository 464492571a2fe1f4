r"""The Neumann heat kernel of the unit ball in R^d, any d >= 2: log density and score, as functions of tensors.

``p_sigma(x | x0)`` is the density, against Lebesgue measure, of reflected Brownian motion (generator: half the Neumann
Laplacian) at time ``sigma**2``. Points within some 6.8 ``sigma`` of each other at ``sigma >= 0.1`` take the
eigenfunction series (:mod:`.ball_series`), which has no relative precision further out; all others the Gaussian times a
wall factor (:mod:`.ball_wall`). Everything is float64. May use: torch and those two.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import ball_series, ball_wall
from .ball_series import spectral_gap

__all__ = ["log_prob_and_score", "spectral_gap"]

_CENTRE = 1e-7  # points nearer the centre are moved to this radius, where the angle is well defined
_CHUNK = 4096  # rows at a time, each of which takes a few hundred numbers


@torch.no_grad()
def log_prob_and_score(x: Tensor, x0: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Log density and score of reflected Brownian motion in the unit ball.

    The first call for a dimension builds its tables (under a second to two); they are kept.

    Args:
        x: points of the closed unit ball, [B, d], d >= 2, float64; the centre and the sphere included.
        x0: starts, likewise; may equal x.
        sigma: Brownian standard deviations (time ``sigma**2``), positive, [B], float64.

    Returns:
        ``log p_sigma(x | x0)`` against Lebesgue measure, [B], and its gradient in x, [B, d], whose normal component
        is zero on the sphere. Neither carries a graph.
    """
    d = x.shape[-1]
    size, size0 = x.norm(dim=-1, keepdim=True), x0.norm(dim=-1, keepdim=True)
    axis = torch.zeros_like(x)
    axis[:, 0] = 1.0
    e = torch.where(size > 0, x / torch.where(size > 0, size, 1.0), axis)
    e0 = torch.where(size0 > 0, x0 / torch.where(size0 > 0, size0, 1.0), e)
    e = torch.where(size > 0, e, e0)
    r, r0 = size[:, 0].clamp(_CENTRE, 1.0), size0[:, 0].clamp(max=1.0)
    u = 0.5 * (e - e0).square().sum(-1)
    step = (x - x0) / sigma[:, None]
    square = step.square().sum(-1)
    log_p = -0.5 * square - d / 2 * torch.log(2 * math.pi * sigma.square())
    score = -step / sigma[:, None]
    turn = e0 - e + u[:, None] * e  # r times the gradient of the cosine

    converged = (sigma >= ball_series.FROM) & (square < ball_series.REACH)
    for rows in converged.nonzero()[:, 0].split(_CHUNK):
        p, along, across = ball_series.series(r[rows], r0[rows], u[rows], sigma[rows], d)
        converged[rows] = good = p > 0  # false for large d only, where the terms may cancel to nothing
        rows, p, along, across = rows[good], p[good], along[good], across[good]
        log_p[rows] = p.log() - ball_series.log_sphere(d)
        score[rows] = (along / p)[:, None] * e[rows] + (across / (p * r[rows]))[:, None] * turn[rows]
    near = ~converged & ((1 - r) * (1 - r0) < ball_wall.REACH * sigma.square())
    for rows in near.nonzero()[:, 0].split(_CHUNK):
        factor, by_r, by_u = ball_wall.wall_factor(r[rows], r0[rows], u[rows], sigma[rows], d)
        log_p[rows] += factor
        score[rows] += by_r[:, None] * e[rows] - by_u[:, None] * turn[rows]
    # on the sphere the normal derivative is zero: what is left of it there is the error of the expansion
    on_wall = (r >= 1 - 1e-15)[:, None]
    return log_p, torch.where(on_wall, score - (score * e).sum(-1, keepdim=True) * e, score)
