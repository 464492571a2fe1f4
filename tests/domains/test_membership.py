"""A set known by a membership function alone: membership, projections, walls, moves and what networks see."""

import math

import pytest
import torch

from constrained_diffusion import (
    Ball,
    Hypercube,
    MetropolisDomain,
)
from tests.memberships import BOTH, DOMAINS, EVERY, F64, accepts, box, candidates, disc, interior, seeded

# ------------------------------------------------------------------------------------------------------------ geometry


@BOTH
@EVERY
def test_contains_asks_the_function(name, dtype):
    domain = DOMAINS[name]
    x = torch.cat([candidates(domain, 500, dtype, 1.5), interior(name, 50, dtype)])
    assert torch.equal(domain.contains(x), accepts(domain, x))
    assert domain.contains(x).any()
    shaped = x[:48].reshape(4, 3, 4, *domain.event_shape)
    assert torch.equal(domain.contains(shaped), domain.contains(x[:48]).reshape(4, 3, 4))
    assert domain.contains(x[:0]).shape == (0,)
    assert domain.contains(x[0]).shape == ()


@pytest.mark.parametrize("atol", [0.0, 0.1])
@EVERY
def test_contains_refuses_what_is_not_finite(name, atol):
    domain = DOMAINS[name]
    for bad in (math.nan, math.inf, -math.inf):
        x = interior(name, 3)
        x.flatten(1)[1, -1] = bad
        assert domain.contains(x, atol=atol).tolist() == [True, False, True]


def test_the_box_is_part_of_the_set():
    """The function sees points of the box only, and points beyond it are outside whatever it says."""
    seen = []

    def everywhere(x):
        seen.append(x.reshape(-1, 2))
        return torch.ones(len(x), dtype=torch.bool)

    domain = MetropolisDomain(2, everywhere, [0.0, -1.0], [1.0, 3.0])
    x = torch.tensor([[0.5, 2.0], [1.0, 3.0], [1.1, 0.0], [0.5, -1.5], [math.nan, 0.0]], dtype=F64)
    assert domain.contains(x).tolist() == [True, True, False, False, False]
    domain.boundary(x[:4])
    domain.project(x)
    for points in seen:
        assert ((points >= torch.tensor([0.0, -1.0])) & (points <= torch.tensor([1.0, 3.0]))).all()
    distance, _ = domain.boundary(torch.tensor([[0.3, 1.0], [0.5, -0.7]], dtype=F64))
    torch.testing.assert_close(distance, torch.tensor([0.3, 0.3], dtype=F64), atol=0.2, rtol=0)


@pytest.mark.parametrize("name", ["disc", "box"])
def test_contains_with_tolerance(name):
    """A point beyond a flat or round wall by a clear half, or twice, of the tolerance."""
    domain = DOMAINS[name]
    if name == "disc":
        angle = torch.linspace(0, 2 * math.pi, 50, dtype=F64)
        wall = torch.stack([angle.cos(), angle.sin()], -1)
        out = wall
    else:
        wall = torch.tensor([[1.0, 0.0], [0.8, 1.0], [0.0, 0.5], [2.0, 0.4]], dtype=F64)
        out = torch.tensor([[0.0, -1.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.0]], dtype=F64)
    assert not domain.contains(wall + 0.05 * out).any()
    assert domain.contains(wall + 0.05 * out, atol=0.1).all()
    assert not domain.contains(wall + 0.2 * out, atol=0.1).any()
    assert not domain.contains(wall + 10 * out, atol=0.1).any()


def test_contains_with_tolerance_of_one_point():
    assert not bool(disc().contains(torch.tensor([1.2, 0.0]), atol=1e-3))
    assert bool(disc().contains(torch.tensor([1.01, 0.0]), atol=0.1))


