"""The heat kernel of the unit ball against slow references, exact identities and simulation."""

import functools
import itertools
import json
import math

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor

from constrained_diffusion.domains import ball_kernel
from tests import references_ball as ref

F64 = torch.float64
SIGMAS = (1.5, 0.6, 0.3, 0.17, 0.1, 0.09, 0.05, 0.03, 0.02, 0.01)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def kernel(x, x0, sigma) -> tuple[Tensor, Tensor]:
    x, x0 = torch.as_tensor(x, dtype=F64), torch.as_tensor(x0, dtype=F64)
    x, x0 = torch.broadcast_tensors(x, x0)
    return ball_kernel.log_prob_and_score(x, x0, torch.as_tensor(sigma, dtype=F64).expand(len(x)))


def points(d: int, count: int, generator: torch.Generator) -> Tensor:
    """Uniform points, a third of them pushed to within 0.1 of the sphere, some onto it."""
    x = torch.randn(count, d, generator=generator, dtype=F64)
    r = torch.rand(count, generator=generator, dtype=F64) ** (1 / d)
    r[::3] = 1 - 0.1 * torch.rand(len(r[::3]), generator=generator, dtype=F64)
    r[::7] = 1.0
    return x / x.norm(dim=1, keepdim=True) * r[:, None]


@functools.lru_cache(maxsize=1)
def table() -> list[list]:
    return json.loads(ref.TABLE.read_text())


@pytest.mark.parametrize("d", [2, 3, 5, 10])
@pytest.mark.parametrize("sigma", SIGMAS)
def test_matches_tabulated_reference(d, sigma):
    x, x0, log_p, score = zip(*(row[2:] for row in table() if row[:2] == [d, sigma]), strict=True)
    got, slope = kernel(x, x0, sigma)
    tolerance = 1e-7 if sigma >= 0.1 else 1e-3
    assert len(x) >= 5
    np.testing.assert_allclose(got, log_p, rtol=0, atol=tolerance)
    np.testing.assert_allclose(sigma * slope.numpy(), sigma * np.array(score), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("d", "sigma"), [(2, 0.4), (3, 0.5), (7, 0.5), (4, 0.08)])
def test_matches_live_reference(d, sigma):
    x, x0 = ref.sample_points(d, sigma, 3, np.random.default_rng(10 * d))
    reference = ref.ball_log_prob_and_score if sigma >= 0.1 else ref.ball_log_prob_and_score_float64
    log_p, score = zip(*(reference(list(a), list(b), sigma, d) for a, b in zip(x, x0, strict=True)), strict=True)
    got, slope = kernel(x, x0, sigma)
    tolerance = 1e-7 if sigma >= 0.1 else 1e-3
    np.testing.assert_allclose(got, log_p, rtol=0, atol=tolerance)
    np.testing.assert_allclose(sigma * slope.numpy(), sigma * np.array(score), rtol=0, atol=tolerance)


def test_far_tails_are_sensible():
    """Beyond the reach of the series, where sigma |score| is about 7: mpmath with 40 digits."""
    x, x0 = [[0.0, 0.0, 1.0], [0.95, 0.0, 0.0]], [[0.0, 0.6, -0.8], [-0.8, 0.6, 0.0]]
    for a, b in zip(x, x0, strict=True):
        log_p, score = ref.ball_log_prob_and_score(a, b, 0.25, 3, digits=40)
        got, slope = kernel([a], [b], 0.25)
        assert abs(got.item() - log_p) < 0.1
        assert 0.25 * np.abs(slope[0].numpy() - score).max() < 0.15


def quadrature(d: int, size: int) -> tuple[Tensor, Tensor]:
    """Nodes [N, d] and weights [N] for the disc, and for functions on the 3-ball symmetric about its x-axis."""
    node, weight = np.polynomial.legendre.leggauss(size)
    r, w = (node + 1) / 2, weight / 2
    if d == 2:
        cos = np.exp(1j * np.pi * np.arange(2 * size) / size)
        angular = np.full(2 * size, np.pi / size)
    else:
        cos = node + 1j * np.sqrt(1 - node**2)
        angular = 2 * np.pi * weight
    z = (r[:, None] * cos).ravel()
    x = np.stack([z.real, z.imag] + [0 * z.real] * (d - 2), -1)
    return torch.tensor(x), torch.tensor(((w * r ** (d - 1))[:, None] * angular).ravel())


