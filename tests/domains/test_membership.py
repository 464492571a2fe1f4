"""A set known by a membership function alone: what it promises, and how well it guesses."""

import functools
import json
import math

import pytest
import torch
from scipy import stats

from constrained_diffusion import (
    Ball,
    Domain,
    DomainError,
    Hypercube,
    MetropolisDomain,
    ReflectedDiffusion,
    ReflectedSDE,
    ShapeError,
    SolverError,
)

Z = 4.5
ALPHA = 1e-5
F64 = torch.float64


def in_disc(x):
    return x.square().sum(-1) <= 1


def in_box(x):
    return (x >= 0).all(-1) & (x[:, 0] <= 2) & (x[:, 1] <= 1)


def in_ell(x):
    """[0, 2]^2 without its upper right quarter."""
    return (x.amin(-1) >= 0) & (x.amax(-1) <= 2) & (x.amin(-1) <= 1)


def in_tiny_disc(x):
    """Radius 0.02 around (0.5, 0.25)."""
    return (x[:, 0] - 0.5) ** 2 + (x[:, 1] - 0.25) ** 2 <= 0.02**2


def in_matrices(x):
    """Matrices 2 x 2 of Frobenius norm at most 1 and non-negative trace."""
    return (x.square().sum((-2, -1)) <= 1) & (x[:, 0, 0] + x[:, 1, 1] >= 0)


def nowhere(x):
    return torch.zeros(len(x), dtype=torch.bool)


def disc():
    return MetropolisDomain(2, in_disc, -1.25, 1.25)


def box():
    return MetropolisDomain(2, in_box, [-0.5, -0.5], [2.5, 2.0])


def tiny():
    return MetropolisDomain(2, in_tiny_disc, -1.0, 1.0, start=[0.505, 0.25])


MAKERS = {
    "disc": disc,
    "ell": lambda: MetropolisDomain(2, in_ell, -1.0, 3.0, spectral_gap=1.0),
    "ball5": lambda: MetropolisDomain(5, in_disc, -1.0, 1.0),
    "box": box,
    "tiny": tiny,
    "matrices": lambda: MetropolisDomain((2, 2), in_matrices, -1.0, 1.0),
}
DOMAINS = {name: make() for name, make in MAKERS.items()}
EVERY = pytest.mark.parametrize("name", MAKERS)
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def accepts(domain, x):
    """Membership by the function itself."""
    low, high = (b.to(x) for b in domain.bounding_box)
    boxed = ((x >= low) & (x <= high)).flatten(1).all(-1)
    return boxed & domain.inside(x)


def candidates(domain, n, dtype=F64, spread=1.0):
    """Points in and around the box, not only inside."""
    low, high = (b.to(dtype) for b in domain.bounding_box)
    u = torch.rand((n, *domain.event_shape), generator=seeded(5), dtype=dtype)
    return (low + high) / 2 + (2 * u - 1) * spread * (high - low) / 2


def interior(name, n, dtype=F64):
    if name == "tiny":  # its own uniform law is a walk, tested below
        v = 0.02 * Ball(2).sample_uniform(n, generator=seeded(6), dtype=dtype) * 0.999
        return v + torch.tensor([0.5, 0.25], dtype=dtype)
    return DOMAINS[name].sample_uniform(n, generator=seeded(6), dtype=dtype)


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


@pytest.mark.parametrize("name", ["disc", "ell", "ball5"])
@pytest.mark.parametrize("size", [0.1, 0.8])
def test_reflect_keeps_the_uniform_law(name, size):
    domain, generator = DOMAINS[name], seeded()
    x, fresh = (domain.sample_uniform(5000, generator=generator, dtype=F64) for _ in range(2))
    for _ in range(60):
        x = domain.reflect(x, size * torch.randn(x.shape, generator=generator, dtype=F64))
    for f in (lambda z: z[:, 0], lambda z: z[:, 1], lambda z: z.norm(dim=-1), lambda z: z.amin(-1)):
        assert stats.ks_2samp(f(x).numpy(), f(fresh).numpy()).pvalue > ALPHA


