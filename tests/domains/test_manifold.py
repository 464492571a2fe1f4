"""Manifolds of geoopt, whole and cut: against formulas, the library's own sphere, and radial heat equations."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg, stats

from constrained_diffusion import (
    AnnealedLangevin,
    AnnealedReflected,
    Domain,
    DomainError,
    EulerMaruyama,
    Heun,
    Manifold,
    Multistep,
    PredictorCorrector,
    ProbabilityFlow,
    Product,
    ReflectedDiffusion,
    ReflectedSDE,
    ShapeError,
    SolverError,
    Sphere,
    SphericalPolytope,
    divergence,
    elbo,
    log_prob,
)
from constrained_diffusion.divergence import difference_trace, value_and_trace
from constrained_diffusion.domains.space_forms import quiet_geoopt
from constrained_diffusion.testing import check_domain

geoopt = quiet_geoopt()
ALPHA = 1e-5
DOUBLE = torch.float64
BALL, SPHERE = geoopt.PoincareBall(), geoopt.Sphere()
PAIR = geoopt.ProductManifold((SPHERE, 3), (BALL, 2))
RADIUS, ANGLE = 1.5, 0.8


def in_disc(x):
    return RADIUS - BALL.dist0(x)


def in_square_root_disc(x):  # the same set, but the function is no distance, and has no slope in the middle
    return math.tanh(RADIUS / 2) ** 2 - x.square().sum(-1)


def in_cap(x):
    return x[..., 2] - math.cos(ANGLE)


def above(x):
    return x[..., 2] - 0.3 + 0.3 * x[..., 0] * x[..., 1]


def beside(x):
    return 0.5 - x[..., 0] - 0.5 * x[..., 1] ** 2


def in_ellipse(x):
    return 1 - (x[..., 0] / 0.6) ** 2 - ((x[..., 1] - 0.1) / 0.35) ** 2


def in_second_disc(x):
    return 1.2 - BALL.dist0(x[..., 3:])


GLOBE = Manifold(SPHERE, 3)
DISC = Manifold(BALL, 2, in_disc)
CAP = Manifold(SPHERE, 3, in_cap)
ODD = Manifold(SPHERE, 3, [above, beside])
ELLIPSE = Manifold(BALL, 2, in_ellipse)
MIXED = Manifold(PAIR, 5, in_second_disc)
WALLED = {"disc": DISC, "cap": CAP, "odd": ODD, "ellipse": ELLIPSE, "mixed": MIXED}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def uniform(domain, n, seed=0, dtype=DOUBLE):
    return domain.sample_uniform(n, generator=generator(seed), dtype=dtype)


@pytest.mark.parametrize(
    "domain",
    [
        pytest.param(GLOBE, id="globe"),
        pytest.param(DISC, id="disc", marks=pytest.mark.slow),
        pytest.param(Manifold(geoopt.ProductManifold((SPHERE, 3), (SPHERE, 2)), 5), id="spheres"),
        pytest.param(CAP, id="cap", marks=pytest.mark.slow),
        pytest.param(ODD, id="odd", marks=pytest.mark.slow),
        pytest.param(ELLIPSE, id="ellipse", marks=pytest.mark.slow),
        pytest.param(MIXED, id="mixed", marks=pytest.mark.slow),
    ],
)
def test_keeps_all_promises(domain):
    check_domain(domain, points=600, paths=1000)


# ---------------------------------------------------------------------- moves and walls


def test_whole_sphere_is_the_librarys_own():
    own, x = Sphere(2), uniform(GLOBE, 200)
    z = GLOBE.sample_noise(x, generator=generator(1))
    torch.testing.assert_close(z, own.sample_noise(x, generator=generator(1)))
    y = GLOBE.reflect(x, 2 * z)
    torch.testing.assert_close(y, own.reflect(x, 2 * z))
    torch.testing.assert_close(y, geoopt.SphereExact().expmap(x, 2 * z), rtol=0, atol=1e-12)
    torch.testing.assert_close(GLOBE.transp(x, y, z), own.transp(x, y, z))
    assert (GLOBE.log_volume, GLOBE.spectral_gap, GLOBE.ricci) == (own.log_volume, own.spectral_gap, own.ricci)
    start = x[:1].expand(8000, -1)
    noised = GLOBE.diffuse(start, 0.7, generator=generator(2))[0]
    height = (noised * start).sum(-1)
    error = float(height.std()) / math.sqrt(len(height))
    assert abs(float(height.mean()) - math.exp(-(0.7**2))) < 4.5 * error


def test_moves_in_a_cap_are_those_of_half_spaces():
    own, x = SphericalPolytope.cap([0.0, 0.0, 1.0], ANGLE), uniform(CAP, 300)
    v = CAP.sample_noise(x, generator=generator(1))
    apart = (CAP.reflect(x, 2 * v) - own.reflect(x, 2 * v)).norm(dim=-1)
    assert float(apart.quantile(0.95)) < 1e-9  # but for moves that graze the wall many times
    for found, expected in zip((*CAP.boundary(x), CAP.curvature(x)), (*own.boundary(x), own.curvature(x)), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_bounce_in_the_hyperbolic_disc_is_specular():
    x = torch.zeros(1, 2, dtype=DOUBLE)
    v = torch.tensor([[1.0, 0.0]], dtype=DOUBLE)  # of length 2 in the metric
    there_and_back = DISC.reflect(x, 1.1 * v)
    torch.testing.assert_close(BALL.dist0(there_and_back), torch.tensor([0.8], dtype=DOUBLE), rtol=0, atol=1e-12)
    torch.testing.assert_close(DISC.reflect(x, 3.0 * v), x, rtol=0, atol=1e-12)  # all across, and back
    x = uniform(DISC, 100)
    v = DISC.sample_noise(x, generator=generator(1))
    end = DISC.reflect(x, v)
    hit = ~DISC.contains(BALL.expmap(x, v))
    assert bool(hit.any())
    assert bool((BALL.dist0(end) <= RADIUS).all())
    torch.testing.assert_close(BALL.dist(x, end)[~hit], BALL.norm(x, v)[~hit], rtol=0, atol=1e-9)


@pytest.mark.parametrize("function", [in_disc, in_square_root_disc])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_distances_in_the_disc(function, dtype):
    domain = Manifold(BALL, 2, function)
    x = uniform(domain, 300, dtype=dtype)
    x = torch.cat([x, 1.2 * x, torch.zeros_like(x[:1])]) if function is in_disc else x
    x = x[x.norm(dim=-1) < 0.95]
    distance, normal = domain.boundary(x)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-8
    torch.testing.assert_close(distance, RADIUS - BALL.dist0(x), rtol=0, atol=tolerance)
    torch.testing.assert_close(domain.inner(x, normal, normal), torch.ones_like(distance), rtol=0, atol=1e-5)
    expected = torch.full_like(distance, 1 / math.tanh(RADIUS)).unsqueeze(-1)
    torch.testing.assert_close(domain.curvature(x), expected, rtol=0, atol=1e-4)


def test_projection_leads_to_corners():
    inside, far = uniform(ODD, 20_000), Sphere(2).sample_uniform(200, generator=generator(1), dtype=DOUBLE)
    found = ODD.project(far)
    assert ODD.contains(found).all()
    corner = torch.stack([above(found), beside(found)], -1).abs().amax(-1) < 1e-9
    assert int(corner.sum()) > 5
    apart = (far - found).norm(dim=-1)
    best = torch.cdist(far, inside).amin(1)
    assert float((apart <= best + 1e-9).double().mean()) > 0.97  # a descent may end at another wall from far away


@pytest.mark.parametrize("name", WALLED)
def test_walls_carry_derivatives(name):
    """Of distances and of normals, against differences along geodesics."""
    domain = WALLED[name]
    x = uniform(domain, 40)
    x = x[domain.boundary(x)[0] < 0.5 * domain.inradius]
    leaf = x.clone().requires_grad_()
    distances, normals = domain.walls(leaf)
    weights = torch.randn(normals.shape, generator=generator(2), dtype=DOUBLE)
    (slope,) = torch.autograd.grad((normals * weights).sum() + distances.sum(), leaf)
    e = domain.sample_noise(x, generator=generator(1))
    step, values = 1e-4, []
    for sign in (1, -1):
        d, n = domain.walls(domain.expmap(x, sign * step * e))
        values.append((n * weights).flatten(1).sum(-1) + d.sum(-1))
    seen = (values[0] - values[1]) / (2 * step)
    off = ((slope * e).sum(-1) - seen).abs() / (1 + seen.abs())
    assert float(off.quantile(0.9)) < 1e-3


# ---------------------------------------------------------------------- uniform law and sizes


@pytest.mark.parametrize("c", [1.0, 0.3])
def test_hyperbolic_areas_and_radii(c):
    ball = geoopt.PoincareBall(c)
    domain = Manifold(ball, 2, lambda x: RADIUS - ball.dist0(x))
    bend = math.sqrt(float(ball.c))
    assert domain.log_volume == pytest.approx(
        math.log(4 * math.pi * math.sinh(bend * RADIUS / 2) ** 2 / bend**2), abs=1e-3
    )
    r = bend * ball.dist0(uniform(domain, 5000))
    share = (r.cosh() - 1) / (math.cosh(bend * RADIUS) - 1)
    assert stats.kstest(share.numpy(), "uniform").pvalue > ALPHA


def test_volumes():
    assert CAP.log_volume == pytest.approx(math.log(2 * math.pi * (1 - math.cos(ANGLE))), abs=1e-3)
    assert MIXED.log_volume == pytest.approx(math.log(4 * math.pi * 4 * math.pi * math.sinh(0.6) ** 2), abs=5e-3)
    solid = Manifold(BALL, 3, in_disc)
    assert solid.log_volume == pytest.approx(math.log(math.pi * (math.sinh(2 * RADIUS) - 2 * RADIUS)), abs=1e-3)
    x = np.linspace(-1, 1, 4001)
    u, v = np.meshgrid((x[1:] + x[:-1]) / 2, (x[1:] + x[:-1]) / 2)
    inside = u**2 + v**2 <= 1
    density = (2 / (1 - (0.6 * u) ** 2 - (0.1 + 0.35 * v) ** 2)) ** 2
    area = (inside * density).mean() * 4 * 0.6 * 0.35
    assert ELLIPSE.log_volume == pytest.approx(math.log(area), abs=1e-3)
    plane = Manifold(geoopt.Euclidean(ndim=1), 2, lambda x: 4 - x.square().sum(-1))
    assert plane.log_volume == pytest.approx(math.log(4 * math.pi), abs=1e-3)
    assert plane.inradius == pytest.approx(2, rel=0.05)


# ---------------------------------------------------------------------- noise


def radial_mean(weight, f, radius, start, time, cells=800):
    """E f(r) for the radial part of reflected Brownian motion from ``start``: finite volumes, weight(r) dr."""
    h = radius / cells
    middle, edge = (np.arange(cells) + 0.5) * h, np.arange(1, cells) * h
    mass, flow = weight(middle) * h, weight(edge) / h
    root = np.sqrt(mass)
    diagonal = -(np.append(flow, 0) + np.append(0, flow)) / mass / 2
    values, vectors = linalg.eigh_tridiagonal(diagonal, flow / (root[1:] * root[:-1]) / 2)
    evolved = vectors @ (np.exp(values * time) * (vectors.T @ (root * f(middle)))) / root
    return float(np.interp(start, middle, evolved))


@pytest.mark.parametrize("sigma", [0.3, 0.9])
@pytest.mark.parametrize(
    ("domain", "weight", "f", "radius"),
    [
        pytest.param(DISC, np.sinh, np.cosh, RADIUS, id="disc"),
        pytest.param(CAP, np.sin, np.cos, ANGLE, id="cap"),
    ],
)
def test_noise_solves_the_radial_heat_equation(domain, weight, f, radius, sigma):
    start = 0.7 * radius
    centre = torch.zeros(2, dtype=DOUBLE) if domain is DISC else torch.tensor([0.0, 0.0, 1.0], dtype=DOUBLE)
    v = domain.frame(centre)[0] * start
    x0 = domain.expmap(centre, v).expand(6000, -1)
    x = domain.noise(x0, sigma, generator=generator())
    away = domain.logmap(centre.expand_as(x), x)
    r = domain.inner(centre.expand_as(x), away, away).sqrt().numpy()
    expected = radial_mean(weight, f, radius, start, sigma**2)
    error = f(r).std() / math.sqrt(len(r))
    assert abs(f(r).mean() - expected) < 4.5 * error + 0.003 * abs(f(radius) - f(0))
    assert error < 0.02 * abs(f(radius) - f(0))


@pytest.mark.parametrize("sigma", [0.3, 0.6])
def test_noise_far_from_walls_has_the_kernel_of_hyperbolic_space(sigma):
    """In three dimensions p = (2 pi t)^(-3/2) r / sinh r exp(-t/2 - r^2 / 2t)."""
    domain = Manifold(BALL, 3, lambda x: 4.0 - BALL.dist0(x))
    x0 = torch.tensor([0.3, 0.0, 0.0], dtype=DOUBLE).expand(4000, -1)
    x = x0
    for _ in range(40):
        x = domain.reflect(
            x, sigma / math.sqrt(40) * domain.sample_noise(x, generator=(g := generator()) if x is x0 else g)
        )
    r, t = BALL.dist(x0, x).numpy(), sigma**2
    grid = np.linspace(1e-6, 8 * sigma, 4000)
    density = 4 * math.pi * grid * np.sinh(grid) * np.exp(-t / 2 - grid**2 / (2 * t)) / (2 * math.pi * t) ** 1.5
    total = np.append(0, np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(grid)))
    assert total[-1] == pytest.approx(1, abs=1e-4)
    assert stats.kstest(np.interp(r, grid, total), "uniform").pvalue > ALPHA
    z = domain.sample_noise(x0, generator=generator(1))
    assert float(domain.inner(x0, z, z).mean()) == pytest.approx(3, rel=0.06)


# ---------------------------------------------------------------------- divergence and likelihood


def bowl(x):
    """The gradient of r^2 / 2, r the distance from the middle of the ball: its divergence is 1 + (d - 1) r coth r."""
    return -BALL.logmap(x, torch.zeros_like(x))


def traces(domain, field, x):
    frame = domain.frame(x)
    many = torch.stack([domain.sample_noise(x, generator=generator(s)) for s in range(300)])
    return {
        "exact": value_and_trace(domain, field, x, frame)[1].sum(0),
        "differences": difference_trace(domain, field, x, frame)[1].sum(0),
        "hutchinson": value_and_trace(domain, field, x, many)[1].mean(0),
    }


@pytest.mark.parametrize("d", [2, 3])
def test_divergence_in_the_ball(d, monkeypatch):
    domain = Manifold(BALL, d, in_disc)
    x = uniform(domain, 20)
    r = BALL.dist0(x)
    expected = 1 + (d - 1) * r / r.tanh()
    found = traces(domain, bowl, x)
    torch.testing.assert_close(found["exact"], expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(found["differences"], expected, rtol=0, atol=1e-6)
    assert float((found["hutchinson"].detach() - expected).abs().mean()) < 0.2
    monkeypatch.setattr(divergence, "_stretch", lambda domain, x, v, value: 0.0)
    with torch.no_grad():
        broken = value_and_trace(domain, bowl, x, domain.frame(x))[1].sum(0)
    assert float((broken - expected).abs().max()) > 0.5


def test_divergence_in_products():
    """Of the gradient of height times squared distance: 1 for each part, the other part held."""

    def field(x):
        a, b = x[..., :3], x[..., 3:]
        r = BALL.dist0(b).unsqueeze(-1)
        up = torch.tensor([0.0, 0.0, 1.0], dtype=DOUBLE) - a[..., 2:] * a
        return torch.cat([up * r**2, 2 * a[..., 2:] * bowl(b)], -1)

    for domain in (MIXED, Product(Sphere(2), Manifold(BALL, 2, in_disc))):
        x = uniform(domain, 20)
        r, height = BALL.dist0(x[:, 3:]), x[:, 2]
        expected = -2 * height * r**2 + 2 * height * (1 + r / r.tanh())
        torch.testing.assert_close(value_and_trace(domain, field, x, domain.frame(x))[1].sum(0), expected)
        torch.testing.assert_close(
            difference_trace(domain, field, x, domain.frame(x))[1].sum(0), expected, rtol=0, atol=1e-5
        )


def test_gradients_reach_the_fields_parameters():
    weight = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)
    x = uniform(DISC, 10)
    trace = value_and_trace(DISC, lambda y: weight * bowl(y), x, DISC.frame(x))[1].sum()
    (slope,) = torch.autograd.grad(trace, weight)
    torch.testing.assert_close(slope, trace.detach() / 2)


def test_density_integrates_to_one():
    """Whatever the score, if it does not cross the wall: over the disc, against hyperbolic area."""
    sde = ReflectedSDE(DISC, sigma_min=0.1)

    def score(x, t):
        sigma = sde.sigma(t).unsqueeze(-1)
        push = torch.stack([torch.sin(3 * x[..., 1]) + x[..., 0], torch.cos(2 * x[..., 0]) - 0.5], -1)
        return DISC.damp_normal(x, 0.3 * push / (2 + 4 * sigma**2), 0.4)

    nodes, weights = np.polynomial.legendre.leggauss(12)
    r, turn = torch.tensor((nodes + 1) / 2 * RADIUS), 2 * math.pi * (torch.arange(16, dtype=DOUBLE) + 0.5) / 16
    x = torch.tanh(r / 2).reshape(-1, 1, 1) * torch.stack([turn.cos(), turn.sin()], -1)
    w = torch.tensor(weights) / 2 * RADIUS * r.sinh() * 2 * math.pi / 16
    found = log_prob(sde, score, x, rtol=1e-4, atol=1e-4).value
    assert float(found.std()) > 0.2
    assert float((w.unsqueeze(-1) * found.exp()).sum()) == pytest.approx(1, abs=5e-3)
    some = x[::5, ::8]
    slow = log_prob(sde, score, some, divergence="differences", rtol=1e-4, atol=1e-4).value
    torch.testing.assert_close(slow, found[::5, ::8], rtol=0, atol=5e-3)


# ---------------------------------------------------------------------- values and errors


def test_values():
    again = Domain.from_config(MIXED.config())
    assert again == MIXED
    assert hash(again) == hash(MIXED)
    assert repr(MIXED) == "Manifold(Sphere() x PoincareBall(c=1), (5,), constraints=[in_second_disc])"
    assert Manifold(BALL, 2, in_disc) != Manifold(geoopt.PoincareBall(0.5), 2, in_disc)
    own = Manifold(BALL, 2, lambda x: in_disc(x))
    with pytest.raises(ValueError, match="top level"):
        own.config()
    assert own != DISC
    moved = DISC.to(dtype=torch.float32)
    assert moved == DISC


def test_errors():
    with pytest.raises(DomainError, match="never becomes uniform"):
        Manifold(BALL, 2)
    with pytest.raises(DomainError, match="must bound it"):
        Manifold(BALL, 2, lambda x: x[..., 0])
    with pytest.raises(TypeError, match="not Lorentz"):
        Manifold(geoopt.Lorentz(), 3)
    with pytest.raises(TypeError, match="not int"):
        Manifold(7, 3)
    with pytest.raises(ShapeError, match="vectors"):
        Manifold(SPHERE, (3, 3))
    with pytest.raises(ShapeError, match="factors"):
        Manifold(PAIR, 4)
    with pytest.raises(ShapeError, match="expected \\[B\\]"):
        Manifold(SPHERE, 3, lambda x: x)
    with pytest.raises(TypeError, match="floating"):
        Manifold(SPHERE, 3, lambda x: x[..., 0] > 0)
    with pytest.raises(SolverError, match="give one as start"):
        Manifold(SPHERE, 3, lambda x: x[..., 0] - 2)
    with pytest.raises(DomainError, match="start lies outside"):
        Manifold(SPHERE, 3, in_cap, start=[0.0, 0.0, -1.0])
    with pytest.raises(ValueError, match="radius"):
        Manifold(SPHERE, 3, in_cap, radius=-1.0)
    with pytest.raises(DomainError, match="lies outside"):
        DISC.reflect(torch.tensor([0.9, 0.0]), torch.zeros(2))


def test_a_start_finds_a_small_set():
    pole = torch.tensor([0.0, 0.6, 0.8], dtype=DOUBLE)
    small = Manifold(SPHERE, 3, lambda x: x @ pole.to(x) - math.cos(1e-3), start=pole)
    assert small.log_volume == pytest.approx(math.log(2 * math.pi * (1 - math.cos(1e-3))), abs=1e-3)
    assert small.contains(uniform(small, 100)).all()
    assert small.inradius == pytest.approx(1e-3, rel=0.1)


@pytest.mark.slow
def test_training_samplers_and_likelihoods_run(tmp_path):
    start = torch.full((200, 2), 0.2)
    data = DISC.reflect(start, 0.15 * DISC.sample_noise(start, generator=generator()))
    options = {"width": 32, "depth": 2, "steps": 20, "batch_size": 64}
    model = ReflectedDiffusion(DISC, **options).fit(data, progress=False)
    for sampler in (EulerMaruyama, PredictorCorrector, AnnealedLangevin, AnnealedReflected, Heun, Multistep):
        x = sampler(model.sde_, model.score_, steps=6).sample(32, generator=generator()).x
        assert DISC.contains(x).all()
    x = ProbabilityFlow(model.sde_, model.score_, rtol=1e-2, atol=1e-2).sample(32, generator=generator()).x
    assert DISC.contains(x).all()
    assert elbo(model.sde_, model.score_, data[:4], draws=2, generator=generator()).value.isfinite().all()
    for loss in ("implicit", "sliced"):
        other = ReflectedDiffusion(DISC, loss=loss, **options).fit(data, progress=False)
        assert DISC.contains(other.sample(8, steps=5)).all()
    model.save(tmp_path / "run")
    again = ReflectedDiffusion.load(tmp_path / "run")
    assert again.domain == DISC
    torch.testing.assert_close(again.log_prob(data[:3]), model.log_prob(data[:3]))