@pytest.mark.parametrize(
    ("d", "sigma", "size"), [(2, 0.05, 130), (2, 0.08, 90), (2, 0.3, 40), (3, 0.09, 80), (3, 0.5, 24)]
)
@pytest.mark.parametrize("radius", [0.0, 0.93, 1.0])
def test_integrates_to_one(d, sigma, size, radius):
    x, weight = quadrature(d, size)
    x0 = torch.zeros(1, d, dtype=F64)
    x0[0, 0] = radius
    log_p, score = kernel(x, x0, sigma)
    tolerance = 1e-9 if sigma >= 0.1 else 1e-4
    assert abs((weight * log_p.exp()).sum().item() - 1) < tolerance
    # int x . grad p = surface term - d; the identity holds for any smooth p and ties the score to the density
    normal = x / x.norm(dim=1, keepdim=True)
    bump = 1 - (x * x).sum(1)
    left = (weight * log_p.exp() * bump * (score * normal).sum(1)).sum()
    right = (weight * log_p.exp() * (2 * x.norm(dim=1) - bump * (d - 1) / x.norm(dim=1))).sum()
    assert abs(left - right).item() < 30 * tolerance * max(1.0, abs(right.item()))


@pytest.mark.parametrize(("one", "two"), [(0.12, 0.16), (0.06, 0.08), (0.05, 0.4)])
def test_semigroup(one, two):
    """``int p_s(x | y) p_t(y | z) dy = p_sqrt(s^2 + t^2)(x | z)`` in the disc, across both ways to evaluate."""
    y, weight = quadrature(2, round(5 / one))
    for x, z in itertools.product([[0.9, 0.3], [0.2, -0.1]], [[1.0, 0.0], [0.85, 0.1]]):
        first, second = kernel([x], y, one)[0], kernel(y, [z], two)[0]
        got = torch.logsumexp(weight.log() + first + second, 0)
        want = kernel([x], [z], math.hypot(one, two))[0]
        assert abs((got - want).item()) < 2e-3 * max(1.0, abs(want.item()) / 5)


@pytest.mark.parametrize("d", [2, 3, 10])
def test_symmetric(d):
    g = torch.Generator().manual_seed(d)
    x, x0 = points(d, 600, g), points(d, 600, g).roll(1, 0)
    x0[::2] = x[::2] + 0.1 * torch.randn(300, d, generator=g, dtype=F64)
    x0 = x0 / x0.norm(dim=1, keepdim=True).clamp(min=1)
    sigma = torch.exp(math.log(1e-3) + math.log(2e3) * torch.rand(600, generator=g, dtype=F64))
    forth, back = kernel(x, x0, sigma)[0], kernel(x0, x, sigma)[0]
    assert ((forth - back).abs() / (1 + forth.abs())).max() < 1e-6


@pytest.mark.parametrize("d", [2, 3, 10])
@pytest.mark.parametrize("sigma", [0.03, 0.0999, 0.1, 0.125, 0.4, 2.0])
def test_score_is_the_gradient(d, sigma):
    """Central differences of log p, at points of every regime (the far tails included)."""
    g = torch.Generator().manual_seed(17 + d)
    x0 = points(d, 200, g)
    step = torch.randn(200, d, generator=g, dtype=F64)
    x = x0 + 4 * sigma * torch.rand(200, 1, generator=g, dtype=F64) * step / step.norm(dim=1, keepdim=True)
    x = x * (0.9995 / x.norm(dim=1, keepdim=True)).clamp(max=1)
    x[::5] = -0.999 * x0[::5]
    score = kernel(x, x0, sigma)[1]
    direction = torch.randn(200, d, generator=g, dtype=F64)
    direction = direction / direction.norm(dim=1, keepdim=True)
    h = 1e-5 * min(sigma, 0.3)
    slope = (kernel(x + h * direction, x0, sigma)[0] - kernel(x - h * direction, x0, sigma)[0]) / (2 * h)
    error = sigma * (slope - (score * direction).sum(1)).abs()
    assert error.median() < 1e-7
    assert (error / (1 + sigma * score.norm(dim=1))).max() < 1e-3


