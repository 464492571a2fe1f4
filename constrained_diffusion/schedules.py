r"""Noise schedules: the Brownian standard deviation sigma as a function of time t in [0, 1].

Time 0 is data, time 1 is the prior. May use: torch.

Textbooks on R^d write :math:`x_t = \alpha(t) x_0 + \beta(t) z`. Divided by alpha that is Brownian
motion run for a time sigma(t)^2, sigma = beta / alpha, so each of their processes is a schedule here: sigma(t), and
:meth:`Schedule.scale`, the alpha by which what their networks see differs from x (Karras et al. 2022, arXiv
2206.00364, table 1, whose s(t) it is).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = [
    "CosineSchedule",
    "CustomSchedule",
    "DiscreteSchedule",
    "EDMSchedule",
    "GeometricSchedule",
    "LinearSchedule",
    "Schedule",
    "SubVariancePreservingSchedule",
    "VariancePreservingSchedule",
]

_BISECTIONS = 64


class Schedule(ABC):
    """An increasing sigma(t) > 0 on [0, 1].

    Attributes:
        sigma_min: noise at time 0, in the units of the data.
        sigma_max: noise at time 1.
    """

    sigma_min: float
    sigma_max: float

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Brownian standard deviation at times ``t``, of the same shape."""

    def scale(self, t: Tensor) -> Tensor:
        """What textbook networks see is this times x: alpha(t), of the shape of ``t``; one unless said otherwise."""
        return torch.ones_like(t)

    def time(self, sigma: Tensor) -> Tensor:
        """The time, in [0, 1], at which sigma(t) has a given value, of the same shape; by bisection here."""
        low, high = torch.zeros_like(sigma), torch.ones_like(sigma)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            below = self.sigma(middle) < sigma
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return torch.where(sigma <= self.sigma_min, 0.0, torch.where(sigma >= self.sigma_max, 1.0, (low + high) / 2))

    def diffusion(self, t: Tensor) -> Tensor:
        """The coefficient g(t) = sqrt(d sigma^2 / dt) of the noise, of the same shape; by autograd here."""
        with torch.enable_grad():
            leaf = t.detach().requires_grad_()
            (slope,) = torch.autograd.grad((self.sigma(leaf) ** 2).sum(), leaf)
        return slope.clamp(min=0).sqrt()


class GeometricSchedule(Schedule):
    """sigma(t) = sigma_min (sigma_max / sigma_min)^t: equal time for each octave of noise.

    Source: Song et al. 2021, arXiv 2011.13456.

    Args:
        sigma_min: noise at time 0, positive, in the units of the data.
        sigma_max: noise at time 1, larger.
    """

    def __init__(self, sigma_min: float, sigma_max: float) -> None:
        self.sigma_min, self.sigma_max = _checked_range(sigma_min, sigma_max)

    def sigma(self, t: Tensor) -> Tensor:
        """See the class."""
        return self.sigma_min * torch.exp(t * math.log(self.sigma_max / self.sigma_min))

    def diffusion(self, t: Tensor) -> Tensor:
        """sigma(t) sqrt(2 log(sigma_max / sigma_min))."""
        return self.sigma(t) * math.sqrt(2 * math.log(self.sigma_max / self.sigma_min))

    def time(self, sigma: Tensor) -> Tensor:
        """log(sigma / sigma_min) / log(sigma_max / sigma_min)."""
        return (torch.log(sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)).clamp(0, 1)

    def __repr__(self) -> str:
        """Name and arguments."""
        return f"GeometricSchedule({self.sigma_min:g}, {self.sigma_max:g})"


