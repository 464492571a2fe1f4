"""What a polytope is and where points are in it, against linear programs, hulls cut into simplices, other domains."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from constrained_diffusion import Domain, DomainError, Polytope, ShapeError, Simplex
from tests import references as ref
from tests import references_polytope as poly
from tests.polytopes import (
    BODIES,
    F32,
    F64,
    FEW,
    both_dtypes,
    build,
    corners,
    every,
    flat,
    generator,
    moves,
    points,
    polytope,
    rng,
    tensor,
)


# ---- what a polytope is
@pytest.mark.parametrize("kind", ["lists", "arrays", "float32", "integers"])
def test_inputs_of_any_kind(kind):
    A, b = [[1, 0], [0, 1], [-1, -1]], [1, 1, 1]
    if kind == "arrays":
        A, b = np.array(A, dtype=float), np.array(b)
    elif kind in ("float32", "integers"):
        dtype = F32 if kind == "float32" else torch.int64
        A, b = torch.tensor(A, dtype=dtype), torch.tensor(b, dtype=dtype)
    domain = Polytope(A, b)
    assert domain == Polytope([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], [1.0, 1.0, 1.0])
    assert domain.A.dtype == domain.b.dtype == F64
    assert domain.event_shape == (2,)
    assert domain.dim == 2
    assert not domain.has_exact_kernel


@every
def test_rows_are_needed_and_of_unit_length(name):
    body, domain = BODIES[name], polytope(name)
    _, basis = poly.hull(body)
    assert domain.dim == basis.shape[1]
    A, b = domain.A.numpy().reshape(len(domain.b), -1), domain.b.numpy()
    np.testing.assert_allclose(np.linalg.norm(A @ basis, axis=1), 1, atol=1e-10)
    kept = poly.needed_rows(body)
    assert len(A) == len(kept)
    found = poly.slacks(poly.Body(A, b, body.E, body.f), points(name))
    wanted = poly.slacks(body, points(name))[:, kept]
    np.testing.assert_allclose(np.sort(found, 1), np.sort(wanted, 1), atol=1e-9)
    if body.E is None:
        assert domain.A_eq is None
    else:
        assert domain.A_eq.dtype == F64
        gap = domain.A_eq.numpy().reshape(len(domain.A_eq), -1) @ points(name).T - domain.b_eq.numpy()[:, None]
        assert np.abs(gap).max() < 1e-9


@every
def test_sizes(name):
    body, domain = BODIES[name], polytope(name)
    radius, _ = poly.chebyshev(body)
    assert domain.inradius == pytest.approx(radius, rel=1e-7)
    assert domain.centre.shape == domain.event_shape
    assert domain.centre.dtype == F64
    assert poly.slacks(body, flat(domain.centre, body.A.shape[1])).min() == pytest.approx(radius, rel=1e-7)
    low, high = (flat(side, body.A.shape[1])[0] for side in domain.bounding_box)
    for i, axis in enumerate(np.eye(len(low))):
        assert high[i] == pytest.approx(poly.extreme(body, axis), abs=1e-7)
        assert low[i] == pytest.approx(-poly.extreme(body, -axis), abs=1e-7)
    if name in FEW:
        assert domain.diameter == pytest.approx(pdist(corners(name)).max(), rel=1e-7)
        assert domain.log_volume == pytest.approx(math.log(poly.hull_volume(corners(name))), abs=1e-7)
    else:
        assert domain.diameter >= pdist(points(name)).max()
    assert domain.spectral_gap >= (math.pi / domain.diameter) ** 2


@pytest.mark.parametrize(
    ("domain", "true"),
    [
        (Polytope.from_vertices([[0, 0], [2, 0], [2, 1], [0, 1]]), math.pi**2 / 4),
        (Polytope.from_vertices([[0, 0], [1, 0], [0.5, math.sqrt(0.75)]]), 16 * math.pi**2 / 9),
        (Polytope(np.vstack([np.eye(6), -np.eye(6)]), np.ones(12)), math.pi**2 / 4),
        (Polytope.from_vertices([[0, 0], [1, 0], [0, 1]]), math.pi**2),  # half a square
    ],
    ids=["rectangle", "triangle", "cube", "half a square"],
)
def test_spectral_gap(domain, true):
    assert 0.75 * true < domain.spectral_gap < true


def test_redundant_rows_go():
    A, b = BODIES["polygon"].A, BODIES["polygon"].b
    implied = np.stack([A[0] + A[1], 2 * A[1]])
    extra = np.concatenate([A, A, 3 * A[:2], implied, np.zeros((1, 2))])
    domain = Polytope(extra, np.concatenate([b, b, 3 * b[:2], [b[0] + b[1] + 0.1, 2 * b[1] + 1.0], [0.0]]))
    assert len(domain.b) == len(poly.needed_rows(BODIES["polygon"]))
    y = torch.from_numpy(points("polygon").mean(0) + 2 * rng(0).standard_normal((2000, 2)))
    assert torch.equal(domain.contains(y), polytope("polygon").contains(y))
    corner = Polytope([[1, 0], [0, 1], [-1, 0], [0, -1], [1, 1]], [1, 1, 0, 0, 2])  # the last row touches a vertex
    assert len(corner.b) in (4, 5)
    assert corner.log_volume == pytest.approx(0.0, abs=1e-9)
    assert corner.inradius == pytest.approx(0.5)


def test_redundant_equalities_are_fine():
    E = np.concatenate([np.ones((1, 4)), 2 * np.ones((1, 4)), np.zeros((1, 4))])
    domain = Polytope(-np.eye(4), np.zeros(4), E, [1.0, 2.0, 0.0])
    assert domain.dim == 3
    assert domain.log_volume == pytest.approx(Simplex(4).log_volume, abs=1e-9)


SQUARE = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]
REFUSED = {
    "rows": ((SQUARE, [1.0, 1.0]), "b"),
    "one row": (([1.0, 0.0], [1.0]), "A"),
    "no rows": ((np.zeros((0, 2)), np.zeros(0)), ""),
    "columns": ((SQUARE, [1.0] * 4, [[1.0, 1.0, 1.0]], [0.0]), "A_eq"),
    "shape": ((SQUARE, [1.0] * 4, None, None, (3,)), "shape"),
    "NaN in A": (([[math.nan, 0.0], *SQUARE[1:]], [1.0] * 4), "A"),
    "infinity in A": (([[math.inf, 0.0], *SQUARE[1:]], [1.0] * 4), "A"),
    "NaN in b": ((SQUARE, [1.0, math.nan, 1.0, 1.0]), "b"),
    "infinity in b": ((SQUARE, [1.0, 1.0, 1.0, math.inf]), "b"),
    "NaN in b_eq": ((SQUARE, [1.0] * 4, [[1.0, 1.0]], [math.nan]), "b_eq"),
    "empty": ((SQUARE, [1.0, 1.0, -2.0, 1.0]), "empty"),
    "empty by a hair": ((SQUARE, [1.0, 1.0, -1.001, 1.0]), "empty"),
    "zero row": (([*SQUARE, [0.0, 0.0]], [1.0] * 4 + [-1.0]), "empty"),
    "inconsistent equalities": ((SQUARE, [1.0] * 4, [[1.0, 1.0], [1.0, 1.0]], [0.0, 1.0]), "empty"),
    "equality misses": ((SQUARE, [1.0] * 4, [[1.0, 1.0]], [5.0]), "empty"),
    "half-space": (([[1.0, 0.0]], [1.0]), "unbounded"),
    "strip": (([[1.0, 0.0], [-1.0, 0.0]], [1.0, 1.0]), "unbounded"),
    "quadrant": ((SQUARE[:2], [1.0, 1.0]), "unbounded"),
    "unbounded line": ((SQUARE[:1], [1.0], [[0.0, 1.0]], [0.0]), "unbounded"),
    "forced equality": ((SQUARE, [1.0, 1.0, -1.0, 1.0]), "flat"),
    "forced sum": (([*SQUARE, [1.0, 1.0]], [1.0, 1.0, 0.0, 0.0, 0.0]), "flat"),
    "point": ((SQUARE, [1.0, 1.0, 1.0, 1.0], np.eye(2), [0.5, 0.5]), "flat|point"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_bad_sets_are_refused(why):
    arguments, word = REFUSED[why]
    with pytest.raises(ValueError, match=rf"(?i)\b({word})\b"):
        Polytope(*arguments)


def test_cures_are_named():
    with pytest.raises(ValueError, match="A_eq"):
        Polytope(SQUARE, [1.0, 1.0, -1.0, 1.0])
    with pytest.raises(ShapeError):
        Polytope(SQUARE, [1.0, 1.0])
    with pytest.raises((TypeError, ValueError), match="b_eq"):
        Polytope(SQUARE, [1.0] * 4, [[1.0, 1.0]])
    with pytest.raises(ValueError, match="n"):
        Polytope.birkhoff(0)
    for bad in (np.zeros((3, 2)), np.ones((1, 2)), np.full((4, 2), np.nan), np.zeros(3), np.zeros((0, 2))):
        with pytest.raises(ValueError, match=r"\w"):
            Polytope.from_vertices(bad)


def test_birkhoff():
    assert polytope("birkhoff 3").log_volume == pytest.approx(math.log(9 / 8), abs=1e-8)
    for n in (2, 3, 4):
        domain = Polytope.birkhoff(n)
        assert domain.event_shape == (n, n)
        assert domain.dim == (n - 1) ** 2
        # of permutations that differ everywhere; an entry's gradient in the hull has length 1 - 1/n
        assert domain.diameter == pytest.approx(math.sqrt(2 * n), rel=1e-7)
        assert domain.inradius == pytest.approx(1 / (n - 1), rel=1e-7)
        torch.testing.assert_close(domain.centre, torch.full((n, n), 1 / n, dtype=F64))
        identity = torch.eye(n, dtype=F64)
        assert domain.contains(identity)
        assert not domain.contains(identity.roll(1, 0) * 0.5 + 0.1)
        x = domain.sample_uniform(100, generator=generator(0), dtype=F64)
        for axis in (-1, -2):
            torch.testing.assert_close(x.sum(axis), torch.ones(100, n, dtype=F64))
        assert x.min() >= -1e-12
    assert Polytope.birkhoff(3) == Polytope.birkhoff(3) != Polytope.birkhoff(4)


@pytest.mark.parametrize("name", ["cube", "cross", "square in space", "triangle", "cloud"])
def test_from_vertices(name):
    cube = np.array(list(itertools.product([0.0, 1.0], repeat=3)))
    given = {
        "cube": np.concatenate([cube, 0.5 * cube + 0.2, cube[:2]]),  # with points inside, and twice the same
        "cross": np.concatenate([np.eye(4), -np.eye(4)]),
        "square in space": cube[cube[:, 0] == 1] @ poly.rotation(0, 3).T,
        "triangle": np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]]),
        "cloud": rng(4).standard_normal((20, 4)),
    }[name]
    volume, dim, facets = {
        "cube": (1.0, 3, 6),
        "cross": (2 / 3, 4, 16),
        "square in space": (1.0, 2, 4),
        "triangle": (1.0, 2, 3),
        "cloud": (poly.hull_volume(given), 4, None),
    }[name]
    domain = Polytope.from_vertices(given)
    assert domain.dim == dim
    assert domain.event_shape == given.shape[1:]
    assert facets is None or len(domain.b) == facets
    assert (domain.A_eq is None) == (dim == given.shape[1])
    assert domain.log_volume == pytest.approx(math.log(volume), abs=1e-8)
    assert domain.diameter == pytest.approx(pdist(given).max(), rel=1e-7)
    assert domain.contains(torch.from_numpy(given), atol=1e-9).all()
    inner = torch.from_numpy(poly.hull_draws(given, rng(0), 500))
    assert domain.contains(inner).all()
    assert not domain.contains(torch.from_numpy(given.mean(0) + 1.01 * (given[:1] - given.mean(0)))).any()
    assert domain == Polytope.from_vertices(given.tolist()) == Polytope.from_vertices(torch.from_numpy(given))


@every
def test_values(name):
    domain = polytope(name)
    again = Domain.from_config(json.loads(json.dumps(domain.config())))
    assert again == domain
    assert type(again) is Polytope
    assert hash(again) == hash(domain)
    assert [other for other in BODIES if polytope(other) == again] == [name]
    assert "Polytope" in repr(domain)
    assert repr(again) == repr(domain)
    assert len(repr(domain)) <= 150
    moved = domain.to("cpu", F64)
    assert moved == domain
    x = tensor(name, points(name))
    assert torch.equal(moved.project(2 * x), domain.project(2 * x))
    again.sample_uniform(3, generator=generator(0))  # what is learnt in sampling is no part of the value
    assert again == domain
    assert again.config() == domain.config()


# ---- where points are
@both_dtypes
@every
def test_contains(name, dtype):
    domain, body = polytope(name), BODIES[name]
    x = points(name)
    assert domain.contains(tensor(name, x, dtype)).all()
    _, basis = poly.hull(body)
    y = x + 0.8 * rng(2).standard_normal((len(x), basis.shape[1])) @ basis.T
    s = poly.slacks(body, y).min(1)
    clear = np.abs(s) > 1e-4
    assert domain.contains(tensor(name, y, dtype)).numpy()[clear].tolist() == (s > 0)[clear].tolist()
    for atol in (0.05, 0.3):
        clear = np.abs(s + atol) > 1e-4
        surely = s < -atol  # a facet is broken by more
        assert not domain.contains(tensor(name, y, dtype), atol=atol).numpy()[clear & surely].any()
    near = np.array([np.linalg.norm(poly.nearest(body, p) - p) for p in y[:40]])
    assert domain.contains(tensor(name, y[:40], dtype), atol=0.3).numpy()[near < 0.29].all()
    if body.E is not None:
        assert not domain.contains(tensor(name, x + 1e-3, dtype)).any()
    for bad in (math.nan, math.inf, -math.inf):
        y = tensor(name, x[:3], dtype)
        y.flatten(1)[1, 0] = bad
        assert domain.contains(y).tolist() == [True, False, True]


@every
def test_walls_and_boundary(name):
    domain, body = polytope(name), BODIES[name]
    x = tensor(name, points(name))
    distances, normals = domain.walls(x)
    m, n = len(domain.b), body.A.shape[1]
    assert distances.shape == (len(x), m)
    assert normals.shape == (len(x), m, *domain.event_shape)
    wanted = np.sort(poly.slacks(body, points(name))[:, poly.needed_rows(body)], 1)
    np.testing.assert_allclose(np.sort(distances.numpy(), 1), wanted, atol=1e-9)
    rows = normals.flatten(2).numpy()
    np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), 1, atol=1e-10)
    _, basis = poly.hull(body)
    np.testing.assert_allclose(rows @ basis @ basis.T, rows, atol=1e-10)
    # along a normal, the distance from its own wall grows as fast as one moves
    step = normals[:, 0] * 1e-3
    np.testing.assert_allclose((domain.walls(x + step)[0] - distances)[:, 0], 1e-3, atol=1e-10)
    distance, normal = domain.boundary(x)
    np.testing.assert_allclose(distance, wanted[:, 0], atol=1e-9)
    on_wall = x - distance.reshape(-1, *(1,) * len(domain.event_shape)) * normal
    np.testing.assert_allclose(poly.slacks(body, flat(on_wall, n)).min(1), 0, atol=1e-9)
    assert not domain.curvature(x).any()


@every
def test_tangent_and_noise(name):
    domain = polytope(name)
    _, basis = poly.hull(BODIES[name])
    v = rng(0).standard_normal((5, len(basis)))
    x = tensor(name, points(name)[:5])
    np.testing.assert_allclose(flat(domain.tangent(x, tensor(name, v)), len(basis)), v @ basis @ basis.T, atol=1e-10)
    x = tensor(name, points(name)[:1]).expand(20_000, *domain.event_shape)
    noise = flat(domain.sample_noise(x, generator=generator(0)), len(basis))
    covariance = basis @ basis.T
    assert np.abs(ref.z_scores(noise)).max() < ref.LARGEST_Z
    assert np.abs(ref.z_scores(noise[:, :, None] * noise[:, None], covariance)).max() < ref.LARGEST_Z
    np.testing.assert_allclose(noise @ covariance, noise, atol=1e-10)


@every
def test_walls_damp_the_flux(name):
    domain = polytope(name)
    x = tensor(name, np.concatenate([points(name)[:50], *([corners(name)] if name in FEW else [])]))
    x = torch.cat([x, domain.project(x + 2 * domain.sample_noise(x, generator=generator(0)))])
    v = domain.sample_noise(x, generator=generator(1))
    damped = domain.damp_normal(x, v, 0.2 * domain.inradius)
    distances, normals = domain.walls(x)
    flux = (normals * damped.unsqueeze(1)).flatten(2).sum(-1)
    on_wall = distances.abs() < 1e-12
    assert on_wall.any()
    assert float(flux[on_wall].abs().max()) < 1e-8
    torch.testing.assert_close(domain.tangent(x, damped), damped, atol=1e-9, rtol=0)


# ---- shapes and errors
@both_dtypes
@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,), (0, 2)], ids=str)
@pytest.mark.parametrize("name", ["random 5", "birkhoff 3"])
def test_batch_shapes(name, dtype, batch):
    domain = polytope(name)
    event, m = tuple(domain.event_shape), len(domain.b)
    x = tensor(name, points(name)[: math.prod(batch)], dtype).reshape(*batch, *event)
    v = domain.sample_noise(x, generator=generator(0))
    moved, target = domain.diffuse(x, 0.2, generator=generator(1))
    drawn = domain.sample_uniform(batch, generator=generator(2), dtype=dtype)
    for value in (
        v,
        moved,
        target,
        drawn,
        domain.reflect(x, v),
        domain.project(x + v),
        domain.tangent(x, v),
        domain.boundary(x)[1],
        domain.damp_normal(x, v, 0.1),
    ):
        assert value.shape == (*batch, *event)
        assert value.dtype == dtype
        assert value.isfinite().all()
    distances, normals = domain.walls(x)
    assert distances.shape == (*batch, m)
    assert normals.shape == (*batch, m, *event)
    assert distances.dtype == normals.dtype == dtype
    for value in (domain.contains(x), domain.boundary(x)[0], domain.prior_log_prob(x, 1.0)):
        assert value.shape == batch
    features = domain.features(x, torch.full(batch, 0.1, dtype=dtype))
    assert features.shape[:-1] == batch
    assert features.dtype == dtype
    assert features.isfinite().all()
    assert not features.numel() or float(features.abs().max()) < 10
    if batch == (3,):
        spread = domain.reflect(x[:1], v)  # one start, three moves
        assert spread.shape == x.shape


def test_event_shape_is_that_of_the_points():
    body = BODIES["random 10"]
    plain, shaped = polytope("random 10"), build(body, (2, 5))
    assert shaped.event_shape == (2, 5)
    assert shaped != plain
    x, v = torch.from_numpy(points("random 10")), torch.from_numpy(moves("random 10", 2.0))
    torch.testing.assert_close(shaped.reflect(x.reshape(-1, 2, 5), v.reshape(-1, 2, 5)).flatten(1), plain.reflect(x, v))
    torch.testing.assert_close(shaped.project(2 * x.reshape(-1, 2, 5)).flatten(1), plain.project(2 * x))


def test_bad_points_are_named():
    domain = polytope("birkhoff 3")
    x = tensor("birkhoff 3", points("birkhoff 3")[:4])
    bad = x.clone()
    bad[2] += 1.0
    for call in (lambda y: domain.reflect(y, torch.zeros_like(y)), lambda y: domain.diffuse(y, 0.1)):
        with pytest.raises(DomainError, match="row 2"):
            call(bad)
        with pytest.raises(ShapeError, match=r"\bx0?\b"):
            call(x[..., :2])
    with pytest.raises(DomainError, match="displacement"):
        domain.reflect(x, torch.full_like(x, math.nan))


def test_no_closed_kernel():
    domain, x = polytope("square"), torch.full((2, 2), 0.5)
    for call in (domain.heat_kernel_log_prob, domain.heat_kernel_score):
        with pytest.raises(NotImplementedError, match="diffuse"):
            call(x, x, 0.1)


@pytest.mark.parametrize("unit", [1e-9, 1e-4, 1.0, 1e9])
def test_units_of_any_size(unit):
    """Forces in nanonewtons, distances in metres: nothing is absolute."""
    domain = Polytope([[2.0, 1.0], [-1.0, 0.0], [0.0, -1.0], [1.0, 1.0]], [4.0 * unit, 0.0, 0.0, 9.0 * unit])
    corners = torch.tensor([[0.0, 0.0], [0.0, 4.0], [2.0, 0.0]], dtype=F64)
    torch.testing.assert_close(domain.vertices / unit, corners, atol=2e-15, rtol=0)
    assert len(domain.A) == 3
    blunt = Polytope([[2.0, 1.0], [-1.0, 0.0], [0.0, -1.0], [1.0, 1.0]], [4.0 * unit, 0.0, 0.0, 3.9999 * unit])
    assert len(blunt.A) == 4  # a facet so short that a linear program has to find it
    assert domain.inradius == pytest.approx(4 / (6 + 20**0.5) * 2 * unit, rel=1e-9)
    x = domain.sample_uniform(200, dtype=F64)
    noised, _ = domain.diffuse(x, 0.3 * unit, generator=torch.Generator().manual_seed(0))
    assert domain.contains(noised).all()


def test_vertices_are_exact_to_rounding():
    corners = Polytope.birkhoff(4).vertices
    assert len(corners) == 24
    assert (corners - corners.round()).abs().max() < 5e-15


@pytest.mark.parametrize("make", [lambda: Polytope.birkhoff(3), lambda: Polytope([[1.0], [-1.0]], [1.0, 0.0])])
def test_the_nearest_facet_has_a_derivative(make):
    """It was NaN, so that models with direct lines of coordinates had no likelihood."""
    domain = make()
    inside = domain.sample_uniform(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    beyond = inside + 3.0
    for x in (inside, beyond):
        x = x.clone().requires_grad_()
        distance = domain.boundary(x)[0]
        (slope,) = torch.autograd.grad(distance.sum(), x)
        assert slope.isfinite().all()
    (slope,) = torch.autograd.grad(domain.boundary(inside.requires_grad_())[0].sum(), inside)
    torch.testing.assert_close(domain.tangent(inside, slope), domain.boundary(inside)[1])
    sigma = torch.full((20,), 0.1, dtype=torch.float64)
    for read in (domain.features, domain.planes):
        (slope,) = torch.autograd.grad(read(inside, sigma).sum(), inside)
        assert slope.isfinite().all()
