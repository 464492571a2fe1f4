"""Diffusion models whose samples never leave their domain.

A domain is geometry; a reflected SDE noises data inside it; a score network learns to reverse that; samplers
work over any domain. Start with :class:`ReflectedDiffusion`.

The names are those of ``public``, imported when the first of them is asked for: the command line, which lies in this
package, gives its help without torch.
"""

from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from .public import *  # noqa: F403 (its __all__ says which)
else:

    def __getattr__(name):
        """A public name, or a module that the public names have imported."""
        import importlib
        import sys

        if not name.startswith("__") or name == "__all__":
            public = importlib.import_module(f"{__name__}.public")
            if name == "__all__":
                return [*public.__all__, "__version__"]
            for found in (getattr(public, name, None), sys.modules.get(f"{__name__}.{name}")):
                if found is not None:
                    return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        """All that can be asked for."""
        return sorted({*globals(), *__getattr__("__all__")})
