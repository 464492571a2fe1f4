"""What a trainer does at each step: rows, noise, gradients, averages, on one process or two."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from constrained_diffusion import DenoisingScoreMatching, EulerMaruyama, Hypercube, ReflectedSDE, ScoreModel
from constrained_diffusion.checkpoints import save_run
from constrained_diffusion.domains import DomainError, ShapeError
from constrained_diffusion.domains.checks import SolverError
from constrained_diffusion.sources import TensorSource
from constrained_diffusion.trainer import Plan, Trainer, load_averaged
from tests.trainings import Fixed, Recorder, points, saved, score, steps, trainer

SQUARE = Hypercube(2)
F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------- rows and random numbers


def stream_of(source):
    return [row for rows in source.rows for row in rows]


@pytest.mark.parametrize(
    ("n", "batch_size", "micro_batch"),
    [(12, 4, None), (10, 4, 2), (10, 4, 1), (3, 8, 4), (7, 7, None), (5, 14, 7), (1, 4, 2)],
)
def test_each_epoch_visits_each_row_once(n, batch_size, micro_batch):
    source = Recorder(points(SQUARE, n))
    trainer(source=source, batch_size=batch_size, micro_batch=micro_batch).run(15, progress=False)
    assert {len(rows) for rows in source.rows} == {micro_batch or batch_size}
    stream = stream_of(source)
    assert len(stream) == 15 * batch_size
    epochs = [stream[i : i + n] for i in range(0, len(stream) - n + 1, n)]
    assert len(epochs) >= 5
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    if n >= 7:  # else two may well be alike
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
        assert list(range(n)) not in epochs


def test_micro_batches_cut_the_same_stream():
    sources = [Recorder(points(SQUARE, 10)) for _ in range(3)]
    for source, micro_batch in zip(sources, (None, 4, 2), strict=True):
        trainer(source=source, micro_batch=micro_batch).run(6, progress=False)
    first, *others = [stream_of(source) for source in sources]
    assert all(other == first for other in others)


def test_the_seed_decides_and_every_part_has_its_own():
    sources = [Recorder(points(SQUARE, 20)) for _ in range(4)]
    for source, seed in zip(sources, (0, 0, 1, 2**40), strict=True):
        trainer(source=source, micro_batch=4, seed=seed).run(6, progress=False)
    one, same, *others = sources
    assert (one.rows, one.seeds, one.network_seeds) == (same.rows, same.seeds, same.network_seeds)
    everything = one.seeds + one.network_seeds
    for other in others:
        assert other.rows != one.rows
        everything += other.seeds + other.network_seeds
    assert len(set(everything)) == 3 * 2 * 12  # three seeds, for noise and dropout, twelve parts each


def test_the_order_of_the_rows_is_not_drawn_from_the_stream_of_the_noise():
    source = Recorder(points(SQUARE, 20))
    trainer(source=source, batch_size=20).run(5, progress=False)
    for rows, *seeds in zip(source.rows, source.seeds, source.network_seeds, strict=True):
        for seed in seeds:
            assert torch.randperm(20, generator=seeded(seed)).tolist() != rows


def test_the_callers_random_numbers_are_left_alone():
    run = trainer(report_every=1)
    diverging = trainer(loss=lambda sde: Fixed(sde, lambda count, losses: losses * math.nan), report_every=1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run.run(3, progress=False)
    with pytest.raises(SolverError):
        diverging.run(3, progress=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_callers_random_numbers_do_not_matter():
    weights = []
    for seed in (3, 4):
        run = trainer()  # with dropout
        torch.manual_seed(seed)
        run.run(3, progress=False)
        weights.append(run.model.network.enter.weight.clone())
    assert torch.equal(*weights)


# ---------------------------------------------------------------------- the step, against one written by hand


def by_hand(x, count, plan):
    """Weights, averaged weights and losses of a training without any randomness, in float64."""
    model = score(width=8).double()
    loss = Fixed(model.sde)
    parameters = list(model.parameters())
    adam = torch.optim.Adam(parameters, lr=plan.learning_rate)
    average, losses, norms = [], [], []
    for n in range(count):
        adam.param_groups[0]["lr"] = plan.learning_rate * min(1.0, (n + 1) / plan.warm_up)
        value = loss.evaluate(model, loss.prepare(x)).mean()
        adam.zero_grad()
        value.backward()
        norms.append(float(torch.cat([p.grad.flatten() for p in parameters]).norm()))
        for p in parameters:
            p.grad *= min(1.0, plan.clip / (norms[-1] + 1e-6))  # torch adds that
        adam.step()
        if n == 0:
            average = [p.detach().clone() for p in parameters]
        decay = min(plan.average, (1 + n) / (10 + n))
        average = [decay * a + (1 - decay) * p.detach() for a, p in zip(average, parameters, strict=True)]
        losses.append(float(value.detach()))
    return parameters, average, losses, norms


def largest_difference(one, other):
    return max(float((a - b).detach().abs().max()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("micro_batch", [None, 5])
@pytest.mark.parametrize(
    "options",
    [{}, {"clip": 1.5}, {"clip": 0.01}, {"warm_up": 1}, {"warm_up": 40}, {"average": 0.0}, {"average": 0.9}],
    ids=str,
)
def test_steps_are_those_written_by_hand(options, micro_batch):
    x = points(SQUARE, 20, dtype=F64)
    plan = Plan(
        **{"batch_size": 20, "learning_rate": 1e-2, "warm_up": 5, "clip": 1e9, "average": 0.5, "report_every": 4}
        | options,
        micro_batch=micro_batch,
    )
    weights, average, losses, norms = by_hand(x, 24, plan)
    if options.get("clip") == 1.5:
        assert min(norms) < 1 < 2 < max(norms)  # some are clipped and some are not
    model = score(width=8).double()
    run = Trainer(model, Fixed(model.sde), TensorSource(x), plan)
    run.run(24, progress=False)
    assert run.model is model
    assert largest_difference(model.parameters(), weights) < 1e-11
    assert largest_difference(run.averaged.parameters(), average) < 1e-11
    assert largest_difference(weights, average) > 1e-3 or options == {"average": 0.0}
    means = [sum(losses[i : i + 4]) / 4 for i in range(0, 24, 4)]
    assert [step for step, _, _ in run.history] == [4, 8, 12, 16, 20, 24]
    assert [loss for _, loss, _ in run.history] == pytest.approx(means, rel=1e-6)
    assert all(speed > 0 for _, _, speed in run.history)


def test_each_setting_matters_to_the_step_by_hand():
    """Else the test above would show nothing."""
    x = points(SQUARE, 20, dtype=F64)
    plain = {"batch_size": 20, "learning_rate": 1e-2, "warm_up": 5, "clip": 1e9, "average": 0.5}
    reference = by_hand(x, 24, Plan(**plain))
    for which, options in enumerate([{"clip": 1.5}, {"average": 0.9}]):
        other = by_hand(x, 24, Plan(**plain | options))
        assert largest_difference(reference[which], other[which]) > 1e-4
    assert largest_difference(reference[0], by_hand(x, 24, Plan(**plain | {"warm_up": 40}))[0]) > 1e-2


def test_the_average_has_its_buffers_and_is_in_evaluation_mode():
    run = trainer()
    model = run.averaged
    run.run(4, progress=False)
    assert run.averaged is model
    assert not any(module.training for module in model.modules())
    assert all(module.training for module in run.model.modules())
    for name, value in run.model.named_buffers():
        assert torch.equal(dict(model.named_buffers())[name], value)
    samples = EulerMaruyama(model.sde, model, steps=4).sample(5, generator=seeded()).x
    assert SQUARE.contains(samples).all()


def test_training_lowers_the_loss():
    source = TensorSource(0.3 + 0.05 * points(SQUARE, 50))
    run = trainer(source=source, batch_size=50, report_every=50, warm_up=20)
    run.run(200, progress=False)
    assert run.history[-1][1] < 0.8 * run.history[0][1]


def test_until_and_every():
    run, calls = trainer(steps=7), []
    every = [(2, lambda run: calls.append((2, run.step))), (3, lambda run: calls.append((3, run.step)))]
    run.run(4, progress=False, every=every)
    assert calls == [(2, 2), (3, 3), (2, 4)]
    run.run(4, progress=False, every=every)
    run.run(2, progress=False, every=every)
    assert run.step == 4
    assert len(calls) == 3
    run.run(progress=False)
    assert run.step == 7


def test_progress_is_shown_or_not(capsys):
    trainer().run(2, progress=False)
    assert capsys.readouterr().err == ""
    trainer().run(2)
    assert "training" in capsys.readouterr().err


# ---------------------------------------------------------------------- conditions and data


class Witness(nn.Module):
    """A network that remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.ones(())), []

    def forward(self, x, log_sigma, **condition):
        self.seen.append((x, condition))
        return self.weight * x


