"""Several domains in one point: every method is what its factors say, and exact where they are."""

import json
import math

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy import stats

from constrained_diffusion import (
    Ball,
    Domain,
    DomainError,
    Euclidean,
    EulerMaruyama,
    Hypercube,
    PredictorCorrector,
    ReflectedDiffusion,
    ReflectedSDE,
    ShapeError,
    Simplex,
    Sphere,
    Torus,
)
from constrained_diffusion.domains.checks import check_inside
from constrained_diffusion.domains.product import Product
from tests import references as ref
from tests.domains.test_own_domain import ProjectedBox
from tests.references_ball import ball_log_prob_and_score

BATCHES = [(), (3,), (2, 3), (0,)]
MIXED = Product(Hypercube(2), Simplex(3), Ball(2))
PRODUCTS = {
    "box, triangle, disc": MIXED,
    "shaped box, simplex without a kernel": Product(Hypercube((2, 2), low=-1.0), Simplex(5, "euclidean")),
    "partial sums and a small ball": Product(Simplex(5), Ball(3, 0.5)),
    "nested": Product(Product(Simplex(2), Hypercube(1, high=2.0)), Product(Ball(2))),
    "a user's own": Product(ProjectedBox(), Hypercube(1)),
}
every_product = pytest.mark.parametrize("name", PRODUCTS)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inside(domain, count, dtype=torch.float64, seed=0):
    return domain.sample_uniform(count, generator=generator(seed), dtype=dtype)


# ---- against means that know nothing of the library
@pytest.mark.parametrize("sigma", [0.15, 0.5])
def test_kernel_is_the_product_of_reference_kernels(sigma):
    """Interval images, triangle images and Bessel series in 40 digits, summed and set side by side."""
    rng = np.random.default_rng(0)
    box = rng.random((2, 6, 2))
    triangle = np.stack([ref.simplex_points(rng, 6, 3) for _ in range(2)])
    disc = 0.8 * rng.standard_normal((2, 6, 2)).clip(-0.8, 0.8)
    x, x0 = (torch.tensor(np.concatenate([box[i], triangle[i], disc[i]], -1)) for i in range(2))
    x0 = MIXED.project(x + 0.6 * sigma * MIXED.tangent(x, x0))
    ends, starts = ([p.numpy() for p in MIXED.split(v)] for v in (x, x0))
    log_p, score = ref.box_kernel(ends[0], starts[0], sigma)
    for part in (
        ref.triangle_kernel(ends[1], starts[1], sigma),
        tuple(
            np.array(v)
            for v in zip(
                *(ball_log_prob_and_score(a, b, sigma, 2, 30) for a, b in zip(ends[2], starts[2], strict=True)),
                strict=True,
            )
        ),
    ):
        log_p, score = log_p + part[0], np.concatenate([score, part[1]], -1)
    found_log, found_score = MIXED.heat_kernel_log_prob(x, x0, sigma), MIXED.heat_kernel_score(x, x0, sigma)
    np.testing.assert_allclose(found_log, log_p, atol=2e-3)  # the ball's own accuracy
    np.testing.assert_allclose(sigma * found_score, sigma * score, atol=2e-3)
    np.testing.assert_allclose(found_score[:, :5], score[:, :5], atol=1e-5)
    row = MIXED.heat_kernel_log_prob(x[0], x0[0], torch.tensor(sigma, dtype=torch.float64))
    assert float(row) == pytest.approx(float(found_log[0]), rel=1e-12)


