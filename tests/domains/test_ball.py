"""Balls: geometry, laws and denoising targets (the accuracy of the kernel has a file of its own)."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize, special, stats

from constrained_diffusion.domains import Ball
from tests import references as ref

F64 = torch.float64
DIMENSIONS = [2, 3, 10]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(d: int, radius: float, distance: float, count: int) -> torch.Tensor:
    x0 = torch.zeros(count, d, dtype=F64)
    x0[:, 0] = distance * radius
    return x0


def neumann_root(d: int) -> float:
    """First positive zero of the derivative of r^-a J_{1+a}(r), a = d/2 - 1: the slowest mode of the ball."""
    a = d / 2 - 1

    def slope(r):
        return r * special.jvp(1 + a, r) - a * special.jv(1 + a, r)

    grid = np.linspace(0.5, 10 + d, 4000)
    first = int(np.nonzero(slope(grid) < 0)[0][0])
    return optimize.brentq(slope, grid[first - 1], grid[first])


@pytest.mark.parametrize("d", DIMENSIONS)
def test_constants(d):
    ball = Ball(d, radius=2.5)
    assert ball.event_shape == torch.Size([d])
    assert ball.dim == d
    assert ball.has_exact_kernel
    volume = math.pi ** (d / 2) / math.gamma(d / 2 + 1) * 2.5**d
    assert float(ball.log_volume) == pytest.approx(math.log(volume))
    assert float(ball.inradius) == pytest.approx(2.5)
    assert float(ball.spectral_gap) == pytest.approx((neumann_root(d) / 2.5) ** 2, rel=1e-6)


def test_known_gaps():
    assert math.sqrt(Ball(2).spectral_gap) == pytest.approx(1.8412, abs=1e-4)
    assert math.sqrt(Ball(3).spectral_gap) == pytest.approx(2.0816, abs=1e-4)


def test_balls_that_cannot_be():
    with pytest.raises(ValueError, match="Hypercube"):
        Ball(1)
    for d, radius in ((0, 1.0), (-1, 1.0), (2, 0.0), (2, -1.0), (2, math.nan), (2, math.inf)):
        with pytest.raises(ValueError, match=r"d|radius"):
            Ball(d, radius)


# ---- geometry
@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize("radius", [1.0, 2.5])
def test_reflect_is_a_billiard(d, radius):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((60, d))
    x *= radius * rng.random((60, 1)) / np.linalg.norm(x, axis=-1, keepdims=True)
    x[:5] *= 0.999999 * radius / np.linalg.norm(x[:5], axis=-1, keepdims=True)
    v = radius * rng.standard_normal((60, d)) * 10.0 ** rng.uniform(-2, 0.3, (60, 1)) / math.sqrt(d)
    found = Ball(d, radius).reflect(torch.from_numpy(x), torch.from_numpy(v)).numpy()
    expected = np.stack([ref.billiard_ball(a, b, radius) for a, b in zip(x, v, strict=True)])
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_reflect_keeps_the_angle_of_incidence():
    # from (0.6, 0) straight up to the wall at (0.6, 0.8), then turned by twice the angle of the wall
    x, v = torch.tensor([0.6, 0.0], dtype=F64), torch.tensor([0.0, 1.3], dtype=F64)
    wall = torch.tensor([0.6, 0.8], dtype=F64)
    outgoing = torch.tensor([0.0, 1.0], dtype=F64) - 2 * 0.8 * wall
    torch.testing.assert_close(Ball(2).reflect(x, v), wall + 0.5 * outgoing)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_project_scales(d):
    y = torch.from_numpy(np.random.default_rng(2).standard_normal((200, d)) * 2)
    length = y.norm(dim=-1, keepdim=True)
    expected = torch.where(length > 1.5, y * 1.5 / length, y)
    torch.testing.assert_close(Ball(d, 1.5).project(y), expected)


@pytest.mark.parametrize("d", [2, 3, 10])
def test_boundary_distance_and_normal(d):
    x = torch.from_numpy(np.random.default_rng(3).standard_normal((50, d)))
    length = x.norm(dim=-1, keepdim=True)
    x = x / length * torch.linspace(0.1, 2.5, 50, dtype=F64)[:, None]
    distance, normal = Ball(d, 2.5).boundary(x)
    torch.testing.assert_close(distance, 2.5 - x.norm(dim=-1))
    torch.testing.assert_close(normal, -x / x.norm(dim=-1, keepdim=True))


@pytest.mark.parametrize("d", DIMENSIONS)
def test_damping_acts_on_the_normal_component_alone(d):
    ball, rng = Ball(d, 2.0), np.random.default_rng(4)
    v, direction = (torch.from_numpy(rng.standard_normal((40, d))) for _ in range(2))
    direction = direction / direction.norm(dim=-1, keepdim=True)

    def along(field):
        return (field * direction).sum(-1, keepdim=True)

    on_wall = ball.damp_normal(ball.project(10 * direction), v, 0.1)
    assert float(along(on_wall).abs().max()) <= 1e-12
    torch.testing.assert_close(on_wall, v - along(v) * direction)
    near = ball.damp_normal(1.98 * direction, v, 0.1)
    torch.testing.assert_close(near - along(near) * direction, v - along(v) * direction)
    assert (along(near).abs() < 0.9 * along(v).abs()).all()
    assert (along(near) * along(v) > 0).all()
    torch.testing.assert_close(ball.damp_normal(direction, v, 0.05), v, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(ball.damp_normal(torch.zeros_like(v), v, 0.05), v, rtol=1e-2, atol=1e-3)
    centre = torch.zeros_like(v, requires_grad=True)
    (slope,) = torch.autograd.grad(ball.damp_normal(centre, v, 0.05).sum(), centre)
    assert bool(slope.isfinite().all())  # what likelihoods differentiate


# ---- laws
@pytest.mark.parametrize("d", DIMENSIONS)
def test_uniform_sampling(d):
    x = Ball(d, 2.5).sample_uniform((20_000,), generator=generator(5), dtype=F64).numpy() / 2.5
    radial = np.linalg.norm(x, axis=-1) ** d
    assert stats.kstest(radial, "uniform").pvalue > ref.ALPHA
    for i in range(d):
        marginal = stats.beta((d + 1) / 2, (d + 1) / 2)
        assert stats.kstest((x[:, i] + 1) / 2, marginal.cdf).pvalue > ref.ALPHA


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize(("distance", "sigma"), [(0.9, 0.3), (0.0, 0.5), (1.0, 0.15)])
def test_sampling_follows_a_plain_simulation(d, distance, sigma):
    radius, count, rng = 1.5, 4_000, np.random.default_rng(6)
    x0 = start(d, radius, distance, count)
    plain = ref.simulate(
        x0.numpy(),
        sigma * radius,
        300,
        lambda m: rng.standard_normal((m, d)),
        lambda y: ref.symmetrise_ball(y, radius),
    )
    ball = Ball(d, radius)
    drawn = ball.sample_heat_kernel(x0, sigma * radius, generator=generator(7))
    diffused, _ = ball.diffuse(x0, sigma * radius, generator=generator(8))
    for x in (drawn, diffused):
        assert ball.contains(x).all()
        for functional in (lambda y: y[:, 0], lambda y: y[:, -1], lambda y: (y**2).sum(-1)):
            assert stats.ks_2samp(functional(x.numpy()), functional(plain)).pvalue > ref.ALPHA


@pytest.mark.parametrize("d", DIMENSIONS)
def test_long_diffusion_is_uniform(d):
    ball = Ball(d, 2.0)
    x, _ = ball.diffuse(start(d, 2.0, 0.95, 2_000), 6.0, generator=generator(10))
    x = x.numpy() / 2
    assert stats.kstest(np.linalg.norm(x, axis=-1) ** d, "uniform").pvalue > ref.ALPHA
    marginal = stats.beta((d + 1) / 2, (d + 1) / 2)
    assert stats.kstest((x[:, 0] + 1) / 2, marginal.cdf).pvalue > ref.ALPHA


# ---- denoising targets
@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize(("distance", "sigma"), [(0.9, 0.1), (0.9, 0.4), (0.2, 0.05), (1.0, 0.2)])
@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_target_satisfies_the_test_field_identities(d, distance, sigma, count):
    radius = 2.0
    x, target = Ball(d, radius).diffuse(start(d, radius, distance, count), sigma * radius, generator=generator(11))
    room = radius**2 - x.pow(2).sum(-1)
    turn = torch.zeros_like(x)
    turn[:, 0], turn[:, 1] = -x[:, 1], x[:, 0]
    constant = torch.zeros_like(x)
    constant[:, 0] = 1
    # fields without flux through the sphere, and their divergences
    fields = [
        (room[:, None] * x, d * room - 2 * x.pow(2).sum(-1)),
        (room[:, None] * constant, -2 * x[:, 0]),
        (turn, torch.zeros_like(room)),
        (x[:, :1] * turn, -x[:, 1]),
        (x[:, 1:2] * turn, x[:, 0]),
    ]
    for phi, div in fields:
        assert abs(ref.z_scores(((target * phi).sum(-1) + div).numpy())) < ref.LARGEST_Z


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize(("distance", "sigma"), [(0.9, 0.1), (0.5, 0.5)])
def test_target_regresses_on_the_score_with_slope_one(d, distance, sigma):
    ball, x0 = Ball(d), start(d, 1.0, distance, 5_000)
    x, target = ball.diffuse(x0, sigma, generator=generator(12))
    score = ball.heat_kernel_score(x, x0, sigma)
    assert abs(ref.z_scores(((target - score) * score).sum(-1).numpy())) < ref.LARGEST_Z
    assert float(target.pow(2).mean()) <= 1.05 / sigma**2


@pytest.mark.parametrize("radius", [0.25, 3.0])
def test_kernel_of_another_radius_is_the_unit_balls_scaled(radius):
    generator = torch.Generator().manual_seed(0)
    unit, other = Ball(3), Ball(3, radius)
    x0, x = (unit.sample_uniform(200, generator=generator, dtype=torch.float64) for _ in range(2))
    for sigma in (0.05, 0.3, 1.0):
        log_p = unit.heat_kernel_log_prob(x, x0, sigma) - 3 * math.log(radius)
        torch.testing.assert_close(other.heat_kernel_log_prob(radius * x, radius * x0, radius * sigma), log_p)
        score = unit.heat_kernel_score(x, x0, sigma) / radius
        torch.testing.assert_close(other.heat_kernel_score(radius * x, radius * x0, radius * sigma), score)


@pytest.mark.parametrize("sigma", [0.15, 0.6, 1.2])
def test_sampled_law_damps_the_first_eigenfunction_as_it_must(sigma):
    """E[phi(x) | x0] = exp(-lambda^2 sigma^2 / 2) phi(x0) for phi = j_1(lambda r) cos(angle), in three dimensions."""
    lam = math.sqrt(Ball(3).spectral_gap)
    x0 = torch.tensor([0.93, 0.0, 0.0], dtype=torch.float64).expand(40_000, 3)
    x = Ball(3).sample_heat_kernel(x0, sigma, generator=torch.Generator().manual_seed(0))

    def phi(z):
        r = z.norm(dim=-1)
        return torch.as_tensor(special.spherical_jn(1, (lam * r).numpy())) * z[:, 0] / r

    error = float(phi(x).std()) / 200
    assert abs(float(phi(x).mean()) - math.exp(-(lam**2) * sigma**2 / 2) * float(phi(x0)[0])) < 4.5 * error
