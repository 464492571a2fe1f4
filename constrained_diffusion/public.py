"""Every public name, in one place. May use: everything."""

from .classical import TextbookSDE
from .domains import (
    Ball,
    Domain,
    DomainError,
    Euclidean,
    Hypercube,
    MetropolisDomain,
    Polytope,
    Product,
    Region,
    ShapeError,
    Simplex,
    SolverError,
)
from .flows import DiffusionFlow, RectifiedFlow
from .guidance import ClassifierFreeGuidance, ClassifierGuidance, Inpainting, LinearInverse
from .latent import decode, encode, interpolate
from .likelihood import bits_per_dim, dequantise, elbo, log_prob
from .losses import (
    DenoisingScoreMatching,
    ImplicitScoreMatching,
    ProgressiveDistillation,
    Reflow,
    SlicedScoreMatching,
)
from .model import ReflectedDiffusion
from .networks import MLP
from .parametrisations import from_denoiser, from_noise, from_velocity, predict
from .process import Process
from .samplers import (
    AnnealedLangevin,
    AnnealedReflected,
    EulerMaruyama,
    Heun,
    KarrasGrid,
    Multistep,
    PredictorCorrector,
    ProbabilityFlow,
    ReflectedBridge,
    Sampler,
    Samples,
)
from .schedules import (
    CosineSchedule,
    CustomSchedule,
    DiscreteSchedule,
    EDMSchedule,
    GeometricSchedule,
    LinearSchedule,
    Schedule,
    SubVariancePreservingSchedule,
    VariancePreservingSchedule,
)
from .scores import ScoreModel
from .sde import ReflectedSDE, mixing_sigma
from .simulation import Paths, sample_sde

__all__ = [
    "MLP",
    "AnnealedLangevin",
    "AnnealedReflected",
    "Ball",
    "ClassifierFreeGuidance",
    "ClassifierGuidance",
    "CosineSchedule",
    "CustomSchedule",
    "DenoisingScoreMatching",
    "DiffusionFlow",
    "DiscreteSchedule",
    "Domain",
    "DomainError",
    "EDMSchedule",
    "Euclidean",
    "EulerMaruyama",
    "GeometricSchedule",
    "Heun",
    "Hypercube",
    "ImplicitScoreMatching",
    "Inpainting",
    "KarrasGrid",
    "LinearInverse",
    "LinearSchedule",
    "MetropolisDomain",
    "Multistep",
    "Paths",
    "Polytope",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Process",
    "Product",
    "ProgressiveDistillation",
    "RectifiedFlow",
    "ReflectedBridge",
    "ReflectedDiffusion",
    "ReflectedSDE",
    "Reflow",
    "Region",
    "Sampler",
    "Samples",
    "Schedule",
    "ScoreModel",
    "ShapeError",
    "Simplex",
    "SlicedScoreMatching",
    "SolverError",
    "SubVariancePreservingSchedule",
    "TextbookSDE",
    "VariancePreservingSchedule",
    "bits_per_dim",
    "decode",
    "dequantise",
    "elbo",
    "encode",
    "from_denoiser",
    "from_noise",
    "from_velocity",
    "interpolate",
    "log_prob",
    "mixing_sigma",
    "predict",
    "sample_sde",
]
