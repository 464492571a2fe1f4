"""The perceptron's direct lines from coordinates to the answer."""

import pytest
import torch

from constrained_diffusion import Ball, Euclidean, Hypercube, Product, Simplex
from constrained_diffusion.networks import MLP


def error(network, dim, steps=400):
    """Relative error after learning to pull points to the middle, by more at little noise."""
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(steps):
        x = torch.rand(128, dim, generator=generator)
        log_sigma = -3 * torch.rand(128, generator=generator)
        wanted = (0.5 - x) * (1 - log_sigma)[:, None]
        value = (network(x, log_sigma) - wanted).square().mean() / wanted.square().mean()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        losses.append(value.item())
    return sum(losses[-20:]) / 20


def test_a_pull_in_more_directions_than_there_are_units():
    torch.manual_seed(0)
    domain = Hypercube(64)
    network = MLP(domain, width=16, depth=1)
    assert error(network, 64) < 0.05
    network = MLP(domain, width=16, depth=1)
    network.direct = None
    assert error(network, 64) > 0.4  # rank 16 of 64


def test_only_where_dimensions_are_many():
    assert MLP(Hypercube(8), width=32).direct is None
    assert MLP(Hypercube(9), width=32).direct is not None
    assert MLP(Simplex(9), width=32).direct is None  # of 8 dimensions


@pytest.mark.parametrize(
    "domain",
    [
        Hypercube((3, 4)),
        Simplex(12),
        Ball(12),
        Euclidean((4, 3)),
        Product(Hypercube(6), Ball(6)),
        Product(Euclidean(6), Ball(6)),
    ],
    ids=str,
)
def test_each_point_by_itself(domain):
    """Rows do not mix, one noise level for all is that of each, and a fresh network answers zero."""
    torch.manual_seed(0)
    network = MLP(domain, width=16, depth=1, condition_dim=2).double()
    x = domain.sample_prior(5, 1.0, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    one, condition = torch.tensor(-1.0).double(), torch.rand(5, 2).double()
    assert not bool(network(x, one.expand(5), condition).any())
    for weight in (network.leave.weight, network.direct.weight, network.direct.bias):
        torch.nn.init.normal_(weight)
    out = network(x, one.expand(5), condition)
    assert out.shape == x.shape
    assert torch.allclose(out, network(x, torch.full((5,), -1.0).double(), condition))
    rows = [network(x[i : i + 1], one.expand(1), condition[i : i + 1]) for i in range(5)]
    assert torch.allclose(out, torch.cat(rows))
    plain = MLP(domain, width=16, depth=1).double()
    torch.nn.init.normal_(plain.direct.weight)
    assert torch.allclose(plain(x, one.expand(5)), plain(x, torch.full((5,), -1.0).double()))
    torch.nn.init.zeros_(plain.direct.weight)
    with torch.no_grad():
        plain.direct.bias[: x[0].numel()] = 2.0
    assert torch.allclose(plain(x, one.expand(5)), torch.full_like(x, 2))
