"""Reading images: the CIFAR-10 archives, an ``.npz``, a folder of picture files, or two photographs to try things on.

Nothing here executes what it reads: the pickles of the python archive go through an unpickler that knows numpy
arrays, bytes and numbers only.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PHOTOS = Path("photos")
PAGE = "https://www.cs.toronto.edu/~kriz/"
# Of the archives, as the data set's own page lists them (Krizhevsky 2009, "Learning Multiple Layers of Features from
# Tiny Images"). MD5 tells a damaged file from a whole one; it is no protection against a forged one.
MD5 = {
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
}
_RECORD = 1 + 3 * 32 * 32
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


@dataclass(frozen=True)
class Pictures:
    """Images with labels, one part to train on and one held back.

    Attributes:
        train: uint8 ``[n, C, H, W]``.
        train_labels: ``[n]`` int64, or None.
        test: uint8 ``[m, C, H, W]``.
        test_labels: ``[m]`` int64, or None.
        names: of the classes; empty where there are no labels.
    """

    train: Tensor
    train_labels: Tensor | None
    test: Tensor
    test_labels: Tensor | None
    names: list[str]

    def __str__(self) -> str:
        n, c, h, w = self.train.shape
        return f"{n:,} images to train on and {len(self.test):,} held back, {c} x {h} x {w}, {len(self.names)} classes"


def read(path: Path, *, download: bool = False, side: int = 32) -> Pictures:
    """Read images.

    Args:
        path: a CIFAR-10 archive (binary or python version, packed or unpacked), an ``.npz`` with ``x`` uint8
            ``[n, H, W, C]`` and perhaps ``y`` and a bool mask ``test``, or a folder of picture files, whose
            subfolders, if any, are classes. ``photos`` stands for 520 pieces of the two photographs that come with
            scikit-learn.
        download: fetch the archive if it is missing and bears the name of one.
        side: pixels across the pictures of a folder, which are cut square and resized.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        ValueError: what is there cannot be read, with the reason.
    """
    if path == PHOTOS:
        return _photos(side)
    if not path.exists():
        if path.name not in MD5:
            raise FileNotFoundError(f"{path} does not exist")
        if not download:
            raise FileNotFoundError(f"{path} does not exist: put {PAGE}{path.name} there, or pass --download")
        fetch(path)
    if path.is_dir():
        batches = sorted(path.rglob("*_batch*"))
        return _cifar((p.name, p.read_bytes()) for p in batches) if batches else _folder(path, side)
    if path.suffix == ".npz":
        return _npz(path)
    if ".tar" in path.suffixes or ".tgz" in path.suffixes or tarfile.is_tarfile(path):
        return _cifar(_members(path))
    raise ValueError(f"{path} is neither a folder, nor an .npz, nor a CIFAR-10 archive")


def fetch(path: Path) -> None:
    """Download an archive of CIFAR-10 and check that it is whole."""
    url = PAGE + path.name
    print(f"downloading {url} (about 170 MB) to {path}", file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False) as file:
        part = Path(file.name)
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                size = int(answer.headers.get("Content-Length") or 0)
                with tqdm(total=size or None, unit="B", unit_scale=True, desc=path.name) as bar:
                    while block := answer.read(1 << 20):
                        file.write(block)
                        bar.update(len(block))
            file.close()
            check(part, path.name)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def check(path: Path, name: str) -> None:
    """Refuse an archive whose checksum is not the published one."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != MD5[name]:
        raise ValueError(f"{name} is damaged: its MD5 is {digest.hexdigest()}, not {MD5[name]}")


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.name in MD5:
        check(path, path.name)
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):  # gzip: unpacked whole, so that its checksum is seen
            content = gzip.decompress(content)
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                if member.isfile() and "_batch" in member.name:
                    file = archive.extractfile(member)
                    assert file is not None
                    yield Path(member.name).name, file.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _cifar(files: Iterator[tuple[str, bytes]]) -> Pictures:
    """The batches of either version, told apart by their contents."""
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {"data": [], "test": []}
    for name, content in sorted(files):
        kind = name.split("_")[0]
        if kind in parts:
            parts[kind].append(_binary(name, content) if name.endswith(".bin") else _pickled(name, content))
    if not parts["data"]:
        raise ValueError("there is no data_batch of CIFAR-10 in it")
    empty = (torch.empty(0, 3, 32, 32, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    (train, labels), (test, test_labels) = (
        tuple(torch.cat(column) for column in zip(*(batches or [empty]), strict=True)) for batches in parts.values()
    )
    return Pictures(train, labels, test, test_labels, NAMES)


def _binary(name: str, content: bytes) -> tuple[Tensor, Tensor]:
    if not content or len(content) % _RECORD:
        raise ValueError(f"{name} has {len(content)} bytes, no multiple of {_RECORD}: is it torn?")
    rows = torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, _RECORD)
    return rows[:, 1:].reshape(-1, 3, 32, 32), _classes(name, rows[:, 0].long())


def _classes(name: str, labels: Tensor) -> Tensor:
    """Labels ``[n]``, which must be those of CIFAR-10."""
    for label in (int(labels.min()), int(labels.max())):
        if not 0 <= label < len(NAMES):
            raise ValueError(f"{name} has the label {label}: it is no batch of CIFAR-10")
    return labels


class _ArraysOnly(pickle.Unpickler):
    """Knows what the batches are made of, and nothing else."""

    _KNOWN = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
        ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch of CIFAR-10 needs") from None


def _pickled(name: str, content: bytes) -> tuple[Tensor, Tensor]:
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
        data, labels = np.asarray(batch[b"data"]), torch.tensor([int(label) for label in batch[b"labels"]])
        if data.dtype != np.uint8 or data.shape != (len(labels), _RECORD - 1) or not len(data):
            raise ValueError(f"it holds {data.dtype} {list(data.shape)} and {len(labels)} labels")
    except Exception as error:
        raise ValueError(f"{name} is no batch of CIFAR-10: {error}") from None
    return torch.from_numpy(data.reshape(-1, 3, 32, 32).copy()), _classes(name, labels)


def read_arrays(path: Path) -> dict[str, Tensor]:
    """What an ``.npz`` holds: ``x`` as uint8 ``[n, C, H, W]``, and ``y`` and ``test`` ``[n]`` if it has them."""
    try:
        with zipfile.ZipFile(path):  # an .npy of the wrong name, or no archive at all, is told here
            pass
        with np.load(path, allow_pickle=False) as file:
            arrays = {k: file[k] for k in ("x", "y", "test") if k in file.files}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    x = arrays.get("x")
    if x is None or x.dtype != np.uint8 or x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[-1] not in (1, 3)):
        found = "nothing" if x is None else f"{x.dtype} {list(x.shape)}"
        raise ValueError(f"{path} must hold x, uint8 [n, H, W, C] with C 1 or 3, or [n, H, W]; it has {found}")
    x = x[..., None] if x.ndim == 3 else x
    for name in ("y", "test"):
        if name in arrays and arrays[name].shape != x.shape[:1]:
            raise ValueError(f"{path}: {name} has shape {list(arrays[name].shape)}; expected [{len(x)}]")
    if not len(x):
        raise ValueError(f"{path}: x holds no images: it is empty")
    y = arrays.get("y")
    if y is not None and (y.dtype.kind not in "iuf" or not (y == np.floor(y)).all() or y.min() < 0):
        raise ValueError(f"{path}: y must hold whole numbers from 0 on, not {y.dtype} such as {y.flat[0]!r}")
    if y is not None and y.max() >= max(len(x), len(NAMES)):
        raise ValueError(f"{path}: y has the class {y.max():g}, and there are {len(x)} images: are they classes?")
    test = arrays.get("test")
    if test is not None and not np.isin(test, (0, 1)).all():
        raise ValueError(f"{path}: test must be bool, true for images held back, not {test.dtype}")
    tensors = {"x": torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()}
    if y is not None:
        tensors["y"] = torch.from_numpy(y.astype(np.int64))
    if test is not None:
        tensors["test"] = torch.from_numpy(test.astype(bool))
    return tensors


