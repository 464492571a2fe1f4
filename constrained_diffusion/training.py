"""The training loop: batches, optimiser, averaged weights, progress.

May use: torch, tqdm, losses, scores.
"""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Generator, Tensor, nn
from tqdm.auto import trange

from .averaging import WeightAverage
from .domains.checks import SolverError, trusted, whole_number
from .losses import ScoreMatching
from .pool import NoisePool
from .scores import ScoreModel
from .stopping import HeldBack

__all__ = ["Recipe", "train"]

_REPORT = 50  # steps between two entries of the loss curve
_LOOKS = 50  # at the data held back, in a run


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        steps: gradient steps.
        batch_size: points in each.
        learning_rate: of Adam, at its peak; warmed up over the first steps and annealed to zero by a cosine.
        average: share of the run over which the exponential average of the weights reaches back.
        clip: largest norm of the gradient.
        reuse: how many batches each noised point serves; more than 1 where noise is dear.
        hide: share of conditions replaced by the null token, so that the model also learns to do without.
        held_back: share of the data not trained on, by whose loss the training ends and the weights are chosen.
        patience: how many of fifty looks at it, without a lower loss, end the training.
    """

    steps: int = 5000
    batch_size: int = 512
    learning_rate: float = 2e-3
    average: float = 0.02
    clip: float = 1.0
    reuse: int = 1
    hide: float = 0.0
    held_back: float = 0.0
    patience: int = 10

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        for name in ("steps", "batch_size", "reuse", "patience"):
            object.__setattr__(self, name, whole_number(getattr(self, name), f"{name} must be a positive integer", 1))
        if not 0 <= self.hide < 1:
            raise ValueError(f"hide must lie in [0, 1), not {self.hide!r}")
        if not 0 <= self.held_back < 1:
            raise ValueError(f"held_back must lie in [0, 1), not {self.held_back!r}")
        if not isinstance(self.learning_rate, numbers.Real) or not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate!r}")

    def rate(self, step: int) -> float:
        """Learning rate at a step, as a share of the peak."""
        warm = min(1.0, (step + 1) / max(1, min(200, self.steps // 10)))
        return warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def train(
    model: ScoreModel,
    loss: ScoreMatching,
    x: Tensor,
    recipe: Recipe,
    *,
    generator: Generator,
    condition: Tensor | None = None,
    progress: bool = True,
    history: list[tuple[int, float]] | None = None,
    validation_history: list[tuple[int, float]] | None = None,
) -> None:
    """Train a score model in place; it ends with the averaged weights.

    Args:
        model: the score model.
        loss: noises the data and compares.
        x: data inside the domain ``[n, *event_shape]``, on the model's device. Checked here once.
        recipe: see :class:`Recipe`.
        generator: source of the batches and the noise, on the data's device.
        condition: one row ``[n, k]`` for each point, or None.
        progress: show a progress bar.
        history: filled with (step, mean loss since the last entry); steps count on from the last entry in it.
        validation_history: likewise with (step, loss of the data held back).

    Raises:
        SolverError: the loss is no longer finite.
        KeyboardInterrupt: as pressed; the averaged weights reached so far are in the model.
    """
    loss.sde.check_data("x", x)
    watch, chosen = _hold_back(loss, x, condition, recipe, generator, validation_history)
    model.train()
    average, weights = WeightAverage(model), list(model.parameters())
    optimiser = torch.optim.Adam(weights, lr=recipe.learning_rate, betas=(0.9, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, recipe.rate)
    pool = NoisePool(
        loss,
        x[chosen],
        None if condition is None else condition[chosen],
        batch_size=recipe.batch_size,
        batches=recipe.steps,
        reuse=recipe.reuse,
        generator=generator,
    )
    recent: list[Tensor] = []
    done = history[-1][0] if history else 0
    look = max(1, recipe.steps // _LOOKS)
    bar = trange(recipe.steps, disable=not progress, desc="training", mininterval=progress_interval())
    try:
        with trusted(), _own_stream(generator), bar:
            for step in bar:
                noised, extra = pool.draw()
                if recipe.hide and extra:
                    extra = _hidden(extra, recipe.hide, generator)
                losses = loss.evaluate(model, noised, generator=generator, **extra)
                loss.learn(noised, losses)
                value = losses.mean()
                optimiser.zero_grad(set_to_none=True)
                value.backward()
                nn.utils.clip_grad_norm_(weights, recipe.clip)
                optimiser.step()
                schedule.step()
                average.update(_decay(recipe))
                recent.append(value.detach())
                if len(recent) == _REPORT or step + 1 == recipe.steps:
                    mean = float(torch.stack(recent).mean())
                    recent.clear()
                    if not math.isfinite(mean):
                        raise SolverError(
                            f"the loss is {mean} near step {step + 1}: lower learning_rate "
                            f"(now {recipe.learning_rate:g})"
                        )
                    bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
                    if history is not None:
                        history.append((done + step + 1, mean))
                due = (step + 1) % look == 0 or step + 1 == recipe.steps
                if watch is not None and due and watch.look(done + step + 1, cast(ScoreModel, average.module)):
                    if history is not None and recent:
                        history.append((done + step + 1, float(torch.stack(recent).mean())))
                    break
    finally:
        model.eval()
        if int(average.n_averaged):
            model.load_state_dict(average.module.state_dict())
        if watch is not None:
            watch.restore(model)


def _hold_back(
    loss: ScoreMatching,
    x: Tensor,
    condition: Tensor | None,
    recipe: Recipe,
    generator: Generator,
    history: list[tuple[int, float]] | None,
) -> tuple[HeldBack | None, slice | Tensor]:
    """What watches some of the data, if the recipe wants it, and the rows to train on."""
    if not recipe.held_back:
        return None, slice(None)
    if len(x) < 2:
        raise ValueError("x has one point: there is nothing to hold back")
    order = torch.randperm(len(x), generator=generator, device=x.device)
    size = min(len(x) - 1, max(1, round(recipe.held_back * len(x))))
    few, others = order[:size], order[size:]
    rows = None if condition is None else condition[few]
    return HeldBack(
        loss, x[few], rows, patience=recipe.patience, seed=generator.initial_seed(), history=history
    ), others


@contextmanager
def _own_stream(generator: Generator) -> Iterator[None]:
    """Let modules that draw from the global random state (dropout) follow from a generator, which is not moved."""
    twin = torch.Generator(device=generator.device)
    twin.set_state(generator.get_state())
    seed = int(torch.randint(2**62, (), generator=twin, device=generator.device))
    cuda = generator.device.type == "cuda"
    with torch.random.fork_rng([generator.device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(generator.device):
                torch.cuda.manual_seed(seed)
        yield


def _hidden(extra: dict[str, Tensor], share: float, generator: Generator) -> dict[str, Tensor]:
    """Conditions ``[B, ...]`` of which some rows have become the null token, NaN."""
    size = len(next(iter(extra.values())))
    device = next(iter(extra.values())).device
    gone = torch.rand(size, generator=generator, device=device) < share
    return {k: v.masked_fill(gone.reshape(-1, *(1,) * (v.ndim - 1)), math.nan) for k, v in extra.items()}


def progress_interval() -> float:
    """Seconds between two updates of a progress bar: seldom where it is not a terminal that shows it but a log."""
    return 0.5 if sys.stderr.isatty() else 15.0


def _decay(recipe: Recipe) -> float:
    """Decay of the exponential average: it reaches back over a share of the run."""
    return 1 - 1 / max(2.0, recipe.average * recipe.steps)
