"""`damp_normal` against its definition, solved densely."""

import pytest
import torch

from constrained_diffusion.domains import Ball, Domain, Hypercube, Polytope, Simplex
from constrained_diffusion.domains.tridiagonal import solve

WIDTH = 0.05


def minimiser(domain, x, v, basis):
    """argmin over tangent u of |u - v|^2 + sum_i (1/h_i - 1) (n_i . u)^2, in coordinates of an orthonormal basis."""
    distances, normals = domain.walls(x)
    h = torch.tanh(distances.clamp(min=1e-9) / min(WIDTH, 0.5 * domain.inradius))
    out = []
    for k in range(len(x)):
        point = x[k].expand(len(basis), *domain.event_shape)
        n = torch.stack([domain.inner(point, basis, m.expand_as(point)) for m in normals[k]])
        c = domain.inner(point, basis, v[k].expand_as(point))
        matrix = torch.eye(len(basis), dtype=x.dtype) + n.T @ torch.diag(1 / h[k] - 1) @ n
        out.append((torch.linalg.solve(matrix, c).reshape(-1, *[1] * (x.ndim - 1)) * basis).sum(0))
    return torch.stack(out)


def orthonormal(domain):
    n = domain.event_shape[0]
    if not isinstance(domain, Simplex):
        return torch.eye(n, dtype=torch.float64)
    if domain.metric == "euclidean":
        return torch.linalg.qr(torch.eye(n, dtype=torch.float64) - 1 / n)[0][:, : n - 1].T
    return domain._push(torch.eye(n - 1, dtype=torch.float64))


@pytest.mark.parametrize(
    "domain",
    [
        *(Simplex(n, metric) for n in (2, 3, 6) for metric in ("euclidean", "cumulative")),
        Hypercube(3, [-1.0, 0.0, 0.0], [1.0, 1.0, 4.0]),
        Ball(3, 2.0),
    ],
    ids=str,
)
def test_against_the_definition(domain):
    generator = torch.Generator().manual_seed(0)
    x = domain.sample_uniform(40, generator=generator, dtype=torch.float64)
    distance, normal = domain.boundary(x)
    x = torch.cat([x, domain.project(x - (distance - 0.01).unsqueeze(-1) * normal)])  # half of them near a wall
    v = domain.tangent(x, torch.randn(x.shape, generator=generator, dtype=torch.float64))
    expected = minimiser(domain, x, v, orthonormal(domain))
    torch.testing.assert_close(domain.damp_normal(x, v, WIDTH), expected, atol=1e-8, rtol=1e-8)


def test_the_general_method_agrees_with_the_simplexs_own():
    domain = Simplex(5, "euclidean")
    generator = torch.Generator().manual_seed(0)
    x = domain.sample_uniform(50, generator=generator, dtype=torch.float64)
    v = domain.tangent(x, torch.randn(x.shape, generator=generator, dtype=torch.float64))
    torch.testing.assert_close(Domain.damp_normal(domain, x, v, WIDTH), domain.damp_normal(x, v, WIDTH))


def test_tridiagonal():
    generator = torch.Generator().manual_seed(0)
    lower, upper = (torch.rand(4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    diagonal = 2 + torch.rand(4, 7, generator=generator, dtype=torch.float64)
    rhs = torch.randn(4, 7, generator=generator, dtype=torch.float64)
    dense = torch.diag_embed(diagonal) + torch.diag_embed(lower, -1) + torch.diag_embed(upper, 1)
    torch.testing.assert_close(solve(lower, diagonal, upper, rhs), torch.linalg.solve(dense, rhs))


@pytest.mark.parametrize("facets", [20, 150])
def test_many_walls(facets):
    """More walls than dimensions: the other one of two equal systems, with next to nothing left on the wall."""
    generator = torch.Generator().manual_seed(0)
    normals = torch.nn.functional.normalize(torch.randn(facets, 6, generator=generator, dtype=torch.float64), dim=-1)
    domain = Polytope(normals, torch.ones(facets))
    assert 6 < len(domain.b) <= 64 if facets == 20 else len(domain.b) > 64
    x = domain.sample_uniform(20, generator=generator, dtype=torch.float64)
    distance, normal = domain.boundary(x)
    x = torch.cat([x, x - (distance - 0.01).unsqueeze(-1) * normal])
    v = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    expected = minimiser(domain, x, v, torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(domain.damp_normal(x, v, WIDTH), expected, atol=1e-6, rtol=1e-6)
    single = domain.damp_normal(x.float(), v.float(), WIDTH)
    torch.testing.assert_close(single, expected.float(), atol=3e-5, rtol=1e-5)
    wall = x[:20] - distance.unsqueeze(-1) * normal
    left = (domain.damp_normal(wall.float(), v[:20].float(), WIDTH) * normal.float()).sum(-1)
    assert left.abs().max() < 1e-4
