"""Reverse Euler steps and predictor-corrector: the laws that they lead to, with exact scores."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from constrained_diffusion import (
    Ball,
    DomainError,
    Euclidean,
    EulerMaruyama,
    Hypercube,
    PredictorCorrector,
    ReflectedSDE,
    Simplex,
)
from tests.mixtures import Atoms

SAMPLERS = [EulerMaruyama, PredictorCorrector]


def zero(x, t):
    return torch.zeros_like(x)


@pytest.mark.parametrize("width", [0.1, 1.0, 4.0])
def test_variance_of_gaussian_data_is_right_to_second_order(width):
    sde, n = ReflectedSDE(Euclidean(1), 0.01, 40.0), 300_000
    start = torch.randn(n, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    latent = math.sqrt(width**2 + 40.0**2) * (start - start.mean()) / start.std()

    def score(x, t):
        return -x / (width**2 + sde.sigma(t).unsqueeze(-1) ** 2)

    def excess(variance):
        """Relative error of the samples' variance."""
        walk = EulerMaruyama(sde, score, steps=40, denoise=False, variance=variance)
        x = walk.sample(n, latent=latent, generator=torch.Generator().manual_seed(2)).x
        return float(x.var()) / (width**2 + 1e-4) - 1

    step = math.log(4000) / 40
    assert excess("large") == pytest.approx(step, abs=step**2)
    assert excess("small") == pytest.approx(-step, abs=step**2)
    assert abs(excess("mean")) < 0.4 * step**2


def test_unknown_variance_is_named():
    sde = ReflectedSDE(Hypercube(1))
    for sampler in SAMPLERS:
        with pytest.raises(ValueError, match="variance must be one of 'large', 'mean', 'small', not 'tiny'"):
            sampler(sde, zero, variance="tiny")


def interval_law(sigma_min=0.02):
    """A law on [0, 1] with atoms at both ends and one inside."""
    sde = ReflectedSDE(Hypercube(1), sigma_min)
    points = torch.tensor([[0.0], [0.35], [1.0]], dtype=torch.float64)
    return Atoms(sde, points, torch.tensor([0.3, 0.45, 0.25], dtype=torch.float64))


def cdf_of(law):
    """Distribution function of a law on [0, 1] at its least noise, at 1/40000, 2/40000, .., 1."""
    grid = torch.linspace(0, 1, 40_001, dtype=torch.float64)
    density = law.log_prob(grid[:, None], torch.full_like(grid, law.sde.sigma_min)).exp()
    return grid[1:], torch.cumulative_trapezoid(density, grid)


def distance_from(law, walk, n):
    """Kolmogorov-Smirnov distance of a sampler's draws from a law, and the draws."""
    x = walk.sample(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64).x[:, 0].numpy()
    grid, cdf = cdf_of(law)
    return stats.kstest(x, lambda q: np.interp(q, grid, cdf)).statistic, x


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_exact_score_gives_the_law_at_the_least_noise(sampler):
    law = interval_law()
    walk = sampler(law.sde, law.score, steps=300 if sampler is EulerMaruyama else 150, denoise=False)
    distance, x = distance_from(law, walk, 10_000)
    assert distance < 0.025
    near = float((torch.as_tensor(x) <= 0.01).double().mean())
    assert near == pytest.approx(float(cdf_of(law)[1][399]), abs=0.015)


def test_default_variance_is_the_best_for_a_law_with_atoms_in_few_steps():
    law = interval_law()
    default, mean, large = (
        distance_from(law, EulerMaruyama(law.sde, law.score, steps=24, denoise=False, **option), 20_000)[0]
        for option in ({}, {"variance": "mean"}, {"variance": "large"})
    )
    assert default < 0.012  # noise of the draws: 0.006
    assert default < mean / 2 < large / 3


@pytest.mark.parametrize(
    "domain", [Simplex(3), Simplex(4), Ball(2), Ball(3, 2.0), Hypercube((2, 2), -1.0, 1.0)], ids=str
)
def test_exact_score_finds_the_atoms_with_their_weights(domain):
    generator = torch.Generator().manual_seed(3)
    atoms = domain.sample_uniform(3, generator=generator, dtype=torch.float64)
    sde = ReflectedSDE(domain, 0.005 * domain.inradius)
    law = Atoms(sde, atoms, torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64))
    n = 500
    out = PredictorCorrector(sde, law.score, steps=60).sample(n, generator=generator, dtype=torch.float64)
    away = torch.cdist(out.x.flatten(1), atoms.flatten(1))
    assert float(away.amin(1).quantile(0.99)) < 0.05 * domain.inradius
    share = torch.bincount(away.argmin(1), minlength=3).double() / n
    torch.testing.assert_close(share, law.weights, atol=0.1, rtol=0)
    assert domain.contains(out.x).all()


def test_denoising_reaches_atoms_on_the_wall():
    law = interval_law()
    x = EulerMaruyama(law.sde, law.score, steps=200).sample(4000, dtype=torch.float64).x
    away = (x - law.points.T).abs().amin(1)
    raw = EulerMaruyama(law.sde, law.score, steps=200, denoise=False).sample(4000, dtype=torch.float64).x
    assert float(away.quantile(0.9)) < 1e-3
    assert float((raw - law.points.T).abs().amin(1).median()) > 0.005


