"""Saving so that nothing is ever lost: weights in safetensors, everything else in JSON, each write atomic.

A run is a folder with ``config.json`` and a weights file named by its own SHA-256. The configuration names
the weights it belongs to, and is replaced last, in one rename: a crash, a full disk or a kill at any moment
leaves either the old run or the new one. May use: the standard library, torch, safetensors, atomic.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as decode
from safetensors.torch import save as encode
from torch import Tensor

from .atomic import replacing

__all__ = ["load_newest", "load_run", "save_run", "save_step", "write_atomic"]

FORMAT = 2  # of 1, networks answered in the coordinates of points, not in numbers white in the metric
_CONFIG = "config.json"
_STEP = "step-"
_OWN = re.compile(r"weights-[0-9a-f]{16}\.safetensors")
_DENSE = torch.contiguous_format


def write_atomic(path: str | Path, content: bytes) -> None:
    """Write a file so that at every moment it is either the old one or the new one, on disk."""
    with replacing(path) as file:
        file.write(content)


def save_run(folder: str | Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Save a configuration (JSON-able) and named tensors in a folder, which is made if missing."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give a folder to save in")
    content = encode({k: v.detach().cpu().clone(memory_format=_DENSE) for k, v in tensors.items()})  # some may be tied
    digest = hashlib.sha256(content).hexdigest()
    name = f"weights-{digest[:16]}.safetensors"
    write_atomic(folder / name, content)
    values = json.loads(json.dumps({"format": FORMAT, "weights": name, "sha256": digest, **config}))  # as it comes back
    write_atomic(folder / _CONFIG, json.dumps({**values, "check": _digest(values)}, indent=2).encode())
    for old in folder.glob("weights-*.safetensors"):
        if old.name != name and _OWN.fullmatch(old.name):
            old.unlink(missing_ok=True)


def load_run(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Load what :func:`save_run` saved.

    Returns:
        The configuration and the tensors, on the CPU.

    Raises:
        FileNotFoundError: there is no run in the folder.
        ValueError: a file is torn or foreign, or of another format.
    """
    folder = Path(folder)
    path = folder / _CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"no saved run in {folder}: {_CONFIG} is missing")
    try:
        config = json.loads(path.read_text())
        check = config.pop("check", None)
        version, name, digest = config["format"], config["weights"], config["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the configuration of a saved run: {error!r}") from None
    if version != FORMAT:
        hint = ": an earlier version saved it, fit the model again" if version == 1 else ""
        raise ValueError(f"{path} has format {version!r}; this version reads {FORMAT}{hint}")
    if check is not None and check != _digest(config):
        raise ValueError(
            f'{path} is damaged: its values are not those that were saved (delete "check" if they are meant)'
        )
    weights = folder / Path(name).name
    if not weights.is_file():
        raise ValueError(f"{path} names {name}, which is missing")
    content = weights.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{weights} is damaged: its SHA-256 is not the one in {_CONFIG}")
    return config, decode(content)


def _digest(values: dict[str, Any]) -> str:
    """Of a configuration's values, whatever their order and the white space between."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def save_step(folder: str | Path, step: int, config: dict[str, Any], tensors: dict[str, Tensor], *, keep: int) -> None:
    """Save a run in progress as one of several, ``folder/step-00001000``; of those of earlier steps, the newest stay.

    Args:
        folder: of all the checkpoints of the run.
        step: how far it is.
        config: JSON-able values.
        tensors: by name.
        keep: how many checkpoints to have afterwards.
    """
    folder = Path(folder)
    save_run(folder / f"{_STEP}{step:08d}", config, tensors)
    for old in [p for p in _steps(folder) if _number(p) < step][keep - 1 :]:
        shutil.rmtree(old, ignore_errors=True)


def load_newest(
    folder: str | Path, check: Callable[[dict[str, Any], dict[str, Tensor]], None]
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Load the newest checkpoint of a run in progress that is whole and that a check accepts.

    Args:
        folder: of all the checkpoints of the run.
        check: raises ValueError with the reason if a configuration and tensors cannot be used.

    Returns:
        The configuration and the tensors, on the CPU, or None if no checkpoint was ever finished. Each one passed
        over is warned of.

    Raises:
        ValueError: there are checkpoints, but none can be used; with the reason for each.
    """
    reasons, unfinished = [], True
    for path in _steps(Path(folder)):
        try:
            config, tensors = load_run(path)
            check(config, tensors)
        except (ValueError, OSError) as error:
            reasons.append(f"{path.name}: {error}")
            unfinished = unfinished and isinstance(error, FileNotFoundError)
            continue
        for reason in reasons:
            warnings.warn(f"checkpoint passed over: {reason}", stacklevel=3)
        return config, tensors
    if reasons and not unfinished:
        raise ValueError(f"no checkpoint in {folder} can be used: {'; '.join(reasons)}")
    return None


def _steps(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first."""
    return sorted((p for p in folder.glob(f"{_STEP}*") if p.is_dir() and _number(p) >= 0), key=_number, reverse=True)


def _number(path: Path) -> int:
    """The step of a checkpoint's folder; -1 if it is none."""
    digits = path.name.removeprefix(_STEP)
    return int(digits) if digits.isdecimal() else -1
