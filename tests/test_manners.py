"""The estimator as scikit-learn and people with tables treat it: parameters, scores, units, early stopping."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from torch import nn

from constrained_diffusion import Ball, DomainError, Euclidean, Hypercube, Product, ReflectedDiffusion, Simplex
from constrained_diffusion.losses import DenoisingScoreMatching
from constrained_diffusion.metrics import floor, sliced_wasserstein
from constrained_diffusion.scaling import DomainScaler
from constrained_diffusion.scores import ScoreModel
from constrained_diffusion.sde import ReflectedSDE
from constrained_diffusion.stopping import HeldBack
from tests.own_domains import OwnAnnulus

QUICK = {"width": 16, "depth": 1, "steps": 5, "batch_size": 32}
WIDE = Hypercube(2, [-1000.0, 0.01], [3000.0, 0.03])


def quick(domain, **more):
    return ReflectedDiffusion(domain, **{**QUICK, **more})


def uniform(domain, n=64, seed=0):
    return domain.sample_uniform(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------------- parameters


def test_parameters_are_read_set_and_cloned():
    model = quick(Simplex(3), learning_rate=1e-3)
    assert model.get_params()["learning_rate"] == 1e-3
    assert model.set_params(steps=7, domain=Hypercube(2)) is model
    assert (model.steps, model.domain) == (7, Hypercube(2))
    model.fit(uniform(Hypercube(2)), progress=False)
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "score_")
    assert copy.__sklearn_is_fitted__() is False
    assert model.__sklearn_is_fitted__() is True


def test_parameters_that_cannot_be():
    model = quick(Hypercube(2))
    with pytest.raises(ValueError, match=r"has no argument 'depht'; it has domain, .*depth"):
        model.set_params(depht=3)
    with pytest.raises(ValueError, match="loss must be one of"):
        model.set_params(loss="x", steps=9)
    assert (model.loss, model.steps) == ("denoising", 5)
    model.loss = "x"
    with pytest.raises(ValueError, match="loss must be one of"):
        model.fit(uniform(Hypercube(2)))
    with pytest.raises(ValueError, match="validation_fraction must lie in"):
        quick(Hypercube(2), validation_fraction=1.0)


def test_searches_and_cross_validation():
    x = uniform(Hypercube(1, 0.0, 2.0), 40).numpy()
    search = GridSearchCV(quick(Hypercube(1, 0.0, 2.0)), {"steps": [2, 3]}, cv=2).fit(x, progress=False)
    assert search.best_params_["steps"] in (2, 3)
    assert math.isfinite(search.best_score_)
    assert search.best_estimator_.sample(3, steps=3).shape == (3, 1)
    scores = cross_val_score(quick(Hypercube(1, 0.0, 2.0)), x, x[:, 0], cv=2, params={"progress": False})
    assert np.isfinite(scores).all()  # the target is a condition


def test_score_is_the_mean_of_score_samples():
    x = uniform(Hypercube(2), 30)
    model = quick(Hypercube(2)).fit(x, progress=False)
    assert torch.equal(model.score_samples(x), model.log_prob(x))
    assert model.score(x) == float(model.log_prob(x).mean())


# ---------------------------------------------------------------------- units


@pytest.mark.parametrize(
    "domain",
    [Hypercube(3, -1.0, [2.0, 5.0, 3.0]), Ball(3, 2.0), OwnAnnulus(), Product(Hypercube(2), Ball(2))],
    ids=lambda d: type(d).__name__,
)
@pytest.mark.parametrize("margin", [0.0, 0.1])
@pytest.mark.filterwarnings("ignore:.*sample_uniform")
def test_scaler_brings_data_inside_and_back(domain, margin):
    x = 1e4 + 50 * torch.randn(200, domain.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scaler = DomainScaler(domain, margin=margin).fit(x)
    z = scaler.transform(x)
    assert domain.contains(z).all()
    torch.testing.assert_close(scaler.inverse_transform(z), x)
    if margin == 0:
        assert float(domain.boundary(z)[0].min()) < 0.75 * domain.inradius  # they fill it
    else:
        assert float(domain.boundary(z)[0].min()) > 0.08 * domain.inradius
    one = x[:1]
    jacobian = torch.autograd.functional.jacobian(lambda v: scaler.affine_(v).sum(0), scaler.transform(one))
    assert float(jacobian[:, 0].det().log()) == pytest.approx(scaler.log_det_)


def test_scaler_of_hard_cases():
    with pytest.raises(NotImplementedError, match="flat"):
        DomainScaler(Simplex(3)).fit(np.ones((4, 3)))
    with pytest.raises(RuntimeError, match="not fitted"):
        DomainScaler(Hypercube(2)).transform(np.ones((4, 2)))
    with pytest.raises(ValueError, match="margin"):
        DomainScaler(Hypercube(2), margin=0.5)
    constant = DomainScaler(Hypercube(2)).fit(np.array([[1.0, 5.0], [2.0, 5.0]]))
    assert constant.transform(np.array([[1.5, 5.0]])).tolist() == [[0.5, 0.5]]
    outside = constant.transform(np.array([[3.0, 5.0]]))
    assert outside[0, 0] == pytest.approx(2.0)  # not clipped: the model says that it lies outside
    with pytest.raises(DomainError, match="outside"):
        quick(Hypercube(2)).fit(outside)


def test_pipeline_has_the_right_density():
    rng = np.random.default_rng(0)
    x = np.stack([rng.uniform(20.0, 80.0, 500), rng.beta(2.0, 2.0, 500)], 1).astype(np.float32)
    cube = Hypercube(2)
    model = quick(cube, width=32, depth=2, steps=200, batch_size=128, seed=1)
    pipe = make_pipeline(DomainScaler(cube), model).fit(x, reflecteddiffusion__progress=False)
    samples = pipe[0].inverse_transform(pipe[-1].sample(500))
    assert samples.dtype == np.float32
    assert (samples >= x.min(0)).all()
    assert (samples <= x.max(0)).all()
    low, high = x.min(0).astype(float), x.max(0).astype(float)
    side = (np.arange(12) + 0.5) / 12
    grid = low + (high - low) * np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    density = np.exp(pipe.score_samples(grid) - pipe[0].log_det_)
    assert density.mean() * np.prod(high - low) == pytest.approx(1.0, abs=0.03)
    assert pipe.score(x) == pytest.approx(float(np.mean(pipe.score_samples(x))))


def test_a_box_of_unequal_sides_is_learnt_as_a_cube_is():
    """One sigma cannot blur a side of 0.02 and one of 4,000: the model works in the unit cube."""
    generator = torch.Generator().manual_seed(0)
    unit = torch.where(torch.rand(4000, 1, generator=generator) < 0.5, 0.2, 0.7)
    unit = (unit + 0.1 * torch.rand(4000, 2, generator=generator)).double()
    low, high = WIDE.bounding_box
    x = low + (high - low) * unit
    options = {"width": 64, "depth": 2, "steps": 300, "batch_size": 256}
    wide = quick(WIDE, **options).fit(x[:2000], progress=False)
    assert wide.units_.normal == Hypercube(2)
    samples = wide.sample(1000, steps=60)
    assert WIDE.contains(samples).all()
    share = (samples - low) / (high - low)
    assert sliced_wasserstein(share, unit[2000:]) < 3 * floor(sliced_wasserstein, unit, size=1000)
    same = quick(Hypercube(2), **options).fit(unit[:2000], progress=False)
    back = (wide.sample(50, steps=60, seed=3) - low) / (high - low)
    torch.testing.assert_close(same.sample(50, steps=60, seed=3), back, rtol=0, atol=0.02)
    probe = x[2000:2010]
    per_volume = same.log_prob(unit[2000:2010]) - WIDE.log_volume
    torch.testing.assert_close(wide.log_prob(probe), per_volume, rtol=0, atol=0.05)


def test_units_are_saved(tmp_path):
    x = uniform(WIDE)
    model = quick(WIDE).fit(x, progress=False)
    model.save(tmp_path)
    again = ReflectedDiffusion.load(tmp_path)
    assert torch.equal(again.sample(10, steps=4, seed=0), model.sample(10, steps=4, seed=0))
    assert torch.equal(again.log_prob(x[:5]), model.log_prob(x[:5]))
    latent = again.encode(x[:5])
    assert WIDE.contains(latent).all()
    path = again.interpolate(x[:2], x[2:4], steps=3)
    assert path.shape == (3, 2, 2)
    assert WIDE.contains(path).all()


def test_products_and_free_coordinates_have_units_too():
    domain = Product(Hypercube(2, [0.0, 0.0], [1.0, 100.0]), Euclidean(1), Simplex(3))
    box, free, parts = uniform(Hypercube(2, [0.0, 0.0], [1.0, 100.0])), torch.randn(64, 1).double(), uniform(Simplex(3))
    x = domain.join(box, 5e3 + 200 * free, parts)
    normal, change = domain.normalised(x)
    assert normal == Product(Hypercube(2), Euclidean(1), Simplex(3))
    z = change.inverse(x)
    torch.testing.assert_close(change(z), x)
    assert z[:, :2].max() <= 1
    assert abs(float(z[:, 2].mean())) < 1e-9
    torch.testing.assert_close(z[:, 3:], parts)
    assert change.log_det == pytest.approx(math.log(100.0) + math.log(float(x[:, 2].std(correction=0))))
    samples = quick(domain).fit(x, progress=False).sample(10, steps=4)
    assert domain.contains(samples).all()


def test_tables_are_data():
    frame = pd.DataFrame({"a": [0.1, 0.2, 0.9, 0.4] * 5, "b": np.float32([0.5, 0.6, 0.7, 0.8] * 5)})
    model = quick(Hypercube(2)).fit(frame, condition=frame["a"], progress=False)
    assert model.sample(4, condition=[0.3], steps=3).shape == (4, 2)
    assert model.log_prob(frame, condition=frame["a"]).shape == (20,)
    with pytest.raises(TypeError, match="real numbers"):
        quick(Hypercube(2)).fit(pd.DataFrame({"a": ["x"], "b": [1.0]}))


# ---------------------------------------------------------------------- conditions


@pytest.mark.parametrize(("shift", "scale"), [(1e4, 200.0), (0.0, 1e-3)])
def test_conditions_of_any_unit(shift, scale):
    """A condition of 10,000 plus or minus 200 teaches what one of plus or minus one does."""
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(2000, 1, generator=generator)
    x = torch.sigmoid(c) * 0.8 + 0.1 + 0.02 * torch.rand(2000, 1, generator=generator)
    model = quick(Hypercube(1), width=64, steps=400, batch_size=256).fit(x, condition=shift + scale * c, progress=False)
    for value in (-1.0, 1.0):
        y = model.sample(200, condition=torch.tensor([shift + scale * value]), steps=50)
        assert float((y - torch.sigmoid(torch.tensor(value)) * 0.8 - 0.11).abs().median()) < 0.04


def test_one_number_for_each_point_and_one_vector_for_all():
    x, c = uniform(Hypercube(2), 6), torch.arange(6.0)
    a = quick(Hypercube(2)).fit(x, condition=c, progress=False)
    b = quick(Hypercube(2)).fit(x, condition=c[:, None], progress=False)
    assert torch.equal(a.log_prob(x, condition=c), b.log_prob(x, condition=c[:, None]))
    three = quick(Hypercube(2)).fit(x, condition=torch.rand(6, 3), progress=False)
    assert three.sample(3, condition=torch.zeros(3), steps=2).shape == (3, 2)  # one for all, not one number for each
    with pytest.raises(ValueError, match=r"condition has shape \[3, 2\]; expected \[3, 3\]"):
        three.sample(3, condition=torch.zeros(3, 2), steps=2)


def test_missing_conditions_do_not_count_in_their_units():
    c = torch.tensor([[1.0], [3.0], [math.nan], [math.nan]])
    model = quick(Hypercube(2)).fit(uniform(Hypercube(2), 4), condition=c, progress=False)
    assert float(model.score_.network.condition_shift) == 2.0
    assert float(model.score_.network.condition_scale) == 1.0


# ---------------------------------------------------------------------- held-back data, further training


class Constant(nn.Module):
    """Answers one number everywhere: its loss is known."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x, log_sigma):
        return self.value.expand_as(x)


