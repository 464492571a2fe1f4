"""Things as values: what a class and its constructor's arguments describe, kept as JSON and built again.

May use: torch.
"""

from __future__ import annotations

import copy
import inspect
import json
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

__all__ = ["Value"]

_EXTRA = "*"  # key under which positional arguments of any number are kept


class Value:
    """Equal to another if class and constructor's arguments are, which attributes of the same names tell.

    A class that derives from this one directly is a kind; each class below it is registered in that kind by its name.
    """

    _kind: ClassVar[str]
    _registry: ClassVar[dict[str, type[Value]]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Register the class by name, so that a saved configuration finds it again."""
        super().__init_subclass__(**kwargs)
        if Value in cls.__bases__:
            cls._kind, cls._registry = cls.__name__.lower(), {}
            return
        taken = cls._registry.get(cls.__name__)
        if taken is not None and taken.__module__.startswith(f"{__package__}.") and taken.__module__ != cls.__module__:
            raise TypeError(f"a {cls._kind} named {cls.__name__} ships with the library; choose another name")
        cls._registry[cls.__name__] = cls

    def config(self) -> dict[str, Any]:
        """What rebuilds this one, as JSON-able values: the class name and the constructor's arguments."""
        values: dict[str, Any] = {self._kind: type(self).__name__}
        for name, parameter in inspect.signature(type(self)).parameters.items():
            key = _EXTRA if parameter.kind is parameter.VAR_POSITIONAL else name
            values[key] = _plain(getattr(self, name))
        return values

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Rebuild one from :meth:`config`; its class must have been imported.

        Raises:
            ValueError: no class of that name is imported, or it is not one of this class.
        """
        built = _build(config, cls._kind, cls._registry)
        if not isinstance(built, cls):
            raise ValueError(f"{built!r} is no {cls.__name__}")
        return built

    @classmethod
    def registered(cls) -> tuple[type[Self], ...]:
        """This class, if objects of it can be made, and all imported classes below it."""
        return tuple(c for c in cls._registry.values() if issubclass(c, cls) and not inspect.isabstract(c))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """A copy whose tensors lie on ``device`` in ``dtype``."""
        other = copy.copy(self)
        for name, value in vars(self).items():
            setattr(other, name, moved(value, device=device, dtype=dtype))
        return other

    def __eq__(self, other: object) -> bool:
        """Equal class and configuration."""
        return isinstance(other, Value) and type(self) is type(other) and self.config() == other.config()

    def __hash__(self) -> int:
        """Hash of the configuration."""
        return hash(json.dumps(self.config(), sort_keys=True))

    def __repr__(self) -> str:
        """``Name(argument=value, ...)``, values cut to forty characters."""
        values = self.config()
        name = values.pop(self._kind)
        parts = [repr(v) for v in _several(self)] if values.pop(_EXTRA, None) else []
        parts += [f"{k}={_short(v)}" for k, v in values.items()]
        return f"{name}({', '.join(parts)})"


def moved(value: Any, **where: Any) -> Any:
    """A tensor, a value or a tuple of them on another device or in another dtype; all else as it is."""
    if isinstance(value, (Tensor, Value)):
        return value.to(**where)
    if isinstance(value, tuple):
        return tuple(moved(v, **where) for v in value)
    return value


def _build(config: dict[str, Any], kind: str, registry: dict[str, type[Value]]) -> Value:
    """The value that a configuration describes; those inside it are built first."""
    values = {key: _built(value, kind, registry) for key, value in config.items() if key != kind}
    name = config.get(kind)
    if name not in registry:
        known = ", ".join(sorted(registry))
        raise ValueError(f"no {kind} class named {name!r} is imported; known: {known}")
    return registry[name](*values.pop(_EXTRA, ()), **values)


def _built(value: Any, kind: str, registry: dict[str, type[Value]]) -> Any:
    if isinstance(value, dict) and kind in value:
        return _build(value, kind, registry)
    return [_built(v, kind, registry) for v in value] if isinstance(value, list) else value


def _several(value: Value) -> tuple[Any, ...]:
    """The positional arguments of any number, if the constructor takes such."""
    parameters = inspect.signature(type(value)).parameters.values()
    return next((tuple(getattr(value, p.name)) for p in parameters if p.kind is p.VAR_POSITIONAL), ())


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Value):
        return value.config()
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value


def _short(value: Any) -> str:
    text = repr(tuple(value) if isinstance(value, list) else value)
    return text if len(text) <= 40 else text[:36] + "...)"