class CustomSchedule(Schedule):
    """A schedule given as a function.

    Args:
        function: maps a tensor of times in [0, 1] to standard deviations of the same shape: positive,
            increasing, differentiable by autograd.

    Raises:
        ValueError: the function is not positive and increasing on a grid of 257 times.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        grid = torch.linspace(0, 1, 257, dtype=torch.float64)
        values = function(grid)
        if values.shape != grid.shape or not bool(values.isfinite().all()):
            raise ValueError("schedule must map a tensor of times to finite standard deviations of the same shape")
        if not bool((values > 0).all()):
            raise ValueError(f"schedule must be positive on [0, 1]; its least value is {float(values.min()):g}")
        down = (values.diff() <= 0).nonzero()
        if len(down):
            raise ValueError(f"schedule must increase on [0, 1]; it does not at t = {float(grid[down[0, 0]]):.3f}")
        self.sigma_min, self.sigma_max = float(values[0]), float(values[-1])

    def sigma(self, t: Tensor) -> Tensor:
        """The given function."""
        return self.function(t)


class LinearSchedule(Schedule):
    """sigma(t) = sigma_min + t (sigma_max - sigma_min): the clock of flows along straight lines.

    Args:
        sigma_min: at time 0, positive.
        sigma_max: at time 1, larger.
    """

    def __init__(self, sigma_min: float, sigma_max: float) -> None:
        self.sigma_min, self.sigma_max = _checked_range(sigma_min, sigma_max)

    def sigma(self, t: Tensor) -> Tensor:
        """See the class."""
        return self.sigma_min + t * (self.sigma_max - self.sigma_min)

    def time(self, sigma: Tensor) -> Tensor:
        """The inverse of :meth:`sigma`."""
        return ((sigma - self.sigma_min) / (self.sigma_max - self.sigma_min)).clamp(0, 1)

    def __repr__(self) -> str:
        """Name and arguments."""
        return f"LinearSchedule({self.sigma_min:g}, {self.sigma_max:g})"


class EDMSchedule(Schedule):
    """sigma(t)^(1/rho) runs evenly from sigma_min^(1/rho) to sigma_max^(1/rho).

    Source: Karras et al. 2022, arXiv 2206.00364, equation 5.

    Args:
        sigma_min: at time 0, positive.
        sigma_max: at time 1, larger.
        rho: 1 is linear; the larger, the more of the time is spent at little noise. Infinity would be geometric.
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        self.sigma_min, self.sigma_max = _checked_range(sigma_min, sigma_max)
        if not (math.isfinite(rho) and rho > 0):
            raise ValueError(f"rho must be positive and finite, not {rho!r}")
        self.rho = float(rho)

    def sigma(self, t: Tensor) -> Tensor:
        """See the class."""
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return torch.pow(low + t * (high - low), self.rho)

    def time(self, sigma: Tensor) -> Tensor:
        """The inverse of :meth:`sigma`."""
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        share: Tensor = (torch.pow(sigma, 1 / self.rho) - low) / (high - low)
        return share.clamp(0, 1)

    def __repr__(self) -> str:
        """Name and arguments."""
        return f"EDMSchedule({self.sigma_min:g}, {self.sigma_max:g}, rho={self.rho:g})"


class VariancePreservingSchedule(Schedule):
    """The VP process: alpha^2 = exp(-int beta) with beta(t) linear, and noise of variance 1 - alpha^2.

    sigma = sqrt(1 - alpha^2) / alpha and scale = alpha. It is the continuous form of DDPM (Ho et al. 2020, arXiv
    2006.11239; Song et al. 2021, arXiv 2011.13456, equation 32).

    Args:
        beta_min: rate at which the signal is lost at time 0.
        beta_max: at time 1.
        start: time of that process at which time 0 here begins, where some noise is there already.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, start: float = 1e-3) -> None:
        if not (0 <= beta_min <= beta_max < math.inf and beta_max > 0):
            raise ValueError(f"need 0 <= beta_min <= beta_max; got beta_min={beta_min!r}, beta_max={beta_max!r}")
        self.beta_min, self.beta_max, self.start = float(beta_min), float(beta_max), _checked_start(start)
        self.sigma_min, self.sigma_max = _ends(self)

    def decay(self, t: Tensor) -> Tensor:
        """-log alpha, half the integral of beta, at times ``t``."""
        tau = self.start + (1 - self.start) * t
        return tau * (self.beta_min + tau * (self.beta_max - self.beta_min) / 2) / 2

    def undecay(self, decay: Tensor) -> Tensor:
        """The times at which -log alpha has given values, within [0, 1]."""
        slope = self.beta_max - self.beta_min  # slope tau^2 / 2 + beta_min tau = 2 decay, without cancellation
        rate = self.beta_min + (self.beta_min**2 + 4 * slope * decay).sqrt()
        tau = 4 * decay / rate.clamp(min=torch.finfo(decay.dtype).tiny)
        return ((tau - self.start) / (1 - self.start)).clamp(0, 1)

    def sigma(self, t: Tensor) -> Tensor:
        """See the class."""
        return torch.expm1(2 * self.decay(t)).sqrt()

    def time(self, sigma: Tensor) -> Tensor:
        """The inverse of :meth:`sigma`."""
        return self.undecay(torch.log1p(sigma**2) / 2)

    def scale(self, t: Tensor) -> Tensor:
        """Alpha."""
        return torch.exp(-self.decay(t))

    def __repr__(self) -> str:
        """Name and arguments."""
        return f"VariancePreservingSchedule({self.beta_min:g}, {self.beta_max:g}, start={self.start:g})"


class SubVariancePreservingSchedule(Schedule):
    """The sub-VP process: alpha as for VP, but noise of standard deviation 1 - alpha^2.

    sigma = (1 - alpha^2) / alpha and scale = alpha (Song et al. 2021, arXiv 2011.13456, section 3.4).

    Args:
        beta_min: rate at which the signal is lost at time 0.
        beta_max: at time 1.
        start: time of that process at which time 0 here begins, where some noise is there already.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, start: float = 1e-3) -> None:
        self._vp = VariancePreservingSchedule(beta_min, beta_max, start)
        self.sigma_min, self.sigma_max = _ends(self)

    def sigma(self, t: Tensor) -> Tensor:
        """See the class."""
        return 2 * torch.sinh(self._vp.decay(t))

    def time(self, sigma: Tensor) -> Tensor:
        """The inverse of :meth:`sigma`."""
        return self._vp.undecay(torch.asinh(sigma / 2))

    def scale(self, t: Tensor) -> Tensor:
        """Alpha."""
        return self._vp.scale(t)

    def __repr__(self) -> str:
        """Name and arguments."""
        return f"Sub{self._vp!r}"


