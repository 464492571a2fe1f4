"""A set known by a membership function alone: its laws, its values, what it refuses, and a model of it."""

import functools
import json
import math

import pytest
import torch
from scipy import stats

from constrained_diffusion import (
    Ball,
    Domain,
    DomainError,
    Hypercube,
    MetropolisDomain,
    ReflectedDiffusion,
    ReflectedSDE,
    ShapeError,
    SolverError,
)
from tests.memberships import (
    ALPHA,
    DOMAINS,
    EVERY,
    F64,
    MAKERS,
    Z,
    accepts,
    box,
    candidates,
    disc,
    in_box,
    in_disc,
    nowhere,
    seeded,
    tiny,
)

# ---------------------------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("name", ["disc", "ell", "ball5"])
@pytest.mark.parametrize("size", [0.1, 0.8])
def test_reflect_keeps_the_uniform_law(name, size):
    domain, generator = DOMAINS[name], seeded()
    x, fresh = (domain.sample_uniform(5000, generator=generator, dtype=F64) for _ in range(2))
    for _ in range(60):
        x = domain.reflect(x, size * torch.randn(x.shape, generator=generator, dtype=F64))
    for f in (lambda z: z[:, 0], lambda z: z[:, 1], lambda z: z.norm(dim=-1), lambda z: z.amin(-1)):
        assert stats.ks_2samp(f(x).numpy(), f(fresh).numpy()).pvalue > ALPHA


def test_sample_uniform_by_rejection():
    x = disc().sample_uniform(10_000, generator=seeded(), dtype=F64)
    assert stats.kstest(x.square().sum(-1).numpy(), "uniform").pvalue > ALPHA
    assert stats.kstest(torch.atan2(x[:, 1], x[:, 0]).numpy(), stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > ALPHA
    x = box().sample_uniform(10_000, generator=seeded(), dtype=F64)
    assert stats.kstest(x[:, 0].numpy() / 2, "uniform").pvalue > ALPHA
    assert stats.kstest(x[:, 1].numpy(), "uniform").pvalue > ALPHA
    x = DOMAINS["ball5"].sample_uniform(5000, generator=seeded(), dtype=F64)
    assert stats.kstest(x.norm(dim=-1).numpy() ** 5, "uniform").pvalue > ALPHA


def test_sample_uniform_of_a_thin_set():
    """A three thousandth of the box: by a walk. Neighbours share one of 256 starts only at first."""
    x = tiny().sample_uniform((500, 2), generator=seeded(), dtype=F64)
    assert x.shape == (500, 2, 2)
    x = x.reshape(1000, 2)
    assert tiny().sample_uniform(0).shape == (0, 2)
    assert accepts(tiny(), x).all()
    away = (x - torch.tensor([0.5, 0.25])) / 0.02
    assert stats.kstest(away.square().sum(-1).numpy(), "uniform").pvalue > ALPHA
    angle = torch.atan2(away[:, 1], away[:, 0])
    assert stats.kstest(angle.numpy(), stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > ALPHA


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "tiny"])
def test_sample_uniform_shapes(name):
    domain = DOMAINS[name]
    batch = (2, 3)
    for dtype in (None, torch.float32, F64):
        x = domain.sample_uniform(batch, generator=seeded(), dtype=dtype)
        assert x.shape == (*batch, *domain.event_shape)
        assert x.dtype == (dtype or torch.get_default_dtype())
        assert domain.contains(x).all()
    assert torch.equal(x, domain.sample_uniform(batch, generator=seeded(), dtype=F64))
    assert domain.sample_uniform(0, generator=seeded()).shape == (0, *domain.event_shape)


@pytest.mark.parametrize("sigma", [0.1, 0.3])
def test_noise_is_close_to_the_exact_kernel_of_the_box(sigma):
    known = Hypercube(2, 0.0, [2.0, 1.0])
    x0 = torch.tensor([0.05, 0.7], dtype=F64).expand(5000, 2)
    x = box().noise(x0, sigma, generator=seeded())
    exact = known.sample_heat_kernel(x0, sigma, generator=seeded(1))
    assert box().contains(x).all()
    for found, true in zip(x.T, exact.T, strict=True):
        assert stats.ks_2samp(found.numpy(), true.numpy()).statistic < 0.05