@BOTH
@EVERY
def test_project_lands_inside(name, dtype):
    domain = DOMAINS[name]
    x = candidates(domain, 400, dtype, 3.0)
    y = domain.project(x)
    assert y.dtype == dtype
    assert y.shape == x.shape
    assert accepts(domain, y).all()
    assert torch.equal(domain.project(y), y)
    good = interior(name, 100, dtype)
    assert torch.equal(domain.project(good), good)
    assert torch.equal(domain.project(good[0]), good[0])
    assert domain.contains(domain.project(x[0]))
    assert torch.equal(y, torch.cat([domain.project(part) for part in x.split(130)]))


@EVERY
def test_project_stops_at_the_wall(name):
    """A touch further out, on the way back to where the point came from, is outside."""
    domain = DOMAINS[name]
    x = candidates(domain, 400, spread=2.0)
    x = x[~domain.contains(x)]
    y = domain.project(x)
    gap = (x - y).flatten(1).norm(dim=-1)
    assert (gap > 0).all()
    step = (1e-6 / gap).clamp(max=1.0).reshape(-1, *(1,) * len(domain.event_shape))
    assert not domain.contains(y + step * (x - y)).any()


def test_project_leaves_what_is_not_finite():
    x = torch.tensor([[math.nan, 0.0], [2.0, 0.0], [math.inf, 0.0]])
    y = disc().project(x)
    assert not y[[0, 2]].isfinite().all(-1).any()
    assert disc().contains(y[1])


def disc_truth(x):
    r = x.norm(dim=-1, keepdim=True)
    return (1 - r).squeeze(-1), -x / r


def test_boundary_of_the_disc():
    x = disc().sample_uniform(2000, generator=seeded(), dtype=F64)
    true, direction = disc_truth(x)
    for low, high, error in ((0.0, 0.03, 0.05), (0.03, 0.1, 0.1)):  # exact in the limit
        rows = (true > low) & (true < high)
        assert rows.sum() > 50
        distance, _ = disc().boundary(x[rows])
        assert ((distance / true[rows] - 1).abs() < error).all()
    distance, normal = disc().boundary(x)
    assert (distance > 0).all()
    torch.testing.assert_close(normal.norm(dim=-1), torch.ones(2000, dtype=F64))
    wide = x.norm(dim=-1) > 0.05  # in the middle any direction is as good
    assert ((normal * direction).sum(-1)[wide] > 0.999).all()


def test_boundary_of_the_box():
    known = Hypercube(2, 0.0, [2.0, 1.0])
    x = known.sample_uniform(3000, generator=seeded(), dtype=F64)
    distances = known.walls(x)[0].sort(-1).values
    clear = distances[:, 1] > 6 * distances[:, 0]  # away from edges and the medial axis
    x = x[clear]
    assert len(x) > 500
    true, direction = known.boundary(x)
    distance, normal = box().boundary(x)
    torch.testing.assert_close(distance, true, rtol=0.03, atol=1e-4)
    assert ((normal * direction).sum(-1) > 0.98).all()


@BOTH
@EVERY
def test_boundary_signs_and_units(name, dtype):
    domain = DOMAINS[name]
    x = torch.cat([candidates(domain, 200, dtype, 2.0), interior(name, 50, dtype)])
    distance, normal = domain.boundary(x)
    assert distance.shape == (250,)
    assert normal.shape == x.shape
    assert distance.dtype == normal.dtype == dtype
    assert torch.equal(distance > 0, domain.contains(x))
    assert distance.isfinite().all()
    torch.testing.assert_close(normal.flatten(1).norm(dim=-1), torch.ones(250, dtype=dtype))
    assert domain.boundary(x[:0])[0].shape == (0,)
    assert domain.boundary(x[0])[0].shape == ()
    assert domain.boundary(x[:6].reshape(2, 3, *x.shape[1:]))[1].shape == (2, 3, *x.shape[1:])


def test_boundary_outside_the_disc():
    """Beside the wall the depth is right to a few per cent, and the normal points home."""
    angle = torch.linspace(0.1, 2 * math.pi, 100, dtype=F64)
    out = torch.stack([angle.cos(), angle.sin()], -1)
    distance, normal = disc().boundary(1.02 * out)
    torch.testing.assert_close(distance, torch.full_like(distance, -0.02), rtol=0.3, atol=0)
    assert ((normal * -out).sum(-1) > 0.9999).all()
    far, normal = disc().boundary(2.5 * out)
    assert (far <= -1.5 + 1e-3).all()  # no point of the set is nearer
    assert ((normal * -out).sum(-1) > 0.5).all()


