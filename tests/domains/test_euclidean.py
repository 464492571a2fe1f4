"""R^d: the domain without walls, where everything is a Gaussian."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from constrained_diffusion.domains import Euclidean
from tests import references as ref

F64 = torch.float64


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_constants():
    space = Euclidean((2, 3))
    assert space.event_shape == torch.Size([2, 3])
    assert space.dim == 6
    assert space.has_exact_kernel
    assert float(space.log_volume) == math.inf
    assert float(space.spectral_gap) == 0
    assert Euclidean(3).event_shape == torch.Size([3])


@pytest.mark.parametrize("sigma", ref.SIGMAS)
def test_kernel_is_the_gaussian(sigma):
    rng = np.random.default_rng(0)
    x0 = torch.from_numpy(rng.standard_normal((20, 3)))
    x = x0 + sigma * torch.from_numpy(rng.standard_normal((20, 3)))
    space = Euclidean(3)
    expected = torch.distributions.Normal(x0, sigma).log_prob(x).sum(-1)
    torch.testing.assert_close(space.heat_kernel_log_prob(x, x0, sigma), expected)
    torch.testing.assert_close(space.heat_kernel_score(x, x0, sigma), (x0 - x) / sigma**2)


def test_moves_are_sums_and_everything_finite_is_inside():
    rng = np.random.default_rng(1)
    x, v = (torch.from_numpy(rng.standard_normal((20, 3))) for _ in range(2))
    space = Euclidean(3)
    torch.testing.assert_close(space.reflect(x, 1e6 * v), x + 1e6 * v)
    assert torch.equal(space.project(x), x)
    assert torch.equal(space.tangent(x, v), v)
    assert space.contains(1e30 * x).all()
    torch.testing.assert_close(space.inner(x, x, v), (x * v).sum(-1))
    torch.testing.assert_close(space.damp_normal(x, v, 0.1), v)


@pytest.mark.parametrize("sigma", [1e-3, 0.5, 50.0])
def test_sampling_and_targets(sigma):
    space, x0 = Euclidean(2), torch.tensor([1.0, -2.0], dtype=F64).expand(20_000, 2)
    x = space.sample_heat_kernel(x0, sigma, generator=generator(2))
    for i in range(2):
        assert stats.kstest(((x - x0)[:, i] / sigma).numpy(), "norm").pvalue > ref.ALPHA
    x, target = space.diffuse(x0, sigma, generator=generator(3))
    for i in range(2):
        assert stats.kstest(((x - x0)[:, i] / sigma).numpy(), "norm").pvalue > ref.ALPHA
    torch.testing.assert_close(target, (x0 - x) / sigma**2, rtol=1e-6, atol=1e-6 / sigma)