def test_held_back_loss_is_the_loss_and_the_best_weights_come_back():
    sde = ReflectedSDE(Hypercube(1), 0.05)
    loss, x = DenoisingScoreMatching(sde, "fidelity"), uniform(Hypercube(1), 50).float()
    watch = HeldBack(loss, x, None, patience=2, seed=4)
    values = [ScoreModel(Constant(v), sde) for v in (1.0, 0.0, 0.5, 0.7)]
    stops = [watch.look(step, model) for step, model in enumerate(values)]
    assert stops == [False, False, False, True]
    losses = [v for _, v in watch.history]
    assert losses[1] == min(losses)
    assert watch.measure(values[0]) == losses[0]  # the same noise each time
    many = x.repeat(400, 1)
    direct = float(loss(values[0], many, generator=torch.Generator().manual_seed(1)).mean().detach())
    assert losses[0] == pytest.approx(direct, rel=0.05)
    watch.restore(values[3])
    assert values[3].network.value.item() == 0.0


def test_early_stopping_ends_what_only_learns_by_heart():
    x = uniform(Hypercube(4), 40)
    size = {"width": 64, "depth": 2, "steps": 1000, "validation_fraction": 0.25, "patience": 2}
    model = quick(Hypercube(4), early_stopping=True, **size).fit(x, progress=False)
    steps, losses = zip(*model.validation_history_, strict=True)
    assert steps[-1] < 1000
    assert model.history_[-1][0] <= steps[-1]
    assert min(losses) == losses[-3] < min(losses[-2:])  # two looks without a lower loss


