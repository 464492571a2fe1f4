"""Domains that keep every promise, and domains that break one promise each: what `check_domain` is tried on."""

import math
from functools import cached_property

import numpy as np
import pytest
import torch

from constrained_diffusion import (
    Ball,
    Domain,
    Hypercube,
    Polytope,
    Simplex,
)

FEW = {"points": 1000, "paths": 2000}  # enough for the cases below, in half the time

# ---------------------------------------------------------------------- domains that keep their promises


class OwnAnnulus(Domain):
    """hole <= |x| <= radius: what the README shows, with the curvature in x's dtype."""

    event_shape, dim = torch.Size([2]), 2

    def __init__(self, hole=0.4, radius=1.0):
        self.hole, self.radius = hole, radius
        self.spectral_gap = 1 / radius**2

    def boundary(self, x):
        r = x.norm(dim=-1)
        outward = x / r.clamp(min=1e-30).unsqueeze(-1)
        near_hole = (r - self.hole < self.radius - r).unsqueeze(-1)
        return torch.minimum(self.radius - r, r - self.hole), torch.where(near_hole, outward, -outward)

    def curvature(self, x):
        near_hole = x.norm(dim=-1, keepdim=True) < (self.hole + self.radius) / 2
        return torch.where(near_hole, -1 / self.hole, 1 / self.radius).to(x)


class OwnProjectedBox(Domain):
    """[0, 2] x [0, 1], known by its projection alone."""

    event_shape, dim = torch.Size([2]), 2

    def project(self, x):
        return torch.minimum(x.clamp(min=0), torch.tensor([2.0, 1.0]).to(x))


class OwnProjectedDisc(Domain):
    """The unit disc around (3, 0), known by its projection alone."""

    event_shape, dim = torch.Size([2]), 2

    def project(self, x):
        centre = torch.tensor([3.0, 0.0]).to(x)
        away = x - centre
        return centre + away / away.norm(dim=-1, keepdim=True).clamp(min=1.0)


class OwnSquare(Hypercube):
    def __init__(self):
        super().__init__(2)


class OwnTriangle(Simplex):
    def __init__(self):
        super().__init__(3)


class OwnDisc(Ball):
    def __init__(self):
        super().__init__(2)


def in_disc(x):
    return (x * x).sum(-1) <= 1


def in_l_shape(x):
    return ((x >= 0) & (x <= 1)).all(-1) & ~(x > 0.5).all(-1)


def random_polytope():
    generator = torch.Generator().manual_seed(0)
    normals = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    return Polytope(normals / normals.norm(dim=-1, keepdim=True), torch.ones(20, dtype=torch.float64))


# ---------------------------------------------------------------------- domains that break one promise each

BROKEN = []


def breaks(*promises, also=(), tier=(), **sizes):
    """Note a class with the promises that must be named, and those that may be as a consequence."""

    def note(cls):
        BROKEN.append(pytest.param(cls, set(promises), set(also), FEW | sizes, id=cls.__name__, marks=tier))
        return cls

    return note


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
        "frame is orthonormal",
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


# --- noising


@breaks("targets are unbiased inside", also=("targets are unbiased along walls",))
class HalfTarget(OwnSquare):
    def diffuse(self, x0, sigma, *, generator=None):
        x, target = super().diffuse(x0, sigma, generator=generator)
        return x, 0.5 * target


@breaks("targets are unbiased inside", also=("targets are unbiased along walls",))
class FlippedTarget(OwnSquare):
    def diffuse(self, x0, sigma, *, generator=None):
        x, target = super().diffuse(x0, sigma, generator=generator)
        return x, -target


@breaks("targets are unbiased inside", also=("targets are unbiased along walls",), tier=[pytest.mark.slow])
class DoubledPathTarget(OwnAnnulus):
    def diffuse(self, x0, sigma, *, generator=None):
        x, target = super().diffuse(x0, sigma, generator=generator)
        return x, 2 * target