# ---------------------------------------------------------------------------------------------------------------- laws


def test_sample_uniform_by_rejection():
    x = disc().sample_uniform(10_000, generator=seeded(), dtype=F64)
    assert stats.kstest(x.square().sum(-1).numpy(), "uniform").pvalue > ALPHA
    assert stats.kstest(torch.atan2(x[:, 1], x[:, 0]).numpy(), stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > ALPHA
    x = box().sample_uniform(10_000, generator=seeded(), dtype=F64)
    assert stats.kstest(x[:, 0].numpy() / 2, "uniform").pvalue > ALPHA
    assert stats.kstest(x[:, 1].numpy(), "uniform").pvalue > ALPHA
    x = DOMAINS["ball5"].sample_uniform(5000, generator=seeded(), dtype=F64)
    assert stats.kstest(x.norm(dim=-1).numpy() ** 5, "uniform").pvalue > ALPHA


def test_sample_uniform_of_a_thin_set():
    """A three thousandth of the box: by a walk. Neighbours share one of 256 starts only at first."""
    x = tiny().sample_uniform((500, 2), generator=seeded(), dtype=F64)
    assert x.shape == (500, 2, 2)
    x = x.reshape(1000, 2)
    assert tiny().sample_uniform(0).shape == (0, 2)
    assert accepts(tiny(), x).all()
    away = (x - torch.tensor([0.5, 0.25])) / 0.02
    assert stats.kstest(away.square().sum(-1).numpy(), "uniform").pvalue > ALPHA
    angle = torch.atan2(away[:, 1], away[:, 0])
    assert stats.kstest(angle.numpy(), stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > ALPHA


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "tiny"])
def test_sample_uniform_shapes(name):
    domain = DOMAINS[name]
    batch = (2, 3)
    for dtype in (None, torch.float32, F64):
        x = domain.sample_uniform(batch, generator=seeded(), dtype=dtype)
        assert x.shape == (*batch, *domain.event_shape)
        assert x.dtype == (dtype or torch.get_default_dtype())
        assert domain.contains(x).all()
    assert torch.equal(x, domain.sample_uniform(batch, generator=seeded(), dtype=F64))
    assert domain.sample_uniform(0, generator=seeded()).shape == (0, *domain.event_shape)


@pytest.mark.parametrize("sigma", [0.1, 0.3])
def test_noise_is_close_to_the_exact_kernel_of_the_box(sigma):
    known = Hypercube(2, 0.0, [2.0, 1.0])
    x0 = torch.tensor([0.05, 0.7], dtype=F64).expand(5000, 2)
    x = box().noise(x0, sigma, generator=seeded())
    exact = known.sample_heat_kernel(x0, sigma, generator=seeded(1))
    assert box().contains(x).all()
    for found, true in zip(x.T, exact.T, strict=True):
        assert stats.ks_2samp(found.numpy(), true.numpy()).statistic < 0.05


