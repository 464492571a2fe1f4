"""What every domain promises: inside stays inside, seeds repeat, errors say what is wrong."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from constrained_diffusion.domains import (
    Ball,
    Domain,
    DomainError,
    Euclidean,
    Hypercube,
    Polytope,
    ShapeError,
    Simplex,
    Sphere,
    Torus,
)
from tests import references as ref

BOUNDED = {
    "interval": Hypercube(1),
    "cube": Hypercube((2, 3)),
    "box": Hypercube(2, low=-3, high=[1, 7]),
    "segment": Simplex(2),
    "triangle": Simplex(3),
    "cumulative triangle": Simplex(3, "cumulative"),
    "tetrahedron": Simplex(4, "euclidean"),
    "simplex 7": Simplex(7, "euclidean"),
    "cumulative simplex 6": Simplex(6),
    "cumulative simplex 20": Simplex(20),
    "disc": Ball(2),
    "ball 3": Ball(3, radius=2.5),
    "ball 8": Ball(8),
}
ALL = {**BOUNDED, "space": Euclidean(3)}
CORNERS = {
    "interval": [[0.0], [1.0]],
    "box": [[-3.0, -3.0], [1.0, 7.0], [-3.0, 7.0]],
    "segment": [[0.0, 1.0], [1.0, 0.0]],
    "disc": [[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]],
}
DTYPES = [torch.float32, torch.float64]
SLOW_HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

every_domain = pytest.mark.parametrize("name", ALL)
bounded_domain = pytest.mark.parametrize("name", BOUNDED)
both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
directions = st.sampled_from([0.0, 1.0, -1.0, 0.5, -0.3, 1e-7, 5e-324])
magnitudes = st.sampled_from([0.0, 5e-324, 1e-42, 1e-30, 1e-8, 1e-3, 0.3, 1.0, 7.0, 1e3, 1e6])


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inside(name: str, count: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    """Points in the domain, [count, *event_shape]; of R^3, Gaussian ones."""
    if name == "space":
        return torch.randn(count, 3, dtype=dtype, generator=generator(seed))
    return ALL[name].sample_uniform((count,), generator=generator(seed), dtype=dtype)


def places(name: str, dtype: torch.dtype) -> torch.Tensor:
    """Uniform points, points on walls and edges, and corners."""
    domain = ALL[name]
    far = torch.randn(12, *domain.event_shape, dtype=dtype, generator=generator(1))
    if name in CORNERS:
        corners = torch.tensor(CORNERS[name], dtype=dtype)
    elif isinstance(domain, Simplex):
        corners = torch.eye(domain.event_shape[0], dtype=dtype)
    else:
        corners = domain.project(far[:2].sign() * 1e3)
    return torch.cat([inside(name, 6, dtype), domain.project(far * 5), corners])


def outside(name: str, count: int = 4, row: int = 2) -> torch.Tensor:
    """Points of which only ``row`` is outside."""
    x = inside(name, count)
    x[row] = 1e3
    return x


def assert_inside(domain: Domain, x: torch.Tensor, dtype: torch.dtype) -> None:
    assert x.dtype == dtype
    assert x.isfinite().all()
    assert domain.contains(x).all()


# ---- moving
@both_dtypes
@every_domain
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=SLOW_HEALTH)
@given(data=st.data())
def test_reflect_stays_inside(name, dtype, data):
    domain = ALL[name]
    x = places(name, dtype)
    entries = data.draw(st.lists(directions, min_size=domain.event_shape.numel(), max_size=60))
    size = data.draw(magnitudes)
    pattern = torch.tensor((entries * x.numel())[: x.numel()], dtype=torch.float64).reshape(x.shape)
    raw = (pattern * size).to(dtype)
    v = domain.tangent(x, raw)
    y = domain.reflect(x, v)
    assert y.shape == x.shape
    assert_inside(domain, y, dtype)
    if size == 0 or not v.any():
        tolerance = 4 * torch.finfo(dtype).eps * max(1.0, float(x.abs().max()))
        assert float((y - x).abs().max()) <= tolerance


@both_dtypes
@every_domain
@pytest.mark.parametrize("size", [1e-45, 1e-20, 1e-6, 0.05, 1.0, 30.0, 1e4, 1e6])
def test_reflect_of_random_displacements_stays_inside(name, dtype, size):
    domain, x = ALL[name], places(name, dtype)
    v = size * torch.randn(x.shape, dtype=dtype, generator=generator(2))
    assert_inside(domain, domain.reflect(x, domain.tangent(x, v)), dtype)
    # towards, away from and along whatever is nearest: to another point of the domain, and past it
    for factor in (1.0, -1.0, 3.0):
        v = factor * (x.roll(1, 0) - x)
        assert_inside(domain, domain.reflect(x, v), dtype)


@both_dtypes
@bounded_domain
def test_small_moves_inside_are_plain_sums(name, dtype):
    domain = ALL[name]
    centre = domain.sample_uniform((4000,), generator=generator(3), dtype=dtype).mean(0)
    x = domain.project(centre).expand(50, *domain.event_shape)
    v = 0.01 * float(domain.inradius) * domain.sample_noise(x, generator=generator(4)).clamp(-3, 3)
    v = domain.tangent(x, v)
    torch.testing.assert_close(domain.reflect(x, v), x + v, rtol=0, atol=20 * torch.finfo(dtype).eps)


@bounded_domain
def test_reflect_preserves_the_uniform_law(name):
    domain, dtype = ALL[name], torch.float64
    x = domain.sample_uniform((20_000,), generator=generator(5), dtype=dtype)
    for step in (0.1, 0.5, 0.3):
        noise = domain.sample_noise(x, generator=generator(int(100 * step)))
        x = domain.reflect(x, step * noise)
    assert_uniform(domain, x.numpy())


# ---- projecting
@both_dtypes
@every_domain
def test_project_is_idempotent_and_the_identity_inside(name, dtype):
    domain = ALL[name]
    y = torch.randn(60, *domain.event_shape, dtype=dtype, generator=generator(6))
    y = torch.cat([y * scale for scale in (1e-3, 1.0, 30.0, 1e6)])
    p = domain.project(y)
    assert_inside(domain, p, dtype)
    again = domain.project(p)
    tolerance = 8 * torch.finfo(dtype).eps * max(1.0, float(p.abs().max()))
    assert float((again - p).abs().max()) <= tolerance
    x = places(name, dtype)
    tolerance = 8 * torch.finfo(dtype).eps * max(1.0, float(x.abs().max()))
    assert float((domain.project(x) - x).abs().max()) <= tolerance


@bounded_domain
@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([1e-2, 0.3, 1.0, 3.0, 100.0]))
def test_project_finds_the_nearest_point(name, seed, scale):
    domain = ALL[name]
    x = inside(name, 300, seed=7)
    y = scale * torch.randn(x.shape[1:], dtype=torch.float64, generator=generator(seed))
    p = domain.project(y)
    rest, moves = y - p, x - p
    # of a convex set: no inside point lies on the same side of p as y
    flat = (rest * moves).flatten(1).sum(-1)
    slack = 1e-10 * max(1.0, scale) ** 2
    nearest = float(flat.max()) <= slack
    if not nearest and "cumulative" in name:  # nearest may also mean: in the metric, among points of the plane
        rest = domain.tangent(p, y) - domain.tangent(p, p)
        nearest = float(domain.inner(p.expand_as(moves), rest.expand_as(moves), moves).max()) <= slack
    assert nearest


# ---- membership
@both_dtypes
@every_domain
def test_contains(name, dtype):
    domain, x = ALL[name], places(name, dtype)
    found = domain.contains(x)
    assert found.dtype == torch.bool
    assert found.shape == x.shape[:1]
    assert found.all()
    for bad in (math.nan, math.inf, -math.inf):
        y = x.clone()
        y.flatten(1)[3, 0] = bad
        assert domain.contains(y).tolist() == [i != 3 for i in range(len(x))]
    if name != "space":
        y = x.clone()
        y[3] = 1e3
        assert domain.contains(y).tolist() == [i != 3 for i in range(len(x))]


@bounded_domain
def test_contains_has_a_tolerance_only_when_asked(name):
    domain = ALL[name]
    far = domain.project(1e3 * torch.randn(30, *domain.event_shape, dtype=torch.float64, generator=generator(8)))
    centre = domain.sample_uniform((4000,), generator=generator(9), dtype=torch.float64).mean(0)
    y = far + 1e-6 * (far - centre)
    assert not domain.contains(y).any()
    assert domain.contains(y, atol=1e-4).all()


@bounded_domain
def test_simplex_sum_is_checked(name):
    domain = ALL[name]
    if isinstance(domain, Simplex):
        assert not domain.contains(0.99 * inside(name, 5)).any()
        assert not domain.contains(inside(name, 5) + 1e-3).any()


# ---- sampling
def assert_uniform(domain: Domain, x: np.ndarray) -> None:
    """Marginals of the uniform law, by Kolmogorov and Smirnov."""
    x = x.reshape(len(x), -1)
    d = x.shape[1]
    if isinstance(domain, Hypercube):
        config = domain.config()
        low, high = (np.broadcast_to(np.array(config[k]), domain.event_shape).ravel() for k in ("low", "high"))
        values, law = (x - low) / (high - low), stats.uniform()
    elif isinstance(domain, Simplex):
        values, law = x, stats.beta(1, d - 1)
    else:
        radius = float(domain.inradius)
        values, law = (x / radius + 1) / 2, stats.beta((d + 1) / 2, (d + 1) / 2)
        radial = (np.linalg.norm(x, axis=-1) / radius) ** d
        assert stats.kstest(radial, "uniform").pvalue > ref.ALPHA
    for column in values.T:
        assert stats.kstest(column, law.cdf).pvalue > ref.ALPHA


@both_dtypes
@bounded_domain
def test_sample_uniform(name, dtype):
    domain = ALL[name]
    x = domain.sample_uniform((20_000,), generator=generator(10), dtype=dtype)
    assert_inside(domain, x, dtype)
    assert_uniform(domain, x.double().numpy())
    flat = x.double().flatten(1)
    if flat.shape[1] > 1 and isinstance(domain, Hypercube):
        correlation = torch.corrcoef(flat.T) - torch.eye(flat.shape[1])
        assert float(correlation.abs().max()) < 5 / math.sqrt(20_000)


@every_domain
def test_noise_is_a_unit_increment_of_the_metric(name):
    domain = ALL[name]
    x = inside(name, 1).expand(40_000, *domain.event_shape)
    noise = domain.sample_noise(x, generator=generator(11)).flatten(1).numpy()
    n = noise.shape[1]
    covariance = np.eye(n)
    if isinstance(domain, Simplex):
        covariance -= 1 / n
        if "cumulative" in name:
            d = ref.difference_matrix(n)
            covariance = d @ d.T
    assert np.abs(ref.z_scores(noise)).max() < ref.LARGEST_Z
    products = noise[:, :, None] * noise[:, None, :]
    assert np.abs(ref.z_scores(products, covariance)).max() < ref.LARGEST_Z
    # E <dB, dB> is the dimension
    v = domain.sample_noise(x, generator=generator(12))
    assert abs(ref.z_scores(domain.inner(x, v, v).numpy(), domain.dim)) < ref.LARGEST_Z


def draw(domain: Domain, how: str, x0: torch.Tensor, seed: int | None) -> torch.Tensor:
    g = None if seed is None else generator(seed)
    if how == "sample_uniform":
        return domain.sample_uniform((5,), generator=g, dtype=x0.dtype)
    if how == "sample_noise":
        return domain.sample_noise(x0, generator=g)
    if how == "sample_heat_kernel":
        return domain.sample_heat_kernel(x0, 0.2, generator=g)
    return torch.stack(domain.diffuse(x0, 0.2, generator=g))


@every_domain
@pytest.mark.parametrize("how", ["sample_uniform", "sample_noise", "sample_heat_kernel", "diffuse"])
def test_seeds_repeat(name, how):
    domain, x0 = ALL[name], inside(name, 5)
    if (name == "space" and how == "sample_uniform") or (how == "sample_heat_kernel" and not domain.has_exact_kernel):
        pytest.skip("has none")
    before = torch.get_rng_state()
    assert torch.equal(draw(domain, how, x0, 1), draw(domain, how, x0, 1))
    assert not torch.equal(draw(domain, how, x0, 1), draw(domain, how, x0, 2))
    assert torch.equal(before, torch.get_rng_state()), "a generator was given, the global one was used"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        first = draw(domain, how, x0, None)
        torch.manual_seed(3)
        assert torch.equal(first, draw(domain, how, x0, None))


# ---- shapes and types
@both_dtypes
@every_domain
@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)], ids=str)
def test_batch_shapes_and_dtypes(name, dtype, batch):
    domain = ALL[name]
    event = tuple(domain.event_shape)
    flat = inside(name, math.prod(batch), dtype)
    x = flat.reshape(*batch, *event)
    v = domain.sample_noise(x, generator=generator(13))
    per_point = [domain.contains(x), domain.inner(x, v, v), domain.boundary(x)[0]] if name != "space" else []
    points = [
        v,
        domain.reflect(x, v),
        domain.project(x + v),
        domain.tangent(x, v),
        domain.damp_normal(x, v, 0.1),
    ]
    if name != "space":
        points += [domain.sample_uniform(batch, generator=generator(14), dtype=dtype), domain.boundary(x)[1]]
    for sigma in (0.3, torch.full(batch, 0.3, dtype=dtype)):
        moved, target = domain.diffuse(x, sigma, generator=generator(15))
        assert domain.contains(moved).all()
        points += [moved, target]
        if domain.has_exact_kernel:
            points += [
                domain.sample_heat_kernel(x, sigma, generator=generator(16)),
                domain.heat_kernel_score(moved, x, sigma),
            ]
            per_point.append(domain.heat_kernel_log_prob(moved, x, sigma))
    points.append(domain.damp_normal(x, v, torch.full(batch, 0.1, dtype=dtype)))
    for value in points:
        assert value.shape == (*batch, *event)
        assert value.dtype == dtype
        assert value.isfinite().all()
    for value in per_point:
        assert value.shape == batch
        assert value.dtype in (dtype, torch.bool)


@both_dtypes
@every_domain
@pytest.mark.parametrize("sigma", [1e-4, 0.01, 0.333, 3.0, pytest.param(50.0, marks=pytest.mark.slow)])
def test_diffuse_from_walls_and_corners(name, dtype, sigma):
    domain, x0 = ALL[name], places(name, dtype)
    x, target = domain.diffuse(x0, sigma, generator=generator(17))
    assert_inside(domain, x, dtype)
    assert target.dtype == dtype
    assert target.isfinite().all()
    assert torch.allclose(domain.tangent(x, target), target, rtol=1e-4, atol=1e-4 / sigma)
    if domain.has_exact_kernel:
        assert_inside(domain, domain.sample_heat_kernel(x0, sigma, generator=generator(18)), dtype)


@bounded_domain
def test_walls_damp_the_whole_flux(name):
    domain = ALL[name]
    x = places(name, torch.float64)
    v = domain.sample_noise(x, generator=generator(19))
    for width in (1e-3, 0.1, torch.linspace(0.01, 1, len(x), dtype=torch.float64)):
        damped = domain.damp_normal(x, v, width)
        distance, normal = domain.boundary(x)
        on_wall = distance <= 1e-14
        assert on_wall.any()
        assert damped.isfinite().all()
        if "cumulative" not in name:
            flux = (damped * normal).flatten(1).sum(-1)
            assert float(flux[on_wall].abs().max()) <= 1e-10


@every_domain
def test_tangent_is_a_projection(name):
    domain, x = ALL[name], inside(name, 5)
    v = torch.randn(x.shape, dtype=torch.float64, generator=generator(20))
    once = domain.tangent(x, v)
    torch.testing.assert_close(domain.tangent(x, once), once)
    noise = domain.sample_noise(x, generator=generator(21))
    torch.testing.assert_close(domain.tangent(x, noise), noise)
    if isinstance(domain, Simplex):
        assert float(once.sum(-1).abs().max()) < 1e-12


@every_domain
def test_device_follows_the_input(name):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    domain, x = ALL[name], inside(name, 4).to(device)
    g = torch.Generator(device).manual_seed(0)
    moved, target = domain.diffuse(x, 0.2, generator=g)
    for value in (moved, target, domain.reflect(x, domain.sample_noise(x, generator=g)), domain.project(x)):
        assert value.device == x.device
    if domain.has_exact_kernel:
        there, here = (
            domain.heat_kernel_score(moved, x, 0.2),
            domain.heat_kernel_score(moved.cpu(), x.cpu(), 0.2),
        )
        torch.testing.assert_close(there.cpu(), here)


# ---- value objects
@every_domain
def test_config_round_trip_equality_hash_and_repr(name):
    domain = ALL[name]
    again = Domain.from_config(json.loads(json.dumps(domain.config())))
    assert again == domain
    assert type(again) is type(domain)
    assert hash(again) == hash(domain)
    assert [other for other in ALL if ALL[other] == again] == [name]
    assert domain != "something else"
    assert type(domain).__name__ in repr(domain)
    assert repr(again) == repr(domain)
    assert len(repr(domain)) <= 120
    moved = domain.to("cpu", torch.float64)
    assert moved == domain
    x = inside(name, 3)
    assert torch.equal(moved.project(x), domain.project(x))


def test_equality_is_by_value():
    assert Hypercube(3) == Hypercube((3,), low=0, high=1)
    assert Hypercube(2) == Hypercube(2, low=[0.0, 0.0], high=torch.ones(2)), "the same box"
    assert Hypercube(2) != Hypercube(2, high=2.0)
    assert Hypercube(2) != Euclidean(2)
    assert Ball(2) == Ball(2, radius=1)
    assert Ball(2) != Ball(2, radius=1.5)
    assert hash(Hypercube(2)) == hash(Hypercube(2, low=[0.0, 0.0], high=1))


# ---- errors
def calls(domain: Domain, x: torch.Tensor, good: torch.Tensor) -> list[tuple[str, object]]:
    """(argument that gets x, call) for every public method that takes points of the domain."""
    listed = [
        ("x", lambda: domain.reflect(x, torch.zeros_like(good))),
        ("x0", lambda: domain.diffuse(x, 0.1)),
    ]
    if domain.has_exact_kernel:
        listed += [
            ("x0", lambda: domain.sample_heat_kernel(x, 0.1)),
            ("x", lambda: domain.heat_kernel_log_prob(x, good, 0.1)),
            ("x0", lambda: domain.heat_kernel_log_prob(good, x, 0.1)),
            ("x", lambda: domain.heat_kernel_score(x, good, 0.1)),
            ("x0", lambda: domain.heat_kernel_score(good, x, 0.1)),
        ]
    return listed


@every_domain
def test_points_outside_are_named(name):
    domain, good = ALL[name], inside(name, 4)
    bad = [] if name == "space" else [outside(name)]
    poisoned = good.clone()
    poisoned[2] = math.nan
    for x in (*bad, poisoned):
        for argument, call in calls(domain, x, good):
            with pytest.raises(DomainError, match=rf"\b{argument}\b") as caught:
                call()
            assert "2" in str(caught.value)


@every_domain
def test_wrong_shapes_are_named(name):
    domain, good = ALL[name], inside(name, 4)
    wrong = torch.full((4, *domain.event_shape[:-1], domain.event_shape[-1] + 13), 0.1, dtype=torch.float64)
    for argument, call in calls(domain, wrong, good)[1:]:
        with pytest.raises(ShapeError, match=rf"\b{argument}\b") as caught:
            call()
        assert str(wrong.shape[-1]) in str(caught.value)
        assert str(domain.event_shape[-1]) in str(caught.value)
    with pytest.raises(ShapeError, match=r"\bx\b"):
        domain.reflect(wrong, torch.zeros_like(wrong))
    for method in (domain.project, domain.contains):
        with pytest.raises(ShapeError, match=r"\bx\b"):
            method(wrong)


@every_domain
def test_wrong_types_are_refused(name):
    domain, good = ALL[name], inside(name, 4)
    for argument, call in calls(domain, good.numpy(), good):
        with pytest.raises(TypeError, match=rf"\b{argument}\b"):
            call()
    if domain.has_exact_kernel:
        for method in (domain.heat_kernel_log_prob, domain.heat_kernel_score):
            with pytest.raises(TypeError, match="x0"):
                method(good, good.float(), 0.1)


@every_domain
@pytest.mark.parametrize(
    "sigma",
    [0.0, -1.0, math.nan, torch.tensor([0.1, 0.0, 0.1, 0.1]), torch.full((4,), -1.0), torch.full((3,), 0.1)],
    ids=str,
)
def test_bad_sigmas_are_named(name, sigma):
    domain, x = ALL[name], inside(name, 4, torch.float32)
    methods = [lambda: domain.diffuse(x, sigma)]
    if domain.has_exact_kernel:
        methods += [
            lambda: domain.sample_heat_kernel(x, sigma),
            lambda: domain.heat_kernel_log_prob(x, x, sigma),
            lambda: domain.heat_kernel_score(x, x, sigma),
        ]
    for method in methods:
        with pytest.raises(ValueError, match="sigma"):
            method()


@pytest.mark.parametrize("kind", [Hypercube, Torus, Euclidean, Simplex, Ball, Sphere, Polytope.birkhoff])
def test_sizes_may_be_numpys(kind):
    for number in (np.int64(3), np.uint8(3)):
        domain = kind(number)
        assert domain == kind(3)
        assert Domain.from_config(json.loads(json.dumps(domain.config()))) == domain
    for wrong in (np.float64(3.0), np.int64(0), "3", np.bool_(True)):
        with pytest.raises(ValueError, match="must be"):
            kind(wrong)
