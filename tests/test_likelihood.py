"""Log-densities against laws that are known: mixtures of noised atoms, Gaussians, single atoms of a flow."""

import functools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from constrained_diffusion import (
    Ball,
    DomainError,
    Euclidean,
    Hypercube,
    Polytope,
    Product,
    RectifiedFlow,
    ReflectedDiffusion,
    ReflectedSDE,
    Simplex,
    SolverError,
    bits_per_dim,
    dequantise,
    elbo,
    log_prob,
)
from tests import references as ref
from tests.mixtures import Atoms
from tests.references_ball import ball_log_prob_and_score_float64

F64 = torch.float64
Z = 4.5
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
CLOSE = 1e-2  # nats: what the prior's distance from uniform, 1e-3, and the solver leave is a third of it
BOX = Hypercube(2, [-1.0, 0.0], [2.0, 0.5])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def law_in(domain, least):
    """Three atoms, one of them on the wall."""
    atoms = domain.sample_uniform(3, generator=seeded(1), dtype=F64)
    distance, normal = domain.boundary(atoms[:1])
    atoms[:1] = domain.project(atoms[:1] - distance.reshape(-1, *(1,) * len(domain.event_shape)) * normal)
    return Atoms(ReflectedSDE(domain, least), atoms, WEIGHTS)


def draws(law, n, seed=0):
    """Points of the law at the least noise."""
    return law.sde.domain.noise(law.draw(n, seeded(seed)), law.sde.sigma_min, generator=seeded(seed + 1))


def kernel(domain, x, x0, sigma):
    """Log-density of the heat kernel by the references of the domains' own tests, rows of numpy."""
    if isinstance(domain, Hypercube):
        low, high = (b.numpy() for b in domain.bounding_box)
        return ref.box_kernel(x, x0, sigma, low, high)[0]
    if isinstance(domain, Ball):
        far = ((x - x0) ** 2).sum(-1) > 30 * sigma**2  # beyond the series' precision, and of no weight
        unit = [
            -math.inf if skip else ball_log_prob_and_score_float64(a, b, sigma / domain.radius, domain.d)[0]
            for a, b, skip in zip(x / domain.radius, x0 / domain.radius, far, strict=True)
        ]
        return np.array(unit) - domain.d * math.log(domain.radius)
    if domain.metric == "euclidean":
        return ref.triangle_kernel(x, x0, sigma)[0]
    return ref.cumulative_kernel(x, x0, sigma)[0]


def reference(law, x):
    """Log-density ``[n]`` of the law at the least noise, without the library's kernels."""
    domain, sigma = law.sde.domain, law.sde.sigma_min
    rows = x.numpy()
    terms = [kernel(domain, rows, np.broadcast_to(a, rows.shape), sigma) for a in law.points.numpy()]
    return torch.as_tensor(np.logaddexp.reduce(np.stack(terms) + law.weights.log().numpy()[:, None], 0))


# ---------------------------------------------------------------------- the exact flow


@pytest.mark.parametrize(
    ("domain", "least", "n", "options"),
    [
        (Hypercube(1), 0.05, 40, {}),
        (BOX, 0.05, 20, {}),
        (Simplex(3), 0.05, 25, {}),
        (Simplex(3), 0.05, 25, {"divergence": "differences", "rtol": 1e-4, "atol": 1e-4}),
        (Simplex(4), 0.08, 5, {"divergence": "differences", "rtol": 1e-5, "atol": 1e-5}),
        (Ball(2, 2.0), 0.3, 30, {"divergence": "differences", "rtol": 1e-4, "atol": 1e-4}),
    ],
    ids=str,
)
def test_exact_score_gives_the_density(domain, least, n, options):
    law = law_in(domain, least)
    x = draws(law, n)
    expected = reference(law, x)
    found = log_prob(law.sde, law.score, x, **options)
    assert float((found.value - expected).abs().max()) < CLOSE
    assert float(expected.std()) > 0.3
    assert found.standard_error.tolist() == [0.0] * n
    assert found.latent.shape == x.shape
    assert domain.contains(found.latent).all()
    assert found.nfe > 10