def test_much_noise_is_uniform():
    x0 = torch.tensor([0.9, 0.0], dtype=F64).expand(4000, 2)
    x = disc().noise(x0, 3.0, generator=seeded())
    assert stats.kstest(x.square().sum(-1).numpy(), "uniform").pvalue > ALPHA
    angle = torch.atan2(x[:, 1], x[:, 0]).numpy()
    assert stats.kstest(angle, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > ALPHA


def test_little_noise_is_gaussian():
    """Far from the wall nothing is rejected: a normal law of standard deviation sigma, for each row its own."""
    sigma = torch.tensor([0.001, 0.02, 0.1], dtype=F64).repeat(4000)
    x = disc().noise(torch.zeros(12_000, 2, dtype=F64), sigma, generator=seeded())
    scaled = (x / sigma.unsqueeze(-1)).reshape(4000, 3, 2)
    for column in scaled.flatten(1).T:
        assert stats.kstest(column.numpy(), "norm").pvalue > ALPHA


def test_noise_shapes_and_repetition():
    domain = DOMAINS["matrices"]
    x0 = domain.sample_uniform((2, 3), generator=seeded())
    sigma = torch.tensor([[0.1, 1.0, 0.2], [3.0, 0.01, 0.5]])
    x = domain.noise(x0, sigma, generator=seeded())
    assert x.shape == x0.shape
    assert x.dtype == x0.dtype
    assert domain.contains(x).all()
    assert torch.equal(x, domain.noise(x0, sigma, generator=seeded()))
    assert domain.noise(x0[0, 0], 0.1, generator=seeded()).shape == (2, 2)
    assert domain.noise(x0[:0], 0.1, generator=seeded()).shape == (0, 3, 2, 2)


def test_rows_keep_their_own_sigma():
    """With rows sorted inside by their number of steps, each still gets its own noise and place."""
    sigma = torch.tensor([0.5, 1e-4, 0.3, 1e-5, 2.0], dtype=F64)
    x0 = torch.tensor([[0.0, 0.0], [0.5, 0.1], [-0.2, 0.0], [0.0, -0.6], [0.3, 0.3]], dtype=F64)
    x = disc().noise(x0, sigma, generator=seeded())
    away = (x - x0).norm(dim=-1)
    assert (away > 0).all()
    assert away[1] < 1e-3
    assert away[3] < 1e-4


@functools.cache
def disc_paths(radius, sigma, n):
    x0 = torch.tensor([radius, 0.0], dtype=F64).expand(n, 2)
    return x0, *disc().diffuse(x0, sigma, generator=seeded())


def check_identity(u, phi, divergence):
    """E[u . phi] = -E[div phi], within 4.5 standard errors or 5 %."""
    z = (u * phi).sum(-1) + divergence
    error = abs(float(z.mean()))
    assert error < max(Z * float(z.std()) / math.sqrt(len(z)), 0.05 * float(divergence.abs().mean()))


MORE_PATHS = [
    pytest.param(0.9, 0.3, 8000, marks=pytest.mark.slow),
    pytest.param(0.5, 0.6, 8000, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("radius", "sigma", "n"), [(0.9, 0.3, 2000), *MORE_PATHS])
def test_path_targets_across_the_wall_of_the_disc(radius, sigma, n):
    """For a field that vanishes on the wall and depends on the start."""
    x0, x, u = disc_paths(radius, sigma, n)
    assert disc().contains(x).all()
    assert u.isfinite().all()
    h, away = 1 - x.square().sum(-1), x - x0
    check_identity(u, h.unsqueeze(-1) * away, -2 * (x * away).sum(-1) + 2 * h)


@pytest.mark.parametrize(("radius", "sigma", "n"), [(0.9, 0.6, 2000), *MORE_PATHS])
def test_path_targets_along_the_wall_of_the_disc(radius, sigma, n):
    _, x, u = disc_paths(radius, sigma, n)
    check_identity(u, torch.stack([-x[:, 1], x[:, 0]], -1) * x[:, 1:], x[:, 0])


def test_path_targets_between_flat_walls():
    """For fields along the walls of the box, from a start in its corner."""
    x0 = torch.tensor([0.1, 0.2], dtype=F64).expand(2000, 2)
    x, u = box().diffuse(x0, 0.3, generator=seeded())
    assert box().contains(x).all()
    a, b = x.unbind(-1)
    zero = torch.zeros_like(a)
    check_identity(u, torch.stack([a * (2 - a), zero], -1), 2 - 2 * a)
    check_identity(u, torch.stack([a * (2 - a) * b, b * (1 - b)], -1), (2 - 2 * a) * b + 1 - 2 * b)
    check_identity(u, torch.stack([zero, b * (1 - b) * (b - 0.2)], -1), (1 - 2 * b) * (b - 0.2) + b * (1 - b))


def test_diffuse_shapes():
    domain = DOMAINS["matrices"]
    x0 = domain.sample_uniform((2, 3), generator=seeded())
    for y in domain.diffuse(x0, torch.full((2, 3), 0.2), generator=seeded()):
        assert y.shape == x0.shape
        assert y.dtype == x0.dtype
    for y in domain.diffuse(x0[:0], 0.2, generator=seeded()):
        assert y.shape == (0, 3, 2, 2)


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


# -------------------------------------------------------------------------------------------------------------- values


@EVERY
def test_values_survive_json(name):
    domain = MAKERS[name]()
    again = Domain.from_config(json.loads(json.dumps(domain.config())))
    assert isinstance(again, MetropolisDomain)
    assert again == domain == DOMAINS[name]
    assert hash(again) == hash(domain)
    assert again.config() == domain.config()
    assert repr(again) == repr(domain)
    x = candidates(domain, 200)
    assert torch.equal(again.contains(x), domain.contains(x))
    assert torch.equal(again.project(x), domain.project(x))
    assert again.inradius == domain.inradius


def test_equality():
    different = [
        disc(),
        MetropolisDomain(2, in_box, -1.25, 1.25),
        MetropolisDomain(2, in_disc, -1.5, 1.25),
        MetropolisDomain(2, in_disc, -1.25, 1.5),
        MetropolisDomain(3, in_disc, -1.25, 1.25),
        MetropolisDomain(2, in_disc, -1.25, 1.25, start=[0.0, 0.0]),
        MetropolisDomain(2, in_disc, -1.25, 1.25, spectral_gap=1.0),
    ]
    assert len(set(different)) == len(different)
    assert different[0] == MetropolisDomain((2,), in_disc, [-1.25, -1.25], torch.tensor([1.25, 1.25]))
    assert different[0] != Ball(2)
    assert different[0] != "disc"


def test_a_lambda_works_but_cannot_be_saved():
    domain = MetropolisDomain(2, lambda x: x.norm(dim=-1) <= 1, -1.0, 1.0)
    assert domain == domain
    assert {domain: 1}[domain] == 1
    assert "lambda" in repr(domain)

    def closure(x):
        return in_disc(x)

    for inside in (domain.inside, closure, Ball(2).contains):
        with pytest.raises(ValueError, match="cannot be saved: only a function defined with def at the top level"):
            MetropolisDomain(2, inside, -1.0, 1.0).config()


def test_loading_runs_nothing():
    config = disc().config()
    for name in ("os:getcwd", "torch:ones", "no_such_module:f", f"{__name__}:missing", f"{__name__}:MAKERS", "in_disc"):
        with pytest.raises(ValueError, match="inside="):
            Domain.from_config(config | {"inside": name})


def test_another_precision():
    """A copy in single precision is the same set."""
    copy = disc().to(dtype=torch.float32)
    x = disc().sample_uniform(100, generator=seeded())
    assert copy.contains(x).all()
    assert copy.noise(x, 0.1, generator=seeded()).shape == x.shape


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"inside": lambda x: x.sum(-1)}, TypeError, "inside must return a tensor of bool, not torch.float"),
        ({"inside": lambda x: True}, TypeError, "inside must return a tensor of bool, not bool"),
        ({"inside": lambda x: in_disc(x).numpy()}, TypeError, "inside must return a tensor of bool, not ndarray"),
        ({"inside": lambda x: x > 0}, ShapeError, "inside returned shape .* expected \\[B\\]"),
        ({"inside": lambda x: in_disc(x).unsqueeze(-1)}, ShapeError, "inside returned shape"),
        ({"inside": lambda x: in_disc(x).any()}, ShapeError, "inside returned shape"),
        ({"inside": 3}, TypeError, "inside must be a function from points to bools, not int"),
        ({"low": 1.0}, DomainError, r"low must be below high; at index \[0\] low=1, high=1"),
        ({"low": [-1.0, 2.0]}, DomainError, r"low must be below high; at index \[1\] low=2, high=1"),
        ({"low": -math.inf}, DomainError, "low must be finite"),
        ({"high": math.nan}, DomainError, "high must be finite"),
        ({"low": [0.0, 0.0, 0.0]}, ShapeError, r"low must be a number or broadcast to shape \[2\]"),
        ({"high": "one"}, ShapeError, "high must be a number or broadcast"),
        ({"start": [0.9, 0.9]}, DomainError, "start lies outside"),
        ({"start": [5.0, 0.0]}, DomainError, "start lies outside"),
        ({"start": [math.nan, 0.0]}, DomainError, "start"),
        ({"start": [0.0, 0.0, 0.0]}, ShapeError, "start"),
        ({"inside": nowhere}, SolverError, "none of .* random points of the box is inside the set.*start"),
        ({"spectral_gap": 0.0}, ValueError, "spectral_gap must be positive and finite, not 0.0"),
        ({"spectral_gap": -1.0}, ValueError, "spectral_gap must be positive"),
        ({"spectral_gap": math.inf}, ValueError, "spectral_gap must be positive and finite"),
        ({"spectral_gap": math.nan}, ValueError, "spectral_gap must be positive and finite"),
    ],
    ids=str,
)
def test_constructor(arguments, error, message):
    with pytest.raises(error, match=message):
        MetropolisDomain(**{"shape": 2, "inside": in_disc, "low": -1.0, "high": 1.0, **arguments})


