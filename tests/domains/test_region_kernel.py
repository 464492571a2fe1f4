"""The kernel of a Region: against closed forms, against simulations, and in training."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from constrained_diffusion import Ball, DomainError, Hypercube, ReflectedDiffusion, Region, Simplex, sample_sde
from constrained_diffusion.domains import paths, region_mesh, region_spectrum
from tests.domains.test_region import L_SHAPE, SQUARE, ngon

pytest.importorskip("skfem")

ALPHA = 1e-5


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def triangle():
    """The simplex of three parts, and the map of its points to the plane."""
    domain = Simplex(3)
    frame = domain.frame(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    return domain, frame.T, Region(torch.eye(3, dtype=torch.float64) @ frame.T, resolution=25)


def score_errors(region, domain, to_plane, sigma, count=1500):
    """Errors of sigma times the score ``[n]``, and of the log-density, at points drawn from the kernel."""
    x0 = domain.sample_uniform(count, generator=generator(), dtype=torch.float64)
    x = domain.sample_heat_kernel(x0, sigma, generator=generator(1))
    y, y0 = region.project(x @ to_plane), region.project(x0 @ to_plane)
    score = domain.heat_kernel_score(x, x0, sigma) @ to_plane
    error = sigma * (region.kernel_score(y, y0, sigma) - score).norm(dim=-1)
    return error, (region.kernel_log_prob(y, y0, sigma) - domain.heat_kernel_log_prob(x, x0, sigma)).abs()


EYE = torch.eye(2, dtype=torch.float64)


def closed_forms():
    simplex, to_plane, region = triangle()
    return {
        "square": (Hypercube(2), EYE, lambda n: Region(SQUARE, resolution=n)),
        "disc": (Ball(2), EYE, lambda n: Region(ngon(300, 1.0), resolution=n)),
        "triangle": (simplex, to_plane, lambda n: Region(region.rings, resolution=n)),
    }


@pytest.mark.parametrize("name", ["square", pytest.param("disc", marks=pytest.mark.slow), "triangle"])
def test_closed_forms(name):
    """At a tenth of the diameter; the error falls at least with the square of the mesh width."""
    domain, to_plane, build = closed_forms()[name]
    rms = []
    for resolution in (25, 50):
        region = build(resolution)
        sigma = 0.2 * region.diameter
        error, log_error = score_errors(region, domain, to_plane, sigma)
        rms.append(float(error.square().mean().sqrt()))
    assert rms[1] < 2e-3
    assert rms[1] < rms[0] / 3
    error, log_error = score_errors(region, domain, to_plane, 0.1 * region.diameter)
    assert float(error.square().mean().sqrt()) < 8e-3
    assert float(error.quantile(0.95)) < 2e-2
    assert float(log_error.quantile(0.99)) < 5e-3


@pytest.mark.parametrize(
    ("rings", "gap"),
    [
        (SQUARE, math.pi**2),
        (ngon(300, 1.0), 1.8411837813406593**2),
        (L_SHAPE, 4 * 1.4756218240),  # Dauge's benchmark, on a square of side 2
    ],
)
def test_gap_is_a_close_lower_bound(rings, gap):
    found = Region(rings, resolution=25).spectral_gap
    assert 0.97 * gap < found < 1.0001 * gap


def test_series_has_enough_terms():
    """Weyl: none is missing below the last."""
    region = Region(SQUARE, resolution=20)
    k = np.arange(60) ** 2
    exact = np.sort((math.pi**2 * (k[:, None] + k)).ravel())
    most = 2 * region_spectrum.LEAST_TERM / region.least_sigma**2
    exact = exact[exact <= 0.99 * most]
    found = region._eigenpairs.values
    assert len(found) >= len(exact)
    assert np.allclose(found[: len(exact)], exact, rtol=0.02)
    assert np.allclose(found[1:10], exact[1:10], rtol=1e-3)


def test_kernel_integrates_to_one_and_its_draws_have_its_law():
    region = Region(L_SHAPE, resolution=25)
    sigma = region.least_sigma
    x0 = torch.tensor([0.4, 0.7], dtype=torch.float64)
    y = region.sample_uniform(40_000, generator=generator(), dtype=torch.float64)
    weight = (region.kernel_log_prob(y, x0, sigma) + region.log_volume).exp()
    assert abs(float(weight.mean()) - 1) < 4.5 * float(weight.std()) / 200
    x = region.sample_heat_kernel(x0.expand(20_000, 2), sigma, generator=generator(1))
    for f in (lambda p: p[:, 0], lambda p: p[:, 1], lambda p: (p - 0.5).norm(dim=-1), lambda p: region.boundary(p)[0]):
        mean = float((weight * f(y)).mean())
        error = math.sqrt(float((weight * f(y)).var()) / len(y) + float(f(x).var()) / len(x))
        assert abs(mean - float(f(x).mean())) < 4.5 * error


@pytest.mark.parametrize(
    ("rings", "start"),
    [(L_SHAPE, (0.62, 0.42)), pytest.param([ngon(64, 1.0), ngon(64, 0.4)], (0.5, 0.1), marks=pytest.mark.slow)],
)
def test_series_against_long_simulations(rings, start):
    """The ends of walks of many small reflected steps."""
    region = Region(rings, resolution=25)
    sigma = region.least_sigma
    x0 = torch.tensor(start, dtype=torch.float64).expand(4000, 2)
    walk = sample_sde(region, x0, None, sigma, steps=200, generator=generator(2)).x
    x, _ = region.diffuse(x0, sigma, generator=generator(3))
    for f in (lambda p: p[:, 0], lambda p: p[:, 1], lambda p: p.sum(-1), lambda p: region.boundary(p)[0]):
        assert stats.ks_2samp(f(walk).numpy(), f(x).numpy()).pvalue > ALPHA


def test_paths_and_series_agree_beside_straight_walls():
    """Both give the mean of the score over boxes, where no corner points inwards."""
    region = Region(SQUARE, resolution=50)
    s = torch.full((8000,), 1.05 * region.least_sigma, dtype=torch.float64)
    x0 = torch.tensor([0.15, 0.4], dtype=torch.float64).expand(8000, 2)
    x, target = paths.simulate(region, x0, s, generator=generator())
    score = region.kernel_score(x, x0, s)
    for low in (0.0, 0.1, 0.2):
        rows = (x[:, 0] >= low) & (x[:, 0] < low + 0.1)
        difference = (target - score)[rows] * float(s[0])
        error = difference.std(0) / math.sqrt(int(rows.sum()))
        assert ((difference.mean(0)).abs() < 4.5 * error + 0.01).all()


def test_less_noise_than_the_series_has_is_refused():
    region = Region(SQUARE, resolution=20)
    x = torch.tensor([0.5, 0.5])
    with pytest.raises(DomainError, match="at least least_sigma.*raise resolution"):
        region.kernel_log_prob(x, x, 0.01)
    with pytest.raises(NotImplementedError, match="kernel_score"):
        region.heat_kernel_score(x, x, 0.5)


@pytest.mark.slow
def test_points_beside_a_simplified_mesh_have_the_nearest_triangles_value(monkeypatch):
    monkeypatch.setattr(region_mesh, "_MOST_CORNERS", 100)
    region = Region(ngon(400, 1.0), resolution=12)
    assert not region.mesh.exact
    t = torch.linspace(0, 6, 50, dtype=torch.float64)
    x = (1 - 1e-4) * torch.stack([t.cos(), t.sin()], -1)
    x0, sigma = torch.tensor([0.3, 0.2], dtype=torch.float64).expand(50, 2), region.least_sigma
    found, inner = (region.kernel_log_prob(p, x0, sigma) for p in (x, 0.98 * x))
    assert (found - inner).abs().max() < 0.1
    y, u = region.diffuse(x, sigma, generator=generator())
    assert region.contains(y).all()
    assert u.isfinite().all()


@pytest.mark.slow
def test_training_stays_inside_and_integrates_to_one():
    region = Region(L_SHAPE, resolution=16)
    x = region.reflect(torch.tensor([0.2, 0.8]).expand(400, 2), 0.1 * torch.randn(400, 2, generator=generator()))
    model = ReflectedDiffusion(region, width=32, depth=2, steps=30, batch_size=64, sigma_min=0.1).fit(x)
    samples = model.sample(300, steps=30)
    assert region.contains(samples).all()
    y = region.sample_uniform(800, generator=generator(1))
    density = (model.log_prob(y, rtol=1e-3, atol=1e-3).double() + region.log_volume).exp()
    assert abs(float(density.mean()) - 1) < 4.5 * float(density.std()) / math.sqrt(len(y)) + 0.02
