"""What a caller gives for a domain. May use: the interface of a domain."""

from __future__ import annotations

from .base import Domain

__all__ = ["require_domain"]


def require_domain(value: object, name: str = "domain") -> Domain:
    """Refuse what is no domain, or one whose class has not said all that a domain must say."""
    if isinstance(value, type) and issubclass(value, Domain):
        raise TypeError(f"{name} must be a Domain such as Hypercube(2), not a class: make one, {value.__name__}(...)")
    if not isinstance(value, Domain):
        raise TypeError(f"{name} must be a Domain such as Hypercube(2), not {type(value).__name__}")
    for attribute, what in (("event_shape", "the shape of one point"), ("dim", "its intrinsic dimension")):
        if not hasattr(value, attribute):
            raise TypeError(f"{name}: {type(value).__name__} has no {attribute}, {what}: set it in __init__")
    return value
