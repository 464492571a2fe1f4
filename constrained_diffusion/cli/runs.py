"""Runs in folders: claiming one before training, and loading one. May use: the estimator, record."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..data import check_device
from ..model import ReflectedDiffusion
from .choosing import import_modules
from .record import Record

__all__ = ["claimed", "load"]

_CONFIG = "config.json"


@contextmanager
def claimed(folder: Path, *, overwrite: bool) -> Iterator[None]:
    """A folder that a run can be saved in, tried out now; one that was made and stays empty is removed again.

    Raises:
        ValueError: there is a run already, or something else.
        OSError: nothing can be written there.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give a folder to save the run in")
    if (folder / _CONFIG).exists():
        if not overwrite:
            raise ValueError(f"{folder} holds a saved run: choose another folder, or replace it with --overwrite")
    elif folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty, and holds no saved run: choose another folder")
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"tried")
    except OSError as error:
        raise OSError(f"cannot write to {folder}: {error.strerror}") from None
    try:
        yield
    finally:
        if made:
            with suppress(OSError):  # it holds a run
                folder.rmdir()


def load(options: Namespace) -> tuple[ReflectedDiffusion, Record]:
    """The model of a run, and what is known of its table.

    Raises:
        ValueError, OSError: there is no run, it is torn, or its domain's module was not imported.
    """
    folder = Path(options.run)
    record = Record.load(folder)
    for module in record.modules if record else ():
        if module not in options.imports:  # loading a run never imports anything by itself
            raise ValueError(f"{folder}: its domain is from the module {module!r}: add --import {module}")
    import_modules(options.imports)
    check_device(options.device)
    model = ReflectedDiffusion.load(folder, device=options.device)
    size, known = model.domain.event_shape.numel(), getattr(model.score_.network, "condition_dim", 0)
    if record is None:
        return model, Record.plain(size, known)
    if (len(record.columns), len(record.condition)) != (size, known):
        raise ValueError(f"{folder}: table.json names {len(record.columns)} columns, the model has {size}")
    return model, record
