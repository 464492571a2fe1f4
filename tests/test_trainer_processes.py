"""A trainer and its process: signals that end it, two that share the work, threads, precision."""

import json
import shutil
import signal
import threading
import time

import pytest
import torch

from constrained_diffusion import Ball, DenoisingScoreMatching, Hypercube, Polytope, ReflectedSDE, ScoreModel
from constrained_diffusion.networks import MLP
from constrained_diffusion.sources import TensorSource
from constrained_diffusion.trainer import Plan, Trainer
from tests.trainings import PARALLEL, Recorder, assert_same, points, saved, score, start, steps, trainer

SQUARE = Hypercube(2)


# ---------------------------------------------------------------------- signals and threads


@pytest.fixture
def spared():
    """SIGTERM does not end the tests, should a trainer leave it to whom it was left before."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("spared")
@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_ends_it_after_the_step_with_a_checkpoint(tmp_path, number, error):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    trainer(tmp_path / "whole", report_every=1).run(6, progress=False)
    run = trainer(tmp_path / "run", report_every=1, save_every=100)
    with pytest.raises(error) as caught:
        run.run(6, progress=False, every=[(3, lambda run: signal.raise_signal(number))])
    if error is SystemExit:
        assert caught.value.code == 143
    assert run.step == 3
    assert steps(tmp_path / "run") == [3]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    resumed = trainer(tmp_path / "run", report_every=1, network={"seed": 5})
    assert resumed.step == 3
    resumed.run(6, progress=False)
    assert_same(saved(tmp_path / "run", 6), saved(tmp_path / "whole", 6))


def test_a_second_ctrl_c_acts_at_once(tmp_path):
    def twice(run):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")

    run = trainer(tmp_path, save_every=100)
    with pytest.raises(KeyboardInterrupt):
        run.run(6, progress=False, every=[(3, twice)])
    assert steps(tmp_path) == []


def test_signals_reach_a_program(tmp_path):
    """Ctrl-C from outside while it trains, and SIGTERM after it has gone on."""
    code = (
        "import sys, time; from pathlib import Path; from tests.trainings import trainer\n"
        "def run(folder, flag):\n"
        "    def ready(run): (folder.parent / flag).touch(); time.sleep(0.05)\n"
        "    trainer(folder, report_every=10, save_every=10**6).run(10**6, every=[(20, ready)])\n"
        "try: run(Path(sys.argv[1]), 'first')\n"
        "except KeyboardInterrupt: run(Path(sys.argv[1]), 'second')"
    )
    with start("-c", code, tmp_path / "run") as program:
        try:
            for flag, number in (("first", signal.SIGINT), ("second", signal.SIGTERM)):
                deadline = time.monotonic() + 60
                while not (tmp_path / flag).exists():
                    assert program.poll() is None, program.communicate()[1]
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                program.send_signal(number)
            out, err = program.communicate(timeout=60)
        finally:
            program.kill()
    assert program.returncode == 143, (out, err)
    first, second = steps(tmp_path / "run")
    assert 20 <= first < second
    whole = trainer(tmp_path / "whole", save_every=10**6, report_every=10)
    for step in (first, second):
        whole.run(step, progress=False)
        assert_same(saved(tmp_path / "run", step)[:2], saved(tmp_path / "whole", step)[:2])


def test_it_trains_in_a_thread(tmp_path):
    thread = threading.Thread(target=lambda: trainer(tmp_path).run(2, progress=False))
    thread.start()
    thread.join(60)
    assert steps(tmp_path) == [2]


# ---------------------------------------------------------------------- two processes


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run of one process, and reports of two, which went on from where it had done three of its six steps."""
    folder = tmp_path_factory.mktemp("two")
    one = Recorder(points(SQUARE, 30))
    run = trainer(folder / "one", source=one, **PARALLEL)
    run.run(3, progress=False)
    shutil.copytree(folder / "one", folder / "run")
    run.run(6, progress=False)
    (folder / "script.py").write_text(
        "import sys\nfrom tests import trainings\n\ntrainings.as_one_of_two(sys.argv[1])\n"
    )
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    with start(*launch, folder / "script.py", folder) as process:
        try:
            out, err = process.communicate(timeout=100)
        finally:
            process.kill()
    assert process.returncode == 0, out + err
    return folder, one, [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_two_processes_do_what_one_does(two):
    folder, _, reports = two
    assert [report["steps"] for report in reports] == [[3, 6], [3, 6]]
    (tensors, step, history), expected = saved(folder / "run", 6), saved(folder / "one", 6)
    assert step == 6
    assert tensors.keys() == expected[0].keys()
    for name, value in tensors.items():
        torch.testing.assert_close(value, expected[0][name], rtol=1e-6, atol=1e-7, msg=name)
    assert [entry[0] for entry in history] == [3, 6]
    assert [entry[1] for entry in history] == pytest.approx([entry[1] for entry in expected[2]], rel=1e-5)
    assert reports[0]["weight"] == reports[1]["weight"]  # they stay together to the bit


def test_two_processes_share_the_rows(two):
    _, one, reports = two
    for name in ("rows", "seeds"):
        first, second = (report[name] for report in reports)
        assert len(first) == len(second) == 6
        assert [part for pair in zip(first, second, strict=True) for part in pair] == getattr(one, name)[12:]
    assert len({seed for report in reports for seed in report["seeds"]}) == 12


def test_what_two_processes_cannot_share_is_refused(two):
    _, _, reports = two
    for report in reports:
        indivisible, uneven = report["refused"]
        assert "batch_size 7" in indivisible
        assert "2 processes" in indivisible
        assert "2 processes cannot share 3 micro-batches" in uneven


def test_ctrl_c_at_one_process_ends_both_at_the_same_step(two):
    folder, _, reports = two
    assert reports[1]["how"] == "interrupted"
    assert reports[0]["stopped"] == reports[1]["stopped"] == 3
    assert steps(folder / "stopped") == [3]


# ---------------------------------------------------------------------- precision


def test_an_accelerator_of_ones_own():
    from accelerate import Accelerator

    accelerator, model = Accelerator(cpu=True), score()
    source = TensorSource(points(SQUARE, 8))
    run = Trainer(model, DenoisingScoreMatching(model.sde), source, Plan(batch_size=4), accelerator=accelerator)
    run.run(1, progress=False)
    assert run.accelerator is accelerator


def test_precision_is_that_of_each_plan():
    """Trainings of different precision follow each other in one process."""
    weights = {}
    for name, precision in (("first", "no"), ("mixed", "bf16"), ("last", "no")):
        run = trainer(precision=precision, network={"dropout": 0.0})
        run.run(4, progress=False)
        weights[name] = run.model.network.enter.weight
        assert weights[name].dtype == torch.float32
    assert torch.equal(weights["first"], weights["last"])
    difference = (weights["first"] - weights["mixed"]).abs().max()
    assert 1e-7 < difference < 0.1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_goes_on_where_it_was(tmp_path, precision):
    """With the scale of the loss, which fp16 finds on the way."""
    trainer(tmp_path / "whole", precision=precision).run(12, progress=False)
    trainer(tmp_path / "parts", precision=precision).run(6, progress=False)
    trainer(tmp_path / "parts", precision=precision, network={"seed": 5}).run(12, progress=False)
    assert_same(saved(tmp_path / "parts", 12), saved(tmp_path / "whole", 12))


class Witness(DenoisingScoreMatching):
    """Denoising that remembers what it noised."""

    def prepare(self, x0, *, generator=None):
        self.noised = super().prepare(x0, generator=generator)
        return self.noised


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("domain", [SQUARE, Polytope.birkhoff(3), Ball(3)], ids=lambda domain: type(domain).__name__)
def test_precision_is_of_the_network_not_of_the_noise(domain, precision):
    noised = []
    for plan in (Plan(batch_size=8), Plan(batch_size=8, precision=precision)):
        torch.manual_seed(0)
        model = ScoreModel(MLP(domain, 8, 1), ReflectedSDE(domain))
        loss = Witness(model.sde)
        Trainer(model, loss, TensorSource(points(domain)), plan).run(1, progress=False)
        noised.append(loss.noised)
    for name in ("x", "target", "t", "weight"):
        assert torch.equal(*(getattr(one, name) for one in noised)), name
