"""Reflected Euler for an SDE of one's own: laws against closed forms, orders, shapes and errors."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from constrained_diffusion import (
    Ball,
    Domain,
    DomainError,
    Euclidean,
    Hypercube,
    Paths,
    Polytope,
    Product,
    ShapeError,
    Simplex,
    sample_sde,
)

MODES = ["specular", "symmetrised", "project"]
Z = 4.5
ALPHA = 1e-5
F64 = torch.float64


class OnlyProject(Domain):
    """The quarter disc x >= 0, y >= 0, |x| <= 1, known by its projection alone."""

    event_shape, dim = torch.Size([2]), 2

    def project(self, x):
        y = x.clamp(min=0)
        return y / y.norm(dim=-1, keepdim=True).clamp(min=1.0)


def box(*, low=-20.0, high=20.0, shape=2):
    return Hypercube(shape, low, high)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def near(found, true, spread, n):
    """Whether a mean of n draws of that standard deviation is within 4.5 standard errors."""
    assert abs(float(found) - float(true)) < Z * float(spread) / math.sqrt(n), (float(found), float(true))


def mean_is(values, true):
    near(values.mean(), true, values.std(), len(values))


def constant(value):
    """A drift that is the same vector everywhere."""
    return lambda x, t: torch.as_tensor(value, dtype=x.dtype).expand(x.shape)


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
    """Two points of two coordinates: [2] is one coefficient for each point, [2, 2] one for each coordinate."""
    x0, noise = torch.zeros(2, 2, dtype=F64), torch.randn(2, 2, generator=seeded(), dtype=F64)
    each = torch.tensor([1.0, 3.0], dtype=F64)
    grid = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=F64)
    matrices = torch.stack([torch.eye(2, dtype=F64), torch.ones(2, 2, dtype=F64)])
    for a, expected in (
        (each, each.unsqueeze(-1) * noise),
        (grid, grid * noise),
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


# ------------------------------------------------------------------------------------------------------------- inside

TRIANGLE = Polytope([[-1.0, 0.0], [0.0, -1.0], [1.0, 2.0]], [0.0, 0.0, 2.0])
DOMAINS = [Hypercube(2), Ball(3), Simplex(3), Simplex(5, "euclidean"), TRIANGLE, OnlyProject()]
MADE = {}  # starting points, by domain and dtype


def points(domain, dtype):
    """100 uniform points and as many on the wall."""
    if (str(domain), dtype) not in MADE:
        inner = domain.sample_uniform(100, generator=seeded(), dtype=dtype)
        noise = domain.sample_noise(inner, generator=seeded(1))
        MADE[str(domain), dtype] = torch.cat([inner, domain.project(inner + 2 * noise)])
    return MADE[str(domain), dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("boundary", MODES)
@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_every_point_on_the_way_is_inside(domain, boundary, dtype):
    x0 = points(domain, dtype)
    for duration in (1e-3, 1.0, 1e3):
        paths = sample_sde(
            domain,
            x0,
            lambda x, t: 3 * (x - x.mean()),
            lambda x, t: 1 + x.square().flatten(1).sum(-1),
            duration=duration,
            steps=5,
            boundary=boundary,
            generator=seeded(),
            frames=6,
        )
        assert paths.x.dtype == paths.trajectory.dtype == dtype
        assert paths.trajectory.isfinite().all()
        assert domain.contains(paths.trajectory).all()


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


@pytest.mark.parametrize("boundary", ["symmetrised", "project"])
def test_these_modes_ask_for_the_projection_alone(boundary):
    class Forbidding(OnlyProject):
        def boundary(self, x):
            raise AssertionError

        def reflect(self, x, displacement):
            raise AssertionError

        def contains(self, x, atol=0.0):
            return OnlyProject().contains(x, atol)

    x0 = OnlyProject().sample_uniform(500, generator=seeded(), dtype=F64)
    x = sample_sde(Forbidding(), x0, boundary=boundary, steps=20, generator=seeded()).x
    assert OnlyProject().contains(x).all()
    Domain._registry.pop("Forbidding")


def test_far_from_walls_all_modes_are_euler():
    x0 = torch.full((50, 2), 0.5, dtype=F64)
    ends = [sample_sde(Hypercube(2), x0, duration=1e-3, steps=5, boundary=m, generator=seeded()).x for m in MODES]
    torch.testing.assert_close(ends[0], ends[1])
    torch.testing.assert_close(ends[0], ends[2])
    free = sample_sde(Euclidean(2), x0, duration=1e-3, steps=5, generator=seeded()).x
    torch.testing.assert_close(ends[0], free)


@pytest.mark.parametrize("boundary", ["project", "symmetrised"])
@pytest.mark.parametrize(
    "domain", [Simplex(4), Simplex(3, "cumulative"), Product(Hypercube(2), Simplex(4))], ids=["4", "3", "product"]
)
def test_a_metric_of_its_own_is_refused(domain, boundary):
    x0 = domain.sample_uniform(3, generator=seeded())
    with pytest.raises(ValueError, match='metric of its own: boundary must be "specular"'):
        sample_sde(domain, x0, boundary=boundary)
    assert domain.contains(sample_sde(domain, x0, steps=3, generator=seeded()).x).all()


@pytest.mark.parametrize("boundary", MODES)
def test_tangent_domains_stay_on_their_plane(boundary):
    """Of a drift and a diffusion that point out of the plane the tangent part is used."""
    domain = Simplex(3)
    x0 = domain.sample_uniform(200, generator=seeded(), dtype=F64)

    def run(drift, diffusion, steps=200):
        return sample_sde(
            domain, x0, drift, diffusion, steps=steps, boundary=boundary, generator=seeded(), frames=5
        ).trajectory

    plain = run(None, 0.3)
    torch.testing.assert_close(run(constant([7.0, 7.0, 7.0]), 0.3), plain)
    uneven = run(lambda x, t: x + torch.tensor([5.0, 0.0, 0.0]).to(x), lambda x, t: 1 + x)
    for frames in (plain, uneven):
        torch.testing.assert_close(frames.sum(-1), torch.ones(5, 200, dtype=F64), atol=1e-12, rtol=0)
        assert domain.contains(frames).all()
    a = torch.randn(200, 3, 3, generator=seeded(), dtype=F64)
    torch.testing.assert_close(run(None, a).sum(-1), torch.ones(5, 200, dtype=F64), atol=1e-12, rtol=0)


def test_product_of_domains():
    domain = Product(Hypercube(2), Ball(2))
    x0 = domain.sample_uniform(300, generator=seeded(), dtype=F64)
    for boundary in MODES:
        x = sample_sde(domain, x0, lambda x, t: 2 * x, steps=20, boundary=boundary, generator=seeded()).x
        assert domain.contains(x).all()


# ---------------------------------------------------------------------------------------------- frames, shapes, sources


@pytest.mark.parametrize("frames", [0, 1, 2, 4, 11, 21])
def test_frames(frames):
    x0 = torch.rand(3, 2, 2, generator=seeded())
    paths = sample_sde(Hypercube(2), x0, duration=2.0, steps=20, start=1.0, generator=seeded(1), frames=frames)
    assert isinstance(paths, Paths)
    assert paths.x.shape == x0.shape
    assert paths.trajectory.shape == (frames, 3, 2, 2)
    assert paths.times.shape == (frames,)
    assert paths.times.dtype == paths.trajectory.dtype == x0.dtype
    if frames:
        assert torch.equal(paths.trajectory[-1], paths.x)
        assert float(paths.times[-1]) == pytest.approx(3.0)
    if frames > 1:
        assert torch.equal(paths.trajectory[0], x0)
        assert float(paths.times[0]) == pytest.approx(1.0)
        gaps = paths.times.diff()
        assert (gaps > 0).all()
        assert float((gaps - 2.0 / (frames - 1)).abs().max()) <= 0.1 + 1e-6  # evenly, to one step
    full = sample_sde(Hypercube(2), x0, duration=2.0, steps=20, start=1.0, generator=seeded(1), frames=21)
    where = ((paths.times - 1.0) / 0.1).round().long()
    torch.testing.assert_close(full.times, torch.linspace(1.0, 3.0, 21))
    assert torch.equal(full.trajectory[where], paths.trajectory)  # what is kept does not change the path


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_every_number_of_frames(steps):
    x0 = torch.rand(4, 1, generator=seeded())
    for frames in range(steps + 2):
        paths = sample_sde(Hypercube(1), x0, steps=steps, frames=frames, generator=seeded())
        assert len(paths.trajectory) == len(paths.times) == frames
        assert (paths.times.diff() > 0).all()


@pytest.mark.parametrize("boundary", MODES)
@pytest.mark.parametrize("batch", [(), (3, 2), (0,), (1,)], ids=str)
@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_batch_shapes(domain, batch, boundary):
    x0 = domain.sample_uniform(batch, generator=seeded(), dtype=F64)
    size = domain.event_shape
    for a in (0.3, torch.full(batch, 0.3, dtype=F64), torch.full((*batch, *size, *size), 0.1, dtype=F64)):
        paths = sample_sde(domain, x0, lambda x, t: -x, a, steps=3, boundary=boundary, generator=seeded(), frames=2)
        assert paths.x.shape == (*batch, *size)
        assert paths.trajectory.shape == (2, *batch, *size)
        assert domain.contains(paths.x).all()


def test_generator_repeats_and_nothing_else_is_touched():
    x0 = torch.rand(10, 2, generator=seeded())
    kept, state = x0.clone(), torch.random.get_rng_state()
    first, second, other = (sample_sde(Hypercube(2), x0, generator=seeded(s), steps=5).x for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(x0, kept)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_end_points_are_not_the_starting_tensor():
    x0 = torch.rand(10, 2, generator=seeded())
    paths = sample_sde(Hypercube(2), x0, None, 0.0, steps=2, frames=2)
    paths.trajectory.zero_()
    paths.x.zero_()
    assert x0.any(-1).all()


def test_single_precision_follows_double():
    x0 = torch.rand(100, 2, generator=seeded(), dtype=F64)
    ends = []
    for dtype in (F64, torch.float32):
        x = sample_sde(Hypercube(2), x0.to(dtype), lambda x, t: t - x, 0.0, steps=50).x
        assert x.dtype == dtype
        ends.append(x.double())
    torch.testing.assert_close(*ends, atol=1e-5, rtol=0)


def test_progress(capfd):
    x0 = torch.rand(2, 2, generator=seeded())
    shown = sample_sde(Hypercube(2), x0, steps=3, generator=seeded(), progress=True).x
    assert "simulating" in capfd.readouterr().err
    quiet = sample_sde(Hypercube(2), x0, steps=3, generator=seeded()).x
    assert capfd.readouterr().err == ""
    assert torch.equal(shown, quiet)


# ----------------------------------------------------------------------------------------------------------- gradients


def test_gradients_flow_to_the_parameters():
    """Against a difference quotient along the same noise, over walls (almost no path changes its reflections)."""
    x0 = torch.rand(50, 2, generator=seeded(), dtype=F64)

    def end(theta, scale):
        return sample_sde(Hypercube(2), x0, lambda x, t: theta * (1 + x), scale, steps=20, generator=seeded()).x

    theta, scale = (torch.tensor(v, dtype=F64, requires_grad=True) for v in (0.7, 0.4))
    weights = torch.randn(50, 2, generator=seeded(3), dtype=F64)
    for found, shift in zip(
        torch.autograd.grad((weights * end(theta, scale)).sum(), (theta, scale)),
        ((1e-7, 0.0), (0.0, 1e-7)),
        strict=True,
    ):
        with torch.no_grad():
            up = (weights * end(theta + shift[0], scale + shift[1])).sum()
            down = (weights * end(theta - shift[0], scale - shift[1])).sum()
        assert abs(float(found)) > 0.1
        assert float(found) == pytest.approx(float((up - down) / 2e-7), rel=1e-4)


def test_gradients_flow_to_the_start():
    x0 = torch.full((1, 2), 0.5, dtype=F64, requires_grad=True)
    x = sample_sde(Hypercube(2), x0, lambda x, t: -x, 0.0, steps=10).x
    (found,) = torch.autograd.grad(x.sum(), x0)
    torch.testing.assert_close(found, torch.full((1, 2), 0.9**10, dtype=F64))


def test_no_grad_keeps_no_graph():
    theta = torch.tensor(0.7, requires_grad=True)
    with torch.no_grad():
        x = sample_sde(Hypercube(2), torch.rand(3, 2, generator=seeded()), lambda x, t: theta * x, steps=2).x
    assert not x.requires_grad


# -------------------------------------------------------------------------------------------------------------- errors


def inside(n=3):
    return torch.full((n, 2), 0.5)


@pytest.mark.parametrize("row", [[0.5, 1.5], [float("nan"), 0.5], [float("inf"), 0.5]])
@pytest.mark.parametrize("boundary", MODES)
def test_start_outside(row, boundary):
    x0 = torch.cat([inside(2), torch.tensor([row])])
    with pytest.raises(DomainError, match="x0: at row 2"):
        sample_sde(Hypercube(2), x0, boundary=boundary)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (torch.zeros(2), ShapeError, r"drift returned shape \[2\]; expected that of x, \[3, 2\]"),
        (torch.zeros(3, 1), ShapeError, "drift returned shape"),
        (torch.zeros(1, 2), ShapeError, "drift returned shape"),
        (torch.zeros(4, 2), ShapeError, "drift returned shape"),
        (torch.zeros(3, 2, dtype=F64), TypeError, "drift .*float64.*must have the same dtype"),
        (torch.zeros(3, 2, dtype=torch.long), TypeError, "drift"),
        (0.0, TypeError, "drift must return a torch.Tensor, not float"),
        (None, TypeError, "drift must return a torch.Tensor, not NoneType"),
    ],
    ids=str,
)
def test_what_a_drift_may_return(returned, error, message):
    with pytest.raises(error, match=message):
        sample_sde(Hypercube(2), inside(), lambda x, t: returned)


@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: lambda x, t: a], ids=["value", "function"])
@pytest.mark.parametrize(
    ("a", "error", "message"),
    [
        (torch.zeros(2), ShapeError, r"diffusion has shape \[2\]; expected a number or one of"),
        (torch.zeros(2, 2), ShapeError, "diffusion has shape"),
        (torch.zeros(3, 1), ShapeError, "diffusion has shape"),
        (torch.zeros(3, 2, 3), ShapeError, "diffusion has shape"),
        (torch.zeros(1, 2, 2), ShapeError, "diffusion has shape"),
        (torch.zeros(3, dtype=F64), TypeError, "diffusion"),
        ("much", TypeError, "diffusion must be a number, a torch.Tensor or a function"),
        (None, TypeError, "diffusion must be a number"),
    ],
    ids=str,
)
def test_what_a_diffusion_may_be(a, error, message, wrap):
    with pytest.raises(error, match=message):
        sample_sde(Hypercube(2), inside(), None, wrap(a))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_said_with_its_time(bad):
    def drift(x, t):
        return torch.full_like(x, bad if float(t) > 2.45 else 0.0)

    with pytest.raises(ValueError, match=r"drift is not finite at t = 2\.5"):
        sample_sde(Hypercube(2), inside(), drift, duration=1.0, steps=10, start=2.0)
    with pytest.raises(ValueError, match=r"diffusion is not finite at t = 2\.5"):
        sample_sde(Hypercube(2), inside(), None, drift, duration=1.0, steps=10, start=2.0)
    with pytest.raises(ValueError, match=r"diffusion .*finite.* t = 2\.5"):
        sample_sde(
            Hypercube(2),
            inside(),
            None,
            lambda x, t: bad if float(t) > 2.45 else 0.0,
            duration=1.0,
            steps=10,
            start=2.0,
        )
    with pytest.raises(ValueError, match="diffusion .*finite"):
        sample_sde(Hypercube(2), inside(), None, bad)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1, not 0"),
        ({"steps": -3}, ValueError, "steps must be at least 1"),
        ({"steps": 2.0}, TypeError, "steps must be an integer, not 2.0"),
        ({"steps": 5, "frames": 7}, ValueError, r"frames must be at most steps \+ 1 = 6, not 7"),
        ({"frames": -1}, ValueError, "frames must be at least 0"),
        ({"frames": 1.5}, TypeError, "frames must be an integer"),
        ({"duration": 0.0}, ValueError, "duration must be positive"),
        ({"duration": -1.0}, ValueError, "duration must be positive"),
        ({"duration": float("nan")}, ValueError, "duration must be finite"),
        ({"duration": float("inf")}, ValueError, "duration must be finite"),
        ({"duration": "long"}, TypeError, "duration must be a number, not str"),
        ({"start": float("inf")}, ValueError, "start must be finite"),
        ({"start": None}, TypeError, "start must be a number"),
        ({"boundary": "mirror"}, ValueError, "boundary must be .*not 'mirror'"),
        ({"boundary": None}, ValueError, "boundary must be"),
        ({"drift": 1.0}, TypeError, "drift must be None or a function of x and t, not float"),
        ({"drift": torch.zeros(3, 2)}, TypeError, "drift must be None or a function of x and t, not Tensor"),
        ({"x0": torch.zeros(3, 3)}, ShapeError, "x0 has shape"),
        ({"x0": torch.zeros(3, 2, dtype=torch.long)}, TypeError, "x0 must have a floating-point dtype"),
        ({"x0": [[0.5, 0.5]]}, TypeError, "x0 must be a torch.Tensor, not list"),
        ({"domain": "cube"}, TypeError, r"domain must be a Domain such as Hypercube\(2\), not str"),
    ],
    ids=str,
)
def test_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        sample_sde(**{"domain": Hypercube(2), "x0": inside(), **arguments})
