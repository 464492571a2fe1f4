"""Samplers: from the prior back to data. One family a file."""

from .base import Sampler, Samples
from .euler import EulerMaruyama
from .predictor_corrector import PredictorCorrector

__all__ = ["EulerMaruyama", "PredictorCorrector", "Sampler", "Samples"]