def _npz(path: Path) -> Pictures:
    arrays = read_arrays(path)
    levels, labels = arrays["x"], arrays.get("y")
    held_back = arrays["test"] if "test" in arrays else _tenth(len(levels))
    if bool(held_back.all()):
        raise ValueError(f"{path}: test holds back every image: there is none to train on")
    classes = 0 if labels is None else int(labels.max()) + 1
    names = NAMES if classes == len(NAMES) else [str(k) for k in range(classes)]
    return _divide(levels, labels, held_back, names)


def _folder(path: Path, side: int) -> Pictures:
    from PIL import Image, ImageOps, UnidentifiedImageError

    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES)
    if not files:
        raise ValueError(f"{path} holds no pictures ({', '.join(sorted(_SUFFIXES))})")
    names = sorted({p.parent.name for p in files if p.parent != path})
    images = []
    for file in tqdm(files, desc="reading", unit="img", disable=len(files) < 1000):
        try:
            with Image.open(file) as image:
                images.append(np.asarray(ImageOps.fit(image.convert("RGB"), (side, side))))
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from None
    levels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    classed = bool(names) and all(p.parent != path for p in files)
    labels = torch.tensor([names.index(p.parent.name) for p in files]) if classed else None
    return _divide(levels, labels, _tenth(len(files)), names if classed else [])


def _photos(side: int) -> Pictures:
    """Square pieces of scikit-learn's two photographs, which are the classes."""
    from sklearn.datasets import load_sample_images

    photos = load_sample_images()
    pieces, labels = [], []
    for label, photo in enumerate(photos.images):
        rows, columns = (size // side for size in photo.shape[:2])
        grid = photo[: rows * side, : columns * side].reshape(rows, side, columns, side, 3).swapaxes(1, 2)
        pieces.append(torch.from_numpy(grid.reshape(-1, side, side, 3).copy()).permute(0, 3, 1, 2))
        labels += [label] * (rows * columns)
    names = [Path(name).stem for name in photos.filenames]
    return _divide(torch.cat(pieces), torch.tensor(labels), _tenth(len(labels)), names)


def _tenth(n: int) -> Tensor:
    """Every tenth image is held back where nothing says which are, and of fewer than ten the last."""
    step = min(10, max(2, n))
    return torch.arange(n) % step == step - 1


def _divide(levels: Tensor, labels: Tensor | None, held_back: Tensor, names: list[str]) -> Pictures:
    def part(which: Tensor) -> tuple[Tensor, Tensor | None]:
        return levels[which], None if labels is None else labels[which]

    return Pictures(*part(~held_back), *part(held_back), names)
