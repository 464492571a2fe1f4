"""Guidance by observations, linear or of single coordinates, against exact posteriors."""

import math

import pytest
import torch
from scipy import stats

from constrained_diffusion import (
    Ball,
    DomainError,
    Euclidean,
    EulerMaruyama,
    Hypercube,
    Inpainting,
    LinearInverse,
    Manifold,
    MetropolisDomain,
    Product,
    RectifiedFlow,
    ReflectedSDE,
    Region,
    ShapeError,
    Simplex,
    Sphere,
    Torus,
    log_prob,
)
from constrained_diffusion.domains.space_forms import quiet_geoopt
from tests import references as ref
from tests.guided import F64, normal, right_or_refused, seeded, zero
from tests.mixtures import Atoms

# ---------------------------------------------------------------------- observations of normal data

SPREAD, MEAN = 0.7, torch.tensor([0.3, -1.0, 0.5], dtype=F64)
MOST = 500.0


def gaussian():
    sde = ReflectedSDE(Euclidean(3), 0.01, MOST)

    def score(x, t):
        return (MEAN - x) / (SPREAD**2 + sde.sigma(t).unsqueeze(-1) ** 2)

    return sde, score


def posterior_score(x, sigma, A, y, noise):
    """Gradient of log p(x | y) where (x, y) are jointly normal; y without noise, and A of any rank."""
    cross, seen = SPREAD**2 * A.T, SPREAD**2 * A @ A.T + noise**2 * torch.eye(len(A), dtype=F64)
    gain = cross @ torch.linalg.pinv(seen, hermitian=True, rtol=1e-10)
    mean = MEAN + (y - A @ MEAN) @ gain.T
    covariance = (SPREAD**2 + sigma**2) * torch.eye(3, dtype=F64) - gain @ cross.T
    return torch.linalg.solve(covariance, (mean - x).unsqueeze(-1)).squeeze(-1)


MATRICES = {
    "one": torch.tensor([[1.0, -2.0, 0.5]], dtype=F64),
    "two": torch.tensor([[1.0, 0.0, 1.0], [0.3, 2.0, -1.0]], dtype=F64),
    "lower rank": torch.tensor([[1.0, 0.0, 1.0], [2.0, 0.0, 2.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]], dtype=F64),
    "all": torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 0.0, 3.0]], dtype=F64),
}


@pytest.mark.parametrize("noise", [0.0, 0.4])
@pytest.mark.parametrize("name", MATRICES)
def test_linear_observations_give_the_posterior_score(name, noise):
    """For isotropic normal data x0 given x is normal with the variance that is assumed: nothing is approximate."""
    sde, score = gaussian()
    A = MATRICES[name]
    truth = MEAN + SPREAD * normal(3, seed=4)
    y = A @ truth + noise * normal(len(A), seed=5)
    x = 2 * normal(4, 10, 3)
    t = torch.rand(4, 10, generator=seeded(1), dtype=F64)
    guided = LinearInverse(sde, score, A, y, noise=noise, spread=SPREAD)
    sigma = sde.sigma(t)
    expected = torch.stack(
        [posterior_score(p, s, A, y, noise) for p, s in zip(x.reshape(-1, 3), sigma.flatten(), strict=True)]
    ).reshape(x.shape)
    torch.testing.assert_close(guided(x, t) * sigma.unsqueeze(-1), expected * sigma.unsqueeze(-1), atol=1e-6, rtol=1e-6)
    quick = LinearInverse(sde, score, A, y, noise=noise, spread=SPREAD, jacobian=False)
    torch.testing.assert_close(quick(x, t), guided(x, t), atol=1e-8, rtol=1e-8)
    half = LinearInverse(sde, score, A, y, noise=noise, spread=SPREAD, weight=0.5)
    torch.testing.assert_close(half(x, t), (guided(x, t) + score(x, t)) / 2)