def test_inradius_and_sizes():
    assert 0.5 < disc().inradius <= 1.0
    assert 0.3 < box().inradius <= 0.5 + 1e-6
    assert disc().log_volume == pytest.approx(math.log(math.pi), abs=0.03)
    assert disc().spectral_gap == pytest.approx(math.pi**2 / (2 * 2.5**2))
    assert DOMAINS["ell"].spectral_gap == 1.0
    for found in disc().bounding_box:
        assert found.shape == (2,)
    assert DOMAINS["matrices"].dim == 4
    assert DOMAINS["matrices"].event_shape == (2, 2)


# --------------------------------------------------------------------------------------------------------------- moves


@BOTH
@EVERY
def test_reflect_is_the_metropolis_rule(name, dtype):
    domain = DOMAINS[name]
    x = interior(name, 500, dtype)
    for size in (0.01, 0.5, 5.0):
        v = size * torch.randn(x.shape, generator=seeded(), dtype=dtype)
        good = accepts(domain, x + v).reshape(-1, *(1,) * len(domain.event_shape))
        y = domain.reflect(x, v)
        assert torch.equal(y, torch.where(good, x + v, x))
        assert domain.contains(y).all()
    assert torch.equal(domain.reflect(x[0], v[0]), y[0])


# ------------------------------------------------------------------------------------------------------------ networks


@BOTH
def test_damping_in_the_disc(dtype):
    """A disc is a quadric: w = grad log(1 - |x|^2), the depth 1/|w|, all in closed form."""
    width = 0.2
    x = 0.98 * Ball(2).sample_uniform(300, generator=seeded(), dtype=dtype)
    v = torch.randn(300, 2, generator=seeded(1), dtype=dtype)
    u = disc().damp_normal(x, v, width)
    assert u.dtype == dtype
    r = x.norm(dim=-1, keepdim=True)
    n = -x / r
    t = torch.stack([-n[:, 1], n[:, 0]], -1)
    across, along = (n * v).sum(-1), (t * v).sum(-1)
    depth = ((1 - r**2) / (2 * r)).squeeze(-1)
    torch.testing.assert_close((t * u).sum(-1), along, atol=5e-3, rtol=0)
    torch.testing.assert_close((n * u).sum(-1), across * (depth / width).tanh(), atol=5e-3, rtol=0)


@pytest.mark.parametrize("gap", [1e-4, 1e-5, 1e-6, 1e-8, 0.0])
def test_damping_at_a_curved_wall(gap):
    angle = torch.linspace(0.1, 6.0, 40, dtype=F64)
    out = torch.stack([angle.cos(), angle.sin()], -1)
    along = torch.stack([-angle.sin(), angle.cos()], -1)
    u = disc().damp_normal((1 - gap) * out, out + along, 0.1)
    assert ((u * out).sum(-1).abs() < 0.02 + 20 * gap).all()
    torch.testing.assert_close((u * along).sum(-1), torch.ones(40, dtype=F64), atol=0.02, rtol=0)


@BOTH
@pytest.mark.parametrize("name", ["disc", "ball5"])
def test_normal_at_a_curved_wall(name, dtype):
    """A point that was pulled to the wall lies there to the last digits."""
    domain = DOMAINS[name]
    x = domain.project(1.2 * candidates(domain, 400, dtype))
    x = x[x.norm(dim=-1) > 1 - 1e-6]
    assert len(x) > 20
    distance, normal = domain.boundary(x)
    assert distance.abs().max() < 2e-6
    torch.testing.assert_close(normal, -x, atol=1e-3, rtol=0)


def in_half_plane(x):
    return 3 * x[:, 0] + 4 * x[:, 1] <= 1


