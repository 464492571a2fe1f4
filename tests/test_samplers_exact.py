"""Samplers with the exact score of a known law: how far what they draw is from it, and at what order that falls.

Deterministic samplers start at latents spread evenly over the prior, so that only the solver's own error is seen. The
distribution function that samples are compared with is a sum of images (:mod:`tests.references`).
"""

import functools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from constrained_diffusion import (
    AnnealedLangevin,
    AnnealedReflected,
    Ball,
    EulerMaruyama,
    Heun,
    Hypercube,
    KarrasGrid,
    Multistep,
    PredictorCorrector,
    ProbabilityFlow,
    ReflectedBridge,
    ReflectedSDE,
    Simplex,
)
from tests.mixtures import Atoms
from tests.references import interval_cdf

POINTS, WEIGHTS = (0.0, 0.35, 1.0), (0.3, 0.45, 0.25)
NEAR = 0.01  # from the wall at 0: mass is compared there as well
CELLS = 2000  # of a table of the exact score
RAW = {"denoise": False}


@functools.cache
def interval_law(sigma_min):
    """Atoms at both ends of [0, 1] and one inside."""
    points, weights = torch.tensor(POINTS, dtype=torch.float64)[:, None], torch.tensor(WEIGHTS, dtype=torch.float64)
    return Atoms(ReflectedSDE(Hypercube(1), sigma_min), points, weights)


def cdf(x, sigma):
    return sum(w * interval_cdf(x, a, sigma) for a, w in zip(POINTS, WEIGHTS, strict=True))


@functools.cache
def score_table(sigma_min, t):
    grid = torch.linspace(0, 1, CELLS + 1, dtype=torch.float64)
    return interval_law(sigma_min).score(grid[:, None], torch.full_like(grid, t))[:, 0]


def tabulated(sigma_min):
    """The exact score, read from a table that is made once for each time: ten times as fast."""

    def score(x, t):
        table = score_table(sigma_min, float(t.flatten()[0]))
        place = x[..., 0] * CELLS
        left = place.floor().clamp(0, CELLS - 1)
        return torch.lerp(table[left.long()], table[left.long() + 1], place - left).unsqueeze(-1)

    return score


def even(n):
    return ((torch.arange(n, dtype=torch.float64) + 0.5) / n)[:, None]


def distances(x, sigma):
    """Kolmogorov's distance from the law, and the error of the mass beside the wall."""
    x = x[:, 0].numpy()
    distance = stats.kstest(x, lambda q: cdf(q, sigma)).statistic
    return float(distance), float((x <= NEAR).mean() - cdf(np.array([NEAR]), sigma)[0])


def test_the_references_agree_with_each_other():
    law = interval_law(0.05)
    x = torch.linspace(0, 1, 101, dtype=torch.float64)
    for t in (0.0, 0.3, 0.6, 1.0):
        sigma = float(law.sde.sigma(torch.tensor(t, dtype=torch.float64)))
        h = 1e-5
        density = (cdf(x.numpy() + h, sigma) - cdf(x.numpy() - h, sigma)) / (2 * h)
        ours = law.log_prob(x[1:-1, None], torch.full((99,), sigma, dtype=torch.float64)).exp().numpy()
        np.testing.assert_allclose(ours, density[1:-1], rtol=1e-5, atol=1e-8)
        times = torch.full((5000,), t, dtype=torch.float64)
        y = even(5000)
        error = sigma * (tabulated(0.05)(y, times) - law.score(y, times)).abs()
        mass = law.log_prob(y, law.sde.sigma(times)).exp()
        assert float((error[:, 0] * mass).mean()) < 1e-4


# Bounds beside what was measured: Kolmogorov's distance, error of the mass beside the wall, evaluations.
DETERMINISTIC = {
    "flow": (functools.partial(ProbabilityFlow), 20_000, 0.01, 0.005, 110),  # 0.0020, -0.0020, 74
    "multistep": (functools.partial(Multistep, steps=25), 20_000, 0.01, 0.01, 25),  # 0.0019, 0.0002
    "midpoint": (functools.partial(Heun, midpoint=True, steps=12), 20_000, 0.01, 0.01, 24),  # 0.0046, 0.0045
    "heun": (functools.partial(Heun, steps=25), 4000, 0.005, 0.005, 50),  # 0.0020, 0.0019
    "annealed": (functools.partial(AnnealedReflected, steps=300), 4000, 0.005, 0.005, 300),  # 0.0025, -0.0023
}


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_carry_even_latents_to_the_law(name):
    sampler, n, bound, near, evaluations = DETERMINISTIC[name]
    law = interval_law(0.01)
    out = sampler(law.sde, law.score, **RAW).sample(n, latent=even(n))
    distance, error = distances(out.x, 0.01)
    assert distance <= bound
    assert abs(error) <= near
    assert out.nfe <= evaluations