@pytest.mark.parametrize("d", [2, 3, 10])
def test_no_normal_derivative_at_the_wall(d):
    g = torch.Generator().manual_seed(d)
    x = points(d, 4000, g)
    x = x / x.norm(dim=1, keepdim=True)
    sigma = torch.exp(math.log(0.01) + math.log(300) * torch.rand(4000, generator=g, dtype=F64))
    step = torch.randn(4000, d, generator=g, dtype=F64)
    step *= 5 * torch.rand(4000, 1, generator=g, dtype=F64) / step.norm(dim=1, keepdim=True)
    x0 = x + sigma[:, None] * step
    x0 = x0 / x0.norm(dim=1, keepdim=True).clamp(min=1)
    on = kernel(x, x0, sigma)[1]
    assert (sigma * (on * x).sum(1)).abs().max() < 1e-9
    # just inside nothing is set to zero: the formulas themselves have to give it
    inside = kernel(x * (1 - 1e-10), x0, sigma)[1]
    normal = sigma * (inside * x).sum(1).abs()
    assert normal[sigma >= 0.1].max() < 1e-6
    assert normal.max() < 2e-3


@pytest.mark.parametrize("d", [2, 3, 10])
def test_wall_factor_out_into_the_tails(d):
    """Where the fit gives way to the large-deviation form: still one function and its gradient, flat at the wall."""
    rng, sigma = np.random.default_rng(d), 0.05
    depth0, w = 1.5 * rng.uniform(size=800), 9 * rng.uniform(size=800)
    depth = np.where(np.arange(800) % 2, 1.5, 9.0) * rng.uniform(size=800)
    r, r0 = 1 - sigma * depth, 1 - sigma * depth0
    angle = np.arccos(1 - w * sigma / (2 * r * r0))
    x, x0 = np.zeros((2, 800, d))
    x[:, 0], x[:, 1], x0[:, 0] = r * np.cos(angle), r * np.sin(angle), r0
    score = kernel(x, x0, sigma)[1]
    h = 1e-7
    for axis in (0, 1):
        step = h * np.eye(d)[axis]
        slope = (kernel(x + step, x0, sigma)[0] - kernel(x - step, x0, sigma)[0]) / (2 * h)
        assert sigma * (slope - score[:, axis]).abs().max() < 1e-5
    wall = x / np.linalg.norm(x, axis=1, keepdims=True)
    score = kernel(wall * (1 - 1e-10), x0, sigma)[1]
    normal = sigma * (score * torch.tensor(wall)).sum(1).abs()
    free = torch.tensor((1 - (wall * x0).sum(1)) / sigma)  # what the Gaussian alone would have
    assert (normal / (0.5 + free)).max() < 0.1
    assert (normal / (0.5 + free))[torch.tensor(w > 6)].max() < 0.04


@pytest.mark.parametrize("d", [2, 3, 5, 10, 30])
def test_finite_everywhere(d):
    g = torch.Generator().manual_seed(d)
    special_points = torch.zeros(9, d, dtype=F64)
    special_points[1, 0], special_points[2, 0], special_points[3, -1] = 1.0, -1.0, 1.0
    special_points[4, 0], special_points[5, 0], special_points[6, 1] = 1e-12, 1 - 1e-12, 0.999
    special_points[7], special_points[8, 0] = d**-0.5, 1e-300
    x = torch.cat([special_points, points(d, 7, g)])
    x, x0 = x.repeat(16, 1), x.repeat_interleave(16, 0)
    for sigma in np.geomspace(1e-4, 50, 24):
        log_p, score = kernel(x, x0, sigma)
        assert torch.isfinite(log_p).all()
        assert torch.isfinite(score).all()
        distance = (x - x0).norm(dim=1) / sigma
        if d <= 10:
            assert (sigma * score.norm(dim=1) <= 1.05 * distance + 1 + 0.05 * d).all()


