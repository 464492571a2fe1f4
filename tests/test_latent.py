"""Encoding and decoding: the flow there and back, against distribution functions that are known."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from constrained_diffusion import (
    MLP,
    Ball,
    DomainError,
    Euclidean,
    EulerMaruyama,
    Hypercube,
    RectifiedFlow,
    ReflectedDiffusion,
    ReflectedSDE,
    ScoreModel,
    Simplex,
    SolverError,
    decode,
    encode,
    interpolate,
)
from tests import references as ref
from tests.mixtures import Atoms
from tests.own_domains import OwnAnnulus

F64 = torch.float64
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=F64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def law_in(domain, least):
    atoms = domain.sample_uniform(3, generator=seeded(1), dtype=F64)
    return Atoms(ReflectedSDE(domain, least), atoms, WEIGHTS)


def draws(law, n, seed=0):
    return law.sde.domain.noise(law.draw(n, seeded(seed)), law.sde.sigma_min, generator=seeded(seed + 1))


# ---------------------------------------------------------------------- on the interval all is known


@pytest.fixture(scope="module")
def interval():
    """A law on [-1, 2], and its distribution function by the references' sums."""
    law = law_in(Hypercube(1, -1.0, 2.0), 0.15)

    def cdf(x):
        starts = (law.points[:, 0].numpy() + 1) / 3
        parts = [ref.interval_cdf((x + 1) / 3, a, 0.05) for a in starts]
        return np.tensordot(law.weights.numpy(), parts, 1)

    return law, cdf


