"""Functions that are saved by their name.

May use: nothing. Loading one never imports a module or runs anything.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["function_named", "name_of"]


def name_of(function: Callable[..., Any], argument: str = "inside") -> str:
    """``"module:name"`` of a function defined at the top level of a module; ``argument`` is for messages."""
    name = f"{getattr(function, '__module__', None)}:{getattr(function, '__qualname__', None)}"
    try:
        same = function_named(name, argument) is function
    except ValueError:
        same = False
    if not same:
        raise ValueError(
            f"{argument}={function!r} cannot be saved: only a function defined with def at the top level of a module "
            "can be found again by its name (a lambda, a closure or a method cannot)"
        )
    return name


def function_named(name: str, argument: str = "inside") -> Callable[..., Any]:
    """The function of that name, in a module that was imported."""
    module, _, attribute = name.partition(":")
    if module not in sys.modules:
        raise ValueError(f"{argument}={name!r}: import the module {module!r} before loading this domain")
    found: Callable[..., Any] | None = getattr(sys.modules[module], attribute, None)
    if not inspect.isfunction(found) or found.__module__ != module:
        raise ValueError(f"{argument}={name!r}: the module {module!r} defines no function {attribute!r}")
    return found
