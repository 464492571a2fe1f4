"""Walls of many flat facets: specular moves and lines of sight, from list to list of a grid of cells.

May use: torch. Nothing here knows the dimension: edges bound sets in the plane, triangles those in space.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor

from .checks import SolverError
from .lists import Lists, OnDevice
from .short_vectors import dot

__all__ = ["CAP", "Facets"]

CAP = 1000  # pieces of one move, before it ends where it is
_SAFE = 1 - 1e-9
_ROUNDS = 1000  # of proposals, before sampling gives up


class Facets(OnDevice, ABC):
    """Facets with a grid over them; a frozen dataclass of tensors, lists and numbers.

    Attributes:
        cell: side of a cell.
        reach: of each cell, the facets within one cell of it.
        clear: a lower bound of the distance of a cell's points to the walls, ``[cells]``.
        inside: whether the points of a cell that is clear lie inside, ``[cells]``.
    """

    cell: float
    reach: Lists
    clear: Tensor
    inside: Tensor

    @property
    @abstractmethod
    def size(self) -> float:
        """Length of the grid's longest side."""

    @abstractmethod
    def normal_of(self, facet: Tensor) -> Tensor:
        """Inward unit normals ``[*facet, d]``."""

    @abstractmethod
    def centres(self, index: Tensor) -> Tensor:
        """Centres ``[n, d]`` of cells ``[n]``."""

    @abstractmethod
    def index(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The cell ``[n]`` of each point ``[n, d]``, or the one next to it; and whether it lies in the grid."""

    @abstractmethod
    def contains(self, x: Tensor) -> Tensor:
        """Whether points ``[n, d]`` lie inside, by the even-odd rule; on the walls either."""

    @abstractmethod
    def nearest(self, x: Tensor) -> Tensor:
        """The nearest facet ``[n]`` to each point ``[n, d]``."""

    @abstractmethod
    def distance(self, x: Tensor, facet: Tensor) -> Tensor:
        """Distance ``[n]`` of points ``[n, d]`` from their facets ``[n]``."""

    @abstractmethod
    def hit(
        self, p: Tensor, d: Tensor, index: Tensor, step: Tensor, tolerance: float, both: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Way ``[n]`` to the first facet in reach that is met within ``step``, or infinity; and its number.

        Facets are met from inside, or from both sides. They are wider than they are by ``tolerance``, and are met from
        as far behind.
        """

    def sample_uniform(self, count: int, volume: float, generator: Generator | None) -> Tensor:
        """Independent uniform points ``[count, d]`` of a set of that volume: of the cells it meets, those inside.

        Raises:
            SolverError: a thousand rounds did not do.
        """
        cells = (self.inside | (self.clear <= 0)).nonzero().squeeze(-1)
        device = cells.device
        d = self.centres(cells[:1]).shape[-1]
        found = torch.empty((count, d), dtype=torch.float64, device=device)
        filled = 0
        for _ in range(_ROUNDS):
            missing = count - filled
            if not missing:
                return found
            tried = min(int(1.2 * missing * len(cells) * self.cell**d / volume) + 16, 1 << 20)
            which = torch.randint(len(cells), (tried,), generator=generator, device=device)
            u = torch.rand((tried, d), generator=generator, device=device, dtype=torch.float64)
            x = self.centres(cells[which]) + self.cell * (u - 0.5)
            x = x[self.contains(x)][:missing]
            found[filled : filled + len(x)] = x
            filled += len(x)
        raise SolverError("the set fills too little of its outline's cells to be sampled: it is all spikes")

    def move(self, x: Tensor, v: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
        """Where points ``[n, d]`` inside end that move by ``v`` and are mirrored at walls; and which met one, ``[n]``.

        A piece of a move ends at a wall, or where no wall can have been met: at the cell's distance from the
        outline, or one cell away. A move of more than ``CAP`` pieces ends where it is.
        """
        x, left = x.clone(), v.norm(dim=-1)
        met = torch.zeros_like(left, dtype=torch.bool)
        way = v / left.clamp(min=torch.finfo(v.dtype).tiny).unsqueeze(-1)
        rows = (left > 0).nonzero().squeeze(-1)
        p, d, left = x[rows], way[rows], left[rows]
        for _ in range(CAP):
            if not len(rows):
                break
            index, _ = self.index(p)
            free = self.clear[index] * _SAFE
            step = torch.minimum(left, free.clamp(min=self.cell))
            close = (free < torch.minimum(left, torch.full_like(left, self.cell))).nonzero().squeeze(-1)
            turned = d
            for part in self.reach.parts(index[close]) if len(close) else ():
                some = close[part]
                hit, wall = self.hit(p[some], d[some], index[some], step[some], tolerance)
                met[rows[some]] |= hit < torch.inf
                n = self.normal_of(wall)
                after = d[some] - 2 * dot(d[some], n).unsqueeze(-1) * n
                turned = turned.index_put((some,), torch.where((hit < torch.inf).unsqueeze(-1), after, d[some]))
                step = step.index_put((some,), torch.minimum(step[some], hit))
            p, d, left = p + step.unsqueeze(-1) * d, turned, left - step
            x[rows] = p
            keep = (left > 0).nonzero().squeeze(-1)
            rows, p, d, left = rows[keep], p[keep], d[keep], left[keep]
        return x, met

    def sees(self, x: Tensor, y: Tensor) -> Tensor:
        """Whether the straight line between points ``[n, d]`` of the closed set stays in it, ``[n]``; it may graze."""
        tolerance = -1e-9 * self.size  # edges of facets that do not count
        way = y - x
        left = way.norm(dim=-1) * (1 - 1e-6)
        d = way / way.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        middle = x + 0.5 * way
        seen: Tensor = self.contains(middle) | (left <= -tolerance)
        rows = (~seen).nonzero().squeeze(-1)
        if len(rows):  # along a wall
            seen[rows] = self.distance(middle[rows], self.nearest(middle[rows])) <= -tolerance
        rows = seen.nonzero().squeeze(-1)
        p = x.clone()
        for _ in range(CAP):
            if not len(rows):
                break
            index, _ = self.index(p[rows])
            free = self.clear[index] * _SAFE
            step = torch.minimum(left[rows], free.clamp(min=self.cell))
            close = (free < torch.minimum(left[rows], torch.full_like(free, self.cell))).nonzero().squeeze(-1)
            for part in self.reach.parts(index[close]) if len(close) else ():
                some = close[part]
                hit, _ = self.hit(p[rows[some]], d[rows[some]], index[some], step[some], tolerance, both=True)
                seen[rows[some[hit < torch.inf]]] = False
            p[rows] += step.unsqueeze(-1) * d[rows]
            left[rows] -= step
            rows = rows[seen[rows] & (left[rows] > 0)]
        return seen