def test_much_noise_is_uniform():
    x0 = torch.tensor([0.9, 0.0], dtype=F64).expand(4000, 2)
    x = disc().noise(x0, 3.0, generator=seeded())
    assert stats.kstest(x.square().sum(-1).numpy(), "uniform").pvalue > ALPHA
    angle = torch.atan2(x[:, 1], x[:, 0]).numpy()
    assert stats.kstest(angle, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > ALPHA


def test_little_noise_is_gaussian():
    """Far from the wall nothing is rejected: a normal law of standard deviation sigma, for each row its own."""
    sigma = torch.tensor([0.001, 0.02, 0.1], dtype=F64).repeat(4000)
    x = disc().noise(torch.zeros(12_000, 2, dtype=F64), sigma, generator=seeded())
    scaled = (x / sigma.unsqueeze(-1)).reshape(4000, 3, 2)
    for column in scaled.flatten(1).T:
        assert stats.kstest(column.numpy(), "norm").pvalue > ALPHA


def test_noise_shapes_and_repetition():
    domain = DOMAINS["matrices"]
    x0 = domain.sample_uniform((2, 3), generator=seeded())
    sigma = torch.tensor([[0.1, 1.0, 0.2], [3.0, 0.01, 0.5]])
    x = domain.noise(x0, sigma, generator=seeded())
    assert x.shape == x0.shape
    assert x.dtype == x0.dtype
    assert domain.contains(x).all()
    assert torch.equal(x, domain.noise(x0, sigma, generator=seeded()))
    assert domain.noise(x0[0, 0], 0.1, generator=seeded()).shape == (2, 2)
    assert domain.noise(x0[:0], 0.1, generator=seeded()).shape == (0, 3, 2, 2)


def test_rows_keep_their_own_sigma():
    """With rows sorted inside by their number of steps, each still gets its own noise and place."""
    sigma = torch.tensor([0.5, 1e-4, 0.3, 1e-5, 2.0], dtype=F64)
    x0 = torch.tensor([[0.0, 0.0], [0.5, 0.1], [-0.2, 0.0], [0.0, -0.6], [0.3, 0.3]], dtype=F64)
    x = disc().noise(x0, sigma, generator=seeded())
    away = (x - x0).norm(dim=-1)
    assert (away > 0).all()
    assert away[1] < 1e-3
    assert away[3] < 1e-4


@functools.cache
def disc_paths(radius, sigma, n):
    x0 = torch.tensor([radius, 0.0], dtype=F64).expand(n, 2)
    return x0, *disc().diffuse(x0, sigma, generator=seeded())


def check_targets(u, score, phi, divergence):
    """E[u . phi] = E[score . phi] = -E[div phi], within 4.5 standard errors or 5 % of E|div phi|."""
    z = ((u - score) * phi).sum(-1)
    error = abs(float(z.mean()))
    assert error < max(Z * float(z.std()) / math.sqrt(len(z)), 0.05 * float(divergence.abs().mean()))


def check_ends(known, x0, sigma, x):
    """The ends are draws of the exact kernel."""
    exact = known.sample_heat_kernel(x0[:1].expand(5000, 2), sigma, generator=seeded(1))
    for found, true in zip(x.T, exact.T, strict=True):
        assert stats.ks_2samp(found.numpy(), true.numpy()).pvalue > ALPHA


MORE_PATHS = [
    pytest.param(0.9, 0.3, 8000, marks=pytest.mark.slow),
    pytest.param(0.5, 0.6, 8000, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("radius", "sigma", "n"), [(0.9, 0.3, 700), *MORE_PATHS])
def test_path_targets_across_the_wall_of_the_disc(radius, sigma, n):
    """For a field that vanishes on the wall and depends on the start."""
    x0, x, u = disc_paths(radius, sigma, n)
    assert disc().contains(x).all()
    assert u.isfinite().all()
    check_ends(Ball(2), x0, sigma, x)
    h, away = 1 - x.square().sum(-1), x - x0
    score = Ball(2).heat_kernel_score(x, x0, sigma)
    check_targets(u, score, h.unsqueeze(-1) * away, -2 * (x * away).sum(-1) + 2 * h)


@pytest.mark.parametrize(
    ("radius", "sigma", "n"), [pytest.param(0.9, 0.6, 700, marks=pytest.mark.slow), (0.9, 0.3, 700), *MORE_PATHS[1:]]
)
def test_path_targets_along_the_wall_of_the_disc(radius, sigma, n):
    x0, x, u = disc_paths(radius, sigma, n)
    check_ends(Ball(2), x0, sigma, x)
    score = Ball(2).heat_kernel_score(x, x0, sigma)
    check_targets(u, score, torch.stack([-x[:, 1], x[:, 0]], -1) * x[:, 1:], x[:, 0])


def test_path_targets_between_flat_walls():
    """For fields along the walls of the box, from a start in its corner."""
    known, sigma = Hypercube(2, 0.0, [2.0, 1.0]), 0.3
    x0 = torch.tensor([0.1, 0.2], dtype=F64).expand(700, 2)
    x, u = box().diffuse(x0, sigma, generator=seeded())
    assert box().contains(x).all()
    check_ends(known, x0, sigma, x)
    score = known.heat_kernel_score(x, x0, sigma)
    a, b = x.unbind(-1)
    zero = torch.zeros_like(a)
    for phi, divergence in (
        ([a * (2 - a), zero], 2 - 2 * a),
        ([a * (2 - a) * b, b * (1 - b)], (2 - 2 * a) * b + 1 - 2 * b),
        ([zero, b * (1 - b) * (b - 0.2)], (1 - 2 * b) * (b - 0.2) + b * (1 - b)),
    ):
        check_targets(u, score, torch.stack(phi, -1), divergence)


def test_diffuse_shapes():
    domain = DOMAINS["matrices"]
    x0 = domain.sample_uniform((2, 3), generator=seeded())
    for y in domain.diffuse(x0, torch.full((2, 3), 0.2), generator=seeded()):
        assert y.shape == x0.shape
        assert y.dtype == x0.dtype
    for y in domain.diffuse(x0[:0], 0.2, generator=seeded()):
        assert y.shape == (0, 3, 2, 2)


# -------------------------------------------------------------------------------------------------------------- values


@EVERY
def test_values_survive_json(name):
    domain = MAKERS[name]()
    again = Domain.from_config(json.loads(json.dumps(domain.config())))
    assert isinstance(again, MetropolisDomain)
    assert again == domain == DOMAINS[name]
    assert hash(again) == hash(domain)
    assert again.config() == domain.config()
    assert repr(again) == repr(domain)
    x = candidates(domain, 200)
    assert torch.equal(again.contains(x), domain.contains(x))
    assert torch.equal(again.project(x), domain.project(x))
    assert again.inradius == domain.inradius


def test_equality():
    different = [
        disc(),
        MetropolisDomain(2, in_box, -1.25, 1.25),
        MetropolisDomain(2, in_disc, -1.5, 1.25),
        MetropolisDomain(2, in_disc, -1.25, 1.5),
        MetropolisDomain(3, in_disc, -1.25, 1.25),
        MetropolisDomain(2, in_disc, -1.25, 1.25, start=[0.0, 0.0]),
        MetropolisDomain(2, in_disc, -1.25, 1.25, spectral_gap=1.0),
    ]
    assert len(set(different)) == len(different)
    assert different[0] == MetropolisDomain((2,), in_disc, [-1.25, -1.25], torch.tensor([1.25, 1.25]))
    assert different[0] != Ball(2)
    assert different[0] != "disc"


def test_a_lambda_works_but_cannot_be_saved():
    domain = MetropolisDomain(2, lambda x: x.norm(dim=-1) <= 1, -1.0, 1.0)
    assert domain == domain
    assert {domain: 1}[domain] == 1
    assert "lambda" in repr(domain)

    def closure(x):
        return in_disc(x)

    for inside in (domain.inside, closure, Ball(2).contains):
        with pytest.raises(ValueError, match="cannot be saved: only a function defined with def at the top level"):
            MetropolisDomain(2, inside, -1.0, 1.0).config()


def test_loading_runs_nothing():
    config = disc().config()
    for name in ("os:getcwd", "torch:ones", "no_such_module:f", f"{__name__}:missing", f"{__name__}:MAKERS", "in_disc"):
        with pytest.raises(ValueError, match="inside="):
            Domain.from_config(config | {"inside": name})


def test_another_precision():
    """A copy in single precision is the same set."""
    copy = disc().to(dtype=torch.float32)
    x = disc().sample_uniform(100, generator=seeded())
    assert copy.contains(x).all()
    assert copy.noise(x, 0.1, generator=seeded()).shape == x.shape


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"inside": lambda x: x.sum(-1)}, TypeError, "inside must return a tensor of bool, not torch.float"),
        ({"inside": lambda x: True}, TypeError, "inside must return a tensor of bool, not bool"),
        ({"inside": lambda x: in_disc(x).numpy()}, TypeError, "inside must return a tensor of bool, not ndarray"),
        ({"inside": lambda x: x > 0}, ShapeError, "inside returned shape .* expected \\[B\\]"),
        ({"inside": lambda x: in_disc(x).unsqueeze(-1)}, ShapeError, "inside returned shape"),
        ({"inside": lambda x: in_disc(x).any()}, ShapeError, "inside returned shape"),
        ({"inside": 3}, TypeError, "inside must be a function from points to bools, not int"),
        ({"low": 1.0}, DomainError, r"low must be below high; at index \[0\] low=1, high=1"),
        ({"low": [-1.0, 2.0]}, DomainError, r"low must be below high; at index \[1\] low=2, high=1"),
        ({"low": -math.inf}, DomainError, "low must be finite"),
        ({"high": math.nan}, DomainError, "high must be finite"),
        ({"low": [0.0, 0.0, 0.0]}, ShapeError, r"low must be a number or broadcast to shape \[2\]"),
        ({"high": "one"}, ShapeError, "high must be a number or broadcast"),
        ({"start": [0.9, 0.9]}, DomainError, "start lies outside"),
        ({"start": [5.0, 0.0]}, DomainError, "start lies outside"),
        ({"start": [math.nan, 0.0]}, DomainError, "start"),
        ({"start": [0.0, 0.0, 0.0]}, ShapeError, "start"),
        ({"inside": nowhere}, SolverError, "none of .* random points of the box is inside the set.*start"),
        ({"spectral_gap": 0.0}, ValueError, "spectral_gap must be positive and finite, not 0.0"),
        ({"spectral_gap": -1.0}, ValueError, "spectral_gap must be positive"),
        ({"spectral_gap": math.inf}, ValueError, "spectral_gap must be positive and finite"),
        ({"spectral_gap": math.nan}, ValueError, "spectral_gap must be positive and finite"),
    ],
)
def test_constructor(arguments, error, message):
    with pytest.raises(error, match=message):
        MetropolisDomain(**{"shape": 2, "inside": in_disc, "low": -1.0, "high": 1.0, **arguments})


