"""The textbooks' processes as reflected diffusions over R^d: drifts, diffusions, and the laws of Gaussian data."""

import functools
import itertools
import math

import numpy as np
import pytest
import torch

from constrained_diffusion import (
    AnnealedLangevin,
    AnnealedReflected,
    CosineSchedule,
    DiscreteSchedule,
    EDMSchedule,
    Euclidean,
    EulerMaruyama,
    GeometricSchedule,
    Heun,
    KarrasGrid,
    Multistep,
    PredictorCorrector,
    ProbabilityFlow,
    ReflectedBridge,
    ReflectedSDE,
    SubVariancePreservingSchedule,
    TextbookSDE,
    VariancePreservingSchedule,
    from_denoiser,
    from_noise,
    from_velocity,
)
from tests.textbook import HIGH, LOW, SIZE, TIMES, normal, over_r, seeded

# ------------------------------------------------------------------ drift and diffusion


@pytest.mark.parametrize("start", [1e-3, 0.2])
def test_vp_is_dz_equal_minus_half_beta_z_dt_plus_root_beta_dw(start):
    """Song et al. 2021, equation 11; the time here runs from `start`, so that both are per 1 - start of theirs."""
    sde = over_r(VariancePreservingSchedule(LOW, HIGH, start))
    book = TextbookSDE(sde)
    tau = start + (1 - start) * TIMES
    beta = LOW + tau * (HIGH - LOW)
    z = normal(12, SIZE)
    torch.testing.assert_close(book.drift(z, TIMES), (1 - start) * (-beta[:, None] * z / 2), rtol=1e-9, atol=0)
    torch.testing.assert_close(book.diffusion(TIMES), ((1 - start) * beta).sqrt(), rtol=1e-9, atol=0)
    B = LOW * tau + tau**2 / 2 * (HIGH - LOW)
    mean, deviation = book.marginal(z, TIMES)
    torch.testing.assert_close(mean, torch.exp(-B / 2)[:, None] * z, rtol=1e-10, atol=0)
    torch.testing.assert_close(deviation, (1 - torch.exp(-B)).sqrt(), rtol=1e-9, atol=0)


def test_sub_vp_has_the_drift_of_vp_and_less_diffusion():
    """Song et al. 2021, equation 28: g^2 = beta (1 - exp(-2 int beta))."""
    start = 1e-3
    book = TextbookSDE(over_r(SubVariancePreservingSchedule(LOW, HIGH, start)))
    tau = start + (1 - start) * TIMES
    beta, B = LOW + tau * (HIGH - LOW), LOW * tau + tau**2 / 2 * (HIGH - LOW)
    z = normal(12, SIZE)
    torch.testing.assert_close(book.drift(z, TIMES), (1 - start) * (-beta[:, None] * z / 2), rtol=1e-9, atol=0)
    square = (1 - start) * beta * (1 - torch.exp(-2 * B))
    torch.testing.assert_close(book.diffusion(TIMES) ** 2, square, rtol=1e-8, atol=0)
    torch.testing.assert_close(book.marginal(z, TIMES)[1], 1 - torch.exp(-B), rtol=1e-9, atol=0)


def test_ve_has_no_drift():
    """Song et al. 2021, equation 30."""
    book = TextbookSDE(over_r(GeometricSchedule(0.01, 50.0)))
    z = normal(12, SIZE)
    assert torch.equal(book.drift(z, TIMES), torch.zeros_like(z))
    g = 0.01 * 5000.0**TIMES * math.sqrt(2 * math.log(5000.0))
    torch.testing.assert_close(book.diffusion(TIMES), g, rtol=1e-10, atol=0)
    mean, deviation = book.marginal(z, TIMES)
    assert torch.equal(mean, z)
    torch.testing.assert_close(deviation, 0.01 * 5000.0**TIMES, rtol=1e-12, atol=0)


