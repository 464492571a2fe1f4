r"""Long trainings: resumable to the bit, on one device or many, over any domain.

Nothing random has a state that could be lost. Row i of the data's endless stream, the noise of each part of each
batch and the network's dropout are functions of the seed and the step alone, so that a run which was killed and resumed
is the run that was not, and any number of processes draws what one would. A batch is cut into parts
(``micro_batch``); processes take turns at them, and gradients are summed over all.

May use: torch, numpy, tqdm, losses, scores, sources, checkpoints; accelerate (imported when a trainer is built), which
gives devices and processes: start a program under ``torchrun`` or ``accelerate launch`` and it uses them all.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Generator, Tensor
from tqdm.auto import tqdm

from .averaging import WeightAverage
from .checkpoints import load_newest, save_step
from .domains.checks import DomainError, SolverError, trusted, whole_number
from .interrupts import Stop
from .losses import ScoreMatching
from .plan import PRECISIONS, Plan
from .process import Process
from .scores import ScoreModel
from .sources import Source
from .training import progress_interval

__all__ = ["Plan", "Trainer", "load_averaged"]

_FREE = ("steps", "compile", "save_every", "keep", "report_every")  # of a plan: what may change when a run is resumed
_TIMES = 9  # at which schedules are compared
_NETWORK, _DATA, _ORDER = 0, 1, 2  # which stream of random numbers


class Trainer:
    """Trains a score model with checkpoints, on as many processes as the program was started on.

    >>> trainer = Trainer(score, loss, TensorSource(x), Plan(steps=1000), "run")
    >>> trainer.run()  # again after a crash, from the newest sound checkpoint in the folder
    >>> samples = EulerMaruyama(score.sde, trainer.averaged).sample(100)

    Args:
        model: the score model; its weights are trained in place.
        loss: noises the data and compares.
        source: the data. Each row is checked once, when it first comes.
        plan: see :class:`Plan`.
        folder: where checkpoints live, seen by all processes; None for none.
        accelerator: an ``accelerate.Accelerator`` of one's own; by default a plain one.

    Attributes:
        step: gradient steps done.
        averaged: a score model with the averaged weights, in evaluation mode.
        history: loss curve, a list of (step, mean loss since the last entry, points per second).

    Raises:
        ValueError: checkpoints are there but none can be used, each with the reason.
    """

    def __init__(
        self,
        model: ScoreModel,
        loss: ScoreMatching,
        source: Source,
        plan: Plan,
        folder: str | Path | None = None,
        *,
        accelerator: Any = None,
    ) -> None:
        if accelerator is None:
            from accelerate import Accelerator
            from accelerate.utils import DistributedDataParallelKwargs

            quiet = DistributedDataParallelKwargs(broadcast_buffers=False)  # none of a score model's changes
            accelerator = Accelerator(kwargs_handlers=[quiet])  # precision is the plan's, not the whole program's
        self.accelerator, self.device = accelerator, accelerator.device
        self.processes, self.rank = int(accelerator.num_processes), int(accelerator.process_index)
        if plan.micro_batch is None:
            if plan.batch_size % self.processes:
                raise ValueError(f"batch_size {plan.batch_size} does not divide by {self.processes} processes")
            plan = replace(plan, micro_batch=plan.batch_size // self.processes)
        assert plan.micro_batch is not None
        self.parts = plan.batch_size // plan.micro_batch
        if self.parts % self.processes:
            raise ValueError(
                f"{self.processes} processes cannot share {self.parts} micro-batches evenly: "
                "lower micro_batch or the number of processes"
            )
        if len(source) < 1:
            raise ValueError("the source of data is empty")
        if loss.weighting == "adaptive":
            raise ValueError("an adaptive weighting is not in the checkpoints: a resumed run would be another one")
        self.loss, self.source, self.plan = loss, source, plan
        self.folder = None if folder is None else Path(folder)
        self.step, self.history = 0, list[tuple[int, float, float]]()
        self._order: tuple[int, Tensor] | None = None
        model.to(self.device).train()
        self._average = WeightAverage(model)
        self.averaged.eval()
        self.averaged.precision = None
        self._weights: list[Tensor] = list(model.parameters())
        optimiser = torch.optim.Adam(self._weights, lr=plan.learning_rate, fused=True)
        if plan.compile:
            model.network.compile()
        model.precision = PRECISIONS[plan.precision]
        self.model = model
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=plan.precision == "fp16")
        self._recent: list[Tensor] = []  # losses since the last entry of the curve
        self._wrapped, self._optimiser = accelerator.prepare(model, optimiser)
        self._resume()
        self._began = self.step

    @property
    def averaged(self) -> ScoreModel:
        """The score model with averaged weights."""
        return cast(ScoreModel, self._average.module)

    # ------------------------------------------------------------------ the loop

    def run(
        self,
        until: int | None = None,
        *,
        progress: bool = True,
        every: Sequence[tuple[int, Callable[[Trainer], None]]] = (),
        unit: str = "pt",
    ) -> None:
        """Train up to a step, saving on the way and at the end.

        Ctrl-C and SIGTERM end it after the step that is running, with a checkpoint; a second Ctrl-C at once.

        Args:
            until: the last step; the plan's by default.
            progress: show a progress bar, on the first process.
            every: pairs (k, f) call ``f(trainer)`` after each k-th step, on the first process: sample grids, logs.
            unit: what the progress bar calls a point.

        Raises:
            SolverError: the loss is no longer finite. The newest checkpoint is from before.
            KeyboardInterrupt: Ctrl-C was pressed.
            SystemExit: SIGTERM came.
        """
        until = self.plan.steps if until is None else until
        until = whole_number(until, "until must be a number of steps", 0)
        size = self.plan.batch_size
        bar = tqdm(
            initial=self.step * size,
            total=until * size,
            disable=not (progress and self.rank == 0),
            desc="training",
            unit=unit,
            unit_scale=True,
            mininterval=progress_interval(),
        )
        with torch.random.fork_rng(enabled=True), bar, Stop() as stop:
            clock, reported = time.perf_counter(), self.step
            while self.step < until and not self._agreed(stop):
                self._recent.append(self._gradient_step())
                self.step += 1
                bar.update(size)
                if self.step % self.plan.report_every == 0 or self.step == self.plan.steps:
                    now = time.perf_counter()
                    mean = self._report((self.step - reported) * size / (now - clock))
                    clock, reported = now, self.step
                    bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
                if self.folder is not None and self.step % self.plan.save_every == 0 and self.step < until:
                    self.save()
                for k, f in every:
                    if self.step % k == 0 and self.rank == 0:
                        f(self)
            if self.folder is not None:
                self.save()
        stop.leave()

    def _agreed(self, stop: Stop) -> bool:
        """Whether any process was asked to stop: all then stop at the same step."""
        asked = stop.asked is not None
        if self.processes == 1:
            return asked
        return bool(self.accelerator.reduce(torch.tensor(float(asked), device=self.device), "sum"))

    def _gradient_step(self) -> Tensor:
        """One step of the optimiser; the mean loss of this process's share, as a tensor."""
        plan = self.plan
        for group in self._optimiser.param_groups:
            group["lr"] = plan.learning_rate * plan.rate(self.step)
        mine = range(self.rank, self.parts, self.processes)
        total = torch.zeros((), device=self.device)
        for part in mine:
            last = part == mine[-1]
            with nullcontext() if last else self.accelerator.no_sync(self._wrapped):
                value = self._part_loss(part)
                self.accelerator.backward(self._scaler.scale(value / len(mine)))
            total += value.detach() / len(mine)
        self._scaler.unscale_(self._optimiser)
        self.accelerator.clip_grad_norm_(self._weights, plan.clip)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._optimiser.zero_grad(set_to_none=True)
        self._update_average()
        return total

    def _update_average(self) -> None:
        """Exponential average whose memory grows with the run, up to its decay."""
        n = int(self._average.n_averaged)
        self._average.update(min(self.plan.average, (1 + n) / (10 + n)))

    def _part_loss(self, part: int) -> Tensor:
        """Mean loss of one part of this step's batch."""
        generator = Generator(device=self.device).manual_seed(self._seed(_DATA, self.step, part))
        torch.manual_seed(self._seed(_NETWORK, self.step, part))
        rows = self._rows(part)
        x, condition = self.source.batch(rows, generator)
        if (self.step - self._began) * self.plan.batch_size < len(self.source):
            self._check_rows(x, rows)  # each once: to look at values makes a device wait
        with trusted():
            noised = self.loss.prepare(x, generator=generator)
            return self.loss.evaluate(self._wrapped, noised, generator=generator, **condition).mean()

    def _check_rows(self, x: Tensor, rows: Tensor) -> None:
        """Refuse data outside the domain, naming the source's row."""
        try:
            self.loss.sde.check_data("data", x)
        except DomainError:
            for row, point in zip(rows.tolist(), x, strict=True):
                self.loss.sde.check_data(f"data, row {row}", point)
            raise

    def _rows(self, part: int) -> Tensor:
        """Rows of the data for one part: the endless stream is one shuffle of all rows after another."""
        n, size = len(self.source), self.plan.batch_size // self.parts
        begin = self.step * self.plan.batch_size + part * size
        index = torch.arange(begin, begin + size)
        epochs = index // n
        return torch.cat([self._shuffle(int(e))[index[epochs == e] % n] for e in epochs.unique()])

    def _shuffle(self, epoch: int) -> Tensor:
        """The order of the rows in an epoch ``[n]``."""
        if self._order is None or self._order[0] != epoch:
            generator = Generator().manual_seed(self._seed(_ORDER, epoch))
            self._order = epoch, torch.randperm(len(self.source), generator=generator)
        return self._order[1]

    def _seed(self, *key: int) -> int:
        """A seed that the plan's and a key decide."""
        return int(np.random.SeedSequence((self.plan.seed, *key)).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def _report(self, speed: float) -> float:
        """Append to the loss curve; the mean loss over all processes."""
        mean = float(self._gathered().mean())
        self._recent.clear()
        self._check_finite(math.isfinite(mean))
        self.history.append((self.step, mean, speed))
        return mean

    def _gathered(self) -> Tensor:
        """Losses since the last entry of the curve, of the whole batch."""
        mine = torch.stack(self._recent) if self._recent else torch.zeros(0, device=self.device)
        return cast(Tensor, self.accelerator.reduce(mine, "mean")) if len(mine) else mine

    def _check_finite(self, finite: bool) -> None:
        """Refuse to go on, and to save, where training has diverged."""
        if not finite:
            raise SolverError(
                f"the loss is not finite near step {self.step}: lower learning_rate (now {self.plan.learning_rate:g})"
            )

    # ------------------------------------------------------------------ checkpoints

    def save(self) -> None:
        """Write a checkpoint of this step, on the first process; the oldest beyond ``keep`` go."""
        if self.folder is None:
            raise ValueError("this trainer was given no folder")
        recent = self._gathered()
        weights = [bool(v.isfinite().all()) for v in self.model.parameters()]
        self._check_finite(bool(recent.isfinite().all()) and all(weights))
        if self.rank == 0:
            tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
            tensors |= {f"average.{k}": v for k, v in self._average.state_dict().items()}
            state = self._optimiser.state_dict()["state"]
            tensors |= {f"optimiser.{i}.{k}": v for i, entry in state.items() for k, v in entry.items()}
            config = {
                "trainer": self._identity(),
                "step": self.step,
                "history": self.history,
                "recent": recent.tolist(),
                "scaler": self._scaler.state_dict(),
            }
            save_step(self.folder, self.step, config, tensors, keep=self.plan.keep)
        self.accelerator.wait_for_everyone()

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        plan = {k: v for k, v in asdict(self.plan).items() if k not in _FREE}
        describe = getattr(self.model.network, "config", lambda: None)
        values = {"plan": plan, "process": _described(self.loss.sde), "loss": repr(self.loss), "network": describe()}
        values["rows"] = len(self.source)
        return cast(dict[str, Any], json.loads(json.dumps(values)))  # as it comes back from a file

    def _resume(self) -> None:
        """Go on from the newest checkpoint that is sound and of this run."""
        if self.folder is None:
            return
        found = load_newest(self.folder, self._check)
        if found is None:
            return
        config, tensors = found
        self.model.load_state_dict(_part(tensors, "model"))
        self._average.load_state_dict(_part(tensors, "average"))
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, "optimiser").items():
            index, key = name.split(".", 1)
            entries.setdefault(int(index), {})[key] = value
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": entries, "param_groups": groups})
        if config["scaler"]:
            self._scaler.load_state_dict(config["scaler"])
        self._recent = list(torch.tensor(config["recent"], device=self.device))
        self.step, self.history = config["step"], [tuple(entry) for entry in config["history"]]

    def _check(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Raise ValueError if a checkpoint is not of this run."""
        saved = config.get("trainer")
        if not isinstance(saved, dict):
            raise ValueError("it is no checkpoint of a trainer")
        for name, value in self._identity().items():
            if saved.get(name) != value:
                raise ValueError(f"it was made with another {name}: {_difference(saved.get(name), value)}")
        for name, kind in (("step", int), ("history", list), ("recent", list), ("scaler", dict)):
            if not isinstance(config.get(name), kind):
                raise ValueError(f"it has no {name}")
        shapes = {k: v.shape for k, v in self.model.state_dict().items()}
        if {k: v.shape for k, v in _part(tensors, "model").items()} != shapes:
            raise ValueError("its weights do not fit the network")


def load_averaged(folder: str | Path, model: ScoreModel) -> int:
    """Load the averaged weights of a trainer's newest sound checkpoint into a score model, in evaluation mode.

    Args:
        folder: the trainer's.
        model: a score model built as the trainer's was.

    Returns:
        The step they are of.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: there are some, but none can be used, each with the reason.
    """
    shapes = {k: v.shape for k, v in model.state_dict().items()}

    def check(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        if "trainer" not in config:
            raise ValueError("it is no checkpoint of a trainer")
        if {k: v.shape for k, v in _part(tensors, "average.module").items()} != shapes:
            raise ValueError("its weights do not fit the network")

    found = load_newest(Path(folder), check)
    if found is None:
        raise FileNotFoundError(f"no checkpoint in {folder}")
    config, tensors = found
    model.load_state_dict(_part(tensors, "average.module"))
    model.eval()
    return int(config["step"])


def _described(process: Process) -> dict[str, Any]:
    """What tells a process from others, whatever its texts leave out; the same in every program."""
    domain = repr(process.domain)
    with suppress(TypeError, ValueError, AttributeError):  # functions without a name: the text has to do
        domain += f" [{hashlib.sha256(json.dumps(process.domain.config()).encode()).hexdigest()[:8]}]"
    sigma = process.sigma(torch.linspace(0, 1, _TIMES, dtype=torch.float64)).tolist()
    return {"kind": type(process).__name__, "domain": domain, "sigma": [float(f"{s:.6g}") for s in sigma]}


def _difference(saved: object, wanted: object) -> str:
    """What differs between two values, of dictionaries the first entry that does."""
    if isinstance(saved, dict) and isinstance(wanted, dict):
        for key in [*wanted, *saved]:
            if saved.get(key) != wanted.get(key):
                return f"{key} {saved.get(key)!r}, not {wanted.get(key)!r}"
    return f"{saved}, not {wanted}"


def _part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors under a name, without it."""
    return {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
