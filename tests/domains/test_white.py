"""From plain numbers to tangent vectors that are white in a domain's metric, and what networks see of a simplex."""

import math

import pytest
import torch

from constrained_diffusion import Ball, Hypercube, Product, Simplex
from tests.own_domains import OwnProjectedBox


def _numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "domain",
    [
        Hypercube(3),
        Simplex(3),
        Simplex(6),
        Simplex(6, metric="euclidean"),
        Product(Simplex(5), Ball(2)),
    ],
    ids=repr,
)
def test_white_numbers_become_white_vectors(domain):
    """By the covariance: over all unit numbers, the products of the images are the unit matrix in an own frame."""
    x = domain.sample_uniform(1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[0]
    axes = torch.eye(x.numel(), dtype=torch.float64)
    images = domain.white(x.expand_as(axes), axes)
    frame = domain.frame(x)
    along = torch.stack([domain.inner(x.expand_as(images), images, e.expand_as(images)) for e in frame])
    torch.testing.assert_close(along @ along.T, torch.eye(domain.dim, dtype=torch.float64))
    rebuilt = torch.einsum("ka,kd->ad", along, frame)  # nothing of the images lies outside the tangent space
    torch.testing.assert_close(rebuilt, images)


def test_the_partial_sums_of_white_vectors_are_the_numbers():
    domain, z = Simplex(7), _numbers(20, 7)
    x = domain.sample_uniform(20, dtype=torch.float64)
    torch.testing.assert_close(domain.white(x, z).cumsum(-1)[..., :-1], z[..., :-1])


def test_noise_is_made_of_normal_numbers():
    domain = Simplex(5)
    x = domain.sample_uniform(4, dtype=torch.float64)
    noise = domain.sample_noise(x, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(noise, domain.white(x, _numbers(4, 5, seed=3)))


@pytest.mark.parametrize("n", [3, 10, 100, 1000])
def test_what_networks_see_of_a_simplex_has_one_size_at_any_number_of_parts(n):
    """Of uniform compositions parts and sums spread by about one, however many parts share the whole."""
    domain = Simplex(n)
    x = domain.sample_uniform(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = torch.full((4000,), 0.1 / n, dtype=torch.float64)
    parts, sums, near = domain.planes(x, sigma).unbind(1)
    assert parts.std(0) == pytest.approx(torch.full((n,), math.sqrt((n - 1) / (n + 1))), rel=0.15)
    middle = sums[:, n // 2 - 1].std()
    assert 0.6 < middle < 1.1
    assert sums[:, -1].abs().max() < 1e-9 * n
    torch.testing.assert_close(near, x / (x + 0.1 / n))
    torch.testing.assert_close(domain.features(x, sigma)[:, :n], parts)


def test_a_side_of_no_width_is_seen_as_a_number():
    class Flat(OwnProjectedBox):
        @property
        def bounding_box(self):
            return torch.zeros(2), torch.tensor([2.0, 0.0])

    x, sigma = torch.rand(5, 2), torch.full((5,), 0.1)
    assert Flat().features(x, sigma).isfinite().all()
    assert Flat().planes(x, sigma).isfinite().all()
    torch.testing.assert_close(Flat().planes(x, sigma)[:, 0, 0], x[:, 0] - 1)
