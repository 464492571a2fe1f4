"""Independent oracles for polytopes, in numpy and scipy: one point at a time where that is the plainest way.

A body is {x : A x <= b, E x = f}. Most of this works in orthonormal coordinates of its affine hull.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import linalg, optimize, spatial


class Body(NamedTuple):
    A: np.ndarray
    b: np.ndarray
    E: np.ndarray | None = None
    f: np.ndarray | None = None


# ---- bodies
def random_body(seed: int, d: int, m: int, cap: float | None = None) -> Body:
    """``m`` random facets at distances 0.5 to 1.5 of a random point, rows of random lengths; ``cap`` adds a box."""
    rng = np.random.default_rng(seed)
    normals = rng.standard_normal((m, d))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    offsets = rng.uniform(0.5, 1.5, m)
    if cap is not None:
        normals = np.concatenate([normals, np.eye(d), -np.eye(d)])
        offsets = np.concatenate([offsets, np.full(2 * d, cap)])
    length = rng.uniform(0.2, 5.0, len(normals))
    centre = rng.uniform(-1, 1, d)
    return Body(length[:, None] * normals, length * (offsets + normals @ centre))


def box(low, high) -> Body:
    low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
    eye = np.eye(len(low))
    return Body(np.concatenate([eye, -eye]), np.concatenate([high, -low]))


def turned(body: Body, turn: np.ndarray, shift: np.ndarray) -> Body:
    """The image of a body under x -> turn x + shift, ``turn`` orthogonal."""
    A = body.A @ turn.T
    return Body(A, body.b + A @ shift)


def rotation(seed: int, d: int) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))
    return q * np.sign(np.diag(r))


def simplex(n: int) -> Body:
    return Body(-np.eye(n), np.zeros(n), np.ones((1, n)), np.ones(1))


def alcove(d: int) -> Body:
    """0 <= x_1 <= .. <= x_d <= 1: its mirrors tile space, so a specular move is folding and sorting."""
    A = np.eye(d + 1, d) - np.eye(d + 1, d, -1)
    return Body(-A, np.append(np.zeros(d), 1.0))


def cross_polytope(d: int) -> Body:
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * d)).reshape(d, -1).T
    return Body(signs, np.ones(len(signs)))


def birkhoff(n: int) -> Body:
    rows = np.kron(np.eye(n), np.ones((1, n)))
    columns = np.kron(np.ones((1, n)), np.eye(n))
    return Body(-np.eye(n * n), np.zeros(n * n), np.concatenate([rows, columns]), np.ones(2 * n))


# ---- the hull and its coordinates
def hull(body: Body) -> tuple[np.ndarray, np.ndarray]:
    """A point [n] of the affine hull and an orthonormal basis [n, dim] of its directions."""
    n = body.A.shape[1]
    if body.E is None:
        return np.zeros(n), np.eye(n)
    return np.linalg.lstsq(body.E, body.f, rcond=None)[0], linalg.null_space(body.E)


def reduced(body: Body) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows [m, dim] and offsets [m] in coordinates of the hull."""
    origin, basis = hull(body)
    A, b = body.A @ basis, body.b - body.A @ origin
    length = np.linalg.norm(A, axis=1)
    return A / length[:, None], b / length


def inside_coordinates(body: Body, x: np.ndarray) -> np.ndarray:
    origin, basis = hull(body)
    return (x.reshape(len(x), -1) - origin) @ basis


def slacks(body: Body, x: np.ndarray) -> np.ndarray:
    """Distances [rows, m] of points [rows, n] from all facets, measured in the hull."""
    A, b = reduced(body)
    return b - inside_coordinates(body, np.asarray(x, dtype=float)) @ A.T


def violation(body: Body, x: np.ndarray) -> float:
    """Largest distance by which one of the points [rows, n] breaks a facet or leaves the hull."""
    x = np.asarray(x, dtype=float).reshape(len(x), -1)
    origin, basis = hull(body)
    off = x - origin
    off = off - off @ basis @ basis.T
    return max(float(-slacks(body, x).min()), float(np.linalg.norm(off, axis=1).max()))