@pytest.mark.parametrize("loss", ["denoising", "implicit", "sliced"])
def test_early_stopping_with_every_loss_and_conditions(loss):
    x = uniform(Hypercube(2), 60)
    model = quick(Hypercube(2), loss=loss, early_stopping=True).fit(x, condition=x[:, :1], progress=False)
    assert [s for s, _ in model.validation_history_] == [1, 2, 3, 4, 5]
    again = quick(Hypercube(2), loss=loss, early_stopping=True).fit(x, condition=x[:, :1], progress=False)
    assert again.validation_history_ == model.validation_history_


def test_one_point_cannot_be_held_back():
    with pytest.raises(ValueError, match="nothing to hold back"):
        quick(Hypercube(2), early_stopping=True).fit(uniform(Hypercube(2), 1), progress=False)


def test_partial_fit_goes_on():
    x, y = uniform(Hypercube(2), 60), 0.5 + 0.5 * uniform(Hypercube(2), 60, seed=1)
    model = quick(Hypercube(2), width=64, batch_size=64)
    assert model.partial_fit(x, steps=4, progress=False) is model
    assert model.steps == 5
    before, sde = model.score_.state_dict(), model.sde_
    before = {k: v.clone() for k, v in before.items()}
    model.partial_fit(y, steps=300, progress=False)
    assert model.sde_ is sde
    assert [s for s, _ in model.history_] == [4, 54, 104, 154, 204, 254, 304]
    assert any(not torch.equal(v, before[k]) for k, v in model.score_.state_dict().items())
    assert float((model.sample(300, steps=50) > 0.45).double().mean()) > 0.8  # it has seen the new data
    with pytest.raises(ValueError, match="steps"):
        model.partial_fit(x, steps=0)
    with pytest.raises(DomainError, match="outside"):
        model.partial_fit(x + 1)


