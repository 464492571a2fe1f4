"""Reflected Euler for an SDE of one's own: laws against closed forms, orders of convergence, atoms on walls."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from constrained_diffusion import (
    Ball,
    Hypercube,
    Simplex,
    sample_sde,
)
from tests.simulations import F64, MODES, TRIANGLE, OnlyProject, constant, seeded

Z = 4.5
ALPHA = 1e-5


def box(*, low=-20.0, high=20.0, shape=2):
    return Hypercube(shape, low, high)


def near(found, true, spread, n):
    """Whether a mean of n draws of that standard deviation is within 4.5 standard errors."""
    assert abs(float(found) - float(true)) < Z * float(spread) / math.sqrt(n), (float(found), float(true))


def mean_is(values, true):
    near(values.mean(), true, values.std(), len(values))


def slope(steps, errors):
    """Fitted order of convergence: minus the slope of log error over log steps."""
    return -np.polyfit(np.log(steps), np.log(np.abs(errors)), 1)[0]


# --------------------------------------------------------------------------------------------------------- exact laws


@pytest.mark.parametrize("boundary", ["specular", "symmetrised"])
@pytest.mark.parametrize("b", [-2.0, 1.0])
def test_stationary_law_of_drifted_motion_on_the_interval(b, boundary):
    """dX = b dt + dB + dL has the density proportional to exp(2 b x)."""
    x0 = torch.full((5000, 1), 0.9, dtype=F64)
    x = sample_sde(
        Hypercube(1), x0, constant(b), duration=2.0, steps=1000, boundary=boundary, generator=seeded()
    ).x.squeeze(-1)
    assert stats.kstest(x.numpy(), lambda v: np.expm1(2 * b * v) / np.expm1(2 * b)).pvalue > ALPHA


@pytest.mark.parametrize("x0", [0.05, 0.6])
def test_eigenfunction_of_drifted_motion_on_the_interval(x0):
    """E f(X_T) = exp(-(b^2 + pi^2) T / 2) f(x0) for the first eigenfunction, whose slope vanishes at the ends."""
    b, duration = 1.5, 0.2

    def f(x):
        return (-b * x).exp() * ((math.pi * x).cos() + b / math.pi * (math.pi * x).sin())

    start = torch.full((40_000, 1), x0, dtype=F64)
    x = sample_sde(Hypercube(1), start, constant(b), duration=duration, steps=400, generator=seeded()).x
    mean_is(f(x).squeeze(-1), math.exp(-(b**2 + math.pi**2) / 2 * duration) * f(torch.tensor(x0)))


@pytest.mark.parametrize("diffusion", [1.0, 0.5])
def test_ornstein_uhlenbeck_in_the_disc_is_a_truncated_gaussian(diffusion):
    """dX = -k X dt + a dB + dL has the density proportional to exp(-k |x|^2 / a^2) in the disc."""
    k = 1.0
    c = k / diffusion**2
    x0 = torch.tensor([0.9, 0.0], dtype=F64).expand(4000, 2)
    x = sample_sde(Ball(2), x0, lambda x, t: -k * x, diffusion, duration=3.0, steps=600, generator=seeded()).x
    square = x.square().sum(-1).numpy()
    assert stats.kstest(square, lambda u: np.expm1(-c * u) / np.expm1(-c)).pvalue > ALPHA
    angle = torch.atan2(x[:, 1], x[:, 0]).numpy()
    assert stats.kstest(angle, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > ALPHA


def test_brownian_motion_on_the_simplex_becomes_uniform():
    """The first part of a uniform composition of three has the distribution function 1 - (1 - x)^2."""
    x0 = torch.tensor([0.98, 0.01, 0.01], dtype=F64).expand(4000, 3)
    x = sample_sde(Simplex(3), x0, duration=1.5, steps=200, generator=seeded()).x
    for part in x.T:
        assert stats.kstest(part.numpy(), lambda v: 1 - (1 - v) ** 2).pvalue > ALPHA


def test_diffusion_that_depends_on_the_place_is_ito():
    """dX = (1 + X) dB + dL on [0, 1] has the density proportional to (1 + x)^-2."""
    x0 = torch.full((5000, 1), 0.9, dtype=F64)
    x = sample_sde(Hypercube(1), x0, None, lambda x, t: 1 + x, duration=2.0, steps=2000, generator=seeded()).x
    assert stats.kstest(x.squeeze(-1).numpy(), lambda v: 2 * v / (1 + v)).pvalue > ALPHA


def test_square_root_process():
    """Cox, Ingersoll & Ross: dX = k (m - X) dt + s sqrt(X) dB is a scaled noncentral chi squared."""
    k, m, s, start, duration = 2.0, 1.0, 0.7, 0.6, 0.5
    x0 = torch.full((20_000, 1), start, dtype=F64)
    x = sample_sde(
        Hypercube(1, 0.0, 30.0),
        x0,
        lambda x, t: k * (m - x),
        lambda x, t: s * x.sqrt(),
        duration=duration,
        steps=400,
        generator=seeded(),
    ).x.squeeze(-1)
    scale = s**2 * -math.expm1(-k * duration) / (4 * k)
    law = stats.ncx2(4 * k * m / s**2, start * math.exp(-k * duration) / scale, scale=scale)
    assert stats.kstest(x.numpy(), law.cdf).pvalue > ALPHA


def test_matrix_diffusion_far_from_walls():
    """Without walls in reach the law is normal of covariance a a^T T, whatever the number of steps."""
    a = torch.tensor([[1.0, 0.5], [-0.3, 0.8]], dtype=F64)
    n, duration = 50_000, 1.7
    x = sample_sde(
        box(), torch.zeros(n, 2, dtype=F64), None, a.expand(n, 2, 2), duration=duration, steps=3, generator=seeded()
    ).x
    true = duration * a @ a.T
    for i in range(2):
        mean_is(x[:, i], 0.0)
        for j in range(2):
            spread = (true[i, i] * true[j, j] + true[i, j] ** 2).sqrt()
            near((x[:, i] * x[:, j]).mean(), true[i, j], spread, n)


def test_matrix_diffusion_of_points_that_are_matrices():
    """A coefficient [*batch, 2, 3, 2, 3] contracts its last two indices with the noise."""
    n = 20_000
    a = torch.randn(2, 3, 2, 3, generator=seeded(1), dtype=F64)
    x0 = torch.zeros(n, 2, 3, dtype=F64)
    x = sample_sde(box(shape=(2, 3)), x0, None, a.expand(n, 2, 3, 2, 3), steps=2, duration=0.5, generator=seeded()).x
    true = 0.5 * torch.einsum("ijab,klab->ijkl", a, a).reshape(6, 6)
    found = x.reshape(n, 6)
    spread = (true.diag().unsqueeze(0) * true.diag().unsqueeze(1) + true**2).sqrt()
    assert ((found.T @ found / n - true).abs() < Z * spread / math.sqrt(n)).all()


def test_push_is_along_the_normal_for_correlated_noise():
    """In a half plane the push moves the first coordinate alone.

    With X1 = B1 + L started at the wall, and X2 = r B1 + ..: E[X1 X2] = r (T + E[L B1]) = r T / 2 (Levy).
    """
    r, n = 0.8, 10_000
    a = torch.tensor([[1.0, 0.0], [r, 0.6]], dtype=F64)
    domain = Hypercube(2, [0.0, -20.0], [20.0, 20.0])
    x = sample_sde(domain, torch.zeros(n, 2, dtype=F64), None, a.expand(n, 2, 2), steps=500, generator=seeded()).x
    mean_is(x[:, 0] * x[:, 1], r / 2)
    mean_is(x[:, 0], math.sqrt(2 / math.pi))
    mean_is(x[:, 1], 0.0)
    mean_is(x[:, 1] ** 2, 1.0)


def test_one_coefficient_for_each_point():
    """Coefficients [*batch] of batch shape (3, n): each row has its own variance."""
    n = 20_000
    a = torch.tensor([0.1, 1.0, 2.0], dtype=F64).unsqueeze(-1).expand(3, n)
    x = sample_sde(box(), torch.ones(3, n, 2, dtype=F64), None, a, duration=0.5, steps=2, generator=seeded()).x
    for row, scale in zip(x, a[:, 0], strict=True):
        near((row - 1).square().mean(), 0.5 * scale**2, 0.5 * scale**2 * math.sqrt(2), 2 * n)


def test_one_coefficient_for_each_coordinate():
    n = 20_000
    a = torch.tensor([0.2, 3.0], dtype=F64)
    x = sample_sde(
        box(), torch.zeros(n, 2, dtype=F64), None, lambda x, t: a.expand(x.shape), generator=seeded(), steps=2
    )
    for column, scale in zip(x.x.T, a, strict=True):
        near(column.square().mean(), scale**2, scale**2 * math.sqrt(2), n)
    near((x.x[:, 0] * x.x[:, 1]).mean(), 0.0, a.prod(), n)


def test_a_batch_as_long_as_a_point_takes_the_documented_shapes():
    """Two points of two coordinates: of a function [2] is one for each point, [2, 2] is one for each coordinate."""
    x0, noise = torch.zeros(2, 2, dtype=F64), torch.randn(2, 2, generator=seeded(), dtype=F64)
    each = torch.tensor([1.0, 3.0], dtype=F64)
    grid = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=F64)
    matrices = torch.stack([torch.eye(2, dtype=F64), torch.ones(2, 2, dtype=F64)])
    for a, expected in (
        (lambda x, t: each, each.unsqueeze(-1) * noise),
        (lambda x, t: grid, grid * noise),
        (matrices, torch.stack([noise[0], noise[1].sum().expand(2)])),
        (torch.tensor(2.0, dtype=F64), 2 * noise),
        (2, 2 * noise),
    ):
        x = sample_sde(box(), x0, None, a, steps=1, generator=seeded()).x
        torch.testing.assert_close(x, expected)


@pytest.mark.parametrize("start", [0.0, -2.5])
def test_drift_and_diffusion_are_told_the_time(start):
    times = {"drift": [], "diffusion": []}
    shapes = set()

    def drift(x, t):
        times["drift"].append(float(t))
        shapes.add((t.shape, t.dtype, x.shape))
        return torch.full_like(x, float(t))

    def diffusion(x, t):
        times["diffusion"].append(float(t))
        shapes.add((t.shape, t.dtype, x.shape))
        return 1 + abs(float(t))

    n, steps, duration = 20_000, 8, 2.0
    h = duration / steps
    expected = [start + k * h for k in range(steps)]
    x = sample_sde(
        box(),
        torch.zeros(n, 2, dtype=F64),
        drift,
        diffusion,
        duration=duration,
        steps=steps,
        start=start,
        generator=seeded(),
    ).x
    assert times["drift"] == pytest.approx(expected)
    assert times["diffusion"] == pytest.approx(expected)
    assert shapes == {(torch.Size([]), F64, torch.Size([n, 2]))}
    variance = h * sum((1 + abs(t)) ** 2 for t in expected)
    centred = x.flatten() - h * sum(expected)
    near(centred.mean(), 0.0, math.sqrt(variance), 2 * n)
    near(centred.square().mean(), variance, variance * math.sqrt(2), 2 * n)


def test_no_noise_is_eulers_method():
    x0 = torch.tensor([[0.2, 0.4]], dtype=F64)
    x = sample_sde(Hypercube(2), x0, lambda x, t: t - x, 0.0, duration=0.5, steps=50, start=0.25).x
    y = x0
    for k in range(50):
        y = y + 0.01 * (0.25 + 0.01 * k - y)
    torch.testing.assert_close(x, y)


@pytest.mark.parametrize("boundary", MODES)
def test_no_noise_ends_at_the_wall_it_is_driven_to(boundary):
    x0 = torch.tensor([[0.5, 0.5]], dtype=F64)
    x = sample_sde(Hypercube(2), x0, constant([3.0, 0.1]), 0.0, duration=1.0, steps=100, boundary=boundary).x
    assert 1 - 0.03 - 1e-9 <= float(x[0, 0]) <= 1
    assert float(x[0, 1]) == pytest.approx(0.6)


# -------------------------------------------------------------------------------------------------------------- order


def drifted_start(n, b, generator):
    """Draws of the density proportional to exp(2 b x) on [0, 1], and its mean."""
    u = torch.rand(n, 1, generator=generator)
    return torch.log1p(u * math.expm1(2 * b)) / (2 * b), 1 / -math.expm1(-2 * b) - 1 / (2 * b)


@pytest.mark.parametrize("boundary", ["specular", "symmetrised"])
def test_weak_order_one_on_the_interval(boundary):
    """Started from the stationary law, the mean should stay; what it moves by is the scheme's error."""
    b, generator = -4.0, seeded()
    steps, errors = (2, 4, 8, 16), []
    for n in steps:
        x0, true = drifted_start(500_000, b, generator)
        x = sample_sde(
            Hypercube(1), x0, constant(b), duration=0.25, steps=n, boundary=boundary, generator=generator
        ).x.double()
        errors.append(float(x.mean()) - true)
        assert abs(errors[-1]) > 50 * float(x.std()) / math.sqrt(len(x))  # much signal, little noise
    assert 0.9 < slope(steps, errors) < 1.1