def test_one_observation_for_each_point():
    sde, score = gaussian()
    A, x, t = MATRICES["two"], normal(4, 3, 3), torch.full((4, 3), 0.4, dtype=F64)
    y = normal(4, 3, 2, seed=3)
    all_at_once = LinearInverse(sde, score, A, y, noise=0.1)(x, t)
    one_by_one = [LinearInverse(sde, score, A, v, noise=0.1)(p, t[0, 0]) for p, v in zip(x[1], y[1], strict=True)]
    torch.testing.assert_close(all_at_once[1], torch.stack(one_by_one))


def test_spread_is_that_of_the_prior_unless_given():
    square = ReflectedSDE(Hypercube((2, 2), 0.0, 3.0))
    everything = torch.ones(2, 2, dtype=torch.bool)
    assert Inpainting(square, zero, everything, torch.zeros(2, 2)).spread == pytest.approx(math.sqrt(9 / 12), rel=0.03)
    # A part of three varies by (n - 1) / (n^2 (n + 1)) = 1/18; of the plane's two dimensions each by 3/36.
    found = LinearInverse(ReflectedSDE(Simplex(3)), zero, torch.eye(3), torch.ones(3) / 3).spread
    assert found == pytest.approx(math.sqrt(1 / 12), rel=0.03)
    assert LinearInverse(gaussian()[0], zero, torch.eye(3), torch.ones(3)).spread == pytest.approx(MOST, rel=0.03)


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("jacobian", [True, False])
def test_inpainting_is_an_observation_of_coordinates(noise, jacobian):
    sde, score = gaussian()
    options = {"noise": noise, "spread": SPREAD, "jacobian": jacobian, "weight": 0.8}
    x, t = normal(5, 3), torch.rand(5, generator=seeded(1), dtype=F64)
    mask = torch.tensor([True, False, True])
    values = torch.tensor([0.2, math.nan, -0.4], dtype=F64).nan_to_num(99.0)  # what is not known is not used
    painted = Inpainting(sde, score, mask, values, **options)(x, t)
    rows = torch.eye(3, dtype=F64)[mask]
    torch.testing.assert_close(painted, LinearInverse(sde, score, rows, values[mask], **options)(x, t))


def test_known_values_are_in_the_units_of_the_domain():
    sde, mask = ReflectedSDE(Hypercube((2, 2)), 0.05), torch.tensor([[True, False], [True, True]])
    values = torch.tensor([[0.3, 200.0], [1.0, 0.0]])  # what is not known is not looked at
    Inpainting(sde, zero, mask, values)
    for wrong in (200.0, -0.2, math.nan):
        with pytest.raises(DomainError, match=rf"values has {wrong:g} where .* coordinates from 0 to 1: bring it"):
            Inpainting(sde, zero, mask, torch.where(mask, torch.tensor([[0.3, 0.0], [wrong, 0.0]]), 0.0))
        if wrong == wrong:
            Inpainting(sde, zero, mask, torch.full((2, 2), wrong), noise=0.5)  # observations may
    for arguments in ((mask.numpy(), values), (mask, values.numpy())):
        with pytest.raises(TypeError, match="must be a torch.Tensor, not ndarray"):
            Inpainting(sde, zero, *arguments)


def crescent(x):
    return (x.norm(dim=-1) < 1) & ((x - x.new_tensor([0.4, 0.0])).norm(dim=-1) > 0.8)


def star():
    turn, reach = torch.arange(10, dtype=F64) * math.pi / 5, torch.tensor([1.0, 0.35], dtype=F64).repeat(5)
    return Region(torch.stack([reach * turn.cos(), reach * turn.sin()], -1))


