"""What is compared: this library's models, and what people would use instead, at equal networks and budgets.

A method is fitted to points and gives one or several rows of the table, which differ in how it draws samples. The
baselines are written from their papers, on this library's networks, training loop and samplers.
"""

from __future__ import annotations

import copy
import types
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from barrier import BarrierDiffusion
from charts import Chart, FlatChart, Standardised, half_spaces, mirror_map
from tasks import Task
from torch import Tensor

from constrained_diffusion import (
    Domain,
    Euclidean,
    EulerMaruyama,
    Heun,
    Hypercube,
    Polytope,
    PredictorCorrector,
    ProbabilityFlow,
    Process,
    RectifiedFlow,
    ReflectedDiffusion,
    Sampler,
    Simplex,
)
from constrained_diffusion.flows import flow_over

_STEP, _FEWEST, _MOST = 0.1, 16, 512  # of a Metropolis chain: in inradii, and their numbers
_MOST_PATHS = 20  # dimensions in which paths are simulated though there is a kernel
_MOST_METRIC = 9  # dimensions in which the barrier's metric is inverted at each point and step

__all__ = ["BASELINE", "METHODS", "REFERENCE", "Budget", "Fitted", "Method", "simulated"]

BASELINE = "unconstrained"  # to whose times the others are compared
REFERENCE = "training points"  # no model, but what is to be had of the data


@dataclass(frozen=True)
class Budget:
    """What every method may spend.

    Attributes:
        width, depth: of the network.
        steps, batch_size: of training.
        walk: steps of a sampler.
    """

    width: int = 128
    depth: int = 2
    steps: int = 8000
    batch_size: int = 256
    walk: int = 250

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the library's estimator."""
        return {"width": self.width, "depth": self.depth, "steps": self.steps, "batch_size": self.batch_size}


Draw = Callable[[int, int], tuple[Tensor, int]]
"""``draw(n, seed)``: points ``[n, *event_shape]``, and network evaluations for each."""


@dataclass(frozen=True)
class Fitted:
    """A trained model.

    Attributes:
        draws: ways to draw samples, by the name of the row; the first is the method's own.
        log_prob: log-density ``[n]`` at points, or None.
        moved: rows whose samples are those of another row, moved: its name, and the function that moves them.
    """

    draws: dict[str, Draw]
    log_prob: Callable[[Tensor], Tensor] | None = None
    moved: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = field(default_factory=dict)


class Method(ABC):
    """A way to model data in a domain.

    Attributes:
        name: of its first row; the others start with it.
        own: whether it is this library's.
    """

    name: str
    own = False

    def refuses(self, task: Task) -> str | None:
        """Why it cannot be used on a task, or None."""
        return None

    @abstractmethod
    def fit(self, task: Task, train: Tensor, budget: Budget, seed: int) -> Fitted:
        """Train on points ``[n, *event_shape]``."""


class TrainingPoints(Method):
    """The points that the others are trained on, in place of samples: a model cannot be expected to be nearer."""

    name = REFERENCE

    def fit(self, task: Task, train: Tensor, budget: Budget, seed: int) -> Fitted:
        return Fitted({self.name: lambda n, seed: (train[:n], 0)})


# ---------------------------------------------------------------------- this library


