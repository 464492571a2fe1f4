"""The interval and boxes: kernel against high-precision references, laws against exact distributions."""

import math
import shutil

import numpy as np
import pytest
import torch
from scipy import stats

from constrained_diffusion.domains import Hypercube, ShapeError
from tests import references as ref

F64 = torch.float64
BOX_LOW, BOX_HIGH = np.array([-3.0, -3.0]), np.array([1.0, 7.0])
FACES = torch.tensor([0.0, 1.0, 0.5, 1e-12, 1 - 1e-12], dtype=F64)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pairs_with_faces(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    x, x0 = torch.cartesian_prod(FACES, FACES).to(dtype).clamp(0, 1).unbind(-1)
    return x[:, None], x0[:, None]


# ---- the references themselves
@pytest.mark.parametrize("sigma", [0.15, 0.3, 0.4, 0.7])
def test_images_and_eigenfunctions_agree(sigma):
    rng = np.random.default_rng(0)
    for x, x0 in zip(*ref.interval_pairs(rng, 10, sigma), strict=True):
        images, cosines = ref.interval_images(x, x0, sigma), ref.interval_cosines(x, x0, sigma)
        assert abs(images[0] - cosines[0]) < 1e-15
        assert abs(images[1] - cosines[1]) < 1e-15


# ---- accuracy of the kernel
@pytest.mark.parametrize("sigma", ref.SIGMAS)
def test_interval_kernel_float64(sigma):
    x, x0 = (a[:, None] for a in ref.interval_pairs(np.random.default_rng(1), 120, sigma))
    log_p, score = ref.box_kernel(x, x0, sigma)
    box, x, x0 = Hypercube(1), torch.from_numpy(x), torch.from_numpy(x0)
    absolute, relative = ref.scaled_errors(box.heat_kernel_score(x, x0, sigma).numpy(), score, sigma)
    assert absolute <= 1e-6
    assert relative <= 1e-6
    _, relative = ref.scaled_errors(box.heat_kernel_log_prob(x, x0, sigma).numpy(), log_p, 1.0)
    assert relative <= 1e-6


@pytest.mark.parametrize("sigma", ref.SIGMAS)
def test_interval_kernel_float32(sigma):
    sigma = float(np.float32(sigma))
    x, x0 = (a.astype(np.float32)[:, None] for a in ref.interval_pairs(np.random.default_rng(2), 120, sigma))
    log_p, score = ref.box_kernel(x, x0, sigma)
    box, near = Hypercube(1), np.abs(x - x0)[:, 0] <= 6 * sigma
    tolerance = 2e-3 if sigma < 1e-3 else 1e-5
    for given in (sigma, torch.full((len(x),), sigma, dtype=torch.float32)):
        found = box.heat_kernel_score(torch.from_numpy(x), torch.from_numpy(x0), given)
        assert found.dtype == torch.float32
        found = found.double().numpy()
        assert ref.scaled_errors(found[near], score[near], sigma)[0] <= tolerance
        assert ref.scaled_errors(found, score, sigma)[1] <= tolerance
        found = box.heat_kernel_log_prob(torch.from_numpy(x), torch.from_numpy(x0), given)
        assert found.dtype == torch.float32
        assert ref.scaled_errors(found.double().numpy(), log_p, 1.0)[1] <= tolerance


@pytest.mark.parametrize("sigma", ref.SIGMAS)
def test_unequal_box_float64(sigma):
    x, x0 = ref.box_pairs(np.random.default_rng(3), 60, sigma, BOX_LOW, BOX_HIGH)
    log_p, score = ref.box_kernel(x, x0, sigma, BOX_LOW, BOX_HIGH)
    box, x, x0 = Hypercube(2, low=-3, high=[1, 7]), torch.from_numpy(x), torch.from_numpy(x0)
    near = ((x - x0).abs() <= 6 * sigma).all(-1).numpy()
    found = box.heat_kernel_score(x, x0, sigma).numpy()
    assert ref.scaled_errors(found[near], score[near], sigma)[0] <= 1e-6
    assert ref.scaled_errors(found, score, sigma)[1] <= 1e-6
    assert ref.scaled_errors(box.heat_kernel_log_prob(x, x0, sigma).numpy(), log_p, 1.0)[1] <= 1e-6


def test_sigma_per_row_is_sigma_by_row():
    rng = np.random.default_rng(4)
    sigma = torch.tensor([1e-4, 0.01, 0.1, 0.332, 0.334, 1.0, 50.0], dtype=F64)
    box = Hypercube((2, 2))
    x, x0 = (torch.from_numpy(rng.random((7, 2, 2))) for _ in range(2))
    score, log_p = box.heat_kernel_score(x, x0, sigma), box.heat_kernel_log_prob(x, x0, sigma)
    assert log_p.shape == (7,)
    for row in range(7):
        one = float(sigma[row])
        torch.testing.assert_close(score[row], box.heat_kernel_score(x[row], x0[row], one))
        torch.testing.assert_close(log_p[row], box.heat_kernel_log_prob(x[row], x0[row], one))


def test_axes_are_independent():
    rng = np.random.default_rng(5)
    x, x0 = (torch.from_numpy(rng.random((9, 2, 3))) for _ in range(2))
    whole, one = Hypercube((2, 3)), Hypercube(1)
    parts = [
        (
            one.heat_kernel_log_prob(x[:, i, j, None], x0[:, i, j, None], 0.2),
            one.heat_kernel_score(x[:, i, j, None], x0[:, i, j, None], 0.2)[:, 0],
        )
        for i in range(2)
        for j in range(3)
    ]
    torch.testing.assert_close(whole.heat_kernel_log_prob(x, x0, 0.2), sum(p[0] for p in parts))
    torch.testing.assert_close(
        whole.heat_kernel_score(x, x0, 0.2), torch.stack([p[1] for p in parts], -1).reshape(9, 2, 3)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_on_faces_and_corners_at_every_sigma(dtype):
    x, x0 = pairs_with_faces(dtype)
    box = Hypercube(1)
    for sigma in np.geomspace(1e-4, 50, 60).tolist():
        score, log_p = box.heat_kernel_score(x, x0, sigma), box.heat_kernel_log_prob(x, x0, sigma)
        assert score.isfinite().all(), sigma
        assert log_p.isfinite().all(), sigma


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("sigma", ref.SIGMAS)
def test_no_slope_on_the_faces(sigma, dtype, tolerance):
    x0 = torch.cat([FACES, torch.linspace(0, 1, 11, dtype=F64)]).to(dtype).clamp(0, 1)[:, None]
    for face in (0.0, 1.0):
        score = Hypercube(1).heat_kernel_score(torch.full_like(x0, face), x0, sigma)
        assert float((score * sigma).abs().max()) <= tolerance


# ---- identities of the kernel
@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.3, 0.334, 1.0, 50.0])
def test_integrates_to_one(sigma):
    nodes, weights = (torch.from_numpy(a) for a in ref.unit_quadrature(400))
    for start in (0.0, 0.013, 0.4, 1.0):
        x = nodes[:, None]
        log_p = Hypercube(1).heat_kernel_log_prob(x, torch.full_like(x, start), sigma)
        assert float(weights @ log_p.exp()) == pytest.approx(1, abs=2e-7)