@pytest.mark.parametrize("boundary", ["specular", "symmetrised"])
def test_weak_order_one_in_the_disc(boundary):
    """As on the interval, for E|X|^2 of an Ornstein-Uhlenbeck process: walls that bend."""
    k, n, generator = -4.0, 150_000, seeded()
    true = 1 / -math.expm1(-k) - 1 / k
    steps, errors = (2, 4, 8), []
    for m in steps:
        square = torch.log1p(torch.rand(n, generator=generator) * math.expm1(k)) / k
        angle = 2 * math.pi * torch.rand(n, generator=generator)
        x0 = square.sqrt().unsqueeze(-1) * torch.stack([angle.cos(), angle.sin()], -1)
        x = sample_sde(
            Ball(2), x0, lambda x, t: k * x, duration=0.25, steps=m, boundary=boundary, generator=generator
        ).x.double()
        errors.append(float(x.square().sum(-1).mean()) - true)
    assert 0.9 < slope(steps, errors) < 1.2


def test_projection_has_weak_order_one_half():
    """Uniform points should stay uniform; their variance 1/12 grows, as points gather at the walls."""
    generator = seeded()
    steps, errors = (32, 64, 128, 256), []
    for n in steps:
        x0 = torch.rand(150_000, 1, generator=generator)
        x = sample_sde(Hypercube(1), x0, duration=0.25, steps=n, boundary="project", generator=generator).x.double()
        errors.append(float((x - 0.5).square().mean()) - 1 / 12)
    assert min(errors) > 0
    assert 0.4 < slope(steps, errors) < 0.6


