"""Constructor arguments as scikit-learn reads and sets them: cloning, searches over grids, pipelines.

May use: scikit-learn, where it calls us; nothing of it is needed otherwise.
"""

from __future__ import annotations

import inspect
from typing import Any, Self

__all__ = ["Parameters"]


class Parameters:
    """The protocol of scikit-learn's estimators, for classes that keep each constructor argument as it was given.

    A subclass defines ``_check_parameters``, which refuses values that cannot be used.
    """

    def _check_parameters(self) -> None:
        raise NotImplementedError

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments, as given; ``deep`` makes no difference."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """Set constructor arguments; what has been fitted stays as it is until the next ``fit``.

        Raises:
            ValueError, TypeError: there is no argument of that name, or its value cannot be used.
        """
        known = self.get_params()
        unknown = sorted(set(params) - set(known))
        if unknown:
            raise ValueError(f"{type(self).__name__} has no argument {unknown[0]!r}; it has {', '.join(known)}")
        for name, value in params.items():
            setattr(self, name, value)
        try:
            self._check_parameters()
        except (ValueError, TypeError):
            for name in params:
                setattr(self, name, known[name])
            raise
        return self

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn asks of every step of a pipeline: no target is needed."""
        from sklearn.utils import Tags, TargetTags

        return Tags(estimator_type=None, target_tags=TargetTags(required=False))

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there are attributes that end in an underscore, which only ``fit`` sets."""
        return any(name.endswith("_") and not name.startswith("_") for name in vars(self))
