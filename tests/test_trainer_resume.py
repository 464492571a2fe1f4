"""A training that was stopped, killed or damaged goes on as if nothing had happened."""

import errno
import json
import os
import shutil
import signal
import warnings

import pytest
import torch

from constrained_diffusion import (
    CustomSchedule,
    DenoisingScoreMatching,
    Hypercube,
    Polytope,
    ReflectedDiffusion,
    ReflectedSDE,
    ScoreModel,
    SlicedScoreMatching,
)
from constrained_diffusion.checkpoints import load_newest, save_step
from constrained_diffusion.images import ImageSource
from constrained_diffusion.networks import MLP, UNet
from constrained_diffusion.sources import TensorSource
from constrained_diffusion.trainer import Plan, Trainer, load_averaged
from tests.trainings import LONG, assert_same, saved, score, start, steps, trainer

DEATHS = 9  # two files synced and renamed, each with its folder, then an old checkpoint of two files removed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 100 steps that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    trainer(folder, **LONG).run(100, progress=False)
    return saved(folder, 100)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The same run, which ended after 50 steps, and copies of it that were killed while they saved step 75."""
    before, after = tmp_path_factory.mktemp("before"), tmp_path_factory.mktemp("after")
    trainer(before, **LONG).run(50, progress=False)
    code = "import sys; from tests.trainings import die_in_turn; print(die_in_turn(*sys.argv[1:3], 10, 75))"
    with start("-c", code, before, after) as process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert json.loads(out) == [signal.SIGKILL] * DEATHS + [1 << 8], err  # the tenth had no such operation
    return after


@pytest.mark.parametrize("n", range(1, DEATHS + 1))
def test_killed_while_saving(killed, whole, n):
    folder = killed / str(n)
    assert steps(folder)[-1] == 75
    with warnings.catch_warnings(record=True) as passed_over:
        warnings.simplefilter("always")
        resumed = trainer(folder, network={"seed": 5}, **LONG)
    assert resumed.step == (50 if n <= 5 else 75)  # the fifth is the rename of the configuration
    assert len(passed_over) == (n <= 5)
    assert all("step-00000075: no saved run" in str(w.message) for w in passed_over)
    resumed.run(100, progress=False)
    assert_same(saved(folder, 100), whole)
    assert steps(folder) == [75, 100]


@pytest.mark.parametrize("domain", ["square", "simplex"])
@pytest.mark.parametrize(("save_every", "report_every", "stop"), [(4, 2, 8), (4, 3, 8), (100, 5, 7)])
def test_resumed_equals_uninterrupted(tmp_path, domain, save_every, report_every, stop):
    plan = {"save_every": save_every, "report_every": report_every}
    trainer(tmp_path / "whole", domain, **plan).run(12, progress=False)
    trainer(tmp_path / "parts", domain, **plan).run(stop, progress=False)
    resumed = trainer(tmp_path / "parts", domain, network={"seed": 5}, **plan)
    assert resumed.step == stop
    resumed.run(12, progress=False)
    one, other = saved(tmp_path / "parts", 12), saved(tmp_path / "whole", 12)
    assert_same(one[:2], other[:2])
    assert one[2] == other[2]  # the loss curve


def test_checkpoint_is_what_is_in_memory(tmp_path):
    run = trainer(tmp_path)
    run.run(6, progress=False)
    tensors, step, history = saved(tmp_path, 6)
    assert step == run.step == 6
    assert history == [list(entry[:2]) for entry in run.history]
    resumed = trainer(tmp_path, network={"seed": 5})
    assert resumed.history == run.history
    for name in ("model", "averaged"):
        expected = getattr(run, name).state_dict()
        assert expected
        for k, v in getattr(resumed, name).state_dict().items():
            assert torch.equal(v, expected[k])
    count = len(list(run.model.parameters()))
    assert sum(name.startswith("optimiser.") for name in tensors) == 3 * count  # two moments and the step


@pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
def test_network_of_images_with_dropout_and_labels(tmp_path):
    def make(folder, seed=0):
        sde = ReflectedSDE(Hypercube((1, 8, 8)))
        torch.manual_seed(seed)
        model = ScoreModel(UNet(sde.domain, 8, (1, 2), 1, (4,), dropout=0.5, classes=3), sde)
        levels = torch.randint(256, (12, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        source = ImageSource(levels, torch.arange(12) % 3, classes=3, hide=0.5, dequantise=True)
        plan = Plan(batch_size=8, micro_batch=4, report_every=1, warm_up=1)
        return Trainer(model, DenoisingScoreMatching(sde, "fidelity"), source, plan, folder)

    make(tmp_path / "whole").run(4, progress=False)
    make(tmp_path / "parts").run(2, progress=False)
    make(tmp_path / "parts", seed=5).run(4, progress=False)
    assert_same(saved(tmp_path / "parts", 4), saved(tmp_path / "whole", 4))


# ---------------------------------------------------------------------- what cannot be used


def _weights(path):
    return next(path.glob("*.safetensors"))


def truncated(path):
    _weights(path).write_bytes(_weights(path).read_bytes()[:-100])
    return "damaged"


def flipped(path):
    content = bytearray(_weights(path).read_bytes())
    content[len(content) // 2] ^= 1
    _weights(path).write_bytes(bytes(content))
    return "damaged"


def without_weights(path):
    _weights(path).unlink()
    return "missing"


def without_configuration(path):
    (path / "config.json").unlink()
    return "config.json is missing"


def empty(path):
    shutil.rmtree(path)
    path.mkdir()
    return "config.json is missing"


def torn_configuration(path):
    text = (path / "config.json").read_text()
    (path / "config.json").write_text(text[: len(text) // 2])
    return "not the configuration"


def key_lost(key):
    def spoil(path):
        text = (path / "config.json").read_text()
        assert text.count(f'"{key}"') == text.count('"check"') == 1
        foreign = text.replace(f'"{key}"', f'"{key[:-1]}_"').replace('"check"', '"unchecked"')
        (path / "config.json").write_text(foreign)
        return key

    spoil.__name__ = f"lost_{key}"
    return spoil


def foreign(name, reason, *arguments, **settings):
    def spoil(path):
        shutil.rmtree(path)
        other = path.parent.parent / "other"
        trainer(other, *arguments, **settings).run(8, progress=False)
        shutil.copytree(other / "step-00000008", path)
        return reason

    spoil.__name__ = name
    return spoil


def saved_model(path):
    shutil.rmtree(path)
    model = ReflectedDiffusion(Hypercube(2), steps=2, width=8, depth=1, batch_size=8)
    model.fit(torch.rand(10, 2, generator=torch.Generator().manual_seed(0)), progress=False)
    model.save(path)
    return "no checkpoint of a trainer"


SPOILERS = [
    truncated,
    flipped,
    without_weights,
    without_configuration,
    empty,
    torn_configuration,
    key_lost("step"),
    key_lost("history"),
    key_lost("trainer"),
    foreign("width", "another network", network={"width": 16}),
    foreign("rate", "another plan.*0.02", learning_rate=0.02),
    foreign("seed", "another plan: seed 7, not 0", seed=7),
    foreign("batch", "another plan", batch_size=4),
    foreign("rows", "another rows: 7, not ", n=7),
    foreign("weighting", "another loss", loss=lambda sde: DenoisingScoreMatching(sde, "fidelity")),
    foreign("sigma", "another process", network={"sigma_min": 0.02}),
    foreign("domain", "another process", "simplex"),
    saved_model,
]


def identity(process, loss=DenoisingScoreMatching, **options):
    """As a trainer of this process and loss compares it with a checkpoint's."""
    model = ScoreModel(MLP(process.domain, 4, 1), process)
    source = TensorSource(process.domain.sample_uniform(4, generator=torch.Generator().manual_seed(0)))
    return Trainer(model, loss(process, **options), source, Plan(batch_size=2))._identity()