def test_two_boxes_are_a_box():
    """Product(Hypercube(1), Hypercube(2)) is Hypercube(3), in everything that is not random."""
    pair, cube = Product(Hypercube(1), Hypercube(2)), Hypercube(3)
    g = generator(1)
    x, x0 = (torch.rand(2, 50, 3, dtype=torch.float64, generator=g) for _ in range(2))
    far = x + torch.randn(x.shape, dtype=torch.float64, generator=g)
    v = torch.randn(x.shape, dtype=torch.float64, generator=g)
    sigma = torch.linspace(0.05, 1.0, 100, dtype=torch.float64).reshape(2, 50)
    for name in ("log_volume", "spectral_gap", "inradius", "diameter", "magnitude", "dim", "has_exact_kernel"):
        assert getattr(pair, name) == pytest.approx(getattr(cube, name)), name
    same = {
        "box": lambda d: torch.stack(d.bounding_box),
        "contains": lambda d: d.contains(far),
        "contains, with a tolerance": lambda d: d.contains(far, atol=0.1),
        "project": lambda d: d.project(far),
        "reflect": lambda d: d.reflect(x, 3 * v),
        "distance": lambda d: d.boundary(x)[0],
        "normal": lambda d: d.boundary(x)[1],
        "distance from outside": lambda d: d.boundary(far)[0],
        "normal from outside": lambda d: d.boundary(far)[1],
        "curvature": lambda d: d.curvature(x),
        "tangent": lambda d: d.tangent(x, v),
        "inner": lambda d: d.inner(x, v, far),
        "frame": lambda d: d.frame(x),
        "damping": lambda d: d.damp_normal(x, v, 0.2),
        "damping by rows": lambda d: d.damp_normal(x, v, sigma),
        "prior": lambda d: d.prior_log_prob(far, 2.0),
        "log-density": lambda d: d.heat_kernel_log_prob(x, x0, sigma),
        "score": lambda d: d.heat_kernel_score(x, x0, sigma),
    }
    for name, call in same.items():
        torch.testing.assert_close(call(pair).double(), call(cube).double(), msg=lambda m, n=name: f"{n}: {m}")
    walls = [d.walls(x) for d in (pair, cube)]
    order = [w[0].sort(-1).indices for w in walls]  # the same walls in another order
    for k in range(2):
        ordered = [torch.take_along_dim(w[k], o[..., None] if k else o, 2) for w, o in zip(walls, order, strict=True)]
        torch.testing.assert_close(*ordered)
    noised = [d.sample_heat_kernel(x0[0, :1].expand(20_000, 3), 0.3, generator=generator(2)) for d in (pair, cube)]
    for i in range(3):
        assert (
            stats.kstest(noised[0][:, i], lambda u, i=i: ref.interval_cdf(u, float(x0[0, 0, i]), 0.3)).pvalue
            > ref.ALPHA
        )
    assert np.abs(np.corrcoef(noised[0].T) - np.corrcoef(noised[1].T)).max() < 0.04


def test_sizes_by_hand():
    domain = Product(Hypercube(2, -1.0, 2.0), Simplex(3), Ball(3, 0.5))
    volume = 9 * (math.sqrt(3) / 2) * (4 / 3 * math.pi / 8)
    root = float(mp.findroot(lambda z: mp.sin(z) * (2 - z * z) - 2 * z * mp.cos(z), 2.08))  # j_1'(z) = 0
    assert domain.log_volume == pytest.approx(math.log(volume))
    assert domain.spectral_gap == pytest.approx(min((math.pi / 3) ** 2, 8 * math.pi**2 / 9, root**2 / 0.25))
    assert domain.inradius == pytest.approx(1 / math.sqrt(6))
    assert domain.diameter == pytest.approx(math.sqrt(18 + 2 + 1))
    assert domain.magnitude == 2.0
    assert domain.dim == 2 + 2 + 3
    assert domain.event_shape == (8,)
    low, high = domain.bounding_box
    assert low.tolist() == [-1, -1, 0, 0, 0, -0.5, -0.5, -0.5]
    assert high.tolist() == [2, 2, 1, 1, 1, 0.5, 0.5, 0.5]
    x = inside(domain, 2000)
    assert float(domain.boundary(x)[0].max()) < domain.inradius
    assert domain.prior_log_prob(x, 1.0).tolist() == pytest.approx([-math.log(volume)] * 2000)
    x[0, 0] = 5.0
    x[1, 3] = -1.0
    assert domain.prior_log_prob(x, 1.0).isneginf().tolist() == [True, True] + [False] * 1998


