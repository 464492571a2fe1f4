import math

import pytest
import torch

from constrained_diffusion import (
    Ball,
    DomainError,
    Euclidean,
    Hypercube,
    ReflectedSDE,
    ShapeError,
    Simplex,
    mixing_sigma,
)
from constrained_diffusion.process import interpolate_rms

DOMAINS = [Hypercube(2), Hypercube((2, 3), low=-1.0, high=2.0), Simplex(3), Simplex(5), Ball(3, 2.0)]


@pytest.mark.parametrize("domain", [Hypercube(1), Hypercube(2), Ball(2), Simplex(3), Ball(3)], ids=str)
def test_default_sigma_max_is_uniform_to_one_in_a_thousand(domain):
    x0 = domain.project(torch.full(domain.event_shape, -5.0, dtype=torch.float64).index_fill(0, torch.tensor(0), 5.0))
    x = domain.sample_uniform(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = mixing_sigma(domain)
    ratio = torch.exp(domain.heat_kernel_log_prob(x, x0, sigma) + domain.log_volume)
    distance = float((ratio - 1).abs().mean()) / 2
    assert distance < 1.1e-3
    earlier = torch.exp(domain.heat_kernel_log_prob(x, x0, 0.75 * sigma) + domain.log_volume)
    assert float((earlier - 1).abs().mean()) / 2 > 1.5e-3  # and not needlessly large


@pytest.mark.parametrize("distance", [0.0, -0.1, 0.8, math.nan])
def test_distances_that_mean_nothing(distance):
    with pytest.raises(ValueError, match=r"distance must lie in \(0, 0.5\]"):
        mixing_sigma(Hypercube(1), distance)


def test_euclidean_needs_sigma_max():
    with pytest.raises(ValueError, match="sigma_max must be given"):
        ReflectedSDE(Euclidean(2))
    assert ReflectedSDE(Euclidean(2), sigma_max=4.0).sigma_max == pytest.approx(4.0)


def test_domain_and_time_are_checked():
    with pytest.raises(TypeError, match="domain"):
        ReflectedSDE("square")
    sde, x0 = ReflectedSDE(Hypercube(2)), torch.rand(5, 2)
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        sde.perturb(x0, 1.5)
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        sde.perturb(x0, torch.full((5,), math.nan))
    with pytest.raises(ShapeError, match="x0"):
        sde.perturb(torch.rand(5, 3), 0.5)
    bad = x0.clone()
    bad[3] = -1
    with pytest.raises(DomainError, match="x0: at row 3"):
        sde.perturb(bad, 0.5)


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (0,)])
def test_perturb_shapes_dtypes_containment(domain, dtype, batch):
    sde = ReflectedSDE(domain)
    generator = torch.Generator().manual_seed(0)
    x0 = domain.sample_uniform(batch, generator=generator, dtype=dtype)
    t = torch.rand(batch, generator=generator, dtype=dtype)
    x, u = sde.perturb(x0, t, generator=generator)
    assert x.shape == u.shape == x0.shape
    assert x.dtype == u.dtype == dtype
    assert domain.contains(x).all()
    assert u.isfinite().all()


def test_perturb_at_time_one_is_the_prior_and_at_zero_is_near_the_data():
    domain = Hypercube(1)
    sde = ReflectedSDE(domain, 0.01)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.full((20_000, 1), 0.9)
    late, _ = sde.perturb(x0, 1.0, generator=generator)
    assert abs(float(late.mean()) - 0.5) < 0.01
    early, _ = sde.perturb(x0, 0.0, generator=generator)
    assert float((early - x0).std()) == pytest.approx(0.01, rel=0.03)


def test_reverse_drift():
    sde = ReflectedSDE(Hypercube(2))
    x, t = torch.rand(6, 2), torch.rand(6)
    drift = sde.reverse_drift(lambda x, t: torch.ones_like(x), x, t)
    torch.testing.assert_close(drift, -(sde.diffusion(t) ** 2)[:, None].expand(6, 2))
    assert (sde.drift(x, t) == 0).all()


def test_prior():
    sde = ReflectedSDE(Ball(3, 2.0))
    x = sde.sample_prior((3, 5), generator=torch.Generator().manual_seed(0))
    assert x.shape == (3, 5, 3)
    torch.testing.assert_close(sde.prior_log_prob(x), torch.full((3, 5), -math.log(4 / 3 * math.pi * 8)))
    assert sde.prior_log_prob(torch.full((1, 3), 2.0)).item() == -math.inf
    free = ReflectedSDE(Euclidean(2), sigma_max=3.0)
    z = free.sample_prior(50_000, generator=torch.Generator().manual_seed(0))
    assert float(z.std()) == pytest.approx(3.0, rel=0.01)
    expected = torch.distributions.Normal(0, 3.0).log_prob(z).sum(-1)
    torch.testing.assert_close(free.prior_log_prob(z), expected)


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_target_rms_is_that_of_the_targets(domain):
    sde = ReflectedSDE(domain, 0.01)
    generator = torch.Generator().manual_seed(1)
    for sigma in (0.012, 0.1, 0.5):
        x0 = domain.sample_uniform(40_000, generator=generator, dtype=torch.float64)
        x, u = domain.diffuse(x0, sigma, generator=generator)
        rms = float(domain.inner(x, u, u).mean() / domain.dim) ** 0.5
        assert float(sde.target_rms(torch.tensor(sigma))) == pytest.approx(rms, rel=0.12)
        assert rms <= 1.05 / sigma


def test_interpolation_is_linear_in_logarithms_and_constant_outside():
    values, log_sigma = torch.tensor([1.0, 0.0, -4.0]), torch.tensor([-5.0, 3.5, 4.25, 9.0])
    read = interpolate_rms(values, log_sigma, 3.0, 5.0)
    torch.testing.assert_close(read.log(), torch.tensor([1.0, 0.5, -1.0, -4.0]))


def test_a_schedule_says_what_sigma_is():
    for given in ({"sigma_min": 0.5}, {"sigma_max": 9.0}):
        with pytest.raises(ValueError, match="give it, or sigma_min and sigma_max, not both"):
            ReflectedSDE(Hypercube(2), **given, schedule=lambda t: 0.05 + t)


def test_user_schedule():
    sde = ReflectedSDE(Hypercube(2), schedule=lambda t: 0.05 + t)
    assert (sde.sigma_min, sde.sigma_max) == pytest.approx((0.05, 1.05))
    torch.testing.assert_close(sde.diffusion(torch.tensor([0.5])), torch.tensor([(2 * 0.55) ** 0.5]))