def test_conditions_reach_the_network_with_their_points():
    x, network = points(SQUARE, 10), Witness()
    model = ScoreModel(network, ReflectedSDE(SQUARE))
    source = TensorSource(x, condition=2 * x, label=torch.arange(10))
    run = Trainer(model, Fixed(model.sde), source, Plan(batch_size=4, micro_batch=2))
    run.run(5, progress=False)
    assert len(network.seen) == 10
    for given, condition in network.seen:
        assert set(condition) == {"condition", "label"}
        assert torch.equal(condition["condition"], 2 * given)
        assert torch.equal(x[condition["label"]], given)


def test_conditions_of_another_length_are_refused():
    with pytest.raises(ValueError, match="label has 9 rows; x has 10"):
        TensorSource(points(SQUARE, 10), label=torch.arange(9))
    with pytest.raises(ValueError, match="empty"):
        trainer(source=TensorSource(torch.empty(0, 2)))


@pytest.mark.parametrize(
    ("value", "message"), [(1.5, "data.*outside"), (-1e-3, "data.*outside"), (math.nan, "data.*finite")]
)
def test_data_outside_the_domain_are_refused(tmp_path, value, message):
    x = points(SQUARE, 8)
    x[5, 1] = value
    with pytest.raises(DomainError, match=message):
        trainer(tmp_path, source=TensorSource(x)).run(2, progress=False)
    assert steps(tmp_path) == []


