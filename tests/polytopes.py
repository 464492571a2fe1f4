"""Polytopes that several test files share, built once, and points and moves in them by the oracles."""

from functools import cache

import numpy as np
import pytest
import torch

from constrained_diffusion import Polytope
from tests import references_polytope as poly

F32, F64 = torch.float32, torch.float64
BODIES = {
    "square": poly.box([0, 0], [1, 1]),
    "triangle": poly.Body(np.array([[-1.0, 0.0], [0.0, -2.0], [1.0, 3.0]]), np.array([0.0, 0.0, 3.0])),
    "polygon": poly.random_body(1, 2, 5, 2.0),
    "random 5": poly.random_body(2, 5, 14, 1.5),
    "random 10": poly.random_body(3, 10, 30, 2.0),
    "alcove 4": poly.alcove(4),
    "cross 4": poly.cross_polytope(4),
    "simplex 4": poly.simplex(4),
    "birkhoff 3": poly.birkhoff(3),
}
SHAPES = {"birkhoff 3": (3, 3)}
FEW = [name for name in BODIES if name != "random 10"]  # whose hulls are cut into simplices
every = pytest.mark.parametrize("name", BODIES)
few = pytest.mark.parametrize("name", FEW)
both_dtypes = pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])


def build(body: poly.Body, shape=None) -> Polytope:
    return Polytope(body.A, body.b, body.E, body.f, shape)


@cache
def polytope(name: str) -> Polytope:
    return build(BODIES[name], SHAPES.get(name))


@cache
def corners(name: str) -> np.ndarray:
    return poly.vertices(BODIES[name])


@cache
def points(name: str, count: int = 300) -> np.ndarray:
    """Points [count, n] of the body, by the oracle; uniform but for d = 10."""
    if name not in FEW:
        return poly.hit_and_run(BODIES[name], rng(0), count, 300)
    return poly.hull_draws(corners(name), rng(0), count)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tensor(name: str, x: np.ndarray, dtype=F64) -> torch.Tensor:
    return torch.tensor(x, dtype=dtype).reshape(*x.shape[:-1], *polytope(name).event_shape)


def flat(x: torch.Tensor, n: int) -> np.ndarray:
    return x.double().reshape(-1, n).numpy()


def moves(name: str, size: float, count: int = 300, seed: int = 1) -> np.ndarray:
    """Random directions of the hull, of length ``size`` inradii."""
    _, basis = poly.hull(BODIES[name])
    v = rng(seed).standard_normal((count, basis.shape[1]))
    v *= size * poly.chebyshev(BODIES[name])[0] / np.linalg.norm(v, axis=1, keepdims=True)
    return v @ basis.T


def assert_inside(name: str, x: torch.Tensor, factor: float = 64) -> None:
    """Inside by the domain's own word, and by ours to the rounding of coordinates of order one."""
    assert x.isfinite().all()
    assert polytope(name).contains(x).all()
    n = BODIES[name].A.shape[1]
    allowed = factor * torch.finfo(x.dtype).eps * max(1.0, np.abs(points(name)).max())
    assert poly.violation(BODIES[name], flat(x, n)) <= allowed
