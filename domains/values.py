"""Domains as values: a JSON-able configuration, and back.

May use: the class registry that :class:`~constrained_diffusion.domains.base.Domain` keeps.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from .base import Domain

_EXTRA = "*"  # key under which positional arguments of any number are kept


def configuration(domain: Domain) -> dict[str, Any]:
    """The class name and the constructor's arguments, read from attributes of the same names."""
    values: dict[str, Any] = {"domain": type(domain).__name__}
    for name, parameter in inspect.signature(type(domain)).parameters.items():
        key = _EXTRA if parameter.kind is parameter.VAR_POSITIONAL else name
        values[key] = _plain(getattr(domain, name))
    return values


def build(config: dict[str, Any], registry: dict[str, type[Domain]]) -> Domain:
    """The domain that a configuration describes; domains inside it are built first."""
    values = {key: _built(value, registry) for key, value in config.items() if key != "domain"}
    name = config.get("domain")
    if name not in registry:
        known = ", ".join(sorted(registry))
        raise ValueError(f"no domain class named {name!r} is imported; known: {known}")
    return registry[name](*values.pop(_EXTRA, ()), **values)


def describe(domain: Domain) -> str:
    """``Name(argument=value, ...)``, each value cut to forty characters; the default ones of None are left out."""
    values = domain.config()
    name = values.pop("domain")
    parts = [repr(d) for d in getattr(domain, "factors", ())] if values.pop(_EXTRA, None) else []
    parts += [f"{k}={_short(v)}" for k, v in values.items() if v is not None]
    return f"{name}({', '.join(parts)})"


def moved(value: Any, **where: Any) -> Any:
    """A tensor, a domain or a tuple of them on another device or in another dtype; all else as it is."""
    from .base import Domain

    if isinstance(value, Tensor):
        return value.to(**where)
    if isinstance(value, Domain):
        return value.to(**where)
    if isinstance(value, tuple):
        return tuple(moved(v, **where) for v in value)
    return value


def _plain(value: Any) -> Any:
    from .base import Domain

    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Domain):
        return value.config()
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value


def _built(value: Any, registry: dict[str, type[Domain]]) -> Any:
    if isinstance(value, dict) and "domain" in value:
        return build(value, registry)
    return [_built(v, registry) for v in value] if isinstance(value, list) else value


def _short(value: Any) -> str:
    text = repr(tuple(value) if isinstance(value, list) else value)
    return text if len(text) <= 40 else text[:36] + "...)"
