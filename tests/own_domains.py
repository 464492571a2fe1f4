"""Domains of a user's own that keep every promise, and the catalogue of those that break one."""

import pytest
import torch

from constrained_diffusion import (
    Ball,
    Domain,
    Hypercube,
    Polytope,
    Simplex,
)

FEW = {"points": 1000, "paths": 2000}  # enough for the cases below, in half the time


class OwnAnnulus(Domain):
    """hole <= |x| <= radius: what the README shows, with the curvature in x's dtype."""

    event_shape, dim = torch.Size([2]), 2

    def __init__(self, hole=0.4, radius=1.0):
        self.hole, self.radius = hole, radius
        self.spectral_gap = 1 / radius**2

    def boundary(self, x):
        r = x.norm(dim=-1)
        outward = x / r.clamp(min=1e-30).unsqueeze(-1)
        near_hole = (r - self.hole < self.radius - r).unsqueeze(-1)
        return torch.minimum(self.radius - r, r - self.hole), torch.where(near_hole, outward, -outward)

    def curvature(self, x):
        near_hole = x.norm(dim=-1, keepdim=True) < (self.hole + self.radius) / 2
        return torch.where(near_hole, -1 / self.hole, 1 / self.radius).to(x)


class OwnProjectedBox(Domain):
    """[0, 2] x [0, 1], known by its projection alone."""

    event_shape, dim = torch.Size([2]), 2

    def project(self, x):
        return torch.minimum(x.clamp(min=0), torch.tensor([2.0, 1.0]).to(x))


class OwnProjectedDisc(Domain):
    """The unit disc around (3, 0), known by its projection alone."""

    event_shape, dim = torch.Size([2]), 2

    def project(self, x):
        centre = torch.tensor([3.0, 0.0]).to(x)
        away = x - centre
        return centre + away / away.norm(dim=-1, keepdim=True).clamp(min=1.0)


class OwnSquare(Hypercube):
    def __init__(self):
        super().__init__(2)


class OwnTriangle(Simplex):
    def __init__(self):
        super().__init__(3)


class OwnDisc(Ball):
    def __init__(self):
        super().__init__(2)


def in_disc(x):
    return (x * x).sum(-1) <= 1


def in_l_shape(x):
    return ((x >= 0) & (x <= 1)).all(-1) & ~(x > 0.5).all(-1)


def random_polytope():
    generator = torch.Generator().manual_seed(0)
    normals = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    return Polytope(normals / normals.norm(dim=-1, keepdim=True), torch.ones(20, dtype=torch.float64))


def catalogue():
    """An empty list of test cases, and the decorator that adds a broken class to it."""
    cases = []

    def breaks(*promises, also=(), tier=(), **sizes):
        """Note a class with the promises that must be named, and those that may be as a consequence."""

        def note(cls):
            cases.append(pytest.param(cls, set(promises), set(also), FEW | sizes, id=cls.__name__, marks=tier))
            return cls

        return note

    return cases, breaks
