import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from constrained_diffusion import (
    MLP,
    Ball,
    DenoisingScoreMatching,
    DomainError,
    Euclidean,
    EulerMaruyama,
    Hypercube,
    Polytope,
    ReflectedDiffusion,
    ShapeError,
    Simplex,
    SolverError,
    Sphere,
    Torus,
)
from constrained_diffusion.metrics import floor, sliced_wasserstein, violation

QUICK = {"width": 16, "depth": 1, "steps": 5, "batch_size": 32}


def quick(domain, **more):
    return ReflectedDiffusion(domain, **{**QUICK, **more})


def data(n=64, seed=0):
    return torch.rand(n, 2, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def fitted():
    return quick(Hypercube(2)).fit(data().double().numpy(), progress=False)


# ---------------------------------------------------------------------- it learns


def corners(domain, n, generator):
    """Blobs of unequal weight near three spread-out points, one of them on the wall."""
    centres = domain.sample_uniform(400, generator=generator, dtype=torch.float64)
    first = centres[domain.boundary(centres)[0].argmin()]
    second = centres[torch.cdist(centres.flatten(1), first.flatten()[None]).argmax()]
    third = centres[domain.boundary(centres)[0].argmax()]
    which = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), n, replacement=True, generator=generator)
    x = torch.stack([first, second, third])[which]
    return domain.reflect(x, 0.08 * domain.inradius * domain.sample_noise(x, generator=generator))


@pytest.mark.parametrize(
    "domain",
    [Hypercube(2), Simplex(3), Simplex(4), Simplex(4, "euclidean"), Ball(3)],
    ids=str,
)
def test_end_to_end(domain):
    """A short training comes near held-back data: beside the floor, and beside the uniform law it starts from."""
    generator = torch.Generator().manual_seed(0)
    x = corners(domain, 4000, generator)
    train, held_back = x[:2000], x[2000:]
    least = 0.03 * domain.inradius
    steps = 200 if isinstance(domain, Ball) else 300  # a step in the ball is a dear one, and is learnt from
    model = ReflectedDiffusion(domain, width=64, depth=2, steps=steps, batch_size=256, sigma_min=least)
    samples = model.fit(train, progress=False).sample(1000, steps=60)
    assert violation(domain, samples) == 0
    least = floor(sliced_wasserstein, x, size=1000)
    uniform = domain.sample_uniform(1000, generator=generator, dtype=torch.float64)
    distance = sliced_wasserstein(samples, held_back)
    assert distance < 3.5 * least
    assert distance < 0.25 * sliced_wasserstein(uniform, held_back)


def test_euclidean_takes_its_noise_from_the_data():
    x = 5 + 3 * torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    model = ReflectedDiffusion(Euclidean(2), width=64, depth=2, steps=300, batch_size=128).fit(x, progress=False)
    y = model.sample(1000, steps=60)
    assert torch.allclose(y.mean(0), x.mean(0), atol=1.0)
    assert torch.allclose(y.std(0), x.std(0), rtol=0.3)


def test_conditional():
    generator = torch.Generator().manual_seed(0)
    side = torch.randint(2, (2000, 1), generator=generator).float()
    x = (0.2 + 0.6 * side + 0.03 * torch.randn(2000, 1, generator=generator)).clamp(0, 1)
    model = ReflectedDiffusion(Hypercube(1), width=64, depth=1, steps=500, batch_size=256)
    model.fit(x, condition=side, progress=False)
    for c in (0.0, 1.0):
        y = model.sample(200, condition=torch.tensor([c]), steps=50)
        assert float((y - 0.2 - 0.6 * c).abs().median()) < 0.06
    with pytest.raises(ValueError, match=r"condition has shape \[3, 1\]; expected \[200, 1\]"):
        model.sample(200, condition=np.zeros((3, 1)))
    both = model.sample(400, steps=50)  # the condition is missing: both sides
    assert float((both < 0.5).float().mean()) == pytest.approx(0.5, abs=0.2)
    away = model.sample(200, condition=torch.tensor([1.0]), guidance=4.0, steps=50)
    assert float((away > 0.5).float().mean()) > 0.99
    with pytest.raises(ValueError, match="guidance needs a condition"):
        model.sample(5, guidance=1.0)
    strict = ReflectedDiffusion(Hypercube(1), width=16, depth=1, steps=2, condition_dropout=0.0)
    strict.fit(x, condition=side, progress=False)
    with pytest.raises(ShapeError, match="condition must have shape"):
        strict.sample(5)
    with pytest.raises(ValueError, match="guidance needs a condition"):
        strict.sample(5, condition=torch.tensor([1.0]), guidance=1.0)


# ---------------------------------------------------------------------- kinds, seeds, files


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("domain", [Simplex(4), Ball(3, 2.0), Hypercube(2, 0.1, 0.3)], ids=str)
def test_samples_are_of_the_kind_of_the_data_and_inside(domain, dtype):
    x = domain.sample_uniform(50, generator=torch.Generator().manual_seed(0), dtype=dtype)
    for given in (x, x.numpy()):
        y = quick(domain).fit(given, progress=False).sample(20, steps=5)
        assert type(y) is type(given)
        assert y.dtype == given.dtype
        assert y.shape == (20, *domain.event_shape)
        assert domain.contains(torch.as_tensor(y)).all()


