"""The wrapped Gaussian, heat kernel of the circle of length 2 pi, as functions of tensors. May use: torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["log_prob_and_score", "wrap"]

_SWITCH = 2.0  # sigma from which cosines serve, images below
_IMAGES, _WAVES = 3, 4  # on each side; beyond them terms are below 1e-14 of the sum (images), 1e-17 (cosines)
_TURN = 2 * math.pi


def wrap(angle: Tensor) -> Tensor:
    """Angles brought to [-pi, pi)."""
    inside = (angle >= -math.pi) & (angle < math.pi)
    wrapped = torch.remainder(angle + math.pi, _TURN) - math.pi
    return torch.where(inside, angle, torch.where(wrapped < math.pi, wrapped, -math.pi))


def log_prob_and_score(x: Tensor, x0: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    r"""Log-density and its derivative in ``x``, elementwise.

    :math:`\sum_k \exp(-(x - x_0 + 2 \pi k)^2 / 2 \sigma^2) / \sigma \sqrt{2 \pi}` below sigma = 2, from there on
    :math:`(1 + 2 \sum_n \exp(-n^2 \sigma^2 / 2) \cos n (x - x_0)) / 2 \pi`.

    Args:
        x: angles.
        x0: starts.
        sigma: Brownian standard deviations, positive, in radians.
    """
    way = wrap(x - x0)
    near, far = sigma.clamp(max=_SWITCH), sigma.clamp(min=_SWITCH)
    k = torch.arange(-_IMAGES, _IMAGES + 1, dtype=x.dtype, device=x.device)
    apart = (way.unsqueeze(-1) + _TURN * k) / near.unsqueeze(-1)
    terms = -apart.square() / 2
    log_p = torch.logsumexp(terms, -1) - torch.log(near * math.sqrt(_TURN))
    score = -(torch.softmax(terms, -1) * apart).sum(-1) / near
    n = torch.arange(1, _WAVES + 1, dtype=x.dtype, device=x.device)
    weight = 2 * torch.exp(-(n * far.unsqueeze(-1)).square() / 2)
    angle = n * way.unsqueeze(-1)
    p = 1 + (weight * angle.cos()).sum(-1)
    slope = -(n * weight * angle.sin()).sum(-1) / p
    wide = sigma >= _SWITCH
    return torch.where(wide, p.log() - math.log(_TURN), log_p), torch.where(wide, slope, score)