# ---------------------------------------------------------------------- what people hand in


def test_dropout_repeats_with_the_seed_and_leaves_the_global_state():
    x = uniform(Hypercube(2))
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first, second = (quick(Hypercube(2), dropout=0.3).fit(x, progress=False) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(first.score_.parameters(), second.score_.parameters(), strict=True):
        assert torch.equal(a, b)
    plain = quick(Hypercube(2)).fit(x, progress=False)
    assert first.history_ != plain.history_


def test_columns_of_a_data_frame_must_be_those_of_fit(tmp_path):
    frame = pd.DataFrame(uniform(Hypercube(2)).numpy(), columns=["wet", "dry"])
    model = quick(Hypercube(2)).fit(frame, progress=False)
    assert model.feature_names_in_ == ["wet", "dry"]
    model.save(tmp_path / "run")
    for known in (model, ReflectedDiffusion.load(tmp_path / "run")):
        for use in (known.log_prob, known.encode, known.partial_fit, lambda x, m=known: m.interpolate(frame, x)):
            with pytest.raises(ValueError, match=r"columns dry, wet; .* fitted to wet, dry, .*feature_names_in_"):
                use(frame[["dry", "wet"]])
        np.testing.assert_array_equal(known.log_prob(frame[known.feature_names_in_]), known.log_prob(frame.to_numpy()))
    model.fit(frame.to_numpy(), progress=False)
    assert not hasattr(model, "feature_names_in_")


def test_arrays_that_are_not_what_they_seem():
    x = uniform(Hypercube(2)).numpy()
    with pytest.raises(TypeError, match="x is a masked array"):
        quick(Hypercube(2)).fit(np.ma.masked_less(x, 0.1), progress=False)
    with pytest.raises(TypeError, match="y is a masked array"):
        sliced_wasserstein(x, np.ma.masked_less(x, 0.1))
    with pytest.raises(TypeError, match="low is a masked array"):
        Hypercube(2, np.ma.masked_less(x, 0.1).min(0))
    with pytest.raises(TypeError, match=r"condition must hold numbers, not <U1: give classes as one-hot rows"):
        quick(Hypercube(2)).fit(x, condition=np.array(["a"] * len(x)), progress=False)


@pytest.mark.filterwarnings("error")
def test_conditions_that_cannot_be_written_to():
    x, condition = uniform(Hypercube(2)).numpy(), np.linspace(0, 1, 64)
    condition.flags.writeable = False
    quick(Hypercube(2)).fit(x, condition=condition, progress=False)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("width", 0, "width must be an integer of at least 1, not 0"),
        ("depth", -1, "depth must be an integer of at least 0, not -1"),
        ("seed", "a", r"seed must be an integer of at least 0 and below 2\*\*63, not 'a'"),
        ("condition_dropout", 2, r"condition_dropout must lie in \[0, 1\), not 2"),
        ("network", "x", "network must be a function of a domain"),
    ],
)
def test_arguments_are_named(name, value, message):
    with pytest.raises((ValueError, TypeError), match=message):
        quick(Hypercube(2), **{name: value})