def test_uniform_law():
    """Each part has its own uniform law, and the parts have nothing to do with each other."""
    box, triangle, disc = MIXED.split(inside(MIXED, 20_000, seed=3))
    uniforms = [box[:, 0], box[:, 1], 1 - (1 - triangle[:, 0]) ** 2, disc.norm(dim=-1) ** 2]
    for u in uniforms:
        assert stats.kstest(u.numpy(), "uniform").pvalue > ref.ALPHA
    off = np.corrcoef(np.stack([u.numpy() for u in uniforms])) - np.eye(4)
    assert np.abs(off).max() < 4.5 / math.sqrt(20_000)


def test_distances_by_hand():
    domain = Product(Hypercube(2), Ball(2))
    root = math.sqrt(0.5)
    rows = [  # point, signed distance, inward normal
        ([0.5, 0.4, 0.0, 0.1], 0.4, [0, 1, 0, 0]),
        ([0.5, 0.4, 0.0, 0.9], 0.1, [0, 0, 0, -1]),
        ([0.5, -0.3, 0.0, 0.9], -0.3, [0, 1, 0, 0]),
        ([1.3, 0.5, 0.0, -1.4], -0.5, [-0.6, 0, 0, 0.8]),
        ([0.0 - 0.1, 0.5, 1.1, 0.0], -0.1 / root, [root, 0, -root, 0]),
    ]
    x, distance, normal = (torch.tensor([r[i] for r in rows], dtype=torch.float64) for i in range(3))
    found = domain.boundary(x)
    torch.testing.assert_close(found[0], distance)
    torch.testing.assert_close(found[1], normal)
    torch.testing.assert_close(domain.project(x) - x, (-distance).clamp(min=0)[:, None] * normal)
    assert domain.contains(x).tolist() == [True, True, False, False, False]
    assert domain.contains(x, atol=0.35).tolist() == [True, True, True, False, True]
    distances, normals = domain.walls(x[:1])
    torch.testing.assert_close(distances, torch.tensor([[0.5, 0.4, 0.5, 0.6, 0.9]], dtype=torch.float64))
    torch.testing.assert_close(normals[0, 1], torch.tensor([0.0, 1, 0, 0], dtype=torch.float64))
    torch.testing.assert_close(normals[0, 4], torch.tensor([0.0, 0, 0, -1], dtype=torch.float64))
    assert domain.curvature(x).tolist() == [[0, 0, 0, 0, 1]] * 5


# ---- noise and targets
class Disc(Domain):
    """The disc of radius 0.8 around (1, 0), known by its projection alone."""

    event_shape, dim = torch.Size([2]), 2

    def project(self, x):
        centre = torch.tensor([1.0, 0.0]).to(x)
        away = x - centre
        return centre + away / (away.norm(dim=-1, keepdim=True) / 0.8).clamp(min=1.0)

    def curvature(self, x):
        return torch.full_like(x[..., :1], 1 / 0.8)


def test_targets_where_some_factors_have_no_kernel():
    """E[target . phi] = -E[div phi], also for fields that mix the parts, at rows of different sigma."""
    domain = Product(Simplex(5, "euclidean"), Disc(), Hypercube(1))
    n = 8_000
    start = torch.tensor([0.02, 0.05, 0.08, 0.25, 0.6, 1.0, 0.7, 0.1], dtype=torch.float64)
    for sigma in (0.1, 0.35):
        x, target = domain.diffuse(start.expand(n, 8), torch.full((n,), sigma).double(), generator=generator(4))
        assert domain.contains(x, atol=1e-12).all()
        p, q, c = domain.split(x)
        target_p, target_q, target_c = domain.split(target)
        exchanges = torch.tensor(ref.exchange_residuals(p.numpy(), target_p.numpy()))
        y = q - torch.tensor([1.0, 0.0])
        turn = torch.stack([-y[:, 1], y[:, 0]], -1)
        around = (target_q * turn).sum(-1)
        flow = (c * (1 - c) * target_c + 1 - 2 * c).squeeze(-1)
        residuals = {
            "exchanges on the simplex": exchanges,
            "exchange, weighted by the disc": exchanges[:, :1] * q[:, :1],
            "around the disc": torch.stack([around, y[:, 0] * around - y[:, 1]], -1),
            "around the disc, weighted by the simplex": (p[:, 0] * around).unsqueeze(-1),
            "interval, weighted by the simplex": (flow * p[:, 4]).unsqueeze(-1),
        }
        for name, z in residuals.items():
            assert np.abs(ref.z_scores(z.numpy())).max() < ref.LARGEST_Z, (name, sigma)
        wrong = torch.cat([target_p, target_c], -1)[:, [5]] * 2  # the interval's target times two is seen
        off = (c * (1 - c) * wrong + 1 - 2 * c).numpy()
        assert np.abs(ref.z_scores(off)).max() > 8
        exact = Hypercube(1).heat_kernel_score(c, start[7:].expand(n, 1), sigma)
        torch.testing.assert_close(target_c, exact)
    with pytest.raises(NotImplementedError, match="Simplex"):
        domain.heat_kernel_log_prob(x, x, 0.1)
    Domain._registry.pop("Disc")


