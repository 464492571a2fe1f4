r"""A set that is known by a membership function alone: the universal fallback.

May use: torch, and what :mod:`~constrained_diffusion.domains.probing` and
:mod:`~constrained_diffusion.domains.rays` learn by asking.

Moves follow the Metropolis rule: one that ends outside is not made (Fishman, Klarner, Mathieu, Hutchinson & De
Bortoli 2023, "Metropolis Sampling for Constrained Diffusion Models", arXiv 2307.05439). It asks for nothing
but membership and keeps the uniform law exactly at any step, but follows reflected Brownian motion only in the
limit of small steps, and a long move is not cut in pieces: the share of moves made falls exponentially with the
dimension. Give ``project`` or ``boundary`` in a subclass of :class:`Domain` where they are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor

from . import paths, probing, rays
from .base import Domain
from .checks import DomainError, ShapeError, SolverError, batch_shape, check_scale, trusted, values_are_checked
from .euclidean import event_shape
from .named import function_named, name_of

__all__ = ["MetropolisDomain"]

Member = Callable[[Tensor], Tensor]
Bound = float | Sequence[float] | Tensor

_ANCHORS = 256  # points inside that are kept, for projections
_ROUNDS = 32  # of proposals in search of them
_NUMBERS = 1 << 20  # coordinates in a round
_FILLED = 1e-3  # share of the box from which uniform points are drawn by rejection
_STEP = 0.1  # of a noising chain, in inradii
_FEWEST_STEPS, _MOST_STEPS = 16, 512
_MIXING_STEPS = 10_000  # of the walk that samples uniformly, at most
_HALVINGS = 48
_SMALL = 1e-3  # of 1/diameter: a gradient of the log-depth too small to have a direction


class MetropolisDomain(Domain):
    """The points of a box that a function accepts.

    ``boundary`` and ``project`` are estimates (``has_exact_walls`` is False).

    Args:
        shape: event shape, such as ``2`` or ``(3, 32, 32)``.
        inside: which points belong to the set: a function from points ``[B, *event_shape]`` in the box, of any
            floating-point dtype, to a bool tensor ``[B]``. Models can be saved where it is defined at the top
            level of a module.
        low: lower bounds of a box around the set, a number or something that broadcasts to ``shape``.
        high: upper bounds, likewise.
        spectral_gap: smallest non-zero Neumann eigenvalue of minus the Laplacian, 1/length^2, or a lower bound. The
            default, pi^2 / diagonal^2 of the box, holds for convex sets; where the set has a
            bottleneck give a smaller one.
        start: a point of the set ``[*event_shape]``, where random points of the box would not find one.

    Raises:
        TypeError, ShapeError: ``inside`` does not return a bool tensor ``[B]``.
        DomainError: ``low >= high`` somewhere, or ``start`` lies outside.
        SolverError: no point inside was found.
    """

    has_exact_walls = False

    def __init__(
        self,
        shape: int | tuple[int, ...],
        inside: Member | str,
        low: Bound,
        high: Bound,
        *,
        spectral_gap: float | None = None,
        start: Tensor | Sequence[float] | None = None,
    ) -> None:
        self.event_shape = event_shape(shape)
        self.shape = tuple(self.event_shape)
        self.dim = self.event_shape.numel()
        self.inside = function_named(inside) if isinstance(inside, str) else inside
        if not callable(self.inside):
            raise TypeError(f"inside must be a function from points to bools, not {type(inside).__name__}")
        self.low, self.high = (_bound(n, b, self.event_shape) for n, b in (("low", low), ("high", high)))
        if not bool((self.low < self.high).all()):
            where = tuple((self.low >= self.high).nonzero()[0].tolist())
            raise DomainError(
                f"low must be below high; at index {list(where)} low={self.low[where]:g}, high={self.high[where]:g}"
            )
        self.bounding_box = (self.low, self.high)
        self.magnitude = float(torch.maximum(self.low.abs(), self.high.abs()).max())
        if spectral_gap is not None:
            if not (math.isfinite(spectral_gap) and spectral_gap > 0):
                raise ValueError(f"spectral_gap must be positive and finite, not {spectral_gap!r}")
            self.spectral_gap = float(spectral_gap)
        self._given_gap = spectral_gap
        self.start = None if start is None else _bound("start", start, self.event_shape)
        if self.start is not None and not bool(self._member(self.start)):
            raise DomainError("start lies outside the set")
        self._anchors, self._share = self._search()

    # ------------------------------------------------------------------ geometry

    def contains(self, x: Tensor, atol: float = 0.0) -> Tensor:
        """Whether points are finite, in the box and accepted, ``[*batch]``.

        ``atol`` grants a distance that is estimated, for points that are not accepted, as :meth:`boundary` does.
        """
        self._check(x=x)
        good = self._member(x)
        if atol > 0 and not bool(good.all()):
            flat, good = x.reshape(-1, *self.event_shape), good.reshape(-1)
            rows = (~good & flat.isfinite().flatten(1).all(-1)).nonzero().squeeze(-1)
            good[rows] = self.boundary(flat[rows])[0] >= -atol
        return good.reshape(self._batch(x))

    def project(self, x: Tensor) -> Tensor:
        """A point of the set near ``x``; points inside are returned as they are.

        Points outside are pulled towards the nearest of 256 known points inside, up to the wall that lies on
        the way. Membership cannot tell which point is nearest, and this is *not* it. Points that are not finite stay.
        """
        self._check(x=x)
        out = x.reshape(-1, *self.event_shape).clone()
        rows = (~self._member(out) & out.isfinite().flatten(1).all(-1)).nonzero().squeeze(-1)
        if not len(rows):
            return x
        far, anchors = out[rows], self._anchors.to(out)
        near = anchors[torch.cdist(far.flatten(1), anchors.flatten(1)).argmin(-1)]
        for _ in range(_HALVINGS):
            middle = (near + far) / 2
            good = self.expand(self._member(middle))
            near, far = torch.where(good, middle, near), torch.where(good, far, middle)
        return out.index_copy(0, rows, near).reshape(x.shape)

    def boundary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates of the distance ``[*batch]`` to the wall and of the inward unit normal ``[*batch, *event_shape]``.

        From rays along the axes (:mod:`~constrained_diffusion.domains.rays`), some forty questions for each of
        2 ``dim`` rays. Negative outside: there the distance to the set, where an axis through the point meets it, and
        otherwise to the point that :meth:`project` gives. Meant for damping, features and path targets.
        No autograd graph.
        """
        self._check(x=x)
        flat, good = x.detach().reshape(-1, self.dim).double(), self._member(x).reshape(-1)
        _, _, _, distance, slope = rays.look(self._flat_member, flat, good, *self._flat_box(flat))
        lost = distance.isinf().nonzero().squeeze(-1)
        if len(lost):
            foot = self.project(x.detach().reshape(-1, *self.event_shape)[lost]).reshape(len(lost), -1).double()
            slope[lost] = foot - flat[lost]
            distance[lost] = slope[lost].norm(dim=-1)
        length = slope.norm(dim=-1, keepdim=True)
        pole = torch.zeros_like(slope)
        pole[:, 0] = 1.0  # halfway between walls all directions are as good
        normal = torch.where(length > 0, slope / torch.where(length > 0, length, 1.0), pole)
        signed = torch.where(good, distance, -distance)
        return signed.reshape(self._batch(x)).to(x.dtype), normal.reshape(x.shape).to(x.dtype)

    def reflect(self, x: Tensor, displacement: Tensor) -> Tensor:
        """The Metropolis rule: the end of the move where that is inside, else where it began.

        It keeps the uniform law exactly under moves whose law is symmetric, at any step. A long move is not cut
        in pieces.
        """
        x, displacement = self._check_move(x, displacement)
        if values_are_checked():
            x = self.project(x)  # what was forgiven for rounding
        end = x + displacement
        return torch.where(self.expand(self._member(end)), end, x)

    def damp_normal(self, x: Tensor, v: Tensor, width: float | Tensor) -> Tensor:
        """Let the component across the wall vanish there; see :meth:`Domain.damp_normal`.

        With w the smooth gradient of a logarithmic depth that rays give, the depth is 1/|w| and the normal
        w/|w|. Autograd sees how both change with x, so that divergences of the result are right.
        """
        self._check(x=x, v=v)
        scale = check_scale("width", width, self._batch(x), x).clamp(max=0.5 * self.inradius)
        w, size = self._slope(x)
        n = w / size.unsqueeze(-1)
        h = torch.tanh(1 / (size * scale))
        across = (n * v.reshape(n.shape)).sum(-1)
        return v - (((1 - h) * across).unsqueeze(-1) * n).reshape(v.shape)

    @cached_property
    def inradius(self) -> float:
        """The largest distance to the wall that rays see from the known points inside.

        In convex sets it is at most the true one of such a point, and at least 1/sqrt(dim) of it.
        """
        return float(self.boundary(self._anchors)[0].max())

    # ------------------------------------------------------------------ laws

    def sample_uniform(
        self,
        shape: int | tuple[int, ...],
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Uniform points ``[*shape, *event_shape]``: by rejection from the box.

        Where less than a thousandth of the box is inside, by a Metropolis walk from the known points
        instead, of as many steps as cross the box twice by diffusion, but 10,000 at most: uniform in the limit. Where
        the box is more than 50 inradii long, as that of a long thin set, that limit cuts the walk off, and points
        stay near the known ones.
        """
        size = batch_shape(shape)
        if self._share >= _FILLED:
            return probing.sample_by_rejection(self, size, generator, device, dtype)
        dtype = dtype or torch.get_default_dtype()
        anchors = self._anchors.to(device=device, dtype=dtype)
        x = anchors[torch.randint(len(anchors), (size.numel(),), generator=generator, device=device)]
        steps = min(math.ceil((2 * self.diameter / self.inradius) ** 2), _MIXING_STEPS)
        with trusted():
            for _ in range(steps if len(x) else 0):
                x = self.reflect(x, self.inradius * self.sample_noise(x, generator=generator))
        return x.reshape(size + self.event_shape)

    def noise(self, x0: Tensor, sigma: float | Tensor, *, generator: Generator | None = None) -> Tensor:
        """Noise points by a chain of Metropolis steps, ``[*batch, *event_shape]``.

        Steps have a standard deviation of a tenth of the inradius, or a sixteenth of the noise's variance,
        whichever is less (but no chain has more than 512). The law differs from that of reflected Brownian motion by
        the order of one step's standard deviation (walls hold the motion along them up), and is uniform
        where that is.
        """
        x0, scale = self._check_noising(x0, sigma)
        start, s = x0.reshape(-1, *self.event_shape), scale.reshape(-1)
        steps = (s / (_STEP * self.inradius)).square().ceil().clamp(_FEWEST_STEPS, _MOST_STEPS)
        order = steps.argsort(descending=True, stable=True)  # rows still moving stay in front
        x, counts = start[order], steps[order]
        spread = self.expand((s / steps.sqrt())[order])
        with trusted():
            for k in range(int(counts[0]) if len(counts) else 0):
                moving = int((counts > k).sum())
                z = self.sample_noise(x[:moving], generator=generator)
                x = torch.cat([self.reflect(x[:moving], spread[:moving] * z), x[moving:]])
        out = torch.empty_like(x)
        out[order] = x
        return out.reshape(x0.shape)

    def diffuse(
        self, x0: Tensor, sigma: float | Tensor, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Noised points and path targets; see :meth:`Domain.diffuse`.

        Targets need to know where a path touched the wall, so these paths are mirrored at the walls that
        :meth:`boundary` sees, not rejected: slow, and as good as that estimate (in the unit disc biases are below 3 %).
        The wall's curvature takes up to seventeen more such estimates for each touch: a few times as long in all.
        :class:`~constrained_diffusion.losses.ImplicitScoreMatching` needs :meth:`noise` alone.
        """
        x0, scale = self._check_noising(x0, sigma)
        return paths.simulate(_Mirrored(self), x0, scale, generator=generator)

    # ------------------------------------------------------------------ networks

    def features(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Coordinates scaled to [-1, 1], and the direction away from the wall, of length sigma / (sigma + depth)."""
        low, high = (b.to(x) for b in self.bounding_box)
        scaled = ((x - low) / (high - low) * 2 - 1).reshape(*self._batch(x), self.dim)
        w, size = self._slope(x)
        s = sigma.unsqueeze(-1)
        return torch.cat([scaled, s * w / (1 + s * size.unsqueeze(-1))], -1)

    # ------------------------------------------------------------------ values

    def config(self) -> dict[str, Any]:
        """What rebuilds this domain; the function as ``"module:name"``.

        Raises:
            ValueError: the function cannot be found by a name, as lambdas, closures and methods cannot.
        """
        return {
            "domain": type(self).__name__,
            "shape": list(self.shape),
            "inside": name_of(self.inside),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "spectral_gap": self._given_gap,
            "start": None if self.start is None else self.start.tolist(),
        }

    def __eq__(self, other: object) -> bool:
        """The same function, bounds and start."""
        return isinstance(other, MetropolisDomain) and self._values() == other._values()

    def __hash__(self) -> int:
        """Hash of what :meth:`__eq__` compares."""
        return hash(self._values())

    def __repr__(self) -> str:
        """Shape, and the function's name."""
        return f"MetropolisDomain({self.shape}, inside={getattr(self.inside, '__qualname__', repr(self.inside))})"

    def _values(self) -> tuple[Any, ...]:
        start = None if self.start is None else tuple(self.start.flatten().tolist())
        bounds = (tuple(b.flatten().tolist()) for b in self.bounding_box)
        return (self.shape, self.inside, *bounds, self._given_gap, start)

    # ------------------------------------------------------------------ parts

    def _member(self, x: Tensor) -> Tensor:
        """Membership ``[*batch]``; the function sees points ``[B, *event_shape]`` of the box only."""
        low, high = self.low.to(x), self.high.to(x)
        flat = x.detach().reshape(-1, *self.event_shape)
        boxed = ((flat >= low) & (flat <= high)).flatten(1).all(-1)
        if not len(flat):
            return boxed.reshape(self._batch(x))
        good = self.inside(torch.minimum(torch.maximum(flat.nan_to_num(), low), high))
        if not isinstance(good, Tensor) or good.dtype != torch.bool:
            what = good.dtype if isinstance(good, Tensor) else type(good).__name__
            raise TypeError(f"inside must return a tensor of bool, not {what}")
        if good.shape != boxed.shape:
            raise ShapeError(f"inside returned shape {list(good.shape)} for points {list(flat.shape)}; expected [B]")
        return (good & boxed).reshape(self._batch(x))

    def _flat_member(self, flat: Tensor) -> Tensor:
        return self._member(flat.reshape(-1, *self.event_shape))

    def _flat_box(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return self.low.to(like).flatten(), self.high.to(like).flatten()

    def _slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient w of the logarithmic depth ``[*batch, dim]`` and its length ``[*batch]``, with an autograd graph."""
        flat = x.reshape(-1, self.dim)
        at = flat.detach().double()
        box = self._flat_box(at)
        view = rays.look(self._flat_member, at, at.new_ones(len(at), dtype=torch.bool), *box)
        w = view.slope.to(x.dtype)
        if torch.is_grad_enabled() and x.requires_grad:
            jacobian = rays.slope_jacobian(self._flat_member, view, *box).to(x.dtype)
            w = w + (jacobian @ (flat - flat.detach()).unsqueeze(-1)).squeeze(-1)
        least = _SMALL / self.diameter
        size = ((w * w).sum(-1) + least**2).sqrt()
        return w.reshape(*self._batch(x), self.dim), size.reshape(self._batch(x))

    def _search(self) -> tuple[Tensor, float]:
        """At most 256 points, inside in both precisions, ``[m, *event_shape]``, and the share of the box inside."""
        generator = torch.Generator().manual_seed(0)
        found = [] if self.start is None else [self.start.unsqueeze(0)]
        count, size, tried = 0, max(64, _NUMBERS // self.dim), 0
        for _ in range(_ROUNDS):
            u = torch.rand((size, *self.event_shape), generator=generator)
            x = (self.low + (self.high - self.low) * u).float()
            x = x[self._member(x) & self._member(x.double())]
            found.append(x.double())
            count, tried = count + len(x), tried + size
            if count >= _ANCHORS:
                break
        points = torch.cat(found)[:_ANCHORS]
        if not len(points):
            raise SolverError(
                f"none of {tried} random points of the box is inside the set: bring low and high closer to it, or give "
                "a point inside as start"
            )
        return points, count / tried


class _Mirrored(Domain):
    """A set known by membership, whose moves are mirrored at its estimated walls where they end outside."""

    def __init__(self, domain: MetropolisDomain) -> None:
        self.domain = domain
        self.event_shape, self.dim, self.magnitude = domain.event_shape, domain.dim, domain.magnitude
        self.bounding_box, self.inradius = domain.bounding_box, domain.inradius
        self.wall_curvature = domain.wall_curvature

    def contains(self, x: Tensor, atol: float = 0.0) -> Tensor:
        """Membership."""
        return self.domain.contains(x, atol)

    def project(self, x: Tensor) -> Tensor:
        """A point of the set."""
        return self.domain.project(x)

    def boundary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Estimated distance and normal."""
        return self.domain.boundary(x)

    def reflect(self, x: Tensor, displacement: Tensor) -> Tensor:
        """The symmetrised step, where the move ends outside."""
        end = x + displacement
        rows = (~self.domain.contains(end)).nonzero(as_tuple=True)
        end[rows] = super().reflect(x[rows], displacement[rows])
        return end


def _bound(name: str, value: Bound, shape: torch.Size) -> Tensor:
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64).cpu().expand(shape).contiguous()
    except (TypeError, ValueError, RuntimeError):
        raise ShapeError(f"{name} must be a number or broadcast to shape {list(shape)}; got {value!r}") from None
    if not bool(tensor.isfinite().all()):
        raise DomainError(f"{name} must be finite")
    return tensor
