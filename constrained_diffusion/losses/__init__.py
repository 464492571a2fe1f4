"""Losses that teach a score. May use: torch, the SDE.

One idea a file: what all share (weights and times), denoising, and the implicit losses, which need no target.
"""

from .base import Noised, ScoreMatching
from .denoising import DenoisingScoreMatching
from .divergence import value_and_trace
from .implicit import ImplicitScoreMatching, SlicedScoreMatching

__all__ = [
    "LOSSES",
    "DenoisingScoreMatching",
    "ImplicitScoreMatching",
    "Noised",
    "ScoreMatching",
    "SlicedScoreMatching",
    "value_and_trace",
]

LOSSES: dict[str, type[ScoreMatching]] = {
    "denoising": DenoisingScoreMatching,
    "implicit": ImplicitScoreMatching,
    "sliced": SlicedScoreMatching,
}
"""The losses by the names that a saved model knows them by."""