@breaks("targets are unbiased along walls", also=("targets are unbiased inside",))
class TargetTooLongAlongWalls(OwnDisc):
    """What a wrong curvature does to targets, and more of it."""

    def diffuse(self, x0, sigma, *, generator=None):
        x, target = super().diffuse(x0, sigma, generator=generator)
        normal = self.boundary(x)[1]
        along = target - (target * normal).sum(-1, keepdim=True) * normal
        return x, target + torch.where(x.norm(dim=-1, keepdim=True) > 0.5, 0.4 * along, 0.0)


@breaks("targets are unbiased inside", also=("targets are unbiased along walls",), paths=8000)
class TargetWithoutWalls(OwnSquare):
    """The score of free noise, -(x - x0) / sigma^2, of a point that was mirrored."""

    def diffuse(self, x0, sigma, *, generator=None):
        x = self.sample_heat_kernel(x0, sigma, generator=generator)
        s = torch.as_tensor(sigma).to(x).expand(x.shape[:-1]).unsqueeze(-1)
        return x, -(x - x0) / s**2


@breaks("diffuse stays inside")
class TargetOffThePlane(OwnTriangle):
    def diffuse(self, x0, sigma, *, generator=None):
        x, target = super().diffuse(x0, sigma, generator=generator)
        return x, target + 1


@breaks("each sample has its own sigma")
class FirstSigmaForAll(OwnSquare):
    def diffuse(self, x0, sigma, *, generator=None):
        first = torch.as_tensor(sigma).flatten()[:1].sum()
        return super().diffuse(x0, float(first) if x0.numel() else sigma, generator=generator)


@breaks(
    "sample_noise is white and tangent",
    also=(
        "diffuse has the law of reflection",
        "kernel's draws have its law",
    ),
)
class LoudNoise(OwnSquare):
    def sample_noise(self, x, *, generator=None):
        return math.sqrt(2) * super().sample_noise(x, generator=generator)


@breaks("sample_noise is white and tangent", tier=[pytest.mark.slow])
class NoiseOffThePlane(OwnTriangle):
    def sample_noise(self, x, *, generator=None):
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)


@breaks("diffuse has the law of reflection")
class DoubledVariance(OwnSquare):
    """Points and targets agree with each other, but not with sigma."""

    def diffuse(self, x0, sigma, *, generator=None):
        return super().diffuse(x0, math.sqrt(2) * sigma, generator=generator)


# --- laws and sizes


@breaks("sample_uniform is uniform", also=("kernel integrates to one",))
class UniformRadius(OwnDisc):
    def sample_uniform(self, shape, **kwargs):
        x = super().sample_uniform(shape, **kwargs)
        return x * x.norm(dim=-1, keepdim=True)


@breaks(
    "sample_uniform draws inside",
    also=(
        "sample_uniform is uniform",
        "spectral_gap",
        "kernel integrates to one",
    ),
)
class UniformInTheBox(OwnDisc):
    def sample_uniform(self, shape, *, generator=None, device=None, dtype=None):
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        return 2 * torch.rand((*shape, 2), generator=generator, device=device, dtype=dtype) - 1


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


# --- kernels


@breaks(
    "kernel score is the gradient",
    also=(
        "targets are unbiased inside",
        "targets are unbiased along walls",
    ),
)
class HalfKernelScore(OwnSquare):
    def heat_kernel_score(self, x, x0, sigma):
        return 0.5 * super().heat_kernel_score(x, x0, sigma)


@breaks("kernel integrates to one")
class UnnormalisedKernel(OwnSquare):
    def heat_kernel_log_prob(self, x, x0, sigma):
        return super().heat_kernel_log_prob(x, x0, sigma) + 0.3


@breaks(
    "kernel's draws have its law",
    also=(
        "diffuse has the law of reflection",
        "targets are unbiased inside",
        "targets are unbiased along walls",
        "kernel integrates to one",
    ),
)
class WideKernelDraws(OwnSquare):
    def sample_heat_kernel(self, x0, sigma, *, generator=None):
        return super().sample_heat_kernel(x0, 1.3 * sigma, generator=generator)


