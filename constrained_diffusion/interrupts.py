"""Ctrl-C and SIGTERM as questions that a loop asks between its steps."""

from __future__ import annotations

import signal
import threading
from typing import Any

__all__ = ["Stop"]


class Stop:
    """Turns the first Ctrl-C or SIGTERM into a question that the loop asks between steps; the second acts at once."""

    def __enter__(self) -> Stop:
        self.asked: int | None = None
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, _frame: object) -> None:
        self.asked = number
        self._restore()

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def leave(self) -> None:
        """Do what the signal would have done."""
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        if self.asked is not None:
            raise SystemExit(128 + self.asked)