def test_methods_refuse_points_outside():
    bad = torch.tensor([[0.0, 0.0], [1.1, 0.0]])
    v = torch.zeros(2, 2)
    for call in (
        lambda: disc().reflect(bad, v),
        lambda: disc().noise(bad, 0.1),
        lambda: disc().diffuse(bad, 0.1),
    ):
        with pytest.raises(DomainError, match="at row 1"):
            call()
    with pytest.raises(DomainError, match="displacement must be finite"):
        disc().reflect(v, v + math.nan)
    for sigma in (0.0, -1.0, math.nan):
        with pytest.raises(DomainError, match="sigma must be positive"):
            disc().noise(v, sigma)
    for call in (disc().contains, disc().project, disc().boundary):
        with pytest.raises(ShapeError, match="x has shape"):
            call(torch.zeros(2, 3))
    with pytest.raises(NotImplementedError, match="diffuse"):
        disc().heat_kernel_score(v, v, 0.1)


@pytest.mark.parametrize("method", ["reflect", "noise", "diffuse"])
def test_one_point_outside_is_refused(method):
    x = torch.tensor([1.1, 0.0])
    with pytest.raises(DomainError, match="lies outside"):
        getattr(disc(), method)(x, torch.zeros(2) if method == "reflect" else 0.1)