def test_cosine_rate_is_a_tangent():
    """-d log cos^2(a(t)) / dt = 2 a' tan a, variance-preserving: f = -beta / 2, g^2 = beta."""
    offset, start = 0.008, 1e-3
    book = TextbookSDE(over_r(CosineSchedule(offset, start)))
    tau = start + (1 - 2 * start) * TIMES
    rate = math.pi / (1 + offset) * torch.tan((tau + offset) / (1 + offset) * math.pi / 2) * (1 - 2 * start)
    z = normal(12, SIZE)
    torch.testing.assert_close(book.drift(z, TIMES), -rate[:, None] * z / 2, rtol=1e-8, atol=0)
    torch.testing.assert_close(book.diffusion(TIMES) ** 2, rate, rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    "schedule",
    [
        GeometricSchedule(0.1, 10.0),
        EDMSchedule(),
        VariancePreservingSchedule(),
        SubVariancePreservingSchedule(),
        CosineSchedule(),
        DiscreteSchedule(torch.linspace(0.999, 0.01, 8)),
    ],
    ids=lambda s: type(s).__name__,
)
def test_moments_obey_the_equation(schedule):
    """dz = f z dt + g dB: d alpha / dt = f alpha, and d beta^2 / dt = 2 f beta^2 + g^2."""
    book, t, e = TextbookSDE(over_r(schedule, 1)), TIMES, 1e-6
    one = torch.ones(12, 1, dtype=torch.float64)
    (up, up_deviation), (down, down_deviation) = (book.marginal(one, t + s) for s in (e, -e))
    alpha, beta = book.marginal(one, t)
    f, g = book.drift(one, t)[:, 0], book.diffusion(t)
    torch.testing.assert_close((up - down)[:, 0] / (2 * e), f * alpha[:, 0], rtol=1e-6, atol=1e-9)
    change = (up_deviation**2 - down_deviation**2) / (2 * e)
    torch.testing.assert_close(change, 2 * f * beta**2 + g**2, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_precision(batch, dtype):
    sde = ReflectedSDE(Euclidean((2, 2)), schedule=VariancePreservingSchedule())
    book = TextbookSDE(sde)
    z, t = torch.ones(*batch, 2, 2, dtype=dtype), torch.full(batch, 0.5, dtype=dtype)
    score = lambda x, t, c: c * x  # noqa: E731
    with torch.no_grad():
        drift = book.drift(z, t)
        mean, deviation = book.marginal(z, t)
        back = book.reverse_drift(score, z, t, c=2.0)
        s = book.score(score, z, t, c=2.0)
    for value in (drift, mean, back, s):
        assert value.shape == z.shape
        assert value.dtype == dtype
        assert not value.requires_grad
    assert deviation.shape == book.diffusion(t).shape == batch


def test_reverse_drift_of_gaussian_data():
    """F z - g^2 grad log p_t(z) with p_t = N(alpha m, alpha^2 S + beta^2), all in the textbook's terms."""
    start = 1e-3
    sde = over_r(VariancePreservingSchedule(LOW, HIGH, start), 2)
    tau = start + (1 - start) * TIMES
    B, rate = LOW * tau + tau**2 / 2 * (HIGH - LOW), LOW + tau * (HIGH - LOW)
    alpha = torch.exp(-B / 2)[:, None]
    whole = alpha.unsqueeze(-1) ** 2 * COVARIANCE + (1 - torch.exp(-B))[:, None, None] * EYE
    z = normal(12, 2)
    gradient = -torch.linalg.solve(whole, z - alpha * MEAN)
    book, score = TextbookSDE(sde), exact(sde)
    torch.testing.assert_close(book.score(score, z, TIMES), gradient, rtol=1e-8, atol=1e-10)
    expected = (1 - start) * rate[:, None] * (-z / 2 - gradient)
    torch.testing.assert_close(book.reverse_drift(score, z, TIMES), expected, rtol=1e-8, atol=1e-9)


# ------------------------------------------------------------------ Gaussian data

MEAN = torch.tensor([0.7, -0.4], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.3], [0.3, 0.25]], dtype=torch.float64)
EYE = torch.eye(2, dtype=torch.float64)