# With n draws noise alone goes beyond sqrt(log(2 / 1e-5) / 2n) once in 1e5: 0.0124 with 40,000, 0.0247 with 10,000.
RANDOM = {
    "euler": (functools.partial(EulerMaruyama, steps=300), 40_000, 0.015, 0.015),  # 0.0093, -0.0085
    "predictor-corrector": (functools.partial(PredictorCorrector, steps=150), 40_000, 0.0124, 0.01),  # 0.0065, -0.0044
    "half annealed": (
        functools.partial(AnnealedReflected, eta=0.5, steps=300),
        40_000,
        0.0124,
        0.01,
    ),  # 0.0072, -0.0048
    "ancestral": (functools.partial(AnnealedReflected, eta=1.0, steps=300), 40_000, 0.0124, 0.01),  # 0.0051, -0.0040
    "churn": (functools.partial(Heun, churn=20.0, steps=50), 40_000, 0.0124, 0.01),  # 0.0029, 0.0010
    "langevin": (
        functools.partial(AnnealedLangevin, steps=100, langevin_steps=10),
        40_000,
        0.02,
        0.02,
    ),  # 0.0138, -0.0119
    "bridge": (functools.partial(ReflectedBridge, steps=100), 10_000, 0.0247, 0.02),  # 0.0122, 0.0027
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_samplers_draw_from_the_law(name):
    sampler, n, bound, near = RANDOM[name]
    law = interval_law(0.01)
    walk = sampler(law.sde, tabulated(0.01), **RAW)
    x = walk.sample(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64).x
    distance, error = distances(x, 0.01)
    assert distance <= bound
    assert abs(error) <= near


@pytest.mark.slow
def test_many_euler_steps_draw_from_the_law():
    law = interval_law(0.01)
    walk = EulerMaruyama(law.sde, law.score, steps=1000, **RAW)
    x = walk.sample(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).x
    distance, error = distances(x, 0.01)
    assert distance <= 0.01
    assert abs(error) <= 0.0125  # of 4.4 standard deviations


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [EulerMaruyama, functools.partial(AnnealedReflected, eta=1.0), ReflectedBridge])
def test_many_steps_leave_no_error_that_many_draws_would_show(sampler):
    law, steps, n = interval_law(0.01), 1000, 100_000
    if sampler is ReflectedBridge:
        steps, n = 100, 40_000
    walk = sampler(law.sde, tabulated(0.01), steps=steps, **RAW)
    x = walk.sample(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64).x
    distance, error = distances(x, 0.01)
    assert distance <= math.sqrt(math.log(2 / 1e-5) / (2 * n))
    assert abs(error) <= 2 / math.sqrt(n)  # 4.4 standard deviations are 1.8


def test_the_last_step_lands_on_the_atoms():
    """From the law at the least noise, x + sigma^2 s lands on the atoms, those on the walls included."""
    law = interval_law(0.01)
    out = Multistep(law.sde, law.score, steps=25).sample(4000, latent=even(4000))
    away = (out.x - law.points.T).abs()
    assert float(away.amin(1).quantile(0.99)) < 1e-6
    share = torch.bincount(away.argmin(1), minlength=3) / 4000
    torch.testing.assert_close(share.double(), law.weights, atol=0.002, rtol=0)


ORDERS = {
    "annealed": (functools.partial(AnnealedReflected, eta=0.0), 0.8, 1.3),  # 0.96
    "heun": (Heun, 1.7, 2.6),  # 1.99
    "midpoint": (functools.partial(Heun, midpoint=True), 1.7, 2.6),  # 1.87
    "multistep": (Multistep, 1.7, 2.6),  # 1.99
}


@functools.cache
def smooth_ends():
    """Where the flow takes even latents if the law is smooth, to seven digits."""
    law = interval_law(0.1)
    flow = ProbabilityFlow(law.sde, law.score, rtol=1e-8, atol=1e-8, **RAW)
    return flow.sample(200, latent=even(200)).x


