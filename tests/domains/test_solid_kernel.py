"""The kernel of a Solid: against closed forms, against simulations, and in training."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from constrained_diffusion import (
    Ball,
    DomainError,
    Hypercube,
    ReflectedDiffusion,
    Region,
    Solid,
    SolverError,
    sample_sde,
)
from constrained_diffusion.domains import paths, series, solid_spectrum
from tests.domains.test_region import L_SHAPE
from tests.domains.test_solid import box, prism, shell, sphere

ALPHA = 1e-5
DOUBLE = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def score_errors(solid, domain, sigma, count=600):
    """Root mean square error of sigma times the score, and errors of the log-density, at draws from the kernel."""
    x0 = 0.998 * (domain.sample_uniform(count, generator=generator(), dtype=DOUBLE) - 0.5) + 0.5
    if isinstance(domain, Ball):
        x0 = 0.998 * domain.sample_uniform(count, generator=generator(), dtype=DOUBLE)
    x = domain.sample_heat_kernel(x0, sigma, generator=generator(1))
    x = solid.project(x)
    error = sigma * (solid.kernel_score(x, x0, sigma) - domain.heat_kernel_score(x, x0, sigma)).norm(dim=-1)
    log_error = solid.kernel_log_prob(x, x0, sigma) - domain.heat_kernel_log_prob(x, x0, sigma)
    return float(error.square().mean().sqrt()), log_error.abs()


@pytest.mark.parametrize(
    ("surface", "domain", "resolutions"),
    [
        pytest.param(box(), Hypercube(3), (5, 8), id="cube"),
        pytest.param(sphere(5), Ball(3), (5, 8), id="ball"),
        pytest.param(box(), Hypercube(3), (10, 15), marks=pytest.mark.slow, id="fine cube"),
        pytest.param(sphere(5), Ball(3), (8, 12), marks=pytest.mark.slow, id="fine ball"),
    ],
)
def test_closed_forms(surface, domain, resolutions):
    """The error at one sigma falls with the mesh; at the least sigma it is a fiftieth."""
    sigma = 1.5 * Solid(*surface).diameter / resolutions[0]
    errors = []
    for resolution in resolutions:
        solid = Solid(*surface, resolution=resolution)
        errors.append(score_errors(solid, domain, sigma)[0])
    assert errors[1] < errors[0] / 1.8
    rms, log_error = score_errors(solid, domain, solid.least_sigma)
    assert rms < 0.025
    assert float(log_error.quantile(0.95)) < 0.02


@pytest.mark.parametrize(
    ("surface", "gap", "tolerance"),
    [
        (box(), math.pi**2, 1e-4),
        (sphere(5), 2.0815759778**2, 3e-3),
        (prism(L_SHAPE), 4 * 1.4756218240, 2e-2),  # Dauge's benchmark, on a square of side 2
        ((box()[0] * [1.0, 2.0, 0.7], box()[1]), math.pi**2 / 4, 1e-4),
    ],
)
def test_gap_is_a_close_lower_bound(surface, gap, tolerance):
    solid = Solid(*surface, resolution=10)
    assert (1 - tolerance) * gap < solid.spectral_gap < (1 + tolerance / 10) * gap
    first = float(solid._kernel.values[1])
    assert abs(first / gap - 1) < 2 * tolerance


def test_eigenvalues_converge_and_none_is_missing():
    k = np.arange(40) ** 2
    exact = np.sort((math.pi**2 * (k[:, None, None] + k[:, None] + k)).ravel())
    errors = []
    for resolution in (6, 9):
        solid = Solid(*box(), resolution=resolution)
        most = 2 * solid_spectrum.LEAST_TERM / solid.least_sigma**2
        found = solid._kernel.values.numpy()
        assert len(found) >= (exact <= 0.8 * most).sum()  # those found lie above the exact ones
        half = exact <= 0.5 * most
        assert np.allclose(found[: half.sum()], exact[half], rtol=0.03)
        errors.append(np.abs(found[1:10] / exact[1:10] - 1).max())
    assert errors[0] < 1e-3
    assert errors[1] < errors[0] / 5


def test_dense_and_iterative_solvers_agree(monkeypatch):
    cells = Solid(*prism(L_SHAPE), resolution=6)._cells
    dense = solid_spectrum._eigenpairs(cells, 0.75, 60.0)[0]
    monkeypatch.setattr(series, "_DENSE", 0)
    some = solid_spectrum._eigenpairs(cells, 0.75, 60.0)[0]
    count = int((dense <= 60).sum())
    assert np.allclose(dense[:count], some[:count], rtol=1e-7, atol=1e-7)


def test_a_prism_has_the_kernel_of_its_factors():
    """Over the L: the Region's kernel times the interval's."""
    solid, region, interval = Solid(*prism(L_SHAPE), resolution=12), Region(L_SHAPE, resolution=40), Hypercube(1)
    sigma = 1.5 * solid.least_sigma
    x0 = solid.sample_uniform(300, generator=generator(), dtype=DOUBLE)
    x = solid.sample_heat_kernel(x0, sigma, generator=generator(1))
    flat, high = (
        region.kernel_log_prob(x[:, :2], x0[:, :2], sigma),
        interval.heat_kernel_log_prob(x[:, 2:], x0[:, 2:], sigma),
    )
    error = (solid.kernel_log_prob(x, x0, sigma) - flat - high).abs()
    assert float(error.median()) < 0.005
    assert float(error.quantile(0.9)) < 0.03
    score = torch.cat(
        [region.kernel_score(x[:, :2], x0[:, :2], sigma), interval.heat_kernel_score(x[:, 2:], x0[:, 2:], sigma)], -1
    )
    error = sigma * (solid.kernel_score(x, x0, sigma) - score).norm(dim=-1)
    assert float(error.median()) < 0.015
    assert float(error.quantile(0.8)) < 0.05  # at the inner edge the score has no bound


def test_draws_within_a_cell_follow_the_density():
    """The mean place in a cell against the mean of the kernel there."""
    solid = Solid(*box(), resolution=12)
    kernel, sigma = solid._kernel, torch.tensor([solid.least_sigma], dtype=DOUBLE)
    x0 = torch.tensor([[0.9, 0.2, 0.5]], dtype=DOUBLE)
    weights = kernel._coefficients(x0, sigma).expand(4000, -1)
    cell = torch.full((4000,), 171)  # the middle one of 343
    y = kernel._within(cell, weights, generator())
    u = (3 + torch.rand(4000, 3, generator=generator(1), dtype=DOUBLE)) * kernel.width
    p = kernel.log_prob_and_score(u, x0.expand(4000, 3), sigma.expand(4000))[0].exp()
    expected = (u * p.unsqueeze(-1)).sum(0) / p.sum()
    assert float(((u.mean(0) - expected) / kernel.width).abs().max()) > 0.05  # the density is not flat
    assert float(((y.mean(0) - expected) / kernel.width).abs().max()) < 0.025


def test_score_is_the_gradient_and_the_kernel_integrates_to_one():
    solid = Solid(*prism(L_SHAPE), resolution=8)
    sigma = solid.least_sigma
    x0 = torch.tensor([0.4, 0.7, 0.6], dtype=DOUBLE)
    y = solid.sample_uniform(20_000, generator=generator(), dtype=DOUBLE)
    weight = (solid.kernel_log_prob(y, x0, sigma) + solid.log_volume).exp()
    assert abs(float(weight.mean()) - 1) < 4.5 * float(weight.std()) / math.sqrt(len(y))
    x = solid.sample_heat_kernel(x0.expand(10_000, 3), sigma, generator=generator(1))
    assert solid.contains(x).all()
    for f in (lambda p: p[:, 0], lambda p: p[:, 2], lambda p: (p - 0.5).norm(dim=-1), lambda p: solid.boundary(p)[0]):
        mean = float((weight * f(y)).mean())
        error = math.sqrt(float((weight * f(y)).var()) / len(y) + float(f(x).var()) / len(x))
        assert abs(mean - float(f(x).mean())) < 4.5 * error
    inner = y[solid.boundary(y)[0] > 0.01][:200]
    score = solid.kernel_score(inner, x0, sigma)
    for axis, step in enumerate(1e-4 * torch.eye(3, dtype=DOUBLE)):
        ahead, behind = (solid.kernel_log_prob(inner + s * step, x0, sigma) for s in (1, -1))
        assert torch.allclose((ahead - behind) / 2e-4, score[:, axis], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("surface", "start"),
    [(prism(L_SHAPE), (0.62, 0.42, 0.3)), pytest.param(shell(), (0.5, 0.1, 0.2), marks=pytest.mark.slow)],
)
def test_series_against_long_simulations(surface, start):
    """The ends of walks of many small reflected steps."""
    solid = Solid(*surface, resolution=10)
    sigma = 1.01 * solid.least_sigma
    x0 = torch.tensor(start, dtype=DOUBLE).expand(3000, 3)
    walk = sample_sde(solid, x0, None, sigma, steps=200, generator=generator(2)).x
    x, _ = solid.diffuse(x0, sigma, generator=generator(3))
    for f in (lambda p: p[:, 0], lambda p: p[:, 1], lambda p: p.sum(-1), lambda p: solid.boundary(p)[0]):
        assert stats.ks_2samp(f(walk).numpy(), f(x).numpy()).pvalue > ALPHA


def test_paths_and_series_agree():
    """Both give the mean of the score over slabs."""
    solid = Solid(*box(), resolution=10)
    s = torch.full((3000,), 1.05 * solid.least_sigma, dtype=DOUBLE)
    x0 = torch.tensor([0.15, 0.4, 0.5], dtype=DOUBLE).expand(3000, 3)
    x, target = paths.simulate(solid, x0, s, generator=generator())
    difference = (target - solid.kernel_score(x, x0, s)) * float(s[0])
    for low in (0.0, 0.15, 0.3):
        rows = (x[:, 0] >= low) & (x[:, 0] < low + 0.15)
        error = difference[rows].std(0) / math.sqrt(int(rows.sum()))
        assert (difference[rows].mean(0).abs() < 4.5 * error + 0.02).all()


def test_what_is_refused(monkeypatch):
    solid = Solid(*box(), resolution=6)
    x = torch.tensor([0.5, 0.5, 0.5])
    with pytest.raises(DomainError, match="at least least_sigma.*raise resolution"):
        solid.kernel_log_prob(x, x, 0.01)
    with pytest.raises(NotImplementedError, match="kernel_score"):
        solid.heat_kernel_score(x, x, 0.5)
    with pytest.raises(ValueError, match="resolution must be finite and at least 4"):
        Solid(*box(), resolution=2)
    monkeypatch.setattr(solid_spectrum.Cells, "over", lambda *_: pytest.fail("a mesh was made first"))
    with pytest.raises(SolverError, match="lower resolution"):
        _ = Solid(*box(), resolution=40).spectral_gap


@pytest.mark.slow
def test_training_stays_inside_and_integrates_to_one():
    solid = Solid(*prism(L_SHAPE), resolution=8)
    start = torch.tensor([0.2, 0.8, 0.5]).expand(400, 3)
    x = solid.reflect(start, 0.1 * torch.randn(400, 3, generator=generator()))
    model = ReflectedDiffusion(solid, width=32, depth=2, steps=30, batch_size=64, sigma_min=0.1).fit(x)
    samples = model.sample(300, steps=30)
    assert solid.contains(samples).all()
    y = solid.sample_uniform(800, generator=generator(1))
    density = (model.log_prob(y, rtol=1e-3, atol=1e-3).double() + solid.log_volume).exp()
    assert abs(float(density.mean()) - 1) < 4.5 * float(density.std()) / math.sqrt(len(y)) + 0.02