SETS = {
    "shares": Simplex(3),
    "budget": Simplex(20),
    "ball": Ball(2),
    "globe": Sphere(2),
    "angles and shares": Product(Torus(2), Simplex(3)),
    "star": star(),
    "crescent": MetropolisDomain(2, crescent, -1.0, 1.0),
}
NOWHERE = [
    ("shares", [0.7, 0.5], 0.14),  # in the plane of shares: 0.2 / sqrt(2)
    ("budget", [0.4, 0.4, 0.3], 0.1 / math.sqrt(3)),
    ("ball", [0.9, 0.9], 0.9 * math.sqrt(2) - 1),
    ("globe", [0.9, 0.9], 0.9 * math.sqrt(2) - 1),
    ("angles and shares", [3.0, -1.0, 0.8, 0.8], 0.6 / math.sqrt(2)),
    ("star", [0.9, 0.3], None),
    ("crescent", [0.5, 0.0], None),
]


def some_known(domain, values):
    """The first coordinates of points, and which they are."""
    filled = torch.zeros(domain.event_shape, dtype=F64)
    filled[: len(values)] = torch.tensor(values, dtype=F64)
    return torch.arange(len(filled)) < len(values), filled


@pytest.mark.parametrize(("name", "values", "missed"), NOWHERE, ids=[name for name, _, _ in NOWHERE])
def test_known_values_that_no_point_has(name, values, missed):
    """Though each of them alone some point has: shares that sum to more than one, points beside the star's arms."""
    sde = ReflectedSDE(SETS[name])
    mask, filled = some_known(sde.domain, values)
    with pytest.raises(DomainError, match="has no point whose known coordinates are") as refused:
        Inpainting(sde, zero, mask, filled)
    if missed is not None:
        assert float(str(refused.value).split(" by ")[1].split(". ")[0]) == pytest.approx(missed, rel=0.05)
    Inpainting(sde, zero, mask, filled, noise=0.3)  # observations may
    good = sde.domain.sample_uniform(3, generator=seeded(), dtype=F64)
    with pytest.raises(DomainError, match=f"coordinates are {values[0]:g}, "):
        Inpainting(sde, zero, mask, torch.cat([good, filled[None]]))  # one of many
    many = torch.zeros(0, *sde.domain.event_shape, dtype=F64)
    Inpainting(sde, zero, mask, many)


@pytest.mark.parametrize("name", SETS)
def test_known_values_that_some_point_has(name):
    """Whatever the shape of the set, and though it is met by rays or in corners only."""
    sde = ReflectedSDE(SETS[name])
    points = sde.domain.sample_uniform(20, generator=seeded(), dtype=F64)
    for k in range(len(points[0]) + 1):
        mask = torch.arange(len(points[0])) < k
        Inpainting(sde, zero, mask, points)
    if name == "shares":
        for corner in ([0.5, 0.5], [1.0, 0.0], [0.0, 0.0, 1.0]):
            Inpainting(sde, zero, *some_known(sde.domain, corner))


def test_inpainting_with_a_mask_for_each_point():
    domain = Hypercube((2, 2))
    sde = ReflectedSDE(domain, 0.05)
    law = Atoms(sde, domain.sample_uniform(3, generator=seeded(), dtype=F64))
    x, t = torch.rand(4, 2, 2, generator=seeded(1), dtype=F64), torch.full((4,), 0.3, dtype=F64)
    mask, values = torch.rand(4, 2, 2, generator=seeded(2)) < 0.5, torch.rand(4, 2, 2, generator=seeded(3), dtype=F64)
    together = Inpainting(sde, law.score, mask, values)(x, t)
    for i in range(4):
        one = Inpainting(sde, law.score, mask[i], values[i])(x[i : i + 1], t[:1])
        torch.testing.assert_close(together[i : i + 1], one)
    nothing = Inpainting(sde, law.score, torch.zeros(2, 2, dtype=torch.bool), values)(x, t)
    torch.testing.assert_close(nothing, law.score(x, t))


# ---------------------------------------------------------------------- observations in the square


def on_the_square(least=0.02):
    """Coordinates that have nothing to do with each other: one uniform, the other two atoms; and the exact score."""
    sde = ReflectedSDE(Hypercube(2), least)
    other = Atoms(
        ReflectedSDE(Hypercube(1), least), torch.tensor([[0.0], [0.6]], dtype=F64), torch.tensor([0.35, 0.65])
    )

    def score(x, t):
        return torch.cat([0 * x[..., :1], other.score(x[..., 1:], t)], -1)

    return sde, score


