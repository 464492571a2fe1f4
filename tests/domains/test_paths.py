"""Simulated paths: laws of their ends, the identities their targets must obey, variances, steps and costs."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from constrained_diffusion import Ball, Domain, Hypercube, Polytope, Region, Simplex
from constrained_diffusion.domains import paths
from tests import references as ref
from tests import references_polytope as poly
from tests.own_domains import OwnAnnulus

F32, F64 = torch.float32, torch.float64
TEN = Simplex(10, "euclidean")
CORNER = [0.85] + [0.15 / 9] * 9


class PlainDisc(Domain):
    """The unit disc, known by its projection alone."""

    event_shape, dim = torch.Size([2]), 2

    def project(self, x):
        return x / x.norm(dim=-1, keepdim=True).clamp(min=1.0)


class PlainBox(Domain):
    """The unit square, known by its projection alone."""

    event_shape, dim = torch.Size([2]), 2

    def project(self, x):
        return x.clamp(0, 1)


class Counting(Domain):
    """Another domain, with a count of the calls of its walls."""

    def __init__(self, inner):
        self.within, self.calls = inner, 0
        self.event_shape, self.dim = inner.event_shape, inner.dim
        self.inradius, self.wall_curvature = inner.inradius, inner.wall_curvature

    def project(self, x):
        return self.within.project(x)

    def reflect(self, x, displacement):
        return self.within.reflect(x, displacement)

    def tangent(self, x, v):
        return self.within.tangent(x, v)

    def walls(self, x):
        self.calls += 1
        return self.within.walls(x)

    def curvature(self, x):
        return self.within.curvature(x)


def random_body(d=10, m=30):
    A = np.random.default_rng(0).standard_normal((m, d))
    return poly.Body(A / np.linalg.norm(A, axis=1, keepdims=True), np.ones(m))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def run(domain, x0, sigma, count=None, seed=0, dtype=F64, **options):
    """``count`` paths from one point, or one from each row."""
    x0 = torch.as_tensor(x0, dtype=dtype)
    if count is not None:
        x0 = x0.expand(count, *domain.event_shape)
    scale = torch.as_tensor(sigma, dtype=dtype).expand(x0.shape[: x0.ndim - len(domain.event_shape)])
    return paths.simulate(domain, x0, scale, generator=seeded(seed), **options)


def same_law(a, b):
    for one, other in zip(a.T, b.T, strict=True):
        assert stats.ks_2samp(one, other).pvalue > ref.ALPHA


def spread(domain, target, sigma):
    """Variance of a target a coordinate, times sigma^2."""
    return float(target.var(0).sum()) * sigma**2 / domain.dim


# ---- the law of the end
def exact_draws(kind, x0, sigma, count, rng):
    z = rng.standard_normal((count, 2))
    x0 = np.asarray(x0)
    if kind == "box":
        return ref.fold_box(x0 + sigma * z)
    if kind == "triangle":
        return ref.fold_triangle(x0 + sigma * ref.noise_on_simplex(rng, count, 3, "euclidean"))
    fine = 4 if sigma < 0.01 else int(400 * sigma) + 100
    return ref.simulate(
        np.tile(x0, (count, 1)), sigma, fine, lambda n: rng.standard_normal((n, 2)), ref.symmetrise_ball
    )


FLAT = {"box": (Hypercube(2), [0.1, 0.3]), "disc": (Ball(2), [0.9, 0.0]), "triangle": (Simplex(3), [0.9, 0.07, 0.03])}


@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("kind", FLAT)
def test_ends_are_exact_draws(kind, sigma):
    domain, x0 = FLAT[kind]
    x = run(domain, x0, sigma, 10_000)[0]
    assert domain.contains(x).all()
    true = exact_draws(kind, x0, sigma, 10_000, np.random.default_rng(1))
    nearest = [domain.boundary(torch.as_tensor(p))[0].unsqueeze(-1).numpy() for p in (x, true)]
    same_law(np.concatenate([x.numpy(), nearest[0]], 1), np.concatenate([true, nearest[1]], 1))


@pytest.mark.parametrize(
    ("domain", "x0", "parts"),
    [(Ball(2), [0.9, 0.0], (0.3, 0.4)), (TEN, CORNER, (0.06, 0.08)), (Ball(5), [0.8, 0, 0, 0, 0], (0.3, 0.4))],
    ids=["disc", "ten", "ball"],
)
def test_two_paths_in_a_row_are_one_longer_path(domain, x0, parts):
    n = 3000
    half = run(domain, x0, parts[0], n)[0]
    end = run(domain, half, parts[1], seed=1)[0]
    whole = run(domain, x0, math.hypot(*parts), n, seed=2)[0]
    probes = np.random.default_rng(0).standard_normal((len(x0), 4))
    views = [
        np.concatenate([p.numpy(), p.numpy() @ probes, domain.boundary(p)[0].unsqueeze(-1).numpy()], 1)
        for p in (end, whole)
    ]
    same_law(*views)


def test_long_paths_end_uniformly():
    x = run(TEN, CORNER, 1.5, 2500)[0].numpy()
    for part in x.T:
        assert stats.kstest(part, stats.beta(1, 9).cdf).pvalue > ref.ALPHA
    r = run(Ball(2), [0.9, 0.0], 4.0, 8000)[0].norm(dim=-1).numpy()
    assert stats.kstest(r**2, "uniform").pvalue > ref.ALPHA


@pytest.mark.parametrize(
    ("domain", "x0"),
    [(Hypercube(3), [0.5] * 3), (Ball(4), [0.1] * 4), (TEN, [0.1] * 10), (PlainDisc(), [0.1, 0.2])],
    ids=["box", "ball", "ten", "plain"],
)
@pytest.mark.parametrize("share", [1e-6, 0.05])
def test_far_from_walls_paths_are_gaussian(domain, x0, share):
    sigma = share * domain.inradius
    x, u = run(domain, x0, sigma, 4000)
    start = torch.tensor(x0, dtype=F64)
    torch.testing.assert_close(u, (start - x) / sigma**2, rtol=1e-9, atol=1e-9 / sigma)
    z = (x - start) / sigma
    for e in domain.frame(start):
        assert stats.kstest((z @ e).numpy(), "norm").pvalue > ref.ALPHA


# ---- batches, dtypes, seeds
@pytest.mark.parametrize(("domain", "x0"), [(TEN, CORNER), (Ball(2), [0.9, 0.0])], ids=["ten", "disc"])
def test_noise_levels_in_one_batch(domain, x0):
    levels, n = [0.05, 0.7, 3.0], 1500  # in inradii
    sigmas = torch.tensor(levels, dtype=F64) * domain.inradius
    x, u = run(domain, x0, sigmas.repeat(n), 3 * n)
    for k, sigma in enumerate(sigmas):
        alone, target = run(domain, x0, sigma, n, seed=k + 1)
        same_law(x[k::3].numpy(), alone.numpy())
        same_law(u[k::3].numpy(), target.numpy())


@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("shape", [(), (2, 3), (0,), (1,)], ids=str)
@pytest.mark.parametrize("domain", [Hypercube((2, 2)), Ball(3), TEN, Polytope.birkhoff(3)], ids=str)
def test_shapes_and_dtypes(domain, shape, dtype):
    x0 = domain.sample_uniform(shape, generator=seeded(), dtype=dtype)
    kept = x0.clone()
    x, u = paths.simulate(domain, x0, torch.full(shape, 0.3, dtype=dtype), generator=seeded(1))
    for value in (x, u):
        assert value.shape == (*shape, *domain.event_shape)
        assert value.dtype == dtype
        assert value.isfinite().all()
    assert domain.contains(x).all()
    assert torch.equal(x0, kept), "the starting points were written to"


@pytest.mark.parametrize("domain", [Hypercube(2), Ball(2), Simplex(3), TEN], ids=str)
def test_single_precision_has_the_same_law(domain):
    x0 = domain.sample_uniform((), generator=seeded(), dtype=F64)
    sigma = 0.7 * domain.inradius
    (x, u), (y, v) = (run(domain, x0, sigma, 2000, seed=k, dtype=d) for k, d in enumerate((F32, F64)))
    same_law(x.double().numpy(), y.numpy())
    same_law(u.double().numpy(), v.numpy())
    assert spread(domain, u, sigma) == pytest.approx(spread(domain, v, sigma), rel=0.15)


@pytest.mark.parametrize("dtype", [F32, pytest.param(F64, marks=pytest.mark.slow)], ids=["float32", "float64"])
def test_starts_on_walls_and_in_corners_are_finite(dtype):
    for domain, x0 in (
        (Hypercube(2), [0.0, 1.0]),
        (Ball(2), [1.0, 0.0]),
        (TEN, [1.0] + [0.0] * 9),
        (Simplex(3), [0.0, 0.0, 1.0]),
    ):
        for inradii in (1e-5, 1e-2, 1.0, 10.0):
            sigma = inradii * domain.inradius
            x, u = run(domain, x0, sigma, 60, dtype=dtype)
            assert domain.contains(x).all()
            assert u.isfinite().all()
            assert float(u.square().mean()) * sigma**2 < 2


def test_seeds_repeat_and_the_global_state_is_left_alone():
    before = torch.get_rng_state()
    first, again, other = (run(TEN, CORNER, 0.15, 50, seed=s) for s in (1, 1, 2))
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    assert torch.equal(before, torch.get_rng_state())


def test_targets_are_tangent():
    for x0 in (CORNER, [0.1] * 10):
        _, u = run(TEN, x0, 0.15, 500)
        assert float(u.sum(-1).abs().max()) < 1e-10 / 0.15


# ---- what the target must be on average
def unbiased(residuals, scale, share=0.03, largest_z=ref.LARGEST_Z):
    """Means [fields] of residuals [rows, fields] are within 4.5 errors of zero, and of 3 % of the scale [fields]."""
    z, mean = ref.z_scores(residuals), residuals.mean(0)
    assert np.abs(z).max() < largest_z, z
    error = residuals.std(0) / math.sqrt(len(residuals))
    bias = (np.abs(mean) - 3 * error) / scale  # what noise cannot account for
    assert bias.max() < share, bias


def against_the_score(domain, x0, sigma, count=20_000, simulate_in=None, **options):
    """Residuals of u against the exact score s for s itself, axes, and axes times coordinates.

    Their scales are |phi| / sigma; but for s, where it is not small, E|s|^2, so that its bias is that of the slope.
    """
    start = torch.tensor(x0, dtype=F64)
    x, u = run(domain if simulate_in is None else simulate_in, x0, sigma, count, **options)
    s = domain.heat_kernel_score(x, start, sigma)
    axes = domain.frame(start)
    gap, away = ((u - s) @ axes.T).numpy(), ((x - start) @ axes.T).numpy()
    crossed = (gap[:, :, None] * away[:, None]).reshape(count, -1)
    score = ((u - s) * s).sum(-1, keepdim=True).numpy()
    sizes = np.tile((away**2).mean(0) ** 0.5, domain.dim)
    power = float(s.square().sum(-1).mean())
    if power * sigma**2 < 0.1 * domain.dim:  # the score is small: against its own noise
        power = math.sqrt(power) / sigma
    scale = np.concatenate([[power], np.ones(domain.dim) / sigma, sizes / sigma])
    return np.concatenate([score, gap, crossed], 1), scale, u


EXACT = {
    "interval": (Hypercube(1), [0.05]),
    "square": (Hypercube(2), [0.05, 0.1]),
    "disc": (Ball(2), [0.9, 0.0]),
    "triangle": (Simplex(3), [0.9, 0.07, 0.03]),
    "ball": (Ball(5), [0.9, 0.0, 0.0, 0.0, 0.0]),
}


@pytest.mark.parametrize("inradii", [0.15, 0.5, 1.5, 4.0])
@pytest.mark.parametrize("name", EXACT)
def test_targets_average_to_the_exact_score(name, inradii):
    domain, x0 = EXACT[name]
    sigma = inradii * domain.inradius
    residuals, scale, u = against_the_score(domain, x0, sigma, 6000 if name == "ball" else 12_000)
    unbiased(residuals, scale)
    assert spread(domain, u, sigma) < 1.1


@pytest.mark.parametrize("name", ["interval", "square", "disc", "triangle"])
def test_tiny_noise_at_a_wall(name):
    domain, x0 = {
        "interval": (Hypercube(1), [1e-3]),
        "square": (Hypercube(2), [1e-3, 2e-3]),
        "disc": (Ball(2), [0.999, 0.0]),
        "triangle": (Simplex(3), [1 - 2e-3, 1e-3, 1e-3]),
    }[name]
    residuals, scale, u = against_the_score(domain, x0, 1e-3, 12_000)
    unbiased(residuals, scale)
    assert spread(domain, u, 1e-3) < 1.1


@pytest.mark.parametrize("name", EXACT)
def test_starts_all_over(name):
    domain = EXACT[name][0]
    x0 = domain.sample_uniform(4, generator=seeded(5), dtype=F64)
    for row in x0:
        sigma = 0.7 * domain.inradius
        residuals, scale, u = against_the_score(domain, row.tolist(), sigma, 3000)
        unbiased(residuals, scale)
        assert spread(domain, u, sigma) < 1.1


TEN_CASES = {
    "corner, 0.15": (CORNER, 0.15, 8000),
    "corner, half an inradius": (CORNER, 0.5 / math.sqrt(90), 6000),
    "corner, tiny": (CORNER, 1e-3, 10_000),
    "vertex, tiny": ([1 - 9e-4] + [1e-4] * 9, 1e-3, 3000),
    "inside": ([0.19, 0.01] + [0.1] * 8, 0.1, 5000),
    "corner, four inradii": (CORNER, 4 / math.sqrt(90), 2500),
}


@pytest.mark.parametrize(
    "name", [pytest.param(k, marks=[pytest.mark.slow] * (k in ("corner, 0.15", "vertex, tiny"))) for k in TEN_CASES]
)
def test_targets_in_the_simplex_of_ten_parts(name):
    x0, sigma, count = TEN_CASES[name]
    x, u = run(TEN, x0, sigma, count)
    x, u = x.numpy(), u.numpy()
    i, j = np.triu_indices(10, 1)
    unbiased(ref.exchange_residuals(x, u), np.abs(x[:, i] - x[:, j]).mean(0))
    pooled = (x[:, :1] * x * (u[:, :1] - u) + x - x[:, :1]).sum(-1, keepdims=True)
    unbiased(pooled, np.abs((x - x[:, :1]).sum(-1)).mean(keepdims=True))
    assert spread(TEN, torch.from_numpy(u), sigma) < 1.1


@pytest.mark.parametrize(
    ("inradii", "where", "count"),
    [(0.3, 0.9, 10_000), (1.0, 0.9, 5000), pytest.param(3.0, 0.5, 10_000, marks=pytest.mark.slow)],
)
def test_targets_in_a_random_polytope(inradii, where, count):
    body = random_body()
    domain = Polytope(body.A, body.b)
    wall = body.A[0] * min(1.0, where)
    assert float((body.b - body.A @ wall).min()) > 0
    x, u = run(domain, wall, inradii * domain.inradius, count)
    reach = 0.3 * domain.inradius
    residuals = poly.tangential_residuals(body, x.numpy(), u.numpy(), reach)
    divergence = np.abs(poly.tangential_residuals(body, x.numpy(), np.zeros_like(x.numpy()), reach)).mean(0)
    unbiased(residuals, divergence)
    assert spread(domain, u, inradii * domain.inradius) < 1.1


@pytest.mark.slow
@pytest.mark.parametrize("inradii", [0.15, 0.5, 1.5, 4.0])
@pytest.mark.parametrize("name", EXACT)
def test_targets_of_many_paths(name, inradii):
    domain, x0 = EXACT[name]
    residuals, scale, _ = against_the_score(domain, x0, inradii * domain.inradius, 100_000, seed=3)
    mean, error = residuals.mean(0), residuals.std(0) / math.sqrt(len(residuals))
    bias = (np.abs(mean) - 4.5 * error) / scale
    assert bias.max() < (0.03 if name == "ball" else 0.01)


# ---- variance
def test_variance_in_the_interval():
    """Of MATH.md, section 4: 0.447 / sigma^2, where the score's own is 0.315."""
    domain = Hypercube(1)
    x, u = run(domain, [0.1], 0.1, 200_000)
    s = domain.heat_kernel_score(x, torch.tensor([0.1], dtype=F64), 0.1)
    assert spread(domain, u, 0.1) == pytest.approx(0.447, rel=0.05)
    assert spread(domain, s, 0.1) == pytest.approx(0.315, rel=0.05)
    slope = float((u * s).mean() / (s * s).mean())
    assert slope == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("domain", [Hypercube(2), Ball(2), Ball(5), Simplex(3), TEN], ids=str)