def test_a_run_is_the_same_in_another_program_and_no_other_is():
    """Texts of functions name a place in memory, those of polytopes and tables say little: values decide."""

    def by(function):
        return identity(ReflectedSDE(Hypercube(2), schedule=CustomSchedule(function)))

    assert by(lambda t: 0.01 * 200**t) == by(lambda t: 0.01 * 200**t) != by(lambda t: 0.01 * 200**t**2)
    sides = torch.tensor([[1.0, 0.3], [-1.0, 0.2], [0.1, 1.0], [0.0, -1.0]])
    one, again, other = (ReflectedSDE(Polytope(m, [1.0] * 4), 0.01, 2.0) for m in (sides, sides, -sides))
    assert identity(one) == identity(again) != identity(other)
    square = ReflectedSDE(Hypercube(2))
    assert identity(square, SlicedScoreMatching, projections=2) == identity(square, SlicedScoreMatching, projections=2)
    assert identity(square, SlicedScoreMatching, projections=2) != identity(square, SlicedScoreMatching, projections=3)


@pytest.fixture
def folder(tmp_path):
    """A run with checkpoints of steps 4, 6 and 8."""
    trainer(tmp_path / "run").run(8, progress=False)
    assert steps(tmp_path / "run") == [4, 6, 8]
    return tmp_path / "run"


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
def test_what_cannot_be_used_is_passed_over(folder, spoil):
    expected = saved(folder, 8)
    reason = spoil(folder / "step-00000008")
    with pytest.warns(UserWarning, match=rf"passed over: step-00000008: (?s:.)*{reason}"):
        resumed = trainer(folder, network={"seed": 5})
    assert resumed.step == 6
    resumed.run(8, progress=False)
    assert_same(saved(folder, 8), expected)