def test_noise_without_targets_has_the_same_law():
    x0 = torch.tensor([0.2, 0.9, 0.1, 0.3, 0.6, 0.5, -0.7], dtype=torch.float64).expand(20_000, 7)
    x, y = MIXED.noise(x0, 0.3, generator=generator(12)), MIXED.diffuse(x0, 0.3, generator=generator(13))[0]
    for i in range(7):
        assert stats.ks_2samp(x[:, i], y[:, i]).pvalue > ref.ALPHA


@every_product
def test_tangents_and_features_are_the_factors_own(name):
    domain = PRODUCTS[name]
    x = inside(domain, 5)
    v = torch.randn(x.shape, dtype=torch.float64, generator=generator(14))
    sigma = torch.linspace(0.1, 1, 5, dtype=torch.float64)
    parts = list(zip(domain.factors, domain.split(x), domain.split(v), strict=True))
    torch.testing.assert_close(domain.tangent(x, v), domain.join(*(f.tangent(p, w) for f, p, w in parts)))
    torch.testing.assert_close(domain.features(x, sigma), torch.cat([f.features(p, sigma) for f, p, _ in parts], -1))
    planes, before = domain.planes(x, sigma), 0
    for f, p, _ in parts:
        own = f.planes(p, sigma).flatten(2)
        block = planes[..., before : before + own.shape[-1]]
        torch.testing.assert_close(block[:, : own.shape[1]], own)
        assert not bool(block[:, own.shape[1] :].any())
        before += own.shape[-1]
    assert planes.shape[-1] == before


@every_product
def test_noise_is_a_unit_increment_and_frames_are_orthonormal(name):
    domain = PRODUCTS[name]
    x = inside(domain, 1)
    frame = domain.frame(x)
    assert frame.shape == (domain.dim, 1, domain.event_shape[0])
    gram = domain.inner(x, frame.unsqueeze(1), frame).squeeze(-1)
    torch.testing.assert_close(gram, torch.eye(domain.dim, dtype=torch.float64))
    z = domain.sample_noise(x.expand(20_000, -1), generator=generator(5))
    components = torch.stack([domain.inner(x, z, e) for e in frame])
    assert (components.mean(-1).abs() < ref.LARGEST_Z / math.sqrt(20_000)).all()
    assert (components.cov() - torch.eye(domain.dim)).abs().max() < 0.06
    normal = domain.boundary(x)[1]
    assert float(domain.inner(x, normal, normal)) == pytest.approx(1.0)


@every_product
def test_walls_damp_the_flux_of_their_own_factor(name):
    domain, g = PRODUCTS[name], generator(6)
    x = inside(domain, 20)
    moves = domain.sample_noise(x, generator=g)
    wall = domain.project(x + 50 * moves)  # every part on a wall of its own
    v = domain.sample_noise(wall, generator=g)
    damped = domain.damp_normal(wall, v, 0.2)
    distances, normals = domain.walls(wall)
    flux = domain.inner(wall.unsqueeze(-2), damped.unsqueeze(-2), normals)
    assert float(flux[distances < 1e-12].abs().max()) < 1e-10
    expected = [f.damp_normal(p, w, 0.2) for f, p, w in zip(domain.factors, *map(domain.split, (wall, v)), strict=True)]
    torch.testing.assert_close(damped, domain.join(*expected))


