"""Projections and specular moves in polytopes, against quadratic programs, brute-force billiards and folds."""

import itertools
import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from constrained_diffusion import Hypercube, Polytope, Simplex
from tests import references as ref
from tests import references_polytope as poly
from tests.polytopes import (
    BODIES,
    F32,
    F64,
    SHAPES,
    assert_inside,
    both_dtypes,
    build,
    corners,
    every,
    few,
    flat,
    generator,
    moves,
    points,
    polytope,
    rng,
    tensor,
)

SIZES = [0.1, 1.0, 5.0]  # of moves, in inradii


# ---- the references themselves
@few
def test_references_agree(name):
    body = BODIES[name]
    for y in rng(0).standard_normal((3, body.A.shape[1])) * 3:
        np.testing.assert_allclose(poly.nearest(body, y), poly.nearest_by_slsqp(body, y), atol=1e-7)
    walked = poly.hit_and_run(body, rng(1), 2000, 200)
    mean, second = poly.hull_moments(corners(name))
    assert np.abs(ref.z_scores(walked, mean)).max() < ref.LARGEST_Z
    assert np.abs(ref.z_scores(walked[:, :, None] * walked[:, None], second)).max() < ref.LARGEST_Z


def test_brute_force_billiard_folds():
    body = poly.alcove(4)
    for x, v in zip(np.sort(rng(0).random((20, 4)), 1), 5 * rng(1).standard_normal((20, 4)), strict=True):
        np.testing.assert_allclose(poly.billiard(body, x, v).end, poly.fold_alcove(x + v), atol=1e-12)


# ---- projecting
@pytest.mark.parametrize("name", ["polygon", "random 5", "random 10", "30", "simplex 4", "birkhoff 3"])
def test_projection_is_the_quadratic_program(name):
    body = poly.random_body(6, 30, 90, 2.0) if name == "30" else BODIES[name]
    domain = build(body)
    centre = poly.chebyshev(body)[1]
    for scale in (0.3, 2.0, 1e3):
        y = centre + scale * rng(1).standard_normal((25, len(centre)))
        wanted = np.stack([poly.nearest(body, row) for row in y])
        size = max(1.0, scale)
        np.testing.assert_allclose(domain.project(torch.from_numpy(y)), wanted, atol=1e-8 * size)
        single = domain.project(torch.from_numpy(y).float())
        assert single.dtype == F32
        np.testing.assert_allclose(single, wanted, atol=3e-6 * size)
        assert poly.violation(body, single.numpy()) < 1e-5


@both_dtypes
@every
def test_project_is_idempotent_and_the_identity_inside(name, dtype):
    domain = polytope(name)
    x = tensor(name, points(name), dtype)
    close = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(domain.project(x), x, atol=close, rtol=close)
    n = BODIES[name].A.shape[1]
    for scale in (1e-3, 1.0, 30.0, 1e6):
        y = x[:60] + scale * torch.randn(60, *domain.event_shape, dtype=dtype, generator=generator(0))
        p = domain.project(y)
        assert p.dtype == dtype
        assert_inside(name, p)
        torch.testing.assert_close(domain.project(p), p, atol=close, rtol=close)
    assert domain.project(y.reshape(3, 20, *domain.event_shape)).shape == (3, 20, *domain.event_shape)
    at = tensor(name, points(name).mean(0, keepdims=True), dtype)
    assert flat(domain.project(at + 1e-2 * domain.inradius), n).shape == (1, n)


# ---- moving
@pytest.mark.parametrize("size", SIZES)
@every
def test_moves_are_specular(name, size):
    domain, body = polytope(name), BODIES[name]
    x, v = points(name)[:60], moves(name, size, 60)
    paths = [poly.billiard(body, *row) for row in zip(x, v, strict=True)]
    assert max(path.bounces for path in paths) >= (1 if size < 1 else 2)
    found = domain.reflect(tensor(name, x), tensor(name, v))
    assert_inside(name, found)
    np.testing.assert_allclose(flat(found, len(x[0])), np.stack([path.end for path in paths]), atol=1e-11)
    # in float32 a ray that passes within rounding of an edge may take the other wall first
    single = domain.reflect(tensor(name, x, F32), tensor(name, v, F32))
    assert_inside(name, single)
    error = np.abs(flat(single, len(x[0])) - flat(found, len(x[0]))).max(1)
    assert np.quantile(error, 0.9) < 1e-4
    # time runs backwards as well
    back = np.stack([-path.velocity for path in paths])
    np.testing.assert_allclose(flat(domain.reflect(found, tensor(name, back)), len(x[0])), x, atol=1e-10)


