"""Reading archives of CIFAR-10: what is sound comes out as it was written; nothing else is believed, or executed."""

import hashlib
import io
import os
import pickle
import random
import struct
import tarfile

import numpy as np
import pytest
import torch

from tests.programs import programs


@pytest.fixture(scope="module")
def pictures():
    with programs("pictures") as modules:
        yield modules.pictures


def images(n, seed=0):
    return np.random.default_rng(seed).integers(256, size=(n, 3, 32, 32), dtype=np.uint8)


def tar(path, files):
    """A packed archive of named contents, in a folder as the real one's are."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def unpack(path, files):
    (path / "cifar-10-batches").mkdir(parents=True)
    for name, content in files.items():
        (path / "cifar-10-batches" / name).write_bytes(content)
    return path


# ---------------------------------------------------------------------- the two versions of the archive


def binary(levels, labels):
    return b"".join(bytes([label]) + image.tobytes() for image, label in zip(levels, labels, strict=True))


class _Python2(pickle._Pickler):
    """Writes strings and bytes as Python 2 did, which made the archive: neither is told from the other."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def _string(self, obj):
        content = obj.encode() if isinstance(obj, str) else obj
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(obj)

    dispatch[str] = dispatch[bytes] = _string


def python2(batch):
    file = io.BytesIO()
    _Python2(file, 2).dump(batch)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def python3(batch):
    return pickle.dumps(batch, 4)


def batch(levels, labels):
    return {
        b"batch_label": b"training batch 1 of 5",
        b"labels": list(labels),
        b"data": levels.reshape(len(levels), -1),
        b"filenames": [b"some_s_000001.png"] * len(levels),
    }


def files(version, parts):
    """Contents of an archive: binary, or pickled in one of two ways."""
    if version == "binary":
        return {f"{name}.bin": binary(*part) for name, part in parts.items()} | {"batches.meta.txt": b"airplane\n"}
    write = {"python 2": python2, "python 3": python3}[version]
    return {name: write(batch(*part)) for name, part in parts.items()} | {"batches.meta": b"not read"}


VERSIONS = ["binary", "python 2", "python 3"]
PARTS = {  # written in another order than they are read
    "test_batch": (images(3, 9), [9, 0, 4]),
    "data_batch_2": (images(2, 2), [5, 9]),
    "data_batch_1": (images(4, 1), [0, 3, 1, 9]),
}


@pytest.mark.parametrize("make", [tar, unpack], ids=["packed", "unpacked"])
@pytest.mark.parametrize("version", VERSIONS)
def test_archives(pictures, tmp_path, version, make):
    content = files(version, PARTS) | {"readme.html": b"<html>"}
    found = pictures.read(make(tmp_path / "some.tar.gz", content))
    assert found.train.dtype == found.test.dtype == torch.uint8
    assert np.array_equal(found.train.numpy(), np.concatenate([PARTS["data_batch_1"][0], PARTS["data_batch_2"][0]]))
    assert np.array_equal(found.test.numpy(), PARTS["test_batch"][0])
    assert found.train_labels.tolist() == [0, 3, 1, 9, 5, 9]
    assert found.test_labels.tolist() == [9, 0, 4]
    assert found.train_labels.dtype == found.test_labels.dtype == torch.int64
    assert found.names[:2] == ["airplane", "automobile"]
    assert found.names[9] == "truck"
    assert "6 images to train on and 3 held back, 3 x 32 x 32, 10 classes" in str(found)


@pytest.mark.parametrize("version", VERSIONS)
def test_archive_without_a_part(pictures, tmp_path, version):
    only = {"data_batch_1": PARTS["data_batch_1"]}
    found = pictures.read(tar(tmp_path / "a.tgz", files(version, only)))
    assert found.test.shape == (0, 3, 32, 32)
    assert found.test_labels.shape == (0,)
    with pytest.raises(ValueError, match="no data_batch"):
        pictures.read(tar(tmp_path / "b.tgz", files(version, {"test_batch": PARTS["test_batch"]})))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_torn_batches(pictures, tmp_path, version, share):
    content = files(version, PARTS)
    name = next(name for name in content if name.startswith("data_batch_2"))
    content[name] = content[name][: int(share * len(content[name]))]
    with pytest.raises(ValueError, match=name):
        pictures.read(unpack(tmp_path / "unpacked", content))


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_torn_archives(pictures, tmp_path, share):
    path = tar(tmp_path / "some.tar.gz", files("binary", PARTS))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match="some.tar.gz"):
        pictures.read(path)


def test_a_damaged_archive(pictures, tmp_path):
    path = tar(tmp_path / "some.tar.gz", files("binary", PARTS))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="some.tar.gz"):
        pictures.read(path)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("label", [10, 255])
def test_labels_beyond_the_last_class(pictures, tmp_path, version, label):
    content = files(version, {"data_batch_1": (images(2), [3, label])})
    with pytest.raises(ValueError, match=rf"data_batch_1.*label {label}"):
        pictures.read(tar(tmp_path / "some.tar.gz", content))


