"""Guidance by observations of the data that are linear in them: inverse problems, and inpainting.

May use: guidance, the process, autograd.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .domains import Domain
from .domains.checks import DomainError, ShapeError, require_tensors
from .guidance import LikelihoodGuidance
from .process import Score
from .sde import ReflectedSDE

__all__ = ["Inpainting", "LinearInverse"]

_DRAWS = 4096  # of the prior, to see how wide it is
_PLACES = 16  # where to see whether the metric is the same everywhere
_MISSED = 4  # sigma_min: what is known exactly is met to within some of these
_STARTS = 256  # of the search for points with known coordinates, in sets that may not be convex
_FEW = 4  # of those without any that one start leads to, which are looked at again
_TURNS, _LOOK, _STUCK = 400, 20, 0.98  # projections; how often to look; and what counts as getting no nearer
_RANK = 16  # times the rounding error: directions seen less sharply than this share of the sharpest count as unseen
_RIDGE = 1e-10  # the same where the metric differs, as a share of all that is seen


class LinearInverse(LikelihoodGuidance):
    r"""Guidance by an observation y = A x0 + noise of the data.

    With D the denoised point, from x by sigma^2 s, x0 given x is taken to be normal around D with variance r^2, so that
    y is normal around A D with covariance r^2 A A^T + noise^2 (A^T in the domain's metric at D), and the score gains
    the gradient of its log-density (Song et al. 2023, "Pseudoinverse-Guided Diffusion Models for Inverse Problems").
    Approximate where x0 given x is not normal; what is observed without noise is met to within sigma_min. Angles count
    as the numbers that they are, from -pi to pi: to observe some of them, take :class:`Inpainting`. A fitted
    :class:`ReflectedDiffusion` may compute in units of its own, to which ``model.units_.observation(A, y)`` takes both.

    Args:
        sde: the forward process of the score.
        score: a model; differentiable in x, if ``jacobian``.
        A: matrix ``[m, k]``, k the number of a point's coordinates.
        y: the observation ``[m]``, or one for each point ``[*batch, m]``.
        noise: standard deviation of its noise.
        spread: standard deviation of a coordinate of the data, which bounds r: 1/r^2 = 1/sigma^2 + 1/spread^2. By
            default that of the prior.
        jacobian: differentiate D; without, r^2 / sigma^2 is taken for its Jacobian, which costs no backward pass.
        weight: factor of the gradient.
    """

    def __init__(
        self,
        sde: ReflectedSDE,
        score: Score,
        A: Tensor,
        y: Tensor,
        *,
        noise: float = 0.0,
        spread: float | None = None,
        jacobian: bool = True,
        weight: float = 1.0,
    ) -> None:
        super().__init__(sde, score, weight)
        size = sde.domain.event_shape.numel()
        require_tensors(A=A, y=y)
        if A.ndim != 2 or A.shape[1] != size:
            raise ShapeError(f"A has shape {list(A.shape)}; expected [m, {size}]")
        if y.shape[-1:] != A.shape[:1]:
            raise ShapeError(f"y has shape {list(y.shape)}; expected [{A.shape[0]}] or [*batch, {A.shape[0]}]")
        self.A, self.y, self.noise, self.jacobian = A, y, _checked_noise(noise), jacobian
        self.spread = _spread(sde) if spread is None else float(spread)
        self._solve = _solver(sde, A)

    def model_and_pull(self, x: Tensor, t: Tensor, condition: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The score, and the derivatives of the observation's log-density."""

        def back(denoised: Tensor, square: Tensor) -> Tensor:  # in float64: A may weigh what it sees very unequally
            wide = denoised.double()
            pull = self._solve(wide, self.error(wide), square.double(), self.noise**2)
            return pull.reshape(x.shape).to(x.dtype)

        return _denoised_pull(self.sde, self.score, x, t, condition, back, self.spread, self.jacobian)

    def error(self, denoised: Tensor) -> Tensor:
        """By how much an observation of points ``[*batch, *event_shape]`` is missed, ``[*batch, m]``."""
        flat = denoised.reshape(*denoised.shape[: denoised.ndim - len(self.sde.domain.event_shape)], self.A.shape[1])
        return self.y.to(flat) - flat @ self.A.to(flat).T


class Inpainting(LikelihoodGuidance):
    """:class:`LinearInverse` where single coordinates are observed, of which there may be many.

    Args:
        sde: the forward process of the score.
        score: a model; differentiable in x, if ``jacobian``.
        mask: which coordinates are known, bool ``[*event_shape]`` or ``[*batch, *event_shape]``.
        values: what they are, where they are known; of a shape that broadcasts with the mask.
        noise, spread, jacobian, weight: as in :class:`LinearInverse`.

    Raises:
        DomainError: there is no noise, and the domain has no point with such coordinates.
    """

    def __init__(
        self,
        sde: ReflectedSDE,
        score: Score,
        mask: Tensor,
        values: Tensor,
        *,
        noise: float = 0.0,
        spread: float | None = None,
        jacobian: bool = True,
        weight: float = 1.0,
    ) -> None:
        super().__init__(sde, score, weight)
        require_tensors(mask=mask, values=values)
        shape = sde.domain.event_shape
        for name, tensor in (("mask", mask), ("values", values)):
            if tensor.shape[tensor.ndim - len(shape) :] != shape:
                raise ShapeError(f"{name} has shape {list(tensor.shape)}; expected [*batch, {list(shape)}]")
        if mask.dtype != torch.bool:
            raise TypeError(f"mask must be of bool, not {mask.dtype}")
        self.mask, self.values, self.noise, self.jacobian = mask, values, _checked_noise(noise), jacobian
        if not noise:
            _check_known(sde, mask, values)
        self.spread = _spread(sde) if spread is None else float(spread)
        self._linear = None if _is_plain(sde) else _KnownCoordinates(self)

    def model_and_pull(self, x: Tensor, t: Tensor, condition: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The score, and the derivatives of the known coordinates' log-density."""
        if self._linear is not None:
            return self._linear.model_and_pull(x, t, condition)

        def back(denoised: Tensor, square: Tensor) -> Tensor:
            return _missed(self.sde, self.mask, self.values, denoised) / self.sde.expand(square + self.noise**2)

        return _denoised_pull(self.sde, self.score, x, t, condition, back, self.spread, self.jacobian)


class _KnownCoordinates(LinearInverse):
    """Inpainting where coordinates are bound to each other: its mask as rows of a matrix."""

    def __init__(self, paint: Inpainting) -> None:
        shape = paint.sde.domain.event_shape
        if paint.mask.shape != shape:
            raise ShapeError(f"mask has shape {list(paint.mask.shape)}; one for all, {list(shape)}, is needed here")
        self.paint, self.known = paint, paint.mask.flatten()
        rows = torch.eye(len(self.known), dtype=torch.float64, device=paint.values.device)
        A = rows[self.known.to(rows.device)]
        y = A.new_zeros(len(A))  # not asked for: see error
        super().__init__(paint.sde, paint.score, A, y, noise=paint.noise, spread=paint.spread, jacobian=paint.jacobian)

    def error(self, denoised: Tensor) -> Tensor:
        """By how much known coordinates are missed, ``[*batch, m]``."""
        missed = _missed(self.sde, self.paint.mask, self.paint.values, denoised)
        flat = missed.reshape(*missed.shape[: missed.ndim - len(self.sde.domain.event_shape)], len(self.known))
        return flat[..., self.known.to(flat.device)]


def _missed(sde: ReflectedSDE, mask: Tensor, values: Tensor, denoised: Tensor) -> Tensor:
    """What known coordinates lack, and zero for others, ``[*batch, *event_shape]``."""
    known = mask.to(denoised.device)
    target = torch.where(known, values.to(denoised), denoised)
    return torch.where(known, sde.domain.difference(denoised, target), 0.0)


def _denoised_pull(
    sde: ReflectedSDE,
    score: Score,
    x: Tensor,
    t: Tensor,
    condition: dict[str, Tensor],
    back: Callable[[Tensor, Tensor], Tensor],
    spread: float,
    jacobian: bool,
) -> tuple[Tensor, Tensor]:
    """The score, and J^T ``back(D, r^2)`` with D the denoised points, J their Jacobian and r^2 their variance."""
    batch = x.shape[: x.ndim - len(sde.domain.event_shape)]
    square = sde.sigma(t).to(x.dtype).expand(batch) ** 2
    narrow = 1 / (1 / square + 1 / spread**2)
    graph = torch.is_grad_enabled() and x.requires_grad  # someone differentiates the guided score itself
    with torch.set_grad_enabled(jacobian or graph):
        leaf = x if graph or not jacobian else x.detach().clone().requires_grad_()
        s = score(leaf, t, **condition)
        denoised = sde.domain.expmap(leaf, sde.expand(square) * s)
        pull = back(denoised if graph else denoised.detach(), narrow)
        if not jacobian:
            return s, sde.expand(narrow / square) * pull
        if not s.requires_grad:
            raise ValueError("score(x, t) carries no autograd graph back to x: pass jacobian=False")
        (pull,) = torch.autograd.grad(denoised, leaf, pull, create_graph=graph)
    return (s, pull) if graph else (s.detach(), pull)


def _checked_noise(noise: float) -> float:
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise must be finite and not negative, got {noise!r}")
    return float(noise)


def _check_known(sde: ReflectedSDE, mask: Tensor, values: Tensor) -> None:
    """Refuse exact values of coordinates that no point of the domain has: levels instead of shares, say."""
    _check_box(sde.domain, mask, values)
    shape = sde.domain.event_shape
    mask, values = (v.reshape(-1, *shape) for v in torch.broadcast_tensors(mask.to(values.device), values.double()))
    mask, values = (v[mask.flatten(1).any(1)] for v in (mask, values))
    for starts in (1, _STARTS):
        missed = _least_missed(sde, mask, values, starts)
        bad = (missed > _MISSED * sde.sigma_min).nonzero()[:_FEW, 0]
        mask, values = mask[bad], values[bad]
    if len(bad):
        known = values[0][mask[0]].tolist()
        listed = ", ".join([*(f"{v:g}" for v in known[:6]), *[".."][: len(known) - 6]])
        raise DomainError(
            f"{sde.domain!r} has no point whose known coordinates are {listed}: the nearest that was found misses them "
            f"by {float(missed[bad[0]]):.2g}. Correct the values, or give noise="
        )


def _check_box(domain: Domain, mask: Tensor, values: Tensor) -> None:
    """Refuse values that single coordinates cannot have."""
    if not math.isfinite(domain.diameter):
        return
    low, high = (bound.to(device=values.device) for bound in domain.bounding_box)
    slack = 64 * torch.finfo(torch.float32).eps * domain.magnitude
    wide = values.double()
    out = mask & ~((wide >= low - slack) & (wide <= high + slack))
    if bool(out.any()):
        least, most = float(low.min()), float(high.max())
        bad = float(wide.expand(out.shape)[out][0])
        raise DomainError(
            f"values has {bad:g} where the mask says that it is known; points of {domain!r} have coordinates from "
            f"{least:g} to {most:g}: bring it to the domain's units, or give noise="
        )


def _least_missed(sde: ReflectedSDE, mask: Tensor, values: Tensor, starts: int) -> Tensor:
    """By how much ``[n]`` known coordinates ``[n, *event_shape]`` are missed at the nearest points that are found.

    Alternating projections, from points of the prior: near enough, or until they get no nearer.
    """
    generator = torch.Generator().manual_seed(0)
    x = (
        sde.sample_prior((starts, 1), generator=generator, dtype=torch.float64)
        .to(values.device)
        .expand(starts, *values.shape)
    )
    missed = last = torch.full((len(values),), math.inf, dtype=torch.float64, device=values.device)
    for turn in range(_TURNS):
        x = sde.domain.project(torch.where(mask, values, x))
        if turn % _LOOK:
            continue
        missed = _missed(sde, mask, values, x).flatten(2).norm(dim=-1).amin(0)
        if bool(((missed <= _MISSED * sde.sigma_min) | (missed > _STUCK * last)).all()):
            break
        last = missed
    return missed


def _spread(sde: ReflectedSDE) -> float:
    """Standard deviation of the prior, a dimension, in the domain's metric."""
    x = sde.sample_prior(_DRAWS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    off = x - x.mean(0)
    return float((sde.domain.inner(x, off, off).mean() / sde.domain.dim).sqrt())


_Solver = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def _solver(sde: ReflectedSDE, A: Tensor) -> _Solver:
    """What takes points, errors ``[*batch, m]``, r^2 ``[*batch]`` and noise^2 to A^T (r^2 C + noise^2)^-1 error.

    C is the covariance of A z, z standard normal in the domain's metric: decomposed once where it is the same
    everywhere, which is tried at a few points. What A does not see counts as nothing. All of it is in float64.
    """
    x = sde.sample_prior(_PLACES, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(A.device)
    many = _gradients(sde, x, A) @ A.double().T
    if not torch.allclose(many, many[:1]):
        return _Curved(sde, A)
    values, vectors = torch.linalg.eigh(many[0])
    blur = (_RANK * torch.finfo(A.dtype).eps) ** 2 if A.is_floating_point() else 0.0  # rounding of A, squared as A is
    seen = values > values[-1:] * max(blur, _RANK * torch.finfo(torch.float64).eps)
    return _Flat(A, torch.where(seen, values, 0.0), vectors * seen)


class _Flat:
    """For a metric that is the same everywhere."""

    def __init__(self, A: Tensor, values: Tensor, vectors: Tensor) -> None:
        self.A, self.values, self.vectors = A, values, vectors

    def __call__(self, denoised: Tensor, error: Tensor, square: Tensor, noise: float) -> Tensor:
        A, values, vectors = (v.to(error) for v in (self.A, self.values, self.vectors))
        variance = square.unsqueeze(-1) * values + noise
        solved = torch.where(values > 0, (error @ vectors) / torch.where(values > 0, variance, 1.0), 0.0)
        return solved @ vectors.T @ A


class _Curved:
    """For a metric that differs from point to point: a system for each."""

    def __init__(self, sde: ReflectedSDE, A: Tensor) -> None:
        self.sde, self.A = sde, A

    def __call__(self, denoised: Tensor, error: Tensor, square: Tensor, noise: float) -> Tensor:
        A = self.A.to(error)
        rows = _gradients(self.sde, denoised, A)
        floor = _RIDGE * square * A.square().sum() + torch.finfo(A.dtype).tiny
        diagonal = (noise + floor)[..., None, None] * torch.eye(len(A), dtype=A.dtype, device=A.device)
        system = square[..., None, None] * (rows @ A.T) + diagonal
        solved = torch.linalg.solve(system, error.unsqueeze(-1))
        up = (rows.transpose(-1, -2) @ solved).reshape(denoised.shape)  # tangent, so that no large part has to cancel
        return self.sde.domain.covector(denoised, up)


def _gradients(sde: ReflectedSDE, x: Tensor, A: Tensor) -> Tensor:
    """Gradients ``[*batch, m, k]`` at points of the numbers that A's rows read off, in the domain's metric."""
    shape = sde.domain.event_shape
    batch = x.shape[: x.ndim - len(shape)]
    rows = A.to(x).reshape(len(A), *(1,) * len(batch), *shape).expand(len(A), *x.shape)
    found = sde.domain.gradient(x.expand(len(A), *x.shape), rows)
    return found.reshape(len(A), *batch, A.shape[1]).movedim(0, -2)


def _is_plain(sde: ReflectedSDE) -> bool:
    """Whether coordinates are orthonormal and free of each other."""
    x = sde.sample_prior(_PLACES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return bool(torch.allclose(sde.domain.gradient(x, v), v))