def test_variance_stays_below_that_without_walls(domain):
    n, starts = 300, 8
    x0 = domain.sample_uniform(starts, generator=seeded(), dtype=F64)
    x0[:4] = domain.project(x0[:4] + 3 * (x0[:4] - x0.mean(0)))  # on walls
    for inradii in (0.02, 0.3, 2.0):
        sigma = inradii * domain.inradius
        u = run(domain, x0.repeat_interleave(n, 0), sigma)[1].reshape(starts, n, -1)
        values = u.var(1).sum(-1) * sigma**2 / domain.dim
        assert float(values.max()) < 1.1 + 3 * math.sqrt(2 / n / domain.dim)  # the error of an estimated variance
        assert float(values.mean()) < 1.1


def star():
    """Eight spikes, and dents between them."""
    angle = torch.arange(16, dtype=F64) * math.pi / 8
    radius = torch.where(torch.arange(16) % 2 == 0, 1.0, 0.45)
    return Region(radius.unsqueeze(-1) * torch.stack([angle.cos(), angle.sin()], -1))


@pytest.mark.parametrize("sigma", [0.1, 0.3])
def test_dents_leave_no_target_of_any_length(sigma):
    """Without the cut the mean square, over that without walls, is 12 and 8 here."""
    domain = star()
    _, u = run(domain, domain.sample_uniform(20_000, generator=seeded(), dtype=F64), sigma)
    window = min(sigma, domain.inradius / 2)
    size = u.norm(dim=-1) * window / math.sqrt(2)
    assert float(size.max()) == pytest.approx(6.0)
    assert float(size.square().mean()) < 1.1