# ---- shapes, dtypes, values, seeds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", BATCHES, ids=str)
@every_product
def test_shapes_and_dtypes(name, dtype, batch):
    domain = PRODUCTS[name]
    x = inside(domain, batch, dtype)
    v = domain.sample_noise(x, generator=generator(7))
    sigma = torch.full(batch, 0.3, dtype=dtype)
    noised = domain.noise(x, sigma, generator=generator(8))
    points = [
        x,
        domain.join(*domain.split(x)),
        v,
        domain.reflect(x, v),
        domain.project(x + v),
        domain.tangent(x, v),
        domain.damp_normal(x, v, sigma),
        domain.boundary(x)[1],
        noised,
        domain.noise(x, 0.03, generator=generator(8)),  # a number: for all rows
        *domain.diffuse(x, sigma, generator=generator(8)),
        *domain.diffuse(x, 0.03, generator=generator(8)),
        domain.sample_prior(batch, 2.0, generator=generator(9), dtype=dtype),
    ]
    per_point = [domain.boundary(x)[0], domain.inner(x, v, v), domain.prior_log_prob(x, 2.0)]
    if domain.has_exact_kernel:
        points += [domain.sample_heat_kernel(x, 0.3, generator=generator(8)), domain.heat_kernel_score(x, x, 0.3)]
        per_point.append(domain.heat_kernel_log_prob(x, x, sigma))
    for value in points:
        assert value.shape == (*batch, *domain.event_shape)
        assert value.dtype == dtype
        assert value.isfinite().all()
    for value in per_point:
        assert value.shape == batch
        assert value.dtype == dtype
    assert domain.contains(x).shape == batch
    assert domain.features(x, sigma).shape[:-1] == batch
    distances, normals = domain.walls(x)
    assert normals.shape == (*distances.shape, *domain.event_shape)
    assert domain.curvature(x).shape == distances.shape
    assert domain.contains(domain.reflect(x, v)).all()
    assert domain.contains(noised).all()


def test_split_and_join():
    domain = Product(Hypercube((2, 3)), Ball(2), Product(Simplex(3), Euclidean(1)))
    x = torch.arange(24.0).reshape(2, 12)
    parts = domain.split(x)
    assert [tuple(p.shape) for p in parts] == [(2, 2, 3), (2, 2), (2, 4)]
    assert torch.equal(domain.join(*parts), x)
    assert torch.equal(domain.join(parts[0], parts[1][0], parts[2])[0], x[0]), "batch shapes broadcast"
    with pytest.raises(ShapeError, match="3 factors; got 2"):
        domain.join(*parts[:2])
    with pytest.raises(ShapeError, match="part 1 has shape"):
        domain.join(parts[0], parts[2], parts[1])
    with pytest.raises(ShapeError, match="part 1 has batch shape"):
        domain.join(parts[0], parts[1].expand(3, 2, 2)[:, 0], parts[2])
    with pytest.raises(TypeError, match="part 1 .*part 0"):
        domain.join(parts[0], parts[1].double(), parts[2])
    with pytest.raises(ShapeError, match="x has shape"):
        domain.split(x[:, 1:])


@every_product
def test_seeds_repeat(name):
    domain = PRODUCTS[name]
    x0 = inside(domain, 5)
    before = torch.get_rng_state()
    for draw in (
        lambda g: domain.sample_uniform(5, generator=g),
        lambda g: domain.sample_noise(x0, generator=g),
        lambda g: domain.diffuse(x0, 0.2, generator=g)[1],
        lambda g: domain.noise(x0, 0.2, generator=g),
    ):
        first, again, other = (draw(generator(seed)) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state()), "a generator was given, the global one was used"