def test_numbers_of_a_plan_are_pythons():
    """Whoever computed them: they are compared with, and kept in, checkpoints."""
    names = ("steps", "batch_size", "micro_batch", "save_every", "keep", "report_every", "seed")
    plan = Plan(**{name: np.int64(2) for name in names})
    assert all(type(getattr(plan, name)) is int for name in names)
    for name in names:
        for wrong in (True, 1.5, -1):
            with pytest.raises(ValueError, match=f"{name} must be a (positive|non-negative) integer"):
                Plan(**{name: wrong})


@pytest.mark.parametrize("until", [-1, 2.5, True])
def test_steps_that_are_no_number_of_steps(until):
    with pytest.raises(ValueError, match=f"until must be a number of steps, not {until}"):
        trainer().run(until, progress=False)


def test_sources_hold_tensors():
    with pytest.raises(TypeError, match=r"x must be a torch.Tensor, not list"):
        TensorSource([[0.0, 1.0]])
    with pytest.raises(TypeError, match=r"label must be a torch.Tensor, not list"):
        TensorSource(torch.zeros(1, 2), label=[1])


def test_every_row_is_looked_at(tmp_path):
    """Also one that comes in the last batch of the first epoch; and again after a resume."""
    run = trainer(tmp_path, n=20, batch_size=4)
    rows = {epoch: int(run._shuffle(epoch)[-1]) for epoch in (0, 1)}
    run.run(6, progress=False)

    def with_bad(row):
        x = points(SQUARE, 20)
        x[row, 0] = 1.5
        return TensorSource(x)

    with pytest.raises(DomainError, match=rf"data, row {rows[0]}: .*outside"):
        trainer(source=with_bad(rows[0]), batch_size=4).run(5, progress=False)
    with pytest.raises(DomainError, match=rf"data, row {rows[1]}: .*outside"):
        trainer(tmp_path, source=with_bad(rows[1]), batch_size=4).run(10, progress=False)


