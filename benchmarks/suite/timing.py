"""Processor time of a call: the least of several runs, which other work on the machine moves least."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["milliseconds"]


def milliseconds(call: Callable[[], object], least: float = 0.15, rounds: int = 3) -> float:
    """Milliseconds of processor time of a call, as the least mean of some rounds of at least so many seconds."""
    call()
    best = float("inf")
    for _ in range(rounds):
        count, start = 0, time.process_time()
        while (spent := time.process_time() - start) < least:
            call()
            count += 1
        best = min(best, spent / count)
    return 1000 * best
