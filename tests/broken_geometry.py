"""Domains that break one promise each about the set itself: what `check_domain` is tried on."""

import math

import pytest
import torch

from tests.own_domains import OwnAnnulus, OwnDisc, OwnSquare, OwnTriangle, catalogue

BROKEN, breaks = catalogue()

# --- answers at all


@breaks("project and boundary answer for each point")
class KeepsADimension(OwnSquare):
    def boundary(self, x):
        distance, normal = super().boundary(x)
        return distance.unsqueeze(-1), normal


@breaks("project and boundary answer for each point")
class ChangesItsPoints(OwnSquare):
    def project(self, x):
        return x.clamp_(0, 1)


# --- moves


@breaks(
    "reflect stays inside",
    also=(
        "reflect keeps the uniform law",
        "diffuse has the law of reflection",
        "kernel's draws have its law",
    ),
)
class NoReflection(OwnSquare):
    def reflect(self, x, displacement):
        return x + displacement


@breaks("reflect keeps the uniform law")
class SticksToWalls(OwnSquare):
    def reflect(self, x, displacement):
        return self.project(x + displacement)


@breaks(
    "reflect keeps the uniform law",
    also=(
        "diffuse has the law of reflection",
        "kernel's draws have its law",
    ),
)
class RestartsAtCentre(OwnSquare):
    """Rejecting a move keeps the uniform law; starting again from the centre does not."""

    def reflect(self, x, displacement):
        end = x + displacement
        return torch.where(self.contains(end).unsqueeze(-1), end, torch.full_like(end, 0.5))


@breaks("reflect far from walls is a sum")
class LazyMoves(OwnSquare):
    def reflect(self, x, displacement):
        return super().reflect(x, 0.9 * displacement)


@breaks("expmap goes straight", also=("targets are unbiased inside",))  # divergences are of what is carried back
class LosesLength(OwnSquare):
    def transp(self, x, y, v):
        return 0.9 * v


# --- projections and membership


@breaks(
    "project is idempotent",
    "project leaves inside points",
    also=(
        "contains agrees with project",
        "boundary: sign of the distance",
        "walls: the nearest is boundary's",
        "damp_normal",
        "inradius",
        "project finds the nearest point",
        "interpolate",
    ),
)
class ShrinkingProjection(OwnSquare):
    def project(self, x):
        return 0.5 + 0.99 * (super().project(x) - 0.5)


@breaks(
    "project lands inside",
    also=(
        "contains agrees with project",
        "boundary: sign of the distance",
        "diameter",
    ),
)
class ShortProjection(OwnSquare):
    def project(self, x):
        return x.clamp(-1e-3, 1 + 1e-3)


@breaks(
    "project finds the nearest point",
    also=(
        "targets are unbiased inside",
        "boundary: slope along the normal",
        "reflect keeps the uniform law",
        "diffuse has the law of reflection",
        "kernel's draws have its law",
    ),
)
class RadialProjection(OwnSquare):
    def project(self, x):
        away = x - 0.5
        return super().project(0.5 + away / (2 * away.abs().amax(-1, keepdim=True)).clamp(min=1.0))


@breaks("project finds the nearest point")
class SimplexBySoftening(OwnTriangle):
    """Cut at zero and divide by the sum: on the simplex, and a frequent mistake."""

    def project(self, x):
        cut = x.clamp(min=1e-12)
        return torch.where(self.contains(x).unsqueeze(-1), x, cut / cut.sum(-1, keepdim=True))


@breaks("contains")
class ContainsNaN(OwnSquare):
    def contains(self, x, atol=0.0):
        return ~((x < -atol) | (x > 1 + atol)).any(-1)


@breaks("contains agrees with project", also=("project finds the nearest point",))
class ContainsOutside(OwnSquare):
    def contains(self, x, atol=0.0):
        return super().contains(x, atol + 0.05)


# --- tangents


@breaks(
    "tangent is a linear projection",
    also=(
        "white is an isometry",
        "frame is orthonormal",
        "gradient in the metric",
        "expmap goes straight",
        "boundary: unit normal",
        "reflect far from walls is a sum",
        "sample_noise is white and tangent",
        "diffuse stays inside",
        "targets are unbiased inside",
        "targets are unbiased along walls",
        "kernel integrates to one",
    ),
)
class HalfTangent(OwnTriangle):
    def tangent(self, x, v):
        return 0.5 * super().tangent(x, v)


@breaks(
    "white is an isometry",
    also=(
        "sample_noise is white and tangent",
        "kernel integrates to one",
        "diffuse has the law of reflection",
        "targets are unbiased inside",
        "targets are unbiased along walls",
    ),
)
class LongAlongOneSide(OwnTriangle):
    def white(self, x, z):
        v = super().white(x, z)
        return v + 0.2 * v[..., :1] * (torch.tensor([1.0, -1.0, 0.0]).to(v))


@breaks(
    "frame is orthonormal",
    also=(
        "spectral_gap",
        "targets are unbiased inside",
        "targets are unbiased along walls",
    ),
)
class LongFrame(OwnTriangle):
    def frame(self, x):
        return 2 * super().frame(x)