def test_methods_refuse_points_outside():
    bad = torch.tensor([[0.0, 0.0], [1.1, 0.0]])
    v = torch.zeros(2, 2)
    for call in (
        lambda: disc().reflect(bad, v),
        lambda: disc().noise(bad, 0.1),
        lambda: disc().diffuse(bad, 0.1),
    ):
        with pytest.raises(DomainError, match="at row 1"):
            call()
    with pytest.raises(DomainError, match="displacement must be finite"):
        disc().reflect(v, v + math.nan)
    for sigma in (0.0, -1.0, math.nan):
        with pytest.raises(DomainError, match="sigma must be positive"):
            disc().noise(v, sigma)
    for call in (disc().contains, disc().project, disc().boundary):
        with pytest.raises(ShapeError, match="x has shape"):
            call(torch.zeros(2, 3))
    with pytest.raises(NotImplementedError, match="diffuse"):
        disc().heat_kernel_score(v, v, 0.1)


@pytest.mark.parametrize("method", ["reflect", "noise", "diffuse"])
def test_one_point_outside_is_refused(method):
    x = torch.tensor([1.1, 0.0])
    with pytest.raises(DomainError, match="lies outside"):
        getattr(disc(), method)(x, torch.zeros(2) if method == "reflect" else 0.1)


