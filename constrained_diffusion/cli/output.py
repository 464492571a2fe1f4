"""What a command says: results on stdout, as text or as one JSON object; all else on stderr. May use: numpy."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["Output", "columns", "one_line", "span"]

NAME = "constrained-diffusion"


class Output:
    """Where results, messages and progress go.

    Args:
        json: results are one JSON object.
        quiet: no messages, no progress.
    """

    def __init__(self, *, json: bool, quiet: bool) -> None:
        self.json, self.quiet = json, quiet

    @property
    def progress(self) -> bool:
        """Whether to show progress bars, which go to stderr."""
        return not self.quiet

    def say(self, text: str) -> None:
        """Tell what is going on."""
        if not self.quiet:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    def complain(self, text: str, *, quiet: bool = False) -> None:
        """One line about what went wrong."""
        if not quiet:
            sys.stderr.write(f"{NAME}: {text}\n")

    def result(self, figures: Mapping[str, Any], text: str, *, summary: bool = False) -> None:
        """What the command was run for: figures by name, and how people read them.

        A ``summary`` tells of what went into files: with ``quiet`` that is not said.
        """
        if self.json:
            text = json.dumps(_plain(figures), allow_nan=False)
        elif summary and self.quiet:
            return
        if text:
            sys.stdout.write(f"{text}\n")

    @contextmanager
    def warnings(self) -> Iterator[None]:
        """Show warnings of the library as one line each, and not the place in its code."""
        with warnings.catch_warnings():

            def show(message: Warning | str, *_: Any, **__: Any) -> None:
                self.complain(f"warning: {' '.join(str(message).split())}", quiet=self.quiet)

            warnings.showwarning = show
            yield


def one_line(error: BaseException) -> str:
    """An error in one line, without what only programmers read."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join(str(error).split())
    if isinstance(error, (ValueError, ImportError, OSError)) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words as lines, the first column aligned to the left and all others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(v.rjust(w) for v, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    )


def span(low: float, high: float) -> str:
    """An interval as people write it."""
    return f"{low:.6g} .. {high:.6g}"


def _plain(value: Any) -> Any:
    """Values that JSON has words for; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):  # of numpy and torch
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)