# ---- steps
def pooled_bias(steps, count, seed=0):
    """Of the field towards the largest part, in shares of E|div|, and its standard error."""
    x, u = run(TEN, CORNER, 0.15, count, seed=seed, steps=steps)
    divergence = (x - x[:, :1]).sum(-1)
    gap = (x[:, :1] * x * (u[:, :1] - u)).sum(-1) + divergence
    scale = float(divergence.abs().mean())
    return float(gap.mean()) / scale, float(gap.std()) / math.sqrt(count) / scale


def test_few_steps_are_worse_where_several_walls_meet():
    coarse, error = pooled_bias(4, 10_000)
    fine, spread_fine = pooled_bias(64, 5000)
    assert abs(fine) < 0.03
    assert abs(coarse) > 0.04
    assert abs(coarse) - abs(fine) > 3 * math.hypot(error, spread_fine)


@pytest.mark.slow
def test_bias_falls_with_the_number_of_steps():
    biases = [abs(pooled_bias(steps, 100_000)[0]) for steps in (4, 16, 64)]
    assert biases[0] > 2 * biases[1] > 2 * biases[2]
    assert biases[2] < 0.02


@pytest.mark.parametrize(
    ("domain", "x0"),
    [(TEN, CORNER), (Ball(2), [0.9, 0.0]), (Simplex(3), [0.9, 0.07, 0.03])],
    ids=["ten", "disc", "triangle"],
)
def test_number_of_steps_grows_like_a_logarithm(domain, x0):
    calls = []
    for inradii in (1, 10, 100, 1000):
        counting = Counting(domain)
        run(counting, x0, inradii * domain.inradius, 3)
        calls.append(counting.calls)
    assert calls[0] <= paths.STEPS + 2
    assert max(calls[1:]) <= 2 * paths.STEPS, calls
    assert calls[2] - calls[1] <= 24, calls  # from ten inradii on, what a quarter of the time that is left allows
    assert calls[3] - calls[2] <= 24, calls


