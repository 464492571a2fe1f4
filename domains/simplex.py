r"""The probability simplex, in two metrics.

``euclidean``: isotropic noise in the plane sum x = 1. Exact for two parts (an interval) and three (a triangle
that tiles the plane); for more parts the regular simplex tiles no space, and noising follows simulated paths.

``cumulative``: the partial sums c_k = x_1 + .. + x_k, k < n, are ordered numbers in [0, 1]: the cube modulo
permutations. Noise is independent reflected noise of each c_k, sorted. Exact and simulation-free for any n; the order
of the parts matters to the noise, not to the domain.

May use: torch and the one-dimensional kernels.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import ClassVar, Literal, cast

import torch
from torch import Generator, Tensor

from . import billiard, damping, interval, permanent, spectral, triangle, tridiagonal
from .base import Domain
from .checks import DomainError, batch_shape, check_scale, whole_number
from .specs import Extent

__all__ = ["Simplex"]

Metric = Literal["euclidean", "cumulative"]


class Simplex(Domain):
    """All x with ``x >= 0`` and ``sum x = 1``: compositions of ``n`` parts, of dimension ``n - 1``.

    Densities are against the surface measure of the simplex in R^n, whatever the metric: the uniform density
    is (n-1)! / sqrt(n). (Densities against the first n - 1 parts, as for ``torch.distributions.Dirichlet``,
    are sqrt(n) times larger.)

    Args:
        n: number of parts, at least 2.
        metric: in which metric noise is isotropic: ``"euclidean"``, ``"cumulative"``, or None for the
            Euclidean one where it is exact (n <= 3) and the cumulative one above.
    """

    wall_curvature = (0.0, 0.0)

    specs: ClassVar[dict[str, str]] = {
        "simplex": "parts of a whole: none negative, each row sums to one (--total 100: to 100); "
        "or simplex:euclidean, simplex:cumulative (the metric of the noise)"
    }

    def __init__(self, n: int, metric: Metric | None = None) -> None:
        n = whole_number(n, "n must be an integer of at least 2", 2)
        if metric not in ("euclidean", "cumulative", None):
            raise ValueError(f'metric must be "euclidean", "cumulative" or None, not {metric!r}')
        self.n = n
        self.metric: Metric = metric or ("euclidean" if n <= 3 else "cumulative")
        self.event_shape = torch.Size([n])
        self.dim = n - 1
        self.log_volume = 0.5 * math.log(n) - math.lgamma(n)
        self.bounding_box = (torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64))
        self._cumulative = self.metric == "cumulative"
        if self._cumulative:
            self.has_exact_kernel = n - 1 <= permanent.MOST
            self.diameter = math.sqrt(n - 1)
            # The point with distance r from all walls has end parts r and others r sqrt 2.
            self.inradius = 1 / (2 + math.sqrt(2) * (n - 2))
        else:
            self.has_exact_kernel = n <= 3
            self.diameter = math.sqrt(2)
            self.inradius = 1 / math.sqrt(n * (n - 1))

    @classmethod
    def from_data(cls, data: Tensor | Extent, spec: str = "simplex") -> Simplex:
        """The simplex of as many parts as data have columns; ``simplex:METRIC`` names the metric."""
        extent = Extent.of(data)
        metric = spec.partition(":")[2] or None
        if metric not in ("euclidean", "cumulative", None):
            raise ValueError(f"{spec}: the metric is euclidean or cumulative, not {metric!r}")
        domain = cls(len(extent.low), cast(Metric | None, metric))
        rounding = 64 * torch.finfo(torch.float64).eps * math.sqrt(domain.n)
        if float(extent.low.min()) < -rounding:
            i = int(extent.low.argmin())
            raise DomainError(f"{extent.names[i]} has negative values (least {extent.low[i]:g}): no parts of a whole")
        least, most = extent.totals
        if max(abs(least - 1), abs(most - 1)) > rounding:
            raise DomainError(_cure(least, most))
        return domain

    @cached_property
    def spectral_gap(self) -> float:
        """pi^2 for partial sums; for three parts and fewer exact; otherwise an estimate, some tenth below the gap."""
        if self._cumulative:
            return math.pi**2
        return {2: math.pi**2 / 2, 3: 8 * math.pi**2 / 9}.get(self.n) or spectral.spectral_gap(self)

    @property
    def simulates_paths(self) -> bool:
        """In the Euclidean metric with more than three parts."""
        return not self._cumulative and self.n > 3

    @property
    def drawing(self) -> str:
        """A triangle for three parts, otherwise each part by itself."""
        return "ternary" if self.n == 3 else "parts"

    # ------------------------------------------------------------------ geometry

    def contains(self, x: Tensor, atol: float = 0.0) -> Tensor:
        """Whether all parts are non-negative and sum to one within the rounding of n numbers, ``[*batch]``."""
        self._check(x=x)
        rounding = 4 * torch.finfo(x.dtype).eps * math.sqrt(self.n)
        total = (x.sum(-1) - 1).abs() <= atol + rounding
        return total & (x >= -atol).all(-1)

    def outside_hint(self, x: Tensor) -> str:
        """The sum, where parts are non-negative and it is not one."""
        total = float(x.sum())
        if bool((x < 0).any()) or total == 0:
            return ""
        shown = f"{total:.7g}" if abs(total - 1) > 1e-6 else f"1 {total - 1:+.1e}"
        return f"; its parts sum to {shown}, not to 1: divide each row by its sum"

    def project(self, x: Tensor) -> Tensor:
        """The nearest composition in R^n: subtract a threshold and cut at zero (Held, Wolfe & Crowder 1974)."""
        self._check(x=x)
        shifted = x - x.amax(-1, keepdim=True)  # changes nothing but the size of the rounding errors
        ordered = shifted.sort(-1, descending=True).values
        excess = ordered.cumsum(-1) - 1
        count = torch.arange(1, self.n + 1, dtype=x.dtype, device=x.device)
        kept = (ordered * count > excess).sum(-1, keepdim=True).clamp(min=1)
        threshold = excess.gather(-1, kept - 1) / kept
        cut = (shifted - threshold).clamp(min=0)
        return torch.where(self.contains(x).unsqueeze(-1), x, cut / cut.sum(-1, keepdim=True))

    def reflect(self, x: Tensor, displacement: Tensor) -> Tensor:
        """The specular move in the metric.

        Exact for any displacement, but for the Euclidean metric with n > 3: there it bounces from facet to facet, and
        stops after 1,000 bounces.
        """
        x, displacement = self._check_move(x, displacement)
        displacement = self.tangent(x, displacement)
        if self._cumulative:
            return self._from_sums(interval.fold(self._sums(x + displacement), 0.0, 1.0).sort(-1).values)
        end = x + displacement
        if self.n == 2:
            first = interval.fold(end[..., 0], 0.0, 1.0)
            moved = torch.stack([first, 1 - first], -1)
        elif self.n == 3:
            moved = self._tidy(triangle.fold(end))
        else:
            normals, length = self._facets(x)
            moved = self._tidy(billiard.move(x, displacement, x / length, normals))
        return torch.where((end >= 0).all(-1, keepdim=True), self._tidy(end), moved)

    def boundary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distance ``[*batch]`` in the metric to the nearest facet x_i = 0, and its inward unit normal."""
        self._check(x=x)
        distances, normals = self.walls(x)
        nearest = distances.argmin(-1, keepdim=True)
        normal = torch.take_along_dim(normals, nearest.unsqueeze(-1), -2).squeeze(-2)
        return distances.gather(-1, nearest).squeeze(-1), normal

    def walls(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distances to all n facets ``[*batch, n]`` and their inward unit normals ``[*batch, n, n]``, in the metric."""
        self._check(x=x)
        normals, length = self._facets(x)
        return x / length, normals.expand(*x.shape, self.n)

    def curvature(self, x: Tensor) -> Tensor:
        """Facets are flat: zeros ``[*batch, n]``."""
        return torch.zeros_like(x)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """Make vectors sum to zero by removing their mean."""
        return v - v.mean(-1, keepdim=True)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Inner product ``[*batch]``: of the parts, or of the partial sums in the cumulative metric."""
        if self._cumulative:
            return (u.cumsum(-1)[..., :-1] * v.cumsum(-1)[..., :-1]).sum(-1)
        return (u * v).sum(-1)

    def gradient(self, x: Tensor, v: Tensor) -> Tensor:
        """Partial derivatives ``[*batch, n]`` by the parts as a gradient in the plane, or in the partial sums."""
        return self._push(-torch.diff(v, dim=-1)) if self._cumulative else self.tangent(x, v)

    def covector(self, x: Tensor, v: Tensor) -> Tensor:
        """``v`` itself, or in the cumulative metric the sums of its partial sums from the end, ``[*batch, n]``."""
        if not self._cumulative:
            return v
        sums = v.cumsum(-1)[..., :-1].flip(-1).cumsum(-1).flip(-1)
        return torch.nn.functional.pad(sums, (0, 1))

    def white(self, x: Tensor, z: Tensor) -> Tensor:
        """Made to sum to zero; in the cumulative metric the first n - 1 numbers, as moves of the partial sums."""
        return self._push(z[..., :-1]) if self._cumulative else self.tangent(x, z)

    def frame(self, x: Tensor) -> Tensor:
        """Orthonormal tangent vectors ``[n - 1, *batch, n]``: the unit moves of the partial sums, or of the plane."""
        if self._cumulative:
            unit = self._push(torch.eye(self.dim, dtype=x.dtype, device=x.device))
        else:
            unit = super().frame(x.new_zeros(self.n))
        return unit.reshape(self.dim, *(1,) * (x.ndim - 1), self.n).expand(self.dim, *x.shape)

    def damp_normal(self, x: Tensor, v: Tensor, width: float | Tensor) -> Tensor:
        """Let the flow of part i vanish where part i does, as :meth:`Domain.damp_normal` says, in O(n).

        In the Euclidean metric the minimiser is u_i = f_i (v_i - m), f_i = 1 / (1 + (1/h_i - 1) n / (n-1)), with m
        such that u sums to zero; in the cumulative one it solves a tridiagonal system.
        """
        self._check(x=x, v=v)
        scale = check_scale("width", width, self._batch(x), x).unsqueeze(-1)
        if not self._cumulative:
            squared = self.n / (self.n - 1)  # of the distance to a facet, for x_i = 1
            h = damping.ramp(x * math.sqrt(squared), scale, self.inradius)
            f = h / (h + (1 - h) * squared)
            return f * (v - (f * v).sum(-1, keepdim=True) / f.sum(-1, keepdim=True))
        across = torch.full((self.n,), 2.0, dtype=x.dtype, device=x.device)  # squared lengths of the gradients of x_i
        across[0] = across[-1] = 1.0
        h = damping.ramp(x / across.sqrt(), scale, self.inradius)
        # Pushes p_i on the walls, u = v - L p with L the Laplacian of a path, such that h p = (1 - h) u / across.
        loose = (1 - h) / across
        p = tridiagonal.solve(-loose[..., 1:], h + loose * across, -loose[..., :-1], loose * v)
        gap = torch.diff(p, dim=-1)
        zero = torch.zeros_like(gap[..., :1])
        return v - torch.diff(-gap, dim=-1, prepend=zero, append=zero)

    # ------------------------------------------------------------------ laws

    def sample_uniform(
        self,
        shape: int | tuple[int, ...],
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Uniform compositions ``[*shape, n]``: normalised exponentials."""
        u = torch.rand((*batch_shape(shape), self.n), generator=generator, device=device, dtype=dtype)
        e = -torch.log1p(-u)
        return self._tidy(e / e.sum(-1, keepdim=True))

    def sample_heat_kernel(self, x0: Tensor, sigma: float | Tensor, *, generator: Generator | None = None) -> Tensor:
        """Exact draws by folding (and, in the cumulative metric, sorting), where the metric allows it."""
        if not self._cumulative and self.n > 3:
            raise self._no_kernel()
        x0, scale = self._check_noising(x0, sigma)
        return self.reflect(x0, scale.unsqueeze(-1) * self.sample_noise(x0, generator=generator))

    def diffuse(
        self, x0: Tensor, sigma: float | Tensor, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Noise compositions; see :meth:`Domain.diffuse`.

        In the cumulative metric the target is the score of the *unsorted* noised sums, in sorted order: its
        expectation given (x0, x) is the kernel's score, at the cost of a sort, for any n.
        """
        if not self._cumulative:
            return super().diffuse(x0, sigma, generator=generator)
        x0, scale = self._check_noising(x0, sigma)
        sums, s = self._sums(x0), scale.unsqueeze(-1)
        z = torch.randn(sums.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        noised = interval.fold(sums + s * z, 0.0, 1.0)
        target = interval.score_by_rows(
            noised.reshape(-1, self.dim), sums.reshape(-1, self.dim), 0.0, 1.0, scale.reshape(-1)
        ).reshape(sums.shape)
        noised, order = noised.sort(-1)
        return self._from_sums(noised), self._push(target.gather(-1, order))

    def heat_kernel_log_prob(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
        """Log-density ``[*batch]`` against surface measure, where it exists in closed form (see the class)."""
        return self._kernel(x, x0, sigma)[0]

    def heat_kernel_score(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
        """Gradient in the metric, ``[*batch, n]``, sum zero: the velocity that ascends the log-density fastest."""
        return self._kernel(x, x0, sigma)[1]

    def features(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Parts against their mean, partial sums, and each part against ``sigma`` (near a face only that matters)."""
        s = sigma.unsqueeze(-1)
        parts = [self.n * x - 1, 2 * self._sums(x) - 1, x / (x + s), torch.log(x + s)]
        return torch.cat(parts, -1)

    def planes(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Parts and partial sums against their means and spreads, and parts against ``sigma``, ``[*batch, 3, n]``."""
        rank = torch.arange(1, self.n + 1, dtype=x.dtype, device=x.device)
        sums = 2 * math.sqrt(self.n) * (x.cumsum(-1) - rank / self.n)
        return torch.stack([self.n * x - 1, sums, x / (x + sigma.unsqueeze(-1))], -2)

    # ------------------------------------------------------------------ parts

    def _kernel(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
        if not self.has_exact_kernel:
            raise self._no_kernel()
        x, x0, scale = self._check_pair(x, x0, sigma)
        batch = self._batch(x)
        flat, flat0, s = x.reshape(-1, self.n), x0.reshape(-1, self.n), scale.reshape(-1)
        if self._cumulative:
            log_p, score = self._cumulative_kernel(flat, flat0, s)
        elif self.n == 3:
            log_p, score = triangle.log_prob_and_score(flat, flat0, s)
        else:
            u, u0, s = flat[:, 0], flat0[:, 0], s / math.sqrt(2)
            log_p = interval.log_prob(u, u0, 0.0, 1.0, s) - 0.5 * math.log(2)
            slope = interval.score(u, u0, 0.0, 1.0, s) / 2
            score = torch.stack([slope, -slope], -1)
        return log_p.reshape(batch), score.reshape(x.shape)

    def _cumulative_kernel(self, x: Tensor, x0: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        c, c0 = self._sums(x).unsqueeze(-1), self._sums(x0).unsqueeze(-2)
        s = sigma.reshape(-1, 1, 1)
        log_p, weights = permanent.log_permanent_and_weights(interval.log_prob(c, c0, 0.0, 1.0, s))
        score = (weights * interval.score(c, c0, 0.0, 1.0, s)).sum(-1)
        return log_p - 0.5 * math.log(self.n), self._push(score)

    def _facets(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Inward unit normals ``[n, n]`` of the facets x_i = 0, and the lengths ``[n]`` of the gradients of x_i."""
        if self._cumulative:  # x_k = c_k - c_{k-1}: the gradients form the Laplacian matrix of a path
            across = self._push(torch.eye(self.dim, dtype=like.dtype, device=like.device))
            gradients = across.T @ across
        else:
            gradients = torch.eye(self.n, dtype=like.dtype, device=like.device) - 1 / self.n
        length = self.inner(like, gradients, gradients).sqrt()
        return gradients / length.unsqueeze(-1), length

    def _sums(self, x: Tensor) -> Tensor:
        return x.cumsum(-1)[..., :-1]

    def _from_sums(self, c: Tensor) -> Tensor:
        """Parts of sorted partial sums in [0, 1]."""
        zero, one = torch.zeros_like(c[..., :1]), torch.ones_like(c[..., :1])
        return torch.diff(c, dim=-1, prepend=zero, append=one)

    def _push(self, v: Tensor) -> Tensor:
        """Carry vectors ``[.., n - 1]`` of the partial sums to the parts."""
        zero = torch.zeros_like(v[..., :1])
        return torch.diff(v, dim=-1, prepend=zero, append=zero)

    def _tidy(self, x: Tensor) -> Tensor:
        """Remove the rounding errors of a point that is inside."""
        x = x.clamp(min=0)
        return x / x.sum(-1, keepdim=True)


def _cure(least: float, most: float) -> str:
    """What to do with rows that do not sum to one."""
    middle = (least + most) / 2
    whole = float(f"{middle:.3g}")
    if middle > 0 and most - least <= 0.02 * middle:
        return f"rows sum to {_span(least, most)}, not to one: --total {whole:g} divides each row by its sum"
    return f"rows sum to {_span(least, most)}: compositions have one common sum (a box takes any columns)"


def _span(least: float, most: float) -> str:
    return f"{least:.8g}" if f"{least:.8g}" == f"{most:.8g}" else f"{least:.8g} .. {most:.8g}"
