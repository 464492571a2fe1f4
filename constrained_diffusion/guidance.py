r"""Guidance: scores made of scores, to sample what satisfies a condition; by observations, in :mod:`.inverse`.

Each class is a callable ``score(x, t, **condition)`` and goes wherever a score does: every sampler, the flow, the
likelihood. What is added to a model's score is a gradient in the domain's metric that loses its component across the
walls near them, so that guided flows stay inside at any weight, with nothing clipped. ``evaluations`` says how
often the model is evaluated in one call, so that samplers count truly.

May use: the process, autograd.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .domains.checks import ShapeError
from .process import Score
from .sde import ReflectedSDE

__all__ = ["ClassifierFreeGuidance", "ClassifierGuidance", "LikelihoodGuidance", "evaluations"]


def evaluations(score: Score) -> int:
    """How often one call of a score evaluates its model; one if it does not say."""
    return int(getattr(score, "evaluations", 1))


class ClassifierFreeGuidance:
    r"""(1 + w) s(x | condition) - w s(x | null): Ho & Salimans 2022, arXiv 2207.12598.

    A linear combination of scores, or of velocities, so that whatever vanishes at the walls still does. Both
    evaluations are one call of twice the batch.

    Args:
        score: a model trained with and without conditions.
        weight: w; 0 is the conditional model, -1 the unconditional one.
        null: what stands for no condition: for each keyword a tensor of the shape of one point's condition, or of
            a whole batch. A *negative* condition, to move away from, goes here instead.
    """

    def __init__(self, score: Score, weight: float, *, null: Mapping[str, Tensor]) -> None:
        if not math.isfinite(weight):
            raise ValueError(f"weight must be finite, not {weight!r}")
        self.score, self.weight = score, float(weight)
        self.null = {name: torch.as_tensor(value) for name, value in null.items()}
        self.evaluations = 2 * evaluations(score)

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        """The guided score ``[*batch, *event_shape]``; conditions ``[*batch, ...]`` of any shape."""
        if set(condition) != set(self.null):
            raise ValueError(f"null has {sorted(self.null)}, the condition {sorted(condition)}: name the same tensors")
        pairs = {k: torch.stack([c, self._like(k, c)]) for k, c in condition.items()}
        both: Tensor = self.score(x.expand(2, *x.shape), t.expand(2, *t.shape), **pairs)
        return both[0] + self.weight * (both[0] - both[1])

    def _like(self, name: str, condition: Tensor) -> Tensor:
        null = self.null[name].to(condition)
        try:
            return null.expand(condition.shape)
        except RuntimeError:
            raise ShapeError(
                f"null[{name!r}] has shape {list(null.shape)}; the condition has {list(condition.shape)}"
            ) from None


class LikelihoodGuidance(ABC):
    """A score plus a weight times the gradient of a log-likelihood of what was observed.

    Args:
        sde: the forward process of the score.
        score: a model without the condition.
        weight: factor of the gradient; 1 is Bayes' rule.
    """

    def __init__(self, sde: ReflectedSDE, score: Score, weight: float) -> None:
        if not isinstance(sde, ReflectedSDE):
            raise TypeError(f"{type(self).__name__} needs a ReflectedSDE, not a {type(sde).__name__}")
        if not math.isfinite(weight):
            raise ValueError(f"weight must be finite, not {weight!r}")
        self.sde, self.score, self.weight = sde, score, float(weight)
        self.evaluations = evaluations(score)

    @abstractmethod
    def model_and_pull(self, x: Tensor, t: Tensor, condition: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The model's score, and partial derivatives of the log-likelihood, both ``[*batch, *event_shape]``."""

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        """The guided score ``[*batch, *event_shape]``."""
        domain = self.sde.domain
        s, pull = self.model_and_pull(x, t, condition)
        sigma = self.sde.sigma(t).to(x.dtype).expand(x.shape[: x.ndim - len(domain.event_shape)])
        return s + self.weight * domain.damp_normal(x, domain.gradient(x, pull), sigma)


class ClassifierGuidance(LikelihoodGuidance):
    r"""s(x) + w grad log p(y | x): Dhariwal & Nichol 2021, arXiv 2105.05233.

    Args:
        sde: the forward process of the score.
        score: an unconditional model.
        classifier: ``classifier(x, t, **condition)`` returns the log-probabilities ``[*batch]`` of what is wanted, at
            noised points and their times, differentiably. The condition is given to the classifier alone.
        weight: w.
    """

    def __init__(self, sde: ReflectedSDE, score: Score, classifier: Callable[..., Tensor], weight: float = 1.0) -> None:
        super().__init__(sde, score, weight)
        self.classifier = classifier

    def model_and_pull(self, x: Tensor, t: Tensor, condition: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The unconditional score, and the derivatives of the classifier's log-probability."""
        graph = torch.is_grad_enabled() and x.requires_grad  # someone differentiates the guided score itself
        with torch.enable_grad():
            leaf = x if graph else x.detach().requires_grad_()
            log_p = self.classifier(leaf, t, **condition)
            batch = x.shape[: x.ndim - len(self.sde.domain.event_shape)]
            if log_p.shape != batch:
                raise ShapeError(f"classifier returned shape {list(log_p.shape)}; expected {list(batch)}")
            (pull,) = torch.autograd.grad(log_p.sum(), leaf, create_graph=graph)
        return self.score(x, t), pull