@pytest.mark.parametrize("steps", [4, 16, 128])
def test_steps_bound_the_number_of_steps(steps):
    counting = Counting(TEN)
    run(counting, CORNER, 0.5 * TEN.inradius, 50, steps=steps)
    assert 2 <= counting.calls <= steps + 2
    one = Counting(Hypercube(1))
    run(one, [0.3], 1e-3, 50, steps=steps)
    assert one.calls == 2, "a step far from all walls was cut"


# ---- domains that are known by a projection
@pytest.mark.parametrize(
    ("own", "known", "x0", "sigma"),
    [
        pytest.param(PlainDisc(), Ball(2), [0.9, 0.0], 0.1, id="disc 0.1", marks=pytest.mark.slow),
        pytest.param(PlainDisc(), Ball(2), [0.9, 0.0], 0.4, id="disc 0.4"),
        pytest.param(PlainBox(), Hypercube(2), [0.2, 0.45], 0.1, id="box 0.1"),
        pytest.param(PlainBox(), Hypercube(2), [0.2, 0.45], 0.4, id="box 0.4", marks=pytest.mark.slow),
    ],
)
def test_domains_known_by_projection_alone(own, known, x0, sigma):
    residuals, scale, u = against_the_score(known, x0, sigma, 2000, own)
    unbiased(residuals, scale)
    assert spread(known, u, sigma) < 1.1