def test_sampling_arguments_are_named():
    model = quick(Hypercube(2)).fit(uniform(Hypercube(2)), progress=False)
    with pytest.raises(TypeError, match="sampler must be a class such as Heun"):
        model.sample(3, sampler="heun")
    with pytest.raises(TypeError, match=r"n must be an integer, not \(3, 2\)"):
        model.sample((3, 2))
    assert len(model.sample(np.int64(3), steps=2)) == 3


def test_a_training_that_stops_early_has_a_history():
    x = uniform(Hypercube(2), n=6)
    model = quick(Hypercube(2), early_stopping=True, patience=1, steps=45, batch_size=128).fit(x, progress=False)
    assert model.history_
    assert model.history_[-1][0] == model.validation_history_[-1][0]


def test_data_frames_and_their_rows_are_arrays():
    frame = pd.DataFrame(uniform(Hypercube(2)).numpy(), columns=["wet", "dry"])
    assert Hypercube(2, frame.min(), frame.max()) == Hypercube(2, frame.to_numpy().min(0), frame.to_numpy().max(0))
    assert sliced_wasserstein(frame[:32], frame[32:]) == sliced_wasserstein(
        frame.to_numpy()[:32], frame.to_numpy()[32:]
    )
    assert floor(sliced_wasserstein, frame) == floor(sliced_wasserstein, frame.to_numpy())


