"""Parts of a sphere cut out by half-spaces: caps, zones, spherical polygons.

May use: torch, the whole sphere.
"""

from __future__ import annotations

import itertools
import math
from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor

from . import sphere_billiard, sphere_size
from .base import Domain
from .checks import DomainError, ShapeError, SolverError, batch_shape, trusted
from .sphere import Sphere

__all__ = ["SphericalPolytope"]

_MOST_FACES = 5000  # that a projection compares
_SIDES = 16  # walls up to which a network reads the distance to each
_ROUNDS = 1000  # of proposals
_ROWS = 4096  # points that are projected at a time
_MIRRORS = 6  # orthogonal walls through the centre up to which images are summed


class SphericalPolytope(Domain):
    """All unit vectors x of R^(d+1) with ``A x <= b``, d at least 2.

    One row is a cap (:meth:`cap`), two opposite ones are a zone, rows with ``b = 0`` have great circles as sides
    (:meth:`from_vertices`). Reflection is specular on great circles, distances are angles. Where all walls are great
    circles at right angles (a hemisphere, an octant) the kernel is that of the sphere, summed over mirror images;
    elsewhere noise follows simulated paths.

    Args:
        A: rows ``[m, d + 1]``.
        b: ``[m]``; each must cut the sphere, that is ``|b_i| < |A_i|``.

    Raises:
        DomainError: a row does not cut the sphere, or nothing is inside.
        ShapeError: shapes do not fit.
    """

    def __init__(self, A: Any, b: Any) -> None:
        self.A, self.b = (torch.as_tensor(v, dtype=torch.float64).cpu() for v in (A, b))
        if self.A.ndim != 2 or self.A.shape[1] < 3 or self.b.shape != self.A.shape[:1] or not len(self.b):
            raise ShapeError(
                f"A must be [m, d + 1] and b [m], m >= 1 and d >= 2; got {list(self.A.shape)} and {list(self.b.shape)}"
            )
        length = self.A.norm(dim=1)
        bad = ~(self.b.abs() < length)  # also where a number is not finite
        if bool(bad.any()):
            i = int(bad.nonzero()[0])
            raise DomainError(
                f"row {i} of A x <= b does not cut the unit sphere: |b| = {float(self.b[i].abs()):g}, |A_i| = "
                f"{float(length[i]):g}. Leave out rows that hold everywhere"
            )
        self._normals, self._heights = -self.A / length.unsqueeze(1), -self.b / length
        self._angles = self._heights.acos()  # from each wall's own pole
        self.sphere = Sphere(self.A.shape[1] - 1)
        self.event_shape, self.dim, self.ricci = self.sphere.event_shape, self.sphere.dim, self.sphere.ricci
        bend = 1 / self._angles.tan()
        self.wall_curvature = (float(bend.min()), float(bend.max()))
        gram = self._normals @ self._normals.T
        across = float((gram - torch.eye(len(gram), dtype=gram.dtype)).abs().max())
        self.has_exact_kernel = max(float(self._heights.abs().max()), across) < 1e-12 and len(gram) <= _MIRRORS
        if len(self.b) > 1:
            self.sample_uniform(1, generator=torch.Generator().manual_seed(0))  # raises where nothing is inside

    @classmethod
    def cap(cls, pole: Any, angle: float) -> SphericalPolytope:
        """The points within ``angle`` (radians, less than pi) of the direction ``pole`` ``[d + 1]``."""
        n = torch.as_tensor(pole, dtype=torch.float64)
        if not 0 < angle < math.pi:
            raise ValueError(f"angle must lie between 0 and pi, in radians, not {angle!r}")
        height = 0.0 if angle == math.pi / 2 else math.cos(angle)
        return cls(-(n / n.norm()).unsqueeze(0), torch.tensor([-height], dtype=torch.float64))

    @classmethod
    def from_vertices(cls, vertices: Any) -> SphericalPolytope:
        """The convex hull on the sphere of directions ``[k, d + 1]``, which lie in an open hemisphere."""
        from scipy.spatial import ConvexHull

        v = torch.as_tensor(vertices, dtype=torch.float64)
        v = v / v.norm(dim=1, keepdim=True)
        hull = ConvexHull(torch.cat([torch.zeros_like(v[:1]), v]).numpy())
        facets = torch.from_numpy(hull.equations[(hull.simplices == 0).any(1), :-1]).round(decimals=14)
        if not len(facets):
            raise DomainError("vertices must lie in an open hemisphere, so that their hull is part of the sphere")
        facets = torch.unique(facets, dim=0)
        return cls(facets, torch.zeros(len(facets), dtype=torch.float64))

    @property
    def drawing(self) -> str:
        """As for the sphere."""
        return self.sphere.drawing

    # ------------------------------------------------------------------ geometry

    def contains(self, x: Tensor, atol: float = 0.0) -> Tensor:
        """Whether points are unit vectors, within rounding, and behind no wall by more than ``atol``; ``[*batch]``."""
        on_sphere = self.sphere.contains(x, atol)
        return on_sphere & (self._depths(x)[0] >= -atol).all(-1)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point: points are divided by their lengths, then taken to the nearest of all faces."""
        x = torch.where(self.contains(x).unsqueeze(-1), x, self.sphere.project(x))
        flat = x.reshape(-1, *self.event_shape)
        rows = (~self.contains(flat)).nonzero().squeeze(-1)
        if len(rows):
            parts = [self._nearest(p) for p in flat[rows].double().split(_ROWS)]
            flat = flat.index_copy(0, rows, torch.cat(parts).to(x.dtype))
        return flat.reshape(x.shape)

    def boundary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Angle to the nearest wall ``[*batch]``, negative behind one; and the unit vector away from it."""
        distances, normals = self.walls(x)
        nearest = distances.argmin(-1, keepdim=True)
        normal = torch.take_along_dim(normals, nearest.unsqueeze(-1), -2).squeeze(-2)
        return distances.gather(-1, nearest).squeeze(-1), normal

    def walls(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Angles to all walls ``[*batch, m]``, and inward unit normals ``[*batch, m, d + 1]`` along the sphere."""
        self._check(x=x)
        distances, sine = self._depths(x)
        n, _ = self._constants(x)
        toward = n - (x @ n.T).unsqueeze(-1) * x.unsqueeze(-2)
        axis = torch.zeros_like(x).scatter(-1, x.abs().argmin(-1, keepdim=True), 1.0)
        axis = self.sphere.tangent(x, axis)
        axis = (axis / axis.norm(dim=-1, keepdim=True)).unsqueeze(-2)  # at a pole all directions are as good
        good = (sine > 1e-3 * torch.finfo(x.dtype).eps).unsqueeze(-1)
        return distances, torch.where(good, toward / torch.where(good, sine.unsqueeze(-1), 1.0), axis)

    def curvature(self, x: Tensor) -> Tensor:
        """Geodesic curvatures ``[*batch, m]`` of the walls: the cotangent of their angles to their poles."""
        bend: Tensor = (1 / self._angles.tan()).to(x)
        return bend.expand((*self._batch(x), len(bend)))

    def reflect(self, x: Tensor, displacement: Tensor) -> Tensor:
        """The specular move along great circles; it stops after 1,000 bounces."""
        x, v = self._check_move(x, displacement)
        flat = x.reshape(-1, *self.event_shape)
        v = self.tangent(x, v).reshape(flat.shape)
        end = sphere_billiard.move(flat, v, *self._constants(x))
        rows = (~self.contains(end)).nonzero().squeeze(-1)
        if len(rows):
            end = end.index_copy(0, rows, self.project(end[rows]))
        return end.reshape(x.shape)

    def expmap(self, x: Tensor, v: Tensor) -> Tensor:
        """On the whole sphere, as if there were no walls."""
        return self.sphere.expmap(x, v)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Along the great circle, on the whole sphere."""
        return self.sphere.logmap(x, y)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport along the great circle."""
        return self.sphere.transp(x, y, v)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """Remove the component along ``x``."""
        return self.sphere.tangent(x, v)

    def frame(self, x: Tensor) -> Tensor:
        """Orthonormal tangent vectors ``[d, *batch, d + 1]``."""
        return self.sphere.frame(x)

    def interpolate(self, x: Tensor, y: Tensor, share: float) -> Tensor:
        """Along the great circle, then projected."""
        return self.project(self.sphere.interpolate(x, y, share))

    # ------------------------------------------------------------------ size

    @cached_property
    def centre(self) -> Tensor:
        """A point about as far as possible from all walls, ``[d + 1]`` in float64."""
        if len(self.b) == 1:
            pole: Tensor = self._normals[0]
            return pole
        generator = torch.Generator().manual_seed(0)
        x = self.sample_uniform(4096, generator=generator, dtype=torch.float64)
        best: Tensor = x[self.boundary(x)[0].argmax()]
        for k in range(40):
            around = best.expand(256, -1)
            step = self.diameter * 0.7**k * self.sphere.sample_noise(around, generator=generator)
            x = torch.cat([best.unsqueeze(0), self.sphere.expmap(around, step)])
            best = x[self.boundary(x)[0].argmax()]
        return best

    @cached_property
    def bounding_box(self) -> tuple[Tensor, Tensor]:
        """Least and greatest coordinates of the caps, over those of which the smallest box is taken."""
        apart, angle = self._normals.clamp(-1, 1).acos(), self._angles.unsqueeze(1)
        high = (apart - angle).clamp(min=0).cos().amin(0)
        low = -(math.pi - apart - angle).clamp(min=0).cos().amin(0)
        return low, high

    @cached_property
    def diameter(self) -> float:
        """Of a small polygon the largest angle between corners; otherwise that of its smallest cap."""
        most = min(math.pi, 2 * float(self._angles.min()))
        if len(self.b) > self.dim and float(self._heights.abs().max()) == 0:
            ends = torch.stack([free for span, _, _ in self._faces if len(span) == self.dim for free in _poles(span)])
            corners = ends[(self._depths(ends)[0] >= -1e-9).all(-1)]
            across = float(torch.cdist(corners, corners).max())
            if across <= math.sqrt(2):  # within a right angle the distance to a point is convex
                return min(most, 2 * math.asin(across / 2) * (1 + 1e-9))
        return most

    @cached_property
    def inradius(self) -> float:
        """The angle from :attr:`centre` to the nearest wall."""
        return float(self.boundary(self.centre)[0])

    @cached_property
    def log_volume(self) -> float:
        """Exact for caps and for convex polygons on S^2; else by some 65,536 random directions or points, to 0.01."""
        cap = sphere_size.log_cap_volume(self.dim, float(self._angles.min()))
        if len(self.b) == 1:
            return cap
        if self._convex:
            return sphere_size.log_star_volume(
                self.centre, lambda x, u: sphere_billiard.reach(x, u, *self._constants(x)).amin(-1)
            )
        x = self._in_smallest_cap(1 << 17, torch.Generator().manual_seed(0), None, torch.float64)
        return cap + math.log(float(self.contains(x).double().mean()))

    @cached_property
    def spectral_gap(self) -> float:
        """Of caps exact; of convex parts the larger of d (Escobar 1990) and pi^2 / diameter^2; else an estimate."""
        if len(self.b) == 1:
            return sphere_size.cap_gap(self.dim, float(self._angles[0]))
        if self._convex:
            return max(float(self.dim), (math.pi / self.diameter) ** 2)
        x = self.sample_uniform(1 << 13, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return sphere_size.ritz_gap(x)

    # ------------------------------------------------------------------ laws

    def sample_uniform(
        self,
        shape: int | tuple[int, ...],
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Independent uniform points ``[*shape, d + 1]``: of the smallest cap, those behind no other wall."""
        size = batch_shape(shape)
        found: list[Tensor] = [torch.empty((0, *self.event_shape), device=device, dtype=dtype)]
        missing = math.prod(size)
        for _ in range(_ROUNDS):
            if missing <= 0:
                break
            x = self._in_smallest_cap(min(max(2 * missing, 1024), 1 << 16), generator, device, dtype)
            x = x[self.contains(x)][:missing]
            found.append(x)
            missing -= len(x)
        else:
            raise SolverError(f"no point of the sphere was found inside {self!r}: is A x <= b empty, or very small?")
        return torch.cat(found).reshape(*size, *self.event_shape)

    def heat_kernel_log_prob(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
        """Log-density ``[*batch]``: the sphere's, summed over mirror images of ``x0``."""
        return torch.logsumexp(self._images(x, x0, sigma)[0], 0)

    def heat_kernel_score(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
        """Score ``[*batch, d + 1]``."""
        log_p, score = self._images(x, x0, sigma)
        return (torch.softmax(log_p, 0).unsqueeze(-1) * score).sum(0)

    def sample_heat_kernel(self, x0: Tensor, sigma: float | Tensor, *, generator: Generator | None = None) -> Tensor:
        """Draws of the sphere's kernel, mirrored into the domain."""
        if not self.has_exact_kernel:
            raise self._no_kernel()
        x0, scale = self._check_noising(x0, sigma)
        x = self.sphere.sample_heat_kernel(x0, scale, generator=generator)
        n, _ = self._constants(x)
        return self.project(x - 2 * (x @ n.T).clamp(max=0) @ n)

    # ------------------------------------------------------------------ networks

    def features(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The sphere's, and the distances to the walls (if there are many: to the nearest) against ``sigma``."""
        distances = self._depths(x)[0].clamp(min=0)
        distances = distances if len(self.b) <= _SIDES else distances.amin(-1, keepdim=True)
        return torch.cat([self.sphere.features(x, sigma), distances / (distances + sigma.unsqueeze(-1))], -1)

    # ------------------------------------------------------------------ parts

    @property
    def _convex(self) -> bool:
        return float(self._heights.min()) >= 0

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return self._normals.to(like), self._heights.to(like)

    def _depths(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Angles to the walls and sines of the angles to their poles, ``[*batch, m]``."""
        n, _ = self._constants(x)
        cosine = x @ n.T
        sine = (n - cosine.unsqueeze(-1) * x.unsqueeze(-2)).norm(dim=-1)
        return self._angles.to(x) - torch.atan2(sine, cosine), sine

    def _in_smallest_cap(
        self, n: int, generator: Generator | None, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> Tensor:
        """Uniform points of the smallest cap, by rejection of angles: fewer than ``n``."""
        which = int(self._angles.argmin())
        pole = self._normals[which].to(device=device, dtype=dtype or torch.get_default_dtype()).expand(n, -1)
        u = torch.rand((2, n), generator=generator, device=pole.device, dtype=pole.dtype)
        angle = float(self._angles[which]) * u[0] ** (1 / self.dim)
        kept = u[1] <= torch.sinc(angle / math.pi) ** (self.dim - 1)
        v = self.sphere.sample_noise(pole, generator=generator)
        v = v / v.norm(dim=-1, keepdim=True) * angle.unsqueeze(-1)
        return self.sphere.expmap(pole, v)[kept]

    def _images(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
        """Log-densities ``[2^m, *batch]`` and scores of the sphere's kernel from all mirror images of ``x0``."""
        if not self.has_exact_kernel:
            raise self._no_kernel()
        x, x0, scale = self._check_pair(x, x0, sigma)
        starts = x0.unsqueeze(0)
        for n in self._constants(x)[0]:
            starts = torch.cat([starts, starts - 2 * (starts @ n).unsqueeze(-1) * n])
        with trusted():
            many = (x.expand_as(starts), starts, scale.expand(len(starts), *scale.shape))
            return self.sphere.heat_kernel_log_prob(*many), self.sphere.heat_kernel_score(*many)

    @cached_property
    def _faces(self) -> list[tuple[Tensor, Tensor, float]]:
        """Of each set of walls that meet: rows that span their normals, the centre of where they meet, its radius."""
        m, faces = len(self.b), []
        if sum(math.comb(m, k) for k in range(1, min(m, self.dim) + 1)) > _MOST_FACES:
            raise SolverError(f"{m} walls have too many faces to project on")
        for k in range(1, min(m, self.dim) + 1):
            for chosen in itertools.combinations(range(m), k):
                n, c = self._normals[list(chosen)], self._heights[list(chosen)]
                if float(torch.linalg.svdvals(n)[-1]) < 1e-9:
                    continue
                base = torch.linalg.pinv(n) @ c
                square = 1 - float(base @ base)
                if square >= 0:
                    faces.append((torch.linalg.svd(n, full_matrices=False).Vh, base, math.sqrt(square)))
        return faces

    def _nearest(self, x: Tensor) -> Tensor:
        """Of the points of all faces the nearest that is inside, for unit vectors outside ``[n, d + 1]``."""
        candidates = []
        for span, base, radius in self._faces:
            span, base = span.to(x), base.to(x)
            free = self.sphere.project(x - x @ span.T @ span)
            free = self.sphere.project(free - free @ span.T @ span)
            candidates.append(base + radius * free)
            if len(span) == self.dim:  # two points, and the farther may be the one inside
                candidates.append(base - radius * free)
        y = torch.stack(candidates)
        good = (self._depths(y)[0] >= -1e-12).all(-1)
        best = torch.where(good, (y - x).norm(dim=-1), torch.inf).argmin(0)
        return torch.take_along_dim(y, best.reshape(1, -1, 1), 0).squeeze(0)


def _poles(span: Tensor) -> tuple[Tensor, Tensor]:
    """The two unit vectors at right angles to the rows of ``span`` ``[d, d + 1]``."""
    pole = torch.linalg.svd(span).Vh[-1]
    return pole, -pole