def test_the_estimated_curvature_is_that_of_the_wall():
    x = Ball(2).sample_uniform(500, generator=seeded(), dtype=F64)
    x = x[x.norm(dim=-1) > 0.6]
    torch.testing.assert_close(PlainDisc().curvature(x), Ball(2).curvature(x), atol=0.02, rtol=0)
    along = torch.tensor([[0.02, 0.4], [0.97, 0.5], [0.4, 0.99]], dtype=F64)
    torch.testing.assert_close(PlainBox().curvature(along), torch.zeros(3, 1, dtype=F64), atol=1e-6, rtol=0)


class PickyAnnulus(OwnAnnulus):
    """Its curvature is of one point or more."""

    def curvature(self, x):
        assert x.norm(dim=-1).amin() >= self.hole  # of no points: an error
        return super().curvature(x)


def test_curvature_is_asked_of_points_alone():
    x = torch.tensor([[0.7, 0.0]])
    end, target = paths.simulate(PickyAnnulus(), x, torch.tensor([1e-3]), generator=seeded())
    assert bool(target.isfinite().all())
    assert float((end - x).norm()) < 0.01


def test_symmetrised_paths_take_as_long_as_they_should():
    """Far from their end paths may take long steps, but not where moves are right for short ones only.

    A quarter of what was left made the annulus forget where it began a quarter too soon. By the slowest waves around
    it, which the eigenfunctions of a region on the same set know.
    """
    turn = torch.linspace(0, 2 * math.pi, 401, dtype=F64)[:-1]
    ring = torch.stack([turn.cos(), turn.sin()], 1)
    region = Region([ring, 0.4 * ring])
    x0 = torch.tensor([[0.6, 0.0]], dtype=F64).expand(6000, 2)

    def wave(domain, seed):
        x, u = domain.diffuse(x0, 1.0, generator=torch.Generator().manual_seed(seed))
        around = torch.stack([-x[:, 1], x[:, 0]], 1) / x.norm(dim=-1, keepdim=True)
        angle = torch.atan2(x[:, 1], x[:, 0])
        return angle.cos().mean(), -(angle.sin() * (u * around).sum(-1)).mean()

    found, exact = wave(OwnAnnulus(), 0), wave(region, 1)
    assert float(found[0] / exact[0]) == pytest.approx(1.0, abs=0.1)
    assert float(found[1] / exact[1]) == pytest.approx(1.0, abs=0.2)
    assert not OwnAnnulus().has_specular_moves
    assert region.has_specular_moves
