r"""The Neumann heat kernel of a solid, from eigenfunctions of its Laplacian on a mesh of cells.

May use: numpy, scipy, torch.

The mesh is a grid of boxes over the solid, of which those that it meets are kept; the elements are cubic splines, one
for each node, and integrals go over what of a cell is inside (the finite cell method: Parvizian, Duester & Rank
2007). No flux through the wall is what such integrals demand by themselves, so that no cell needs to fit the surface.
Cells are cut in 216, and of each of these the share inside is counted at 8 points. The stiffness of what is outside is
kept by a millionth, so that splines that hardly reach inside are determined. With the eigenpairs
:math:`-\Delta \phi_k = \lambda_k \phi_k` the kernel is a series (:mod:`~constrained_diffusion.domains.series`); terms
are kept up to exp(-12) at the least sigma.

A gap between two parts of a solid that is thinner than a cell is not seen: heat would pass through it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from .checks import SolverError
from .lists import Floats
from .series import MOST_TERMS, Series, lowest
from .solid_triangles import Triangles

__all__ = ["Cells", "Kernel", "check_terms"]

LEAST_TERM = 12.0  # lambda sigma^2 / 2 of the last term at the least sigma
_CUT, _TRIED = 6, 2  # parts of a cell along each axis, and points of a part
_OUTSIDE = 1e-6  # share of the stiffness that is left outside
_AT_ONCE = 1 << 10  # cells whose matrices are made at a time
_DRAWS = 400  # proposals in a cell for one point
# Coefficients of the four cubic splines of a cell, by powers of the place in it.
_SPLINES = np.array([[1, -3, 3, -1], [4, 0, -6, 3], [1, 3, 3, -3], [0, 0, 0, 1]]) / 6


@dataclass(frozen=True)
class Kernel(Series):
    """The series on one device.

    Attributes:
        values: eigenvalues ``[k]``, ascending, the first of them zero.
        table: coefficients of eigenfunctions for each spline ``[rows, k]``; the last row, of splines left out, is zero.
        masses: integrals of eigenfunctions over cells that the solid meets ``[t, k]``.
        volume: of the solid.
        gap: a lower bound of the first positive eigenvalue.
        low: low corner of the grid, ``[3]``.
        width: sides of a cell, ``[3]``.
        shape: cells along each axis, ``[3]``.
        number: row of the table of each spline, ``[splines]``.
        cells: numbers of the cells that the solid meets ``[t]``.
        parts: shares of their parts that are inside ``[t, 216]``.
        triangles: the surface.
    """

    values: Tensor
    table: Tensor
    masses: Tensor
    volume: float
    gap: float
    low: Tensor
    width: Tensor
    shape: Tensor
    number: Tensor
    cells: Tensor
    parts: Tensor
    triangles: Triangles

    @classmethod
    def of(cls, mesh: Cells, triangles: Triangles, volume: float, most: float) -> Kernel:
        """For the solid of that volume inside a surface, on a mesh; eigenvalues up to ``most``.

        Raises:
            SolverError: the solver did not converge.
        """
        twice = Cells.over(triangles, 2 * float(mesh.width.max()))
        coarse, _ = _eigenpairs(twice, volume, 0.0)
        values, vectors = _eigenpairs(mesh, volume, most)
        gap = values[1] - abs(coarse[1] - values[1])
        if not gap > 0.2 * values[1]:
            raise SolverError("the mesh is too coarse for the solid's first eigenfunction: raise resolution")
        kept = values <= most
        values, vectors = np.maximum(values[kept], 0.0), vectors[:, kept]
        values[0], vectors[:, 0] = 0.0, 1 / math.sqrt(volume)
        table = np.concatenate([vectors, np.zeros((1, vectors.shape[1]))])
        met = mesh.parts.any(1)
        masses = [
            np.einsum("tn,tnk->tk", mesh.integrals(rows), table[mesh.rows(rows)])
            for rows in np.array_split(np.flatnonzero(met), met.sum() // 64 + 1)
        ]
        return cls(
            torch.from_numpy(values),
            torch.from_numpy(table),
            torch.from_numpy(np.concatenate(masses)),
            volume,
            float(gap),
            torch.from_numpy(mesh.low),
            torch.from_numpy(mesh.width),
            torch.from_numpy(mesh.shape),
            torch.from_numpy(mesh.number),
            torch.from_numpy(mesh.cells[met]),
            torch.from_numpy(mesh.parts[met]),
            triangles,
        )

    # ------------------------------------------------------------------ parts

    def _locate(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of the table ``[n, 64]``, splines ``[n, 64]`` and their gradients ``[n, 64, 3]``."""
        where = ((x - self.low) / self.width).clamp(min=0)
        index = torch.minimum(where.floor().long(), self.shape - 1)
        shape, slope = self._splines(where - index)
        return self.number[self._spline_numbers(index)], shape, slope / self.width

    def _spline_numbers(self, index: Tensor) -> Tensor:
        """Numbers ``[n, 64]`` of the splines that live in cells ``[n, 3]``."""
        offset = torch.arange(4, device=index.device)
        i, j, k = (index.unsqueeze(-1) + offset).unbind(1)
        sides = (self.shape + 3).tolist()
        grid = (i[:, :, None, None] * sides[1] + j[:, None, :, None]) * sides[2] + k[:, None, None, :]
        numbers: Tensor = grid.flatten(1)
        return numbers

    def _splines(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Values ``[n, 64]`` of a cell's splines at places ``[n, 3]`` in it, and gradients ``[n, 64, 3]``."""
        c = torch.from_numpy(_SPLINES).to(t)
        powers = torch.stack([torch.ones_like(t), t, t**2, t**3], -1)
        slopes = torch.stack([torch.zeros_like(t), torch.ones_like(t), 2 * t, 3 * t**2], -1)
        value, slope = powers @ c.T, slopes @ c.T  # [n, 3, 4]

        def product(*axes: Tensor) -> Tensor:
            a, b, c = axes
            return (a[:, :, None, None] * b[:, None, :, None] * c[:, None, None, :]).flatten(1)

        along = [product(*(slope[:, a] if a == axis else value[:, a] for a in range(3))) for axis in range(3)]
        return product(*value.unbind(1)), torch.stack(along, -1)

    def _within(self, which: Tensor, weights: Tensor, generator: Generator | None) -> Tensor:
        """Points ``[n, 3]`` of cells ``[n]``, by rejection: a sum of splines is at most their largest weight."""
        cell = self.cells[which]
        row, third = torch.div(cell, self.shape[2], rounding_mode="floor"), cell % self.shape[2]
        index = torch.stack([torch.div(row, self.shape[1], rounding_mode="floor"), row % self.shape[1], third], -1)
        local = self._local_sums(self.number[self._spline_numbers(index)], weights)
        top, met = local.amax(-1), (self.parts[which] > 0).to(local)
        place = torch.full((len(which), 3), 0.5, dtype=local.dtype, device=local.device)
        rows = torch.arange(len(which), device=which.device)
        for _ in range(_DRAWS):
            if not len(rows):
                break
            part = torch.multinomial(met[rows], 1, generator=generator)
            digits = torch.cat([part // _CUT**2, part // _CUT % _CUT, part % _CUT], -1)
            u = self._uniform((len(rows), 4), generator)
            t = (digits + u[:, :3]) / _CUT
            place[rows] = t
            inside = self.triangles.contains(self.low + self.width * (index[rows] + t))
            rows = rows[~inside | (u[:, 3] * top[rows] > (self._splines(t)[0] * local[rows]).sum(-1))]
        return self.low + self.width * (index + place)


# ---------------------------------------------------------------------- the mesh


@dataclass(frozen=True)
class Cells:
    """Cells that may meet the solid.

    Attributes:
        low: low corner of the grid ``[3]``.
        width: sides of a cell ``[3]``.
        shape: cells along each axis ``[3]``.
        cells: numbers of the cells ``[t]``.
        parts: shares of their parts that are inside ``[t, 216]``.
        number: of each spline of the grid its row, ``[splines]``; of those in none of the cells the number of rows.
        size: number of rows.
    """

    low: Floats
    width: Floats
    shape: Any
    cells: Any
    parts: Floats
    number: Any
    size: int

    @classmethod
    def over(cls, triangles: Triangles, width: float) -> Cells:
        """The grid over a surface whose cells fit in its bounding box, no wider than ``width``."""
        corners = triangles.corners.reshape(-1, 3).numpy()
        low, high = corners.min(0), corners.max(0)
        shape = np.maximum(np.ceil((high - low) / width - 1e-9).astype(np.int64), 1)
        size = (high - low) / shape
        index = np.stack(np.unravel_index(np.arange(shape.prod()), shape), -1)
        centres = torch.from_numpy(low + size * (index + 0.5))
        inside = triangles.contains(centres)
        gap = triangles.distance(centres, triangles.nearest(centres))
        cut = (gap <= float(np.linalg.norm(size)) / 2 * (1 + 1e-9)).numpy()
        cells = np.flatnonzero(inside.numpy() | cut)
        parts = np.ones((len(cells), _CUT**3))
        rows = np.flatnonzero(cut[cells])
        random = np.random.default_rng(0)
        places = np.stack(np.unravel_index(np.arange((_CUT * _TRIED) ** 3), [_CUT, _TRIED] * 3), -1)
        places = places[np.lexsort(places[:, [4, 2, 0]].T)]  # part by part
        for some in np.array_split(rows, len(rows) // 64 + 1):
            t = places[:, ::2] * _TRIED + places[:, 1::2] + random.random((len(some), len(places), 3))
            points = low + size * (index[cells[some], None] + t / (_CUT * _TRIED))
            found = triangles.contains(torch.from_numpy(points.reshape(-1, 3))).numpy()
            parts[some] = found.reshape(len(some), _CUT**3, -1).mean(2)
        self = cls(low, size, shape, cells, parts, np.zeros(0), 0)
        used = np.unique(self.splines(np.arange(len(cells))))
        number = np.full((shape + 3).prod(), len(used))
        number[used] = np.arange(len(used))
        return cls(low, size, shape, cells, parts, number, len(used))

    def splines(self, which: Any) -> Any:
        """Numbers ``[n, 64]`` of the splines of cells."""
        index = np.stack(np.unravel_index(self.cells[which], self.shape), -1)
        offset = np.stack(np.unravel_index(np.arange(64), (4, 4, 4)), -1)
        return np.ravel_multi_index(tuple(np.moveaxis(index[:, None] + offset, -1, 0)), self.shape + 3)

    def rows(self, which: Any) -> Any:
        """Rows ``[n, 64]`` of the splines of cells."""
        return self.number[self.splines(which)]

    def integrals(self, which: Any) -> Floats:
        """Integrals ``[n, 64]`` of splines over what of cells is inside."""
        one = _by_parts(_SPLINES, np.eye(1, 4))[:, :, 0] * self.width.prod() ** (1 / 3)
        w = self.parts[which].reshape(-1, _CUT, _CUT, _CUT)
        found: Floats = np.einsum("nabc,ai,bj,ck->nijk", w, one, one, one, optimize=True).reshape(len(w), 64)
        return found

    def matrices(self) -> tuple[Any, Any]:
        """Stiffness and mass ``[rows, rows]``, sparse."""
        from scipy.sparse import coo_array

        steps = _SPLINES[:, 1:] * np.array([1, 2, 3])
        mass, stiff = _by_parts(_SPLINES, _SPLINES), _by_parts(steps, steps)
        found = [coo_array((self.size, self.size)).tocsr() for _ in range(2)]
        for rows in np.array_split(np.arange(len(self.cells)), len(self.cells) // _AT_ONCE + 1):
            w = self.parts[rows].reshape(-1, _CUT, _CUT, _CUT) * self.width.prod()
            kept = w * (1 - _OUTSIDE) + _OUTSIDE * self.width.prod()
            along = [
                _product(kept, *(stiff / self.width[a] ** 2 if a == b else mass for b in range(3))) for a in range(3)
            ]
            number = self.rows(rows)
            i, j = (n.ravel() for n in np.broadcast_arrays(number[:, :, None], number[:, None]))
            for k, values in enumerate((along[0] + along[1] + along[2], _product(w, mass, mass, mass))):
                found[k] = found[k] + coo_array((values.ravel(), (i, j)), (self.size, self.size)).tocsr()
        return found[0], found[1]


def _eigenpairs(mesh: Cells, volume: float, most: float) -> tuple[Floats, Floats]:
    """Eigenvalues up to ``most``, at least three, and their coefficients ``[rows, k]``."""
    unit = float((mesh.width * mesh.shape).max())
    stiff, mass = mesh.matrices()
    wished = most * unit**2
    count = _weyl(volume / unit**3, wished)
    values, vectors = lowest(stiff / unit, mass / unit**3, wished, count)
    return values / unit**2, vectors / unit**1.5


def check_terms(volume: float, most: float) -> None:
    """Refuse a kernel of too many eigenvalues, before a mesh is made for it.

    Raises:
        SolverError: there are too many below ``most``.
    """
    if (count := _weyl(volume, most)) > 1.5 * MOST_TERMS:
        raise SolverError(f"the kernel has some {count} terms, more than {MOST_TERMS}: lower resolution")


def _weyl(volume: float, most: float) -> int:
    """About how many eigenvalues there are up to ``most``, by Weyl's law, whose second term is the wall's."""
    wall = 1.5 * (36 * math.pi) ** (1 / 3) * volume ** (2 / 3)  # room for more than the least around such a volume
    return int(1.1 * (volume * most**1.5 / (6 * math.pi**2) + wall * most / (16 * math.pi))) + 3


def _by_parts(a: Floats, b: Floats) -> Floats:
    """Integrals ``[parts, i, j]`` over parts of a side of products of polynomials ``[i, powers]``, ``[j, powers]``."""
    p = np.arange(a.shape[-1])[:, None] + np.arange(b.shape[-1]) + 1
    ends = np.arange(_CUT + 1)[:, None, None] / _CUT
    powers = np.diff(ends**p, axis=0) / p
    found: Floats = np.einsum("im,amn,jn->aij", a, powers, b)
    return found


def _product(w: Floats, a: Floats, b: Floats, c: Floats) -> Floats:
    """Matrices ``[n, 64, 64]`` of cells from those of their sides, each part with its weight ``[n, 6, 6, 6]``."""
    found: Floats = np.einsum("npqr,pij->nqrij", w, a)
    found = np.einsum("nqrij,qkl->nrikjl", found, b)
    found = np.einsum("nrikjl,rmo->nikmjlo", found, c)
    return found.reshape(len(w), 64, 64)
