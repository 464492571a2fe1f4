r"""Heat kernels from eigenfunctions of the Laplacian, whatever elements they are made of.

May use: numpy, scipy (imported where used), torch.

.. math:: p(x | x_0, \sigma) = \sum_k e^{-\lambda_k \sigma^2 / 2} \phi_k(x) \phi_k(x_0).

Every eigenfunction is piecewise polynomial: in the element around a point it is a sum of shape functions, whose
coefficients are rows of one table. Points are drawn from the series exactly: first an element by its integral, then a
point of it by rejection.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from .checks import SolverError
from .lists import Floats, OnDevice

__all__ = ["MOST_TERMS", "Series", "lowest"]

_FLOOR = 1e-6  # of the uniform density, below which the series says nothing
MOST_TERMS = 1500
_TOLERANCE = 1e-9  # of eigenvalues
_DENSE, _MANY = 5000, 20  # unknowns that a dense solver takes, and how many times the eigenvalues they may be
_ROWS = 1 << 21  # numbers of one table made at a time


def lowest(stiff: Any, weights: Any, most: float, count: int) -> tuple[Floats, Floats]:
    """Eigenvalues of ``stiff`` against ``weights`` and their vectors, ascending.

    By shift-and-invert Lanczos (ARPACK); of a few thousand unknowns, where many are asked for, by a dense solver.

    Args:
        stiff: sparse stiffness matrix, in units in which the set is about one wide.
        weights: sparse mass matrix.
        most: eigenvalues up to it are asked for, or as many as half the unknowns.
        count: how many that may be; more are found where it is too few.

    Raises:
        SolverError: there are too many eigenvalues, or the solver did not converge.
    """
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh, splu

    if stiff.shape[0] <= min(_DENSE, _MANY * count):
        return _all_at_once(stiff, weights, most, count)
    factors = splu((stiff + weights).tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    inverse = LinearOperator(stiff.shape, factors.solve)
    size = stiff.shape[0]
    while True:
        count = min(count, size // 2)
        if count > MOST_TERMS:
            raise SolverError(f"the kernel has more than {MOST_TERMS} terms: lower resolution")
        start, kept = np.random.default_rng(0).standard_normal(size), min(int(1.4 * count) + 20, size - 1)
        try:
            values, vectors = eigsh(stiff, count, weights, -1.0, OPinv=inverse, v0=start, ncv=kept, tol=_TOLERANCE)
        except ArpackError as error:
            raise SolverError(f"the eigenvalue solver gave up ({error}): change resolution a little") from error
        order = np.argsort(values)
        values, vectors = values[order], vectors[:, order]
        if values[-1] >= most or count == size // 2:
            return values, vectors
        count = int(1.3 * count)


def _all_at_once(stiff: Any, weights: Any, most: float, count: int) -> tuple[Floats, Floats]:
    """The same as :func:`lowest` by Cholesky's factors of the sum, as the mass alone may be singular."""
    from scipy.linalg import cholesky, eigh, solve_triangular

    root = cholesky((stiff + weights).toarray(), lower=True)
    half = solve_triangular(root, weights.toarray(), lower=True)
    least = 0.5 / (1 + most)
    shares, vectors = eigh(solve_triangular(root, half.T, lower=True), subset_by_value=(least, 2.0))
    shares, vectors = shares[::-1], solve_triangular(root.T, vectors[:, ::-1])
    return 1 / shares - 1, vectors / np.sqrt(shares)


class Series(OnDevice, ABC):
    """The series, ready to be evaluated on one device; a frozen dataclass. All tensors are float64.

    Attributes:
        values: eigenvalues ``[k]``.
        table: coefficients of eigenfunctions ``[rows, k]``.
        masses: integrals of eigenfunctions over elements ``[t, k]``.
        volume: of all elements.
    """

    values: Tensor
    table: Tensor
    masses: Tensor
    volume: float

    @abstractmethod
    def _locate(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of the table ``[n, m]`` at each point, shape functions ``[n, m]``, their gradients ``[n, m, d]``."""

    @abstractmethod
    def _within(self, which: Tensor, weights: Tensor, generator: Generator | None) -> Tensor:
        """Points ``[n, d]`` of elements ``[n]`` of the density in proportion to the sum with weights ``[n, k]``."""

    def log_prob_and_score(self, x: Tensor, x0: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density ``[n]`` and its gradient in ``x``, ``[n, d]``; points ``[n, d]``, float64, and ``[n]``.

        Densities below 1e-6 of the uniform one are taken to be that.
        """
        log_p, score = torch.empty_like(sigma), torch.empty_like(x)
        floor = _FLOOR / self.volume
        for rows in self._parts(x, len(self.values)):
            weights = self._coefficients(x0[rows], sigma[rows])
            nodes, shape, slope = self._locate(x[rows])
            local = self._local_sums(nodes, weights)
            p = (local * shape).sum(-1).clamp(min=floor)
            log_p[rows], score[rows] = p.log(), (local.unsqueeze(-1) * slope).sum(1) / p.unsqueeze(-1)
        return log_p, score

    def sample(self, x0: Tensor, sigma: Tensor, generator: Generator | None) -> Tensor:
        """A draw ``[n, d]`` for each starting point."""
        out = torch.empty_like(x0)
        for rows in self._parts(x0, len(self.masses)):
            weights = self._coefficients(x0[rows], sigma[rows])
            chance = torch.cumsum((weights @ self.masses.T).clamp(min=0), -1)
            u = self._uniform((len(rows), 1), generator)
            which = torch.searchsorted(chance, u * chance[:, -1:]).squeeze(-1).clamp(max=len(self.masses) - 1)
            out[rows] = self._within(which, weights, generator)
        return out

    # ------------------------------------------------------------------ parts

    def _parts(self, x: Tensor, width: int) -> tuple[Tensor, ...]:
        """Row numbers in parts, of tables that have so many numbers in a row."""
        parts: tuple[Tensor, ...] = torch.arange(len(x), device=x.device).split(max(1, _ROWS // width))
        return parts

    def _coefficients(self, x0: Tensor, sigma: Tensor) -> Tensor:
        """exp(-lambda sigma^2 / 2) phi(x0), ``[n, k]``."""
        nodes, shape, _ = self._locate(x0)
        at = torch.nn.functional.embedding_bag(nodes, self.table, per_sample_weights=shape, mode="sum")
        found: Tensor = torch.exp(-self.values * sigma.unsqueeze(-1) ** 2 / 2) * at
        return found

    def _local_sums(self, nodes: Tensor, weights: Tensor) -> Tensor:
        """Coefficients ``[n, m]`` of the shape functions in the sum with weights ``[n, k]``."""
        found = torch.empty(nodes.shape, dtype=weights.dtype, device=weights.device)
        for rows in self._parts(nodes, nodes.shape[1] * len(self.values)):
            found[rows] = (self.table[nodes[rows]] @ weights[rows].unsqueeze(-1)).squeeze(-1)
        return found

    def _uniform(self, shape: tuple[int, ...], generator: Generator | None) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=self.values.dtype, device=self.values.device)