# ---------------------------------------------------------------------------------------------------------- end to end


def fitted(loss, steps):
    x = torch.tensor([0.5, 0.0]) + 0.3 * Ball(2).sample_uniform(300, generator=seeded())
    model = ReflectedDiffusion(disc(), loss=loss, width=32, steps=steps, batch_size=64).fit(x, progress=False)
    assert all(math.isfinite(value) for _, value in model.history_)
    y = model.sample(100, steps=50, seed=1)
    assert y.shape == (100, 2)
    assert disc().contains(y).all()
    return model, y


@pytest.mark.parametrize(("loss", "steps"), [("implicit", 15), ("denoising", 2)])
def test_a_model_of_points_in_a_disc(loss, steps, monkeypatch):
    """With 1/sigma for the size of targets: the table of it takes half a minute of simulated paths."""

    def table(self):
        grid = torch.linspace(math.log(self.sigma_min), math.log(self.sigma_max), 9, dtype=F64)
        return grid, -grid

    monkeypatch.setattr(ReflectedSDE, "target_rms_table", property(table))
    fitted(loss, steps)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["implicit", "denoising"])
def test_a_model_is_saved_with_its_domain(loss, tmp_path):
    model, y = fitted(loss, 60)
    model.save(tmp_path / "model")
    again = ReflectedDiffusion.load(tmp_path / "model")
    assert again.domain == disc()
    assert torch.equal(again.sample(100, steps=50, seed=1), y)
