"""Programs of `examples/cifar10` and other folders as modules, whose names are too plain to stay."""

import contextlib
import importlib
import sys
from types import SimpleNamespace

from tests.trainings import ROOT

FOLDER = ROOT / "examples" / "cifar10"


@contextlib.contextmanager
def programs(*names, folder=FOLDER):
    """The modules of these names, for as long as the context lasts."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if name in {path.stem for path in folder.glob("*.py")}:
                del sys.modules[name]
