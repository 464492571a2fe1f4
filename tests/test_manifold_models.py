"""Models on spheres, tori and caps: nothing in the machinery knows about manifolds, and everything works there."""

import functools
import math

import pytest
import torch

from constrained_diffusion import (
    AnnealedLangevin,
    AnnealedReflected,
    DiffusionFlow,
    EulerMaruyama,
    Heun,
    Manifold,
    Multistep,
    PredictorCorrector,
    ProbabilityFlow,
    ReflectedBridge,
    ReflectedDiffusion,
    ReflectedSDE,
    Sphere,
    SphericalPolytope,
    Torus,
    decode,
    elbo,
    encode,
    interpolate,
    log_prob,
)
from constrained_diffusion.domains.space_forms import quiet_geoopt
from constrained_diffusion.metrics import mmd

DOUBLE = torch.float64
CAP = SphericalPolytope.cap([0.0, 0.0, 1.0], 0.8)
TRIANGLE = SphericalPolytope.from_vertices([[1.0, 0.0, 0.0], [0.3, 1.0, 0.2], [0.5, 0.1, 1.0]])
HEMISPHERE = SphericalPolytope.cap([0.0, 0.0, 1.0], math.pi / 2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Mixture:
    """Data are draws of kernels of width ``start`` around two centres: everything about it is known."""

    def __init__(self, domain, centres, start=0.25, sigma_min=0.05):
        self.domain, self.start = domain, start
        self.centres = domain.project(torch.tensor(centres, dtype=DOUBLE))
        self.sde = ReflectedSDE(domain, sigma_min=sigma_min)

    def log_prob_at(self, x, sigma):
        total = (self.start**2 + sigma**2).sqrt()
        many = (x.unsqueeze(-2), self.centres.to(x), total.unsqueeze(-1))
        return torch.logsumexp(self.domain.heat_kernel_log_prob(*many), -1) - math.log(len(self.centres))

    def score(self, x, t):
        sigma = self.sde.sigma(t)
        total = (self.start**2 + sigma**2).sqrt().unsqueeze(-1)
        many = (x.unsqueeze(-2), self.centres.to(x), total.expand(*x.shape[:-1], len(self.centres)))
        chance = torch.softmax(self.domain.heat_kernel_log_prob(*many), -1)
        return (chance.unsqueeze(-1) * self.domain.heat_kernel_score(*many)).sum(-2)

    def draw(self, n, sigma, seed=0):
        which = torch.randint(len(self.centres), (n,), generator=generator(seed))
        total = math.hypot(self.start, sigma)
        return self.domain.sample_heat_kernel(self.centres[which], total, generator=generator(seed + 1))


GLOBE = Mixture(Sphere(2), [[1.0, 0.0, 0.2], [-0.5, 0.8, -0.3]])
HALF = Mixture(HEMISPHERE, [[1.0, 0.0, 0.1], [-0.5, 0.4, 0.8]])
ANGLES = Mixture(Torus(2), [[3.0, 0.0], [-1.0, 2.5]])
CASES = [
    pytest.param(GLOBE, id="globe"),
    pytest.param(HALF, id="hemisphere", marks=pytest.mark.slow),
    pytest.param(ANGLES, id="torus"),
]

# ---------------------------------------------------------------------- likelihood


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("divergence", ["exact", pytest.param("differences", marks=pytest.mark.slow)])
def test_log_density_of_an_exact_score(case, divergence):
    x = case.draw(12, 0.05, seed=3)
    expected = case.log_prob_at(x, torch.full((12,), 0.05, dtype=DOUBLE))
    found = log_prob(case.sde, case.score, x, divergence=divergence)
    torch.testing.assert_close(found.value, expected, rtol=0, atol=1e-2)
    assert case.domain.contains(found.latent, atol=1e-12).all()


def test_hutchinson_is_unbiased_on_the_globe():
    """Probes are carried along the flow; left where they were they would count the wrong plane."""
    x = GLOBE.draw(24, 0.05, seed=3)
    expected = GLOBE.log_prob_at(x, torch.full((24,), 0.05, dtype=DOUBLE))
    options = {"divergence": "hutchinson", "probes": 6, "rtol": 1e-4, "atol": 1e-4}
    found = log_prob(GLOBE.sde, GLOBE.score, x, generator=generator(), **options)
    off = found.value - expected
    error = float(found.standard_error.square().mean().sqrt()) / math.sqrt(len(x))
    assert float(off.mean().abs()) < 4.5 * error + 1e-3
    assert error < 0.1


def test_bound_is_tight_for_an_exact_score():
    x = GLOBE.draw(10, 0.05, seed=5)
    expected = GLOBE.log_prob_at(x, torch.full((10,), 0.05, dtype=DOUBLE))
    bound = elbo(GLOBE.sde, GLOBE.score, x, draws=150, generator=generator())
    z = (bound.value - expected) / bound.standard_error
    assert float(z.abs().max()) < 5


@pytest.mark.parametrize("case", CASES)
def test_flow_there_and_back(case):
    x = case.draw(6, 0.05, seed=7)
    latent = encode(case.sde, case.score, x)
    assert case.domain.contains(latent, atol=1e-12).all()
    back = decode(case.sde, case.score, latent)
    assert float(case.domain.logmap(x, back).norm(dim=-1).max()) < 1e-3
    path = interpolate(case.sde, case.score, x[:2], x[2:4], steps=5)
    assert case.domain.contains(path, atol=1e-12).all()


# ---------------------------------------------------------------------- samplers

SAMPLERS = [
    pytest.param(lambda c: EulerMaruyama(c.sde, c.score, steps=120), 2.0, id="euler"),
    pytest.param(lambda c: PredictorCorrector(c.sde, c.score, steps=60), 2.0, id="predictor-corrector"),
    pytest.param(lambda c: AnnealedReflected(c.sde, c.score, steps=120), 2.0, id="DDIM"),
    pytest.param(lambda c: AnnealedReflected(c.sde, c.score, steps=120, eta=1.0), 2.0, id="ancestral"),
    pytest.param(lambda c: Heun(c.sde, c.score, steps=40), 1.7, id="heun"),
    pytest.param(lambda c: Heun(c.sde, c.score, steps=40, midpoint=True), 1.7, id="midpoint"),
    pytest.param(lambda c: Multistep(c.sde, c.score, steps=60), 1.7, id="multistep"),
    pytest.param(lambda c: AnnealedLangevin(c.sde, c.score, steps=40), 3.0, id="langevin"),
    pytest.param(lambda c: ProbabilityFlow(c.sde, c.score), 1.7, id="flow"),
    pytest.param(lambda c: ReflectedBridge(c.sde, c.score, steps=40), 2.5, id="bridge"),
]


@pytest.mark.parametrize(
    "case",
    [CASES[0], *(pytest.param(*c.values, id=c.id, marks=pytest.mark.slow) for c in CASES[1:])],
)
@pytest.mark.parametrize(("build", "allowed"), SAMPLERS)
def test_samplers_reach_the_law(case, build, allowed):
    n = 400
    x = build(case).sample(n, generator=generator(), dtype=DOUBLE).x
    assert case.domain.contains(x, atol=1e-12).all()

    def embedded(points):
        return torch.cat([points.sin(), points.cos()], -1) if case is ANGLES else points

    data = embedded(case.draw(n, 0.0, seed=11))
    floor = float(mmd(embedded(case.draw(n, 0.0, seed=13)), data, bandwidth=0.5))
    assert float(mmd(embedded(x), data, bandwidth=0.5)) < allowed * max(floor, 0.04)


@pytest.mark.parametrize("midpoint", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_second_order_on_the_globe(midpoint):
    latent = Sphere(2).sample_uniform(30, generator=generator(), dtype=DOUBLE)
    exact = decode(GLOBE.sde, GLOBE.score, latent, rtol=1e-9, atol=1e-9)
    errors = []
    for steps in (20, 40, 80):
        walk = Heun(GLOBE.sde, GLOBE.score, steps=steps, midpoint=midpoint, denoise=False)
        errors.append(float((walk.sample(30, latent=latent).x - exact).norm(dim=-1).mean()))
    assert errors[0] / errors[1] > 3
    assert errors[1] / errors[2] > 3


def near_origin(x):
    return 0.81 - x.square().sum(-1)


HYPERBOLIC = Manifold(quiet_geoopt().PoincareBall(), 2, near_origin)


def swirl(x, t):
    """A smooth field on the hyperbolic disc, whose coordinates are not straight."""
    field = torch.stack([(3 * x[..., 0] + 1).sin(), (2 * x[..., 1]).cos()], -1)
    return 0.3 * field * (1 + t.unsqueeze(-1))


@pytest.mark.parametrize("kind", [Heun, functools.partial(Heun, midpoint=True), Multistep], ids=str)
def test_second_order_where_coordinates_are_curved(kind):
    """Slopes of different points are compared where they belong to one: a mean of coordinates is of first order."""
    sde = ReflectedSDE(HYPERBOLIC, 0.3, 1.0)
    latent = 0.4 * HYPERBOLIC.sample_uniform(30, generator=generator(), dtype=DOUBLE)
    exact = decode(sde, swirl, latent, rtol=1e-9, atol=1e-9)
    errors = [
        float((kind(sde, swirl, steps=steps, denoise=False).sample(30, latent=latent).x - exact).norm(dim=-1).mean())
        for steps in (20, 40, 80)
    ]
    assert errors[0] / errors[1] > 3.5
    assert errors[1] / errors[2] > 3.5


def test_away_from_walls_it_does_not_matter_how_they_are_met():
    sde = ReflectedSDE(HYPERBOLIC, 0.02, 0.1)
    latent = 0.4 * HYPERBOLIC.sample_uniform(30, generator=generator(), dtype=DOUBLE)
    reflected, projected = (
        EulerMaruyama(sde, swirl, boundary=how, steps=10).sample(30, latent=latent, generator=generator()).x
        for how in ("reflect", "project")
    )
    torch.testing.assert_close(projected, reflected, atol=1e-9, rtol=0)


# ---------------------------------------------------------------------- training


@pytest.mark.parametrize(
    "domain",
    [
        pytest.param(Sphere(2), id="globe"),
        pytest.param(Sphere(3), id="three-sphere", marks=pytest.mark.slow),
        pytest.param(Torus(2), id="torus"),
        pytest.param(CAP, id="cap"),
        pytest.param(TRIANGLE, id="triangle", marks=pytest.mark.slow),
    ],
)
def test_training_and_sampling_stay_inside(domain, tmp_path):
    centre = domain.sample_uniform(1, generator=generator(), dtype=DOUBLE)
    many = centre.expand(400, *domain.event_shape)
    data = domain.reflect(many, 0.15 * domain.sample_noise(many, generator=generator(2)))
    model = ReflectedDiffusion(domain, width=32, depth=1, steps=100, batch_size=128).fit(data)
    x = model.sample(200, steps=40)
    assert x.dtype == data.dtype
    assert domain.contains(x, atol=1e-6).all()
    near = domain.logmap(centre.expand_as(x), x).norm(dim=-1)
    uniform = domain.sample_uniform(200, generator=generator(1), dtype=DOUBLE)
    assert float(near.median()) < 0.8 * float(domain.logmap(centre.expand_as(uniform), uniform).norm(dim=-1).median())
    assert torch.isfinite(model.log_prob(x[:3], rtol=1e-3, atol=1e-3)).all()
    model.save(tmp_path / "run")
    again = ReflectedDiffusion.load(tmp_path / "run")
    assert again.domain == domain


def test_flow_matching_on_the_globe():
    data = GLOBE.draw(400, 0.0)
    model = ReflectedDiffusion(Sphere(2), width=32, depth=1, steps=60, process="flow").fit(data)
    assert isinstance(model.sde_, DiffusionFlow)
    assert Sphere(2).contains(model.sample(50, steps=20), atol=1e-6).all()


def test_samplers_do_not_know_where_angles_go_round():
    """A law turned by an angle is sampled from latents turned by it as the law itself, whatever lies at pi."""
    centres = torch.tensor([[0.4, -0.3], [-0.5, 0.2]], dtype=DOUBLE)
    latent = Torus(2).sample_uniform(50, generator=generator(), dtype=DOUBLE)
    ends = []
    for turn in (0.0, math.pi):
        law = Mixture(Torus(2), (centres + turn).tolist(), 0.1)
        x = Multistep(law.sde, law.score, steps=12).sample(50, latent=Torus(2).project(latent + turn)).x
        ends.append(Torus(2).project(x - turn))
    off = Torus(2).difference(*ends)
    torch.testing.assert_close(off, torch.zeros_like(off), atol=1e-9, rtol=0)
