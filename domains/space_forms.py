"""Spaces of constant curvature as geoopt has them: geometry without walls.

May use: geoopt, imported where used, and the sphere. Methods have geoopt's names and call geoopt's, but on spheres
those of :class:`~constrained_diffusion.domains.sphere.Sphere`: geoopt's logarithm there goes through an arc cosine,
which loses half of the digits of short ways, and its transport changes lengths.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Generator, Tensor

from .checks import DomainError, ShapeError
from .sphere import Sphere

__all__ = ["Piece", "describe", "geoopt_manifold", "pieces_of", "title"]

_REACH = 6.0  # radii of curvature from the middle of a ball, up to which geoopt's formulas hold in float32
_FAR_SIDE = 0.9  # of the way to the point that a stereographic chart of the sphere lacks
_FLAT_REACH = 1e6
_SPHERES, _FLAT = ("Sphere", "SphereExact"), ("Euclidean",)
_CURVED = {
    "PoincareBall": "c",
    "PoincareBallExact": "c",
    "SphereProjection": "k",
    "SphereProjectionExact": "k",
    "Stereographic": "k",
    "StereographicExact": "k",
}  # and the argument that says how much
_PRODUCTS = ("ProductManifold", "StereographicProductManifold")


class Piece(ABC):
    """A space of constant curvature; points and vectors are ``[*batch, size]``.

    Attributes:
        size: number of coordinates.
        dim: dimension.
        k: curvature of its planes, 1/length^2.
        whole: whether it is compact, so that it may be used without walls.
    """

    size: int
    dim: int
    k: float
    whole: bool = False

    @property
    def ricci(self) -> float:
        """Ricci curvature (dim - 1) k."""
        return (self.dim - 1) * self.k

    @property
    def injectivity(self) -> float:
        """How far geodesics are the shortest ways: pi / sqrt(k), or infinity."""
        return math.pi / math.sqrt(self.k) if self.k > 0 else math.inf

    def stretch(self, r: Tensor) -> Tensor:
        """sin(sqrt(k) r) / (sqrt(k) r): circles of radius r are as much longer than in the plane (sinh where k < 0)."""
        turn = math.sqrt(abs(self.k)) * r
        if self.k >= 0:
            return torch.sinc(turn / math.pi)
        safe = torch.where(turn > 0, turn, 1.0)
        return torch.where(turn > 0, torch.sinh(safe) / safe, 1.0)

    @abstractmethod
    def reach(self, centre: Tensor) -> float:
        """How far from ``centre`` points may lie, so that their coordinates are good in float32."""

    @abstractmethod
    def on(self, x: Tensor, atol: float) -> Tensor:
        """Whether points belong to it, ``[*batch]``."""

    @abstractmethod
    def projx(self, x: Tensor) -> Tensor:
        """A point of it for any finite vector."""

    @abstractmethod
    def proju(self, x: Tensor, v: Tensor) -> Tensor:
        """Make vectors tangent."""

    @abstractmethod
    def expmap(self, x: Tensor, v: Tensor) -> Tensor:
        """The end of the geodesic from ``x`` along ``v``."""

    @abstractmethod
    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """The shortest tangent vector at ``x`` that leads to ``y``."""

    @abstractmethod
    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport along the geodesic."""

    @abstractmethod
    def scale(self, x: Tensor) -> Tensor:
        """Length ``[*batch, 1]`` in the metric of tangent vectors of Euclidean length one."""

    @abstractmethod
    def frame(self, x: Tensor) -> Tensor:
        """Orthonormal tangent vectors ``[dim, *batch, size]``."""

    @abstractmethod
    def random(self, n: int, generator: Generator | None) -> Tensor:
        """Points ``[n, size]`` in float64, near and far, among which to look for one inside."""


class Round(Piece):
    """The unit sphere: geoopt's ``Sphere``, in the library's own formulas."""

    k, whole = 1.0, True

    def __init__(self, size: int) -> None:
        self.size, self.dim = size, size - 1
        self.sphere = Sphere(self.dim)

    def reach(self, centre: Tensor) -> float:
        """All of it."""
        return self.injectivity

    def on(self, x: Tensor, atol: float) -> Tensor:
        """Whether lengths are one."""
        return self.sphere.contains(x, atol)

    def projx(self, x: Tensor) -> Tensor:
        """Divide by the length."""
        return self.sphere.project(x)

    def proju(self, x: Tensor, v: Tensor) -> Tensor:
        """Remove the part along ``x``."""
        return self.sphere.tangent(x, v)

    def expmap(self, x: Tensor, v: Tensor) -> Tensor:
        """Along the great circle."""
        return self.sphere.expmap(x, v)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Along the great circle."""
        return self.sphere.logmap(x, y)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Along the great circle."""
        return self.sphere.transp(x, y, v)

    def scale(self, x: Tensor) -> Tensor:
        """One."""
        return torch.ones_like(x[..., :1])

    def frame(self, x: Tensor) -> Tensor:
        """The sphere's."""
        return self.sphere.frame(x)

    def random(self, n: int, generator: Generator | None) -> Tensor:
        """Uniform."""
        return self.sphere.sample_uniform(n, generator=generator, dtype=torch.float64)