def test_integers_are_data_too():
    y = quick(Hypercube(2, 0, 3)).fit(np.array([[0, 1], [2, 3]] * 10), progress=False).sample(4, steps=3)
    assert y.dtype == np.float32


def test_seeds_repeat_and_calls_continue():
    one, two, other = (quick(Hypercube(2), seed=s).fit(data(), progress=False) for s in (3, 3, 4))
    a, b = one.sample(10, steps=5), one.sample(10, steps=5)
    assert torch.equal(a, two.sample(10, steps=5))
    assert not torch.equal(a, b)
    assert not torch.equal(a, other.sample(10, steps=5))
    assert torch.equal(one.sample(10, steps=5, seed=9), two.sample(10, steps=5, seed=9))
    assert one.history_ == two.history_


def test_global_random_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    quick(Hypercube(2)).fit(data(), progress=False).sample(3, steps=3)
    assert torch.equal(torch.rand(3), expected)


def test_chunks_and_other_samplers(fitted):
    assert fitted.sample(25, steps=4, batch_size=10).shape == (25, 2)
    assert fitted.sample(0, steps=4).shape == (0, 2)
    assert fitted.sample(5, steps=4, sampler=EulerMaruyama).shape == (5, 2)


def test_save_and_load_give_the_same_samples(fitted, tmp_path):
    fitted.save(tmp_path / "run")
    again = ReflectedDiffusion.load(tmp_path / "run")
    assert again.domain == fitted.domain
    assert again.history_ == fitted.history_
    a, b = fitted.sample(10, steps=5, seed=1), again.sample(10, steps=5, seed=1)
    assert a.dtype == b.dtype == np.float64
    assert np.array_equal(a, b)
    again.fit(data(), progress=False)  # and it can be trained anew


def assert_needs_its_network(make, folder):
    """A model with it cannot be loaded without it, whatever it is set to before it is saved; with it is the same."""
    model = quick(Hypercube(2), network=make).fit(data(), progress=False)
    for later in (make, None):
        model.set_params(network=later).save(folder)
        with pytest.raises(ValueError, match="network of its own"):
            ReflectedDiffusion.load(folder)
        again = ReflectedDiffusion.load(folder, network=make)
        assert torch.equal(again.sample(5, steps=3, seed=0), model.sample(5, steps=3, seed=0))


def test_network_of_ones_own(tmp_path):
    class Linear(nn.Module):
        def __init__(self, domain):
            super().__init__()
            self.layer = nn.Linear(domain.dim + 1, domain.dim)

        def forward(self, x, log_sigma):
            return self.layer(torch.cat([x, log_sigma[:, None]], 1))

    assert_needs_its_network(Linear, tmp_path)
    with pytest.raises(ValueError, match="do not fit"):
        ReflectedDiffusion.load(tmp_path, network=lambda d: MLP(d, 8, 1))


class Twice(MLP):
    """A default network with a call of its own."""

    def forward(self, x, log_sigma, condition=None):
        return 2 * super().forward(x, log_sigma, condition)


@pytest.mark.parametrize("make", [lambda d: MLP(d, 12, 1), lambda d: Twice(d, 8, 1)], ids=["of its size", "derived"])
def test_networks_that_are_nearly_the_default_one(make, tmp_path):
    assert_needs_its_network(make, tmp_path)


def test_torchs_default_dtype_does_not_matter():
    torch.set_default_dtype(torch.float64)
    try:
        model = quick(Simplex(3)).fit(torch.rand(20, 3).softmax(-1), torch.rand(20), progress=False)
        x = model.sample(4, condition=torch.tensor([0.5]), guidance=1.0, steps=3)
        assert x.dtype == torch.float64
        for values in (model.log_prob(x), model.decode(model.encode(x)), model.interpolate(x, x, 3)):
            assert values.isfinite().all()
        assert {p.dtype for p in model.score_.parameters()} == {torch.float32}
    finally:
        torch.set_default_dtype(torch.float32)