def test_normal_at_an_oblique_wall_of_a_long_box():
    domain = MetropolisDomain(2, in_half_plane, [-1.0, -10.0], [1.0, 10.0])
    x = domain.project(candidates(domain, 400))
    x = x[3 * x[:, 0] + 4 * x[:, 1] > 1 - 1e-9]
    assert len(x) > 50
    for points in (x, x + 1e-3, x - 1e-7):
        normal = domain.boundary(points)[1]
        torch.testing.assert_close(normal, torch.tensor([[-0.6, -0.8]], dtype=F64).expand_as(x), atol=5e-3, rtol=0)


def test_damping_at_flat_walls_and_in_the_middle():
    middle = disc().damp_normal(torch.zeros(1, 2, dtype=F64), torch.ones(1, 2, dtype=F64), 0.01)
    torch.testing.assert_close(middle, torch.ones(1, 2, dtype=F64))
    flat = torch.tensor([[1.0, 1e-5], [1e-5, 0.5], [0.8, 1 - 1e-5]], dtype=F64)
    u = box().damp_normal(flat, torch.ones(3, 2, dtype=F64), 0.1)
    expected = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], dtype=F64)
    torch.testing.assert_close(u, expected, atol=5e-3, rtol=0)


def test_damping_is_differentiable():
    """Linear in v, and its divergence in x is that of the closed form."""
    width = 0.2
    x = torch.tensor([[0.5, 0.2], [-0.3, 0.6], [0.7, -0.5], [0.1, 0.3]], dtype=F64)
    x0, v = x.requires_grad_(), torch.tensor([[1.0, -0.5]] * 4, dtype=F64, requires_grad=True)

    def exact(x, v):
        r = x.norm(dim=-1, keepdim=True)
        h = ((1 - r**2) / (2 * r) / width).tanh()
        return v - (1 - h) * (x / r) * ((x / r) * v).sum(-1, keepdim=True)

    def jacobian(f, at):
        value = f(x0, v)
        rows = [torch.autograd.grad(value[:, i].sum(), at, retain_graph=True)[0] for i in range(2)]
        return torch.stack(rows, 1)

    for at, error in ((v, 5e-3), (x0, 0.05)):
        found = jacobian(lambda x, v: disc().damp_normal(x, v, width), at)
        torch.testing.assert_close(found, jacobian(exact, at), atol=error, rtol=0.03)


@EVERY
def test_damping_shapes(name):
    domain = DOMAINS[name]
    x = interior(name, 6).reshape(2, 3, *domain.event_shape)
    width = torch.full((2, 3), 0.1, dtype=F64)
    u = domain.damp_normal(x, torch.ones_like(x), width)
    assert u.shape == x.shape
    assert u.isfinite().all()
    assert (u.flatten(2).norm(dim=-1) <= domain.dim**0.5 + 1e-9).all()
    assert domain.damp_normal(x[0, 0], torch.ones_like(x[0, 0]), 0.1).shape == domain.event_shape
    assert domain.damp_normal(x[:0], x[:0], 0.1).shape == (0, 3, *domain.event_shape)


@BOTH
@EVERY
def test_features(name, dtype):
    domain = DOMAINS[name]
    x = torch.cat([interior(name, 50, dtype), domain.project(candidates(domain, 50, dtype, 2.0))])
    for sigma in (1e-3, 0.1, 10.0):
        f = domain.features(x, torch.full((100,), sigma, dtype=dtype))
        assert f.ndim == 2
        assert f.shape[0] == 100
        assert f.dtype == dtype
        assert f.isfinite().all()
        assert f.abs().max() <= 1 + 1e-5
    shaped = domain.features(x.reshape(4, 25, *domain.event_shape), torch.full((4, 25), 10.0, dtype=dtype))
    torch.testing.assert_close(shaped.reshape(100, -1), f)
    assert domain.features(x[0], torch.tensor(0.1, dtype=dtype)).shape == f.shape[1:]


def test_features_of_no_points():
    assert disc().features(torch.zeros(0, 2), torch.zeros(0)).shape == (0, 4)
