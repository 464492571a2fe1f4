"""The simulators of the examples, and the draws of their posteriors that pass for exact."""

import math

import pytest
import torch
from scipy.stats import ks_2samp, kstest
from simulators import SLCP, TwoMoons, reference

from constrained_diffusion.metrics import sbc_ranks


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def likelihood(theta, x):
    """log p(x | theta) of SLCP ``[n]`` by torch's own normal law."""
    s, t = theta[:, 2].square(), theta[:, 3].square()
    cross = theta[:, 4].tanh() * s * t
    covariance = torch.stack([s**2, cross, cross, t**2], -1).reshape(-1, 2, 2)
    law = torch.distributions.MultivariateNormal(theta[:, None, :2], covariance[:, None], validate_args=False)
    return law.log_prob(x.reshape(4, 2)).sum(-1)


def test_draws_of_slcp_are_what_metropolis_leaves_as_they_are():
    """A chain that knows the likelihood alone, started from the draws; the laws of all coordinates stay."""
    task, generator = SLCP(), seeded(1)
    theta = torch.tensor([[0.7, -2.9, -1.0, -2.5, 0.6]])
    x = task.simulate(theta, generator)[0].double()
    begin = task.exact(x, 2000, generator).double()
    assert task.prior.contains(begin).all()
    now, value = begin.clone(), likelihood(begin, x)
    accepted = 0.0
    for step in range(200):
        new = now + (0.1, 0.4)[step % 2] * begin.std(0) * torch.randn(now.shape, generator=generator).double()
        there = torch.where(task.prior.contains(new), likelihood(new, x), -math.inf)
        move = torch.rand(len(now), generator=generator).double().log() < there - value
        now, value = torch.where(move[:, None], new, now), torch.where(move, there, value)
        accepted += float(move.double().mean()) / 200
    assert 0.1 < accepted < 0.9
    before = torch.cat([begin, likelihood(begin, x)[:, None]], 1)
    after = torch.cat([now, value[:, None]], 1)
    for a, b in zip(before.T, after.T, strict=True):
        assert ks_2samp(a, b).pvalue > 1e-5
    signs = [(begin[:, i] > 0).double().mean() for i in (2, 3)]  # a chain crosses zero seldom
    assert all(abs(share - 0.5) < 0.06 for share in signs)


def test_draws_of_two_moons_are_calibrated():
    task, generator = TwoMoons(), seeded(2)
    theta = task.prior.sample_uniform(150, generator=generator)
    x = task.simulate(theta, generator)
    draws = torch.stack([task.exact(row, 19, generator) for row in x], 1)
    assert task.prior.contains(draws).all()
    for ranks in sbc_ranks(theta, draws).T:
        assert kstest((ranks + torch.rand(150, generator=generator)) / 20, "uniform").pvalue > 1e-5
    density = task.exact_log_prob(draws[0], x, generator)
    assert density.isfinite().all()
    assert density.mean() == pytest.approx(task.exact_log_prob(theta, x, generator).mean(), abs=0.5)


def test_density_of_two_moons_is_normalised():
    """At an observation whose posterior the box cuts."""
    task, x = TwoMoons(), torch.tensor([[-0.66, -0.43]])
    side = (torch.arange(2000).double() + 0.5) / 1000 - 1
    total = sum(
        task.log_likelihood(torch.cartesian_prod(rows, side), x.double()).exp().sum() for rows in side.split(200)
    )
    integral = float(total) / 1000**2
    assert 0.8 < integral < 0.95
    assert float(task.log_evidence(x, seeded(3)).exp()) == pytest.approx(integral, abs=0.02)  # six standard errors


def test_reference_is_none_without_its_files():
    found = reference("two_moons", 1)
    assert found is None or (found[0].shape == (2,) and found[1].shape == (10000, 2))