def test_the_latent_is_the_distribution_function(interval):
    """In one dimension the flow keeps the order, so it carries each quantile of the law to that of the prior."""
    law, cdf = interval
    x = torch.linspace(-1, 2, 61, dtype=F64)[:, None]
    latent = encode(law.sde, law.score, x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose((latent[:, 0].numpy() + 1) / 3, cdf(x[:, 0].numpy()), atol=2e-3)
    assert latent[0] == -1
    assert latent[-1] == 2
    u = torch.linspace(0.01, 0.99, 50, dtype=F64)[:, None]
    back = decode(law.sde, law.score, 3 * u - 1, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(cdf(back[:, 0].numpy()), u[:, 0].numpy(), atol=2e-3)


def test_latents_of_the_law_are_uniform(interval):
    law, cdf = interval
    x = draws(law, 3000)
    latent = encode(law.sde, law.score, x, rtol=1e-4, atol=1e-4)[:, 0].numpy()
    assert stats.kstest(latent, "uniform", args=(-1, 3)).pvalue > ref.ALPHA
    assert stats.kstest(x[:, 0].numpy(), "uniform", args=(-1, 3)).pvalue < 1e-100
    u = torch.rand(3000, 1, generator=seeded(5), dtype=F64)
    back = decode(law.sde, law.score, 3 * u - 1, rtol=1e-4, atol=1e-4)[:, 0].numpy()
    assert stats.kstest(back, cdf).pvalue > ref.ALPHA


@pytest.mark.parametrize(("domain", "least"), [(Simplex(4), 0.1)], ids=str)
def test_latents_of_the_law_are_uniform_on_simplices(domain, least):
    """1 - (1 - x_1)^(n-1) is uniform under the uniform law."""
    law = law_in(domain, least)
    latent = encode(law.sde, law.score, draws(law, 500), rtol=1e-3, atol=1e-3)
    for part in latent.T.numpy():
        assert stats.kstest(1 - (1 - part) ** domain.dim, "uniform").pvalue > ref.ALPHA


def test_latents_of_normal_data():
    """The flow of a normal law is linear: latent = mean + (x - mean) times the ratio of the spreads."""
    sde = ReflectedSDE(Euclidean(2), 0.1, 20.0)

    def score(x, t):
        return (1.5 - x) / (0.49 + sde.sigma(t).unsqueeze(-1) ** 2)

    x = 1.5 + 0.7 * torch.randn(20, 2, generator=seeded(), dtype=F64)
    ratio = math.sqrt((0.49 + 400) / (0.49 + 0.01))
    torch.testing.assert_close(encode(sde, score, x), 1.5 + ratio * (x - 1.5), atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(decode(sde, score, 1.5 + ratio * (x - 1.5)), x, atol=1e-3, rtol=1e-3)


# ---------------------------------------------------------------------- there and back


def away(domain, x, y):
    return float((x - y).flatten(x.ndim - len(domain.event_shape)).norm(dim=-1).max()) / domain.diameter


@pytest.mark.parametrize(("domain", "least"), [(Hypercube(1), 0.05), (Ball(2), 0.12), (Simplex(3), 0.05)], ids=str)
def test_round_trip(domain, least):
    law = law_in(domain, least)
    x = draws(law, 8)
    options = {"rtol": 1e-5, "atol": 1e-5}
    latent = encode(law.sde, law.score, x, **options)
    assert domain.contains(latent).all()
    assert away(domain, latent, x) > 0.05
    assert away(domain, decode(law.sde, law.score, latent, **options), x) < 1e-3
    z = domain.sample_uniform(8, generator=seeded(8), dtype=F64)
    x = decode(law.sde, law.score, z, **options)
    assert domain.contains(x).all()
    assert away(domain, encode(law.sde, law.score, x, **options), z) < 1e-3


def random_model(sde, seed=3):
    """A score model whose network is smooth, random and of order one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MLP(sde.domain, width=16, depth=1)
        nn.init.normal_(network.leave.weight, std=0.3)
        nn.init.normal_(network.leave.bias, std=0.3)
    return ScoreModel(network, sde)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("domain", [Hypercube(2), OwnAnnulus()], ids=str)
def test_round_trip_of_a_model(domain, dtype):
    sde = ReflectedSDE(domain, 0.2 * domain.inradius, domain.inradius)
    score = random_model(sde).to(dtype)
    x = domain.sample_uniform((2, 10), generator=seeded(), dtype=dtype)
    latent = encode(sde, score, x)
    assert latent.dtype == dtype
    assert latent.shape == x.shape
    assert domain.contains(latent).all()
    back = decode(sde, score, latent)
    assert back.dtype == dtype
    assert away(domain, back, x) < 1e-3
    assert away(domain, latent, x) > 0.02


def test_a_flow_goes_straight():
    """To one atom: the latent lies on the line through it, and decoding is not denoised."""
    domain = Simplex(4)
    flow = RectifiedFlow(domain, sigma_min=0.02 * domain.inradius)
    atom, ends = (domain.sample_uniform(n, generator=seeded(n), dtype=F64) for n in (1, 10))

    def velocity(x, t):
        return (x - atom) / (flow.sigma(t) / flow.sigma_max).unsqueeze(-1)

    near = atom + 0.02 * (ends - atom)
    torch.testing.assert_close(encode(flow, velocity, near), ends, atol=1e-4, rtol=0)
    torch.testing.assert_close(decode(flow, velocity, ends), near, atol=1e-4, rtol=0)


# ---------------------------------------------------------------------- paths between points


@pytest.mark.parametrize("domain", [Simplex(3), Ball(2, 2.0), OwnAnnulus()], ids=str)
def test_paths(domain):
    sde = ReflectedSDE(domain, 0.2 * domain.inradius, domain.inradius)
    score = random_model(sde).double()
    x, y = (domain.sample_uniform((2, 3), generator=seeded(s), dtype=F64) for s in (1, 2))
    path = interpolate(sde, score, x, y, steps=5, rtol=1e-5, atol=1e-5)
    assert path.shape == (5, 2, 3, *domain.event_shape)
    assert domain.contains(path).all()
    assert away(domain, path[0], x) < 1e-3
    assert away(domain, path[-1], y) < 1e-3
    steps = torch.diff(path, dim=0).flatten(3).norm(dim=-1)
    assert (steps > 0).all(), "it moves all the way"
    assert interpolate(sde, score, x[0, 0], y[0, 0], steps=2).shape == (2, *domain.event_shape)


def test_the_middle_of_a_path_is_that_of_the_latents(interval):
    """Where latents are quantiles: the middle lies at the mean of both ends' quantiles."""
    law, cdf = interval
    x, y = torch.tensor([[-0.9], [0.3]], dtype=F64), torch.tensor([[1.8], [1.0]], dtype=F64)
    path = interpolate(law.sde, law.score, x, y, steps=3, rtol=1e-4, atol=1e-4)
    ends = [cdf(p[:, 0].numpy()) for p in (x, y)]
    np.testing.assert_allclose(cdf(path[1, :, 0].numpy()), (ends[0] + ends[1]) / 2, atol=3e-3)


def test_great_circles():
    """Between normal draws: lengths change evenly, and so does the angle."""
    domain = Euclidean((2, 3))
    x, y = (torch.randn(50, 2, 3, generator=seeded(s), dtype=F64) for s in (0, 1))
    a, b = x.flatten(1).norm(dim=1), y.flatten(1).norm(dim=1)
    angle = torch.acos((x * y).flatten(1).sum(1) / (a * b))
    for share in (0.0, 0.25, 0.5, 0.9, 1.0):
        z = domain.interpolate(x, y, share)
        torch.testing.assert_close(z.flatten(1).norm(dim=1), (1 - share) * a + share * b)
        cosine = (x * z).flatten(1).sum(1) / (a * z.flatten(1).norm(dim=1))
        torch.testing.assert_close(cosine, torch.cos(share * angle))
        plane = torch.stack([x.flatten(1), y.flatten(1), z.flatten(1)], 1)
        assert float(torch.linalg.svdvals(plane)[:, 2].max()) < 1e-9
    torch.testing.assert_close(domain.interpolate(x, 3 * x, 0.5), 2 * x)
    assert domain.interpolate(x[0], y[0], 0.3).shape == (2, 3)


def test_lengths_change_evenly_to_the_origin_too():
    """Which lies in no direction."""
    x = torch.randn(5, 3, generator=seeded(), dtype=F64)
    torch.testing.assert_close(Euclidean(3).interpolate(x, 0 * x, 0.25), 0.75 * x)
    torch.testing.assert_close(Euclidean(3).interpolate(0 * x, x, 0.25), 0.25 * x)


def test_straight_lines_elsewhere():
    for domain in (Hypercube(2), Simplex(5), Ball(3)):
        x, y = (domain.sample_uniform(50, generator=seeded(s), dtype=F64) for s in (0, 1))
        torch.testing.assert_close(domain.interpolate(x, y, 0.3), 0.7 * x + 0.3 * y)
    ring = OwnAnnulus()
    x = ring.sample_uniform(200, generator=seeded(), dtype=F64)
    assert ring.contains(ring.interpolate(x, -x, 0.5 + 1e-3)).all()


# ---------------------------------------------------------------------- shapes, conditions, errors


@pytest.mark.parametrize("batch", [(), (2, 3), (0,)], ids=str)
def test_shapes_and_conditions(batch):
    sde = ReflectedSDE(Hypercube((1, 2)), 0.1)
    centre = torch.rand(*batch, 1, 2, generator=seeded(1), dtype=F64)
    x = sde.domain.noise(centre, 0.1, generator=seeded())

    def score(y, t, centre):
        assert t.shape == y.shape[:-2] == centre.shape[:-2]
        return sde.domain.heat_kernel_score(y, centre, sde.sigma(t))

    extra = {"condition": {"centre": centre}}
    latent = encode(sde, score, x, **extra)
    assert latent.shape == x.shape
    torch.testing.assert_close(decode(sde, score, latent, **extra), x, atol=1e-3, rtol=0)
    path = interpolate(sde, score, x, centre, 3, **extra)
    assert path.shape == (3, *x.shape)
    torch.testing.assert_close(path[-1], centre, atol=1e-3, rtol=0)
    if x.numel():
        for axis in range(2):
            expected = ref.interval_cdf(np.atleast_1d(x[..., 0, axis].flatten()[0]), float(centre.flatten()[axis]), 0.1)
            assert float(latent[..., 0, axis].flatten()[0]) == pytest.approx(float(expected[0]), abs=3e-3)


def test_what_cannot_be_carried():
    sde = ReflectedSDE(Hypercube(1), 0.1)
    law = law_in(Hypercube(1), 0.01)
    x = torch.full((2, 1), 0.5, dtype=F64)
    for bad in (x + 1, x * math.nan):
        with pytest.raises(DomainError, match="x: at row 0"):
            encode(sde, law.score, bad)
        with pytest.raises(DomainError, match="latent: at row 0"):
            decode(sde, law.score, bad)
    with pytest.raises(ValueError, match="steps must be at least 2"):
        interpolate(sde, law.score, x, x, steps=1)
    with pytest.raises(ValueError, match=r"same shape, not \[2, 1\] and \[1\]"):
        interpolate(sde, law.score, x, x[0])
    for carry in (encode, decode):
        with pytest.raises(SolverError, match="more than 20 evaluations"):
            carry(law.sde, law.score, x, max_evaluations=20)
    with pytest.raises(ValueError, match="not finite"):
        decode(sde, lambda y, t: y * math.nan, x)


# ---------------------------------------------------------------------- the estimator


@pytest.fixture(scope="module")
def model():
    domain = Simplex(3)
    x = domain.sample_uniform(2, generator=seeded(4), dtype=F64)[torch.arange(600) % 2]
    x = domain.reflect(x, 0.05 * domain.sample_noise(x, generator=seeded()))
    quick = ReflectedDiffusion(domain, width=32, depth=1, steps=150, batch_size=128, sigma_min=0.03)
    return quick.fit(x.numpy(), progress=False), x


def test_estimator_there_and_back(model):
    fitted, data = model
    domain, x = fitted.domain, data[:12]
    tight = {"rtol": 1e-6, "atol": 1e-6}
    for given in (x.numpy(), x.float()):
        other = given[::-1].copy() if isinstance(given, np.ndarray) else given.flip(0)
        latent = fitted.encode(given, **tight)
        back = fitted.decode(latent, **tight)
        path = fitted.interpolate(given, other, 4, **tight)
        assert type(latent) is type(back) is type(path) is type(given)
        assert latent.dtype == back.dtype == path.dtype == given.dtype
        assert latent.shape == back.shape == x.shape
        assert path.shape == (4, *x.shape)
        latent, back, path = (torch.as_tensor(v) for v in (latent, back, path))
        assert domain.contains(latent).all()
        assert domain.contains(path).all()
        assert away(domain, back.double(), x) < 1e-3
        assert away(domain, path[0].double(), x) < 1e-3
        assert away(domain, path[-1].double(), x.flip(0)) < 1e-3
        assert away(domain, latent.double(), x) > 0.05
    with pytest.raises(DomainError, match="latent: at row 0"):
        fitted.decode(x.numpy() + 1)
    with pytest.raises(RuntimeError, match="not fitted"):
        ReflectedDiffusion(domain).encode(x)


def test_estimator_with_a_condition():
    generator = seeded()
    side = torch.randint(2, (1000, 1), generator=generator).float()
    x = 0.2 + 0.6 * side + 0.1 * (torch.rand(1000, 1, generator=generator) - 0.5)
    fitted = ReflectedDiffusion(Hypercube(1), width=32, depth=1, steps=250, batch_size=64, sigma_min=0.05)
    fitted.fit(x, condition=side, progress=False)
    middle = torch.full((2, 1), 0.5)
    out = fitted.decode(middle, condition=torch.tensor([[0.0], [1.0]]))
    assert float(out[0]) < 0.35 < 0.65 < float(out[1])
    back = fitted.encode(out, condition=torch.tensor([[0.0], [1.0]]))
    torch.testing.assert_close(back, middle, atol=2e-2, rtol=0)
    path = fitted.interpolate(middle, middle, 3, condition=torch.tensor([1.0]))
    assert path.shape == (3, 2, 1)
    dense = fitted.log_prob(np.array([[0.2], [0.8]]), condition=np.array([0.0]))
    assert dense[0] > dense[1] + 2


def test_latents_are_tensors():
    sde = ReflectedSDE(Hypercube(2))
    for use in (
        lambda latent: decode(sde, lambda x, t: 0 * x, latent),
        lambda latent: EulerMaruyama(sde, lambda x, t: 0 * x, steps=2).sample(1, latent=latent),
    ):
        with pytest.raises(TypeError, match=r"latent must be a torch.Tensor, not list"):
            use([[0.5, 0.5]])
