"""Systems of linear constraints, put in order once when a polytope is built.

May use: numpy and scipy (linear programs, hulls), both imported where used. Everything is float64 and on the CPU. A
system {x : A x <= b, A_eq x = b_eq} becomes: the affine hull, facets of unit length in it, a largest ball inside.
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checks import DomainError, ShapeError, SolverError

Array = NDArray[np.float64]

_TINY = 1e-10  # relative to the largest number of a row: below it, a number is a rounding error
_RAYS, _BOUNCES = 256, 32  # points of the walk that finds facets, and its steps
_MOST_VERTICES = 20_000


@dataclass(frozen=True)
class System:
    """Constraints in order.

    Attributes:
        A: facets' outward unit normals ``[m, n]``, along the affine hull.
        b: their offsets ``[m]``.
        hull: orthonormal rows ``[n - dim, n]`` that are constant on the set.
        level: their values there ``[n - dim]``.
        basis: orthonormal rows ``[dim, n]`` along the hull.
        centre: centre of the largest ball inside ``[n]``.
        inradius: its radius.
    """

    A: Array
    b: Array
    hull: Array
    level: Array
    basis: Array
    centre: Array
    inradius: float

    def reduced(self) -> tuple[Array, Array]:
        """Facets in coordinates ``[dim]`` along the basis, seen from the centre: normals and positive offsets."""
        return self.A @ self.basis.T, self.b - self.A @ self.centre


def order(A: Array, b: Array, A_eq: Array, b_eq: Array) -> System:
    """Bring constraints in order.

    Args:
        A: ``[m, n]``.
        b: ``[m]``.
        A_eq: ``[k, n]``, k may be 0.
        b_eq: ``[k]``.

    Raises:
        DomainError: the set is empty, unbounded or flat.
    """
    hull, level, basis = _affine_hull(A_eq, b_eq, A.shape[1])
    point = hull.T @ level
    if not len(basis):
        raise DomainError("the polytope is flat: its equality constraints leave a single point")
    normals, offsets = A @ basis.T, b - A @ point
    size = np.abs(A).max(axis=1, initial=0.0)
    length = np.linalg.norm(normals, axis=1)
    blank = length <= _TINY * size
    if (offsets[blank] < -_TINY * np.maximum(1.0, np.abs(b[blank]))).any():
        row = int(np.flatnonzero(blank & (offsets < 0))[0])
        raise DomainError(f"the polytope is empty: row {row} of A is constant on it and violated")
    normals, offsets = normals[~blank] / length[~blank, None], offsets[~blank] / length[~blank]
    if not len(normals):
        raise DomainError("the polytope is unbounded: no row of A bounds it")
    normals, offsets = _without_duplicates(normals, offsets)
    centre, inradius = _largest_ball(normals, offsets)
    _check_bounded(normals)
    kept = facets(normals, (offsets - normals @ centre) / inradius)  # the solver's tolerances are absolute
    normals, offsets = normals[kept], offsets[kept]
    A_hull = normals @ basis
    return System(A_hull, offsets + A_hull @ point, hull, level, basis, point + basis.T @ centre, inradius)


def facets(normals: Array, slack: Array) -> NDArray[np.intp]:
    """Indices of the rows without which {y : normals y <= slack} (around 0, slack > 0) would grow.

    A row that a ray out of the set meets first, and alone, is a facet; rows that many rays never met are decided
    by a linear program each.
    """
    found = _met_by_rays(normals, slack)
    candidates = np.ones(len(slack), dtype=bool)
    for i in np.flatnonzero(~found):
        others = candidates.copy()
        others[i] = False
        candidates[i] = _reaches(normals[i], normals[others], slack[others], slack[i])
    return np.flatnonzero(candidates)


def extent(normals: Array, offsets: Array, directions: Array) -> Array:
    """Largest value ``[k]`` of each linear form ``directions`` ``[k, d]`` on {y : normals y <= offsets}."""
    return np.array([-_linear_program(-c, normals, offsets).fun for c in directions])


def vertices(normals: Array, slack: Array) -> Array | None:
    """Vertices ``[k, d]`` of {y : normals y <= slack}, slack > 0; None where they may be too many to list."""
    from scipy.spatial import HalfspaceIntersection

    m, d = normals.shape
    if d == 1:
        ends = slack / normals[:, 0]
        return np.array([[ends.min()], [ends.max()]])
    half = d // 2  # McMullen's upper bound (1970)
    most = math.comb(m - (d + 1) // 2, half) + math.comb(m - half - 1, (d + 1) // 2 - 1)
    if most > _MOST_VERTICES:
        return None
    points = HalfspaceIntersection(np.column_stack([normals, -slack]), np.zeros(d)).intersections
    size = np.abs(points).max()
    return np.stack([_on_facets(p, normals, slack, size) for p in size * np.unique((points / size).round(11), axis=0)])


def _on_facets(point: Array, normals: Array, slack: Array, size: float) -> Array:
    """A vertex ``[d]`` found to some digits, moved to where its facets meet: exact to rounding."""
    away = slack - normals @ point
    near = np.abs(away) < 1e-9 * size * np.linalg.norm(normals, axis=1)
    moved: Array = point + np.linalg.lstsq(normals[near], away[near], rcond=1e-7)[0]
    return moved


def extreme(normals: Array, offsets: Array, direction: Array) -> Array:
    """The point ``[d]`` of {y : normals y <= offsets} that lies furthest along a direction."""
    point: Array = _linear_program(-direction, normals, offsets).x
    return point


def hull_volume(normals: Array, slack: Array) -> float:
    """Volume of {y : normals y <= slack}, from its vertices."""
    from scipy.spatial import ConvexHull

    points = vertices(normals, slack)
    if points is None:
        raise SolverError("the polytope has too many vertices to list")
    return float(np.ptp(points)) if points.shape[1] == 1 else float(ConvexHull(points).volume)


def from_points(points: Array) -> tuple[Array, Array, Array, Array]:
    """Constraints A, b, A_eq, b_eq of the convex hull of points ``[k, n]``."""
    from scipy.spatial import ConvexHull

    middle = points.mean(axis=0)
    _, scales, axes = np.linalg.svd(points - middle, full_matrices=True)
    rank = int((scales > _TINY * max(scales.max(initial=0.0), np.abs(points).max() * 1e-3)).sum())
    if rank == 0:
        raise DomainError("the polytope is flat: all vertices are one point")
    basis, across = axes[:rank], axes[rank:]
    flat = (points - middle) @ basis.T
    if rank == 1:
        normals, offsets = np.array([[1.0], [-1.0]]), np.array([flat.max(), -flat.min()])
    else:
        equations = np.unique(ConvexHull(flat).equations.round(12), axis=0)  # a facet of several simplices comes once
        normals, offsets = equations[:, :-1], -equations[:, -1]
    A = normals @ basis
    return A, offsets + A @ middle, across, across @ middle


def _affine_hull(A_eq: Array, b_eq: Array, n: int) -> tuple[Array, Array, Array]:
    """Orthonormal rows and values of the equality constraints, and an orthonormal basis of what they leave."""
    size = np.abs(A_eq).max(axis=1, initial=0.0)
    blank = size == 0
    if (b_eq[blank] != 0).any():
        raise DomainError("the polytope is empty: a zero row of A_eq has a b_eq that is not zero")
    rows, values = A_eq[~blank] / size[~blank, None], b_eq[~blank] / size[~blank]
    if not len(rows):
        return np.zeros((0, n)), np.zeros(0), np.eye(n)
    u, scales, axes = np.linalg.svd(rows, full_matrices=True)
    rank = int((scales > _TINY * scales[0]).sum())
    level = (u.T @ values)[:rank] / scales[:rank]
    missed = np.abs(rows @ (axes[:rank].T @ level) - values)
    if (missed > 1e-8 * np.maximum(1.0, np.abs(values))).any():
        raise DomainError(
            f"the polytope is empty: the equality constraints contradict each other by {missed.max():.2g}"
        )
    return axes[:rank], level, axes[rank:]


def _without_duplicates(normals: Array, offsets: Array) -> tuple[Array, Array]:
    """Of rows with one normal, the tightest."""
    tightest = np.argsort(offsets, kind="stable")
    _, first = np.unique(normals[tightest].round(11) + 0.0, axis=0, return_index=True)
    kept = np.sort(tightest[first])
    return normals[kept], offsets[kept]


def _largest_ball(normals: Array, offsets: Array) -> tuple[Array, float]:
    """Chebyshev centre and radius."""
    m, d = normals.shape
    c = np.zeros(d + 1)
    c[-1] = -1.0
    size = float(np.abs(offsets).max()) or 1.0
    answer = _linear_program(c, np.column_stack([normals, np.ones(m)]), offsets / size)
    centre, radius = size * answer.x[:-1], size * float(answer.x[-1])
    scale = max(size, float(np.abs(centre).max()))
    if radius < -1e-9 * scale:
        raise DomainError(f"the polytope is empty: no point satisfies A x <= b (short of it by {-radius:.2g})")
    if radius <= 1e-9 * scale:
        tight = np.flatnonzero(np.abs(normals @ centre - offsets) <= 1e-8 * scale)
        raise DomainError(
            "the polytope is flat: its inequalities leave no interior, so that some are equalities "
            f"(among {len(tight)} tight rows). Give those as A_eq and b_eq"
        )
    return centre, radius


def _check_bounded(normals: Array) -> None:
    """A set with interior is bounded if and only if its normals span the space with positive weights that sum to 0."""
    from scipy.optimize import linprog

    m, d = normals.shape
    answer = linprog(np.ones(m), A_eq=normals.T, b_eq=np.zeros(d), bounds=(1.0, None), method="highs")
    if answer.status != 0 or np.linalg.matrix_rank(normals) < d:
        raise DomainError("the polytope is unbounded: there are directions in which no row of A bounds it")


def _met_by_rays(normals: Array, slack: Array) -> NDArray[np.bool_]:
    """Rows that a hit-and-run walk from the centre runs into, with no other row within a rounding error."""
    rng = np.random.default_rng(0)
    gap = np.tile(slack, (_RAYS, 1))
    found = np.zeros(len(slack), dtype=bool)
    if len(slack) < 2:
        return np.ones(len(slack), dtype=bool)
    for _ in range(_BOUNCES):
        speed = rng.standard_normal((_RAYS, normals.shape[1])) @ normals.T
        with np.errstate(divide="ignore", invalid="ignore"):
            times = np.where(speed > 0, gap / speed, np.inf)
            back = np.where(speed < 0, gap / -speed, np.inf)
        for t in (times, back):
            first = np.partition(t, 1, axis=1)
            alone = first[:, 1] > first[:, 0] * (1 + 1e-6)
            found[t.argmin(axis=1)[alone]] = True
        low, high = -back.min(axis=1), times.min(axis=1)
        gap = np.maximum(gap - (low + (high - low) * rng.uniform(0.02, 0.98, _RAYS))[:, None] * speed, 0)
    return found


def _reaches(normal: Array, others: Array, slack: Array, own: float) -> bool:
    """Whether the form ``normal`` exceeds its own bound where only the other rows hold."""
    rows = np.vstack([others, normal])
    answer = _linear_program(-normal, rows, np.append(slack, own + 1.0))
    return bool(-answer.fun > own + 1e-9 * max(1.0, abs(own)))


def _linear_program(c: Array, A: Array, b: Array) -> Any:
    """Minimise c.y over A y <= b, y free."""
    from scipy.optimize import linprog

    answer = linprog(c, A_ub=A, b_ub=b, bounds=(None, None), method="highs")
    if answer.status == 3:
        raise DomainError("the polytope is unbounded: there are directions in which no row of A bounds it")
    if answer.status != 0:
        raise SolverError(f"a linear program on the polytope failed ({answer.message}): rescale A and b")
    return answer


def read_file(path: Path) -> dict[str, Array]:
    """The arrays A, b, and if there are A_eq, b_eq of an NPZ file; ValueError says what is wrong with it."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: np.asarray(file[name]) for name in ("A", "b", "A_eq", "b_eq") if name in file}
    except (ValueError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is torn, or no NPZ file of numbers: {error}") from None
    for name, other in (("A", "b"), ("b", "A"), ("A_eq", "b_eq"), ("b_eq", "A_eq")):
        if name not in found and (name in "Ab" or other in found):
            raise ValueError(f"{path} has no array {name!r}: save A and b, and A_eq and b_eq if there are equalities")
    return found


def read(A: Any, b: Any, name: str, n: int | None = None) -> tuple[Array, Array]:
    """A matrix and its right-hand side as float64 arrays, checked; ``name`` is that of the matrix."""
    other = name.replace("A", "b")
    try:
        rows, values = (np.array(getattr(v, "tolist", lambda v=v: v)(), dtype=np.float64) for v in (A, b))
    except (TypeError, ValueError):
        raise TypeError(f"{name} and {other} must be arrays of real numbers") from None
    if rows.ndim != 2 or values.shape != rows.shape[:1] or (n is not None and rows.shape[1] != n):
        wanted = f"[m, {n if n is not None else 'n'}] and [m]"
        raise ShapeError(f"{name} has shape {list(rows.shape)} and {other} {list(values.shape)}; expected {wanted}")
    if not (np.isfinite(rows).all() and np.isfinite(values).all()):
        raise DomainError(f"{name} and {other} must be finite; leave out rows that constrain nothing")
    return rows, values