def test_projecting_leaves_atoms_on_the_walls_and_reflecting_does_not():
    sde = ReflectedSDE(Hypercube(1), 0.5)
    at_wall = {
        how: float(
            (EulerMaruyama(sde, zero, steps=50, denoise=False, boundary=how).sample(4000).x % 1 == 0).float().mean()
        )
        for how in ("reflect", "project")
    }
    assert at_wall["reflect"] < 0.001
    assert at_wall["project"] > 0.1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_zero_score_keeps_the_uniform_law(sampler):
    sde = ReflectedSDE(Ball(3))
    x = sampler(sde, zero, steps=20).sample(5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).x
    assert stats.kstest(x.norm(dim=1).numpy() ** 3, "uniform").pvalue > 1e-5
    assert stats.kstest((x[:, 0] / x.norm(dim=1)).numpy(), "uniform", args=(-1, 2)).pvalue > 1e-5


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_corrector_alone_keeps_its_law_and_only_its_law(factor):
    """Langevin steps with the score (times `factor`) leave p (to the power `factor`) where it is."""
    law = interval_law(0.1)
    walk = PredictorCorrector(law.sde, lambda x, t: factor * law.score(x, t), snr=0.16)
    generator = torch.Generator().manual_seed(0)
    t = torch.zeros((), dtype=torch.float64)
    x0 = law.draw(10_000, generator)
    x, _ = law.sde.perturb(x0, 0.0, generator=generator)
    start = x
    for _ in range(40):
        x = walk.correct(x, t, generator=generator, condition={})
    distance = stats.ks_2samp(x[:, 0].numpy(), start[:, 0].numpy()).statistic
    assert (distance < 0.03) == (factor == 1.0)


@pytest.mark.parametrize(("sampler", "evaluations"), [(EulerMaruyama, 7), (PredictorCorrector, 14)])
def test_evaluations_are_counted_and_true(sampler, evaluations):
    calls = []

    def score(x, t):
        calls.append(t)
        assert t.shape == x.shape[:-1]
        return torch.zeros_like(x)

    sde = ReflectedSDE(Hypercube(2))
    assert sampler(sde, score, steps=7, denoise=False).sample(3).nfe == len(calls) == evaluations
    calls.clear()
    walk = sampler(sde, score, steps=7)
    assert walk.sample(3).nfe == len(calls) == evaluations + 1
    assert walk.sample(3).nfe == evaluations + 1
    three = PredictorCorrector(sde, score, steps=2, corrector_steps=3, denoise=False)
    assert three.sample(3).nfe == 8


def test_latent_is_used_and_kept():
    sde = ReflectedSDE(Hypercube(2))
    latent = torch.full((4, 2), 0.25)
    walk = EulerMaruyama(sde, zero, steps=5, denoise=False)
    out = walk.sample(4, latent=latent, frames=2, generator=torch.Generator().manual_seed(0))
    assert (latent == 0.25).all()
    torch.testing.assert_close(out.trajectory[0], latent)
    assert (out.x != latent).all()
    with pytest.raises(ValueError, match="latent has shape"):
        walk.sample(5, latent=latent)
    with pytest.raises(DomainError, match="latent"):
        walk.sample(4, latent=latent + 2)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_seeds_shapes_and_frames(sampler):
    sde = ReflectedSDE(Simplex(4))
    walk = sampler(sde, zero, steps=6)
    one, two, other = (walk.sample((2, 3), generator=torch.Generator().manual_seed(s), frames=4) for s in (0, 0, 1))
    assert one.x.shape == (2, 3, 4)
    assert torch.equal(one.x, two.x)
    assert not torch.equal(one.x, other.x)
    assert one.trajectory.shape == (4, 2, 3, 4)
    assert torch.equal(one.trajectory[-1], one.x)
    assert one.times[0] == 1
    assert one.times[-1] == 0
    assert sde.domain.contains(one.trajectory).all()
    assert walk.sample((0,)).x.shape == (0, 4)
    assert walk.sample(2, dtype=torch.float64).x.dtype == torch.float64
    assert walk.sample(2).trajectory.shape[0] == 0


def test_conditions_reach_the_score():
    sde = ReflectedSDE(Hypercube(1), 0.01)

    def score(x, t, centre):
        return sde.domain.heat_kernel_score(x, centre, sde.sigma(t))

    centre = torch.tensor([[0.2], [0.8]]).double()
    out = EulerMaruyama(sde, score, steps=200).sample(2, condition={"centre": centre}, dtype=torch.float64)
    torch.testing.assert_close(out.x, centre, atol=0.01, rtol=0)


def test_bad_input():
    sde = ReflectedSDE(Hypercube(2))
    with pytest.raises(ValueError, match="steps"):
        EulerMaruyama(sde, zero, steps=0)
    with pytest.raises(ValueError, match="boundary"):
        EulerMaruyama(sde, zero, boundary="clip")
    with pytest.raises(ValueError, match="snr"):
        PredictorCorrector(sde, zero, snr=0.0)
    with pytest.raises(ValueError, match="corrector_steps"):
        PredictorCorrector(sde, zero, corrector_steps=-1)
    with pytest.raises(ValueError, match="shape"):
        EulerMaruyama(sde, zero).sample(-1)
    with pytest.raises(ValueError, match="score is not finite at t = 1"):
        EulerMaruyama(sde, lambda x, t: x * math.nan, steps=3).sample(4)
