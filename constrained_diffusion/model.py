"""The estimator people start with: ``ReflectedDiffusion(domain).fit(x).sample(n)``.

May use: everything below.
"""

from __future__ import annotations

import copy
import numbers
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from .checkpoints import load_run, save_run
from .data import (
    Array,
    Kind,
    check_columns,
    check_device,
    check_same_rows,
    choose_sigma_min,
    column_names,
    condition_rows,
    to_tensor,
)
from .domains import Domain
from .domains.checks import ShapeError, batch_shape, whole_number
from .domains.given import require_domain
from .flows import flow_over
from .guidance import ClassifierFreeGuidance
from .latent import decode, encode, interpolate
from .likelihood import log_prob
from .losses import LOSSES, Weighting
from .networks import MLP, null_condition
from .parameters import Parameters
from .process import Process, Score
from .samplers import EulerMaruyama, Heun, Sampler
from .scores import ScoreModel
from .sde import ReflectedSDE
from .training import Recipe, train
from .units import Units

__all__ = ["ReflectedDiffusion"]

# Batches that a point noised by a simulated path serves: simulating then costs about a gradient step of the default
# network. With 8 the noise of the targets was learnt: sliced Wasserstein 1.8 times its floor instead of 0.9 with 2.
_REUSE = 3


class ReflectedDiffusion(Parameters):
    """A generative model of data in a domain, whose samples never leave it.

    >>> from constrained_diffusion import Hypercube, ReflectedDiffusion
    >>> model = ReflectedDiffusion(Hypercube(2)).fit(x)  # x: numpy array or tensor [n, 2] in the unit square
    >>> samples = model.sample(1000)  # of the same kind, all inside

    Args:
        domain: where the data live.
        network: a function that makes the network, ``network(domain) -> nn.Module`` with the call
            ``module(x, log_sigma)``, or ``module(x, log_sigma, condition=)``; by default an :class:`MLP` of ``width``
            and ``depth``. One with an attribute ``condition_dim`` is taken to know rows of NaN as no condition.
        width: hidden units of the default network.
        depth: residual blocks of the default network.
        dropout: of the default network; 0.1 to 0.3 where a thousand points or fewer are all there is.
        process: ``"diffusion"`` (:class:`ReflectedSDE`), or ``"flow"`` (:class:`RectifiedFlow` in convex domains, else
            :class:`DiffusionFlow`).
        sigma_min: least noise; by default from the spacing of the data and their distance from the wall. Its unit is
            that of the data, but for boxes whose sides differ, which are mapped to the unit cube, and R^d, where the
            data are standardised (:meth:`Domain.normalised`).
        sigma_max: most noise, in the same unit; by default from the domain's spectral gap.
        condition_dropout: share of conditions hidden while training, so that the model can also do without one, and
            be guided; 0 for none.
        loss: ``"denoising"``, or ``"implicit"`` or ``"sliced"``, which need no denoising targets but have more
            variance (:class:`ImplicitScoreMatching`, :class:`SlicedScoreMatching`).
        weighting: of noise levels in the loss, see :class:`ScoreMatching`; by default ``"adaptive"``, or ``"fidelity"``
            for flows and for losses without targets, whose noise would mislead it. Of few data the adaptive one learns
            by heart sooner: take fewer steps, ``dropout``, or ``early_stopping``.
        steps: gradient steps.
        batch_size: points in each.
        reuse: how many gradient steps each noised point serves; by default 1, or 3 where noise is simulated.
        learning_rate: of Adam.
        early_stopping: hold back part of the data, stop where their loss no longer falls, and keep the weights with
            which it was least.
        validation_fraction: the share held back.
        patience: how many looks without a lower loss end the training; there are fifty looks in ``steps``.
        seed: of everything random in ``fit`` and of the first ``sample`` after it.
        device: where to train and sample; by default where the data are.

    Attributes:
        sde_: the process, once fitted, over the domain in normal form.
        score_: the :class:`ScoreModel`, once fitted.
        units_: between the data's units and those of the normal form.
        feature_names_in_: the columns of the data frame that ``fit`` was given, in order; absent otherwise.
        condition_names_in_: likewise those of the conditions.
        history_: loss curve, a list of (step, mean loss); where the weighting adapts, each by the weights of its time.
        validation_history_: loss of the data held back, a list of (step, loss); empty without early stopping.
    """

    sde_: Process
    score_: ScoreModel
    units_: Units
    feature_names_in_: list[str]
    condition_names_in_: list[str]
    history_: list[tuple[int, float]]
    validation_history_: list[tuple[int, float]]

    def __init__(
        self,
        domain: Domain,
        *,
        network: Callable[[Domain], nn.Module] | None = None,
        width: int = 256,
        depth: int = 3,
        dropout: float = 0.0,
        process: Literal["diffusion", "flow"] = "diffusion",
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        condition_dropout: float = 0.1,
        loss: Literal["denoising", "implicit", "sliced"] = "denoising",
        weighting: Weighting | None = None,
        steps: int = 5000,
        batch_size: int = 512,
        reuse: int | None = None,
        learning_rate: float = 2e-3,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 10,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        self.domain = domain
        self.network = network
        self.process: Literal["diffusion", "flow"] = process
        self.condition_dropout = condition_dropout
        self.width, self.depth, self.dropout = width, depth, dropout
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.loss: Literal["denoising", "implicit", "sliced"] = loss
        self.weighting: Weighting | None = weighting
        self.steps, self.batch_size, self.learning_rate = steps, batch_size, learning_rate
        self.reuse = reuse
        self.early_stopping, self.validation_fraction, self.patience = early_stopping, validation_fraction, patience
        self.seed, self.device = seed, device
        self._check_parameters()

    def _check_parameters(self) -> None:
        require_domain(self.domain)
        for name, known in (("loss", tuple(LOSSES)), ("process", _PROCESSES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, not {getattr(self, name)!r}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must lie in (0, 1), not {self.validation_fraction!r}")
        if not 0 <= self.condition_dropout < 1:
            raise ValueError(f"condition_dropout must lie in [0, 1), not {self.condition_dropout!r}")
        for name, least in (("width", 1), ("depth", 0)):
            whole_number(getattr(self, name), f"{name} must be an integer of at least {least}", least)
        _check_seed(self.seed)
        if self.network is not None and (isinstance(self.network, nn.Module) or not callable(self.network)):
            raise TypeError(
                f"network must be a function of a domain that makes a module, such as lambda d: MLP(d, 64), not "
                f"{self.network!r}"
            )

    def __repr__(self) -> str:
        """Domain, and whether it is fitted."""
        return f"ReflectedDiffusion({self.domain!r}{', fitted' if hasattr(self, 'score_') else ''})"

    def fit(self, x: Array, condition: Array | None = None, *, progress: bool = True) -> Self:
        """Learn the law of the data.

        Args:
            x: data ``[n, *event_shape]`` inside the domain, numpy, data frame or torch; computed in float32.
            condition: one vector for each point ``[n, k]``, or one number ``[n]``; or None. A row of NaN is none.
            progress: show a progress bar.

        Returns:
            The model itself. After Ctrl-C the weights reached so far are in place and the interrupt is raised
            again.

        Raises:
            TypeError, ValueError: the data are not of a kind, shape or place that can be used.
            SolverError: training diverged; the model is as it was before.
        """
        self._check_parameters()
        check_device(self.device)
        recipe = self._recipe(self.steps)
        names = {"feature_names_in_": column_names(x), "condition_names_in_": column_names(condition)}
        check_same_rows(x, condition)
        wide, kind = to_tensor("x", x, self.domain, device=self.device)
        rows = condition_rows("condition", condition, len(wide), wide)
        units = Units.of(self.domain, wide)
        domain, data = units.normal, units.enter(wide)
        least, most = self._argument("sigma_min"), self._argument("sigma_max")
        if least is None:
            least = choose_sigma_min(domain, data)
        if most is None and not domain.spectral_gap > 0:  # no walls: noise as wide as the data
            most = float((data.flatten(1) - data.flatten(1).mean(0)).norm(dim=1).max())
        sde = self._process(domain, least, most)
        score = self._build(sde, 0 if rows is None else rows.shape[1]).to(data.device)
        if rows is not None and isinstance(score.network, MLP):
            if score.network.condition_dim != rows.shape[1]:
                raise ShapeError(
                    f"network was built with condition_dim={score.network.condition_dim}; the condition has "
                    f"{rows.shape[1]} numbers for each point"
                )
            score.network.standardise(rows)
        with self._kept_if_it_fails():
            self.sde_, self.score_, self.units_, self._kind = sde, score, units, kind
            self._as_fitted = {name: self._argument(name) for name in _SAVED}
            self._has_default_network = self.network is None
            self._name_columns(names)
            self.history_, self.validation_history_ = [], []
            self._generator = _stream(self.seed, data.device)
            self._train(data, rows, recipe, progress)
        return self

    def partial_fit(
        self, x: Array, condition: Array | None = None, *, steps: int | None = None, progress: bool = True
    ) -> Self:
        """Train further, on these or other data; a model that is not fitted is started by :meth:`fit`.

        Noise levels, units and the network stay as the first data decided them. The learning rate rises and falls
        anew.

        Args:
            x: data as for :meth:`fit`.
            condition: as for :meth:`fit`, of the same length.
            steps: gradient steps; the model's own number by default.
            progress: show a progress bar.

        Raises:
            SolverError: training diverged; the model is as it was before.
        """
        recipe = self._recipe(self.steps if steps is None else steps)
        if not hasattr(self, "score_"):
            kept, self.steps = self.steps, recipe.steps
            try:
                return self.fit(x, condition, progress=progress)
            finally:
                self.steps = kept
        check_same_rows(x, condition)
        data, kind = self._read("x", x)
        with self._kept_if_it_fails():
            self._kind = kind
            self._train(data, self._rows(condition, len(data)), recipe, progress)
        return self

    def sample(
        self,
        n: int,
        condition: Array | None = None,
        *,
        guidance: float = 0.0,
        steps: int | None = None,
        seed: int | None = None,
        sampler: Callable[..., Sampler] | None = None,
        batch_size: int = 10_000,
        progress: bool = False,
    ) -> Any:
        """Draw new points.

        Args:
            n: how many.
            condition: one vector for each ``[n, k]``, or one for all ``[k]``, if the model was fitted with
                one; without, such a model draws from all conditions.
            guidance: weight of classifier-free guidance towards the condition; 0 is the model's own law.
            steps: of the sampler; by default 250, 50 for flows.
            seed: makes this call repeatable by itself; by default calls continue one stream, which ``fit``
                starts from the model's own seed.
            sampler: called as ``sampler(process, score, steps=steps)``; by default :class:`EulerMaruyama`,
                :class:`Heun` for flows.
            batch_size: points computed at a time.
            progress: show a progress bar.

        Returns:
            ``[n, *event_shape]``, of the kind and dtype that ``fit`` was given, every point inside the
            domain.

        Raises:
            RuntimeError: the model is not fitted.
            ValueError, TypeError: ``n`` is no count, or the condition does not fit.
        """
        self._check_fitted()
        if not isinstance(n, numbers.Integral):
            raise TypeError(f"n must be an integer, not {n!r}")
        (n,) = batch_shape(int(n), "n")
        device = self._device()
        generator = self._generator if seed is None else _stream(seed, device)
        rows = self._rows(condition, n)
        flow = self._as_fitted["process"] == "flow"
        make: Callable[..., Sampler] = sampler or (Heun if flow else EulerMaruyama)
        if not callable(make):
            raise TypeError(f"sampler must be a class such as Heun, or a function that makes one, not {sampler!r}")
        usual = 50 if flow else 250
        walk = make(self.sde_, self._guided(guidance, rows), steps=usual if steps is None else steps)
        where: dict[str, Any] = {"device": device, "dtype": torch.float32}
        done = [torch.empty(0, *self.units_.domain.event_shape, **where)]
        for part in _parts(n, batch_size):
            size, extra = part.stop - part.start, _keywords(rows, part)
            done.append(walk.sample(size, generator=generator, condition=extra, progress=progress, **where).x)
        return self.units_.leave(torch.cat(done), self._kind)

    def log_prob(
        self, x: Array, condition: Array | None = None, *, batch_size: int = 10_000, seed: int = 0, **options: Any
    ) -> Any:
        """Log-density of the model at points, by its deterministic flow; see :func:`log_prob`.

        Args:
            x: points ``[n, *event_shape]`` inside the domain, numpy or torch.
            condition: one vector for each ``[n, k]``, or one for all ``[k]``.
            batch_size: points computed at a time.
            seed: of the probes of the divergence, which is exact up to 8 dimensions; they have nothing to do with the
                samples of the same seed.
            options: ``divergence``, ``probes``, ``rtol``, ``atol``, ``method``, ``max_evaluations``.

        Returns:
            ``[n]`` in nats, against the domain's volume, of the same kind as ``x``.
        """
        self._check_fitted()
        data, kind = self._read("x", x)
        rows = self._rows(condition, len(data))
        generator = _stream(seed, data.device, "probes")
        values = [
            log_prob(
                self.sde_, self.score_, data[part], condition=_keywords(rows, part), generator=generator, **options
            ).value
            for part in _parts(len(data), batch_size)
        ]
        return kind.like(torch.cat(values).double() - self.units_.log_det)

    def score_samples(self, x: Array, condition: Array | None = None) -> Any:
        """Log-density ``[n]`` of each point: :meth:`log_prob` by the name that scikit-learn knows."""
        return self.log_prob(x, condition)

    def score(self, x: Array, condition: Array | None = None) -> float:
        """Mean log-density of points in nats, higher for a better model: what searches over parameters compare."""
        return float(self.log_prob(x, condition).mean())

    def encode(self, x: Array, condition: Array | None = None, **options: Any) -> Any:
        """Latents of points ``[n, *event_shape]``, inside the domain and spread as the prior is: :func:`encode`."""
        return self._carry(encode, "x", x, condition, options)

    def decode(self, latent: Array, condition: Array | None = None, **options: Any) -> Any:
        """The points ``[n, *event_shape]`` whose latents are given: :func:`decode`."""
        return self._carry(decode, "latent", latent, condition, options)

    def interpolate(self, x: Array, y: Array, steps: int = 9, condition: Array | None = None, **options: Any) -> Any:
        """Paths ``[steps, n, *event_shape]`` of plausible points from ``x`` to ``y``: :func:`interpolate`."""
        self._check_fitted()
        begin, kind = self._read("x", x)
        end, _ = self._read("y", y)
        extra = _keywords(self._rows(condition, len(begin)), slice(None))
        path = interpolate(self.sde_, self.score_, begin, end, steps, condition=extra, **options)
        return self.units_.leave(path, kind)

    def save(self, folder: str | Path) -> None:
        """Save the fitted model in a folder: ``config.json`` and safetensors; either all of it or nothing."""
        self._check_fitted()
        own = self.score_.network
        config = {
            "model": type(self).__name__,
            "domain": self.units_.domain.config(),
            "arguments": self._as_fitted,
            "normal": self.units_.normal.config(),
            "sigma": [self.sde_.sigma_min, self.sde_.sigma_max],
            "network": own.config() if self._has_default_network and isinstance(own, MLP) else None,
            "kind": {"library": self._kind.library, "dtype": self._kind.dtype},
            "columns": getattr(self, "feature_names_in_", None),
            "condition_columns": getattr(self, "condition_names_in_", None),
            "history": self.history_,
            "validation_history": self.validation_history_,
        }
        save_run(folder, config, {**self.score_.state_dict(), **self.units_.tensors()})

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        network: Callable[[Domain], nn.Module] | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """Load a model that :meth:`save` saved.

        Args:
            folder: where it is.
            network: the function that makes the network, if the model was given one.
            device: where to put it; the CPU by default.

        Returns:
            The fitted model; it returns arrays of the kind it was fitted with, on the CPU.
        """
        check_device(device)
        config, tensors = load_run(folder)
        if config.get("model") != cls.__name__:
            raise ValueError(f"{folder} holds a {config.get('model')!r}, not a {cls.__name__}")
        if config["network"] is None and network is None:
            raise ValueError(
                f"{folder} was saved with a network of its own: pass the function that makes it as network="
            )
        model = cls(Domain.from_config(config["domain"]), network=network, device=device, **config["arguments"])
        model.units_ = Units.restored(model.domain, config["normal"], tensors)
        model.sde_ = model._process(model.units_.normal, *config["sigma"])
        if "log_rms" in tensors:
            model.sde_.restore_target_rms(tensors["log_rms"])
        model.score_ = model._build(model.sde_, (config["network"] or {}).get("condition_dim", 0))
        try:
            model.score_.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"the weights in {folder} do not fit the network: {error}") from None
        model.score_.to(device or "cpu").eval()
        model.history_ = [tuple(entry) for entry in config["history"]]
        model.validation_history_ = [tuple(entry) for entry in config["validation_history"]]
        model._generator = _stream(model.seed, device or "cpu")
        model._kind = Kind(**config["kind"])
        model._as_fitted = dict(config["arguments"])
        model._has_default_network = network is None
        names = {"feature_names_in_": "columns", "condition_names_in_": "condition_columns"}
        model._name_columns({attribute: config.get(key) for attribute, key in names.items()})
        return model

    def _build(self, sde: Process, condition_dim: int) -> ScoreModel:
        """A fresh score model: the seed decides its weights, and the caller's random state stays as it is."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(self.seed))
            if self.network is None:
                width, depth, dropout = (self._argument(name) for name in ("width", "depth", "dropout"))
                module: nn.Module = MLP(sde.domain, width, depth, condition_dim, dropout)
            else:
                module = self.network(sde.domain)
            return ScoreModel(module, sde).float()  # as the data, whatever torch's default is

    def _process(self, domain: Domain, least: float | None, most: float | None) -> Process:
        """The process, between two sigmas; None leaves one to the domain."""
        if self.process == "flow":
            return flow_over(domain, most, least)
        return ReflectedSDE(domain, 0.01 if least is None else least, most)

    def _argument(self, name: str) -> Any:
        """A constructor argument; numpy's numbers, as searches over grids give them, as Python's."""
        return _plain(getattr(self, name))

    def _recipe(self, steps: int) -> Recipe:
        return Recipe(
            _plain(steps),
            self._argument("batch_size"),
            self._argument("learning_rate"),
            reuse=1 if self.reuse is None else self._argument("reuse"),
            hide=self._argument("condition_dropout"),
            held_back=self._argument("validation_fraction") if self.early_stopping else 0.0,
            patience=self._argument("patience"),
        )

    @contextmanager
    def _kept_if_it_fails(self) -> Iterator[None]:
        """Undo what is done to the model if it ends with an error; an interrupt is none."""
        before = {k: list(v) if isinstance(v, list) else v for k, v in vars(self).items()}
        weights = copy.deepcopy(self.score_.state_dict()) if hasattr(self, "score_") else None
        generator = getattr(self, "_generator", None)
        state = None if generator is None else generator.get_state()
        try:
            yield
        except Exception:
            vars(self).clear()
            vars(self).update(before)
            if weights is not None:
                self.score_.load_state_dict(weights)
            if generator is not None and state is not None:
                generator.set_state(state)
            raise

    def _train(self, data: Tensor, rows: Tensor | None, recipe: Recipe, progress: bool) -> None:
        """Train on points in normal form; the histories go on where they were."""
        if self.reuse is None and self.sde_.simulates_paths:
            recipe = replace(recipe, reuse=_REUSE)
        train(
            self.score_,
            LOSSES[self.loss](self.sde_, self.weighting or self._default_weighting),
            data,
            recipe if self._condition_dim() else replace(recipe, hide=0.0),
            generator=self._generator,
            condition=rows,
            progress=progress,
            history=self.history_,
            validation_history=self.validation_history_,
        )

    def _name_columns(self, names: dict[str, list[str] | None]) -> None:
        """Keep the names of data frames' columns, as scikit-learn does; no attribute where there are none."""
        for attribute, columns in names.items():
            vars(self).pop(attribute, None)
            if columns is not None:
                setattr(self, attribute, columns)

    @property
    def _default_weighting(self) -> Weighting:
        process = self._as_fitted["process"] if hasattr(self, "_as_fitted") else self.process
        return "adaptive" if process == "diffusion" and self.loss == "denoising" else "fidelity"

    def _read(self, name: str, x: Array) -> tuple[Tensor, Kind]:
        """A user's points, checked, as the model's; a data frame must have the columns of the one in ``fit``."""
        check_columns(name, x, getattr(self, "feature_names_in_", None), "model.feature_names_in_")
        return self.units_.read(name, x, self._device())

    def _device(self) -> torch.device:
        return next(self.score_.parameters()).device

    def _condition_dim(self) -> int:
        """Length of a condition; 0 for models without, and for networks that do not say."""
        return int(getattr(self.score_.network, "condition_dim", 0))

    def _rows(self, condition: Array | None, n: int) -> Tensor | None:
        """Conditions for ``n`` points: a model that has learnt to do without takes the null token for none."""
        like = torch.empty(0, device=self._device(), dtype=torch.float32)
        check_columns("condition", condition, getattr(self, "condition_names_in_", None), "model.condition_names_in_")
        if condition is None and self._as_fitted["condition_dropout"] and self._condition_dim():
            return null_condition(self._condition_dim()).to(like).expand(n, -1)
        return condition_rows("condition", condition, n, like, self._condition_dim() or None)

    def _guided(self, weight: float, rows: Tensor | None) -> Score:
        if not weight:
            return self.score_
        may = self._condition_dim() and self._as_fitted["condition_dropout"]
        if rows is None or bool(rows.isnan().all()) or not may:
            raise ValueError("guidance needs a condition, and a model fitted with one and condition_dropout > 0")
        return ClassifierFreeGuidance(self.score_, weight, null={"condition": null_condition(rows.shape[1])})

    def _carry(
        self, flow: Callable[..., Tensor], name: str, x: Array, condition: Array | None, options: dict[str, Any]
    ) -> Any:
        self._check_fitted()
        data, kind = self._read(name, x)
        extra = _keywords(self._rows(condition, len(data)), slice(None))
        moved = flow(self.sde_, self.score_, data, condition=extra, **options)
        return self.units_.leave(moved, kind)

    def _check_fitted(self) -> None:
        if not hasattr(self, "score_"):
            raise RuntimeError(f"{self!r} is not fitted: call fit(x) first, or load a saved model")


_SAVED = (
    "width",
    "depth",
    "dropout",
    "process",
    "sigma_min",
    "sigma_max",
    "condition_dropout",
    "loss",
    "weighting",
    "steps",
    "batch_size",
    "reuse",
    "learning_rate",
    "early_stopping",
    "validation_fraction",
    "patience",
    "seed",
)


_PROCESSES = ("diffusion", "flow")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _check_seed(seed: object) -> None:
    whole_number(seed, "seed must be an integer of at least 0 and below 2**63", 0, 2**63 - 1)


def _stream(seed: int, device: torch.device | str, purpose: str = "") -> torch.Generator:
    """Random numbers of a seed, others for each purpose."""
    _check_seed(seed)
    if purpose:
        state = np.random.SeedSequence([int(seed), *purpose.encode()]).generate_state(1, np.uint64)
        seed = int(state[0] >> np.uint64(1))
    return torch.Generator(device=device).manual_seed(int(seed))


def _parts(n: int, size: int) -> list[slice]:
    """Slices of at most ``size`` that cover ``n``."""
    size = whole_number(size, "batch_size must be a positive integer", 1)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _keywords(rows: Tensor | None, part: slice) -> dict[str, Tensor] | None:
    return None if rows is None else {"condition": rows[part]}