# -------------------------------------------------------------------------------------------------------------- atoms


def share_on_wall(domain, boundary, steps, n=2000):
    generator = seeded()
    x0 = domain.sample_uniform(n, generator=generator, dtype=F64)
    x = sample_sde(domain, x0, duration=0.5, steps=steps, boundary=boundary, generator=generator).x
    return float((domain.boundary(x)[0] <= 1e-12).double().mean())


@pytest.mark.parametrize("domain", [Hypercube(2), Ball(2), Simplex(3), TRIANGLE, OnlyProject()], ids=str)
def test_projection_leaves_atoms_on_the_walls(domain):
    assert share_on_wall(domain, "project", 50) > 0.05


@pytest.mark.parametrize("domain", [Hypercube(2), Ball(2), Simplex(3)], ids=str)
def test_specular_steps_leave_no_atoms(domain):
    assert share_on_wall(domain, "specular", 50) == 0


@pytest.mark.parametrize("domain", [Hypercube(2), Ball(2)], ids=str)
def test_mirror_images_leave_no_atoms(domain):
    assert share_on_wall(domain, "symmetrised", 50) == 0


def test_mirror_images_leave_few_atoms_beside_sharp_corners():
    """There an image may lie beyond the other wall, and is projected: as often as the step's variance is large."""
    shares = [share_on_wall(Simplex(3), "symmetrised", steps, n=8000) for steps in (64, 256)]
    assert 0 < shares[1] < 0.5 * shares[0] < 0.02
