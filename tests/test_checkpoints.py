import json
import os
import stat

import pytest
import torch

from constrained_diffusion.checkpoints import load_run, save_run, write_atomic

OLD, NEW = {"w": torch.arange(6.0).reshape(2, 3)}, {"w": torch.full((2, 3), 7.0)}


@pytest.fixture
def saved(tmp_path):
    save_run(tmp_path / "run", {"name": "old"}, OLD)
    return tmp_path / "run"


def test_round_trip(saved):
    config, tensors = load_run(saved)
    assert config["name"] == "old"
    assert torch.equal(tensors["w"], OLD["w"])


def test_saving_again_replaces_and_leaves_nothing_behind(saved):
    save_run(saved, {"name": "new"}, NEW)
    config, tensors = load_run(saved)
    assert config["name"] == "new"
    assert torch.equal(tensors["w"], NEW["w"])
    assert len(list(saved.iterdir())) == 2


def test_files_of_others_stay(saved):
    (saved / "weights-best.safetensors").write_bytes(b"mine")
    save_run(saved, {"name": "new"}, NEW)
    assert len(list(saved.glob("weights-*"))) == 2
    assert (saved / "weights-best.safetensors").read_bytes() == b"mine"


def test_tied_tensors(tmp_path):
    tied = {"a": OLD["w"], "b": OLD["w"], "turned": OLD["w"].T}
    save_run(tmp_path / "run", {}, tied)
    for name, value in load_run(tmp_path / "run")[1].items():
        assert torch.equal(value, tied[name])


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_a_failure_at_any_moment_leaves_the_old_run(saved, monkeypatch, operation, call):
    """A full disk while either file is written or renamed."""
    import pathlib

    calls = 0
    owner = os if operation == "fsync" else pathlib.Path
    real = getattr(owner, operation)

    def fail(*args):
        nonlocal calls
        calls += operation == "replace" or stat.S_ISREG(os.fstat(args[0]).st_mode)  # folders are synced too
        if calls == call:
            raise OSError(28, "No space left on device")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, operation, fail)
        with pytest.raises(OSError, match="No space left"):
            save_run(saved, {"name": "new"}, NEW)
    config, tensors = load_run(saved)
    assert config["name"] == "old"
    assert torch.equal(tensors["w"], OLD["w"])
    assert not list(saved.glob("*.tmp")) + list(saved.glob(".*.tmp"))


def test_torn_weights_are_refused(saved):
    weights = next(saved.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(ValueError, match="damaged"):
        load_run(saved)
    weights.unlink()
    with pytest.raises(ValueError, match="missing"):
        load_run(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"x"', "null"])
def test_foreign_configurations_are_refused(saved, text):
    (saved / "config.json").write_text(text)
    with pytest.raises(ValueError, match="not the configuration"):
        load_run(saved)


def test_other_formats_and_empty_folders_are_refused(saved, tmp_path):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        load_run(saved)
    (saved / "config.json").write_text(json.dumps({**config, "format": 1}))
    with pytest.raises(ValueError, match="an earlier version saved it, fit the model again"):
        load_run(saved)
    with pytest.raises(FileNotFoundError, match="no saved run"):
        load_run(tmp_path / "nothing")


def test_weights_named_outside_the_folder_are_not_read(saved):
    config = json.loads((saved / "config.json").read_text())
    del config["check"]  # of a foreign program's, which knows none
    (saved / "config.json").write_text(json.dumps({**config, "weights": "../" + config["weights"]}))
    load_run(saved)  # the name alone counts
    (saved / "config.json").write_text(json.dumps({**config, "weights": "/etc/hostname"}))
    with pytest.raises(ValueError, match="missing"):
        load_run(saved)


def test_written_files_have_ordinary_permissions(tmp_path):
    mask = os.umask(0o022)
    try:
        write_atomic(tmp_path / "deep" / "file", b"x")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "deep" / "file").stat().st_mode) == 0o644
