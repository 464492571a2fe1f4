"""What was fitted stays as it was: through arguments set afterwards, failures, and data in another order."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from constrained_diffusion import Euclidean, Hypercube, ReflectedDiffusion
from constrained_diffusion.domains.checks import SolverError
from constrained_diffusion.scaling import DomainScaler

SQUARE = Hypercube(2)


def points(n: int = 64) -> torch.Tensor:
    return SQUARE.sample_uniform(n, generator=torch.Generator().manual_seed(0))


def quick(**options) -> ReflectedDiffusion:
    return ReflectedDiffusion(**{"domain": SQUARE, "width": 8, "depth": 1, "steps": 5, "batch_size": 16, **options})


@pytest.mark.parametrize(
    "change",
    [{"process": "flow"}, {"depth": 2}, {"width": 16}, {"domain": Hypercube(2, -2.0, 3.0)}, {"condition_dropout": 0.0}],
    ids=lambda change: next(iter(change)),
)
def test_arguments_set_after_fit_wait_for_the_next(change, tmp_path):
    condition = torch.linspace(0, 1, 64)
    model = quick().fit(points(), condition, progress=False)
    before = model.log_prob(points(5)), model.sample(5, steps=3, seed=1)
    model.set_params(**change)
    model.save(tmp_path / "run")
    for later in (model, ReflectedDiffusion.load(tmp_path / "run")):
        torch.testing.assert_close(later.log_prob(points(5)), before[0])
        torch.testing.assert_close(later.sample(5, steps=3, seed=1), before[1])
        later.sample(5, condition[:5], guidance=1.0, steps=3)
        with pytest.raises(ValueError, match="outside|inside"):
            later.log_prob(torch.tensor([[2.0, 2.0]]))
    model.partial_fit(points(), condition, progress=False)
    model.save(tmp_path / "run")
    again = ReflectedDiffusion.load(tmp_path / "run")
    torch.testing.assert_close(again.log_prob(points(5)), model.log_prob(points(5)))


def test_a_training_that_fails_changes_nothing(monkeypatch):
    model = quick().fit(points(), progress=False)
    weights = {k: v.clone() for k, v in model.score_.state_dict().items()}
    history, kind = list(model.history_), model._kind
    bad = ReflectedDiffusion.partial_fit

    def diverge(self, *args):
        for p in self.score_.parameters():
            p.data.fill_(torch.nan)
        torch.rand(3, generator=self._generator)
        self.history_.append((99, 1.0))
        raise SolverError("the loss is nan")

    state = model._generator.get_state()
    monkeypatch.setattr(ReflectedDiffusion, "_train", diverge)
    for train in (bad, ReflectedDiffusion.fit):
        with pytest.raises(SolverError, match="the loss is nan"):
            train(model, points().double().numpy(), progress=False)
        assert all(torch.equal(v, weights[k]) for k, v in model.score_.state_dict().items())
        assert (model.history_, model._kind) == (history, kind)
        assert torch.equal(model._generator.get_state(), state)
    fresh = quick()
    with pytest.raises(SolverError):
        fresh.fit(points(), progress=False)
    assert not hasattr(fresh, "score_")


def test_probes_are_not_the_latents_of_the_same_seed():
    """Where latents are normal too, they would be the same numbers, and each estimate off in the same way."""
    domain = Euclidean(9)
    model = quick(domain=domain, process="flow").fit(torch.randn(64, 9), progress=False)
    seen = []
    original, domain_noise = Euclidean.sample_noise, Euclidean.sample_prior

    def noise(self, x, *, generator=None):
        seen.append(original(self, x, generator=generator))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Euclidean, "sample_noise", noise)
        model.log_prob(torch.zeros(5, 9), divergence="hutchinson", probes=2, rtol=1e-2, atol=1e-2)
    latents = domain_noise(domain, 5, 1.0, generator=torch.Generator().manual_seed(0))
    probe = seen[0].flatten()[:9]
    assert float((probe / probe.norm() @ (latents[0] / latents[0].norm())).abs()) < 0.99


def test_columns_of_conditions_must_be_those_of_fit(tmp_path):
    frame = pd.DataFrame(points().numpy(), columns=["age", "dose"])
    model = quick().fit(points(), frame, progress=False)
    model.save(tmp_path / "run")
    for known in (model, ReflectedDiffusion.load(tmp_path / "run")):
        assert known.condition_names_in_ == ["age", "dose"]
        for use in (known.sample, lambda n, c, m=known: m.log_prob(points(n), c)):
            with pytest.raises(ValueError, match=r"condition has the columns dose, age; .*condition_names_in_"):
                use(64, frame[["dose", "age"]])
        known.sample(64, frame, steps=2)
        known.sample(64, frame.to_numpy(), steps=2)
    model.fit(points(), frame.to_numpy(), progress=False)
    assert not hasattr(model, "condition_names_in_")


def test_columns_of_a_scaler_must_be_those_of_fit():
    frame = pd.DataFrame(points().numpy(), columns=["wet", "dry"])
    scaler = DomainScaler(SQUARE).fit(frame)
    with pytest.raises(ValueError, match=r"x has the columns dry, wet; scaler was fitted to wet, dry"):
        scaler.transform(frame[["dry", "wet"]])
    np.testing.assert_array_equal(scaler.transform(frame), scaler.transform(frame.to_numpy()))
    assert not hasattr(scaler.fit(frame.to_numpy()), "feature_names_in_")


def test_numbers_of_numpy_are_arguments(tmp_path):
    odd = {
        "width": np.int64(8),
        "depth": np.int32(1),
        "steps": np.int64(5),
        "batch_size": np.int16(16),
        "seed": np.int64(3),
        "patience": np.int64(2),
        "learning_rate": np.float32(1e-3),
        "dropout": np.float32(0.0),
        "sigma_min": np.float32(0.02),
        "validation_fraction": np.float64(0.2),
        "early_stopping": np.True_,
    }
    model = quick(**odd).fit(points(), progress=False)
    model.save(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["arguments"]["width"] == 8
    again = ReflectedDiffusion.load(tmp_path / "run")
    torch.testing.assert_close(again.sample(4, steps=2, seed=np.int64(1)), model.sample(4, steps=2, seed=1))


def test_conditions_that_float32_cannot_tell_apart_are_refused():
    x, far = points().numpy(), 1.7e9 + np.arange(64.0)
    with pytest.raises(ValueError, match=r"condition is so far from zero.*subtract its mean"):
        quick().fit(x, far, progress=False)
    for good in (far - far.mean(), np.full(64, 0.1), np.full(64, 1.7e9), 0.1 + 1e-17 * np.arange(64)):
        quick(steps=1).fit(x, good, progress=False)
    missing = np.where(np.arange(64) < 60, np.nan, far)
    with pytest.raises(ValueError, match="subtract its mean"):
        quick().fit(x, missing, progress=False)
    quick(steps=1).fit(x, np.full(64, np.nan), progress=False)


@pytest.mark.parametrize("name", ["width", "depth", "steps", "batch_size", "reuse", "patience", "seed"])
def test_counts_are_whole_numbers(name):
    """Python's or numpy's, as searches over grids give them; True and 2.5 are none."""
    for wrong in (True, 2.5, "3"):
        with pytest.raises(ValueError, match=f"{name} must be an? (positive )?integer"):
            quick(**{name: wrong}).fit(points(), progress=False)
    given, same = (quick(**{"steps": 3} | {name: kind(2)}).fit(points(), progress=False) for kind in (np.int64, int))
    assert (given.sample(5, steps=np.int64(3)) == same.sample(5, steps=3)).all()


@pytest.mark.parametrize("size", [0, -1, 2.5, True])
def test_batch_sizes_are_positive(size):
    model = quick().fit(points(), progress=False)
    for use in (lambda: model.sample(2, batch_size=size), lambda: model.log_prob(points(2), batch_size=size)):
        with pytest.raises(ValueError, match="batch_size must be a positive integer"):
            use()


@pytest.mark.parametrize("seed", [2**70, -1, 0.5])
def test_seeds_that_no_generator_takes(seed):
    model = quick().fit(points(), progress=False)
    for use in (lambda: model.sample(2, seed=seed), lambda: model.log_prob(points(2), seed=seed)):
        with pytest.raises(ValueError, match="seed must be an integer of at least 0"):
            use()
    with pytest.raises(ValueError, match="seed must be an integer of at least 0"):
        quick(seed=seed)


def test_a_learning_rate_is_a_number():
    with pytest.raises(ValueError, match="learning_rate must be positive, not 'a'"):
        quick(learning_rate="a").fit(points(), progress=False)


@pytest.mark.parametrize("process", ["diffusion", "flow"])
def test_loading_simulates_nothing(process, tmp_path, monkeypatch):
    model = quick(process=process).fit(points(), progress=False)
    model.save(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Hypercube, "diffuse", lambda *a, **k: pytest.fail("simulated again"))
        loaded = ReflectedDiffusion.load(tmp_path / "run")
    sigma = torch.linspace(0.02, 0.9, 7)
    torch.testing.assert_close(loaded.sde_.target_rms(sigma), model.sde_.target_rms(sigma))
    loaded.fit(points(), progress=False)


def test_a_table_of_another_length_is_refused(tmp_path):
    model = quick().fit(points(), progress=False)
    model.score_.log_rms = model.score_.log_rms[:3]
    model.save(tmp_path / "run")
    with pytest.raises(ValueError, match=r"log_rms has shape \[3\]"):
        ReflectedDiffusion.load(tmp_path / "run")
