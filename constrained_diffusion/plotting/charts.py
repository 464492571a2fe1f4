"""Domains of two dimensions as flat pictures: the plane as it is, compositions of three parts in a triangle.

May use: numpy, torch, the interface of a domain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from constrained_diffusion.domains import Domain
from constrained_diffusion.domains.checks import ShapeError

from .outlines import Bools, is_bounded, outline_of
from .panels import TRIANGLE, Cloud, limits_of, triangle_limits
from .style import Floats, Points, to_points

__all__ = ["PARTS", "Chart", "chart_of", "cloud_of", "outside_of"]

PARTS = ("part 1", "part 2", "part 3")
_ROUNDING = 1e-5  # of the domain's size: how far outside a point must lie to be drawn as one that is


@dataclass(frozen=True)
class Chart:
    """How points of a domain of two dimensions are drawn.

    Attributes:
        domain: the domain.
        outline: corners ``[k, 2]`` of its picture; None where it has no end.
        corners: where the k unit vectors are drawn, ``[k, 2]``: a picture is linear in the point.
    """

    domain: Domain
    outline: Floats | None
    corners: Floats

    @property
    def is_triangle(self) -> bool:
        """Whether points are compositions."""
        return len(self.corners) == 3

    def cloud(self, name: str, points: Points, colour: str, label: str = "") -> Cloud:
        """Points ``[n, *event_shape]`` as a cloud in the plane; refused where they do not fit or are not finite."""
        cloud = cloud_of(self.domain, name, points, colour, label)
        return cloud._replace(points=self.flat(cloud.points))

    def limits(self, clouds: Sequence[Floats]) -> Floats:
        """Corners ``[2, 2]`` of a window on clouds ``[n, 2]`` and the outline; a triangle leaves room for names."""
        return triangle_limits(clouds) if self.is_triangle else limits_of(clouds, self.outline)

    def flat(self, points: Floats) -> Floats:
        """Points ``[n, k]`` as places ``[n, 2]``; those whose parts do not sum to one fall on the triangle's plane."""
        if self.is_triangle:
            points = points + (1 - points.sum(1, keepdims=True)) / 3
        return points @ self.corners

    def flat_vectors(self, vectors: Floats) -> Floats:
        """Tangent vectors ``[n, k]`` as arrows ``[n, 2]``."""
        return vectors @ self.corners

    def lift(self, places: Floats) -> Floats:
        """The points ``[n, k]`` that are drawn at places ``[n, 2]``: the inverse of :meth:`flat`."""
        if not self.is_triangle:
            return places
        third = places[:, 1] / TRIANGLE[2, 1]
        second = places[:, 0] - third / 2
        return np.stack([1 - second - third, second, third], 1)


def chart_of(domain: Domain, purpose: str) -> Chart:
    """The flat picture of a domain that has one.

    Args:
        domain: in the plane, or of compositions of three parts.
        purpose: who asks, for the message.

    Raises:
        ShapeError: the domain is drawn in another way.
    """
    if domain.drawing == "plane":
        return Chart(domain, outline_of(domain) if is_bounded(domain) else None, np.eye(2))
    if domain.drawing == "ternary":
        return Chart(domain, TRIANGLE, TRIANGLE)
    raise ShapeError(
        f"{purpose} draws domains in the plane and compositions of three parts; {domain!r} is drawn as "
        f"{domain.drawing!r}: plot_samples shows its points"
    )


def cloud_of(domain: Domain, name: str, points: Points, colour: str, label: str = "") -> Cloud:
    """Points ``[n, *event_shape]``, each flattened; refused where they do not fit the domain or are not finite."""
    array = to_points(name, points, domain.event_shape)
    return Cloud(array.reshape(len(array), -1), outside_of(domain, array), colour, label)


def outside_of(domain: Domain, points: Floats) -> Bools:
    """Which points ``[n, *event_shape]`` lie outside by more than rounding."""
    size = domain.diameter if math.isfinite(domain.diameter) else domain.magnitude
    x: Tensor = torch.from_numpy(np.ascontiguousarray(points))
    outside: Bools = ~domain.contains(x, _ROUNDING * size).numpy()
    return outside
