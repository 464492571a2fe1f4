"""The interface of a domain, and everything a subclass gets for free. May use: torch, and this floor's own files."""

from __future__ import annotations

import math
from abc import ABC
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Generator, Tensor

from . import bridges, damping, paths, probing, symmetrised
from .affine import Affine
from .checks import (
    batch_shape,
    check_alike,
    check_batch,
    check_finite,
    check_inside,
    check_order,
    check_scale,
    check_tensor,
)
from .values import Value

if TYPE_CHECKING:
    from .specs import Extent

__all__ = ["Domain"]

_PROJECT_CAP = 64  # steps of a projection along normals


class Domain(Value, ABC):
    """A closed set in which diffusions are reflected.

    Tensors of points are ``[*batch, *event_shape]``. ``sigma`` is a number or a ``[*batch]`` tensor: the
    standard deviation of Brownian motion, in the units of the points. Kernels are those of reflected
    Brownian motion (generator: half the Neumann Laplacian) at Brownian time ``sigma**2``, as densities
    against the ``dim``-dimensional volume. A domain is a value: equal if its configuration is equal.

    **What a subclass must give**: ``event_shape``, ``dim``, and one of

    * ``project(x)``, the nearest point of a *convex* set, or
    * ``boundary(x)``, the signed distance to the wall and the inward unit normal, of *any* set;

    and an attribute of the same name for each constructor argument. On a set that is not convex also a lower bound of
    ``spectral_gap``, which says how much noise makes the law uniform.

    **What it gets**: everything else; so every process, loss, sampler and the estimator. Worth overriding where the
    default is slow or approximate, most rewarding first: ``boundary`` beside ``project`` (the default walks along
    projections), ``reflect`` (symmetrised steps, which miss the specular path at corners), ``walls`` where
    several meet in edges, ``curvature`` (differences of normals), ``sample_uniform`` (rejection from the bounding box),
    ``log_volume`` (Monte Carlo), ``inradius``, ``diameter``; ``tangent``, ``inner`` and ``frame`` on flat sets and
    other metrics, with ``gradient``, ``covector`` and ``white`` in the latter; ``expmap``, ``logmap``, ``transp`` and
    ``ricci`` on curved ones; ``expmap`` and ``difference`` where coordinates are angles; the kernel's methods and
    ``has_exact_kernel`` where a closed form exists; ``features`` for networks.

    ``constrained_diffusion.testing.check_domain(domain)`` tries all of these promises.

    Attributes:
        event_shape: shape of one point.
        dim: intrinsic dimension (the simplex of n parts has n - 1).
        has_exact_kernel: whether ``heat_kernel_log_prob`` and ``heat_kernel_score`` are there.
        has_exact_walls: whether ``boundary`` and ``project`` are exact, not estimates.
        ricci: Ricci curvature, 1/length^2: d - 1 on the unit sphere of dimension d, 0 on flat sets; where it is not
            the same in all directions, a tensor ``[*event_shape]`` of what it is for each coordinate.
    """

    event_shape: torch.Size
    dim: int
    has_exact_kernel: bool = False
    has_exact_walls: bool = True
    ricci: float | Tensor = 0.0

    specs: ClassVar[dict[str, str]] = {}  # words that from_data reads, and what each needs (see specs)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """See that a subclass says where its walls are, and let it give ``event_shape`` as a tuple."""
        if cls.project is Domain.project and cls.boundary is Domain.boundary:
            raise TypeError(f"{cls.__name__} must define project (convex sets) or boundary (any set)")
        super().__init_subclass__(**kwargs)
        if "event_shape" in vars(cls) and isinstance(cls.event_shape, tuple):
            cls.event_shape = torch.Size(cls.event_shape)

    def __setattr__(self, name: str, value: Any) -> None:
        """An ``event_shape`` may be given as a tuple."""
        super().__setattr__(name, torch.Size(value) if name == "event_shape" else value)

    @property
    def simulates_paths(self) -> bool:
        """Whether noise comes from simulated paths: that costs a hundred times a closed form, so it is used again."""
        return not self.has_exact_kernel

    @property
    def has_specular_moves(self) -> bool:
        """Whether :meth:`reflect` is this domain's own: the default is right for short moves only."""
        return type(self).reflect is not Domain.reflect

    @property
    def drawing(self) -> str:
        """How pictures show points: ``"plane"``, ``"corner"`` (pairs of coordinates), or what a domain says of itself.

        Those are ``"ternary"`` (a triangle), ``"parts"`` (a histogram each), ``"ball"`` (around 0, seen from outside).
        """
        return "plane" if self.event_shape == (2,) and self.dim == 2 else "corner"

    # ------------------------------------------------------------------ geometry

    def contains(self, x: Tensor, atol: float = 0.0) -> Tensor:
        """Whether points lie in the closed domain.

        Args:
            x: points ``[*batch, *event_shape]``.
            atol: distance by which a point may lie outside. Equality constraints are always
                granted the rounding of the dtype.

        Returns:
            Tensor of bool ``[*batch]``; False for points that are not finite.
        """
        self._check(x=x)
        if type(self).boundary is not Domain.boundary:
            return self.boundary(x)[0] >= -atol
        gap: Tensor = (x - self.project(x)).flatten(x.ndim - len(self.event_shape)).norm(dim=-1)
        return gap <= atol + 8 * torch.finfo(x.dtype).eps * self.magnitude

    def outside_hint(self, x: Tensor) -> str:
        """What errors add about a point ``[*event_shape]`` outside: what is wrong with it, and the cure; or nothing."""
        return ""

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the domain, ``[*batch, *event_shape]``; points inside are returned as they are."""
        self._check(x=x)
        margin = 4 * torch.finfo(x.dtype).eps * self.magnitude
        for _ in range(_PROJECT_CAP):
            distance, normal = self.boundary(x)
            if bool((distance >= 0).all()):
                break
            x = x + self.expand(torch.where(distance < 0, margin - distance, 0.0)) * normal
            margin = 2 * margin
        return x

    def boundary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distance to the nearest wall, and the direction away from it.

        Args:
            x: points ``[*batch, *event_shape]``.

        Returns:
            Signed distance ``[*batch]`` (negative outside) and the inward unit normal
            ``[*batch, *event_shape]`` at the nearest point of the wall.
        """
        return probing.boundary_of_convex_set(self, x)

    def walls(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distances ``[*batch, m]`` and inward unit normals ``[*batch, m, *event_shape]`` of all walls in reach.

        The default gives the nearest wall alone (m = 1), which leaves an error near edges and corners.
        """
        distance, normal = self.boundary(x)
        return distance.unsqueeze(-1), normal.unsqueeze(distance.ndim)

    def curvature(self, x: Tensor) -> Tensor:
        """Principal curvature ``[*batch, m]`` of each of :meth:`walls` where it is nearest to ``x``, in 1/length.

        Positive where the domain is convex: 1/R on the inside of a sphere; where a wall bends differently in different
        directions, the mean. The default is found by differences of the normals of :meth:`boundary`; where a
        subclass gives :meth:`walls` of its own, they are taken to be flat.
        """
        if type(self).walls is not Domain.walls:
            return torch.zeros_like(self.walls(x)[0])
        return probing.curvature(self, x).unsqueeze(-1)

    def reflect(self, x: Tensor, displacement: Tensor) -> Tensor:
        """Where a point ends that moves straight and is mirrored at the walls.

        The default is the symmetrised step of Bossy, Gobet & Talay (2004): the end point is mirrored in the
        wall; where that too lies outside, the move is cut in halves. A move that still has not
        ended after 64 pieces stops at the wall (:mod:`~constrained_diffusion.domains.symmetrised`).

        Args:
            x: points inside, ``[*batch, *event_shape]``.
            displacement: finite moves of the same shape.

        Returns:
            Points inside, ``[*batch, *event_shape]``.

        Raises:
            DomainError: a point lies outside, or a displacement is not finite.
        """
        return symmetrised.move(self, *self._check_move(x, displacement))

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """Project vectors ``v`` on the tangent space at ``x``; the identity where the domain is solid."""
        return v

    def expmap(self, x: Tensor, v: Tensor) -> Tensor:
        """Where a straight move by ``v`` ends if there are no walls: ``x + v``, the end of a geodesic on curved sets.

        Args:
            x: points ``[*batch, *event_shape]``.
            v: tangent vectors there.
        """
        return x + v

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """The shortest tangent vector ``[*batch, *event_shape]`` at ``x`` whose :meth:`expmap` is ``y``."""
        return self.difference(x, y)

    def difference(self, x: Tensor, y: Tensor) -> Tensor:
        """``y - x``, coordinate by coordinate; for angles, whose ends are the same, the shorter way round."""
        return y - x

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Carry tangent vectors ``v`` from ``x`` to ``y`` along the geodesic; the identity on flat sets.

        Inner products are kept. Batch shapes of the three are the same.
        """
        return v

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Inner product ``[*batch]`` of tangent vectors in the metric in which the noise is isotropic."""
        return (u * v).flatten(u.ndim - len(self.event_shape)).sum(-1) if self.event_shape else u * v

    def gradient(self, x: Tensor, v: Tensor) -> Tensor:
        """The gradient ``[*batch, *event_shape]`` in the metric of a function whose partial derivatives are ``v``.

        Its :meth:`inner` product with a tangent vector is the derivative that way. The default is right for the
        metric of the coordinates.
        """
        return self.tangent(x, v)

    def covector(self, x: Tensor, v: Tensor) -> Tensor:
        """What takes tangent vectors ``w`` to ``inner(x, v, w)`` as the sum of its products with them.

        The inverse of :meth:`gradient` on tangent vectors ``v`` ``[*batch, *event_shape]``; ``v`` itself where the
        metric is that of the coordinates, the default. Batch shapes of the two are the same.
        """
        return v

    def white(self, x: Tensor, z: Tensor) -> Tensor:
        """Tangent vectors of plain numbers ``z``, both ``[*batch, *event_shape]``; white in :meth:`inner` where z is.

        Noise is this of normal numbers, and scores are this of what a network answers: to it all directions are alike.
        The default is right for the metric of the coordinates. Linear in ``z``.
        """
        return self.tangent(x, z)

    def sample_noise(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """A Brownian increment over unit time at ``x``: standard normal in the tangent space and the metric."""
        return self.white(x, torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device))

    def frame(self, x: Tensor) -> Tensor:
        """Tangent vectors ``[dim, *batch, *event_shape]`` at ``x`` that are orthonormal in :meth:`inner`."""
        size = self.event_shape.numel()
        axes = torch.eye(size, dtype=x.dtype, device=x.device).reshape(
            size, *(1,) * len(self._batch(x)), *self.event_shape
        )
        axes = axes.expand(size, *x.shape)
        if self.dim == size:
            return axes
        # Among the projected axes, those directions that survive the projection: its eigenvectors of eigenvalue 1.
        rows = self.tangent(x.expand_as(axes), axes).flatten(axes.ndim - len(self.event_shape)).movedim(0, -2)
        vectors: Tensor = torch.linalg.eigh(rows).eigenvectors[..., size - self.dim :].movedim(-1, 0)
        return vectors.reshape(self.dim, *x.shape)

    def interpolate(self, x: Tensor, y: Tensor, share: float) -> Tensor:
        """Points ``[*batch, *event_shape]`` a share of the way from ``x`` to ``y``: straight, then projected."""
        return self.project(x + share * (y - x))

    def damp_normal(self, x: Tensor, v: Tensor, width: float | Tensor) -> Tensor:
        r"""Let the normal component of a vector field vanish at the walls, and leave the tangential one.

        With h_i = tanh(distance_i / width) for each wall i of inward normal n_i, the result is the u that
        minimises :math:`|u - v|^2 + \sum_i (1/h_i - 1) (n_i \cdot u)^2`: for one wall its normal component
        is v's times h; on an edge it loses all components across the walls that meet there.

        Args:
            x: points ``[*batch, *event_shape]``.
            v: tangent vectors of the same shape.
            width: how far from the wall the damping reaches, a number or ``[*batch]``; at most
                half the inradius is used.

        Returns:
            Tangent vectors ``[*batch, *event_shape]``.
        """
        self._check(x=x, v=v)
        scale = check_scale("width", width, self._batch(x), x).expand(self._batch(x))
        return damping.damp_normal(self, x, v, scale)

    # ------------------------------------------------------------------ size

    @cached_property
    def bounding_box(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of each coordinate: two float64 tensors ``[*event_shape]``."""
        return probing.bounding_box(self)

    @cached_property
    def magnitude(self) -> float:
        """Size of the coordinates, the unit of rounding errors; 1 unless a subclass says otherwise."""
        return 1.0

    @cached_property
    def diameter(self) -> float:
        """Largest distance between two points; the default is the diagonal of the bounding box, an upper bound."""
        low, high = self.bounding_box
        return float((high - low).norm())

    @cached_property
    def inradius(self) -> float:
        """Radius of a ball that fits inside; the default is the best of 1,024 uniform points."""
        x = self.sample_uniform(1024, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return float(self.boundary(x)[0].max())

    @cached_property
    def wall_curvature(self) -> tuple[float, float]:
        """Least and largest curvature of the walls, 1/length: by default 5 % quantiles at 256 uniform points."""
        x = self.sample_uniform(256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        low, high = self.curvature(x).flatten().quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
        return low, high

    @cached_property
    def log_volume(self) -> float:
        """Natural logarithm of the volume; the default is a Monte Carlo estimate in the bounding box."""
        return probing.log_volume(self)

    @cached_property
    def spectral_gap(self) -> float:
        """Smallest non-zero Neumann eigenvalue of minus the Laplacian, 1/length**2.

        The default is the lower bound pi^2 / diameter^2 for convex sets (Payne & Weinberger 1960).
        """
        return (math.pi / self.diameter) ** 2

    # ------------------------------------------------------------------ laws

    def sample_uniform(
        self,
        shape: int | tuple[int, ...],
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Independent uniform points ``[*shape, *event_shape]``; the default rejects from the bounding box."""
        return probing.sample_by_rejection(self, batch_shape(shape), generator, device, dtype)

    def sample_prior(
        self,
        shape: int | tuple[int, ...],
        sigma: float,
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Points ``[*shape, *event_shape]`` of the law that noise of scale ``sigma`` leads to: the uniform law."""
        return self.sample_uniform(shape, generator=generator, device=device, dtype=dtype)

    def prior_log_prob(self, x: Tensor, sigma: float) -> Tensor:
        """Log-density ``[*batch]`` of :meth:`sample_prior`; minus infinity outside."""
        inside = self.contains(x, atol=64 * torch.finfo(x.dtype).eps * self.magnitude)
        return torch.where(inside, -self.log_volume, -math.inf).to(x.dtype)

    def heat_kernel_log_prob(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
        """Log-density ``[*batch]`` of reflected Brownian motion, started at ``x0``, after time ``sigma**2``.

        Args:
            x: points inside, ``[*batch, *event_shape]``.
            x0: starting points inside; batch shapes broadcast.
            sigma: Brownian standard deviation, a number or ``[*batch]``.

        Returns:
            Natural logarithm of the density, against the domain's volume.

        Raises:
            NotImplementedError: no closed kernel exists here.
        """
        raise self._no_kernel()

    def heat_kernel_score(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
        """Gradient in ``x`` of :meth:`heat_kernel_log_prob`, a tangent vector ``[*batch, *event_shape]``."""
        raise self._no_kernel()

    def sample_heat_kernel(self, x0: Tensor, sigma: float | Tensor, *, generator: Generator | None = None) -> Tensor:
        """Draw from the law whose density is :meth:`heat_kernel_log_prob`, one point for each ``x0``."""
        raise self._no_kernel()

    def sample_bridge(
        self, x0: Tensor, x: Tensor, below: float | Tensor, sigma: float | Tensor, *, generator: Generator | None = None
    ) -> Tensor:
        """Draw reflected Brownian motion at noise ``below`` given that it was at ``x0`` and is at ``x`` at ``sigma``.

        The default resamples (:mod:`~constrained_diffusion.domains.bridges`), where there is an exact kernel.

        Args:
            x0: points inside, ``[*batch, *event_shape]``.
            x: points inside, of the same shape.
            below: noise of the points to draw, a number or ``[*batch]``, less than sigma.
            sigma: noise at ``x``, a number or ``[*batch]``.
            generator: source of randomness.

        Returns:
            Points ``[*batch, *event_shape]``.
        """
        x, x0, scale, less = self._check_bridge(x, x0, below, sigma)
        return bridges.bridge_by_resampling(self, x0, x, less, scale, generator=generator)

    def diffuse(
        self, x0: Tensor, sigma: float | Tensor, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Noise points, and say what a score network should answer there.

        Args:
            x0: points inside, ``[*batch, *event_shape]``.
            sigma: Brownian standard deviation, a number or ``[*batch]``.
            generator: source of randomness.

        Returns:
            The noised points, and denoising targets whose conditional expectation given ``x0`` and the noised
            point is the kernel's score: the score itself where a closed kernel exists, otherwise the
            target of a simulated path (:mod:`~constrained_diffusion.domains.paths`). Both
            ``[*batch, *event_shape]``.
        """
        if self.has_exact_kernel:
            x = self.sample_heat_kernel(x0, sigma, generator=generator)
            return x, self.heat_kernel_score(x, x0, sigma)
        x0, scale = self._check_noising(x0, sigma)
        return paths.simulate(self, x0, scale, generator=generator)

    def noise(self, x0: Tensor, sigma: float | Tensor, *, generator: Generator | None = None) -> Tensor:
        """Noise points as :meth:`diffuse` does, for losses that need no target; ``[*batch, *event_shape]``."""
        if self.has_exact_kernel:
            return self.sample_heat_kernel(x0, sigma, generator=generator)
        return self.diffuse(x0, sigma, generator=generator)[0]

    # ------------------------------------------------------------------ units

    def normalised(self, x: Tensor) -> tuple[Domain, Affine | None]:
        """The domain in units in which one ``sigma`` suits all coordinates, for models of data ``x``.

        Args:
            x: data inside, ``[n, *event_shape]``.

        Returns:
            A domain, and the map from it to this one; or this one and None, the default, where nothing is gained.
        """
        return self, None

    def covering(self, x: Tensor, margin: float = 0.0) -> Affine:
        """A change of units by which data of any size lie inside.

        The default, for solid sets, takes the ball around the middle of the data into a ball that fits inside.

        Args:
            x: data, ``[n, *event_shape]``.
            margin: share of the ball's radius (of boxes: of each side) that stays empty at the wall, in [0, 1).

        Returns:
            The map from the domain to the data's units; its inverse takes ``x`` inside.

        Raises:
            NotImplementedError: the domain is a flat set, in which such a map would not stay.
        """
        if self.dim != self.event_shape.numel():
            raise NotImplementedError(f"{self!r} is flat: bring data into it by what they mean, such as a division")
        points = self.sample_uniform(1024, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        depth = self.boundary(points)[0]
        centre, radius = points[depth.argmax()], float(depth.max()) * (1 - margin)
        wide = x.double().cpu()
        middle = (wide.amin(0) + wide.amax(0)) / 2
        size = float((wide - middle).flatten(1).norm(dim=1).max()) or radius
        scale = size / radius
        return Affine(middle - scale * centre, torch.full_like(middle, scale))

    # ------------------------------------------------------------------ networks

    def features(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Coordinates ``[*batch, k]`` of order one that a network can read, at noise level ``sigma`` ``[*batch]``.

        The default: coordinates scaled to [-1, 1], and the distance to the wall against ``sigma``.
        """
        scaled = self._scaled(x).flatten(x.ndim - len(self.event_shape))
        distance = self.boundary(x)[0].clamp(min=0)
        return torch.cat([scaled, (distance / (distance + sigma)).unsqueeze(-1)], -1)

    def planes(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Features for networks that keep the points' shape, as those for images do: ``[*batch, m, *event_shape]``.

        The default: coordinates scaled to [-1, 1], and in each place the distance to the wall against ``sigma``.
        """
        distance = self.boundary(x)[0].clamp(min=0)
        parts = [self._scaled(x), self.expand(distance / (distance + sigma)).expand_as(x)]
        return torch.stack(parts, x.ndim - len(self.event_shape))

    # ------------------------------------------------------------------ choice by a word

    @classmethod
    def from_data(cls, data: Tensor | Extent, spec: str = "") -> Domain:
        """A domain of this kind that suits data, for those that are chosen by a word.

        Args:
            data: points ``[n, k]``, or what one pass over them told. What a spec leaves open is chosen so that all
                of them lie inside.
            spec: one of the words in ``specs``, and after a colon what it needs, such as ``"box:0,1"``.

        Raises:
            NotImplementedError: this kind has no such word; the default.
            ValueError: the data cannot lie in such a domain, or the spec cannot be read.
        """
        raise NotImplementedError(f"{cls.__name__} is not chosen by data: make one with its constructor")

    # ------------------------------------------------------------------ for subclasses

    def expand(self, value: Tensor) -> Tensor:
        """Give a ``[*batch]`` tensor the event's dimensions, each of size one."""
        return value.reshape(value.shape + (1,) * len(self.event_shape))

    def _batch(self, x: Tensor) -> torch.Size:
        return x.shape[: x.ndim - len(self.event_shape)]

    def _scaled(self, x: Tensor) -> Tensor:
        """Coordinates of which the bounding box's reach from -1 to 1."""
        low, high = (b.to(x) for b in self.bounding_box)
        return (x - low) / torch.where(high > low, high - low, 1.0) * 2 - 1

    def _check(self, **points: Tensor) -> None:
        """Check names, shapes, dtypes and devices of tensors of points or vectors."""
        names = iter(points.items())
        first_name, first = next(names)
        check_tensor(first_name, first, self.event_shape)
        for name, x in names:
            check_tensor(name, x, self.event_shape)
            check_alike(name, x, first_name, first)
            check_batch(name, self._batch(x), first_name, self._batch(first))

    def _check_move(self, x: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
        self._check(x=x, displacement=displacement)
        check_inside(self, "x", x)
        check_finite("displacement", displacement, len(self.event_shape))
        batch = check_batch("x", self._batch(x), "displacement", self._batch(displacement))
        return x.expand(batch + self.event_shape), displacement.expand(batch + self.event_shape)

    def _check_noising(self, x0: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
        """Check the arguments of a noising method; returns ``x0`` and ``sigma`` as ``[*batch]``."""
        self._check(x0=x0)
        scale = check_scale("sigma", sigma, self._batch(x0), x0).expand(self._batch(x0))
        check_inside(self, "x0", x0)
        return x0, scale

    def _check_pair(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Check the arguments of a kernel; returns points of equal shape and ``sigma`` as ``[*batch]``."""
        self._check(x=x, x0=x0)
        batch = check_batch("x", self._batch(x), "x0", self._batch(x0))
        scale = check_scale("sigma", sigma, batch, x).expand(batch)
        check_inside(self, "x", x)
        check_inside(self, "x0", x0)
        shape = batch + self.event_shape
        return x.expand(shape), x0.expand(shape), scale

    def _check_bridge(
        self, x: Tensor, x0: Tensor, below: float | Tensor, sigma: float | Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Check the arguments of a bridge; returns points of equal shape and both noises as ``[*batch]``."""
        x, x0, scale = self._check_pair(x, x0, sigma)
        less = check_scale("below", below, self._batch(x), x).expand(self._batch(x))
        check_order("below", less, "sigma", scale)
        return x, x0, scale, less

    def _no_kernel(self) -> NotImplementedError:
        return NotImplementedError(
            f"{self!r} has no closed heat kernel; `diffuse` noises points and returns training targets without one"
        )