def test_no_flipped_byte_of_a_configuration_goes_unnoticed(folder):
    path = folder / "step-00000008" / "config.json"
    content, expected = path.read_bytes(), trainer(folder).history
    unnoticed = []
    for at in range(0, len(content), 13):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            resumed = trainer(folder)
        if (resumed.step, resumed.history) not in ((8, expected), (6, expected[:3])):
            unnoticed.append((content[at - 20 : at + 20], resumed.step))
    assert not unnoticed


def test_if_none_can_be_used_each_reason_is_given(folder):
    spoilers = {8: truncated, 6: without_weights, 4: without_configuration}
    reasons = [f"step-0000000{step}: .*{f(folder / f'step-0000000{step}')}" for step, f in spoilers.items()]
    with pytest.raises(ValueError, match=".*; ".join(reasons)):
        trainer(folder)
    with pytest.raises(ValueError, match=".*; ".join(reasons)):
        load_averaged(folder, score())
    assert steps(folder) == [4, 6, 8]


def test_load_averaged_passes_over_what_is_damaged(folder):
    truncated(folder / "step-00000008")
    with pytest.warns(UserWarning, match="damaged"):
        assert load_averaged(folder, score()) == 6


def test_an_empty_folder_starts_anew(tmp_path):
    (tmp_path / "notes.txt").write_text("not a checkpoint")
    (tmp_path / "step-00000004").write_text("nor this: it is a file")
    assert trainer(tmp_path).step == 0
    assert trainer(tmp_path / "new").step == 0
    assert not (tmp_path / "new").exists()


def test_a_network_may_be_configured_by_what_json_spells_otherwise(tmp_path):
    def make():
        model = score()
        model.network.config = lambda: {"sizes": (1, 2), "names": {1: "a", 10: "b"}}
        source = TensorSource(torch.rand(8, 2, generator=torch.Generator().manual_seed(0)))
        return Trainer(model, DenoisingScoreMatching(model.sde), source, Plan(batch_size=4), tmp_path)

    make().run(1, progress=False)
    assert make().step == 1


def test_what_may_change(folder):
    resumed = trainer(folder, steps=99, save_every=5, keep=1, report_every=7)
    assert resumed.step == 8


# ---------------------------------------------------------------------- rotation and full disks


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_rotation_keeps_the_newest(tmp_path, keep):
    seen = []
    run = trainer(tmp_path, keep=keep)
    run.run(10, progress=False, every=[(1, lambda run: seen.append(steps(tmp_path)))])
    written = [2, 4, 6, 8, 10]
    assert seen == [[s for s in written if s <= step][-keep:] for step in range(1, 10)] + [written[:-1][-keep:]]
    assert steps(tmp_path) == written[-keep:]


def test_rotation_never_takes_what_was_just_written(folder):
    """Sound ones go before damaged ones of later steps would: else a run could lose all it has."""
    truncated(folder / "step-00000008")
    with pytest.warns(UserWarning, match="damaged"):
        resumed = trainer(folder, keep=1)
    resumed.run(7, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert trainer(folder).step == 7


def test_rotation_of_many(tmp_path):
    for step in (1, 99_999_999, 100_000_000, 2_000_000_000):
        save_step(tmp_path, step, {"step": step}, {"w": torch.ones(1)}, keep=2)
    assert load_newest(tmp_path, lambda config, tensors: None)[0]["step"] == 2_000_000_000
    assert steps(tmp_path) == [100_000_000, 2_000_000_000]


@pytest.mark.parametrize("value", [{2: "a", 10: "b"}, (1, 2), 1e-300, -0.0, "é\u2028", None], ids=repr)
def test_any_json_comes_back(tmp_path, value):
    save_step(tmp_path, 1, {"value": value}, {"w": torch.ones(1)}, keep=1)
    config, _ = load_newest(tmp_path, lambda config, tensors: None)
    assert config["value"] == json.loads(json.dumps(value))


@pytest.mark.parametrize("keep", [1, 3])
@pytest.mark.parametrize("call", [1, 3])  # the weights and the configuration; the others are of folders
def test_full_disk(tmp_path, monkeypatch, call, keep):
    run = trainer(tmp_path, keep=keep)
    run.run(4, progress=False)
    expected, calls, real = saved(tmp_path, 4), 0, os.fsync

    def full(handle):
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            run.run(8, progress=False)
    assert_same(saved(tmp_path, 4), expected)
    with pytest.warns(UserWarning, match="step-00000006"):
        resumed = trainer(tmp_path, keep=keep)
    assert resumed.step == 4
    resumed.run(6, progress=False)
    assert steps(tmp_path) == [2, 4, 6][-keep:]


def test_saving_needs_a_folder():
    with pytest.raises(ValueError, match="no folder"):
        trainer().save()
