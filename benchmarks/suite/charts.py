"""Coordinates in which the other methods work: flat charts of a domain, and mirror maps from its interior to R^d.

A chart carries points ``[n, *event_shape]`` to coordinates ``[n, dim]`` and back. ``log_det`` is the logarithm of the
coordinates' volume in a unit of the domain's: log p of points = log p of their coordinates + log_det.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from constrained_diffusion import Ball, Domain, Hypercube, Polytope, Simplex

__all__ = ["Chart", "FlatChart", "half_spaces", "mirror_map"]


class Chart(ABC):
    """Between a domain and coordinates."""

    @abstractmethod
    def to(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def back(self, y: Tensor) -> Tensor: ...

    @abstractmethod
    def log_det(self, x: Tensor) -> Tensor: ...


class FlatChart(Chart):
    """Cartesian coordinates in the affine hull of a domain: volumes are the same."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        size = domain.event_shape.numel()
        generator = torch.Generator().manual_seed(0)
        x = domain.sample_uniform(256, generator=generator, dtype=torch.float64)
        flat = x.flatten(1)
        if domain.dim == size:
            self.origin, self.axes = torch.zeros(size, dtype=torch.float64), torch.eye(size, dtype=torch.float64)
        else:
            self.origin = flat.mean(0)
            self.axes = torch.linalg.svd(flat - self.origin, full_matrices=False).Vh[: domain.dim]

    def to(self, x: Tensor) -> Tensor:
        """Coordinates ``[n, dim]``."""
        return (x.flatten(1) - self.origin.to(x)) @ self.axes.to(x).T

    def back(self, y: Tensor) -> Tensor:
        """Points ``[n, *event_shape]``, of which some may be outside."""
        return (self.origin.to(y) + y @ self.axes.to(y)).reshape(len(y), *self.domain.event_shape)

    def log_det(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), dtype=torch.float64)


class LogitChart(Chart):
    """The logit of each coordinate of a cube: the mirror map of the entropy of each coordinate."""

    def __init__(self, cube: Hypercube) -> None:
        self.shape = cube.event_shape

    def to(self, x: Tensor) -> Tensor:
        return torch.logit(x.flatten(1))

    def back(self, y: Tensor) -> Tensor:
        return torch.sigmoid(y).reshape(len(y), *self.shape)

    def log_det(self, x: Tensor) -> Tensor:
        flat = x.double().flatten(1)
        return -(flat.log() + torch.log1p(-flat)).sum(1)


class LogRatioChart(Chart):
    """Isometric log-ratios (Egozcue et al. 2003): the logarithms of the parts, along the plane of vectors of sum 0."""

    def __init__(self, simplex: Simplex) -> None:
        self.n = simplex.n
        ones = torch.full((1, self.n), 1 / self.n, dtype=torch.float64)
        self.axes = torch.linalg.svd(torch.eye(self.n, dtype=torch.float64) - ones).Vh[:-1]

    def to(self, x: Tensor) -> Tensor:
        return x.log() @ self.axes.to(x).T

    def back(self, y: Tensor) -> Tensor:
        return torch.softmax(y @ self.axes.to(y), 1)

    def log_det(self, x: Tensor) -> Tensor:
        return -x.double().log().sum(1) - math.log(self.n)


class BallMirror(Chart):
    """The gradient of -log(1 - |x|^2), whose inverse is closed (Liu, Chen, Theodorou & Tao 2023, arXiv 2310.01236)."""

    def __init__(self, ball: Ball) -> None:
        self.radius, self.d = ball.radius, ball.d

    def to(self, x: Tensor) -> Tensor:
        u = x / self.radius
        return 2 * u / (1 - u.square().sum(1, keepdim=True))

    def back(self, y: Tensor) -> Tensor:
        return self.radius * y / (1 + torch.sqrt(1 + y.square().sum(1, keepdim=True)))

    def log_det(self, x: Tensor) -> Tensor:
        square = (x.double() / self.radius).square().sum(1)
        factor = 2 / (1 - square)
        return self.d * torch.log(factor / self.radius) + torch.log1p(factor * square)


class BarrierMirror(Chart):
    """The gradient of -sum log(b - A x) along the hull of a polytope; the inverse by Newton's method."""

    def __init__(self, domain: Domain) -> None:
        self.flat = FlatChart(domain)
        self.A, self.b = half_spaces(domain, self.flat)
        self.centre = self.flat.to(domain.sample_uniform(256, dtype=torch.float64)).mean(0)

    def to(self, x: Tensor) -> Tensor:
        return self._dual(self.flat.to(x.double())).to(x)

    def back(self, y: Tensor) -> Tensor:
        target = y.double()
        z = self.centre.expand_as(target).clone()
        for _ in range(100):
            slack = self.b - z @ self.A.T
            missing = target - (1 / slack) @ self.A
            step = torch.linalg.solve(self._hessian(slack), missing)
            # Damped as a self-concordant function allows: never outside, and quadratic in the end.
            decrement = (missing * step).sum(1, keepdim=True).clamp(min=0).sqrt()
            z = z + step / (1 + decrement)
            if float(decrement.max()) < 1e-9:
                break
        return self.flat.back(z).to(y)

    def log_det(self, x: Tensor) -> Tensor:
        slack = self.b - self.flat.to(x.double()) @ self.A.T
        return torch.linalg.slogdet(self._hessian(slack)).logabsdet

    def _dual(self, z: Tensor) -> Tensor:
        return (1 / (self.b - z @ self.A.T)) @ self.A

    def _hessian(self, slack: Tensor) -> Tensor:
        return (self.A.T / slack.square().unsqueeze(1)) @ self.A


class Standardised(Chart):
    """Coordinates of another chart, shifted and divided by those of some points."""

    def __init__(self, chart: Chart, points: Tensor) -> None:
        y = chart.to(points.double())
        self.chart, self.shift, self.scale = chart, y.mean(0), y.std(0).clamp(min=1e-6)

    def to(self, x: Tensor) -> Tensor:
        return ((self.chart.to(x.double()) - self.shift) / self.scale).to(x)

    def back(self, y: Tensor) -> Tensor:
        return self.chart.back(y * self.scale.to(y) + self.shift.to(y))

    def log_det(self, x: Tensor) -> Tensor:
        return self.chart.log_det(x) - self.scale.log().sum()


def half_spaces(domain: Domain, chart: FlatChart) -> tuple[Tensor, Tensor]:
    """``A [m, dim]`` and ``b [m]`` in the chart's coordinates, of a domain with flat walls on all sides."""
    inside = domain.sample_uniform(1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    distances, normals = domain.walls(inside)
    directions = normals.flatten(2)[0] @ chart.axes.T
    A = -directions / directions.norm(dim=1, keepdim=True)
    if isinstance(domain, Simplex):  # whose distances may be in another metric
        distances = inside * math.sqrt(domain.n / (domain.n - 1))
        A = -torch.nn.functional.normalize(chart.axes.T, dim=1)
    b = distances[0] + A @ chart.to(inside)[0]
    return A, b


def mirror_map(domain: Domain) -> Chart | None:
    """The mirror map that the literature uses on a domain, or None where it has none."""
    if isinstance(domain, Hypercube):
        return LogitChart(domain)
    if isinstance(domain, Simplex):
        return LogRatioChart(domain)
    if isinstance(domain, Ball):
        return BallMirror(domain)
    if isinstance(domain, Polytope):
        return BarrierMirror(domain)
    return None
