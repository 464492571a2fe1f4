"""The solid ball |x| <= R in R^d: vectors of bounded length."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Generator, Tensor

from . import ball_kernel, damping
from .base import Domain
from .checks import DomainError, batch_shape, check_scale, trusted, whole_number, without_derivative
from .specs import Extent, numbers, round_outwards

__all__ = ["Ball"]

# Radii, times sqrt(d - 1): the simulated steps' length. Moments of the law were then within the noise of 100,000 paths,
# 1e-3, of those of steps three times shorter (d = 2, 3, 10; sigma = 0.05 to 0.6); the bias falls with the square.
_STEP = 0.12
_MOST_STEPS = 48  # beyond sigma = 0.6 or so little is left of the start, so that longer steps do
_CLEAR = 6.5  # standard deviations from the wall at which it is never met (probability 1e-10)


class Ball(Domain):
    """All x in R^d with ``|x| <= radius``.

    The kernel is exact: an eigenfunction series at large sigma, an expansion around the Gaussian at small
    sigma (:mod:`~constrained_diffusion.domains.ball_kernel`). It is sampled by specular paths with steps of
    0.04 radii near the wall, by the Gaussian itself away from it, and by the uniform law once that is
    reached.

    Args:
        d: dimension, at least 2.
        radius: positive.
    """

    has_exact_kernel = True

    specs: ClassVar[dict[str, str]] = {
        "ball": "vectors of bounded length around zero; radius from all rows, rounded up, or ball:RADIUS"
    }

    def __init__(self, d: int, radius: float = 1.0) -> None:
        d = whole_number(d, "d must be an integer of at least 2", 2, hint=" (in one dimension use Hypercube)")
        if not (math.isfinite(radius) and radius > 0):
            raise ValueError(f"radius must be positive and finite, not {radius!r}")
        self.d, self.radius = d, float(radius)
        self.event_shape = torch.Size([d])
        self.dim = d
        self.log_volume = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1) + d * math.log(radius)
        self.inradius = self.magnitude = self.radius
        self.diameter = 2 * self.radius
        self.spectral_gap = ball_kernel.spectral_gap(d) / self.radius**2
        corner = torch.full((d,), self.radius, dtype=torch.float64)
        self.bounding_box = (-corner, corner)

    @classmethod
    def from_data(cls, data: Tensor | Extent, spec: str = "ball") -> Ball:
        """The ball around zero whose radius is the largest length of a point, rounded up; or ``ball:RADIUS``."""
        extent = Extent.of(data)
        argument = spec.partition(":")[2]
        if argument:
            return cls(len(extent.low), float(numbers(spec, argument, 1)))
        if not extent.length:
            raise DomainError("data are all zero: give a radius, such as ball:1")
        return cls(len(extent.low), round_outwards(0.0, extent.length)[1])

    @property
    def drawing(self) -> str:
        """Seen from outside in three dimensions."""
        return "ball" if self.d == 3 else super().drawing

    def contains(self, x: Tensor, atol: float = 0.0) -> Tensor:
        """Whether |x| <= radius, ``[*batch]``."""
        self._check(x=x)
        inside: Tensor = x.norm(dim=-1) <= self.radius + atol
        return inside

    def project(self, x: Tensor) -> Tensor:
        """Scale points outside to length ``radius``, less a few units of rounding."""
        self._check(x=x)
        r = x.norm(dim=-1, keepdim=True)
        shrink = self.radius * (1 - 4 * torch.finfo(x.dtype).eps)
        return torch.where(r > self.radius, x / r.clamp(min=self.radius) * shrink, x)

    def boundary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``radius - |x|`` ``[*batch]``, and ``-x/|x|``."""
        self._check(x=x)
        r = x.norm(dim=-1, keepdim=True)
        pole = torch.zeros_like(x)
        pole[..., 0] = 1.0  # at the centre all directions are as good
        return self.radius - r.squeeze(-1), -torch.where(r > 0, x / torch.where(r > 0, r, 1.0), pole)

    def curvature(self, x: Tensor) -> Tensor:
        """1 / radius, ``[*batch, 1]``."""
        return torch.full_like(x[..., :1], 1 / self.radius)

    def reflect(self, x: Tensor, displacement: Tensor) -> Tensor:
        """The specular move, in closed form for any displacement.

        A billiard path in a ball stays in a plane; after the first hit all its chords have the same length
        and turn by the same angle.
        """
        x, v = self._check_move(x, displacement)
        radius, tiny = self.radius, torch.finfo(x.dtype).tiny
        length = v.norm(dim=-1, keepdim=True)
        u = v / length.clamp(min=tiny)
        along = (x * u).sum(-1, keepdim=True)
        room = (radius**2 - (x * x).sum(-1, keepdim=True)).clamp(min=0)
        to_wall = ((along**2 + room).sqrt() - along).clamp(min=0)
        rest = (length - to_wall).clamp(min=0)
        e1 = x + to_wall * u
        e1 = e1 / e1.norm(dim=-1, keepdim=True).clamp(min=tiny)
        rise = (u * e1).sum(-1, keepdim=True).clamp(torch.finfo(x.dtype).eps, 1.0)  # sine of the angle to the wall
        e2 = u - rise * e1
        e2 = e2 / e2.norm(dim=-1, keepdim=True).clamp(min=tiny)
        chord = 2 * radius * rise
        chords = torch.floor(rest / chord)
        angle = 2 * torch.asin(rise) * chords
        left = (rest - chords * chord).clamp(min=0)
        flat = (1 - rise**2).clamp(min=0).sqrt()
        p1 = radius * torch.cos(angle) - left * (rise * torch.cos(angle) + flat * torch.sin(angle))
        p2 = radius * torch.sin(angle) + left * (flat * torch.cos(angle) - rise * torch.sin(angle))
        end = torch.where(length <= to_wall, x + v, p1 * e1 + p2 * e2)
        return self.project(end)

    def damp_normal(self, x: Tensor, v: Tensor, width: float | Tensor) -> Tensor:
        """The radial component is damped, ``[*batch, d]``."""
        self._check(x=x, v=v)
        scale = check_scale("width", width, self._batch(x), x).unsqueeze(-1)
        square = (x * x).sum(-1, keepdim=True)
        loss = 1 - damping.ramp(self.radius - x.norm(dim=-1, keepdim=True), scale, self.radius)
        return v - x * (loss * (x * v).sum(-1, keepdim=True) / square.clamp(min=torch.finfo(x.dtype).tiny))

    def sample_uniform(
        self,
        shape: int | tuple[int, ...],
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Independent uniform points ``[*shape, d]``: a direction times U^(1/d)."""
        size = batch_shape(shape)
        g = torch.randn((*size, self.d), generator=generator, device=device, dtype=dtype)
        u = torch.rand((*size, 1), generator=generator, device=device, dtype=dtype)
        r = g.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(g.dtype).tiny)
        return self.project(g / r * (self.radius * u ** (1 / self.d)))

    def heat_kernel_log_prob(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
        """Log-density ``[*batch]``."""
        return without_derivative("the ball's kernel", self._kernel(x, x0, sigma)[0], x, x0)

    def heat_kernel_score(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
        """Score ``[*batch, d]``."""
        return without_derivative("the ball's kernel", self._kernel(x, x0, sigma)[1], x, x0)

    def sample_heat_kernel(self, x0: Tensor, sigma: float | Tensor, *, generator: Generator | None = None) -> Tensor:
        """Draws for each ``x0``; see the class for how."""
        x0, scale = self._check_noising(x0, sigma)
        start, s = x0.reshape(-1, self.d), scale.reshape(-1)
        steps = (s * math.sqrt(self.d - 1) / (_STEP * self.radius)).square().ceil().clamp(4, _MOST_STEPS)
        forgotten = torch.exp(-self.spectral_gap * s**2 / 2) < 1e-6
        steps = torch.where(forgotten | (self.boundary(start)[0] > _CLEAR * s), 1, steps)
        uniform = self.sample_uniform(len(start), generator=generator, device=x0.device, dtype=x0.dtype)
        order = steps.argsort(descending=True, stable=True)  # rows still moving stay in front
        x, h = start[order], (s / steps.sqrt())[order].unsqueeze(-1)
        counts = steps[order]
        with trusted():
            for k in range(int(counts[0]) if len(counts) else 0):
                moving = int((counts > k).sum())
                z = self.sample_noise(x[:moving], generator=generator)
                x = torch.cat([self.reflect(x[:moving], h[:moving] * z), x[moving:]])
        out = torch.empty_like(x)
        out[order] = x
        return torch.where(forgotten.unsqueeze(-1), uniform, out).reshape(x0.shape)

    def features(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Coordinates and length over the radius, and the distance to the wall against ``sigma``."""
        scaled = x / self.radius
        r = scaled.norm(dim=-1, keepdim=True)
        gap = (1 - r).clamp(min=0)
        s = sigma.unsqueeze(-1) / self.radius
        return torch.cat([scaled, r, torch.log(r + s), gap / (gap + s)], -1)

    def _kernel(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
        x, x0, scale = self._check_pair(x, x0, sigma)
        y, y0 = ((p / self.radius).double().reshape(-1, self.d) for p in (x, x0))
        log_p, score = ball_kernel.log_prob_and_score(y, y0, scale.double().reshape(-1) / self.radius)
        log_p = (log_p - self.d * math.log(self.radius)).reshape(self._batch(x))
        return log_p.to(x.dtype), (score / self.radius).reshape(x.shape).to(x.dtype)
