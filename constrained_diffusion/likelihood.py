r"""Log-densities of a model: exact through its deterministic flow, and a variational bound.

Along the flow dx = v dw the density changes by :math:`d \log p(x_w) / dw = -\nabla \cdot v`, and no mass crosses the
walls (Chen et al. 2018, arXiv 1806.07366; Song et al. 2021, arXiv 2011.13456). Densities are against the volume of
the domain's own dimension, in nats: on the n-simplex the uniform law has (n-1)!/sqrt(n), whatever the metric. They are
those of the model at its least noise, sigma_min.

May use: the process, the solver of flows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from .divergence import difference_trace, value_and_trace
from .domains.checks import trusted, values_are_checked
from .ode import flow_field, solve, tight
from .process import Process, Score
from .sde import ReflectedSDE

__all__ = ["Estimate", "LogProb", "bits_per_dim", "dequantise", "elbo", "log_prob"]

_EXACT_UP_TO = 8  # dimensions, beyond which the divergence is estimated unless asked for

Divergence = Literal["auto", "exact", "hutchinson", "differences"]


@dataclass(frozen=True)
class Estimate:
    """A Monte Carlo estimate for each point.

    Attributes:
        value: ``[*batch]``, in nats.
        standard_error: of each, ``[*batch]``; zero where nothing was estimated.
    """

    value: Tensor
    standard_error: Tensor


@dataclass(frozen=True)
class LogProb(Estimate):
    """Log-densities, and what was found on the way.

    Attributes:
        latent: where the flow carried the points, ``[*batch, *event_shape]``.
        nfe: evaluations of the model for each point.
    """

    latent: Tensor
    nfe: int


def log_prob(
    process: Process,
    score: Score,
    x: Tensor,
    *,
    condition: dict[str, Tensor] | None = None,
    divergence: Divergence = "auto",
    probes: int = 8,
    generator: Generator | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    method: str = "dopri5",
    max_evaluations: int = 10_000,
) -> LogProb:
    r"""Log-density of the flow's law at time 0.

    Args:
        process: what the score belongs to.
        score: its model; differentiable in x unless ``divergence="differences"``.
        x: points inside ``[*batch, *event_shape]``.
        condition: keyword tensors ``[*batch, ...]`` for the score.
        divergence: ``"exact"`` by one backward pass for each dimension; ``"hutchinson"`` by ``probes`` random
            directions, carried along the flow (Grathwohl et al. 2019, arXiv 1810.01367); ``"differences"`` by two
            more evaluations for each dimension, for scores without autograd, in float64. ``"auto"`` is exact up to 8
            dimensions.
        probes: random directions for Hutchinson's estimator, at least 2.
        generator: source of the probes.
        rtol: relative error allowed in a step of the solver; by default 1e-6, 1e-5 in float32.
        atol: absolute error, in inradii and nats; the same by default.
        method: adaptive method of torchdiffeq.
        max_evaluations: beyond which to give up.

    Returns:
        :class:`LogProb`, in nats.

    Raises:
        DomainError: a point lies outside.
        SolverError: the solver did not reach the end.
        ValueError: the score carries no graph, or an argument is unknown.
    """
    if divergence not in ("auto", "exact", "hutchinson", "differences"):
        raise ValueError(f'divergence must be "auto", "exact", "hutchinson" or "differences", not {divergence!r}')
    process.check_points("x", x)
    domain, extra = process.domain, condition or {}
    batch = x.shape[: x.ndim - len(domain.event_shape)]
    if divergence == "auto":
        divergence = "exact" if domain.dim <= _EXACT_UP_TO else "hutchinson"
    random = divergence == "hutchinson"
    if random and probes < 2:
        raise ValueError(f"probes must be at least 2, for a standard error; got {probes!r}")
    directions = _probes(process, x, probes, generator) if random else domain.frame(x)
    nfe = 0

    def evaluate(y: Tensor, t: Tensor) -> Tensor:
        nonlocal nfe
        nfe += 1
        return score(y, t.expand(batch), **extra)

    field = flow_field(process, evaluate)
    trace = difference_trace if divergence == "differences" else value_and_trace

    def augmented(w: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        y = domain.project(state[0] * process.length)
        carried = domain.transp(x.expand_as(directions), y.expand_as(directions), directions)
        value, terms = trace(domain, lambda z: field(w, z), y, carried)
        return value / process.length, terms if random else terms.sum(0, keepdim=True)

    gained = x.new_zeros(probes if random else 1, *batch)
    with trusted(), torch.no_grad():
        latent, gained = solve(
            augmented,
            (x / process.length, gained),
            x.new_tensor(process.sigma_min).log(),
            x.new_tensor(process.sigma_max).log(),
            rtol=tight(x.dtype) if rtol is None else rtol,
            atol=tight(x.dtype) if atol is None else atol,
            method=method,
            max_evaluations=max_evaluations,
        )
        latent = domain.project(latent * process.length)
        value = process.prior_log_prob(latent) + gained.mean(0)
    error = gained.std(0) / math.sqrt(probes) if random else torch.zeros_like(value)
    return LogProb(value, error, latent, nfe)


def _probes(process: Process, x: Tensor, count: int, generator: Generator | None) -> Tensor:
    """Directions ``[count, *batch, *event_shape]``, uniform on the sphere whose squared radius is the dimension."""
    domain = process.domain
    many = x.expand(count, *x.shape)
    z = domain.sample_noise(many, generator=generator)
    square = domain.inner(many, z, z).clamp(min=torch.finfo(x.dtype).tiny)
    return z * process.expand((domain.dim / square).sqrt())


def elbo(
    sde: ReflectedSDE,
    score: Score,
    x: Tensor,
    *,
    condition: dict[str, Tensor] | None = None,
    draws: int = 64,
    generator: Generator | None = None,
) -> Estimate:
    r"""Lower bound of the log-density at time 0 of the reverse SDE that a score makes; equal to it for the true score.

    With x at time 0 and noise added from there, :math:`\log p(x) \ge E \log p_1(x_1) - \frac12 \int E[|s - u|^2 -
    |u|^2]\,d\sigma^2`, u the denoising target (Song et al. 2021, arXiv 2101.09258; on domains with walls Lou & Ermon
    2023, arXiv 2304.04740). Times are stratified over the logarithm of the noise, so that the variance stays finite.

    Args:
        sde: what the score belongs to.
        score: its model; no autograd is needed.
        x: points inside ``[*batch, *event_shape]``.
        condition: keyword tensors ``[*batch, ...]`` for the score.
        draws: noised points for each, at least 2.
        generator: source of randomness.

    Returns:
        The bound, estimated without bias, and its standard error, in nats.
    """
    if not isinstance(sde, ReflectedSDE):
        raise TypeError(f"elbo needs a ReflectedSDE, not a {type(sde).__name__}")
    if draws < 2:
        raise ValueError(f"draws must be at least 2, for a standard error; got {draws!r}")
    sde.check_points("x", x)
    domain, extra = sde.domain, condition or {}
    batch = x.shape[: x.ndim - len(domain.event_shape)]
    least, most = sde.sigma_min, sde.sigma_max
    end = math.sqrt(most**2 - least**2)  # noise that is added until time 1
    reach = math.asinh(end / least)
    values = []
    with trusted(), torch.no_grad():
        for stratum in range(draws):
            u = torch.rand(batch, generator=generator, dtype=x.dtype, device=x.device)
            w = (reach * (stratum + u) / draws).clamp(min=1e-6)  # noise added: least * sinh(w), in all least * cosh(w)
            y, target = domain.diffuse(x, least * torch.sinh(w), generator=generator)
            s = score(y, sde.time(least * torch.cosh(w)), **extra)
            excess = domain.inner(y, s, s) - 2 * domain.inner(y, s, target)
            last = domain.noise(x, end, generator=generator)
            values.append(sde.prior_log_prob(last) - reach * least**2 * torch.sinh(2 * w) / 2 * excess)
    terms = torch.stack(values)
    return Estimate(terms.mean(0), terms.std(0) / math.sqrt(draws))


def dequantise(
    levels: Tensor, bins: int = 256, low: float = 0.0, high: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    """Spread integer levels 0 .. bins - 1 uniformly over their bins in [low, high] (Theis et al. 2016, 1511.01844).

    The mean log-density of what comes out, plus the logarithm of the bin's volume, bounds the log-probability
    of the levels from below: :func:`bits_per_dim`.

    Args:
        levels: whole numbers of any shape and dtype, a tensor or what becomes one.
        bins: how many levels there are.
        low: lower end of the first bin.
        high: upper end of the last.
        generator: source of randomness.

    Returns:
        Numbers of the same shape in [low, high], in the default dtype where the levels are integers.
    """
    levels = torch.as_tensor(levels)
    whole = levels if levels.is_floating_point() else levels.to(torch.get_default_dtype())
    if values_are_checked() and not bool(((whole >= 0) & (whole < bins) & (whole == whole.floor())).all()):
        raise ValueError(f"levels must be whole numbers from 0 to {bins - 1}")
    u = torch.rand(whole.shape, generator=generator, dtype=whole.dtype, device=whole.device)
    end = low + (high - low) * (whole + 1) / bins
    value = torch.minimum(low + (high - low) * (whole + u) / bins, end.nextafter(torch.full_like(end, -math.inf)))
    return value.clamp(low, high)  # rounding leads neither into the next bin nor out of the box


def bits_per_dim(log_prob: Tensor, dim: int, bin_width: float = 1 / 256) -> Tensor:
    """Bits per dimension ``[*batch]`` of levels whose dequantised points have a given log-density in nats.

    -(log_prob / dim + log(bin_width)) / log(2): for 256 levels in [0, 1] that is 8 - log_prob / (dim log 2), and
    8 for the uniform law.
    """
    if dim < 1:
        raise ValueError(f"dim must be at least 1, not {dim!r}")
    return -(log_prob / dim + math.log(bin_width)) / math.log(2)