# ---- linear and quadratic programs
def chebyshev(body: Body) -> tuple[float, np.ndarray]:
    """Largest radius, and its centre [n], of a ball of the hull inside the body."""
    _, basis = hull(body)
    length = np.linalg.norm(body.A @ basis, axis=1)
    n = body.A.shape[1]
    equalities = {} if body.E is None else {"A_eq": np.pad(body.E, ((0, 0), (0, 1))), "b_eq": body.f}
    found = optimize.linprog(
        -np.eye(n + 1)[n], np.column_stack([body.A, length]), body.b, bounds=(None, None), **equalities
    )
    assert found.status == 0, found.message
    return float(found.x[n]), found.x[:n]


def extreme(body: Body, direction: np.ndarray) -> float:
    """The largest value of direction . x in the body."""
    found = optimize.linprog(
        -direction, body.A, body.b, A_eq=body.E, b_eq=body.f, bounds=(None, None), options={"presolve": False}
    )
    assert found.status == 0, found.message
    return -float(found.fun)


def needed_rows(body: Body) -> list[int]:
    """Rows without which the set would be larger, each by a linear program on the others."""
    A, b = reduced(body)
    kept = list(range(len(A)))
    for i in range(len(A)):
        others = [j for j in kept if j != i]
        rows, offsets = np.concatenate([A[others], A[i : i + 1]]), np.append(b[others], b[i] + 1)
        found = optimize.linprog(-A[i], rows, offsets, bounds=(None, None))
        if found.status == 0 and -found.fun <= b[i] + 1e-9:
            kept = others
    return kept


def nearest(body: Body, y: np.ndarray) -> np.ndarray:
    """The nearest point [n] of the body: least distance programming by non-negative least squares.

    With z the coordinates of y, the u of least norm with -A u >= A z - b (Lawson & Hanson 1974, chapter 23).
    """
    origin, basis = hull(body)
    A, b = reduced(body)
    z = (y - origin) @ basis
    G, h = -A, A @ z - b
    scale = max(1.0, float(np.abs(h).max()))  # lengths in units of the move, for far points
    system = np.concatenate([G.T, h[None] / scale])
    target = np.append(np.zeros(len(z)), 1.0)
    weights, _ = optimize.nnls(system, target, maxiter=100 * len(b))
    rest = system @ weights - target
    return origin + basis @ (z - scale * rest[:-1] / rest[-1])


