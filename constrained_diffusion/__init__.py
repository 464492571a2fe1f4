"""Diffusion models whose samples never leave their domain.

A domain is geometry; a reflected SDE noises data inside it; a score network learns to reverse that; samplers
work over any domain. Start with :class:`ReflectedDiffusion`.
"""

from .domains import (
    Ball,
    Domain,
    DomainError,
    Euclidean,
    Hypercube,
    MetropolisDomain,
    Polytope,
    Product,
    ShapeError,
    Simplex,
    SolverError,
)
from .losses import DenoisingScoreMatching, ImplicitScoreMatching, SlicedScoreMatching
from .model import ReflectedDiffusion
from .networks import MLP
from .samplers import EulerMaruyama, PredictorCorrector, Sampler, Samples
from .schedules import CustomSchedule, GeometricSchedule, Schedule
from .scores import ScoreModel
from .sde import ReflectedSDE, mixing_sigma
from .simulation import Paths, sample_sde

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "Ball",
    "CustomSchedule",
    "DenoisingScoreMatching",
    "Domain",
    "DomainError",
    "Euclidean",
    "EulerMaruyama",
    "GeometricSchedule",
    "Hypercube",
    "ImplicitScoreMatching",
    "MetropolisDomain",
    "Paths",
    "Polytope",
    "PredictorCorrector",
    "Product",
    "ReflectedDiffusion",
    "ReflectedSDE",
    "Sampler",
    "Samples",
    "Schedule",
    "ScoreModel",
    "ShapeError",
    "Simplex",
    "SlicedScoreMatching",
    "SolverError",
    "__version__",
    "mixing_sigma",
    "sample_sde",
]
