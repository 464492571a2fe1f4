"""Losses that teach a score. May use: torch, the SDE.

One idea a file: what all share (weights and times), the noise levels with most to learn, denoising (and flow
matching), the implicit losses, which need no target, and those that learn from a trained model.
"""

from .base import Noised, ScoreMatching, Weighting
from .denoising import DenoisingScoreMatching
from .implicit import ImplicitScoreMatching, SlicedScoreMatching
from .teachers import ProgressiveDistillation, Reflow

__all__ = [
    "LOSSES",
    "DenoisingScoreMatching",
    "ImplicitScoreMatching",
    "Noised",
    "ProgressiveDistillation",
    "Reflow",
    "ScoreMatching",
    "SlicedScoreMatching",
    "Weighting",
]

LOSSES: dict[str, type[ScoreMatching]] = {
    "denoising": DenoisingScoreMatching,
    "implicit": ImplicitScoreMatching,
    "sliced": SlicedScoreMatching,
}
"""The losses by the names that a saved model knows them by."""
