"""Reading images from an `.npz` or a folder of pictures."""

import gc
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from tests.programs import programs


@pytest.fixture(scope="module")
def pictures():
    with programs("pictures") as modules:
        yield modules.pictures


def images(n):
    return np.random.default_rng(0).integers(256, size=(n, 3, 32, 32), dtype=np.uint8)


# ---------------------------------------------------------------------- .npz


def npz(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


def test_npz(pictures, tmp_path):
    x = images(12).transpose(0, 2, 3, 1)
    y, test = np.arange(12) % 3, np.arange(12) > 8
    found = pictures.read(npz(tmp_path / "a.npz", x=x, y=y.astype(np.uint8), test=test, other=x))
    assert np.array_equal(found.train.numpy(), images(12)[:9])
    assert np.array_equal(found.test.numpy(), images(12)[9:])
    assert found.train_labels.tolist() == y[:9].tolist()
    assert found.test_labels.tolist() == y[9:].tolist()
    assert found.train_labels.dtype == torch.int64
    assert found.names == ["0", "1", "2"]
    found = pictures.read(npz(tmp_path / "b.npz", x=x))
    assert found.train_labels is None
    assert found.test_labels is None
    assert found.names == []
    assert np.array_equal(found.test.numpy(), images(12)[9:10])  # every tenth
    assert len(found.train) == 11
    found = pictures.read(npz(tmp_path / "c.npz", x=x[..., 0], y=np.arange(12) % 10))
    assert np.array_equal(found.train.numpy(), images(12)[[*range(9), 10, 11], :1])
    assert found.names[9] == "truck"


X = images(4).transpose(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"y": np.arange(4)}, "nothing"),
        ({"x": X.astype(np.float32)}, "float32"),
        ({"x": X[0, 0]}, "uint8 .*it has uint8"),
        ({"x": X, "y": np.arange(3)}, r"y has shape \[3\]"),
        ({"x": X, "y": np.zeros((4, 1), int)}, "y has shape"),
        ({"x": X, "test": np.ones(5, bool)}, "test has shape"),
        ({"x": np.array([None] * 4, dtype=object)}, "cannot be read"),
        ({"x": X, "y": np.array([1, 2, 3, None], dtype=object)}, "cannot be read"),
        ({"x": X, "y": np.array(["a", "b", "c", "d"])}, "y"),
        ({"x": X, "y": np.array([0, 1, 2, -1])}, "y"),
        ({"x": X, "y": np.array([0, 1, 2, 0.5])}, "y"),
        ({"x": X[:0], "y": np.arange(0)}, "empty|no images|nothing"),
        ({"x": np.zeros((4, 3, 8, 8), np.uint8)}, r"C 1 or 3, .*it has uint8 \[4, 3, 8, 8\]"),
        ({"x": X, "y": np.array([0, 1, 2, 100_000])}, "y has the class 100000, and there are 4 images"),
        ({"x": X, "test": np.arange(4)}, "test must be bool"),
        ({"x": X, "test": np.ones(4, bool)}, "none to train on"),
    ],
    ids=[
        "no x",
        "float",
        "flat",
        "rows",
        "columns",
        "mask",
        "object x",
        "object y",
        "words",
        "negative",
        "half",
        "none",
        "channels first",
        "no classes",
        "numbers",
        "all held back",
    ],
)
def test_npz_of_something_else(pictures, tmp_path, arrays, reason):
    with pytest.raises(ValueError, match=f"wrong.npz.*({reason})"):
        pictures.read(npz(tmp_path / "wrong.npz", **arrays))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("spoil", ["text", "torn", "flipped", "npy", "pickle"])
def test_npz_that_cannot_be_read(pictures, tmp_path, spoil):
    path = npz(tmp_path / "wrong.npz", x=X)
    content = path.read_bytes()
    if spoil == "npy":
        with path.open("wb") as file:
            np.save(file, X)
    else:
        middle = len(content) // 2
        path.write_bytes(
            {
                "text": b"hello",
                "torn": content[:middle],
                "flipped": content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :],
                "pickle": pickle.dumps(X),
            }[spoil]
        )
    with pytest.raises(ValueError, match=r"wrong.npz"):
        pictures.read(path)
    gc.collect()  # numpy leaves torn files open


# ---------------------------------------------------------------------- folders of pictures


def draw(path, colour, size=(40, 50), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def test_folder_with_classes(pictures, tmp_path):
    for name, colour in (("dog", (200, 10, 20)), ("cat", (10, 200, 30))):
        for i in range(6):
            draw(tmp_path / name / f"{i}.{'png' if i % 2 else 'bmp'}", colour)
    draw(tmp_path / "cat" / "6.PNG", 77, (8, 8), "L")
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    found = pictures.read(tmp_path, side=16)
    assert found.names == ["cat", "dog"]
    assert found.train.shape == (12, 3, 16, 16)
    assert found.test.shape == (1, 3, 16, 16)
    assert found.train_labels.tolist() == [0] * 7 + [1] * 5
    assert found.test_labels.tolist() == [1]
    assert found.train[0].flatten(1).unique(dim=1).flatten().tolist() == [10, 200, 30]
    assert found.train[6].unique().tolist() == [77]


def test_folder_without_classes(pictures, tmp_path):
    for i in range(3):
        draw(tmp_path / f"{i}.jpg", (10 * i, 0, 0))
    found = pictures.read(tmp_path)
    assert (len(found.train), len(found.test)) == (2, 1)  # of fewer than ten the last is held back
    assert found.names == []
    assert found.train_labels is None


def test_pictures_are_cut_square_from_their_middle(pictures, tmp_path):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 250
    Image.fromarray(wide).save(tmp_path / "wide.png")
    found = pictures.read(tmp_path, side=8)
    assert (found.train == 250).all()


def test_folder_of_something_else(pictures, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match="holds no pictures"):
        pictures.read(tmp_path)


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("spoil", ["text", "empty", "torn"])
def test_broken_pictures(pictures, tmp_path, kind, spoil):
    path = tmp_path / f"broken.{kind}"
    Image.fromarray(images(1)[0].transpose(1, 2, 0)).save(path)
    content = path.read_bytes()
    path.write_bytes({"text": b"hello", "empty": b"", "torn": content[: len(content) // 2]}[spoil])
    with pytest.raises(ValueError, match=rf"broken\.{kind} cannot be read"):
        pictures.read(tmp_path)


@pytest.mark.parametrize("at", [3, 13, 20, 30, 38, 50, 1000])
def test_damaged_png(pictures, tmp_path, at):
    """Which knows checksums, of all that it holds."""
    path = tmp_path / "broken.png"
    Image.fromarray(images(1)[0].transpose(1, 2, 0)).save(path)
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"broken\.png cannot be read"):
        pictures.read(tmp_path)