class Conformal(Piece):
    """A chart in which lengths are scaled alike in all directions: balls, stereographic charts, flat space."""

    def __init__(self, manifold: Any, size: int) -> None:
        self.manifold, self.size, self.dim = manifold, size, size
        self.flat = type(manifold).__name__ in _FLAT
        self.k = 0.0 if self.flat else float(manifold.k)

    def reach(self, centre: Tensor) -> float:
        """As far as the chart is good; counted from ``centre``."""
        if self.k == 0:
            return _FLAT_REACH
        most = _REACH / math.sqrt(-self.k) if self.k < 0 else _FAR_SIDE * self.injectivity
        origin = torch.zeros_like(centre)
        return most - float((self.scale(origin) * self.logmap(origin, centre)).norm())

    def on(self, x: Tensor, atol: float) -> Tensor:
        """Whether points lie in the ball, or are finite."""
        square = x.square().sum(-1)
        return -self.k * square < 1 if self.k < 0 else square.isfinite()

    def projx(self, x: Tensor) -> Tensor:
        """Geoopt's."""
        out: Tensor = self.manifold.projx(x)
        return out

    def proju(self, x: Tensor, v: Tensor) -> Tensor:
        """All vectors are tangent."""
        return v

    def expmap(self, x: Tensor, v: Tensor) -> Tensor:
        """Geoopt's."""
        out: Tensor = self.manifold.expmap(x, v)
        return out

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Geoopt's."""
        out: Tensor = self.manifold.logmap(x, y)
        return out

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Geoopt's."""
        out: Tensor = v if self.flat else self.manifold.transp(x, y, v)
        return out

    def scale(self, x: Tensor) -> Tensor:
        """The conformal factor, 2 / (1 + k |x|^2) in a stereographic chart."""
        return torch.ones_like(x[..., :1]) if self.flat else self.manifold.lambda_x(x, keepdim=True).to(x.dtype)

    def frame(self, x: Tensor) -> Tensor:
        """The axes, divided by :meth:`scale`."""
        axes = torch.eye(self.size, dtype=x.dtype, device=x.device)
        return axes.reshape(self.size, *(1,) * (x.ndim - 1), self.size) / self.scale(x)

    def random(self, n: int, generator: Generator | None) -> Tensor:
        """In all directions from the middle, at distances from 0.001 radii of curvature on (in flat space: lengths)."""
        z = torch.randn((n, self.size), generator=generator, dtype=torch.float64)
        u = torch.rand((n, 1), generator=generator, dtype=torch.float64)
        origin = torch.zeros_like(z)
        most = min(self.reach(origin[:1]), 1e3)
        far = most * 10 ** (-3 * u * (u > 0.2) - 1e-3)
        return self.expmap(origin, z / z.norm(dim=-1, keepdim=True) * far / self.scale(origin))


def quiet_geoopt() -> Any:
    """The module geoopt, imported without its warnings that torch has deprecated how it compiles functions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import geoopt
    return geoopt


def pieces_of(manifold: Any, shape: tuple[int, ...]) -> list[Piece]:
    """The factors of a geoopt manifold, or itself, each with the coordinates that it has.

    Raises:
        TypeError: it is none of geoopt's, or one whose curvature varies.
        ShapeError: points of that shape do not exist.
    """
    name = type(manifold).__name__
    if name in _PRODUCTS:
        if shape != (manifold.n_elements,):
            raise ShapeError(
                f"shape must be [{manifold.n_elements}], the coordinates of all factors; got {list(shape)}"
            )
        pairs = zip(manifold.manifolds, manifold.shapes, strict=True)
        return [piece for factor, part in pairs for piece in pieces_of(factor, tuple(part))]
    known = (*_SPHERES, *_CURVED, *_FLAT)
    if name not in known or not type(manifold).__module__.startswith("geoopt."):
        raise TypeError(
            f"manifold must be one of geoopt's {', '.join((*known, *_PRODUCTS))}, spaces of constant curvature and "
            f"their products, not {name}"
        )
    if len(shape) != 1 or shape[0] < (2 if name in _SPHERES else 1):
        raise ShapeError(f"points of {name} are vectors; got shape {list(shape)}")
    if name not in _SPHERES:
        return [Conformal(manifold, shape[0])]
    if manifold.projector is not None:
        raise DomainError(
            "geoopt.Sphere with an intersection or a complement is a sphere of fewer coordinates: use that"
        )
    return [Round(shape[0])]


def describe(manifold: Any) -> dict[str, Any]:
    """What :func:`geoopt_manifold` rebuilds a manifold from, as JSON-able values."""
    name = type(manifold).__name__
    if name in _PRODUCTS:
        pairs = zip(manifold.manifolds, manifold.shapes, strict=True)
        return {"geoopt": name, "factors": [[describe(m), list(s)] for m, s in pairs]}
    return {"geoopt": name} | ({_CURVED[name]: float(getattr(manifold, _CURVED[name]))} if name in _CURVED else {})


def geoopt_manifold(manifold: Any) -> Any:
    """The manifold that :func:`describe` described; others as they are."""
    if not isinstance(manifold, dict):
        return manifold
    geoopt, name = quiet_geoopt(), manifold["geoopt"]
    if name in _PRODUCTS:
        return getattr(geoopt, name)(*((geoopt_manifold(m), tuple(s)) for m, s in manifold["factors"]))
    if name in _FLAT:
        return geoopt.Euclidean(ndim=1)
    if name not in (*_SPHERES, *_CURVED):
        raise ValueError(f"{name!r} is none of the manifolds of geoopt that are known here")
    return getattr(geoopt, name)(**{k: v for k, v in manifold.items() if k != "geoopt"})


def title(described: dict[str, Any]) -> str:
    """A manifold as people write it, such as ``PoincareBall(c=1)``."""
    name = described["geoopt"]
    if name in _PRODUCTS:
        return " x ".join(title(m) for m, _ in described["factors"])
    numbers = [f"{k}={v:g}" for k, v in described.items() if k != "geoopt"]
    return f"{name}({', '.join(numbers)})"
