"""The words for samplers. May use: the samplers, imported where used."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

__all__ = ["SAMPLERS", "sampling"]


class _Named(NamedTuple):
    """A class of samplers, and the steps it takes unless told otherwise; None leaves them to the estimator."""

    name: str
    steps: int | None = None


SAMPLERS = {
    "euler": _Named("EulerMaruyama"),
    "pc": _Named("PredictorCorrector"),
    "ode": _Named("ProbabilityFlow", 1),  # it chooses its own steps, and stops between them
    "heun": _Named("Heun", 50),
    "multistep": _Named("Multistep", 50),
    "annealed": _Named("AnnealedReflected"),
    "langevin": _Named("AnnealedLangevin"),
    "bridge": _Named("ReflectedBridge"),
}


def sampling(word: str | None, steps: int | None) -> dict[str, Any]:
    """The arguments ``sampler`` and ``steps`` of the estimator's ``sample``."""
    if word is None:
        return {"steps": steps}
    named = SAMPLERS[word]
    made = getattr(importlib.import_module("constrained_diffusion.samplers"), named.name)
    return {"sampler": made, "steps": named.steps if steps is None else steps}
