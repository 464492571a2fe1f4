"""From a domain's SPEC to a domain. May use: domains."""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..domains import Domain
from ..domains.specs import Extent, build, words

__all__ = ["choose", "import_modules"]


def choose(spec: str, extent: Extent, *, low: str | None = None, high: str | None = None) -> Domain:
    """The domain that a SPEC describes.

    Args:
        spec: a word such as ``box`` and what it needs, ``FILE.json``, or ``MODULE:NAME``.
        extent: of the data, which say what the spec does not.
        low: lower bounds, given apart from the spec.
        high: upper bounds, likewise.

    Raises:
        ValueError, OSError: the spec cannot be read, or the data do not fit it.
    """
    word, colon, rest = spec.partition(":")
    if low is not None or high is not None:
        if colon or spec.endswith(".json"):
            raise ValueError(f"{spec}: --low and --high go with a word alone, such as box")
        spec = f"{word}:{low or ''};{high or ''}"
    if word in words():
        domain = build(spec, extent)
    elif spec.endswith(".json"):
        domain = _from_file(Path(spec))
    elif colon and rest.isidentifier():
        domain = _from_module(word, rest)
    else:
        near = difflib.get_close_matches(word, words(), 1)
        cure = (
            f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(words()))}, FILE.json, MODULE:NAME"
        )
        raise ValueError(f"there is no domain {spec!r}: {cure}")
    if domain.event_shape.numel() != len(extent.names):
        size = domain.event_shape.numel()
        raise ValueError(f"{domain!r} has {size} coordinates, the table {len(extent.names)} columns: use --columns")
    _check_kept(spec, domain)
    return domain


def import_modules(names: Sequence[str]) -> None:
    """Import modules by name, those in the current folder among them: their domains are known then."""
    if names and "" not in sys.path:
        sys.path.insert(0, "")
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # a user's own module may raise anything
            raise ImportError(f"the module {name!r} cannot be imported: {type(error).__name__}: {error}") from error


def _from_file(path: Path) -> Domain:
    try:
        values = json.loads(path.read_text())
        return Domain.from_config(values)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the configuration of a domain: {' '.join(str(error).split())}") from None


def _from_module(module: str, name: str) -> Domain:
    import_modules([module])
    found: Any = getattr(sys.modules[module], name, None)
    if found is None:
        raise ValueError(f"{module}:{name}: the module has no {name!r}")
    if isinstance(found, type) and issubclass(found, Domain):
        raise ValueError(
            f"{module}:{name} is a class: make one there, such as mine = {name}(...), and give {module}:mine"
        )
    if not isinstance(found, Domain):
        raise ValueError(f"{module}:{name} must be a domain, such as {name} = Hypercube(2), not {found!r}")
    return found


def _check_kept(spec: str, domain: Domain) -> None:
    """Refuse before training what could not be saved after it."""
    try:
        same = Domain.from_config(json.loads(json.dumps(domain.config()))) == domain
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{spec}: the domain cannot be saved: {error}") from None
    if not same:
        raise ValueError(f"{spec}: the domain cannot be saved: its config() does not bring it back")