def test_unequal_box_integrates_to_one():
    nodes, weights = ref.box_quadrature(2, 60)
    box = Hypercube(2, low=-3, high=[1, 7])
    x = torch.from_numpy(BOX_LOW + (BOX_HIGH - BOX_LOW) * nodes)
    start = torch.tensor([-2.9, 5.0], dtype=F64).expand_as(x)
    mass = torch.from_numpy(weights) @ box.heat_kernel_log_prob(x, start, 1.3).exp() * 40
    assert float(mass) == pytest.approx(1, abs=2e-7)


@pytest.mark.parametrize("sigma", ref.SIGMAS)
def test_symmetric(sigma):
    x, x0 = (torch.from_numpy(a)[:, None] for a in ref.interval_pairs(np.random.default_rng(6), 60, sigma))
    box = Hypercube(1)
    there, back = box.heat_kernel_log_prob(x, x0, sigma), box.heat_kernel_log_prob(x0, x, sigma)
    torch.testing.assert_close(there, back, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("first", "second"), [(0.05, 0.1), (0.2, 0.3), (0.3, 0.5)])
def test_semigroup(first, second):
    nodes, weights = (torch.from_numpy(a) for a in ref.unit_quadrature(300))
    box, middle = Hypercube(1), nodes[:, None]
    for start, end in [(0.0, 0.1), (0.3, 0.35), (0.9, 1.0)]:
        p = box.heat_kernel_log_prob(middle, torch.full_like(middle, start), first)
        q = box.heat_kernel_log_prob(torch.full_like(middle, end), middle, second)
        both = box.heat_kernel_log_prob(
            torch.tensor([[end]], dtype=F64), torch.tensor([[start]], dtype=F64), math.hypot(first, second)
        )
        assert float((weights @ (p + q).exp()).log()) == pytest.approx(float(both), abs=1e-6)