def test_columns_that_hold_no_numbers_are_named():
    x = uniform(Hypercube(2)).numpy()
    frame = pd.DataFrame({"wet": x[:, 0], "dry": ["a"] * len(x)})
    with pytest.raises(
        TypeError, match="x: column 'dry' holds (object|str|string), not real numbers: convert or drop it"
    ):
        quick(Hypercube(2)).fit(frame, progress=False)
    nullable = pd.DataFrame(x.astype(float), columns=["wet", "dry"]).convert_dtypes()
    model = quick(Hypercube(2)).fit(nullable, progress=False)
    assert model.feature_names_in_ == ["wet", "dry"]
    nullable.loc[5, "dry"] = pd.NA
    with pytest.raises(ValueError, match="x: at row 5 the point .* is not finite"):
        quick(Hypercube(2)).fit(nullable, progress=False)
    with pytest.raises(ValueError, match="x must be finite; at row 5 it is not"):
        DomainScaler(Hypercube(2)).fit(nullable)
    mixed = pd.DataFrame({"wet": pd.array([0.1, None] * 32, dtype="Float64"), "dry": x[:, 1]})
    with pytest.raises(ValueError, match="x: at row 1 the point"):
        quick(Hypercube(2)).fit(mixed, progress=False)


def test_rows_of_data_and_conditions_go_together():
    x = pd.DataFrame(uniform(Hypercube(2)).numpy(), columns=["wet", "dry"])
    c = pd.Series(np.linspace(0, 1, 64))
    quick(Hypercube(2)).fit(x, condition=c, progress=False)
    for use in (quick(Hypercube(2)).fit, quick(Hypercube(2)).fit(x, condition=c, progress=False).partial_fit):
        with pytest.raises(ValueError, match="x and condition have different indices"):
            use(x, condition=c.sort_index(ascending=False), progress=False)
    quick(Hypercube(2)).fit(x, condition=list(c), progress=False)  # a list has another kind of index


def test_scaler_fits_and_transforms_in_one_call():
    x = 5 + 3 * uniform(Hypercube(2)).numpy()
    one, other = DomainScaler(Hypercube(2)), DomainScaler(Hypercube(2))
    np.testing.assert_array_equal(one.fit_transform(x), other.fit(x).transform(x))


@pytest.mark.parametrize("device", ["gpu", "cuda:99", 3.5])
def test_devices_that_are_not_there(device, tmp_path):
    x = uniform(Hypercube(2))
    with pytest.raises(ValueError, match=f"device {device!r} cannot be used, try 'cpu' or 'cuda'"):
        quick(Hypercube(2), device=device).fit(x, progress=False)
    quick(Hypercube(2)).fit(x, progress=False).save(tmp_path / "run")
    with pytest.raises(ValueError, match=f"device {device!r} cannot be used"):
        ReflectedDiffusion.load(tmp_path / "run", device=device)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "run").write_text("mine")
    model = quick(Hypercube(2)).fit(uniform(Hypercube(2)), progress=False)
    with pytest.raises(ValueError, match="run is a file: give a folder to save in"):
        model.save(tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"
