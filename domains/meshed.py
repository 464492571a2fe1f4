"""What sets have in common whose Laplacian has been solved on a mesh: a heat kernel, from some noise on.

May use: torch, the base class, a series, paths. A set of this kind says what its series is (:attr:`Meshed._kernel`) and
from which sigma on it holds (:attr:`Meshed.least_sigma`); beyond that it is any domain.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Generator, Tensor

from . import paths
from .base import Domain
from .checks import DomainError, values_are_checked, without_derivative
from .series import Series

__all__ = ["Meshed"]

_FORGOTTEN = 1e-6  # size of the first term of the series from which on a law is uniform
_WAVES = (1, 2, 4, 8)  # along a side of the bounding box, in features


class Meshed(Domain):
    """A set in the plane or in space whose kernel is a series of eigenfunctions, from :attr:`least_sigma` on."""

    @abstractmethod
    def boundary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`Domain.boundary`: the surface itself has it, not the mesh."""

    @property
    @abstractmethod
    def least_sigma(self) -> float:
        """Noise from which on the kernel is evaluated."""

    @property
    @abstractmethod
    def _kernel(self) -> Series:
        """The series, on the CPU."""

    def kernel_log_prob(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
        """Log-density ``[*batch]`` of reflected Brownian motion from ``x0``, for ``sigma`` from :attr:`least_sigma` on.

        Arguments are those of :meth:`Domain.heat_kernel_log_prob`, which there is not, as no kernel is known for
        less noise. Densities below 1e-6 of the uniform one are taken to be that.

        Raises:
            DomainError: a sigma is less than the least.
        """
        return self._without_derivative(self._series(x, x0, sigma)[0], x, x0)

    def kernel_score(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
        """Gradient in ``x`` of :meth:`kernel_log_prob`, ``[*batch, dim]``."""
        return self._without_derivative(self._series(x, x0, sigma)[1], x, x0)

    def sample_heat_kernel(self, x0: Tensor, sigma: float | Tensor, *, generator: Generator | None = None) -> Tensor:
        """Draws for each ``x0``: from the series, or where there is less noise the ends of simulated paths."""
        return self.diffuse(x0, sigma, generator=generator)[0]

    def diffuse(
        self, x0: Tensor, sigma: float | Tensor, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Noised points and denoising targets, ``[*batch, dim]``.

        From :attr:`least_sigma` on drawn from the kernel, and its score; path targets for less noise.
        """
        x0, scale = self._check_noising(x0, sigma)
        start, s = x0.reshape(-1, self.dim), scale.reshape(-1)
        x, target = torch.empty_like(start), torch.empty_like(start)
        wide = s >= self.least_sigma
        for rows, law in ((wide, self._by_series), (~wide, self._by_paths)):
            which = rows.nonzero().squeeze(-1)
            if len(which):
                x[which], target[which] = law(start[which], s[which], generator)
        return x.reshape(x0.shape), target.reshape(x0.shape)

    def features(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Coordinates scaled to [-1, 1], the wall's distance against ``sigma``, and its normal where it is near.

        And waves in the coordinates, which draw finer detail.
        """
        distance, normal = self.boundary(x)
        near = (sigma / (distance.clamp(min=0) + sigma)).unsqueeze(-1)
        scaled = self._scaled(x)
        waves = [wave(k * math.pi * scaled) for k in _WAVES for wave in (torch.cos, torch.sin)]
        return torch.cat([scaled, 1 - near, near * normal, *waves], -1)

    # ------------------------------------------------------------------ parts

    def _series(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
        x, x0, scale = self._check_pair(x, x0, sigma)
        least = self.least_sigma
        if values_are_checked() and not bool((scale >= least * (1 - 1e-6)).all()):
            raise DomainError(
                f"sigma must be at least least_sigma, {least:g}, for the kernel's series; it is "
                f"{float(scale.min()):g}: raise resolution in proportion, or train by `diffuse`"
            )
        y, y0 = (p.detach().reshape(-1, self.dim).double() for p in (x, x0))
        log_p, score = self._kernel_on(x.device).log_prob_and_score(y, y0, scale.reshape(-1).double())
        return log_p.reshape(scale.shape).to(x.dtype), score.reshape(x.shape).to(x.dtype)

    def _by_series(self, x0: Tensor, sigma: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        y0, s = x0.double(), sigma.double()
        kernel = self._kernel_on(x0.device)
        x = self.project(kernel.sample(y0, s, generator))
        uniform = self.sample_uniform(len(x), generator=generator, device=x.device, dtype=x.dtype)
        forgotten = torch.exp(-self.spectral_gap * s**2 / 2) < _FORGOTTEN
        x = torch.where(forgotten.unsqueeze(-1), uniform, x)
        score = kernel.log_prob_and_score(x, y0, s)[1]
        return self.project(x.to(x0.dtype)), score.to(x0.dtype)

    def _by_paths(self, x0: Tensor, sigma: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        return paths.simulate(self, x0, sigma, generator=generator)

    def _without_derivative(self, value: Tensor, *inputs: Tensor) -> Tensor:
        return without_derivative(f"the kernel of a {type(self).__name__}", value, *inputs)

    def _no_kernel(self) -> NotImplementedError:
        return NotImplementedError(
            f"{self!r} has no heat kernel for every sigma: kernel_log_prob and kernel_score are there from least_sigma "
            f"({self.least_sigma:g}) on, and `diffuse` noises points and returns training targets for any"
        )

    def _kernel_on(self, device: torch.device) -> Series:
        found: Series = self._on("_kernel", device)
        return found

    def _on(self, name: str, device: torch.device) -> Any:
        """What is made once, on a device."""
        if device.type == "cpu":
            return getattr(self, name)
        moved: dict[tuple[str, torch.device], Any] = vars(self).setdefault("_moved", {})
        if (name, device) not in moved:
            moved[name, device] = getattr(self, name).to(device)
        return moved[name, device]
