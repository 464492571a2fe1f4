"""Ways to the divergence of a field: by autograd, by random probes, by differences; at walls and in corners."""

import math

import pytest
import torch

from constrained_diffusion import (
    Ball,
    Hypercube,
    Polytope,
    Product,
    ReflectedSDE,
    Region,
    Simplex,
    SolverError,
    log_prob,
)
from constrained_diffusion.divergence import difference_trace, value_and_trace
from tests.guided import F64, normal, seeded

Z = 4.5
BOX = Hypercube(2, [-1.0, 0.0], [2.0, 0.5])


def waves(sde):
    """A smooth field that no law has, and whose normal component is damped at the walls."""
    domain, size = sde.domain, sde.domain.event_shape.numel()
    mix = torch.randn(size, size, generator=seeded(3), dtype=F64)

    def score(x, t):
        v = domain.tangent(x, torch.sin(2 * x / domain.inradius @ mix) / domain.inradius)
        return domain.damp_normal(x, v, sde.sigma(t).expand(x.shape[:-1]))

    return score


@pytest.mark.parametrize("domain", [BOX, Simplex(3), Product(Hypercube(1), Simplex(4))], ids=str)
def test_ways_to_the_divergence_agree(domain):
    sde = ReflectedSDE(domain, 0.2 * domain.inradius, domain.inradius)
    score, x = waves(sde), domain.sample_uniform(40, generator=seeded(), dtype=F64)
    options = {"rtol": 1e-5, "atol": 1e-5}
    few = log_prob(sde, score, x[:4], divergence="exact", **options)
    auto = log_prob(sde, score, x[:4], **options)
    assert torch.equal(auto.value, few.value)
    differences = log_prob(sde, score, x[:4], divergence="differences", **options)
    torch.testing.assert_close(differences.value, few.value, atol=1e-3, rtol=0)
    assert few.nfe < differences.nfe < 3 * domain.dim * few.nfe
    options = {"rtol": 1e-4, "atol": 1e-4}
    exact = log_prob(sde, score, x, divergence="exact", **options)
    random = log_prob(sde, score, x, divergence="hutchinson", probes=16, generator=seeded(5), **options)
    z = (random.value - exact.value) / random.standard_error
    assert float(z.abs().max()) < 6.0
    assert abs(float(z.mean())) < Z / math.sqrt(len(z))
    assert float(z.std()) == pytest.approx(1.0, abs=0.35)
    assert float(random.standard_error.mean()) < 0.5
    torch.testing.assert_close(random.latent, exact.latent, atol=1e-2 * domain.diameter, rtol=0)


@pytest.mark.parametrize("domain", [Simplex(3), Simplex(4), Simplex(4, "euclidean"), Hypercube(2)], ids=str)
def test_differences_bear_rounding(domain):
    """Points as a solver leaves them, off their plane by what `contains` allows: no direction may be lost."""
    x = domain.sample_uniform(200, generator=seeded(), dtype=F64)
    x = x[domain.boundary(x)[0] > 0.01 * domain.inradius].repeat(20, 1)
    eps = torch.finfo(F64).eps
    off = x * (1 + torch.linspace(-10, 10, len(x), dtype=F64)[:, None] * eps)
    off = off[domain.contains(off)]
    assert len(off) > 500
    _, terms = difference_trace(domain, lambda y: domain.tangent(y, 3 * y), off, domain.frame(off))
    torch.testing.assert_close(terms.sum(0), torch.full((len(off),), 3.0 * domain.dim, dtype=F64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("domain", [Simplex(3), BOX, Ball(2)], ids=str)
def test_differences_are_one_sided_at_walls(domain):
    """Of x times its sum: the derivative is another on each side, so nothing may be asked for outside."""
    x = domain.sample_uniform(300, generator=seeded(), dtype=F64)
    distance, normal = domain.boundary(x)
    x = domain.project(x - distance[:, None] * normal)

    def field(y):
        assert domain.contains(y, atol=1e-9).all()
        return domain.tangent(y, y * y)

    _, terms = difference_trace(domain, field, x, domain.frame(x))
    _, expected = value_and_trace(domain, lambda y: domain.tangent(y, y * y), x, domain.frame(x))
    torch.testing.assert_close(terms.sum(0), expected.sum(0), atol=1e-4, rtol=0)


CORNERS = {
    "triangle": (Simplex(3, "euclidean"), torch.eye(3, dtype=F64)),
    "its sides": (Simplex(3), torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]], dtype=F64)),
    "cube": (Hypercube(3), torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.4], [1e-7, 2e-7, 3e-7]]).double()),
    "room": (
        Region([[0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2]]),
        torch.tensor([[0, 0], [0, 2], [1, 1.0]]).double(),
    ),
    "needle": (Polytope([[-0.1, 1.0], [-0.1, -1.0], [1.0, 0.0]], [0.0, 0.0, 1.0]), torch.zeros(1, 2, dtype=F64)),
}


@pytest.mark.parametrize("name", CORNERS)
def test_differences_in_corners(name):
    """Where neither way along most directions stays inside."""
    domain, x = CORNERS[name]
    turned = torch.stack([domain.tangent(x, v) for v in normal(40, *x.shape)])
    turned = turned / domain.inner(x, turned, turned).sqrt().unsqueeze(-1)

    def field(y):
        assert domain.contains(y, atol=1e-9).all()
        return domain.tangent(y, torch.sin(3 * y) + y.flip(-1) * y)

    _, found = difference_trace(domain, field, x, turned)
    _, expected = value_and_trace(domain, lambda y: domain.tangent(y, torch.sin(3 * y) + y.flip(-1) * y), x, turned)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_corners_too_sharp_for_differences_are_said():
    spike = Polytope([[-1e-4, 1.0], [-1e-4, -1.0], [1.0, 0.0]], [0.0, 0.0, 1.0])
    x = torch.zeros(1, 2, dtype=F64)
    with pytest.raises(SolverError, match='sharp for differences: give divergence="exact"'):
        difference_trace(spike, lambda y: y, x, torch.tensor([[[0.0, 1.0]]], dtype=F64))


def test_beyond_eight_dimensions_the_divergence_is_estimated():
    sde = ReflectedSDE(Hypercube(9), 0.1, 0.5)
    score, x = waves(sde), torch.rand(6, 9, generator=seeded(), dtype=F64)
    options = {"rtol": 1e-3, "atol": 1e-3}
    first, again, other = (log_prob(sde, score, x, generator=seeded(s), **options) for s in (0, 0, 1))
    assert torch.equal(first.value, again.value)
    assert not torch.equal(first.value, other.value)
    assert (first.standard_error > 0).all()
    exact = log_prob(sde, score, x, divergence="exact", **options)
    assert float(((first.value - exact.value) / first.standard_error).abs().max()) < 7, "a t law of 7 degrees"
    with pytest.raises(ValueError, match="probes must be at least 2"):
        log_prob(sde, score, x, probes=1)