@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.3, 0.334, 0.5, 1.0])
def test_score_is_the_slope_of_log_prob(sigma):
    rng = np.random.default_rng(7)
    box = Hypercube(2, low=-3, high=[1, 7])
    x0 = torch.from_numpy(BOX_LOW + (BOX_HIGH - BOX_LOW) * rng.random((40, 2)))
    x = torch.from_numpy(ref.fold_box(x0.numpy() + sigma * rng.standard_normal((40, 2)), BOX_LOW, BOX_HIGH))
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(box.heat_kernel_log_prob(x, x0, sigma).sum(), x)
    score = box.heat_kernel_score(x.detach(), x0, sigma)
    assert float((sigma * (slope - score)).abs().max()) <= 2e-6


def test_heat_equation():
    # d/d(sigma^2) p = 1/2 p'': the time scale itself, by central differences
    box, x0 = Hypercube(1), torch.full((5, 1), 0.2, dtype=F64)
    x = torch.tensor([[0.0], [0.15], [0.4], [0.7], [1.0]], dtype=F64).clamp(1e-3, 1 - 1e-3)
    for sigma in (0.2, 0.5):
        h, k = 1e-3, 1e-4
        p = [box.heat_kernel_log_prob(x + j * h, x0, sigma).exp() for j in (-1, 0, 1)]
        later, earlier = (box.heat_kernel_log_prob(x, x0, math.sqrt(sigma**2 + j * k)).exp() for j in (1, -1))
        torch.testing.assert_close(
            (later - earlier) / (2 * k), (p[0] - 2 * p[1] + p[2]) / (2 * h**2), rtol=2e-3, atol=2e-3
        )


# ---- laws
@pytest.mark.parametrize("start", [0.0, 0.1, 0.77])
@pytest.mark.parametrize("sigma", [1e-3, 0.1, 0.333, 0.5, 3.0])
@pytest.mark.parametrize("how", ["sample_heat_kernel", "diffuse"])
def test_sampling_follows_the_exact_law(start, sigma, how):
    x0 = torch.full((20_000, 1), start, dtype=F64)
    x = getattr(Hypercube(1), how)(x0, sigma, generator=generator(11))
    x = x[0] if how == "diffuse" else x
    result = stats.kstest(x[:, 0].numpy(), lambda t: ref.interval_cdf(t, start, sigma))
    assert result.pvalue > ref.ALPHA


def test_box_follows_a_plain_simulation():
    rows, start = 20_000, np.array([-2.5, 6.0])
    rng = np.random.default_rng(12)
    plain = ref.simulate(
        np.tile(start, (rows, 1)),
        1.5,
        20,
        lambda m: rng.standard_normal((m, 2)),
        lambda y: ref.fold_box(y, BOX_LOW, BOX_HIGH),
    )
    box = Hypercube(2, low=-3, high=[1, 7])
    x = box.sample_heat_kernel(torch.from_numpy(start).expand(rows, 2), 1.5, generator=generator(13)).numpy()
    for functional in (lambda y: y[:, 0], lambda y: y[:, 1], lambda y: y[:, 0] * y[:, 1]):
        assert stats.ks_2samp(functional(x), functional(plain)).pvalue > ref.ALPHA