VARIANCES, AXES = torch.linalg.eigh(COVARIANCE)


def solved(signal, noise, rest):
    """(signal S + noise 1)^-1 rest, with factors ``[*batch, 1]``."""
    return (rest @ AXES / (signal * VARIANCES + noise)) @ AXES.T


def exact(sde):
    """The score of N(m, S + sigma^2)."""

    def score(x, t):
        return -solved(1.0, sde.sigma(t)[..., None] ** 2, x - MEAN)

    return score


def ve():
    sde = over_r(GeometricSchedule(0.01, 50.0), 2)
    return sde, exact(sde)


def edm():
    sde = over_r(EDMSchedule(), 2)

    def denoiser(x, t):  # m + S (S + sigma^2)^-1 (x - m)
        return MEAN + solved(1.0, sde.sigma(t)[..., None] ** 2, x - MEAN) @ COVARIANCE

    return sde, from_denoiser(denoiser, sde)


def preserving(kind):
    """VP and sub-VP with a network of the noise, made of the textbook's own alpha and beta."""
    start = 1e-3
    make = {"VP": VariancePreservingSchedule, "sub-VP": SubVariancePreservingSchedule}[kind]
    sde = over_r(make(LOW, HIGH, start), 2)

    def network(z, t):
        tau = start + (1 - start) * t
        B = LOW * tau + tau**2 / 2 * (HIGH - LOW)
        alpha = torch.exp(-B / 2)[..., None]
        beta = ((1 - torch.exp(-B)).sqrt() if kind == "VP" else 1 - torch.exp(-B))[..., None]
        return beta * solved(alpha**2, beta**2, z - alpha * MEAN)

    return sde, from_noise(network, sde)


def cosine():
    """With a network of the velocity."""
    sde = over_r(CosineSchedule(), 2)

    def network(z, t):
        angle = (1e-3 + (1 - 2e-3) * t + 0.008) / 1.008 * math.pi / 2
        alpha = (torch.cos(angle) / math.cos(0.008 / 1.008 * math.pi / 2))[..., None]
        beta = (1 - alpha**2).sqrt()
        rest = solved(alpha**2, beta**2, z - alpha * MEAN)
        return alpha * beta * rest - beta * (MEAN + alpha * rest @ COVARIANCE)

    return sde, from_velocity(network, sde)


MODELS = {
    "VE": ve,
    "VP": functools.partial(preserving, "VP"),
    "sub-VP": functools.partial(preserving, "sub-VP"),
    "EDM": edm,
    "cosine": cosine,
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("sampler", "tolerance"),
    [
        (functools.partial(ProbabilityFlow, rtol=1e-5, atol=1e-5), 2e-4),  # measured: 1e-5 to 5e-5
        (functools.partial(Heun, steps=60), 0.02),  # 0.002 to 0.015
        (functools.partial(Heun, midpoint=True, steps=60), 0.01),  # 0.002 to 0.004
        (functools.partial(Multistep, steps=120), 0.01),  # 0.0002 to 0.006
        (functools.partial(AnnealedReflected, steps=500), 0.02),  # 0.005 to 0.01
    ],
    ids=["flow", "heun", "midpoint", "multistep", "DDIM"],
)
def test_flows_give_gaussian_data_their_mean_and_covariance(model, sampler, tolerance):
    """The flow is affine, so that 64 latents of exactly the prior's moments tell all."""
    sde, score = MODELS[model]()
    latent = normal(64, 2, seed=6)
    latent = latent - latent.mean(0)
    latent = sde.sigma_max * latent @ torch.linalg.inv(torch.linalg.cholesky(latent.T @ latent / 64)).T
    x = sampler(sde, score, denoise=False).sample(64, latent=latent).x
    left = 2 / sde.sigma_max  # the prior is not that of the data, but nearly
    torch.testing.assert_close(x.mean(0), MEAN, rtol=0, atol=tolerance + left)
    covariance = (x - x.mean(0)).T @ (x - x.mean(0)) / 64
    torch.testing.assert_close(covariance, COVARIANCE + sde.sigma_min**2 * EYE, rtol=0, atol=tolerance + left**2)