class Gaussian:
    """Normal data ``N(mean, std^2)`` in R^d, any std for each coordinate, and their exact score."""

    def __init__(self, sde, mean, std):
        self.sde, self.mean, self.std = sde, torch.as_tensor(mean, dtype=F64), torch.as_tensor(std, dtype=F64)

    def scale(self, sigma):
        return (self.std**2 + torch.as_tensor(sigma, dtype=F64).unsqueeze(-1) ** 2).sqrt()

    def score(self, x, t):
        return (self.mean - x) / self.scale(self.sde.sigma(t)) ** 2

    def log_prob(self, x, sigma):
        return torch.distributions.Normal(self.mean, self.scale(sigma)).log_prob(x).sum(-1)

    def carried(self, x):
        """Log-density at time 0 of what the flow makes of the prior N(0, sigma_max^2): a normal law as well."""
        shrink = self.scale(self.sde.sigma_min) / self.scale(self.sde.sigma_max)
        law = torch.distributions.Normal(self.mean * (1 - shrink), shrink * self.sde.sigma_max)
        return law.log_prob(x).sum(-1)

    def draw(self, n, seed=0):
        z = torch.randn(n, len(self.mean), generator=seeded(seed), dtype=F64)
        return self.mean + self.scale(self.sde.sigma_min) * z


def test_gaussian():
    """What the flow makes of the prior is known in closed form, though the prior is not the law at time 1."""
    for most, close in ((1000.0, CLOSE), (1.5, math.inf)):
        law = Gaussian(ReflectedSDE(Euclidean(2), 0.1, most), [1.0, -0.5], [0.7, 2.0])
        x = law.draw(50)
        value = log_prob(law.sde, law.score, x).value
        torch.testing.assert_close(value, law.carried(x), atol=1e-3, rtol=0)
        assert float((value - law.log_prob(x, 0.1)).abs().max()) < close
    assert float((value - law.log_prob(x, 0.1)).abs().max()) > 0.3


FLOWS = [
    Hypercube(1, -2.0, 1.0),
    BOX,
    Hypercube((2, 5)),
    Simplex(4),
    Ball(3, 2.0),
    Simplex(3),
    Polytope([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], [1.0, 0.0, 0.0]),
    Product(Hypercube(1, 0.0, 3.0), Simplex(4, "cumulative"), Ball(2)),
]


WAYS = [("exact", d) for d in FLOWS] + [("hutchinson", d) for d in FLOWS] + [("differences", d) for d in FLOWS[1:-1:2]]


