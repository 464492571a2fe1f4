"""The words of the command line and what they mean. May use: argparse, so that help comes at once."""

from __future__ import annotations

import csv
import math
import re
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from .. import __version__
from .samplers import SAMPLERS

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    Commands = _SubParsersAction[ArgumentParser]

Number = TypeVar("Number", int, float)

__all__ = ["DEFAULTS", "build_parser", "joined"]

# Of the estimator, repeated here because importing it takes seconds; a test compares them.
DEFAULTS = {"steps": 5000, "width": 256, "depth": 3, "batch_size": 512, "learning_rate": 2e-3, "dropout": 0.0}

_SPECS = """\
A domain SPEC is one of
  box               bounds from all rows of the data, rounded outwards
  box:LOW,HIGH      the same bounds for each column; --low and --high give one for each
  cube              numbers between 0 and 1
  simplex           parts of a whole; --total 100 where rows sum to 100
  ball, ball:R      vectors around zero, of bounded length
  sphere, torus     unit vectors; angles in radians
  euclidean         no walls
  polytope:F.npz    A x <= b, arrays A and b
  FILE.json         what a domain's config() returns
  MODULE:NAME       a domain in a Python module of yours
`constrained-diffusion domains` lists all, and what each needs."""

_NEGATIVE = re.compile(r"-[\d.]")