# ---------------------------------------------------------------------------------------------------------- end to end


def fitted(loss, steps):
    x = torch.tensor([0.5, 0.0]) + 0.3 * Ball(2).sample_uniform(300, generator=seeded())
    model = ReflectedDiffusion(disc(), loss=loss, width=32, steps=steps, batch_size=64).fit(x, progress=False)
    assert all(math.isfinite(value) for _, value in model.history_)
    y = model.sample(100, steps=50, seed=1)
    assert y.shape == (100, 2)
    assert disc().contains(y).all()
    return model, y


@pytest.mark.parametrize(("loss", "steps"), [("implicit", 15), ("denoising", 2)])
def test_a_model_of_points_in_a_disc(loss, steps, monkeypatch):
    """With 1/sigma for the size of targets: the table of it takes half a minute of simulated paths."""

    def table(self):
        grid = torch.linspace(math.log(self.sigma_min), math.log(self.sigma_max), 9, dtype=F64)
        return grid, -grid

    monkeypatch.setattr(ReflectedSDE, "target_rms_table", property(table))
    fitted(loss, steps)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["implicit", "denoising"])
def test_a_model_is_saved_with_its_domain(loss, tmp_path):
    model, y = fitted(loss, 60)
    model.save(tmp_path / "model")
    again = ReflectedDiffusion.load(tmp_path / "model")
    assert again.domain == disc()
    assert torch.equal(again.sample(100, steps=50, seed=1), y)
