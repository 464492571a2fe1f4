"""Domains that break one promise each about random laws, targets, kernels or the interface."""

import math
from functools import cached_property

import numpy as np
import pytest
import torch

from tests.own_domains import OwnAnnulus, OwnDisc, OwnSquare, OwnTriangle, catalogue

BROKEN, breaks = catalogue()

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


# --- the uniform law


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
        "bridge has the law of the path",
    ),
)
class WideKernelDraws(OwnSquare):
    def sample_heat_kernel(self, x0, sigma, *, generator=None):
        return super().sample_heat_kernel(x0, 1.3 * sigma, generator=generator)


@breaks("bridge has the law of the path")
class ForgetsWhereItEnds(OwnSquare):
    def sample_bridge(self, x0, x, below, sigma, *, generator=None):
        return self.sample_heat_kernel(x0, 0.5 * below, generator=generator)


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
        "expmap goes straight",
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


@breaks("features")
class FeaturesWithoutGradient(OwnSquare):
    """A length that is zero: its root has no derivative there, and `where` does not remove it."""

    def features(self, x, sigma):
        beyond = (self.project(x) - x).square().sum(-1, keepdim=True).sqrt()
        return torch.cat([torch.where(beyond > 0, beyond, 0.0), super().features(x, sigma)], -1)


@breaks("inradius")
class Raises(OwnSquare):
    def __init__(self):
        super().__init__()
        del self.inradius

    @cached_property
    def inradius(self):
        raise ZeroDivisionError("a mistake in the user's code")
