"""When to stop training: the loss of data held back, and the weights with which it was least.

May use: torch, losses, scores.
"""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext

import torch
from torch import Generator, Tensor

from .losses import ScoreMatching
from .scores import ScoreModel

__all__ = ["HeldBack"]

_POINTS = 4096  # noised points on which the loss is measured: enough that a per cent is seen
_PART = 1024  # of them at a time


class HeldBack:
    """Watches the loss on data that are not trained on, always at the same noise, and keeps the best weights.

    Args:
        loss: as in training.
        x: data held back, ``[n, *event_shape]``.
        condition: one row ``[n, k]`` for each, or None.
        patience: how many looks without a lower loss end the training.
        seed: of the noise.
        history: filled with (step, loss).
    """

    def __init__(
        self,
        loss: ScoreMatching,
        x: Tensor,
        condition: Tensor | None,
        *,
        patience: int,
        seed: int = 0,
        history: list[tuple[int, float]] | None = None,
    ) -> None:
        self.loss, self.patience, self.seed = loss, patience, seed
        rows = torch.arange(max(len(x), _POINTS), device=x.device) % len(x)
        self._noised = loss.prepare(x[rows], generator=self._generator(x))
        self._extra = {} if condition is None else {"condition": condition[rows]}
        self.history: list[tuple[int, float]] = [] if history is None else history
        self._best, self._waited = math.inf, 0
        self._state: dict[str, Tensor] | None = None

    def look(self, step: int, model: ScoreModel) -> bool:
        """Measure the loss of a model after ``step`` steps; True if it is time to stop."""
        value = self.measure(model)
        self.history.append((step, value))
        if value < self._best:
            self._best, self._waited = value, 0
            self._state = copy.deepcopy(model.state_dict())
        else:
            self._waited += 1
        return self._waited >= self.patience

    def measure(self, model: ScoreModel) -> float:
        """Mean loss of the data held back."""
        training = model.training
        model.eval()
        generator = self._generator(self._noised.x)
        quiet = torch.no_grad() if self._noised.target is not None else nullcontext()  # else the loss differentiates
        total = 0.0
        with quiet:
            for rows in torch.arange(len(self._noised.x), device=self._noised.x.device).split(_PART):
                extra = {k: v[rows] for k, v in self._extra.items()}
                part = self.loss.evaluate(model, self._noised[rows], generator=generator, **extra)
                total += float(part.detach().sum())
        model.train(training)
        return total / len(self._noised.x)

    def restore(self, model: ScoreModel) -> None:
        """Give a model the weights with which the loss was least, if it was ever measured."""
        if self._state is not None:
            model.load_state_dict(self._state)

    def _generator(self, like: Tensor) -> Generator:
        return torch.Generator(device=like.device).manual_seed(self.seed)
