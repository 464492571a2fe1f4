r"""The classical diffusion models, as what they are: reflected diffusions over R^d, where nothing reflects.

A forward process of the textbooks, :math:`dz = f(t) z\,dt + g(t)\,dB`, leads to :math:`z_t = \alpha(t) x_0 + \beta(t)
\epsilon`. In the coordinates x = z / alpha it is Brownian motion, run to sigma = beta / alpha: :class:`ReflectedSDE`
over :class:`Euclidean` with a schedule that knows alpha. All samplers work in x; :class:`TextbookSDE` speaks z, with
the drift and diffusion of Song et al. 2021 (arXiv 2011.13456).

* VE and NCSN: ``GeometricSchedule``; ``AnnealedLangevin``.
* VP and DDPM: ``VariancePreservingSchedule``, ``CosineSchedule``, ``DiscreteSchedule``; ``AnnealedReflected(eta=1)``,
  or ``ReflectedBridge``, whose steps have the same law there.
* sub-VP: ``SubVariancePreservingSchedule``.
* DDIM: ``AnnealedReflected(eta=...)``.
* EDM: ``EDMSchedule``, ``Heun(churn=...)``, ``KarrasGrid``.
* DPM-Solver-2 and DPM-Solver++ (2M): ``Heun(midpoint=True)`` and ``Multistep``.
* Networks that predict noise, data or velocity: ``from_noise``, ``from_denoiser``, ``from_velocity``.

May use: the SDE.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .process import Score
from .sde import ReflectedSDE

__all__ = ["TextbookSDE"]


class TextbookSDE:
    r"""dz = f(t) z dt + g(t) dB of a process whose schedule has a scale, in z = scale(t) x.

    Args:
        sde: the process.
    """

    def __init__(self, sde: ReflectedSDE) -> None:
        self.sde = sde

    def marginal(self, x0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``[*batch, *event_shape]`` and standard deviation ``[*batch]`` of z at times ``[*batch]`` given data."""
        alpha = self.sde.schedule.scale(t)
        return self.sde.expand(alpha) * x0, alpha * self.sde.sigma(t)

    def drift(self, z: Tensor, t: Tensor) -> Tensor:
        """F(t) z with f = d log alpha / dt, ``[*batch, *event_shape]``."""
        with torch.enable_grad():
            leaf = t.detach().requires_grad_()
            log_alpha = self.sde.schedule.scale(leaf).log().sum()
            f = torch.autograd.grad(log_alpha, leaf)[0] if log_alpha.requires_grad else torch.zeros_like(t)
        return self.sde.expand(f) * z

    def diffusion(self, t: Tensor) -> Tensor:
        """G(t) = alpha sqrt(d sigma^2 / dt), ``[*batch]``."""
        return self.sde.schedule.scale(t) * self.sde.diffusion(t)

    def score(self, score: Score, z: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        """The gradient of log p_t(z): that of x over alpha, ``[*batch, *event_shape]``."""
        alpha = self.sde.expand(self.sde.schedule.scale(t))
        return score(z / alpha, t, **condition) / alpha

    def reverse_drift(self, score: Score, z: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        """F z - g^2 grad log p_t(z), in forward time, ``[*batch, *event_shape]``."""
        return self.drift(z, t) - self.sde.expand(self.diffusion(t)) ** 2 * self.score(score, z, t, **condition)