@pytest.mark.parametrize("grid", [None, KarrasGrid()], ids=["even", "karras"])
@pytest.mark.parametrize("name", ORDERS)
def test_errors_fall_at_the_order_of_the_method(name, grid):
    sampler, low, high = ORDERS[name]
    law, steps = interval_law(0.1), [16, 32, 64, 128]
    options = RAW if grid is None else RAW | {"grid": grid}
    errors = [
        float((sampler(law.sde, law.score, steps=k, **options).sample(200, latent=even(200)).x - smooth_ends()).norm())
        for k in steps
    ]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert low <= slope <= high
    assert errors[-1] / math.sqrt(200) < (0.004 if high < 1.5 else 1e-4)  # 0.0021; 1e-5 to 4e-5


def disc_latents(n):
    i = torch.arange(n, dtype=torch.float64) + 0.5
    angle = i * math.pi * (3 - math.sqrt(5))
    return (i / n).sqrt()[:, None] * torch.stack([angle.cos(), angle.sin()], -1)


def triangle_latents(n):
    """Roberts' sequence on the square, folded to a triangle."""
    steps = torch.tensor([0.7548776662466927, 0.5698402909980532], dtype=torch.float64)
    u = (torch.arange(1, n + 1, dtype=torch.float64)[:, None] * steps + 0.5) % 1
    u = torch.where(u.sum(1, keepdim=True) > 1, 1 - u, u)
    return torch.cat([u, 1 - u.sum(1, keepdim=True)], 1)


PLANE = {  # atoms inside, on an edge, in a corner
    "disc": (Ball(2), [[-0.5, 0.2], [0.3, -0.3], [0.6, 0.8]], disc_latents),
    "triangle": (Simplex(3), [[1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.3, 0.4, 0.3]], triangle_latents),
}
PLANE_WALKS = {  # n, tolerance of shares: solver's error where all is even, 4.4 standard deviations otherwise
    "flow": (ProbabilityFlow, 200, 0.02),
    "multistep": (functools.partial(Multistep, steps=20), 200, 0.02),
    "midpoint": (functools.partial(Heun, midpoint=True, steps=10), 200, 0.02),
    "annealed": (functools.partial(AnnealedReflected, steps=40), 200, 0.04),
    "ancestral": (functools.partial(AnnealedReflected, eta=1.0, steps=40), 300, 0.13),
    "churn": (functools.partial(Heun, churn=10.0, steps=20), 300, 0.13),
}
PLANE_WALKS_SLOW = {
    "euler": (functools.partial(EulerMaruyama, steps=100), 2000, 0.05),
    "half annealed": (functools.partial(AnnealedReflected, eta=0.5, steps=100), 2000, 0.05),
    "ancestral": (functools.partial(AnnealedReflected, eta=1.0, steps=100), 2000, 0.05),
    "langevin": (functools.partial(AnnealedLangevin, steps=100, langevin_steps=10), 500, 0.1),
    "bridge": (functools.partial(ReflectedBridge, steps=40), 500, 0.1),
    "churn": (functools.partial(Heun, churn=20.0, steps=60), 2000, 0.05),
}


def check_plane(name, sampler, n, tolerance):
    domain, points, latents = PLANE[name]
    sde = ReflectedSDE(domain, 0.02 * domain.inradius)
    law = Atoms(sde, torch.tensor(points, dtype=torch.float64), torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64))
    out = sampler(sde, law.score).sample(n, latent=latents(n), generator=torch.Generator().manual_seed(0), frames=3)
    assert domain.contains(out.trajectory).all()
    assert domain.contains(out.x).all()
    away = torch.cdist(out.x, law.points)
    assert float(away.amin(1).quantile(0.99)) < 0.01 * domain.inradius
    share = torch.bincount(away.argmin(1), minlength=3).double() / n
    torch.testing.assert_close(share, law.weights, atol=tolerance, rtol=0)


@pytest.mark.parametrize("walk", PLANE_WALKS)
@pytest.mark.parametrize("name", PLANE)
def test_atoms_of_the_plane_are_found_in_their_shares(name, walk):
    check_plane(name, *PLANE_WALKS[walk])


@pytest.mark.slow
@pytest.mark.parametrize("walk", PLANE_WALKS_SLOW)
@pytest.mark.parametrize("name", PLANE)
def test_atoms_of_the_plane_are_found_in_their_shares_at_length(name, walk):
    check_plane(name, *PLANE_WALKS_SLOW[walk])