@every_product
def test_values(name, monkeypatch):
    monkeypatch.setitem(Domain._registry, "ProjectedBox", ProjectedBox)  # other tests have one of that name
    domain = PRODUCTS[name]
    again = Domain.from_config(json.loads(json.dumps(domain.config())))
    assert again == domain
    assert hash(again) == hash(domain)
    assert repr(again) == repr(domain)
    assert repr(domain) == f"Product({', '.join(map(repr, domain.factors))})"
    assert [other for other in PRODUCTS if PRODUCTS[other] == again] == [name]
    moved = domain.to("cpu", torch.float64)
    assert moved == domain
    assert torch.equal(inside(moved, 3), inside(domain, 3))


def test_order_and_nesting_are_part_of_the_value():
    a, b, c = Hypercube(1), Ball(2), Simplex(3)
    assert Product(a, b) == Product(Hypercube(1, 0.0, 1.0), Ball(2))
    assert Product(a, b) != Product(b, a)
    assert Product(Product(a, b), c) != Product(a, b, c)
    flat, nested = Product(a, b, c), Product(Product(a, b), c)
    x, x0 = inside(flat, 10), inside(flat, 10, seed=1)
    assert torch.equal(flat.heat_kernel_score(x, x0, 0.3), nested.heat_kernel_score(x, x0, 0.3))
    assert flat.log_volume == pytest.approx(nested.log_volume)
    moved = Product(Hypercube(2, [0.0, -1.0], 3.0), b).to(dtype=torch.float32)
    assert moved.factors[0].low.dtype == torch.float32


def test_nothing_is_simulated_at_construction():
    class Costly(ProjectedBox):
        def project(self, x):
            raise AssertionError("a projection at construction")

    domain = Product(Costly(), Hypercube(1))
    assert domain.dim == 3
    assert not domain.has_exact_kernel
    Domain._registry.pop("Costly")
    volume = Product(ProjectedBox(), Hypercube(1, high=3.0)).log_volume
    assert volume == pytest.approx(math.log(6.0), abs=0.02)


# ---- unbounded factors
def test_an_unbounded_factor():
    domain = Product(Euclidean((1, 2)), Hypercube(1))
    assert domain.log_volume == math.inf
    assert domain.diameter == math.inf
    assert domain.inradius == 0.5
    assert domain.spectral_gap == 0.0
    assert domain.has_exact_kernel
    x = domain.sample_prior(20_000, 3.0, generator=generator(10), dtype=torch.float64)
    assert stats.kstest(x[:, 1].numpy() / 3, "norm").pvalue > ref.ALPHA
    assert stats.kstest(x[:, 2].numpy(), "uniform").pvalue > ref.ALPHA
    expected = stats.norm(scale=3).logpdf(x[:, :2].numpy()).sum(-1)
    np.testing.assert_allclose(domain.prior_log_prob(x, 3.0), expected)
    distance, normal = domain.boundary(x)
    torch.testing.assert_close(distance, torch.minimum(x[:, 2], 1 - x[:, 2]))
    assert normal.abs().sum(0)[:2].tolist() == [0.0, 0.0]
    assert torch.equal(domain.damp_normal(x, x, 0.1)[:, :2], x[:, :2])
    moved, target = domain.diffuse(x, 0.2, generator=generator(11))
    torch.testing.assert_close(target[:, :2], (x - moved)[:, :2] / 0.04)
    with pytest.raises(ValueError, match="no uniform law"):
        domain.sample_uniform(3)
    with pytest.raises(ValueError, match="sigma_max must be given"):
        ReflectedSDE(domain)
    free = Product(Euclidean(1), Euclidean(2))
    assert free.boundary(x)[0].isposinf().all()
    assert torch.equal(free.project(x), x)
    assert free.contains(x).all()


# ---- errors
def test_what_cannot_be_a_product():
    with pytest.raises(ValueError, match="at least one factor"):
        Product()
    with pytest.raises(TypeError, match="factor 1 must be a Domain such as .*, not int"):
        Product(Hypercube(2), 3)
    with pytest.raises(TypeError, match="factor 0 must be a Domain such as .*, not list"):
        Product([Hypercube(2), Ball(2)])


