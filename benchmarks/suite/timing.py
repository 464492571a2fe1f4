"""Processor time of a call: the least of several runs, which other work on the machine moves least."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Clock"]


class Clock:
    """Measures calls.

    Args:
        quick: one call each, to see that all of it runs.
    """

    def __init__(self, quick: bool = False) -> None:
        self.rounds, self.least = (1, 0.0) if quick else (3, 0.15)

    def milliseconds(self, call: Callable[[], object]) -> float:
        """Processor time of a call, as the least mean of some rounds of at least so many seconds."""
        if self.least:
            call()
        best = float("inf")
        for _ in range(self.rounds):
            count, start = 0, time.process_time()
            while not count or time.process_time() - start < self.least:
                call()
                count += 1
            best = min(best, (time.process_time() - start) / count)
        return 1000 * best