class Counting(nn.Module):
    """A network that counts its calls in a buffer."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, log_sigma):
        self.calls += 1
        return self.scale * x


def test_buffers_are_those_of_the_last_step():
    sde = ReflectedSDE(SQUARE)
    model = ScoreModel(Counting(), sde)
    run = Trainer(model, DenoisingScoreMatching(sde), TensorSource(points(SQUARE, 8)), Plan(steps=3, batch_size=4))
    run.run(progress=False)
    assert float(run.averaged.network.calls) == float(model.network.calls) == 3


def test_data_of_another_shape_are_refused():
    with pytest.raises(ShapeError, match="data has shape"):
        trainer(source=TensorSource(torch.rand(8, 3, generator=seeded()))).run(1, progress=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(("steps", "batch_size", "save_every", "keep", "report_every"), (0, -1, 1.5)),
        *itertools.product(["micro_batch"], (0, -2, 3, 256, 2.0)),
        *itertools.product(["learning_rate"], (0.0, -1e-3, math.nan)),
        *itertools.product(["clip"], (0.0, -1.0, math.nan)),
        *itertools.product(["average"], (1.0, -0.1, math.nan)),
        ("precision", "float32"),
        ("seed", -1),
    ],
)
def test_a_plan_refuses(name, value):
    with pytest.raises(ValueError, match=rf"{name}.*{re.escape(str(value))}"):
        Plan(**{name: value})


def test_the_rate_rises_to_its_final_value():
    plan = Plan(warm_up=4)
    assert [plan.rate(step) for step in (0, 1, 3, 4, 100)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    assert Plan(warm_up=0).rate(0) == Plan(warm_up=1).rate(0) == 1.0


# ---------------------------------------------------------------------- losses that are not finite


@pytest.mark.parametrize("save_every", [2, 3])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_refused_and_not_saved(tmp_path, save_every, value):
    def spoil(count, losses):
        return losses * value if count == 4 else losses

    run = trainer(tmp_path, loss=lambda sde: Fixed(sde, spoil), save_every=save_every, report_every=50)
    with pytest.raises(ValueError, match="not finite near step .*learning_rate"):
        run.run(50, progress=False)
    assert steps(tmp_path)[-1] == (4 if save_every == 2 else 3)
    assert all(v.isfinite().all() for v in saved(tmp_path, steps(tmp_path)[-1])[0].values())


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """The loss may be finite and its gradient not; the next loss tells, too late for a checkpoint in between."""

    def spoil(count, losses):
        return losses + (losses - losses.detach()).abs().sqrt() if count == 5 else losses

    run = trainer(tmp_path, loss=lambda sde: Fixed(sde, spoil))
    with pytest.raises(ValueError, match="not finite"):
        run.run(12, progress=False)
    for step in steps(tmp_path):
        assert all(v.isfinite().all() for v in saved(tmp_path, step)[0].values()), step


# ---------------------------------------------------------------------- averaged weights


@pytest.fixture
def folder(tmp_path):
    """A run with checkpoints of steps 4, 6 and 8."""
    trainer(tmp_path / "run").run(8, progress=False)
    return tmp_path / "run"


def test_load_averaged(folder):
    averaged = trainer(folder).averaged
    model = score(seed=9, dropout=0.1).train()
    assert load_averaged(folder, model) == 8
    assert not model.training
    for name, value in averaged.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert not torch.equal(model.network.enter.weight, trainer(folder).model.network.enter.weight)


def test_load_averaged_refuses(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "nothing"))):
        load_averaged(tmp_path / "nothing", score())
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_averaged(tmp_path / "empty", score())
    with pytest.raises(ValueError, match="do not fit"):
        load_averaged(folder, score(width=16))
    save_run(tmp_path / "models" / "step-00000001", {}, dict(score().state_dict()))
    with pytest.raises(ValueError, match="no checkpoint of a trainer"):
        load_averaged(tmp_path / "models", score())
