import pytest
import torch

from constrained_diffusion import Ball, Euclidean, Hypercube, Simplex
from constrained_diffusion.data import choose_sigma_min


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_least_noise_follows_the_units(scale):
    x = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    one, other = choose_sigma_min(Hypercube(2), x), choose_sigma_min(Hypercube(2, 0.0, scale), x * scale)
    assert other / scale == pytest.approx(one, rel=1e-4)


def test_least_noise_is_below_the_spacing_and_the_walls():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2000, 2, generator=generator) * 0.5 + 0.25
    assert 1e-4 < choose_sigma_min(Hypercube(2), x) < 0.01
    near_wall = x.clone()
    near_wall[:, 0] = 1e-3 * torch.rand(2000, generator=generator)
    assert choose_sigma_min(Hypercube(2), near_wall) < 1e-3 / 3  # a layer is resolved
    near_wall[:, 0] = 10.0 ** (
        -20 * torch.rand(2000, generator=generator)
    )  # at all scales, of which the least do not count
    size = float((near_wall - near_wall.mean(0)).norm(dim=1).max())
    assert choose_sigma_min(Hypercube(2), near_wall) == pytest.approx(1e-3 * min(0.5, size))
    assert choose_sigma_min(Euclidean(2), 100 * x) == pytest.approx(100 * choose_sigma_min(Euclidean(2), x), rel=1e-4)


def test_one_point_of_an_unbounded_domain_says_nothing():
    with pytest.raises(ValueError, match="sigma_min must be given"):
        choose_sigma_min(Euclidean(2), torch.ones(5, 2))


@pytest.mark.parametrize("domain", [Hypercube(2), Simplex(3), Ball(2)], ids=str)
def test_least_noise_of_degenerate_data(domain):
    x = domain.sample_uniform(1, generator=torch.Generator().manual_seed(0))
    for few in (x, x.expand(50, *domain.event_shape)):
        assert 0 < choose_sigma_min(domain, few) <= 0.2 * domain.inradius
