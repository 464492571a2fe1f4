r"""The Neumann heat kernel of a region, from eigenfunctions of its Laplacian on a mesh.

May use: numpy, scipy, torch, scikit-fem (in the extra ``geometry``) where the matrices are assembled.

With quadratic elements on triangles (P2: six numbers each), the eigenpairs of the stiffness against the mass matrix
approximate those of :math:`-\Delta \phi_k = \lambda_k \phi_k` with no flux through the wall; then

.. math:: p(x | x_0, \sigma) = \sum_k e^{-\lambda_k \sigma^2 / 2} \phi_k(x) \phi_k(x_0).

Terms are kept up to exp(-14) at the least sigma; for waves of that size there are six triangles or more. Points are
drawn exactly from the series: first a triangle by its integral, then a point of it by rejection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from .checks import SolverError
from .lists import Floats, Lists
from .region_mesh import Mesh
from .series import Series, lowest

__all__ = ["Kernel", "eigenpairs"]

LEAST_TERM = 14.0  # lambda sigma^2 / 2 of the last term at the least sigma
_ROWS = 1 << 21  # numbers of one table made at a time
_DRAWS = 200  # proposals in a triangle for one point
_LOCAL = 1e-9  # share of a triangle by which a point may lie outside of it
_SIDES = ((0, 1), (1, 2), (0, 2))  # of a triangle, in the order of their numbers in an element

_MISSING = (
    "scikit-fem is missing, from which the kernel of a Region comes (and its spectral gap, so a default sigma_max); "
    'get it with\n    python -m pip install "reflected-diffusion[geometry]"'
)


@dataclass(frozen=True)
class Eigenpairs:
    """What the solver found.

    Attributes:
        values: eigenvalues ``[k]``, ascending, the first of them zero; 1/length^2.
        table: eigenfunctions at the elements' nodes ``[nodes, k]``, of mean square 1 / area.
        nodes: the six nodes of each triangle ``[t, 6]``: three corners and the middles of sides 01, 12, 02.
        corners: coordinates ``[t, 3, 2]``.
        gap: a lower bound of the first positive eigenvalue.
    """

    values: Floats
    table: Floats
    nodes: np.ndarray
    corners: Floats
    gap: float


def eigenpairs(mesh: Mesh, most: float) -> Eigenpairs:
    """Eigenvalues up to ``most`` and their eigenfunctions, by shift-and-invert Lanczos (ARPACK).

    The lower bound of the gap takes off twice the difference to linear elements, whose error is larger.

    Raises:
        ImportError: scikit-fem is missing.
        SolverError: there are too many eigenvalues below ``most``, or the solver did not converge.
    """
    try:
        import skfem  # type: ignore[import-untyped, unused-ignore]
        from skfem.models.poisson import laplace, mass  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise ImportError(_MISSING) from error

    unit = float(np.ptp(mesh.points, axis=0).max())
    points, area = (mesh.points - mesh.points.mean(0)) / unit, 0.0
    grid = skfem.MeshTri(np.ascontiguousarray(points.T), np.ascontiguousarray(mesh.triangles.T))
    found = []
    for element in (skfem.ElementTriP1(), skfem.ElementTriP2()):
        basis = skfem.Basis(grid, element)
        stiff, weights = laplace.assemble(basis), mass.assemble(basis)
        area = float(weights.sum())
        round_it = 2 * math.sqrt(math.pi * area)  # the shortest wall around such an area
        wished, count = 0.0, 2
        if not isinstance(element, skfem.ElementTriP1):  # Weyl's law, with room for a longer wall
            wished = most * unit**2
            count = int(1.15 * (area * wished + 1.5 * round_it * math.sqrt(wished)) / (4 * math.pi)) + 10
        values, vectors = lowest(stiff, weights, wished, count)
        found.append((values, vectors, basis))
    linear, (values, vectors, basis) = found[0][0], found[1]
    gap = values[1] - 2 * max(linear[1] - values[1], 0.0)
    if not gap > 0.2 * values[1]:
        raise SolverError("the mesh is too coarse for the region's first eigenfunction: raise resolution")
    kept = values <= wished
    values, vectors = np.maximum(values[kept], 0.0), vectors[:, kept] / unit
    values[0], vectors[:, 0] = 0.0, 1 / (math.sqrt(area) * unit)
    nodes = basis.element_dofs.T.astype(np.int64)
    return Eigenpairs(values / unit**2, vectors, nodes, mesh.points[grid.t.T], gap / unit**2)


@dataclass(frozen=True)
class Kernel(Series):
    """The series, ready to be evaluated on one device. All tensors are float64.

    Attributes:
        values: eigenvalues ``[k]``.
        table: eigenfunctions at nodes ``[nodes, k]``.
        nodes: of each triangle ``[t, 6]``.
        corners: ``[t, 3, 2]``.
        masses: integrals of eigenfunctions over triangles ``[t, k]``.
        low: corner of a grid over the mesh, ``[2]``.
        cell: side of its cells.
        shape: columns and rows of it.
        lists: triangles that have a point in each cell.
        volume: area of all triangles.
    """

    values: Tensor
    table: Tensor
    nodes: Tensor
    corners: Tensor
    masses: Tensor
    low: Tensor
    cell: float
    shape: tuple[int, int]
    lists: Lists
    volume: float

    @classmethod
    def of(cls, pairs: Eigenpairs) -> Kernel:
        """From eigenpairs."""
        corners = pairs.corners
        low, high = corners.min(1), corners.max(1)  # of each triangle
        base, top = low.min(0), high.max(0)
        cell = float(np.sqrt(np.prod(top - base) / len(corners)))
        columns, rows = (int(n) + 1 for n in (top - base) / cell)
        first = ((low - base) / cell - 1e-6).astype(np.int64).clip(min=0)
        last = np.minimum(((high - base) / cell + 1e-6).astype(np.int64), (columns - 1, rows - 1))
        counts = last - first + 1
        total = counts.prod(1)
        which = np.repeat(np.arange(len(corners)), total)
        offset = np.arange(len(which)) - np.repeat(np.cumsum(total) - total, total)
        column = first[which, 0] + offset % counts[which, 0]
        row = first[which, 1] + offset // counts[which, 0]
        lists = Lists.make(row * columns + column, which, rows * columns)
        u, v = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        areas = np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]) / 2
        masses = areas[:, None] / 3 * sum(pairs.table[pairs.nodes[:, i]] for i in (3, 4, 5))
        return cls(
            torch.from_numpy(pairs.values),
            torch.from_numpy(np.ascontiguousarray(pairs.table)),
            torch.from_numpy(np.ascontiguousarray(pairs.nodes)),
            torch.from_numpy(corners),
            torch.from_numpy(masses),
            torch.from_numpy(base),
            cell,
            (columns, rows),
            lists,
            float(areas.sum()),
        )

    # ------------------------------------------------------------------ parts

    def _locate(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Nodes ``[n, 6]`` of the triangle of each point, shape functions ``[n, 6]``, their gradients ``[n, 6, 2]``.

        A point in no triangle is taken to be the nearest of the closest one.
        """
        columns, rows = self.shape
        where = ((x - self.low) / self.cell).nan_to_num(0.0).floor().long()
        cell = where[:, 1].clamp(0, rows - 1) * columns + where[:, 0].clamp(0, columns - 1)
        which = torch.zeros(len(x), dtype=torch.long, device=x.device)
        depth = torch.full_like(x[:, 0], -torch.inf)
        for part in self.lists.parts(cell):
            pair, item = self.lists.of(cell[part])
            if not len(item):
                continue
            least = self._local(x[part][pair], item)[0].amin(-1)
            best = torch.full((len(part),), -torch.inf, dtype=x.dtype, device=x.device)
            best = best.scatter_reduce(0, pair, least, "amax")
            hit = least == best[pair]
            which[part[pair[hit]]], depth[part] = item[hit], best
        lost = (depth < -_LOCAL).nonzero().squeeze(-1)
        middle = self.corners.mean(1)
        for some in lost.split(max(1, _ROWS // len(middle))):
            which[some] = torch.cdist(x[some], middle).argmin(-1)
        share, slope = self._local(x, which)
        share = share.clamp(min=0)
        share = share / share.sum(-1, keepdim=True)
        a, b = share[:, [i for i, _ in _SIDES]], share[:, [j for _, j in _SIDES]]
        da, db = slope[:, [i for i, _ in _SIDES]], slope[:, [j for _, j in _SIDES]]
        shape = torch.cat([share * (2 * share - 1), 4 * a * b], -1)
        gradient = torch.cat(
            [slope * (4 * share - 1).unsqueeze(-1), 4 * (a.unsqueeze(-1) * db + b.unsqueeze(-1) * da)], 1
        )
        return self.nodes[which], shape, gradient

    def _local(self, x: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        """Barycentric coordinates ``[n, 3]`` in triangles, and their gradients ``[n, 3, 2]``."""
        a, b, c = self.corners[which].unbind(1)
        u, v, w = b - a, c - a, x - a
        double = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
        one = torch.stack([v[:, 1], -v[:, 0]], -1) / double.unsqueeze(-1)
        two = torch.stack([-u[:, 1], u[:, 0]], -1) / double.unsqueeze(-1)
        slope = torch.stack([-one - two, one, two], 1)
        p, q = (one * w).sum(-1), (two * w).sum(-1)
        return torch.stack([1 - p - q, p, q], -1), slope

    def _within(self, which: Tensor, weights: Tensor, generator: Generator | None) -> Tensor:
        """Points ``[n, 2]`` of triangles ``[n]``, by rejection from the bound that Bernstein's coefficients give."""
        corners, nodes = self.corners[which], self.nodes[which]
        density = torch.stack([(weights * self.table[nodes[:, i]]).sum(-1) for i in range(6)], -1)
        a, b = density[:, [i for i, _ in _SIDES]], density[:, [j for _, j in _SIDES]]
        top = torch.cat([density[:, :3], 2 * density[:, 3:] - (a + b) / 2], -1).amax(-1)
        share = torch.full((len(which), 3), 1 / 3, dtype=corners.dtype, device=corners.device)
        rows = torch.arange(len(which), device=which.device)
        for _ in range(_DRAWS):
            if not len(rows):
                break
            u = self._uniform((len(rows), 3), generator)
            root = u[:, 0].sqrt()
            point = torch.stack([1 - root, root * (1 - u[:, 1]), root * u[:, 1]], -1)
            p, q = point[:, [i for i, _ in _SIDES]], point[:, [j for _, j in _SIDES]]
            shape = torch.cat([point * (2 * point - 1), 4 * p * q], -1)
            share[rows] = point
            rows = rows[u[:, 2] * top[rows] > (shape * density[rows]).sum(-1)]
        return (share.unsqueeze(-1) * corners).sum(1)