class Reflected(Method):
    """This library's default: the kernel's score where there is a kernel, else simulated paths."""

    name = "reflected"
    own = True

    def fit(self, task: Task, train: Tensor, budget: Budget, seed: int) -> Fitted:
        model = ReflectedDiffusion(task.domain, seed=seed, **budget.options).fit(train, progress=False)
        draws = {
            "reflected": draw(model, EulerMaruyama, budget.walk),
            "reflected, corrector": draw(model, PredictorCorrector, budget.walk // 2),
            "reflected, ODE": draw(model, lambda *a, **_: ProbabilityFlow(*a), None),
        }
        return Fitted(draws, lambda x: density(model, x))


class Paths(Method):
    """The same, trained on targets of simulated paths although there is a kernel."""

    name = "reflected, path targets"
    own = True

    def refuses(self, task: Task) -> str | None:
        if not task.domain.has_exact_kernel:
            return "has no other targets: see the row above"
        if task.domain.dim > _MOST_PATHS:
            return f"beyond {_MOST_PATHS} dimensions training takes over forty times the baseline's time"
        return None

    def fit(self, task: Task, train: Tensor, budget: Budget, seed: int) -> Fitted:
        model = ReflectedDiffusion(simulated(task.domain), seed=seed, **budget.options).fit(train, progress=False)
        return Fitted({self.name: draw(model, EulerMaruyama, budget.walk)}, lambda x: density(model, x))


class Flow(Method):
    """Reflected flow matching (Xie, Zhu, Yu et al. 2024, arXiv 2405.16577): straight lines from uniform points."""

    name = "flow matching"

    def refuses(self, task: Task) -> str | None:
        return None if isinstance(flow_over(task.domain), RectifiedFlow) else "lines between points leave the domain"

    def fit(self, task: Task, train: Tensor, budget: Budget, seed: int) -> Fitted:
        model = ReflectedDiffusion(task.domain, process="flow", seed=seed, **budget.options)
        model.fit(train, progress=False)
        return Fitted({self.name: draw(model, Heun, budget.walk // 2)}, lambda x: density(model, x))


# ---------------------------------------------------------------------- no walls


class Unconstrained(Method):
    """Diffusion in the affine hull, whose samples are projected in the end, or denoised points at each step."""

    name = BASELINE

    def fit(self, task: Task, train: Tensor, budget: Budget, seed: int) -> Fitted:
        chart = Standardised(FlatChart(task.domain), train)
        model = free_model(chart, train, budget, seed)

        def clip(y: Tensor) -> Tensor:
            return chart.to(task.domain.project(chart.back(y))).float()

        plain = draw(model, EulerMaruyama, budget.walk)

        def raw(n: int, seed: int) -> tuple[Tensor, int]:
            y, nfe = plain(n, seed)
            return chart.back(y), nfe

        def make(process: Process, score: Callable[..., Tensor], **options: Any) -> Sampler:
            return EulerMaruyama(process, Thresholded(score, process, model_units(model, clip)), **options)

        def thresholded(n: int, seed: int) -> tuple[Tensor, int]:
            y, nfe = draw(model, make, budget.walk)(n, seed)
            return task.domain.project(chart.back(y)), nfe

        draws = {"unconstrained": raw, "unconstrained, thresholded": thresholded}
        moved = {"unconstrained, projected": ("unconstrained", task.domain.project)}
        return Fitted(draws, lambda x: density(model, chart.to(x)) + chart.log_det(x), moved)


class Thresholded:
    """A score whose denoised points are moved into a domain: the static thresholding of image models."""

    def __init__(self, score: Callable[..., Tensor], process: Process, clip: Callable[[Tensor], Tensor]) -> None:
        self.score, self.process, self.clip = score, process, clip

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        variance = self.process.expand(self.process.sigma(t)) ** 2
        return (self.clip(x + variance * self.score(x, t, **condition)) - x) / variance


class Mirror(Method):
    """Unconstrained diffusion in the dual space of a mirror map (Liu et al. 2023, arXiv 2310.01236).

    On a simplex it is diffusion of log-ratios, what compositional data analysis would do. Points on the wall have no
    image: where more than one in a thousand lies there, all are moved towards a middle point by a share of 0.001.
    """

    name = "mirror map"

    def refuses(self, task: Task) -> str | None:
        return "no mirror map is known" if mirror_map(task.domain) is None else None

    def fit(self, task: Task, train: Tensor, budget: Budget, seed: int) -> Fitted:
        domain = task.domain
        middle = domain.sample_uniform(4096, generator=torch.Generator().manual_seed(0), dtype=torch.float64).mean(0)
        on_wall = domain.boundary(train)[0] <= 1e-7 * domain.inradius
        share = 1e-3 if float(on_wall.double().mean()) > 1e-3 else 1e-7

        def inner(x: Tensor) -> Tensor:
            return middle + (1 - share) * (x.double() - middle)

        chart = Standardised(mirror_map(domain), inner(train))
        model = free_model(chart, inner(train), budget, seed)
        plain = draw(model, EulerMaruyama, budget.walk)

        def mapped(n: int, seed: int) -> tuple[Tensor, int]:
            y, nfe = plain(n, seed)
            return domain.project(chart.back(y.double()).float()), nfe

        return Fitted({self.name: mapped}, lambda x: density(model, chart.to(inner(x))) + chart.log_det(inner(x)))


# ---------------------------------------------------------------------- other noising processes


class Metropolis(Method):
    """Noise whose moves outside are not made, and implicit score matching (Fishman et al. 2023, arXiv 2307.05439)."""

    name = "Metropolis, implicit"

    def fit(self, task: Task, train: Tensor, budget: Budget, seed: int) -> Fitted:
        loss = "implicit" if task.domain.dim <= 4 else "sliced"
        model = ReflectedDiffusion(by_metropolis(task.domain), loss=loss, reuse=3, seed=seed, **budget.options)
        model.fit(train, progress=False)
        return Fitted({self.name: draw(model, EulerMaruyama, budget.walk)})


def by_metropolis(domain: Domain) -> Domain:
    """The same set, in which a move that would end outside is not made, and noise is a chain of such moves."""
    twin = copy.copy(domain)

    def reflect(x: Tensor, displacement: Tensor) -> Tensor:
        moved = x + domain.tangent(x, displacement)
        return torch.where(domain.expand(domain.contains(moved)), moved, x)

    def noise(x0: Tensor, sigma: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        steps = int((sigma.max() / (_STEP * domain.inradius)).square().clamp(_FEWEST, _MOST))
        size = domain.expand(sigma / steps**0.5)
        x = x0
        for _ in range(steps):
            x = reflect(x, size * domain.sample_noise(x, generator=generator))
        return x

    twin.reflect, twin.noise = reflect, noise
    return twin


class Barrier(Method):
    """Noise in the metric of a log-barrier, and implicit score matching (Fishman et al. 2023, arXiv 2304.05364)."""

    name = "log-barrier, implicit"

    def refuses(self, task: Task) -> str | None:
        if not isinstance(task.domain, Hypercube | Polytope | Simplex):
            return "a log-barrier needs half-spaces"
        if task.domain.dim > _MOST_METRIC:
            return f"beyond {_MOST_METRIC} dimensions training takes over fifteen times the baseline's time"
        return None

    def fit(self, task: Task, train: Tensor, budget: Budget, seed: int) -> Fitted:
        chart = FlatChart(task.domain)

        def uniform(n: int, generator: torch.Generator) -> Tensor:
            return chart.to(task.domain.sample_uniform(n, generator=generator))

        model = BarrierDiffusion(*half_spaces(task.domain, chart), uniform, budget, seed).fit(chart.to(train))

        def mapped(n: int, seed: int) -> tuple[Tensor, int]:
            y = model.sample(n, torch.Generator().manual_seed(seed))
            return task.domain.project(chart.back(y)), budget.walk

        return Fitted({self.name: mapped})


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        TrainingPoints(),
        Unconstrained(),
        Reflected(),
        Paths(),
        Flow(),
        Mirror(),
        Metropolis(),
        Barrier(),
    )
}


# ---------------------------------------------------------------------- parts


def simulated(domain: Domain) -> Domain:
    """The same set, whose noise is simulated though there is a kernel."""
    twin = copy.copy(domain)
    twin.has_exact_kernel = False
    twin.diffuse = types.MethodType(Domain.diffuse, twin)
    return twin


class Counted:
    """A score that counts how often it is asked."""

    def __init__(self, score: Callable[..., Tensor]) -> None:
        self.score, self.calls = score, 0

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        self.calls += 1
        return self.score(x, t, **condition)


def draw(model: ReflectedDiffusion, kind: Callable[..., Sampler], steps: int | None) -> Draw:
    """Samples by one kind of sampler, and its evaluations of the network."""

    def run(n: int, seed: int) -> tuple[Tensor, int]:
        scores: list[Counted] = []

        def make(process: Any, score: Any, **options: Any) -> Sampler:
            scores.append(Counted(score))
            return kind(process, scores[-1], **options)

        parts = -(-n // 5000)
        x = model.sample(n, seed=seed, steps=steps, sampler=make, batch_size=5000)
        return x, sum(s.calls for s in scores) // parts

    return run


def density(model: ReflectedDiffusion, x: Tensor) -> Tensor:
    return model.log_prob(x, rtol=1e-4, atol=1e-4).double()


def free_model(chart: Chart, train: Tensor, budget: Budget, seed: int) -> ReflectedDiffusion:
    y = chart.to(train).float()
    return ReflectedDiffusion(Euclidean(y.shape[1]), seed=seed, **budget.options).fit(y, progress=False)


def model_units(model: ReflectedDiffusion, clip: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``clip`` in the units in which a model computes."""
    change = model.units_.change
    return clip if change is None else lambda y: change.inverse(clip(change(y))).to(y)
