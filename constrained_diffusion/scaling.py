"""Data of any size brought into a domain, and back, in the manner of scikit-learn's scalers.

May use: torch, numpy, domains, data.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from .data import Array, Kind, check_columns, column_names, to_numbers
from .domains import Domain
from .domains.affine import Affine
from .domains.checks import check_finite
from .domains.given import require_domain
from .parameters import Parameters

__all__ = ["DomainScaler"]


class DomainScaler(Parameters):
    """An affine map that takes data into a solid domain: the first step of a pipeline.

    >>> from sklearn.pipeline import make_pipeline
    >>> cube = Hypercube(3)
    >>> pipe = make_pipeline(DomainScaler(cube), ReflectedDiffusion(cube)).fit(x)
    >>> samples = pipe[0].inverse_transform(pipe[-1].sample(1000))  # in the units of x
    >>> log_density = pipe.score_samples(x) - pipe[0].log_det_  # per unit volume of x

    In a box each coordinate's range fills its side; in other domains the ball around the data's middle is taken into
    a ball that fits inside (:meth:`Domain.covering`).

    Args:
        domain: where the data shall lie.
        margin: share of the range (of the ball's radius) that stays empty at the walls, for points beyond those that
            it was fitted to. In [0, 0.5).

    Attributes:
        affine_: from the domain to the data's units, once fitted.
        feature_names_in_: the columns of the data frame that ``fit`` was given, in order; absent otherwise.
    """

    affine_: Affine
    feature_names_in_: list[str]

    def __init__(self, domain: Domain, *, margin: float = 0.0) -> None:
        self.domain, self.margin = domain, margin
        self._check_parameters()

    def _check_parameters(self) -> None:
        require_domain(self.domain)
        if not 0 <= self.margin < 0.5:
            raise ValueError(f"margin must lie in [0, 0.5), not {self.margin!r}")

    def fit(self, x: Array, y: object = None) -> Self:
        """Find the map.

        Args:
            x: data ``[n, *event_shape]``, numpy or torch, of any size.
            y: ignored.
        """
        rows, _ = self._rows(x)
        check_finite("x", rows, rows.ndim - 1)
        self.affine_ = self.domain.covering(rows, self.margin)
        names = column_names(x)
        vars(self).pop("feature_names_in_", None)
        if names is not None:
            self.feature_names_in_ = names
        return self

    def fit_transform(self, x: Array, y: object = None) -> Any:
        """:meth:`fit`, then :meth:`transform` of the same data."""
        return self.fit(x).transform(x)

    def transform(self, x: Array) -> Any:
        """Points ``[n, *event_shape]`` in the domain's units; outside, if they lie beyond those it was fitted to."""
        check_columns("x", x, getattr(self, "feature_names_in_", None), "scaler.feature_names_in_")
        rows, kind = self._rows(x)
        z, place = self._fitted.inverse(rows), self.domain
        slack = 64 * torch.finfo(getattr(torch, kind.dtype)).eps * max(1.0, place.magnitude)
        near = place.expand(place.contains(z, atol=slack))
        z = torch.where(near, place.project(z).to(getattr(torch, kind.dtype)), z.to(getattr(torch, kind.dtype)))
        return kind.like(torch.where(near, place.project(z), z))  # rounding leads no extreme point out

    def inverse_transform(self, x: Array) -> Any:
        """Points ``[n, *event_shape]`` of the domain in the data's units."""
        rows, kind = self._rows(x)
        return kind.like(self._fitted(rows))

    @property
    def log_det_(self) -> float:
        """Log ``|dx/dz|`` of :meth:`inverse_transform`: what to subtract from log-densities in the domain."""
        return self._fitted.log_det

    @property
    def _fitted(self) -> Affine:
        if not hasattr(self, "affine_"):
            raise RuntimeError(f"DomainScaler({self.domain!r}) is not fitted: call fit(x) first")
        return self.affine_

    def _rows(self, x: Array) -> tuple[Tensor, Kind]:
        return to_numbers("x", x, self.domain.event_shape)