@pytest.mark.parametrize("sigma", [0.03, 0.1, 0.334, 1.0])
def test_diffuse_target_satisfies_the_test_field_identity(sigma):
    box, low, length = Hypercube(2, low=[-1.0, 0.0], high=[1.0, 0.5]), [-1.0, 0.0], [2.0, 0.5]
    x0 = torch.tensor([-0.95, 0.2], dtype=F64).expand(100_000, 2)
    x, target = box.diffuse(x0, sigma, generator=generator(14))
    angle = [(x[:, i] - low[i]) * math.pi / length[i] for i in range(2)]
    # phi = (sin(pi u) cos(pi v), sin(pi v) (1 + u)) has no flux through the walls
    phi = torch.stack([angle[0].sin() * angle[1].cos(), angle[1].sin() * (1 + x[:, 0])], -1)
    div = math.pi / length[0] * angle[0].cos() * angle[1].cos() + math.pi / length[1] * angle[1].cos() * (1 + x[:, 0])
    assert abs(ref.z_scores(((target * phi).sum(-1) + div).numpy())) < ref.LARGEST_Z
    along = math.pi / length[0] * angle[0].cos()
    assert abs(ref.z_scores((target[:, 0] * angle[0].sin() + along).numpy())) < ref.LARGEST_Z


@pytest.mark.parametrize("sigma", [0.03, 0.1, 0.334, 1.0])
def test_diffuse_target_regresses_on_the_score_with_slope_one(sigma):
    box = Hypercube(2)
    x0 = torch.tensor([0.03, 0.6], dtype=F64).expand(100_000, 2)
    x, target = box.diffuse(x0, sigma, generator=generator(15))
    score = box.heat_kernel_score(x, x0, sigma)
    assert abs(ref.z_scores(((target - score) * score).sum(-1).numpy())) < ref.LARGEST_Z
    assert float(target.pow(2).mean()) <= 1.02 / sigma**2


# ---- geometry
def test_reflect_is_folding():
    rng = np.random.default_rng(16)
    box = Hypercube(2, low=-3, high=[1, 7])
    x = BOX_LOW + (BOX_HIGH - BOX_LOW) * rng.random((500, 2))
    v = rng.standard_normal((500, 2)) * 10.0 ** rng.uniform(-3, 3, (500, 1))
    found = box.reflect(torch.from_numpy(x), torch.from_numpy(v)).numpy()
    np.testing.assert_allclose(found, ref.fold_box(x + v, BOX_LOW, BOX_HIGH), atol=1e-11)


def test_project_is_clamping():
    y = torch.from_numpy(np.random.default_rng(17).standard_normal((200, 2)) * 8)
    expected = np.clip(y.numpy(), BOX_LOW, BOX_HIGH)
    np.testing.assert_array_equal(Hypercube(2, low=-3, high=[1, 7]).project(y).numpy(), expected)


def test_constants():
    box = Hypercube((2,), low=-3, high=[1, 7])
    assert box.event_shape == torch.Size([2])
    assert box.dim == 2
    assert box.has_exact_kernel
    assert float(box.log_volume) == pytest.approx(math.log(40))
    assert float(box.spectral_gap) == pytest.approx(math.pi**2 / 100)
    assert float(box.inradius) == pytest.approx(2)
    assert Hypercube((3, 4, 5)).dim == 60
    assert float(Hypercube((3, 4)).log_volume) == pytest.approx(0, abs=1e-12)


def test_boundary_distance_and_normal():
    box = Hypercube(2, low=-3, high=[1, 7])
    x = torch.tensor([[-2.9, 2.0], [0.75, 3.0], [-1.0, -2.5], [-1.0, 6.6]], dtype=F64)
    distance, normal = box.boundary(x)
    torch.testing.assert_close(distance, torch.tensor([0.1, 0.25, 0.5, 0.4], dtype=F64))
    torch.testing.assert_close(normal, torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1]], dtype=F64))