@breaks("gradient in the metric")
class PartialDerivatives(OwnTriangle):
    def gradient(self, x, v):
        return v


@breaks("interpolate")
class StopsHalfWay(OwnSquare):
    def interpolate(self, x, y, share):
        return super().interpolate(x, y, 0.5 * share)


@breaks("gradients")
class NoGradients(OwnSquare):
    def damp_normal(self, x, v, width):
        return super().damp_normal(x, v.detach(), width)


# --- walls


@breaks(
    "boundary: sign of the distance",
    also=(
        "walls: the nearest is boundary's",
        "inradius",
    ),
)
class FlippedDistance(OwnSquare):
    def boundary(self, x):
        distance, normal = super().boundary(x)
        return -distance, normal


@breaks("boundary: sign of the distance")
class UnsignedDistance(OwnSquare):
    def boundary(self, x):
        distance, normal = super().boundary(x)
        return distance.abs(), normal


@breaks(
    "boundary: slope along the normal",
    also=(
        "walls: the nearest is boundary's",
        "boundary: foot on the wall",
    ),
)
class OutwardNormal(OwnSquare):
    def boundary(self, x):
        distance, normal = super().boundary(x)
        return distance, -normal


@breaks(
    "boundary: unit normal",
    also=(
        "boundary: slope along the normal",
        "boundary: foot on the wall",
        "walls: the nearest is boundary's",
    ),
)
class LongNormal(OwnSquare):
    def boundary(self, x):
        distance, normal = super().boundary(x)
        return distance, 1.5 * normal


@breaks(
    "boundary: slope along the normal",
    also=(
        "walls: the nearest is boundary's",
        "boundary: foot on the wall",
    ),
)
class DoubledDistance(OwnSquare):
    def boundary(self, x):
        distance, normal = super().boundary(x)
        return 2 * distance, normal


@breaks(
    "boundary: slope along the normal",
    also=(
        "boundary: foot on the wall",
        "inradius",
    ),
    tier=[pytest.mark.slow],
)
class AlgebraicDistance(OwnDisc):
    """(1 - |x|^2) / 2: zero and of slope one at the wall only."""

    def boundary(self, x):
        return (1 - (x * x).sum(-1)) / 2, super().boundary(x)[1]


@breaks(
    "boundary: foot on the wall",
    also=(
        "boundary: slope along the normal",
        "walls: the nearest is boundary's",
        "damp_normal",
    ),
)
class DistanceToOtherWall(OwnSquare):
    """The normal of the wall with the nearest larger coordinate: not of the nearest wall."""

    def boundary(self, x):
        distance, normal = super().boundary(x)
        inside = self.contains(x).unsqueeze(-1)
        axis = torch.zeros_like(normal)
        axis[..., 0] = torch.where(x[..., 0] < 0.5, 1.0, -1.0).to(x)
        return distance, torch.where(inside, axis, normal)


@breaks("walls: the nearest is boundary's")
class ShiftedWalls(OwnSquare):
    def walls(self, x):
        distances, normals = super().walls(x)
        return distances + 0.1, normals


@breaks(
    "curvature",
    also=("targets are unbiased inside", "targets are unbiased along walls"),
    tier=[pytest.mark.slow],
)
class ForgottenCurvature(OwnAnnulus):
    def curvature(self, x):
        return torch.zeros_like(x[..., :1])


@breaks("curvature", also=("targets are unbiased inside", "targets are unbiased along walls"))
class FlippedCurvature(OwnDisc):
    def curvature(self, x):
        return -super().curvature(x)


@breaks("damp_normal")
class Undamped(OwnSquare):
    def damp_normal(self, x, v, width):
        return v


@breaks("damp_normal")
class DampsAllComponents(OwnSquare):
    def damp_normal(self, x, v, width):
        return v * torch.tanh(self.boundary(x)[0].clamp(min=0) / width).unsqueeze(-1)


# --- sizes


@breaks("log_volume", also=("kernel integrates to one",))
class LargeVolume(OwnSquare):
    def __init__(self):
        super().__init__()
        self.log_volume = self.log_volume + math.log(1.2)


@breaks("spectral_gap")
class LargeGap(OwnSquare):
    def __init__(self):
        super().__init__()
        self.spectral_gap = 2 * self.spectral_gap


@breaks("inradius")
class LargeInradius(OwnSquare):
    def __init__(self):
        super().__init__()
        self.inradius = 0.6


@breaks("inradius")
class SmallInradius(OwnSquare):
    def __init__(self):
        super().__init__()
        self.inradius = 0.05


@breaks("diameter")
class SmallDiameter(OwnSquare):
    diameter = 1.0


@breaks(
    "bounding_box holds the set",
    also=(
        "reflect keeps the uniform law",
        "sample_uniform is uniform",
        "log_volume",
    ),
)
class SmallBox(OwnDisc):
    def __init__(self):
        super().__init__()
        low, high = self.bounding_box
        self.bounding_box = (0.8 * low, 0.8 * high)