def joined(argv: Sequence[str]) -> list[str]:
    """The words with ``--low -1,0`` as ``--low=-1,0``: argparse would take the list for an option."""
    words: list[str] = []
    for word in argv:
        if words and _NEGATIVE.match(word) and words[-1].startswith("--") and "=" not in words[-1]:
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def build_parser() -> ArgumentParser:
    """The parser of all commands."""
    parser = ArgumentParser(
        prog="constrained-diffusion",
        description="Diffusion models of tables whose samples never leave their domain.",
        epilog="Tables are .csv, .tsv, .parquet, .npy or .npz files, read in pieces: they may be larger than memory.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_fit, _add_sample, _add_evaluate, _add_log_prob, _add_plot, _add_domains):
        add(commands)
    return parser


def _add_fit(commands: Commands) -> None:
    p = _command(commands, "fit", "train a model on a table", _SPECS)
    p.add_argument("data", metavar="DATA", help="the table")
    p.add_argument("--domain", required=True, metavar="SPEC", help="where the rows live; see below")
    p.add_argument("--out", required=True, metavar="RUN", help="the folder that the model is saved in")
    p.add_argument("--columns", type=_names, metavar="A,B,..", help="columns to learn (default: all the others)")
    p.add_argument("--condition", type=_names, default=[], metavar="C,..", help="columns that samples can depend on")
    p.add_argument("--low", metavar="A,B,..", help="lower bounds of a box, one or one for each column")
    p.add_argument("--high", metavar="A,B,..", help="upper bounds of a box")
    p.add_argument("--total", type=_positive, metavar="T", help="what rows sum to: each is divided by its sum")
    p.add_argument("--rows", type=_count, default=1_000_000, help="train on at most so many, at random (%(default)s)")
    p.add_argument("--overwrite", action="store_true", help="replace a saved run")
    _default(p, "--steps", _count, "gradient steps")
    _default(p, "--batch-size", _count, "rows in each step")
    _default(p, "--learning-rate", _positive, "of Adam")
    _default(p, "--width", _count, "hidden units of the network")
    _default(p, "--depth", _count, "its residual blocks")
    _default(p, "--dropout", _share, "0.1 to 0.3 where there are a thousand rows or fewer")
    p.add_argument("--weighting", choices=["adaptive", "fidelity", "likelihood"], help="of noise levels (adaptive)")
    p.add_argument("--early-stopping", action="store_true", help="hold rows back, and stop when they say so")
    p.add_argument("--seed", type=_seed, default=0, help="of everything random (%(default)s)")
    _place(p)


def _add_sample(commands: Commands) -> None:
    p = _command(commands, "sample", "draw new rows from a model")
    _run(p)
    p.add_argument("-n", type=_count, help="how many (default: 1000, or as many as --condition-file has)")
    p.add_argument("--out", required=True, metavar="FILE", help="the table to write; its suffix names the format")
    which = p.add_mutually_exclusive_group()
    which.add_argument("--condition-values", type=_values, metavar="C=1,..", help="one condition for all samples")
    which.add_argument("--condition-file", metavar="FILE", help="a table with a condition for each sample")
    p.add_argument("--guidance", type=_finite, default=0.0, metavar="W", help="weight of classifier-free guidance")
    _sampling(p)
    _place(p)


def _add_evaluate(commands: Commands) -> None:
    p = _command(commands, "evaluate", "compare samples with data: best with rows that were not trained on")
    _run(p)
    p.add_argument("data", metavar="DATA", help="the table to compare with")
    p.add_argument("-n", "--n", type=_several, default=2000, help="rows and samples compared, at most (%(default)s)")
    p.add_argument("--log-prob", action="store_true", help="the mean log-density of the rows as well; slow")
    _sampling(p)
    _place(p)


def _add_log_prob(commands: Commands) -> None:
    p = _command(
        commands, "log-prob", "the log-density of each row, in nats, against the volume in the data's own units"
    )
    _run(p)
    p.add_argument("data", metavar="DATA", help="the table")
    p.add_argument("--out", metavar="FILE", help="a table to write (default: one number a line on stdout)")
    p.add_argument("--seed", type=_seed, default=0, help="of the estimate in more than 8 dimensions (%(default)s)")
    _place(p)


def _add_plot(commands: Commands) -> None:
    p = _command(commands, "plot", "draw samples beside data, or the loss curve")
    _run(p)
    p.add_argument("data", metavar="DATA", nargs="?", help="the table to compare with")
    p.add_argument("--out", required=True, metavar="FILE", help="the picture: .png, .pdf or .svg")
    p.add_argument("--loss", action="store_true", help="draw the loss curve; no data are needed")
    p.add_argument("-n", "--n", type=_count, default=3000, help="rows and samples drawn, at most (%(default)s)")
    _sampling(p)
    _place(p)


def _add_domains(commands: Commands) -> None:
    _import(_command(commands, "domains", "list the domains, how they are spelled and what they need"))


def _command(commands: Commands, name: str, what: str, more: str = "") -> ArgumentParser:
    p = commands.add_parser(
        name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=more, formatter_class=_Help
    )
    p.set_defaults(module=name.replace("-", "_"))
    p.add_argument("--json", action="store_true", help="one JSON object with all figures on stdout")
    p.add_argument("--quiet", action="store_true", help="no messages, no progress, no summary of files written")
    p.add_argument("--traceback", action="store_true", help="show where an error arose")
    return p


class _Help(RawDescriptionHelpFormatter):
    """Keeps the lines of the list of domains."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)


def _run(p: ArgumentParser) -> None:
    p.add_argument("run", metavar="RUN", help="the folder of a fitted model")


def _place(p: ArgumentParser) -> None:
    p.add_argument("--device", metavar="NAME", help="such as cuda (default: the CPU)")
    _import(p)


def _import(p: ArgumentParser) -> None:
    p.add_argument(
        "--import", dest="imports", action="append", default=[], metavar="MODULE", help="a module that defines a domain"
    )


def _sampling(p: ArgumentParser) -> None:
    p.add_argument("--steps", type=_count, help="steps of the sampler (default: the sampler's own)")
    p.add_argument("--sampler", choices=list(SAMPLERS), help="how to walk from noise to data (default: euler)")
    p.add_argument("--seed", type=_seed, default=0, help="the same gives the same samples (%(default)s)")


def _default(p: ArgumentParser, flag: str, kind: Callable[[str], float], what: str) -> None:
    p.add_argument(flag, type=kind, default=DEFAULTS[flag[2:].replace("-", "_")], help=f"{what} (%(default)s)")


def _count(text: str) -> int:
    return _checked(text, int, lambda v: v >= 1, "a whole number of at least 1")


def _several(text: str) -> int:
    return _checked(text, int, lambda v: v >= 2, "a whole number of at least 2")


def _seed(text: str) -> int:
    return _checked(text, int, lambda v: 0 <= v < 2**63, "a whole number, not negative")


def _positive(text: str) -> float:
    return _checked(text, float, lambda v: 0 < v < math.inf, "a positive number")


def _share(text: str) -> float:
    return _checked(text, float, lambda v: 0 <= v < 1, "a number in [0, 1)")


def _finite(text: str) -> float:
    return _checked(text, float, math.isfinite, "a number")


def _names(text: str) -> list[str]:
    names = [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]
    if not names or not all(names):
        raise ArgumentTypeError(f"{text!r} must be names parted by commas, those with commas in double quotes")
    return names


def _values(text: str) -> dict[str, float]:
    pairs = [pair.rpartition("=") for pair in text.split(",")]
    if not all(name.strip() and equals for name, equals, _ in pairs):
        raise ArgumentTypeError(f"{text!r} must be pairs such as a=1,b=2")
    return {name.strip(): _finite(value) for name, _, value in pairs}


def _checked(text: str, kind: Callable[[str], Number], good: Callable[[Number], bool], what: str) -> Number:
    try:
        value = kind(text)
        fits = good(value)
    except ValueError:
        fits = False
    if not fits:
        raise ArgumentTypeError(f"must be {what}, not {text!r}")
    return value
