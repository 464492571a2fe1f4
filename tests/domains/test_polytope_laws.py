"""The uniform law of polytopes, their volumes and denoising targets, against exact moments, draws and kernels."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from constrained_diffusion import Hypercube, Polytope
from tests import references as ref
from tests import references_polytope as poly
from tests.polytopes import (
    BODIES,
    F64,
    assert_inside,
    both_dtypes,
    build,
    corners,
    few,
    flat,
    generator,
    points,
    polytope,
    rng,
    tensor,
)


# ---- the uniform law
def assert_uniform(name: str, x: np.ndarray) -> None:
    """Moments exactly; distances from walls and random projections against independent draws."""
    mean, second = poly.hull_moments(corners(name))
    assert np.abs(ref.z_scores(x, mean)).max() < ref.LARGEST_Z
    assert np.abs(ref.z_scores(x[:, :, None] * x[:, None], second)).max() < ref.LARGEST_Z
    other = poly.hull_draws(corners(name), rng(9), 20_000)
    probes = rng(8).standard_normal((x.shape[1], 5))
    views = [(x @ probes).T, poly.slacks(BODIES[name], x).T, poly.slacks(BODIES[name], x).min(1)[None]]
    others = [(other @ probes).T, poly.slacks(BODIES[name], other).T, poly.slacks(BODIES[name], other).min(1)[None]]
    for a, b in zip(np.concatenate(views), np.concatenate(others), strict=True):
        assert stats.ks_2samp(a, b).pvalue > ref.ALPHA


@few
def test_moves_keep_the_uniform_law(name):
    domain = polytope(name)
    x = tensor(name, poly.hull_draws(corners(name), rng(5), 10_000))
    for size in (0.3, 3.0, 0.7):
        x = domain.reflect(x, size * domain.inradius * domain.sample_noise(x, generator=generator(int(10 * size))))
    assert_uniform(name, flat(x, corners(name).shape[1]))


@both_dtypes
@few
def test_sample_uniform(name, dtype):
    domain = polytope(name)
    x = domain.sample_uniform(5000, generator=generator(0), dtype=dtype)
    assert x.dtype == dtype
    assert_inside(name, x)
    assert_uniform(name, flat(x, corners(name).shape[1]))
    assert domain.mixing.r_hat < 1.05
    assert domain.mixing.r_hat > 0.9
    assert domain.mixing.steps > 0
    assert domain.mixing.chains > 1
    # points that were drawn one after the other know nothing of each other
    first, later = flat(x[:-1], corners(name).shape[1]), flat(x[1:], corners(name).shape[1])
    mean = poly.hull_moments(corners(name))[0]
    assert np.abs(ref.z_scores((first - mean) * (later - mean))).max() < ref.LARGEST_Z


def test_sample_uniform_in_ten_dimensions():
    domain, body = polytope("random 10"), BODIES["random 10"]
    x = domain.sample_uniform(5000, generator=generator(0), dtype=F64)
    other = poly.hit_and_run(body, rng(3), 5000, 500)
    probes = rng(8).standard_normal((10, 6))
    for view in (lambda z: z @ probes, lambda z: poly.slacks(body, z)[:, poly.needed_rows(body)]):
        for a, b in zip(view(x.numpy()).T, view(other).T, strict=True):
            assert stats.ks_2samp(a, b).pvalue > ref.ALPHA
    assert domain.mixing.r_hat < 1.05


@pytest.mark.parametrize("sides", [[1.0, 1e-3], [1.0, 1e-3, 0.03], [1.0] * 3 + [1e-3] * 3], ids=str)
def test_needles_mix(sides):
    d, turn = len(sides), poly.rotation(2, len(sides))
    domain = build(poly.turned(poly.box(np.zeros(d), np.array(sides)), turn, np.full(d, 0.5)))
    x = domain.sample_uniform(5000, generator=generator(0), dtype=F64)
    straight = (x.numpy() - 0.5) @ turn / np.array(sides)
    for column in straight.T:
        assert stats.kstest(column, "uniform").pvalue > ref.ALPHA
    correlation = np.corrcoef(straight.T) - np.eye(d)
    assert np.abs(correlation).max() < 5 / math.sqrt(5000)
    assert domain.mixing.r_hat < 1.05


@pytest.mark.parametrize(("name", "law"), [("simplex", stats.beta(1, 7)), ("ball of 1-norm", stats.beta(1, 6))])
def test_marginals_in_closed_form(name, law):
    body = poly.simplex(8) if name == "simplex" else poly.cross_polytope(6)
    x = build(body).sample_uniform(5000, generator=generator(1), dtype=F64).abs().numpy()
    for column in x.T:
        assert stats.kstest(column, law.cdf).pvalue > ref.ALPHA


def test_seeds_repeat():
    domain, fresh = Polytope.birkhoff(3), Polytope.birkhoff(3)
    before = torch.get_rng_state()
    first = domain.sample_uniform((4, 5), generator=generator(1))
    assert first.shape == (4, 5, 3, 3)
    other = domain.sample_uniform((4, 5), generator=generator(2))
    assert not torch.equal(first, other)
    assert torch.equal(first, domain.sample_uniform((4, 5), generator=generator(1))), "earlier draws matter"
    _ = fresh.log_volume, fresh.diameter
    assert torch.equal(first, fresh.sample_uniform((4, 5), generator=generator(1)))
    x0 = first[0]
    for a, b in zip(*(domain.diffuse(x0, 0.2, generator=generator(3)) for _ in range(2)), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(before, torch.get_rng_state()), "a generator was given, the global one was used"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        first = domain.sample_uniform(3)
        torch.manual_seed(3)
        assert torch.equal(first, domain.sample_uniform(3))
    assert first.dtype == torch.get_default_dtype()


def test_draws_forget_the_chains_they_come_from():
    """Few chains are kept; a trace of them would be an error of the mean that no number of draws removes."""
    body = poly.simplex(8)
    domain = build(body)
    assert domain.mixing.chains < 10_000
    x = domain.sample_uniform(100_000, generator=generator(4), dtype=F64).numpy()
    second = (np.ones((8, 8)) + np.eye(8)) / 72  # of Dirichlet's law with all parameters one
    assert np.abs(ref.z_scores(x, 1 / 8)).max() < ref.LARGEST_Z
    assert np.abs(ref.z_scores(x[:, :, None] * x[:, None], second)).max() < ref.LARGEST_Z


def turned_box(seed: int, sides: list[float]) -> Polytope:
    d = len(sides)
    return build(poly.turned(poly.box(np.zeros(d), np.array(sides)), poly.rotation(seed, d), np.ones(d)))


def test_shares_of_a_budget():
    """x >= 0 with a sum of at most 1: the corners in random directions need not span the space."""
    n = 15
    domain = Polytope(np.concatenate([-np.eye(n), np.ones((1, n))]), np.r_[np.zeros(n), 1.0])
    x = domain.sample_uniform(4000, generator=generator(0), dtype=F64).numpy()
    rest = np.concatenate([x, 1 - x.sum(1, keepdims=True)], 1)  # Dirichlet(1, .., 1) in n + 1 parts
    assert np.abs(ref.z_scores(rest, np.full(n + 1, 1 / (n + 1)))).max() < ref.LARGEST_Z
    assert np.abs(ref.z_scores(rest**2, np.full(n + 1, 2 / (n + 1) / (n + 2)))).max() < ref.LARGEST_Z


@pytest.mark.slow
def test_volume_of_doubly_stochastic_matrices():
    """4 x 4: a hull of nine dimensions, 176/2835 (Chan & Robbins 1999), estimated; the same each time."""
    domain = Polytope.birkhoff(4)
    found = domain.log_volume
    assert 0 <= domain.log_volume_error < 0.1
    assert abs(found - math.log(176 / 2835)) < ref.LARGEST_Z * domain.log_volume_error + 1e-9
    assert found == domain.log_volume


def test_volumes_are_estimated_alike_each_time(monkeypatch):
    monkeypatch.setattr("constrained_diffusion.domains.polytope._VOLUME_POINTS", 3000)
    domains = [Polytope.birkhoff(4) for _ in range(2)]
    assert domains[0].log_volume == domains[1].log_volume
    assert 0 < domains[0].log_volume_error < 0.2
    assert abs(domains[0].log_volume - math.log(176 / 2835)) < ref.LARGEST_Z * domains[0].log_volume_error


@pytest.mark.slow
def test_volumes_are_as_good_as_they_say():
    sides = [0.1, 0.3, 0.5, 1.0, 1.5, 2.0]
    domains = [turned_box(seed, sides) for seed in range(10)]
    z = [(domain.log_volume - sum(map(math.log, sides))) / domain.log_volume_error for domain in domains]
    assert math.sqrt(sum(v**2 for v in z) / len(z)) < 1.9  # chi squared of 10: beyond, with a chance of 1e-4
    cube = turned_box(5, np.linspace(0.1, 2.0, 10).tolist())
    assert abs(cube.log_volume - np.log(np.linspace(0.1, 2.0, 10)).sum()) < ref.LARGEST_Z * cube.log_volume_error


# ---- denoising targets
STARTS = {"random 10": 0.2, "birkhoff 3": 0.4, "triangle": 0.4}  # sigma in inradii


def started(name: str) -> np.ndarray:
    """A point near a wall: at a tenth of the way to the centre."""
    x = points(name)[0]
    body = BODIES[name]
    near = poly.nearest(body, x + 3 * (x - poly.chebyshev(body)[1]))
    return near + 0.1 * (poly.chebyshev(body)[1] - near)


def residuals(name: str, count: int, seed: int) -> np.ndarray:
    domain, body = polytope(name), BODIES[name]
    sigma = STARTS[name] * domain.inradius
    x0 = tensor(name, started(name)[None]).expand(count, *domain.event_shape)
    x, target = domain.diffuse(x0, sigma, generator=generator(seed))
    n = body.A.shape[1]
    return poly.tangential_residuals(body, flat(x, n), flat(target, n), 0.5 * domain.inradius)


def test_test_fields_hold_for_an_exact_score():
    """On a turned box, whose kernel is known; a score that is 10 % too large, or lacks its walls, is noticed."""
    turn, shift = poly.rotation(0, 3), np.array([1.0, -2.0, 0.5])
    body = poly.turned(poly.box([0, 0, 0], [1, 1, 1]), turn, shift)
    x0 = torch.tensor([0.1, 0.5, 0.02], dtype=F64).expand(20_000, 3)
    x, score = Hypercube(3).diffuse(x0, 0.3, generator=generator(0))
    here = x.numpy() @ turn.T + shift

    def largest(target: torch.Tensor) -> float:
        return np.abs(ref.z_scores(poly.tangential_residuals(body, here, target.numpy() @ turn.T, 0.3))).max()

    assert largest(score) < ref.LARGEST_Z
    assert largest(1.1 * score) > 6
    assert largest((x0 - x) / 0.09) > 10


@pytest.mark.parametrize("name", STARTS)
def test_targets_meet_the_test_fields(name):
    z = ref.z_scores(residuals(name, 20_000, 0))
    assert np.abs(z).max() < ref.LARGEST_Z
    assert np.sqrt((z**2).mean()) < 2


@pytest.mark.slow
@pytest.mark.parametrize("name", STARTS)
def test_targets_meet_the_test_fields_closely(name):
    z = ref.z_scores(np.concatenate([residuals(name, 20_000, seed) for seed in range(5)]))
    assert np.sqrt((z**2).mean()) < 3
    assert np.abs(z).max() < 6


def test_targets_agree_with_the_kernel_of_a_box():
    domain, cube = polytope("square"), Hypercube(2)
    x0 = torch.tensor([0.05, 0.6], dtype=F64).expand(20_000, 2)
    x, target = domain.diffuse(x0, 0.2, generator=generator(0))
    score = cube.heat_kernel_score(x, x0, 0.2)
    assert np.abs(ref.z_scores(((target - score) * score).numpy())).max() < ref.LARGEST_Z
    assert float((target * score).sum() / (score * score).sum()) == pytest.approx(1.0, abs=0.02)
    assert float(target.var()) < 1 / 0.2**2  # and vary less than a folded Gaussian's
