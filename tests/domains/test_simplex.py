"""Simplices in both metrics: kernels against high-precision references, laws, targets, geometry."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from constrained_diffusion.domains import DomainError, Simplex, triangle
from tests import references as ref

F64 = torch.float64
METRICS = ["euclidean", "cumulative"]
# sigma * score of the cumulative metric is a difference of two interval scores, each good to 1e-6
TOLERANCE = {"euclidean": 1e-6, "cumulative": 2e-6}
KERNEL = {"euclidean": ref.triangle_kernel, "cumulative": ref.cumulative_kernel}
# both as fast as a default run can bear, and at the number of draws that shows a bias of one per cent
draws = pytest.mark.parametrize("count", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
FOLD = {"euclidean": ref.fold_triangle, "cumulative": ref.fold_cumulative}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(point, count: int) -> torch.Tensor:
    point = torch.tensor(point, dtype=F64)
    return point.expand(count, len(point))


def simulated(start, sigma: float, count: int, steps: int, metric: str, seed: int) -> np.ndarray:
    rng, n = np.random.default_rng(seed), len(start)
    return ref.simulate(
        np.tile(np.array(start, dtype=float), (count, 1)),
        sigma,
        steps,
        lambda m: ref.noise_on_simplex(rng, m, n, metric),
        FOLD[metric],
    )


def covector(simplex: Simplex, x: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    """Numbers t with t_i - t_j = inner(target, e_i - e_j)."""
    basis = torch.eye(x.shape[-1], dtype=x.dtype)
    last = basis[-1]
    return torch.stack([simplex.inner(x, target, (e - last).expand_as(x)) for e in basis], -1).numpy()


# ---- the references themselves
@pytest.mark.parametrize("sigma", [0.25, 0.4, 0.6])
def test_images_and_plane_waves_agree(sigma):
    rng = np.random.default_rng(0)
    for x, x0 in zip(*ref.simplex_pairs(rng, 4, 3, sigma, "euclidean"), strict=True):
        images, waves = ref.triangle_images(x, x0, sigma), ref.triangle_fourier(x, x0, sigma)
        assert abs(images[0] - waves[0]) < 1e-15
        assert max(abs(a - b) for a, b in zip(images[1], waves[1], strict=True)) < 1e-15


def test_permanent_is_the_sum_over_permutations():
    x, x0 = np.random.default_rng(1).dirichlet(np.ones(5), 2)
    fast = ref.cumulative_kernel_one(x, x0, 0.3)
    brute = ref.cumulative_kernel_one(x, x0, 0.3, ref.permanent_by_permutations)
    assert abs(fast[0] - brute[0]) < 1e-30
    assert max(abs(a - b) for a, b in zip(fast[1], brute[1], strict=True)) < 1e-30


# ---- accuracy of the kernels
@pytest.mark.parametrize("sigma", ref.SIGMAS)
@pytest.mark.parametrize(("n", "metric"), [(3, "euclidean"), (3, "cumulative"), (4, "cumulative")])
def test_kernel(n, metric, sigma):
    count = 40 if metric == "euclidean" else 24
    x, x0 = ref.simplex_pairs(np.random.default_rng(2), count, n, sigma, metric)
    log_p, score = KERNEL[metric](x, x0, sigma)
    simplex, x, x0 = Simplex(n, metric), torch.from_numpy(x), torch.from_numpy(x0)
    assert simplex.has_exact_kernel
    found = simplex.heat_kernel_score(x, x0, sigma).numpy()
    drawn = np.arange(len(found)) % 2 == 0
    assert ref.scaled_errors(found[drawn], score[drawn], sigma)[0] <= TOLERANCE[metric]
    # anywhere: 1e-6 of max(1, |sigma score|), and what rounding of x alone does (more than 1e-6 of a
    # score whose terms are in the thousands, at sigma = 1e-4 and hundreds of sigma from the start)
    error = sigma * np.abs(found - score)
    size = np.maximum(1, sigma * np.abs(score).max(-1, keepdims=True))
    assert (error <= TOLERANCE[metric] * size + ref.rounding_of_score(x, x0, sigma)).all()
    if sigma >= 1e-3:
        assert ref.scaled_errors(found, score, sigma, rowwise=True)[1] <= TOLERANCE[metric]
    if sigma >= 0.01 and metric == "euclidean":
        assert ref.scaled_errors(found, score, sigma)[0] <= TOLERANCE[metric]
    found = simplex.heat_kernel_log_prob(x, x0, sigma).numpy()
    assert ref.scaled_errors(found, log_p, 1.0)[1] <= TOLERANCE[metric]


@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.3, 0.5, 3.0])
def test_cumulative_kernel_up_to_nine_parts(sigma):
    x, x0 = ref.simplex_pairs(np.random.default_rng(3), 4, 9, sigma, "cumulative")
    log_p, score = ref.cumulative_kernel(x, x0, sigma)
    simplex, x, x0 = Simplex(9, "cumulative"), torch.from_numpy(x), torch.from_numpy(x0)
    assert ref.scaled_errors(simplex.heat_kernel_score(x, x0, sigma).numpy(), score, sigma, True)[1] <= 2e-6
    # the logarithm is a sum over eight intervals
    assert ref.scaled_errors(simplex.heat_kernel_log_prob(x, x0, sigma).numpy(), log_p, 1.0)[1] <= 8e-6


@pytest.mark.parametrize("sigma", ref.SIGMAS)
def test_two_parts_are_an_interval(sigma):
    x, x0 = ref.interval_pairs(np.random.default_rng(4), 40, sigma)
    for metric, length in (("euclidean", math.sqrt(2)), ("cumulative", 1.0)):
        # x_1 = u; the segment has length sqrt 2, in the cumulative metric it is the unit interval
        log_p, slope = ref.box_kernel(x[:, None], x0[:, None], sigma / length)
        points = [torch.from_numpy(np.stack([a, 1 - a], -1)) for a in (x, x0)]
        simplex = Simplex(2, metric)
        score = np.concatenate([slope, -slope], -1) / length**2
        found = simplex.heat_kernel_score(*points, sigma).numpy()
        assert ref.scaled_errors(found, score, sigma)[1] <= 1e-6, metric
        found = simplex.heat_kernel_log_prob(*points, sigma).numpy()
        assert ref.scaled_errors(found, log_p - math.log(2) / 2, 1.0)[1] <= 1e-6, metric


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "metric"), [(2, None), (3, "euclidean"), (3, "cumulative"), (7, "cumulative")])
def test_finite_on_faces_and_corners_at_every_sigma(n, metric, dtype):
    corners, middle = torch.eye(n, dtype=dtype), torch.full((1, n), 1 / n, dtype=dtype)
    edge = torch.zeros(1, n, dtype=dtype)
    edge[0, 0], edge[0, -1] = 0.25, 0.75
    points = torch.cat([corners[[0, n // 2, -1]], edge, middle])
    m = len(points)
    x, x0 = points.repeat_interleave(m, 0), points.repeat(m, 1)
    simplex = Simplex(n, metric)
    for sigma in np.geomspace(1e-4, 50, 15).tolist():
        score, log_p = simplex.heat_kernel_score(x, x0, sigma), simplex.heat_kernel_log_prob(x, x0, sigma)
        assert score.dtype == log_p.dtype == dtype
        assert score.isfinite().all(), sigma
        assert log_p.isfinite().all(), sigma


@pytest.mark.parametrize(("n", "metric"), [(3, "euclidean"), (3, "cumulative"), (5, "cumulative")])
def test_float32_follows_float64(n, metric):
    for sigma in (0.01, 0.1, 0.3, 0.5, 3.0):
        x, x0 = ref.simplex_pairs(np.random.default_rng(5), 40, n, sigma, "cumulative")
        x, x0 = (torch.from_numpy(a) for a in (x, x0))
        simplex = Simplex(n, metric)
        low = sigma * simplex.heat_kernel_score(x.float(), x0.float(), sigma).double()
        high = sigma * simplex.heat_kernel_score(x, x0, sigma)
        # the inputs themselves are rounded, to 6e-8 / sigma in units of sigma
        error = (low - high).abs() / high.abs().amax(-1, keepdim=True).clamp(min=1) ** 2
        assert float(error[::2].max()) <= 1e-5 + 3e-6 / sigma, sigma


@pytest.mark.parametrize(("n", "metric"), [(4, "euclidean"), (7, "euclidean"), (10, "cumulative")])
def test_without_a_closed_kernel_the_error_names_diffuse(n, metric):
    simplex, x = Simplex(n, metric), torch.full((2, n), 1 / n, dtype=F64)
    for method in (simplex.heat_kernel_log_prob, simplex.heat_kernel_score):
        with pytest.raises(NotImplementedError, match="diffuse"):
            method(x, x, 0.1)
    moved, target = simplex.diffuse(x, 0.1, generator=generator(0))
    assert simplex.contains(moved).all()
    assert target.isfinite().all()


# ---- identities of the kernel
@pytest.mark.parametrize("sigma", [0.08, 0.3, 0.334, 1.0])
@pytest.mark.parametrize(("n", "order"), [(2, 200), (3, 100), (4, 24)])
@pytest.mark.parametrize("metric", METRICS)
def test_integrates_to_one(metric, n, order, sigma):
    if metric == "euclidean" and n > 3:
        pytest.skip("no closed kernel")
    if n == 4 and sigma < 0.3:
        pytest.skip("too narrow for the quadrature")
    nodes, weights = (torch.from_numpy(a) for a in ref.simplex_quadrature(n, order))
    for start in (np.eye(n)[0], np.arange(1, n + 1) / (n * (n + 1) / 2)):
        x0 = torch.from_numpy(start).expand_as(nodes)
        mass = weights @ Simplex(n, metric).heat_kernel_log_prob(nodes, x0, sigma).exp()
        assert float(mass) == pytest.approx(1, abs=3e-6)


@pytest.mark.parametrize(("n", "metric"), [(3, "euclidean"), (4, "cumulative")])
@pytest.mark.parametrize("sigma", [1e-3, 0.05, 0.3, 0.5, 3.0])
def test_symmetric(n, metric, sigma):
    x, x0 = ref.simplex_pairs(np.random.default_rng(6), 40, n, sigma, metric)
    simplex, x, x0 = Simplex(n, metric), torch.from_numpy(x), torch.from_numpy(x0)
    there, back = simplex.heat_kernel_log_prob(x, x0, sigma), simplex.heat_kernel_log_prob(x0, x, sigma)
    torch.testing.assert_close(there, back, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("first", "second"), [(0.15, 0.2), (0.3, 0.5)])
def test_semigroup(metric, first, second):
    nodes, weights = (torch.from_numpy(a) for a in ref.simplex_quadrature(3, 90))
    simplex = Simplex(3, metric)
    for start, end in [([0.2, 0.3, 0.5], [0.1, 0.6, 0.3]), ([1.0, 0.0, 0.0], [0.5, 0.5, 0.0])]:
        p = simplex.heat_kernel_log_prob(nodes, rows(start, len(nodes)), first)
        q = simplex.heat_kernel_log_prob(rows(end, len(nodes)), nodes, second)
        both = simplex.heat_kernel_log_prob(rows(end, 1), rows(start, 1), math.hypot(first, second))
        assert float((weights @ (p + q).exp()).log()) == pytest.approx(float(both), abs=5e-6)


@pytest.mark.parametrize(("n", "metric"), [(2, "euclidean"), (3, "euclidean"), (3, "cumulative"), (6, "cumulative")])
@pytest.mark.parametrize("sigma", [1e-3, 0.05, 0.333, 0.334, 1.0])
def test_score_is_tangent_and_has_no_slope_on_the_faces(n, metric, sigma):
    rng = np.random.default_rng(7)
    x0 = torch.from_numpy(ref.simplex_points(rng, 60, n))
    x = torch.from_numpy(rng.dirichlet(np.ones(n), 60))
    for face in range(n):
        on_face = x.clone()
        on_face[:, face] = 0
        on_face = on_face / on_face.sum(-1, keepdim=True)
        score = sigma * Simplex(n, metric).heat_kernel_score(on_face, x0, sigma)
        scale = score.abs().amax(-1).clamp(min=1)
        assert float((score.sum(-1) / scale).abs().max()) <= 1e-9
        # the derivative along the inward normal, in either metric, is a multiple of this component
        assert float((score[:, face] / scale).abs().max()) <= TOLERANCE[metric]


@pytest.mark.parametrize(("n", "metric"), [(2, "euclidean"), (3, "euclidean"), (3, "cumulative"), (5, "cumulative")])
@pytest.mark.parametrize("sigma", [0.05, 0.2, 0.5])
def test_score_is_the_metric_gradient_of_log_prob(n, metric, sigma):
    rng = np.random.default_rng(8)
    x = torch.from_numpy(rng.dirichlet(4 * np.ones(n), 30))
    x0 = torch.from_numpy(rng.dirichlet(4 * np.ones(n), 30))
    simplex, h = Simplex(n, metric), 1e-5
    score = simplex.heat_kernel_score(x, x0, sigma)
    for i in range(n):
        for j in range(i):
            v = torch.zeros_like(x)
            v[:, i], v[:, j] = 1, -1
            up, down = (simplex.heat_kernel_log_prob(x + s * h * v, x0, sigma) for s in (1, -1))
            difference, slope = (up - down) / (2 * h), simplex.inner(x, score, v)
            assert float((sigma * (difference - slope) / (1 + (sigma * slope).abs())).abs().max()) <= 1e-5


# ---- laws
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("how", ["sample_heat_kernel", "diffuse"])
@pytest.mark.parametrize(("start", "sigma"), [([0.2, 0.7, 0.1], 0.15), ([0.0, 1.0, 0.0], 0.3), ([0.5, 0.5, 0.0], 0.6)])
def test_sampling_follows_the_density(metric, how, start, sigma):
    simplex = Simplex(3, metric)
    x = getattr(simplex, how)(rows(start, 20_000), sigma, generator=generator(11))
    x = x[0] if how == "diffuse" else x

    def density(points):
        points = torch.from_numpy(np.ascontiguousarray(points))
        return simplex.heat_kernel_log_prob(points, rows(start, len(points)), sigma).exp().numpy()

    assert stats.kstest(x[:, 0].numpy(), ref.first_part_cdf(density)).pvalue > ref.ALPHA


@pytest.mark.parametrize(("n", "metric"), [(3, "euclidean"), (3, "cumulative"), (6, "cumulative"), (12, "cumulative")])
@pytest.mark.parametrize("sigma", [0.02, 0.2, 1.0])
def test_diffuse_follows_a_plain_simulation(n, metric, sigma):
    start = np.zeros(n)
    start[:3] = [0.9, 0.08, 0.02]
    plain = simulated(start, sigma, 20_000, 6, metric, 12)
    x = Simplex(n, metric).diffuse(rows(start, 20_000), sigma, generator=generator(13))[0].numpy()
    for functional in (
        *(lambda y, k=k: y[:, k] for k in range(3)),
        lambda y: y[:, -1],
        lambda y: (y**2).sum(-1),
    ):
        assert stats.ks_2samp(functional(x), functional(plain)).pvalue > ref.ALPHA


@pytest.mark.parametrize("n", [5, 10])
def test_euclidean_diffuse_law_of_many_parts(n):
    # E f(X) to second order in sigma^2 far from the walls, and uniform at last
    simplex = Simplex(n, "euclidean")
    x0, sigma = rows(np.full(n, 1 / n), 4_000), 0.02
    x = simplex.diffuse(x0, sigma, generator=generator(14))[0].numpy()
    assert np.abs(ref.z_scores(x - 1 / n)).max() < ref.LARGEST_Z
    covariance = sigma**2 * (np.eye(n) - 1 / n)
    products = (x - 1 / n)[:, :, None] * (x - 1 / n)[:, None, :]
    assert np.abs(ref.z_scores(products, covariance)).max() < ref.LARGEST_Z
    corner = rows(np.eye(n)[0], 1_000)
    x = simplex.diffuse(corner, 1.5, generator=generator(15))[0].numpy()
    for part in range(n):
        assert stats.kstest(x[:, part], stats.beta(1, n - 1).cdf).pvalue > ref.ALPHA


# ---- denoising targets
@pytest.mark.parametrize(
    ("start", "sigma"), [([0.9, 0.08, 0.02], 0.1), ([0.3, 0.3, 0.4], 0.05), ([0.0, 0.0, 1.0], 0.4)]
)
@pytest.mark.parametrize("metric", METRICS)
@draws
def test_target_identities_and_regression(metric, start, sigma, count):
    simplex = Simplex(3, metric)
    x, target = simplex.diffuse(rows(start, count), sigma, generator=generator(16))
    assert float(target.sum(-1).abs().max()) <= 1e-9 / sigma
    residuals = ref.exchange_residuals(x.numpy(), covector(simplex, x, target))
    assert np.abs(ref.z_scores(residuals)).max() < ref.LARGEST_Z
    score = simplex.heat_kernel_score(x, rows(start, count), sigma)
    assert abs(ref.z_scores(simplex.inner(x, target - score, score).numpy())) < ref.LARGEST_Z
    # no noisier than the target of an unfolded Gaussian
    assert float(simplex.inner(x, target, target).mean()) <= 2.05 / sigma**2


@pytest.mark.parametrize(("n", "sigma"), [(4, 0.1), (9, 0.3), (12, 0.05)])
@draws
def test_cumulative_target_identities_of_many_parts(n, sigma, count):
    start = np.zeros(n)
    start[:3] = [0.9, 0.08, 0.02]
    simplex = Simplex(n, "cumulative")
    x, target = simplex.diffuse(rows(start, count), sigma, generator=generator(17))
    residuals = ref.exchange_residuals(x.numpy(), covector(simplex, x, target))
    assert np.abs(ref.z_scores(residuals)).max() < ref.LARGEST_Z
    if n == 4:
        score = simplex.heat_kernel_score(x, rows(start, count), sigma)
        assert abs(ref.z_scores(simplex.inner(x, target - score, score).numpy())) < ref.LARGEST_Z


def check_path_target(n: int, sigma: float, spread: bool, count: int, seed: int) -> None:
    start = np.full(n, 0.1 / (n - 1)) if spread else np.zeros(n)
    start[0] = 0.9
    start[1:3] += (1 - start.sum()) / 2
    simplex = Simplex(n, "euclidean")
    x, target = simplex.diffuse(rows(start, count), sigma, generator=generator(seed))
    assert simplex.contains(x).all()
    assert float(target.sum(-1).abs().max()) <= 1e-8 / sigma
    z = ref.z_scores(ref.exchange_residuals(x.numpy(), target.numpy()))
    assert np.abs(z).max() < ref.LARGEST_Z
    assert count > 20_000 or np.sqrt((z**2).mean()) < 1.7
    assert float(target.pow(2).mean()) <= 1 / sigma**2


PATH_CASES = [(5, 0.1, True), (5, 0.3, False), (10, 0.1, True), (10, 0.2, False)]


@pytest.mark.parametrize(("n", "sigma", "spread"), PATH_CASES)
def test_path_target_identities(n, sigma, spread):
    check_path_target(n, sigma, spread, 6_000 if n == 5 else 4_000, 18)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "sigma", "spread"), PATH_CASES)
def test_path_target_identities_with_many_paths(n, sigma, spread):
    check_path_target(n, sigma, spread, 100_000 if n == 5 else 20_000, 18)


def test_path_target_far_from_the_walls_is_the_gaussian_one():
    simplex, x0 = Simplex(6, "euclidean"), rows(np.full(6, 1 / 6), 500)
    x, target = simplex.diffuse(x0, 0.01, generator=generator(20))
    torch.testing.assert_close(target, (x0 - x) / 0.01**2, rtol=1e-6, atol=1e-6)


# ---- geometry
def test_reflect_of_the_triangle_is_folding():
    rng = np.random.default_rng(21)
    x = rng.dirichlet(np.ones(3), 300)
    v = ref.noise_on_simplex(rng, 300, 3, "euclidean") * 10.0 ** rng.uniform(-3, 1.5, (300, 1))
    found = Simplex(3, "euclidean").reflect(torch.from_numpy(x), torch.from_numpy(v)).numpy()
    np.testing.assert_allclose(found, ref.fold_triangle(x + v), atol=1e-10)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_reflect_in_the_cumulative_metric_is_folding_and_sorting(n):
    rng = np.random.default_rng(22)
    x = rng.dirichlet(np.ones(n), 300)
    v = ref.noise_on_simplex(rng, 300, n, "cumulative") * 10.0 ** rng.uniform(-3, 1.5, (300, 1))
    found = Simplex(n, "cumulative").reflect(torch.from_numpy(x), torch.from_numpy(v)).numpy()
    np.testing.assert_allclose(found, ref.fold_cumulative(x + v), atol=1e-10)


@pytest.mark.parametrize("n", [2, 4, 5, 10])
def test_reflect_in_the_euclidean_metric_is_a_billiard(n):
    rng = np.random.default_rng(23)
    x = rng.dirichlet(np.ones(n), 60)
    v = ref.noise_on_simplex(rng, 60, n, "euclidean") * 10.0 ** rng.uniform(-2, 0, (60, 1))
    found = Simplex(n, "euclidean").reflect(torch.from_numpy(x), torch.from_numpy(v)).numpy()
    expected = np.stack([ref.billiard_simplex(a, b) for a, b in zip(x, v, strict=True)])
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_project_is_nearest_by_brute_force(n):
    y = np.random.default_rng(24).standard_normal((40, n))
    found = Simplex(n, "euclidean").project(torch.from_numpy(y)).numpy()
    expected = np.stack([ref.nearest_on_simplex(row) for row in y])
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("n", [2, 3, 5, 9])
def test_constants(n):
    volume = math.sqrt(n) / math.factorial(n - 1)
    for metric in METRICS:
        simplex = Simplex(n, metric)
        assert simplex.event_shape == torch.Size([n])
        assert simplex.dim == n - 1
        assert float(simplex.log_volume) == pytest.approx(math.log(volume))
        assert float(simplex.inradius) > 0
        assert simplex.has_exact_kernel == (metric == "cumulative" or n <= 3)
    assert float(Simplex(n, "euclidean").inradius) == pytest.approx(1 / math.sqrt(n * (n - 1)))
    assert float(Simplex(n, "cumulative").spectral_gap) == pytest.approx(math.pi**2)
    gap = float(Simplex(n, "euclidean").spectral_gap)
    if n == 2:
        assert gap == pytest.approx(math.pi**2 / 2)
    elif n == 3:
        assert gap == pytest.approx(8 * math.pi**2 / 9)
    else:  # between the bound by the diameter and the Rayleigh quotient of a linear function
        assert math.pi**2 / 2 * (1 - 1e-9) <= gap <= n * (n + 1)


def test_the_metric_is_picked_by_the_number_of_parts():
    assert Simplex(3) == Simplex(3, "euclidean")
    assert Simplex(4) == Simplex(4, "cumulative")
    assert Simplex(3) != Simplex(3, "cumulative")
    for parts in (1, 0, -3):
        with pytest.raises(ValueError, match=str(parts)):
            Simplex(parts)
    with pytest.raises(ValueError, match="fisher"):
        Simplex(3, "fisher")


@pytest.mark.parametrize("n", [2, 4, 7])
def test_inner_products(n):
    rng = np.random.default_rng(25)
    u, v = (ref.noise_on_simplex(rng, 20, n, "euclidean") for _ in range(2))
    x = torch.from_numpy(rng.dirichlet(np.ones(n), 20))
    args = x, torch.from_numpy(u), torch.from_numpy(v)
    np.testing.assert_allclose(Simplex(n, "euclidean").inner(*args).numpy(), (u * v).sum(-1), atol=1e-12)
    sums = (ref.partial_sums(u) * ref.partial_sums(v)).sum(-1)
    np.testing.assert_allclose(Simplex(n, "cumulative").inner(*args).numpy(), sums, atol=1e-12)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_boundary_distance_and_normal(n):
    x = torch.from_numpy(np.random.default_rng(26).dirichlet(np.ones(n), 50))
    distance, normal = Simplex(n, "euclidean").boundary(x)
    nearest, face = x.min(-1)
    torch.testing.assert_close(distance, nearest * math.sqrt(n / (n - 1)))
    expected = torch.nn.functional.one_hot(face, n).double() - 1 / n
    torch.testing.assert_close(normal, expected * math.sqrt(n / (n - 1)))


@pytest.mark.parametrize("n", [3, 6])
@pytest.mark.parametrize("metric", METRICS)
def test_damping_removes_the_flux_and_nothing_else(n, metric):
    simplex, rng = Simplex(n, metric), np.random.default_rng(27)
    v = torch.from_numpy(ref.noise_on_simplex(rng, 40, n, "euclidean"))
    d = torch.from_numpy(ref.difference_matrix(n))
    for face in range(n):
        x = torch.from_numpy(rng.dirichlet(20 * np.ones(n), 40))
        x[:, face] = 0
        x = x / x.sum(-1, keepdim=True)
        damped = simplex.damp_normal(x, v, 1e-3)
        assert float(damped[:, face].abs().max()) <= 1e-12
        assert float(damped.sum(-1).abs().max()) <= 1e-12
        # what was taken away is along the normal of this face in the metric
        e = torch.eye(n, dtype=F64)[face]
        normal = e - 1 / n if metric == "euclidean" else d @ d.T @ e
        expected = v - v[:, face, None] * normal / normal[face]
        torch.testing.assert_close(damped, expected, rtol=0, atol=1e-2)
    middle = torch.full((40, n), 1 / n, dtype=F64)
    torch.testing.assert_close(simplex.damp_normal(middle, v, 1e-3), v, rtol=0, atol=1e-3)
    corner = torch.eye(n, dtype=F64)[:1].expand(40, n)
    assert float(simplex.damp_normal(corner, v, 0.05)[:, 1:].abs().max()) <= 1e-12
    faces = torch.from_numpy(ref.simplex_points(rng, 40, n))
    for width in (1e-4, 0.1, 10.0):
        damped = simplex.damp_normal(faces, v, width)
        assert damped.isfinite().all()
        assert float(torch.where(faces == 0, damped, 0).abs().max()) <= 1e-12


def test_percentages_are_named_and_cured() -> None:
    percent = torch.tensor([[20.0, 30.0, 50.0], [10.0, 10.0, 80.0]])
    with pytest.raises(DomainError, match=r"its parts sum to 100, not to 1: divide each row by its sum$"):
        Simplex(3).diffuse(percent, 0.1)
    with pytest.raises(DomainError, match=r"\(1 of 1 points\)$"):  # no sum would help: a part is negative
        Simplex(3).diffuse(torch.tensor([[-0.5, 0.5, 1.0]]), 0.1)


def test_a_sum_that_is_nearly_one_is_told_apart():
    x = torch.tensor([0.2, 0.3, 0.5 + 4e-9], dtype=torch.float64)
    assert "parts sum to 1 +4.0e-09, not to 1" in Simplex(3).outside_hint(x)
    assert "parts sum to 1.1, not to 1" in Simplex(3).outside_hint(x + 0.1 / 3)


def test_images_left_out_do_not_matter(monkeypatch):
    """Fewer images serve where noise is small and points are near."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.rand(2, 4000, 3, generator=generator, dtype=torch.float64) ** 4 + 1e-12
    x, x0 = spread / spread.sum(-1, keepdim=True)
    sigma = 1e-3 * 500 ** torch.rand(4000, generator=generator, dtype=torch.float64)
    z = torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    x[::2] = triangle.fold(x0 + sigma[:, None] * (z - z.mean(-1, keepdim=True)))[::2]
    few = triangle.log_prob_and_score(x, x0, sigma)
    monkeypatch.setattr(triangle, "_BANDS", ((triangle.SWITCH, math.inf),))
    every = triangle.log_prob_and_score(x, x0, sigma)
    torch.testing.assert_close(few[0], every[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(few[1], every[1], rtol=1e-9, atol=1e-9)
