r"""Where on the way from noise to data there is something to learn, found out while learning. May use: torch.

Noise destroys what is special about the data at a rate that de Bruijn's identity tells: the relative entropy of the
noised data to the uniform law falls by :math:`\frac12 g^2 E|\nabla \log p|^2` nats per unit of time. Few octaves of
noise have most of it: those at which modes merge. At others a denoising target is nearly all noise, and to train
there adds variance to the gradients and nothing else. Karras et al. 2022 (arXiv 2206.00364, section 5) choose the
levels to train at by hand for images; here they follow from the data.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["NoiseLevels"]

_CELLS = 64  # of time
_MEMORY = 5000.0  # points in a cell after which older ones count for a third
_EVEN = 0.3  # share of even times, so that no level is forgotten
_UNREAD = 64  # batches kept before they are looked at


class NoiseLevels:
    """A density of times that grows with the information about the data that a score has been seen to explain.

    Until something has been learnt it is even.
    """

    def __init__(self) -> None:
        self._unread: list[tuple[Tensor, Tensor]] = []
        self._sum = self._count = torch.zeros(_CELLS, dtype=torch.float64)

    def learn(self, t: Tensor, rate: Tensor) -> None:
        """Remember rates in nats per unit of time ``[n]``, single noisy ones, seen at times ``[n]``."""
        self._unread.append((t, rate))
        if len(self._unread) >= _UNREAD:
            self._read()

    @property
    def information(self) -> Tensor:
        """Nats per unit of time that each of equal parts of [0, 1] holds, as far as is known, ``[cells]``."""
        self._read()
        return self._sum / self._count.clamp(min=1e-9)

    @property
    def table(self) -> Tensor:
        """The density in each of equal parts of [0, 1], ``[cells]``: mean 1."""
        root = self.information.clamp(min=0).sqrt()  # a sum of c / n is least, at a given sum of n, where n ~ sqrt(c)
        padded = torch.cat([root[:1], root, root[-1:]])
        smooth = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
        mean = smooth.mean()
        return _EVEN + (1 - _EVEN) * torch.where(mean > 0, smooth / mean.clamp(min=1e-300), 1.0)

    def __call__(self, t: Tensor) -> Tensor:
        """The density at times in [0, 1], of the same shape."""
        return self.table.to(t)[_cell(t)]

    def _read(self) -> None:
        if not self._unread:
            return
        t, rate = (torch.cat([v.reshape(-1) for v in column]) for column in zip(*self._unread, strict=True))
        self._unread.clear()
        cell = _cell(t)
        rate = rate.double()
        zero = torch.zeros(_CELLS, dtype=torch.float64, device=t.device)
        count = zero.index_add(0, cell, torch.ones_like(rate))
        keep = torch.exp(-count / _MEMORY)
        self._sum = self._sum.to(t.device) * keep + zero.index_add(0, cell, rate)
        self._count = self._count.to(t.device) * keep + count


def _cell(t: Tensor) -> Tensor:
    return (t * _CELLS).long().clamp(0, _CELLS - 1)