@pytest.mark.parametrize("d", [2, 3, 10])
def test_limits(d):
    g = torch.Generator().manual_seed(d)
    x, x0 = points(d, 50, g), points(d, 50, g).flip(0)
    volume = math.pi ** (d / 2) / math.gamma(d / 2 + 1)
    log_p, score = kernel(x, x0, 20.0)
    np.testing.assert_allclose(log_p, -math.log(volume), atol=1e-12)
    assert score.abs().max() < 1e-12
    # far from the wall nothing but the Gaussian is left, to the last digit
    x, x0 = 0.5 * x, 0.5 * x0
    log_p, score = kernel(x, x0, 0.02)
    square = ((x - x0) ** 2).sum(1) / 0.02**2
    np.testing.assert_allclose(log_p, -square / 2 - d / 2 * math.log(2 * math.pi * 0.02**2), rtol=1e-14)
    torch.testing.assert_close(score, (x0 - x) / 0.02**2)
    # the slowest mode sets the approach to uniform
    gap = ball_kernel.spectral_gap(d)
    wall = [[1.0] + [0.0] * (d - 1)]
    late = [(kernel(wall, wall, math.sqrt(2 * n / gap))[0].exp() * volume - 1).item() for n in (12, 15)]
    assert math.log(late[0] / late[1]) == pytest.approx(3, rel=1e-3)


@pytest.mark.parametrize(("d", "root"), [(2, 1.841183781340659), (3, 2.081575977818101)])
def test_spectral_gap(d, root):
    assert ball_kernel.spectral_gap(d) == pytest.approx(root**2, rel=1e-12)
    for n in (4, 17, 300):
        z, nu = math.sqrt(ball_kernel.spectral_gap(n)), n / 2
        assert n < z * z < n + 2
        assert special.jv(nu, z) == pytest.approx(z * special.jv(nu + 1, z), rel=1e-9)


@pytest.mark.parametrize(("d", "sigma", "start"), [(2, 0.3, 0.8), (3, 0.08, 0.97), (10, 0.09, 1.0)])
def test_simulated_radius(d, sigma, start):
    """Radius of simulated reflected Brownian motion against the kernel's own: Kolmogorov-Smirnov, 20,000 paths.

    The squared radius is simulated by its Bessel process with steps so small that folding at the wall is right to
    well below the statistical error.
    """
    rng = np.random.default_rng(3)
    paths, steps = 20_000, 600
    h = sigma**2 / steps
    r = np.full(paths, start)
    for _ in range(steps):
        across = np.sqrt(h * rng.chisquare(d - 1, paths))
        r = np.hypot(r + math.sqrt(h) * rng.standard_normal(paths), across)
        r = np.where(r > 1, 2 - r, r)
    grid = np.linspace(max(0.0, start - 8 * sigma), 1, 81)
    node, weight = np.polynomial.legendre.leggauss(100)
    log_weight = (d - 3) / 2 * np.log1p(-(node**2))  # sin^{d-3} theta d cos theta
    cos, mass = (node, weight * np.exp(log_weight)) if d > 2 else (np.cos(np.pi * (np.arange(200) + 0.5) / 200), None)
    if sigma < 0.2 and d > 2:  # resolve the narrow range of angles
        width = min(1.0, 60 * sigma**2)
        cos = 1 - width * (node + 1)
        mass = weight * width * (1 - cos**2) ** ((d - 3) / 2)
    mass = np.full(200, np.pi / 200) if mass is None else mass
    rr, cc = np.meshgrid(grid, cos, indexing="ij")
    x = np.zeros((rr.size, d))
    x[:, 0], x[:, 1] = (rr * cc).ravel(), (rr * np.sqrt(1 - cc**2)).ravel()
    x0 = np.zeros((1, d))
    x0[0, 0] = start
    density = kernel(x, x0, sigma)[0].exp().numpy().reshape(rr.shape) @ mass * grid ** (d - 1)
    cdf = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(grid))])
    test = stats.kstest(r, lambda t: np.interp(t, grid, cdf / cdf[-1]))
    assert test.pvalue > 1e-5
