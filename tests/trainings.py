"""What the tests of the trainer share, here and in the processes that they start: small trainings, and their states."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import torch

from constrained_diffusion import DenoisingScoreMatching, Hypercube, ReflectedSDE, ScoreModel, Simplex
from constrained_diffusion.checkpoints import load_run
from constrained_diffusion.losses import Noised, ScoreMatching
from constrained_diffusion.networks import MLP
from constrained_diffusion.sources import TensorSource
from constrained_diffusion.trainer import Plan, Trainer

ROOT = Path(__file__).parent.parent
SMALL = {"batch_size": 8, "learning_rate": 1e-2, "warm_up": 3, "report_every": 2, "save_every": 2}


def score(domain="square", *, seed=0, width=8, sigma_min=0.01, **network):
    """A score model with an MLP, whose weights the seed decides."""
    torch.manual_seed(seed)
    where = Hypercube(2) if domain == "square" else Simplex(3)
    return ScoreModel(MLP(where, width, 1, **network), ReflectedSDE(where, sigma_min))


def points(domain, n=20, *, dtype=torch.float32):
    """Data inside, none like another."""
    return domain.sample_uniform(n, generator=torch.Generator().manual_seed(1), dtype=dtype)


def trainer(folder=None, domain="square", *, n=20, source=None, loss=None, network=None, **plan):
    """A trainer of an MLP with dropout."""
    model = score(domain, **{"dropout": 0.1, **(network or {})})
    source = TensorSource(points(model.sde.domain, n)) if source is None else source
    loss = (loss or DenoisingScoreMatching)(model.sde)
    return Trainer(model, loss, source, Plan(**{**SMALL, **plan}), folder)


class Fixed(ScoreMatching):
    """Regression at the data themselves, at one time: a loss without any randomness.

    Args:
        sde: the process.
        spoil: a function of the number of evaluations before and the losses ``[B]`` that returns others.
    """

    def __init__(self, sde, spoil=lambda count, losses: losses):
        super().__init__(sde)
        self.spoil, self.count = spoil, 0

    def noise(self, x0, t, *, generator=None):
        return x0, 3 * (0.3 - x0)

    def prepare(self, x0, *, generator=None):
        t = x0.new_full(x0.shape[:1], 0.6)
        return Noised(x0, t, torch.ones_like(t), self.noise(x0, t)[1])

    def evaluate(self, score, noised, *, generator=None, **condition):
        losses = self.spoil(self.count, super().evaluate(score, noised, generator=generator, **condition))
        self.count += 1
        return losses


class Recorder:
    """A source that remembers which rows were asked for, and the seeds of the generators that came with them."""

    def __init__(self, x, **conditions):
        self.inner = TensorSource(x, **conditions)
        self.rows, self.seeds, self.network_seeds = [], [], []

    def __len__(self):
        return len(self.inner)

    def batch(self, rows, generator):
        self.rows.append(rows.tolist())
        self.seeds.append(generator.initial_seed())
        self.network_seeds.append(torch.initial_seed())  # that of everything that is given no generator
        return self.inner.batch(rows, generator)


def saved(folder, step):
    """Tensors of a checkpoint, its step and its loss curve without the speed."""
    config, tensors = load_run(Path(folder) / f"step-{step:08d}")
    return tensors, config["step"], [entry[:2] for entry in config["history"]]


def assert_same(one, other):
    """Two checkpoints are equal to the bit."""
    assert one[1:] == other[1:]
    assert one[0].keys() == other[0].keys()
    different = [k for k, v in one[0].items() if not torch.equal(v, other[0][k]) or v.dtype != other[0][k].dtype]
    assert not different


def steps(folder):
    """Which checkpoints a folder has."""
    return sorted(int(path.name.removeprefix("step-")) for path in Path(folder).glob("step-*"))


def start(*arguments):
    """Start a Python process that sees the tests, on the CPU."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


LONG = {"report_every": 5, "save_every": 25, "keep": 2}


def die_in_turn(before, folder, deaths, until):
    """For n = 1 .. deaths, a child process that goes on from a copy of a folder, ``folder/n``, and is killed just
    before the n-th operation that its checkpoints ask of the disk: a sync, a rename or a removal.

    Returns what the system says of how each ended.
    """
    trainer()  # imports what a trainer needs, once for all children
    statuses = []
    for n in range(1, deaths + 1):
        copy = Path(folder) / str(n)
        shutil.copytree(before, copy)
        child = os.fork()
        if child == 0:
            try:
                going_on = trainer(copy, **LONG)
                _kill_at(n)
                going_on.run(until, progress=False)
            finally:
                os._exit(1)  # it should not have come so far
        statuses.append(os.waitpid(child, 0)[1])
    return statuses


def _kill_at(n):
    count = 0

    def deadly(real):
        def operation(*arguments, **options):
            nonlocal count
            count += 1
            if count == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return operation

    for name in ("fsync", "unlink", "rmdir"):
        setattr(os, name, deadly(getattr(os, name)))
    Path.replace = deadly(Path.replace)


PARALLEL = {"batch_size": 16, "micro_batch": 4, "report_every": 3, "save_every": 3}


class _Interrupted(Recorder):
    """Someone presses Ctrl-C at one of two processes while a batch is drawn."""

    def batch(self, rows, generator):
        if len(self.rows) == 4 and os.environ["RANK"] == "1":
            signal.raise_signal(signal.SIGINT)
        return super().batch(rows, generator)


def as_one_of_two(folder):
    """What each of two processes does: it goes on from step 3, is refused, and is interrupted."""
    folder, x = Path(folder), points(Hypercube(2), 30)
    source = Recorder(x)
    run = trainer(folder / "run", source=source, **PARALLEL)
    begin = run.step
    run.run(6, progress=False)
    report = {"steps": [begin, run.step], "rows": source.rows, "seeds": source.seeds, "refused": []}
    report["weight"] = run.model.network.enter.weight.tolist()
    for plan in ({"batch_size": 7}, {"batch_size": 12, "micro_batch": 4}):
        try:
            trainer(**plan)
        except ValueError as error:
            report["refused"].append(str(error))
    run = trainer(folder / "stopped", source=_Interrupted(x), **PARALLEL)
    try:
        run.run(100, progress=False)
    except KeyboardInterrupt:
        report["how"] = "interrupted"
    report["stopped"] = run.step
    (folder / f"{run.rank}.json").write_text(json.dumps(report))
    run.accelerator.wait_for_everyone()  # neither may tear the group down while the other still talks in it
    run.accelerator.end_training()
    os._exit(0)  # now and then a thread of torch's is still there when the interpreter ends, which aborts
