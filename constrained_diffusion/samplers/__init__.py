"""Samplers: from the prior back to data. One family a file."""

from .annealed import AnnealedReflected
from .base import Sampler, Samples
from .bridge import ReflectedBridge
from .euler import EulerMaruyama
from .flow import ProbabilityFlow
from .grids import KarrasGrid, even_times
from .heun import Heun
from .langevin import AnnealedLangevin
from .multistep import Multistep
from .predictor_corrector import PredictorCorrector

__all__ = [
    "AnnealedLangevin",
    "AnnealedReflected",
    "EulerMaruyama",
    "Heun",
    "KarrasGrid",
    "Multistep",
    "PredictorCorrector",
    "ProbabilityFlow",
    "ReflectedBridge",
    "Sampler",
    "Samples",
    "even_times",
]
