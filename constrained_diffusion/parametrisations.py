r"""Scores from networks that predict something else, and back.

On R^d textbooks write :math:`z_t = \alpha x_0 + \beta \epsilon`, and train networks of z_t that predict the noise
epsilon (Ho et al. 2020, arXiv 2006.11239), the data x0, or the velocity :math:`v = \alpha \epsilon - \beta x_0`
(Salimans & Ho 2022, arXiv 2202.00512). With alpha = ``schedule.scale(t)``, beta = alpha sigma(t) and x = z_t / alpha,
each of them is the score in other words. With walls, where x - sigma^2 score is only nearly the data's mean, they
remain definitions of a score and can be used to train one.

May use: the SDE.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from .process import Score
from .sde import ReflectedSDE

__all__ = ["from_denoiser", "from_noise", "from_velocity", "predict"]

Parametrisation = Literal["score", "denoiser", "noise", "velocity"]


class _Converted:
    """A score made of a network that predicts something else."""

    def __init__(self, network: Score, sde: ReflectedSDE, kind: Parametrisation) -> None:
        self.network, self.sde, self.kind = network, sde, kind
        self.evaluations = int(getattr(network, "evaluations", 1))

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        """The score ``[*batch, *event_shape]`` at ``x`` and times ``[*batch]``."""
        sde = self.sde
        alpha, sigma = (sde.expand(v.to(x)) for v in (sde.schedule.scale(t), sde.sigma(t)))
        out = self.network(alpha * x, t, **condition)
        if self.kind == "noise":
            return -out / sigma
        if self.kind == "denoiser":
            return (out - x) / sigma**2
        noise = (out / alpha + sigma * x) / (1 + sigma**2)  # from v = alpha (noise - sigma x0) and x = x0 + sigma noise
        return -noise / sigma


def from_denoiser(network: Score, sde: ReflectedSDE) -> Score:
    """The score (D - x) / sigma^2 of a network ``network(scale * x, t, **condition)`` that predicts the data, D."""
    return _Converted(network, sde, "denoiser")


def from_noise(network: Score, sde: ReflectedSDE) -> Score:
    """The score -epsilon / sigma of a network ``network(scale * x, t, **condition)`` that predicts the noise."""
    return _Converted(network, sde, "noise")


def from_velocity(network: Score, sde: ReflectedSDE) -> Score:
    """The score of a network ``network(scale * x, t, **condition)`` that predicts alpha epsilon - beta x0."""
    return _Converted(network, sde, "velocity")


def predict(sde: ReflectedSDE, score: Score, x: Tensor, t: Tensor, what: Parametrisation, **condition: Any) -> Tensor:
    """What a network of another parametrisation would say where a score says s: the inverse of the others.

    Args:
        sde: the forward process.
        score: its score.
        x: points ``[*batch, *event_shape]``, not scaled.
        t: times ``[*batch]``.
        what: ``"denoiser"``, ``"noise"``, ``"velocity"`` or ``"score"``.
        condition: tensors handed to the score.

    Returns:
        The prediction ``[*batch, *event_shape]``.
    """
    if what not in ("score", "denoiser", "noise", "velocity"):
        raise ValueError(f'what must be "score", "denoiser", "noise" or "velocity", not {what!r}')
    s = score(x, t, **condition)
    alpha, sigma = (sde.expand(v.to(x)) for v in (sde.schedule.scale(t), sde.sigma(t)))
    if what == "score":
        return s
    if what == "noise":
        return -sigma * s
    denoised = x + sigma**2 * s
    return denoised if what == "denoiser" else alpha * (-sigma * s - sigma * denoised)