@pytest.mark.parametrize("value", [0.1, 0.45])
def test_inpainting_of_one_coordinate_leaves_the_other(value):
    sde, score = on_the_square()
    guided = Inpainting(sde, score, torch.tensor([True, False]), torch.tensor([value, 0.0]), jacobian=False)
    n = 1000
    x, free = (
        EulerMaruyama(sde, s, steps=150, denoise=False).sample(n, generator=seeded(), dtype=F64).x
        for s in (guided, score)
    )
    torch.testing.assert_close(x[:, 1], free[:, 1], atol=1e-6, rtol=0)  # of the same noise

    def cdf(y):
        return 0.35 * ref.interval_cdf(y, 0.0, 0.02) + 0.65 * ref.interval_cdf(y, 0.6, 0.02)

    assert stats.kstest(x[:, 1].numpy(), cdf).statistic < 0.06
    assert float((x[:, 0] - value).abs().quantile(0.95)) < 3 * sde.sigma_min
    assert float((free[:, 0] - value).abs().median()) > 10 * sde.sigma_min


def near_origin(x):
    return 0.81 - x.square().sum(-1)


HYPERBOLIC = Manifold(quiet_geoopt().PoincareBall(), 2, near_origin)


@pytest.mark.parametrize(
    "domain",
    [Hypercube(2), Simplex(3), Simplex(3, "cumulative"), Simplex(6), Torus(2), Sphere(2), HYPERBOLIC],
    ids=lambda domain: str(domain)[:30],
)
def test_an_observation_is_as_sharp_as_the_noise_of_the_domain(domain):
    """Of uniform data, whose score is nil, far from walls: x0 given x is x plus the noise of the metric.

    On curved sets that is the noise of the metric at x itself, not elsewhere.
    So the derivative of what is observed, a . x0, along a unit move e of the domain is a . e; its variance sigma^2
    sum (a . e)^2; and the pull is what makes up for the difference, along the gradient.
    """
    sde = ReflectedSDE(domain, 0.01)
    x = domain.project(torch.full((1, *domain.event_shape), 1 / domain.event_shape.numel(), dtype=F64))
    a = torch.zeros(domain.event_shape, dtype=F64)
    a[: max(1, len(a) // 2)] = 1.0
    t, frame = torch.zeros(1, dtype=F64), domain.frame(x)
    along = (frame * a).sum(-1, keepdim=True)
    error = 0.02
    expected = (along * frame).sum(0) * error / (along**2).sum(0) / sde.sigma_min**2
    y = (x @ a)[0].detach() + error
    found = LinearInverse(sde, zero, a[None], y[None], spread=1e6)(x, t)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    if len(a) < 4:
        painted = Inpainting(sde, zero, a > 0, y.expand_as(a), spread=1e6)(x, t)
        torch.testing.assert_close(painted, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("domain", [Simplex(3), Simplex(6)], ids=str)
def test_a_sum_of_parts_is_met(domain):
    """To within a few sigma_min, where the data are uniform; and all parts stay parts."""
    sde = ReflectedSDE(domain, 0.02)
    a = (torch.arange(domain.n) < domain.n // 2).double()
    guided = LinearInverse(sde, zero, a[None], torch.tensor([0.4], dtype=F64), jacobian=False)
    x = EulerMaruyama(sde, guided, steps=100, denoise=False).sample(300, generator=seeded(), dtype=F64).x
    assert domain.contains(x).all()
    assert float((x @ a - 0.4).abs().quantile(0.95)) < 4.5 * sde.sigma_min


CASES = {"angles": Torus(2), "angles and shares": Product(Torus(2), Simplex(3)), "globe": Sphere(2)}


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("jacobian", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_observations_turn_with_what_is_observed(name, jacobian, noise):
    """Nothing is special where angles go round, or about any point of a sphere."""
    domain = CASES[name]
    sde = ReflectedSDE(domain, 0.05)
    mask = torch.zeros(domain.event_shape, dtype=torch.bool)
    mask[0 if name != "globe" else slice(None)] = True
    x = domain.sample_uniform(40, generator=seeded(), dtype=F64)
    law = domain.sample_uniform(3, generator=seeded(1), dtype=F64)
    t = torch.linspace(0, 0.7, 40, dtype=F64)
    turn = torch.zeros(domain.event_shape, dtype=F64)
    if name != "globe":
        turn[:2] = torch.tensor([3.0, -1.0])
    rotation = torch.linalg.qr(normal(3, 3, seed=2)).Q

    def turned(y):
        return y @ rotation.T if name == "globe" else domain.project(y + turn)

    found = []
    for change in (lambda y: y, turned):
        score = Atoms(sde, change(law)).score if jacobian else zero  # kernels are differentiable
        guided = Inpainting(sde, score, mask, change(law[:1])[0], noise=noise, jacobian=jacobian)
        found.append(guided(change(x), t))
    expected = found[0] @ rotation.T if name == "globe" else found[0]
    torch.testing.assert_close(found[1], expected, atol=1e-6 * float(expected.abs().max()), rtol=1e-6)


def test_a_point_of_the_sphere_is_met():
    """Wherever it is: not its mirror image in some plane."""
    sphere = Sphere(2)
    sde = ReflectedSDE(sphere, 0.02)
    for point in (*torch.eye(3, dtype=F64), torch.tensor([-0.6, 0.0, 0.8], dtype=F64)):
        guided = Inpainting(sde, zero, torch.ones(3, dtype=torch.bool), point)
        x = EulerMaruyama(sde, guided, steps=60).sample(100, generator=seeded(), dtype=F64).x
        assert float(sphere.logmap(point.expand_as(x), x).norm(dim=-1).max()) < 6 * sde.sigma_min


def test_denoised_points_lie_on_the_set():
    """At the ends of geodesics: a straight line would leave the disc in which hyperbolic points are drawn."""
    seen = []

    class Watched(LinearInverse):
        def error(self, denoised):
            seen.append(denoised.detach())
            return super().error(denoised)

    sde = ReflectedSDE(HYPERBOLIC, 0.05, 2.0)
    x = HYPERBOLIC.sample_uniform(20, generator=seeded(), dtype=F64)
    guided = Watched(sde, lambda y, t: 2 * y, torch.eye(2, dtype=F64)[:1], torch.tensor([0.5], dtype=F64))
    assert guided(x, torch.ones(20, dtype=F64)).isfinite().all()
    assert float(seen[0].norm(dim=-1).max()) < 1
    assert float((x + 2.0**2 * 2 * x).norm(dim=-1).max()) > 2


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_what_is_seen_a_thousand_times_less_sharply_is_seen(dtype):
    """Singular values of 1 and 0.001, and noise of 1e-5: both coordinates are known, to 1e-5 and 0.01."""
    sde, truth = ReflectedSDE(Hypercube(2)), torch.tensor([0.3, 0.7], dtype=dtype)
    A = torch.diag(torch.tensor([1.0, 1e-3], dtype=dtype))
    guided = LinearInverse(sde, zero, A, A @ truth, noise=1e-5)
    x = EulerMaruyama(sde, guided, steps=100).sample(500, generator=seeded(), dtype=dtype).x
    torch.testing.assert_close(x.mean(0), truth, atol=2e-3, rtol=0)
    assert float(x[:, 1].std()) < 0.015


@pytest.mark.parametrize("domain", [Hypercube(3), Simplex(3), Sphere(2)], ids=str)
def test_nothing_observed_changes_nothing(domain):
    sde = ReflectedSDE(domain, 0.05)
    x = domain.sample_uniform((2, 3), generator=seeded(), dtype=F64)
    t, law = torch.full((2, 3), 0.3, dtype=F64), Atoms(sde, x[0]).score
    guided = Inpainting(sde, lambda y, s: law(y.flatten(0, 1), s.flatten()).view_as(y), torch.zeros(3) > 0, x[0, 0])
    torch.testing.assert_close(guided(x, t), guided.score(x, t))
    assert guided(x[:0], t[:0]).shape == (0, 3, 3)


def test_observations_that_do_not_fit():
    sde, score = gaussian()
    x, t = normal(5, 3), torch.zeros(5, dtype=F64)
    with pytest.raises(ShapeError, match=r"A has shape \[2, 2\]; expected \[m, 3\]"):
        LinearInverse(sde, score, torch.ones(2, 2), torch.ones(2))
    with pytest.raises(ShapeError, match=r"y has shape \[3\]; expected \[2\]"):
        LinearInverse(sde, score, torch.ones(2, 3), torch.ones(3))
    with pytest.raises(ShapeError, match="mask has shape"):
        Inpainting(sde, score, torch.ones(2, dtype=torch.bool), torch.ones(3))
    with pytest.raises(ShapeError, match="values has shape"):
        Inpainting(sde, score, torch.ones(3, dtype=torch.bool), torch.ones(2))
    with pytest.raises(TypeError, match="mask must be of bool"):
        Inpainting(sde, score, torch.ones(3), torch.ones(3))
    for noise in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="noise must be finite and not negative"):
            LinearInverse(sde, score, torch.eye(3), torch.ones(3), noise=noise)
    with pytest.raises(TypeError, match="Inpainting needs a ReflectedSDE"):
        Inpainting(RectifiedFlow(Hypercube(3)), score, torch.ones(3, dtype=torch.bool), torch.ones(3))
    blind = LinearInverse(sde, lambda x, t: score(x, t).detach(), torch.eye(3), torch.ones(3))
    with pytest.raises(ValueError, match="pass jacobian=False"):
        blind(x, t)


# ---------------------------------------------------------------------- likelihoods


@pytest.mark.parametrize("jacobian", [True, False])
def test_likelihood_of_an_inverse_problem(jacobian):
    """Of normal data the guided law is the posterior, whose density at sigma_min is known."""
    sde, score = gaussian()
    A, y = MATRICES["two"], torch.tensor([0.5, -1.0], dtype=F64)
    guided = LinearInverse(sde, score, A, y, noise=0.4, spread=SPREAD, jacobian=jacobian)
    gain = SPREAD**2 * A.T @ torch.linalg.inv(SPREAD**2 * A @ A.T + 0.16 * torch.eye(2, dtype=F64))
    covariance = (SPREAD**2 + 1e-4) * torch.eye(3, dtype=F64) - SPREAD**2 * gain @ A
    law = torch.distributions.MultivariateNormal(MEAN + gain @ (y - A @ MEAN), covariance)
    x = law.mean + normal(6, 3) @ torch.linalg.cholesky(covariance).T
    options = {"rtol": 1e-4, "atol": 1e-4}
    expected = law.log_prob(x)
    found = log_prob(sde, guided, x, divergence="differences", **options).value
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=0)
    right_or_refused(expected, 2e-2, sde, guided, x, **options)


def test_likelihood_of_inpainting_on_the_square():
    """Where the damping of the pull has a graph though the pull itself has none."""
    sde = ReflectedSDE(Hypercube(2), 0.2)
    law = Atoms(sde, torch.tensor([[0.2, 0.3], [0.6, 0.8]], dtype=F64))
    guided = Inpainting(sde, law.score, torch.tensor([True, False]), torch.tensor([0.4, 0.0]), noise=0.2)
    x = torch.rand(3, 2, generator=seeded(), dtype=F64)
    options = {"rtol": 1e-4, "atol": 1e-4}
    expected = log_prob(sde, guided, x, divergence="differences", **options).value
    right_or_refused(expected, 2e-2, sde, guided, x, **options)
