"""The command ``constrained-diffusion``: fit a model to a table, sample from it, and see how good it is.

One command a module, each with ``run(options, out) -> exit code``, imported when it is asked for: help, and most
complaints about files, need no torch. May use: everything below.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from .output import Output, one_line
from .parser import build_parser, joined

__all__ = ["main"]

FINE, FAILED, USAGE, INTERRUPTED, PIPE_BROKEN = 0, 1, 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the words after the command; by default those of the process.

    Returns:
        The exit code: 0 if all went well, 1 for an error of the input, 2 for one of usage, 130 after an interrupt,
        141 if nobody reads the output any more.
    """
    try:
        return _flushed(_parsed_and_run(sys.argv[1:] if argv is None else argv))
    except BrokenPipeError:
        _abandon_stdout()
        return PIPE_BROKEN


def _parsed_and_run(argv: Sequence[str]) -> int:
    try:
        options = build_parser().parse_args(joined(argv))
    except SystemExit as end:  # argparse has said all there is to say
        return USAGE if end.code else FINE
    out = Output(json=options.json, quiet=options.quiet)
    with out.warnings():
        return _run(options, out)


def _run(options: Namespace, out: Output) -> int:
    """A command's exit code; what goes wrong becomes one line."""
    try:
        _spare_inputs(options)
        command = importlib.import_module(f".{options.module}", __name__)
        code: int = command.run(options, out)
        return code
    except KeyboardInterrupt:
        out.complain("interrupted", quiet=options.quiet)
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        if options.traceback:
            traceback.print_exc()
        out.complain(f"error: {one_line(error)}")
        return FAILED


def _spare_inputs(options: Namespace) -> None:
    """Refuse to write over what is read."""
    out = Path(getattr(options, "out", None) or "")
    for name in ("data", "condition_file"):
        path = getattr(options, name, None)
        if path is not None and out.is_file() and Path(path).is_file() and out.samefile(path):
            raise ValueError(f"--out {options.out} is the file that is read: give another")


def _flushed(code: int) -> int:
    """Write out what is buffered: a full disk is only seen now."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _abandon_stdout()
        sys.stderr.write(f"constrained-diffusion: error: {one_line(error)}: standard output\n")
        return FAILED
    return code


def _abandon_stdout() -> None:
    """Let what is left in the buffer go nowhere, or Python would try again at its end, and complain."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # it is no file but somebody's buffer
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 (it stays open to the end)