def test_foreign_files_are_refused(fitted, tmp_path):
    fitted.save(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["check"]
    path.write_text(json.dumps({**config, "model": "Other"}))
    with pytest.raises(ValueError, match="holds a 'Other'"):
        ReflectedDiffusion.load(tmp_path)
    path.write_text(json.dumps({**config, "domain": {"domain": "Klein"}}))
    with pytest.raises(ValueError, match="Klein"):
        ReflectedDiffusion.load(tmp_path)


# ---------------------------------------------------------------------- what goes wrong


def test_interrupt_leaves_a_usable_model(monkeypatch):
    calls = 0
    real = DenoisingScoreMatching.evaluate

    def stop(self, *args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(DenoisingScoreMatching, "evaluate", stop)
    model = quick(Hypercube(2), steps=100)
    with pytest.raises(KeyboardInterrupt):
        model.fit(data(), progress=False)
    assert model.sample(5, steps=3).shape == (5, 2)


def test_divergence_is_reported():
    with pytest.raises(SolverError, match="lower learning_rate"):
        quick(Hypercube(2), learning_rate=1e30, steps=60).fit(data(), progress=False)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([[0.5, 0.5]], TypeError, "numpy array, a data frame or a torch.Tensor"),
        (np.array([["a", "b"]]), TypeError, "real numbers"),
        (np.array([[0.5, None]]), TypeError, "real numbers"),
        (torch.zeros(3, 2, dtype=torch.complex64), TypeError, "real numbers"),
        (np.zeros((0, 2)), ValueError, r"x is empty: shape \[0, 2\]"),
        (np.zeros((4, 3)), ShapeError, r"x has shape \[4, 3\]; expected \[\*batch, 2\]"),
        (np.zeros(2), ShapeError, r"x has shape \[2\]; expected \[n, 2\]"),
        (np.zeros((3, 4, 2)), ShapeError, r"x has shape \[3, 4, 2\]; expected \[n, 2\]"),
        (np.array([[0.5, 0.5], [0.5, 1.2]]), DomainError, r"x: at row 1 the point \[0.5, 1.2\] lies outside"),
        (np.array([[0.5, 0.5], [0.1, np.nan]]), DomainError, r"x: at row 1 .* is not finite"),
        (np.array([[np.inf, 0.5]]), DomainError, r"x: at row 0 .* is not finite"),
    ],
)
def test_bad_data(x, error, message):
    with pytest.raises(error, match=message):
        quick(Hypercube(2)).fit(x, progress=False)


def test_bad_arguments():
    with pytest.raises(TypeError, match="domain must be a Domain"):
        ReflectedDiffusion("square")
    for name, value in [
        ("steps", 0),
        ("batch_size", -1),
        ("learning_rate", 0.0),
        ("sigma_min", -1.0),
        ("weighting", "x"),
    ]:
        with pytest.raises(ValueError, match=name):
            quick(Hypercube(2), **{name: value}).fit(data(), progress=False)
    with pytest.raises(RuntimeError, match="not fitted"):
        quick(Hypercube(2)).sample(3)
    with pytest.raises(RuntimeError, match="not fitted"):
        quick(Hypercube(2)).save("nowhere")
    fitted = quick(Hypercube(2)).fit(data(), progress=False)
    with pytest.raises(ValueError, match="n must not be negative"):
        fitted.sample(-1)
    with pytest.raises(TypeError, match="n must be an integer"):
        fitted.sample(2.5)
    assert fitted.sample(np.int64(3), steps=2).shape == (3, 2)
    for bad in ([[0.0, np.nan]] * 4, [[0.0, np.inf]] * 4):
        with pytest.raises(ValueError, match="condition must be finite"):
            quick(Hypercube(2)).fit(data(4), condition=np.array(bad), progress=False)


def test_rounding_in_single_precision_is_forgiven():
    x = np.random.default_rng(0).dirichlet(np.ones(5), 100).astype(np.float32)
    quick(Simplex(5)).fit(x, progress=False)
    with pytest.raises(DomainError):
        quick(Simplex(5)).fit(x.astype(np.float64) * 1.001, progress=False)


@pytest.mark.parametrize("domain", [Simplex(4), Sphere(2), Torus(2), Ball(2), Polytope.birkhoff(3)], ids=str)
def test_points_that_were_once_in_single_precision(domain):
    """As samples that were written to a file are, whatever dtype they are read in."""
    x = domain.sample_uniform(40, generator=torch.Generator().manual_seed(0))
    if isinstance(domain, Torus):
        x[0] = torch.tensor(math.pi)  # which rounds up
    model = quick(domain).fit(x.double().numpy(), progress=False)
    assert np.isfinite(model.log_prob(x.double().numpy())).all()
    x[7] = x[7] + 9
    with pytest.raises(ValueError, match="at row 7 .* lies outside"):
        model.log_prob(x.double())


def test_arrays_as_other_machines_write_them():
    x = np.random.default_rng(0).random((20, 2))
    expected = quick(Hypercube(2)).fit(x, x[:, 0], progress=False).log_prob(x[:3], x[:3, 0])
    for kind in (">f8", np.longdouble):
        y = x.astype(kind)
        found = quick(Hypercube(2)).fit(y, y[:, 0], progress=False).log_prob(y[:3], y[:3, 0])
        np.testing.assert_allclose(found, expected)
    condition = np.ones((20, 2))
    condition[3, 1] = np.nan
    with pytest.raises(ValueError, match="condition must be finite, and row 3 is not"):
        quick(Hypercube(2)).fit(x, condition, progress=False)


def test_networks_that_do_not_fit_are_named():
    x = np.random.default_rng(0).random((20, 2))
    with pytest.raises(TypeError, match=r"network must be a function .* such as lambda d: MLP\(d, 64\)"):
        ReflectedDiffusion(Hypercube(2), network=MLP(Hypercube(2), 8, 1))
    for length in (0, 2):
        with pytest.raises(ValueError, match=rf"built with condition_dim={length}; the condition has 1 numbers"):
            quick(Hypercube(2), network=lambda d, k=length: MLP(d, 8, 1, k)).fit(x, x[:, 0], progress=False)
