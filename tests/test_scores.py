import pytest
import torch
from torch import nn

from constrained_diffusion import (
    MLP,
    Ball,
    DiffusionFlow,
    Euclidean,
    Hypercube,
    Polytope,
    Product,
    ReflectedSDE,
    ScoreModel,
    ShapeError,
    Simplex,
    Sphere,
    Torus,
)
from tests.own_domains import OwnAnnulus

DOMAINS = [
    Hypercube(2),
    Hypercube((2, 3), low=-1.0, high=2.0),
    Simplex(3),
    Simplex(5),
    Simplex(5, "euclidean"),
    Ball(3, 2.0),
]


class Constant(nn.Module):
    """A network that answers one, whatever is asked."""

    def forward(self, x, log_sigma):
        return torch.ones_like(x)


def face_points(domain, n, generator):
    """Uniform points moved to a wall, and the wall's inward normal."""
    x = domain.sample_uniform(n, generator=generator, dtype=torch.float64)
    distance, normal = domain.boundary(x)
    x = domain.project(x - domain.expand(distance) * normal)
    return x, normal


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_no_component_across_the_wall(domain):
    generator = torch.Generator().manual_seed(0)
    sde = ReflectedSDE(domain)
    torch.manual_seed(0)
    network = MLP(domain, width=16, depth=1).double()
    nn.init.normal_(network.leave.weight)
    model = ScoreModel(network, sde)
    x, normal = face_points(domain, 500, generator)
    t = torch.rand(500, generator=generator, dtype=torch.float64)
    s = model(x, t).detach()
    scale = domain.inner(x, s, s).sqrt()
    assert float((domain.inner(x, s, normal).abs() / scale).max()) < 1e-6
    torch.testing.assert_close(domain.tangent(x, s), s)


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_scale_is_that_of_the_target_and_numbers_become_tangent_vectors(domain):
    sde = ReflectedSDE(domain, 1e-4)
    model = ScoreModel(Constant(), sde)
    x = domain.sample_uniform(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x[domain.boundary(x)[0] > 0.01]
    t = torch.zeros(len(x), dtype=torch.float64)
    expected = domain.white(x, torch.ones_like(x)) * float(sde.target_rms(sde.sigma(t[0])))
    torch.testing.assert_close(model(x, t), expected, rtol=1e-4, atol=1e-6 / sde.sigma_min)


def test_any_batch_shape_and_scalar_time():
    model = ScoreModel(MLP(Hypercube(2), width=8, depth=1), ReflectedSDE(Hypercube(2)))
    nn.init.normal_(model.network.leave.weight)
    x, t = torch.rand(2, 3, 2), torch.rand(2, 3)
    out = model(x, t)
    assert out.shape == x.shape
    torch.testing.assert_close(model(x[1, 2], t[1, 2]), out[1, 2])
    torch.testing.assert_close(model(x, torch.tensor(0.3)), model(x, torch.full((2, 3), 0.3)))
    assert model(x[:, :0], t[:, :0]).shape == (2, 0, 2)


def test_network_of_the_wrong_shape_is_named():
    model = ScoreModel(nn.Identity(), ReflectedSDE(Hypercube(2)))
    model.network.forward = lambda x, log_sigma: x[..., :1]
    with pytest.raises(ShapeError, match="network returned shape"):
        model(torch.rand(4, 2), torch.rand(4))


def test_table_is_saved_with_the_weights():
    model = ScoreModel(MLP(Ball(2), width=8, depth=1), ReflectedSDE(Ball(2)))
    assert {"log_rms", "log_scale"} <= model.state_dict().keys()


def test_euclidean_is_left_alone():
    sde = ReflectedSDE(Euclidean(2), 0.01, 3.0)
    model = ScoreModel(Constant(), sde)
    x = torch.randn(5, 2)
    t = torch.full((5,), 0.4)
    expected = (sde.target_rms(sde.sigma(t)))[:, None].expand(5, 2)
    torch.testing.assert_close(model(x, t), expected)
    assert float(expected[0, 0] * sde.sigma(t[0])) == pytest.approx(1.0, rel=0.1)


def test_mlp_conditions():
    network = MLP(Hypercube(2), width=8, depth=1, condition_dim=3)
    nn.init.normal_(network.leave.weight)
    x, log_sigma = torch.rand(4, 2), torch.zeros(4)
    a, b = network(x, log_sigma, condition=torch.zeros(4, 3)), network(x, log_sigma, condition=torch.ones(4, 3))
    assert (a != b).any()
    with pytest.raises(ShapeError, match="condition must have shape"):
        network(x, log_sigma)
    with pytest.raises(ShapeError, match="without one"):
        MLP(Hypercube(2), width=8, depth=1)(x, log_sigma, condition=torch.zeros(4, 3))


def test_one_noise_level_for_all_rows_is_embedded_once_and_alike():
    network = MLP(Hypercube(2), width=16, depth=2).double()
    nn.init.normal_(network.leave.weight)
    x, level = torch.rand(5, 2, dtype=torch.float64), torch.tensor(-1.3, dtype=torch.float64)
    torch.testing.assert_close(network(x, level.expand(5)), network(x, level.repeat(5)))
    assert network(x[:0], level.expand(0)).shape == (0, 2)


@pytest.mark.parametrize(
    "domain",
    [
        Hypercube(2),
        Hypercube(20),
        Ball(3),
        Simplex(3),
        Simplex(10),
        Sphere(2),
        Torus(2),
        Product(Ball(2), Hypercube(1)),
    ],
    ids=str,
)
def test_answers_have_the_size_of_exact_targets(domain):
    for process in (ReflectedSDE(domain, 0.01), DiffusionFlow(domain)):
        assert torch.equal(process.output_scale_table, process.target_rms_table[1])


@pytest.mark.parametrize("domain", [OwnAnnulus(), Polytope.birkhoff(3)], ids=["annulus", "matrices"])
def test_answers_are_not_as_long_as_targets_of_paths(domain):
    """Where the law is uniform the score is nil, and targets of paths are as long as ever."""
    for process in (ReflectedSDE(domain, 0.01), DiffusionFlow(domain)):
        grid, log_rms = process.target_rms_table
        least = (log_rms - process.output_scale_table).exp()
        torch.testing.assert_close(least[:4], torch.ones(4, dtype=torch.float64))  # at little noise they are the same
        assert float(least[-1]) > 30
        model = ScoreModel(Constant(), process)
        x = domain.sample_uniform(50, generator=torch.Generator().manual_seed(0))
        assert float(domain.inner(x, *[model(x, torch.ones(50))] * 2).sqrt().mean()) < 0.02 / process.length
        assert process.target_rms(grid[-1:].exp()).item() == pytest.approx(float(log_rms[-1].exp()))  # what weights use


def test_models_saved_before_keep_their_scale():
    sde = ReflectedSDE(OwnAnnulus(), 0.01)
    model = ScoreModel(Constant(), sde)
    old = {k: v for k, v in model.state_dict().items() if k != "log_scale"}
    model.load_state_dict(old)
    assert torch.equal(model.log_scale, model.log_rms)
    assert "log_scale" not in old or torch.equal(old["log_scale"], old["log_rms"])