def test_errors_speak_of_the_product():
    good = inside(MIXED, 4)
    bad = good.clone()
    bad[2, 6] = 3.0
    calls = {
        "x": lambda x: MIXED.reflect(x, torch.zeros_like(x)),
        "x0": lambda x: MIXED.diffuse(x, 0.1),
    }
    more = {
        "x": lambda x: MIXED.heat_kernel_score(x, good, 0.1),
        "x0": lambda x: MIXED.heat_kernel_log_prob(good, x, 0.1),
    }
    for argument, call in [*calls.items(), *more.items(), ("x0", lambda x: MIXED.noise(x, 0.1))]:
        with pytest.raises(DomainError, match=rf"^{argument}: at row 2 the point .* lies outside Product\("):
            call(bad)
        with pytest.raises(ShapeError, match=rf"^{argument} has shape \[4, 6\]; expected \[\*batch, 7\]"):
            call(good[:, 1:])
    for sigma in (0.0, math.nan, torch.full((3,), 0.1)):
        with pytest.raises(ValueError, match="sigma"):
            MIXED.diffuse(good.float(), sigma)
    with pytest.raises(ValueError, match="width"):
        MIXED.damp_normal(good, good, -1.0)
    with pytest.raises(DomainError, match="displacement must be finite"):
        MIXED.reflect(good, good / 0)
    for method in (MIXED.project, MIXED.contains, MIXED.boundary, MIXED.walls, MIXED.curvature):
        with pytest.raises(ShapeError, match="x has shape"):
            method(good[:, 1:])
    with pytest.raises(ShapeError, match="v has shape"):
        MIXED.tangent(good, good[:, 1:])


# ---- a model
@pytest.mark.parametrize("sampler", [EulerMaruyama, PredictorCorrector])
def test_train_and_sample(sampler, tmp_path):
    data = inside(MIXED, 64, torch.float32)
    model = ReflectedDiffusion(MIXED, width=16, depth=1, steps=5, batch_size=32).fit(data, progress=False)
    model.save(tmp_path)
    for fitted in (model, ReflectedDiffusion.load(tmp_path)):
        x = fitted.sample(50, steps=8, seed=0, sampler=sampler)
        assert x.dtype == torch.float32
        assert MIXED.contains(x).all()
        assert all(f.contains(p).all() for f, p in zip(MIXED.factors, MIXED.split(x), strict=True))


def test_points_outside_are_told_by_factor():
    domain = Product(Hypercube(1), Simplex(3), Ball(2))
    good = torch.tensor([0.5, 0.2, 0.3, 0.5, 0.0, 0.0])
    for index, value, message in (
        (0, 2.0, r"it is not in factor 0, Hypercube"),
        (1, 50.0, r"it is not in factor 1, Simplex\(n=3.*parts sum to 50\.8"),
    ):
        x = good.clone()
        x[index] = value
        with pytest.raises(DomainError, match=message) as caught:
            check_inside(domain, "x", torch.stack([good, x]))
        assert "factor 2" not in str(caught.value)
    with pytest.raises(DomainError, match="factor 0, .* nor in factor 1, .* nor in factor 2, Ball"):
        check_inside(domain, "x", 9 * torch.ones(1, 6))
    assert domain.outside_hint(good) == ""


def test_ways_are_the_factors_own():
    """Round the torus and the sphere, straight in the square: as each factor does it by itself."""
    factors = Torus(1), Sphere(2), Hypercube(2), Euclidean(2)
    domain = Product(*factors)
    x, y = (domain.sample_prior(30, 1.0, generator=generator(seed), dtype=torch.float64) for seed in (0, 1))
    assert float((domain.split(x)[0] - domain.split(y)[0]).abs().max()) > torch.pi  # some go round
    for share in (0.0, 0.3, 1.0):
        parts = zip(factors, domain.split(x), domain.split(y), strict=True)
        expected = domain.join(*(f.interpolate(p, q, share) for f, p, q in parts))
        torch.testing.assert_close(domain.interpolate(x, y, share), expected)
    way = domain.split(domain.difference(x, y))
    torch.testing.assert_close(way[0], factors[0].logmap(domain.split(x)[0], domain.split(y)[0]))
    torch.testing.assert_close(way[1], domain.split(y)[1] - domain.split(x)[1])