@pytest.mark.parametrize(("divergence", "domain"), WAYS, ids=str)
def test_flow_to_one_atom(divergence, domain):
    """Straight lines to an atom: all is uniform over the domain shrunk towards it, at every time."""
    flow = RectifiedFlow(domain, sigma_min=0.01 * domain.inradius)
    atom, ends = (domain.sample_uniform(n, generator=seeded(n), dtype=F64) for n in (1, 6))
    x = atom + 0.01 * (ends - atom)

    def velocity(y, t):
        return (y - atom) / flow.expand(flow.sigma(t) / flow.sigma_max)

    found = log_prob(flow, velocity, x, divergence=divergence, probes=3, generator=seeded())
    expected = torch.full((6,), -domain.log_volume - domain.dim * math.log(0.01), dtype=F64)
    torch.testing.assert_close(found.value, expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(found.latent, ends, atol=1e-3, rtol=0)
    assert float(found.standard_error.max()) < 1e-9, "every probe of a multiple of the identity says the same"


def test_flow_of_uniform_data():
    """On the way, x is the mean of two independent uniform numbers: a trapezoid, and the mean velocity is known."""
    flow = RectifiedFlow(Hypercube(1), sigma_min=0.05)

    def velocity(x, t):
        r = flow.expand(flow.sigma(t) / flow.sigma_max).clamp(max=1 - 1e-12)
        low, high = ((x - r) / (1 - r)).clamp(min=0), (x / (1 - r)).clamp(max=1)  # where the data may have been
        return (x - (low + high) / 2) / r

    x = torch.tensor([0.01, 0.03, 0.06, 0.3, 0.5, 0.96], dtype=F64)[:, None]
    expected = (torch.minimum(x, 1 - x) / 0.1).clamp(max=1)[:, 0] / 0.9  # trapezoid of feet r = 0.1
    value = log_prob(flow, velocity, x).value
    torch.testing.assert_close(value, expected.log(), atol=CLOSE, rtol=0)


def test_gaussian_flow():
    """Rectified flow between two normal laws, in closed form."""
    mean, std, most = 0.8, 0.6, 3.0
    flow = RectifiedFlow(Euclidean(1), sigma_max=most)

    def velocity(x, t):
        r = flow.expand(flow.sigma(t) / most)
        variance = ((1 - r) * std) ** 2 + (r * most) ** 2
        return (r * most**2 - (1 - r) * std**2) / variance * (x - (1 - r) * mean) - mean

    x = mean + std * torch.randn(30, 1, generator=seeded(), dtype=F64)
    share = 1e-3
    spread = math.hypot((1 - share) * std, share * most)
    expected = torch.distributions.Normal((1 - share) * mean, spread).log_prob(x)[:, 0]
    torch.testing.assert_close(log_prob(flow, velocity, x).value, expected, atol=1e-4, rtol=0)


# ---------------------------------------------------------------------- the bound


DRAWS = 32
LINE_MOST = 25.0


def bounded():
    """Laws, and how many points of each: enough for the errors of the means to be seen."""
    gaussian = Gaussian(ReflectedSDE(Euclidean(1), 0.1, LINE_MOST), [0.5], [1.0])
    return {
        "interval": (law_in(Hypercube(1, 0.0, 2.0), 0.2), 3000),
        "disc": (law_in(Ball(2), 0.15), 200),
        "triangle": (law_in(Simplex(3), 0.1), 400),
        "line": (gaussian, 4000),
    }


BOUNDED = bounded()


@functools.cache
def points_and_density(name):
    law, n = BOUNDED[name]
    x = law.draw(n) if isinstance(law, Gaussian) else draws(law, n)
    return law, x, law.log_prob(x, torch.full((n,), law.sde.sigma_min, dtype=F64))


@functools.cache
def exact_bound(name):
    law, x, _ = points_and_density(name)
    return elbo(law.sde, law.score, x, draws=DRAWS, generator=seeded(7))


def mean_and_error(values):
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


@pytest.mark.parametrize("name", BOUNDED)
def test_elbo_of_the_exact_score_is_the_density(name):
    _, x, log_p = points_and_density(name)
    bound = exact_bound(name)
    assert bound.value.shape == bound.standard_error.shape == log_p.shape
    gap = bound.value - log_p
    mean, error = mean_and_error(gap)
    assert error < 0.08
    assert abs(mean) < Z * error
    assert abs(mean) < Z * float(bound.standard_error.square().sum().sqrt()) / len(x)
    stated = float(bound.standard_error.square().mean().sqrt() / gap.std())
    assert 0.8 < stated < 2.0, "honest: strata only lower the error"


@pytest.mark.parametrize(("name", "factor"), [("interval", 1.3), ("line", 1.3), *((name, 2.0) for name in BOUNDED)])
def test_elbo_of_a_wrong_score_is_lower_by_what_theory_says(name, factor):
    """In the mean by half the integral of the squared error, (c - 1)^2 times the gain of entropy for c times s."""
    law, x, log_p = points_and_density(name)
    n, options = len(x), {"draws": DRAWS, "generator": seeded(7)}
    wrong = elbo(law.sde, lambda y, t: factor * law.score(y, t), x, **options).value
    mean, error = mean_and_error(exact_bound(name).value - wrong)  # of the same noised points
    if name == "line":
        gained = math.log((LINE_MOST**2 + 1) / (0.1**2 + 1)) / 2
    else:  # the law's entropy, estimated at these points
        gained = law.sde.domain.log_volume + float(log_p.mean())
        error = math.hypot(error, (factor - 1) ** 2 * float(log_p.std()) / math.sqrt(n))
    assert mean == pytest.approx((factor - 1) ** 2 * gained, abs=Z * error)
    assert mean > 5 * error
    below, error = mean_and_error(log_p - wrong)
    assert below > (5 * error if factor == 2.0 else -Z * error)


@pytest.mark.parametrize("name", ["interval", "triangle", "line"])
def test_elbo_of_a_pushed_score_is_lower(name):
    """A constant field, damped at walls, is added; by how much it must lower the bound is known on the line."""
    law, x, log_p = points_and_density(name)
    domain = law.sde.domain
    push = domain.tangent(x[:1], torch.linspace(1, 2, x.shape[-1], dtype=F64).expand(1, -1))

    def pushed(y, t):
        sigma = law.sde.sigma(t)
        return law.score(y, t) + domain.damp_normal(y, push.expand_as(y) / law.sde.expand(sigma), sigma)

    value = elbo(law.sde, pushed, x, draws=DRAWS, generator=seeded(7)).value
    mean, error = mean_and_error(exact_bound(name).value - value)
    assert mean > 5 * error
    if name == "line":  # half the integral of d sigma^2 / sigma^2
        assert mean == pytest.approx(math.log(LINE_MOST / 0.1), abs=Z * error)
    below, error = mean_and_error(log_p - value)
    assert below > 5 * error


def test_elbo_in_the_cumulative_metric():
    """Where targets are only right on average, and the metric is not that of the coordinates."""
    law = law_in(Simplex(4), 0.15)
    x = draws(law, 500)
    log_p = law.log_prob(x, torch.full((500,), 0.15, dtype=F64))
    mean, error = mean_and_error(elbo(law.sde, law.score, x, draws=16, generator=seeded(3)).value - log_p)
    assert abs(mean) < Z * error
    assert error < 0.1


def test_elbo_repeats_and_takes_conditions():
    sde = ReflectedSDE(Hypercube(1), 0.05)
    x = torch.rand(2, 3, 1, generator=seeded(), dtype=F64)
    centre = torch.full((2, 3, 1), 0.3, dtype=F64)

    def score(y, t, centre):
        assert centre.shape == y.shape
        assert t.shape == y.shape[:-1]
        return sde.domain.heat_kernel_score(y, centre, sde.sigma(t))

    first, again, other = (
        elbo(sde, score, x, condition={"centre": centre}, draws=4, generator=seeded(s)) for s in (0, 0, 1)
    )
    assert first.value.shape == (2, 3)
    assert torch.equal(first.value, again.value)
    assert not torch.equal(first.value, other.value)
    assert elbo(sde, score, x[0, 0], condition={"centre": centre[0, 0]}, draws=2).value.shape == ()
    with pytest.raises(ValueError, match="draws must be at least 2"):
        elbo(sde, score, x, draws=1)
    with pytest.raises(TypeError, match="elbo needs a ReflectedSDE, not a RectifiedFlow"):
        elbo(RectifiedFlow(Hypercube(1)), score, x)
    with pytest.raises(DomainError, match="x: .* lies outside"):
        elbo(sde, score, x + 2, condition={"centre": centre})


# ---------------------------------------------------------------------- bits, bins, units


def test_uniform_images_have_eight_bits():
    """Through everything: levels, dequantisation, a model whose law is uniform, bits."""
    domain = Hypercube((3, 4))
    sde = ReflectedSDE(domain)
    levels = torch.randint(256, (5, 3, 4), generator=seeded())
    x = dequantise(levels, generator=seeded(1)).double()
    found = log_prob(sde, lambda y, t: 0 * y, x, generator=seeded(2))
    torch.testing.assert_close(bits_per_dim(found.value, domain.dim), torch.full((5,), 8.0, dtype=F64))
    wide = Hypercube((3, 4), -1.0, 1.0)
    y = dequantise(levels, 256, -1.0, 1.0, generator=seeded(1)).double()
    found = log_prob(ReflectedSDE(wide), lambda y, t: 0 * y, y, generator=seeded(2))
    torch.testing.assert_close(bits_per_dim(found.value, 12, 2 / 256), torch.full((5,), 8.0, dtype=F64))


def test_bits_per_dim():
    """2 coordinates, 16 levels in [0, 1]: the density that gives each pair of levels the probability 2^-k."""
    for k in (1, 3, 8):
        density = torch.tensor([16.0**2 * 2.0**-k], dtype=F64)
        assert float(bits_per_dim(density.log(), 2, 1 / 16)) == pytest.approx(k / 2)
    nats = torch.tensor([[0.0, 3072 * math.log(2.0)]])
    assert bits_per_dim(nats, 3072)[0].tolist() == pytest.approx([8.0, 7.0])


@pytest.mark.parametrize(("bins", "low", "high"), [(256, 0.0, 1.0), (2, -1.0, 1.0), (7, 3.0, 17.0)])
def test_levels_stay_in_their_bins(bins, low, high):
    levels = torch.arange(bins).repeat(20_000 // bins)
    for given in (levels, levels.to(torch.uint8), levels.double()):
        x = dequantise(given, bins, low, high, generator=seeded(1))
        assert x.dtype == (F64 if given.dtype == F64 else torch.float32)
        place = (x.double() - low) / (high - low) * bins - levels
        assert float(place.min()) > -1e-4
        assert float(place.max()) < 1 + 1e-4
        assert float(x.max()) <= high
        assert float(x.min()) >= low
        assert stats.kstest(place.numpy(), "uniform").pvalue > ref.ALPHA
    assert torch.equal(dequantise(levels, bins, generator=seeded(1)), dequantise(levels, bins, generator=seeded(1)))


@pytest.mark.parametrize("bad", [[0, 256], [-1, 0], [0.5, 1.0], [math.nan, 1.0], [math.inf, 0.0]])
def test_what_is_no_level(bad):
    with pytest.raises(ValueError, match="levels must be whole numbers from 0 to 255"):
        dequantise(torch.tensor(bad))


@pytest.mark.parametrize("scale", [1e-3, 40.0])
def test_units(scale):
    """Densities change by the Jacobian, and the solver's tolerances with the units."""
    small, large = (law_in(Hypercube(2, 0.0, size), 0.1 * size) for size in (1.0, scale))
    x = draws(small, 20)
    before, after = (
        log_prob(law.sde, law.score, y, rtol=1e-4, atol=1e-4) for law, y in ((small, x), (large, scale * x))
    )
    torch.testing.assert_close(after.value, before.value - 2 * math.log(scale), atol=1e-5, rtol=0)
    torch.testing.assert_close(after.latent, scale * before.latent, atol=1e-6 * scale, rtol=0)
    assert after.nfe == before.nfe


# ---------------------------------------------------------------------- models


def blobs(domain, n, seed=0):
    x = domain.sample_uniform(2, generator=seeded(4), dtype=F64)[torch.arange(n) % 2]
    return domain.reflect(x, 0.3 * domain.inradius * domain.sample_noise(x, generator=seeded(seed)))


def total(model, nodes, weights):
    """Integral of the model's density."""
    return float(np.exp(model.log_prob(nodes).astype(float)) @ weights)


@pytest.fixture(scope="module")
def on_the_interval():
    model = ReflectedDiffusion(Hypercube(1), width=32, depth=1, steps=250, batch_size=128, sigma_min=0.05)
    return model.fit(blobs(Hypercube(1), 1000).numpy(), progress=False)


def test_a_model_has_mass_one(on_the_interval):
    nodes, weights = ref.box_quadrature(1, 80)
    values = on_the_interval.log_prob(nodes)
    assert values.std() > 0.5
    assert total(on_the_interval, nodes, weights) == pytest.approx(1.0, abs=0.01)


def test_a_flow_has_mass_one():
    model = ReflectedDiffusion(Hypercube(1), process="flow", width=32, depth=1, steps=250, batch_size=128)
    model.sigma_min = 0.02
    model.fit(blobs(Hypercube(1), 1000).numpy(), progress=False)
    assert total(model, *ref.box_quadrature(1, 80)) == pytest.approx(1.0, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("domain", [Hypercube(2), Simplex(3)], ids=str)
def test_a_model_of_two_dimensions_has_mass_one(domain):
    nodes, weights = ref.simplex_quadrature(3, 40) if isinstance(domain, Simplex) else ref.box_quadrature(2, 40)
    model = ReflectedDiffusion(domain, width=64, depth=2, steps=500, batch_size=256, sigma_min=0.1 * domain.inradius)
    model.fit(blobs(domain, 2000).numpy(), progress=False)
    assert model.log_prob(nodes).std() > 0.5
    assert total(model, nodes, weights) == pytest.approx(1.0, abs=0.01)


def test_estimator_returns_the_kind_it_is_given(on_the_interval):
    x = np.linspace(0.05, 0.95, 4)[:, None]
    values = on_the_interval.log_prob(x)
    assert isinstance(values, np.ndarray)
    assert values.dtype == np.float64
    single = on_the_interval.log_prob(torch.as_tensor(x).float(), batch_size=3)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), values, atol=CLOSE)
    again = log_prob(on_the_interval.sde_, on_the_interval.score_, torch.as_tensor(x).float()).value
    np.testing.assert_allclose(again.numpy(), values, atol=1e-5)
    random = on_the_interval.log_prob(x, divergence="hutchinson", probes=2)
    np.testing.assert_allclose(random, values, atol=CLOSE)  # in one dimension every probe is right
    with pytest.raises(DomainError, match="x: at row 0"):
        on_the_interval.log_prob(x + 3)


# ---------------------------------------------------------------------- shapes, conditions, errors


@pytest.mark.parametrize("batch", [(), (2, 3), (0,), (4, 0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_shapes_and_conditions(batch, dtype):
    sde = ReflectedSDE(Hypercube((1, 2)), 0.2)
    x = torch.rand(*batch, 1, 2, generator=seeded(), dtype=dtype)
    centre = torch.rand(*batch, 1, 2, generator=seeded(1), dtype=dtype)

    def score(y, t, centre):
        assert t.shape == y.shape[:-2] == centre.shape[:-2]
        return sde.domain.heat_kernel_score(y, centre, sde.sigma(t))

    found = log_prob(sde, score, x, condition={"centre": centre})
    assert found.value.shape == found.standard_error.shape == batch
    assert found.value.dtype == found.latent.dtype == dtype
    assert found.latent.shape == x.shape
    expected = sde.domain.heat_kernel_log_prob(x, centre, 0.2)
    torch.testing.assert_close(found.value, expected, atol=CLOSE, rtol=0)
    assert not found.value.requires_grad


def test_what_cannot_be_computed():
    sde = ReflectedSDE(Hypercube(1), 0.1)
    x = torch.full((2, 1), 0.5, dtype=F64)
    for bad in (x + 1, x * math.nan, x * math.inf):
        with pytest.raises(DomainError, match="x: at row 0"):
            log_prob(sde, lambda y, t: 0 * y, bad)
    for how in ("exact", "hutchinson"):
        with pytest.raises(ValueError, match="carries no autograd graph"):
            log_prob(sde, lambda y, t: torch.ones_like(y), x, divergence=how)
        with pytest.raises(ValueError, match="carries no autograd graph"):
            log_prob(sde, lambda y, t: (0 * y).detach(), x, divergence=how)
    assert log_prob(sde, lambda y, t: torch.zeros_like(y), x, divergence="differences").value.tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="divergence must be .* not 'trace'"):
        log_prob(sde, lambda y, t: 0 * y, x, divergence="trace")
    with pytest.raises(SolverError, match="more than 20 evaluations"):
        log_prob(sde, law_in(Hypercube(1), 0.01).score, x, max_evaluations=20)
    with pytest.raises(ValueError, match=r"x has shape \[2, 2\]; expected \[\*batch, 1\]"):
        log_prob(sde, lambda y, t: 0 * y, torch.rand(2, 2))


@pytest.mark.parametrize("domain", [Ball(2), Product(Hypercube(1), Ball(2)), Simplex(3, "cumulative")], ids=str)
def test_a_score_that_is_not_wholly_differentiable_is_not_silently_integrated(domain):
    """Kernels without a graph, or with half of one: either the density, or an error, and no other number."""
    law = law_in(domain, 0.2 * domain.inradius)
    x = draws(law, 4)
    truth = law.log_prob(x, torch.full((4,), law.sde.sigma_min, dtype=F64))
    try:
        value = log_prob(law.sde, law.score, x, divergence="exact", rtol=1e-4, atol=1e-4).value
    except ValueError as error:
        assert "carries no autograd graph" in str(error)  # noqa: PT017
    else:
        assert float((value - truth).abs().max()) < CLOSE


def test_a_score_that_is_not_finite_is_said_to_be():
    sde = ReflectedSDE(Hypercube(2), 0.05)
    with pytest.raises(SolverError, match="the score is not finite where the flow begins"):
        log_prob(sde, lambda x, t: x / 0 * 0, torch.full((3, 2), 0.5))


def test_bits_of_no_dimension():
    with pytest.raises(ValueError, match="dim must be at least 1, not 0"):
        bits_per_dim(torch.zeros(2), 0)