def test_damping_acts_on_the_normal_component_alone():
    box = Hypercube(2, low=-3, high=[1, 7])
    x = torch.tensor([[-3.0, 2.0], [1.0, 2.0], [-1.0, 7.0], [-2.99, 2.0], [-1.0, 2.0]], dtype=F64)
    v = torch.tensor([[1.5, -2.0]], dtype=F64).expand(5, 2)
    damped = box.damp_normal(x, v, 0.05)
    assert damped[0, 0] == 0
    assert damped[1, 0] == 0
    assert damped[2, 1] == 0
    assert 0 < damped[3, 0] < 0.9 * 1.5
    torch.testing.assert_close(damped[:2, 1], v[:2, 1], rtol=1e-3, atol=0)
    torch.testing.assert_close(damped[2, 0], v[2, 0], rtol=1e-3, atol=0)
    torch.testing.assert_close(damped[3, 1], v[3, 1], rtol=1e-3, atol=0)
    torch.testing.assert_close(damped[4], v[4], rtol=1e-3, atol=0)
    widths = torch.tensor([0.05, 1e-3, 10.0, 0.05, 1e-3], dtype=F64)
    by_row = torch.stack([box.damp_normal(x[i], v[i], float(widths[i])) for i in range(5)])
    torch.testing.assert_close(box.damp_normal(x, v, widths), by_row)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Hypercube(2, low=1.0, high=1.0),
        lambda: Hypercube(2, low=1.0, high=0.0),
        lambda: Hypercube(2, low=math.nan),
        lambda: Hypercube(2, high=math.inf),
        lambda: Hypercube(2, low=[0.0, 0.0, 0.0]),
    ],
)
def test_boxes_that_cannot_be(bad):
    with pytest.raises((ValueError, ShapeError)):
        bad()


def test_sides_broadcast_to_the_shape():
    low = torch.tensor([[0.0], [-1.0]], dtype=F64)
    box = Hypercube((2, 3), low=low, high=[1.0, 2.0, 3.0])
    assert float(box.log_volume) == pytest.approx(math.log(1 * 2 * 3 * 2 * 3 * 4))
    x = box.sample_uniform((1000,), generator=generator(18), dtype=F64)
    assert box.contains(x).all()
    assert (x[:, 1, 2] < -0.5).any()
    assert (x[:, 1, 2] > 2.5).any()


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 4.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sorted_rows_give_the_score_of_the_whole(low, high, dtype):
    """Large batches are cut by noise level; each piece drops the terms that do not matter there."""
    from constrained_diffusion.domains import interval

    generator = torch.Generator().manual_seed(0)
    rows, columns = 640, 300
    sigma = torch.logspace(-3, 1.3, rows, dtype=dtype)[torch.randperm(rows, generator=generator)] * (high - low)
    x0, x = (low + (high - low) * torch.rand(rows, columns, generator=generator, dtype=dtype) for _ in range(2))
    x[:, 0], x[:, 1] = low, high
    near = x0 + sigma[:, None] * torch.randn(rows, columns, generator=generator, dtype=dtype)
    x[:, 2:150] = interval.fold(near, low, high)[:, 2:150]
    assert x.numel() > interval._SMALL + interval._CHUNK
    whole = interval.score(x.double(), x0.double(), low, high, sigma.double()[:, None])
    parts = interval.score_by_rows(x, x0, low, high, sigma)
    gap = (sigma[:, None] * (parts - whole)).abs() / (sigma[:, None] * whole).abs().clamp(min=1)
    assert float(gap.max()) < (1e-6 if dtype == torch.float64 else 1e-5)
    tiny = (sigma > 2 * (high - low)).nonzero()[:, 0]  # where the score is next to nothing it is still right
    error = (parts[tiny].double() - whole[tiny]).abs().amax(1) / whole[tiny].abs().amax(1)
    assert float(error[sigma[tiny] < 4 * (high - low)].max()) < 1e-4
    assert (parts[:, :2] == 0).all()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_score_is_the_score(dtype):
    domain = Hypercube((3, 8, 8), low=-1.0, high=1.0)
    generator = torch.Generator().manual_seed(0)
    x0 = domain.sample_uniform(64, generator=generator, dtype=dtype)
    sigma = torch.logspace(-3, 1, 64, dtype=dtype)
    x = domain.sample_heat_kernel(x0, sigma, generator=generator)
    x[:, 0, 0, 0], x[:, 0, 0, 1] = -1.0, 1.0
    compiled = torch.compile(domain.heat_kernel_score, dynamic=False, fullgraph=True)(x, x0, sigma)
    gap = (compiled - domain.heat_kernel_score(x, x0, sigma)).abs() * sigma.reshape(-1, 1, 1, 1)
    assert float(gap.max()) < (1e-5 if dtype == torch.float32 else 1e-6)
    assert (compiled[:, 0, 0, :2] == 0).all()