@pytest.mark.parametrize("name", ["polygon", "random 10", "birkhoff 3"])
def test_two_halves_of_a_move_are_the_whole(name):
    domain, body = polytope(name), BODIES[name]
    x, v = points(name)[:40], moves(name, 6.0, 40)
    whole = domain.reflect(tensor(name, x), tensor(name, v))
    half = [poly.billiard(body, a, b / 2) for a, b in zip(x, v, strict=True)]
    middle = domain.reflect(tensor(name, x), tensor(name, v / 2))
    np.testing.assert_allclose(flat(middle, len(x[0])), np.stack([p.end for p in half]), atol=1e-11)
    rest = tensor(name, np.stack([p.velocity for p in half]))
    torch.testing.assert_close(domain.reflect(middle, rest), whole, atol=1e-10, rtol=0)


def test_only_the_tangent_part_of_a_move_counts():
    domain = polytope("birkhoff 3")
    x, v = tensor("birkhoff 3", points("birkhoff 3")), tensor("birkhoff 3", moves("birkhoff 3", 2.0))
    torch.testing.assert_close(domain.reflect(x, v + 0.7), domain.reflect(x, v), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dim", [2, 6])
def test_a_box_is_a_hypercube(dim):
    low, high = -np.arange(1.0, dim + 1), np.linspace(0.5, 2.0, dim)
    domain, cube = build(poly.box(low, high)), Hypercube(dim, low.tolist(), high.tolist())
    x = cube.sample_uniform(500, generator=generator(0), dtype=F64)
    walls = cube.project(x + 3 * torch.randn(500, dim, dtype=F64, generator=generator(1)))  # faces, edges, corners
    y = x + 3 * torch.randn(500, dim, dtype=F64, generator=generator(2))
    assert torch.equal(domain.contains(y), cube.contains(y))
    torch.testing.assert_close(domain.project(y), cube.project(y))
    for z in (x, y):
        torch.testing.assert_close(domain.boundary(z)[0], cube.boundary(z)[0])
        torch.testing.assert_close(domain.boundary(z)[1], cube.boundary(z)[1])
    for start in (x, walls):
        for size in (1e-3, 1.0, 30.0):
            v = size * torch.randn(500, dim, dtype=F64, generator=generator(3))
            torch.testing.assert_close(domain.reflect(start, v), cube.reflect(start, v), atol=1e-11, rtol=0)
        v = torch.randn(500, dim, dtype=F64, generator=generator(4))
        torch.testing.assert_close(domain.reflect(x, walls - x), walls, atol=1e-12, rtol=0)
    assert domain.inradius == pytest.approx(cube.inradius)
    assert domain.diameter == pytest.approx(float(np.linalg.norm(high - low)))


@pytest.mark.parametrize("n", [3, 4])
def test_a_simplex_is_a_simplex(n):
    domain, known = build(poly.simplex(n)), Simplex(n, "euclidean")
    x = known.sample_uniform(300, generator=generator(0), dtype=F64)
    y = x + torch.randn(300, n, dtype=F64, generator=generator(1))
    torch.testing.assert_close(domain.project(y), known.project(y))
    for size in (0.1, 2.0):
        v = size * torch.randn(300, n, dtype=F64, generator=generator(2))
        torch.testing.assert_close(domain.reflect(x, v), known.reflect(x, v), atol=1e-11, rtol=0)
    order = (-domain.A.reshape(n, n) + 0.5 * torch.eye(n)).argmax(-1)  # rows may come in any order
    assert sorted(order.tolist()) == list(range(n))
    for found, wanted in zip(domain.walls(x), known.walls(x), strict=True):
        torch.testing.assert_close(found, wanted[:, order])
    for name in ("inradius", "diameter", "log_volume"):
        assert getattr(domain, name) == pytest.approx(getattr(known, name))
    torch.testing.assert_close(domain.boundary(x)[0], known.boundary(x)[0])
    v = known.sample_noise(x, generator=generator(3))
    torch.testing.assert_close(domain.damp_normal(x, v, 0.05), known.damp_normal(x, v, 0.05), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["triangle", "random 5", "birkhoff 3"])
@pytest.mark.parametrize(("unit", "shift"), [(1e-6, 0.0), (1e6, 0.0), (1.0, 1e4), (1e-3, 10.0)])
def test_units_and_the_origin_do_not_matter(name, unit, shift):
    body, plain = BODIES[name], polytope(name)
    A, E = body.A, body.E
    f = None if E is None else unit * body.f + shift * E.sum(1)
    domain = Polytope(A, unit * body.b + shift * A.sum(1), E, f, SHAPES.get(name))
    x, v = tensor(name, points(name)[:100]), tensor(name, moves(name, 3.0, 100))
    y = x + tensor(name, 3 * rng(2).standard_normal((100, A.shape[1])))
    close = 1e-11 + 1e-13 * shift / unit  # in the set's own units
    for found, wanted in (
        (domain.reflect(unit * x + shift, unit * v), plain.reflect(x, v)),
        (domain.project(unit * y + shift), plain.project(y)),
    ):
        torch.testing.assert_close((found - shift) / unit, wanted, atol=close, rtol=0)
    assert torch.equal(domain.contains(unit * y + shift), plain.contains(y))
    assert domain.inradius == pytest.approx(unit * plain.inradius, rel=1e-6)
    assert domain.diameter == pytest.approx(unit * plain.diameter, rel=1e-6)
    assert domain.log_volume == pytest.approx(plain.log_volume + plain.dim * math.log(unit), abs=1e-5)


@pytest.mark.parametrize("size", [1e-9, 0.1, 1.0, 20.0])
def test_corners_fold(size):
    """From vertices, edges and faces where walls meet at 45, 60 and 90 degrees the fold says where to go."""
    domain, d = polytope("alcove 4"), 4
    grid = np.array([p for p in itertools.product([0.0, 0.25, 1.0], repeat=d) if list(p) == sorted(p)])
    x = np.repeat(grid, 20, 0)
    v = size * rng(0).standard_normal(x.shape)
    found = domain.reflect(torch.from_numpy(x), torch.from_numpy(v))
    np.testing.assert_allclose(found, poly.fold_alcove(x + v), atol=1e-11)


@both_dtypes
@pytest.mark.parametrize("size", [0.5, 3.0, 10.0, 1e3])
def test_moves_between_many_facets_stay_inside(dtype, size):
    d, m = 50, 250
    normals = rng(0).standard_normal((m, d))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    body = poly.Body(normals, np.ones(m))
    domain = crowded()
    count = 64 if size < 100 else 16
    x = torch.from_numpy(poly.hit_and_run(body, rng(1), count, 300)).to(dtype)
    v = torch.randn(count, d, dtype=dtype, generator=generator(0))
    y = domain.reflect(x, size * domain.inradius * v / v.norm(dim=-1, keepdim=True))
    assert domain.contains(y).all()
    assert poly.violation(body, y.double().numpy()) <= (1e-6 if dtype == F32 else 1e-12)
    if size <= 3:
        path = poly.billiard(body, x[0].double().numpy(), (size * domain.inradius * v[0] / v[0].norm()).numpy())
        np.testing.assert_allclose(y[0], path.end, atol=1e-4 if dtype == F32 else 1e-10)


@cache
def crowded() -> Polytope:
    normals = rng(0).standard_normal((250, 50))
    return Polytope(normals / np.linalg.norm(normals, axis=1, keepdims=True), np.ones(250))


coordinates = st.sampled_from([0.0, 1.0, -1.0, 0.5, -0.3, 1e-7, 5e-324])
magnitudes = st.sampled_from([0.0, 5e-324, 1e-42, 1e-30, 1e-8, 1e-3, 0.3, 1.0, 7.0, 100.0, 1e6])


@both_dtypes
@pytest.mark.parametrize("name", ["triangle", "random 5", "cross 4", "birkhoff 3"])
@settings(max_examples=12, deadline=None, derandomize=True)
@given(entries=st.lists(coordinates, min_size=9, max_size=20), size=magnitudes, which=st.integers(0, 10**6))
def test_nasty_moves_stay_inside(name, dtype, entries, size, which):
    domain, ends = polytope(name), corners(name)
    n = ends.shape[1]
    pair = ends[[which % len(ends), (which // 7) % len(ends)]]
    x = tensor(name, np.stack([pair[0], pair.mean(0), points(name)[which % 300]]), dtype)
    v = tensor(name, np.resize(entries, (3, n)), F64).mul(size).to(dtype)
    y = domain.reflect(domain.project(x), v)
    assert_inside(name, y)
    assert_inside(name, domain.project(x + v))
    if size == 0 or not domain.tangent(x, v).any():
        torch.testing.assert_close(y, x, atol=64 * torch.finfo(dtype).eps, rtol=0)


def test_a_move_along_a_wall_that_it_starts_on():
    domain = build(poly.box(np.zeros(2), np.ones(2)))
    x, way = torch.tensor([[0.0, 0.5], [0.0, 0.5]]).double(), torch.tensor([[0.0, 0.8], [0.0, -2.6]]).double()
    assert domain.boundary(x)[0].abs().max() == 0
    torch.testing.assert_close(domain.reflect(x, way), torch.tensor([[0.0, 0.7], [0.0, 0.1]]).double())