@breaks("kernel: absence is said", tier=[pytest.mark.slow])
class HiddenKernel(OwnAnnulus):
    """It has no kernel, and answers all the same."""

    def heat_kernel_score(self, x, x0, sigma):
        return torch.zeros_like(x)


# --- the interface


@breaks(
    "tangent is a linear projection",
    also=(
        "frame is orthonormal",
        "sample_noise is white and tangent",
    ),
    tier=[pytest.mark.slow],
)
class SolidSimplex(OwnTriangle):
    """All parts counted as free."""

    def __init__(self):
        super().__init__()
        self.dim = 3


@breaks(
    "event_shape and dim",
    "tangent is a linear projection",
    also=(
        "shapes of outputs",  # the rest: frame raises an exception
        "dtypes of outputs",
        "finite at centre, walls, corners",
        "frame is orthonormal",
        "reflect keeps the uniform law",
        "sample_uniform is uniform",
        "log_volume",
        "spectral_gap",
        "sample_noise is white and tangent",
        "targets are unbiased inside",
        "targets are unbiased along walls",
    ),
)
class TooManyDimensions(OwnTriangle):
    def __init__(self):
        super().__init__()
        self.dim = 4


@breaks("seeds repeat")
class GlobalNoise(OwnSquare):
    def sample_noise(self, x, *, generator=None):
        return super().sample_noise(x)


@breaks("seeds repeat")
class NumpyNoise(OwnSquare):
    def sample_heat_kernel(self, x0, sigma, *, generator=None):
        z = torch.from_numpy(np.random.standard_normal(x0.shape)).to(x0)  # noqa: NPY002 - the mistake on trial
        s = torch.as_tensor(sigma).to(x0).expand(x0.shape[:-1]).unsqueeze(-1)
        return self.reflect(x0, s * z)


@breaks(
    "dtypes of outputs",
    also=(
        "shapes of outputs",
        "boundary: sign of the distance",
        "walls: the nearest is boundary's",
        "damp_normal",
        "inradius",
    ),
)
class SingleProjection(OwnSquare):
    def project(self, x):
        return super().project(x.float())


@breaks("dtypes of outputs")
class SingleCurvature(OwnSquare):
    def curvature(self, x):
        return super().curvature(x).float()


@breaks("shapes of outputs", also=("targets are unbiased along walls",))
class NeedsABatch(OwnSquare):
    """A sum over dimension 1 in place of the last one."""

    def project(self, x):
        if x.ndim != 2:
            raise IndexError("Dimension out of range (expected to be in range of [-1, 0], but got 1)")
        return super().project(x)


@breaks(
    "shapes of outputs",
    also=(
        "project finds the nearest point",
        "targets are unbiased along walls",
    ),
)
class FlattensBatches(OwnSquare):
    def contains(self, x, atol=0.0):
        return super().contains(x, atol).reshape(-1)


@breaks("finite at centre, walls, corners", also=("gradients",))
class NaNAtCentre(OwnDisc):
    def boundary(self, x):
        r = x.norm(dim=-1, keepdim=True)
        return 1 - r.squeeze(-1), -x / r


@breaks("finite at centre, walls, corners")
class NaNAtWalls(OwnSquare):
    def features(self, x, sigma):
        return torch.cat([x.log(), super().features(x, sigma)], -1)


@breaks("value: config, equality, hash")
class HiddenArgument(OwnSquare):
    def __init__(self, size=2.0):
        super().__init__()
        self._size = size


@breaks("value: config, equality, hash")
class ChangedArgument(OwnSquare):
    """Its attribute is not what was given: what is rebuilt is another domain."""

    def __init__(self, side=1.0):
        super().__init__()
        self.side = 2 * side


@breaks("features")
class HugeFeatures(OwnSquare):
    def features(self, x, sigma):
        return 1e6 * super().features(x, sigma)


@breaks("inradius")
class Raises(OwnSquare):
    def __init__(self):
        super().__init__()
        del self.inradius

    @cached_property
    def inradius(self):
        raise ZeroDivisionError("a mistake in the user's code")