RANDOM = {
    "euler": functools.partial(EulerMaruyama, steps=600),
    "ancestral": functools.partial(AnnealedReflected, eta=1.0, steps=300),
    "half annealed": functools.partial(AnnealedReflected, eta=0.5, steps=300),
    "bridge": functools.partial(ReflectedBridge, steps=300),
    "predictor-corrector": functools.partial(PredictorCorrector, steps=200),
    "churn": functools.partial(Heun, churn=20.0, steps=50),
}
CHEAP = [
    ("VE", "euler"),
    ("VE", "predictor-corrector"),
    ("VP", "ancestral"),
    ("VP", "bridge"),
    ("VP", "half annealed"),
    ("sub-VP", "euler"),
    ("sub-VP", "predictor-corrector"),
    ("EDM", "churn"),
    ("EDM", "ancestral"),
    ("cosine", "ancestral"),
]
PAIRS = [
    pytest.param(m, s, marks=() if (m, s) in CHEAP else pytest.mark.slow) for m, s in itertools.product(MODELS, RANDOM)
]


@pytest.mark.parametrize(("model", "sampler"), PAIRS)
def test_random_samplers_give_gaussian_data_their_mean_and_covariance(model, sampler):
    sde, score = MODELS[model]()
    check_moments(sde, RANDOM[sampler](sde, score, denoise=False), 8000, 0.05)  # the largest bias: 0.049


def check_moments(sde, walk, n, bias):
    """Moments to 4.5 standard errors, and the covariance to a bias as well."""
    x = walk.sample(n, generator=seeded(3), dtype=torch.float64).x
    whole = COVARIANCE + sde.sigma_min**2 * EYE
    assert ((x.mean(0) - MEAN).abs() < 4.5 * (whole.diagonal() / n).sqrt() + 0.01).all()
    got = torch.cov(x.T)
    error = ((whole.diagonal()[:, None] * whole.diagonal() + whole**2) / n).sqrt()
    assert ((got - whole).abs() < 4.5 * error + bias).all()


@pytest.mark.parametrize("grid", [None, KarrasGrid()], ids=["even", "karras"])
def test_ncsn_gives_gaussian_data_their_mean_and_covariance(grid):
    sde, score = ve()
    options = {} if grid is None else {"grid": grid}
    walk = AnnealedLangevin(sde, score, steps=40, langevin_steps=40, snr=0.2, denoise=False, **options)
    check_moments(sde, walk, 1000, 0.05)


def test_bridge_and_ancestral_steps_have_one_law():
    sde = over_r(GeometricSchedule(0.01, 20.0), 2)
    t, t_next, n = torch.tensor(0.8).double(), torch.tensor(0.7).double(), 100_000
    sigma, below = float(sde.sigma(t)), float(sde.sigma(t_next))
    x = torch.tensor([1.5, -0.5], dtype=torch.float64).expand(n, 2)
    score = exact(sde)
    x0 = (x + sigma**2 * score(x, t.expand(n)))[0]
    mean = x0 + (below / sigma) ** 2 * (x[0] - x0)
    variance = below**2 * (1 - (below / sigma) ** 2)
    for walk in (AnnealedReflected(sde, score, eta=1.0), ReflectedBridge(sde, score)):
        y = walk.step(x, t, t_next, generator=seeded(), condition={})
        assert ((y.mean(0) - mean).abs() < 4.5 * math.sqrt(variance / n)).all()
        assert ((y.var(0) / variance - 1).abs() < 4.5 * math.sqrt(2 / n)).all()
        assert abs(float(np.corrcoef(y.T.numpy())[0, 1])) < 4.5 / math.sqrt(n)