class CosineSchedule(Schedule):
    """alpha^2 = cos^2 of an angle that grows evenly, over its value at the start; variance-preserving.

    Source: Nichol & Dhariwal 2021, arXiv 2102.09672, equation 17.

    Args:
        offset: of the angle, so that little noise is not over at once.
        start: time of that process at which time 0 here begins; as much is left out at its end, where alpha is zero.
    """

    def __init__(self, offset: float = 0.008, start: float = 1e-3) -> None:
        if not 0 <= offset < math.inf:
            raise ValueError(f"offset must be finite and not negative; got {offset!r}")
        self.offset, self.start = float(offset), _checked_start(start)
        self.sigma_min, self.sigma_max = _ends(self)

    def sigma(self, t: Tensor) -> Tensor:
        """See the class."""
        tau = self.start + (1 - 2 * self.start) * t
        begin = self.offset / (1 + self.offset) * (math.pi / 2)
        step = (
            tau / (1 + self.offset) * (math.pi / 2)
        )  # sin(2 begin + step) sin(step) = cos^2 begin - cos^2(begin + step)
        return (torch.sin(2 * begin + step) * torch.sin(step)).sqrt() / torch.cos(begin + step)

    def scale(self, t: Tensor) -> Tensor:
        """Alpha = 1 / sqrt(1 + sigma^2)."""
        return torch.rsqrt(1 + self.sigma(t) ** 2)

    def __repr__(self) -> str:
        """Name and arguments."""
        return f"CosineSchedule({self.offset:g}, start={self.start:g})"


class DiscreteSchedule(Schedule):
    """A table of alpha^2 as discrete models have it, spread evenly over time; log sigma is linear in between.

    Args:
        alphas_cumprod: alpha^2 of each level ``[n]``, n >= 2, decreasing within (0, 1).
    """

    def __init__(self, alphas_cumprod: Tensor) -> None:
        table = torch.as_tensor(alphas_cumprod, dtype=torch.float64)
        if table.ndim != 1 or len(table) < 2 or not bool(((table > 0) & (table < 1)).all() & (table.diff() < 0).all()):
            raise ValueError("alphas_cumprod must be a vector of two or more numbers that decrease within (0, 1)")
        self._log_sigma = (torch.log1p(-table) - table.log()) / 2
        self.sigma_min, self.sigma_max = (float(v) for v in self._log_sigma[[0, -1]].exp())

    def __len__(self) -> int:
        """Number of levels."""
        return len(self._log_sigma)

    def sigma(self, t: Tensor) -> Tensor:
        """See the class."""
        position = t * (len(self) - 1)
        left = position.detach().floor().clamp(0, len(self) - 2)
        table, index = self._log_sigma.to(t), left.long()
        return torch.exp(table[index] + (position - left) * (table[index + 1] - table[index]))

    def scale(self, t: Tensor) -> Tensor:
        """Alpha = 1 / sqrt(1 + sigma^2)."""
        return torch.rsqrt(1 + self.sigma(t) ** 2)

    def __repr__(self) -> str:
        """Name and size."""
        return f"DiscreteSchedule({len(self)} levels, {self.sigma_min:g} to {self.sigma_max:g})"


def _checked_range(sigma_min: float, sigma_max: float) -> tuple[float, float]:
    if not (math.isfinite(sigma_max) and 0 < sigma_min < sigma_max):
        raise ValueError(f"need 0 < sigma_min < sigma_max < inf; got sigma_min={sigma_min!r}, sigma_max={sigma_max!r}")
    return float(sigma_min), float(sigma_max)


def _checked_start(start: float) -> float:
    if not 0 < start < 0.5:
        raise ValueError(f"start must lie in (0, 0.5); got {start!r}")
    return float(start)


def _ends(schedule: Schedule) -> tuple[float, float]:
    low, high = schedule.sigma(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    return low, high
