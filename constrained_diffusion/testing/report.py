"""What a conformance run found: checks, a report that prints as a table, and the error that carries it.

May use: nothing but the standard library.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

__all__ = ["BrokenPromises", "Check", "Report"]

_WIDTH = 112  # columns of the table
_FOUNDATIONS = (  # promises that others rest on, the lowest first
    "event_shape and dim",
    "shapes of outputs",
    "contains",
    "project lands inside",
    "contains agrees with project",
    "tangent is a linear projection",
    "gradient in the metric",
    "frame is orthonormal",
    "boundary: sign of the distance",
    "boundary: unit normal",
    "boundary: slope along the normal",
    "boundary: foot on the wall",
    "walls: the nearest is boundary's",
    "reflect stays inside",
    "reflect far from walls is a sum",
)


@dataclass(frozen=True)
class Check:
    """One promise of a domain, and what was seen of it.

    Attributes:
        promise: the promise in a few words, the same for all domains.
        passed: whether it was kept; True also where it was skipped.
        detail: what was seen, with figures; the reason where it was skipped.
        z: largest z-score in size, for statistical checks.
        skipped: whether the promise does not apply to this domain, or could not be tried.
        cure: what to change if it is broken.
    """

    promise: str
    passed: bool
    detail: str
    z: float | None = None
    skipped: bool = False
    cure: str = ""

    @property
    def status(self) -> str:
        """``kept``, ``BROKEN`` or ``skipped``."""
        if self.skipped:
            return "skipped"
        return "kept" if self.passed else "BROKEN"


@dataclass(frozen=True)
class Report:
    """All checks of one domain; ``print(report)`` shows them as a table.

    Attributes:
        domain: the domain's repr.
        checks: one for each promise, in the order in which they were tried.
        seconds: how long it took.
    """

    domain: str
    checks: tuple[Check, ...]
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether no promise is broken."""
        return not self.failures

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks whose promise is broken."""
        return tuple(c for c in self.checks if not c.passed)

    @property
    def root(self) -> Check | None:
        """The broken promise to begin with: the lowest that others rest on, else the first; None if none is broken."""
        broken = {c.promise: c for c in self.failures}
        lowest = (broken[name] for name in (*_FOUNDATIONS, *broken) if name in broken)
        return next(lowest, None)

    @property
    def skipped(self) -> tuple[Check, ...]:
        """The checks that were not made."""
        return tuple(c for c in self.checks if c.skipped)

    def __str__(self) -> str:
        """The table of all promises."""
        return f"{self._headline()}\n{table(self.checks)}"

    def _headline(self) -> str:
        broken, skipped = len(self.failures), len(self.skipped)
        kept = len(self.checks) - broken - skipped
        line = f"{self.domain}: {kept} promises kept, {broken} broken, {skipped} skipped ({self.seconds:.1f} s)"
        if self.root is None or broken == 1:
            return line
        return f"{line}\nBegin with {self.root.promise!r}: others may be broken because of it."


class BrokenPromises(AssertionError):  # noqa: N818 - it lists what is broken
    """A domain breaks promises of its interface; the message is the table of them, ``report`` has the rest.

    Args:
        report: of the run.
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        super().__init__(f"{report._headline()}\n{table(report.failures)}")

    def __reduce__(self) -> tuple[type[BrokenPromises], tuple[Report]]:
        return type(self), (self.report,)


def table(checks: tuple[Check, ...]) -> str:
    """One line a promise: status, promise, z-score, what was seen; below a broken one, its cure."""
    left = max((len(c.promise) for c in checks), default=0)
    lines = []
    for c in checks:
        z = "" if c.z is None else f"z {c.z:5.1f}" if abs(c.z) < 1000 else f"z {c.z:5.0e}"
        head = f"{c.status:7}  {c.promise:{left}}  {z:8}  "
        text = c.detail + (f"\nCure: {c.cure}" if c.cure and not c.passed else "")
        room = max(_WIDTH - len(head), 40)
        rows = [row for part in text.splitlines() for row in textwrap.wrap(part, room)] or [""]
        lines += [(head + rows[0]).rstrip(), *(" " * len(head) + row for row in rows[1:])]
    return "\n".join(lines)