def nearest_by_slsqp(body: Body, y: np.ndarray) -> np.ndarray:
    """The same by sequential quadratic programming, in the original coordinates."""
    limits = [{"type": "ineq", "fun": lambda x: body.b - body.A @ x, "jac": lambda x: -body.A}]
    if body.E is not None:
        origin, rows = hull(body)[0], linalg.orth(body.E.T).T  # redundant rows would make its systems singular
        limits.append({"type": "eq", "fun": lambda x: rows @ (x - origin), "jac": lambda x: rows})
    found = optimize.minimize(
        lambda x: 0.5 * ((x - y) ** 2).sum(),
        chebyshev(body)[1],
        jac=lambda x: x - y,
        method="SLSQP",
        constraints=limits,
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return found.x


# ---- billiards
class Path(NamedTuple):
    end: np.ndarray
    velocity: np.ndarray
    bounces: int


def billiard(body: Body, x: np.ndarray, displacement: np.ndarray, limit: int = 100_000) -> Path:
    """The specular path of one point [n], facet by facet, in extended precision."""
    origin, basis = hull(body)
    A = (body.A @ basis).astype(np.longdouble)
    b = (body.b - body.A @ origin).astype(np.longdouble)
    length = np.sqrt((A**2).sum(1))
    A, b = A / length[:, None], b / length
    z = ((np.asarray(x, dtype=float).ravel() - origin) @ basis).astype(np.longdouble)
    v = (np.asarray(displacement, dtype=float).ravel() @ basis).astype(np.longdouble)
    left, last = np.longdouble(1), -1
    for bounces in range(limit):
        speed = A @ v
        reachable = speed > 0
        if last >= 0:
            reachable[last] = False  # of a flat wall, one cannot come back without touching another
        time = np.full(len(A), np.inf, dtype=np.longdouble)
        time[reachable] = np.maximum((b - A @ z)[reachable], 0) / speed[reachable]
        wall = int(time.argmin())
        step = min(time[wall], left)
        z, left = z + step * v, left - step
        if left <= 0:
            return Path(origin + basis @ z.astype(float), basis @ v.astype(float), bounces)
        v, last = v - 2 * (A[wall] @ v) * A[wall], wall
    raise AssertionError("the path did not end")


def fold_alcove(y: np.ndarray) -> np.ndarray:
    """Where a straight move to y ends, mirrored in 0 <= x_1 <= .. <= x_d <= 1."""
    return np.sort(1 - np.abs(y % 2 - 1), axis=-1)


# ---- volumes, moments and exact draws, by cutting a hull into simplices
def vertices(body: Body) -> np.ndarray:
    """Vertices [k, n] of a body of dimension two or more."""
    origin, basis = hull(body)
    A, b = reduced(body)
    centre = (chebyshev(body)[1] - origin) @ basis
    found = spatial.HalfspaceIntersection(np.column_stack([A, -b]), centre).intersections
    found = found[np.isfinite(found).all(1)]
    _, first = np.unique(found.round(9), axis=0, return_index=True)
    return origin + found[first] @ basis.T


def cones(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Simplices [k, d + 1, n] that fill the hull of points [.., n], and their d-dimensional volumes [k]."""
    centre = points.mean(0)
    _, values, axes = np.linalg.svd(points - centre, full_matrices=False)
    axes = axes[values > 1e-9 * values[0]]
    flat = (points - centre) @ axes.T
    facets = flat[spatial.ConvexHull(flat, qhull_options="Qt").simplices]
    volumes = np.abs(np.linalg.det(facets)) / math.factorial(len(axes))
    corners = np.concatenate([np.zeros_like(facets[:, :1]), facets], 1)
    return centre + corners @ axes, volumes


def hull_volume(points: np.ndarray) -> float:
    return float(cones(points)[1].sum())


def hull_moments(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [n] and second moments E[x x^T] [n, n] of the uniform law on a hull, exactly."""
    corners, volumes = cones(points)
    share, k = volumes / volumes.sum(), corners.shape[1]
    total = corners.sum(1)
    squares = np.einsum("kia,kib->kab", corners, corners) + total[:, :, None] * total[:, None]
    return share @ total / k, np.tensordot(share, squares, 1) / (k * (k + 1))


def hull_draws(points: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """Independent uniform points [count, n] of a hull."""
    corners, volumes = cones(points)
    which = rng.choice(len(volumes), count, p=volumes / volumes.sum())
    return np.einsum("ci,cia->ca", rng.dirichlet(np.ones(corners.shape[1]), count), corners[which])


def hit_and_run(body: Body, rng: np.random.Generator, chains: int, steps: int) -> np.ndarray:
    """The last points [chains, n] of as many chains from the Chebyshev centre (Smith 1984)."""
    origin, basis = hull(body)
    A, b = reduced(body)
    z = np.tile((chebyshev(body)[1] - origin) @ basis, (chains, 1))
    gap = b - z @ A.T
    for step in range(steps):
        v = rng.standard_normal(z.shape)
        speed = v @ A.T
        time = gap / speed
        ahead = np.where(speed > 0, time, np.inf).min(1)
        behind = np.where(speed < 0, time, -np.inf).max(1)
        t = rng.uniform(behind, ahead)[:, None]
        z += t * v
        gap = b - z @ A.T if step % 50 == 0 else gap - t * speed
    return origin + z @ basis.T


# ---- test fields for denoising targets
def tangential_residuals(body: Body, x: np.ndarray, target: np.ndarray, reach: float) -> np.ndarray:
    r"""target . phi + div phi, [rows, dim + dim^2], for fields phi that are parallel to every facet on it.

    With R(x) = (1 + sum_i (reach / s_i(x)) n_i n_i^T)^{-1}, s_i the distance to facet i and n_i its unit normal, the
    fields are R e_k and z_l R e_k, with z_l a coordinate of the hull. Means are zero where E[target | x] is a score.
    """
    _, basis = hull(body)
    normals = -reduced(body)[0]
    s = np.maximum(slacks(body, x), 1e-9 * reach)
    z = inside_coordinates(body, x)
    z = z - inside_coordinates(body, chebyshev(body)[1][None])
    u = target.reshape(len(target), -1) @ basis
    dim = normals.shape[1]
    R = np.linalg.inv(np.eye(dim) + np.einsum("ri,ia,ib->rab", reach / s, normals, normals, optimize=True))
    pushed = normals @ R  # [rows, m, dim]
    along = np.einsum("ria,ia->ri", pushed, normals)
    divergence = np.einsum("ri,rik->rk", reach / s**2 * along, pushed)
    plain = np.einsum("rk,rkl->rl", u, R) + divergence
    weighted = z[:, :, None] * plain[:, None] + R
    return np.concatenate([plain, weighted.reshape(len(z), -1)], 1)
