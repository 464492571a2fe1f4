"""Caps and spherical polygons: moves against tiny steps, sizes against formulas, targets against exact kernels."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from constrained_diffusion import Domain, DomainError, ShapeError, SolverError, Sphere, SphericalPolytope
from constrained_diffusion.domains import paths
from constrained_diffusion.testing import check_domain

ALPHA = 1e-5
DOUBLE = torch.float64
CAP = SphericalPolytope.cap([0.0, 0.0, 1.0], 0.8)
WIDE = SphericalPolytope.cap([0.0, 1.0, 0.0], 2.2)
TRIANGLE = SphericalPolytope.from_vertices([[1.0, 0.0, 0.0], [0.3, 1.0, 0.2], [0.5, 0.1, 1.0]])
OCTANT = SphericalPolytope.from_vertices(torch.eye(3))
HEMISPHERE = SphericalPolytope.cap([0.0, 0.0, 1.0], math.pi / 2)
ZONE = SphericalPolytope([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]], [0.5, 0.3])
ALL = [CAP, WIDE, TRIANGLE, OCTANT, HEMISPHERE, ZONE]
NAMES = ["cap", "wide cap", "triangle", "octant", "hemisphere", "zone"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny_steps(domain, x, v, count):
    """The move in many short pieces, each mirrored in the wall that it crosses."""
    sphere = domain.sphere
    length = v.norm(dim=-1, keepdim=True) / count
    u = v / v.norm(dim=-1, keepdim=True)
    normals, heights = domain._normals, domain._heights
    for _ in range(count):
        end = sphere.expmap(x, length * u)
        u = sphere.transp(x, end, u)
        for n, c in zip(normals, heights, strict=True):
            out = ((end @ n < c) & (u @ n < 0)).unsqueeze(-1)
            across = n - (end @ n).unsqueeze(-1) * end
            across = across / across.norm(dim=-1, keepdim=True)
            u = torch.where(out, u - 2 * (u * across).sum(-1, keepdim=True) * across, u)
        x = end
    return x


@pytest.mark.parametrize("domain", [CAP, WIDE, TRIANGLE], ids=["cap", "wide cap", "triangle"])
def test_moves_are_those_of_tiny_steps(domain):
    x = domain.sample_uniform(200, generator=generator(), dtype=DOUBLE)
    v = domain.sample_noise(x, generator=generator(1))
    v = 2.0 * v / v.norm(dim=-1, keepdim=True)
    end = domain.reflect(x, v)
    slow = tiny_steps(domain, x, v, 1500)
    apart = (end - slow).norm(dim=-1)
    assert float(apart.median()) < 5e-3
    assert float((apart < 0.05).double().mean()) > 0.95  # but for moves that graze a wall or meet a corner
    assert domain.contains(end, atol=1e-13).all()


def test_a_bounce_off_a_small_circle_is_specular():
    x = torch.tensor([[0.0, 0.0, 1.0]], dtype=DOUBLE)
    v = torch.tensor([[1.0, 0.0, 0.0]], dtype=DOUBLE)
    straight = CAP.reflect(x, v)  # 0.8 out, 0.2 back
    torch.testing.assert_close(straight, torch.tensor([[math.sin(0.6), 0.0, math.cos(0.6)]], dtype=DOUBLE))
    there_and_back = CAP.reflect(x, 3.2 * v)
    torch.testing.assert_close(there_and_back, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 2e-6), (DOUBLE, 1e-13)])
@pytest.mark.parametrize("domain", ALL, ids=NAMES)
def test_everything_stays_inside(domain, dtype, off):
    x = domain.sample_uniform(300, generator=generator(), dtype=dtype)
    assert domain.contains(x).all()
    for size in (1e-4, 0.5, 50.0):
        x = domain.reflect(x, size * domain.sample_noise(x, generator=generator(1)))
        assert domain.contains(x, atol=off).all()
    away = torch.randn((300, 3), generator=generator(2), dtype=dtype) * 3
    assert domain.contains(domain.project(away), atol=off).all()
    noised, target = domain.diffuse(x[:50], 0.5, generator=generator(3))
    assert domain.contains(noised, atol=off).all()
    assert target.dtype == dtype
    corner = torch.eye(3, dtype=dtype)
    corner = corner[domain.contains(corner, atol=1e-6)]
    assert domain.contains(domain.reflect(corner, torch.ones_like(corner)), atol=off).all()


@pytest.mark.parametrize("domain", [CAP, WIDE, TRIANGLE, ZONE], ids=["cap", "wide cap", "triangle", "zone"])
def test_projection_is_nearest(domain):
    far = Sphere(2).sample_uniform(300, generator=generator(), dtype=DOUBLE)
    inside = domain.sample_uniform(20_000, generator=generator(1), dtype=DOUBLE)
    best = torch.cdist(far, inside).amin(1)
    found = (far - domain.project(far)).norm(dim=-1)
    assert float((found - best).max()) < 1e-9
    assert float((best - found).max()) < 0.15


# ---------------------------------------------------------------------- sizes


def test_volumes():
    assert CAP.log_volume == pytest.approx(math.log(2 * math.pi * (1 - math.cos(0.8))), abs=1e-12)
    assert WIDE.log_volume == pytest.approx(math.log(2 * math.pi * (1 - math.cos(2.2))), abs=1e-12)
    assert OCTANT.log_volume == pytest.approx(math.log(math.pi / 2), abs=1e-7)
    assert ZONE.log_volume == pytest.approx(math.log(2 * math.pi * 0.8), abs=0.01)
    a, b, c = TRIANGLE._normals  # Girard: the angles' excess over pi
    angles = [math.pi - math.acos(float(p @ q)) for p, q in ((a, b), (b, c), (c, a))]
    assert TRIANGLE.log_volume == pytest.approx(math.log(sum(angles) - math.pi), abs=1e-6)
    four = SphericalPolytope.cap([1.0, 0, 0, 0, 0], 1.0)  # of S^4
    rings = 2 * math.pi**2 * (2 / 3 - math.cos(1.0) + math.cos(1.0) ** 3 / 3)
    assert four.log_volume == pytest.approx(math.log(rings), abs=1e-10)
    orthant = SphericalPolytope(-torch.eye(4), torch.zeros(4))
    assert orthant.log_volume == pytest.approx(Sphere(3).log_volume - 4 * math.log(2), abs=0.01)


def test_spectral_gaps():
    assert HEMISPHERE.spectral_gap == pytest.approx(2, rel=1e-3)
    assert SphericalPolytope.cap([1.0, 0, 0, 0], math.pi / 2).spectral_gap == pytest.approx(3, rel=1e-3)
    for angle in (0.8, 2.2):  # f = P^1_nu(cos theta) times a cosine, with f' = 0 at the wall
        gap = SphericalPolytope.cap([0.0, 0.0, 1.0], angle).spectral_gap
        nu = (math.sqrt(1 + 4 * gap) - 1) / 2
        theta = angle + np.array([-1e-4, 0.0, 1e-4])
        f = np.sin(theta) * special.hyp2f1(1 - nu, nu + 2, 2, (1 - np.cos(theta)) / 2)
        assert abs(f[2] - f[0]) / 2e-4 / f[1] < 2e-3
    small = SphericalPolytope.cap([0.0, 0.0, 1.0], 0.01)
    assert small.spectral_gap * 0.01**2 == pytest.approx(1.8412**2, rel=1e-3)  # the disc's
    assert OCTANT.spectral_gap <= 6
    assert TRIANGLE.spectral_gap > 2
    assert 0 < ZONE.spectral_gap < 2


def test_uniform_draws_fill_caps_evenly():
    x = CAP.sample_uniform(5000, generator=generator(), dtype=DOUBLE)
    height = (x[:, 2] - math.cos(0.8)) / (1 - math.cos(0.8))  # Archimedes
    assert stats.kstest(height.numpy(), "uniform").pvalue > ALPHA
    assert stats.kstest(torch.atan2(x[:, 1], x[:, 0]).numpy(), "uniform", (-math.pi, 2 * math.pi)).pvalue > ALPHA


@pytest.mark.parametrize("domain", [CAP, TRIANGLE], ids=["cap", "triangle"])
def test_reflected_walks_keep_the_uniform_law(domain):
    x = domain.sample_uniform(4000, generator=generator(), dtype=DOUBLE)
    other = domain.sample_uniform(4000, generator=generator(1), dtype=DOUBLE)
    for k in range(8):
        x = domain.reflect(x, 0.6 * domain.sample_noise(x, generator=generator(k)))
    for statistic in (lambda p: p[:, 0], lambda p: p[:, 2], lambda p: domain.boundary(p)[0]):
        assert stats.ks_2samp(statistic(x).numpy(), statistic(other).numpy()).pvalue > ALPHA


# ---------------------------------------------------------------------- noise


@pytest.mark.parametrize(
    ("domain", "start"),
    [(HEMISPHERE, [math.sin(1.35), 0.0, math.cos(1.35)]), (OCTANT, [0.85, 0.45, 0.27])],
    ids=["hemisphere", "octant"],
)
@pytest.mark.parametrize("sigma", [0.3, pytest.param(0.8, marks=pytest.mark.slow)])
def test_path_targets_regress_to_the_exact_score(domain, start, sigma):
    """Simulated paths know nothing of the images that make the kernel here exact."""
    n = 5000
    x0 = torch.tensor(start, dtype=DOUBLE)
    x0 = (x0 / x0.norm()).expand(n, 3)
    x, target = paths.simulate(domain, x0, torch.full((n,), sigma, dtype=DOUBLE), generator=generator())
    score = domain.heat_kernel_score(x, x0, sigma)
    square = domain.inner(x, score, score)
    error = domain.inner(x, target - score, score)
    z = float(error.mean() / error.std()) * math.sqrt(n)
    assert abs(z) < 4.5 or abs(float(error.mean() / square.mean())) < 0.02
    assert float(error.std() / square.mean()) / math.sqrt(n) < 0.05
    exact = domain.sample_heat_kernel(x0, sigma, generator=generator(1))
    for i in range(3):
        assert stats.ks_2samp(x[:, i].numpy(), exact[:, i].numpy()).pvalue > ALPHA


def test_path_targets_feel_the_curvature():
    """On a nearly whole sphere the target regresses to the sphere's score; without Ricci's damping it is 17 % off."""
    n, sigma = 4000, 0.8
    most = SphericalPolytope.cap([0.0, 0.0, 1.0], 3.1)
    x0 = torch.tensor([0.0, 0.0, 1.0], dtype=DOUBLE).expand(n, 3)
    x, target = paths.simulate(most, x0, torch.full((n,), sigma, dtype=DOUBLE), generator=generator())
    score = Sphere(2).heat_kernel_score(x, x0, sigma)
    slope = float((target * score).sum(-1).mean() / (score * score).sum(-1).mean())
    assert abs(slope - 1) < 0.02


@pytest.mark.parametrize(
    "domain",
    [
        pytest.param(CAP, id="cap"),
        pytest.param(TRIANGLE, id="triangle", marks=pytest.mark.slow),
        pytest.param(OCTANT, id="octant", marks=pytest.mark.slow),
        pytest.param(WIDE, id="wide cap", marks=pytest.mark.slow),
        pytest.param(ZONE, id="zone", marks=pytest.mark.slow),
        pytest.param(SphericalPolytope.cap([1.0, 0, 0, 0], 1.2), id="cap of S^3", marks=pytest.mark.slow),
    ],
)
def test_promises(domain):
    assert check_domain(domain, points=400, paths=800).passed


# ---------------------------------------------------------------------- values


@pytest.mark.parametrize("domain", ALL, ids=NAMES)
def test_values(domain):
    again = Domain.from_config(domain.config())
    assert again == domain
    assert hash(again) == hash(domain)
    assert again.log_volume == domain.log_volume
    assert domain.sample_uniform((2, 3), dtype=DOUBLE).shape == (2, 3, 3)
    assert domain.boundary(domain.sample_uniform((2, 3)))[1].shape == (2, 3, 3)


def test_bad_input_is_refused():
    with pytest.raises(DomainError, match="row 1 of A x <= b does not cut"):
        SphericalPolytope([[0.0, 0, 1], [0.0, 0, 1]], [0.0, 1.0])
    with pytest.raises(ShapeError, match="A must be"):
        SphericalPolytope([[0.0, 1.0]], [0.0])
    with pytest.raises(SolverError, match="empty"):
        SphericalPolytope([[0.0, 0, 1], [0.0, 0, -1]], [-0.5, -0.5])
    with pytest.raises(ValueError, match="angle"):
        SphericalPolytope.cap([0.0, 0, 1], 4.0)
    with pytest.raises(DomainError, match="hemisphere"):
        SphericalPolytope.from_vertices([[1.0, 0, 0], [-1.0, 0.1, 0], [0, 1.0, 0], [0, -1, 0.3], [0, 0, 1], [0, 0, -1]])
    with pytest.raises(NotImplementedError, match="diffuse"):
        CAP.heat_kernel_score(CAP.sample_uniform(1), CAP.sample_uniform(1), 0.1)
    with pytest.raises(DomainError, match="lies outside"):
        CAP.diffuse(torch.tensor([0.0, 0.0, -1.0]), 0.1)