def pickled(**changes):
    whole = batch(*PARTS["data_batch_1"])
    whole.update({k.encode(): v for k, v in changes.items()})
    return {k: v for k, v in whole.items() if v is not None}


@pytest.mark.parametrize(
    "wrong",
    [
        pickled(data=None),
        pickled(labels=None),
        pickled(labels=[1, 2, 3]),
        pickled(labels=[1, 2, 3, -1]),
        pickled(labels=[1, 2, 3, "x"]),
        pickled(data=images(4)[:, :2]),
        pickled(data=images(4).astype(np.float64) - 300),
        pickled(data=[[-1] * 3072] * 4),
        pickled(data=np.array([None] * 4, dtype=object)),
        [1, 2],
        7,
    ],
    ids=["data", "labels", "rows", "negative", "word", "size", "float", "range", "objects", "list", "number"],
)
def test_pickles_of_something_else(pictures, tmp_path, wrong):
    with pytest.raises(ValueError, match="data_batch_1"):
        pictures.read(tar(tmp_path / "some.tar.gz", {"data_batch_1": python3(wrong)}))


def test_noise_for_a_pickle(pictures, tmp_path):
    """Whatever the unpickler makes of it, what comes is a ValueError."""
    whole, draw = python2(batch(images(1), [1])), random.Random(0)
    for _ in range(300):
        content = bytearray(whole[:400])
        for at in draw.sample(range(len(content)), 5):
            content[at] = draw.randrange(256)
        with pytest.raises(ValueError, match="data_batch_1"):
            pictures._pickled("data_batch_1", bytes(content))


class Evil:
    """Whoever unpickles it calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("where", ["alone", "label", "data", "key", "array"])
def test_a_malicious_pickle_does_nothing(pictures, tmp_path, where, protocol):
    mark = tmp_path / "mark"
    for evil in (
        Evil(os.system, f"touch {mark}"),
        Evil(eval, f"open({str(mark)!r}, 'w')"),
        Evil(open, str(mark), "w"),
        Evil(os.mkdir, str(mark)),
    ):
        wrong = {
            "alone": evil,
            "label": pickled(labels=[1, 2, 3, evil]),
            "data": pickled(data=evil),
            "key": batch(*PARTS["data_batch_1"]) | {b"other": evil},
            "array": pickled(data=np.array([evil], dtype=object)),
        }[where]
        content = pickle.dumps(wrong, protocol)
        with pytest.raises(ValueError, match="data_batch_1 is no batch of CIFAR-10.*asks for"):
            pictures.read(tar(tmp_path / "some.tar.gz", {"data_batch_1": content}))
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(os.mkdir, str(mark)), protocol))
    assert mark.exists()  # they would have


# ---------------------------------------------------------------------- the archive's own names


def test_checksums(pictures, tmp_path, monkeypatch):
    for name, version in (("cifar-10-binary.tar.gz", "binary"), ("cifar-10-python.tar.gz", "python 2")):
        path = tar(tmp_path / name, files(version, PARTS))
        digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        with pytest.raises(ValueError, match=f"{name} is damaged: its MD5 is {digest}"):
            pictures.read(path)
        monkeypatch.setitem(pictures.MD5, name, digest)
        assert len(pictures.read(path).train) == 6


def test_missing_paths(pictures, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.npz does not exist"):
        pictures.read(tmp_path / "nothing.npz", download=True)
    with pytest.raises(FileNotFoundError, match="https://www.cs.toronto.edu.*--download"):
        pictures.read(tmp_path / "cifar-10-binary.tar.gz")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="neither a folder, nor"):
        pictures.read(tmp_path / "text")


class Answer(io.BytesIO):
    """What a server says."""

    def __init__(self, content):
        super().__init__(content)
        self.headers = {"Content-Length": str(len(content))}


def test_downloads(pictures, tmp_path, monkeypatch, capsys):
    content = tar(tmp_path / "some.tar.gz", files("binary", PARTS)).read_bytes()
    name, asked = "cifar-10-binary.tar.gz", []
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    monkeypatch.setitem(pictures.MD5, name, digest)
    served = [content[:-7], OSError("unreachable"), content]

    def urlopen(url, timeout):
        asked.append(url)
        answer = served.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return Answer(answer)

    monkeypatch.setattr(pictures.urllib.request, "urlopen", urlopen)
    path = tmp_path / "new" / name
    with pytest.raises(ValueError, match="is damaged"):
        pictures.read(path, download=True)
    with pytest.raises(OSError, match="unreachable"):
        pictures.read(path, download=True)
    assert list(path.parent.iterdir()) == []
    for _ in range(2):  # the second time it is there
        assert len(pictures.read(path, download=True).train) == 6
    assert asked == [f"https://www.cs.toronto.edu/~kriz/{name}"] * 3
    assert list(path.parent.iterdir()) == [path]
    assert name in capsys.readouterr().err
