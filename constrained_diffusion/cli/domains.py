"""``domains``: which there are, how they are spelled and what they need. May use: domains."""

from __future__ import annotations

from argparse import Namespace
from textwrap import fill

from ..domains.specs import words
from .choosing import import_modules
from .output import Output

_OTHERS = {
    "FILE.json": "what a domain's config() returns",
    "MODULE:NAME": "a domain in a Python module of yours, in the current folder or installed; then also give the "
    "other commands --import MODULE",
}


def run(options: Namespace, out: Output) -> int:
    """Run the command."""
    import_modules(options.imports)
    known = words()
    needs = {word: known[word].specs[word] for word in sorted(known)} | _OTHERS
    listed = [
        {"spec": word, "class": known[word].__name__ if word in known else None, "needs": what}
        for word, what in needs.items()
    ]
    width = max(map(len, needs)) + 2
    lines = [fill(f"{word:{width}}{what}", 100, subsequent_indent=" " * width) for word, what in needs.items()]
    out.result({"command": "domains", "domains": listed}, "\n".join(lines))
    return 0
