"""The programs of `examples/cifar10`, from pictures to samples."""

import gc
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from constrained_diffusion.process import Process
from constrained_diffusion.trainer import load_averaged
from tests.programs import FOLDER, programs
from tests.trainings import assert_same, saved, steps

missing = [m for m in ("diffusers", "sklearn", "tensorboard", "tyro") if importlib.util.find_spec(m) is None]
pytestmark = [
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers", "ignore::FutureWarning:diffusers"),
]
SMALL = ["--plan.batch-size", "4", "--plan.micro-batch", "2", "--unet.channels", "4", "--unet.blocks", "1"]


@pytest.fixture(scope="module")
def cifar10():
    tables, compute = {}, Process.target_rms_table.func

    def once(process):  # takes seconds for images, and is the same for all of these runs
        if repr(process) not in tables:
            tables[repr(process)] = compute(process)
        return tables[repr(process)]

    with (
        programs("train", "sample", "config", "pictures", "evaluate") as modules,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(modules.train, "GRID", 4)
        patch.setattr(Process, "target_rms_table", property(once))
        yield modules


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Patches of two photographs, by their brightness in three classes."""
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    corners = [(i, top, left) for i in range(2) for top in range(0, 384, 64) for left in range(0, 608, 128)]
    x = np.stack([photographs[i][top : top + 32, left : left + 32] for i, top, left in corners])
    light = x.mean((1, 2, 3))
    y = np.digitize(light, np.quantile(light, [1 / 3, 2 / 3]))
    path = tmp_path_factory.mktemp("data") / "patches.npz"
    np.savez(path, x=x, y=y, test=np.arange(len(x)) % 5 == 0)
    return path


def train(cifar10, data, out, *more, preset="tiny"):
    cifar10.train.main([preset, "--data", str(data), "--out", str(out), *SMALL, *more])


@pytest.fixture(scope="module")
def run(cifar10, data, tmp_path_factory):
    """Three steps."""
    out = tmp_path_factory.mktemp("runs") / "three"
    train(cifar10, data, out)
    return out


@pytest.fixture(scope="module")
def without_labels(cifar10, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "plain"
    train(cifar10, data, out, "--no-labels", "--plan.steps", "1", "--no-dequantise")
    return out


def refused(capsys, program, *arguments):
    """What a program says when it ends with exit code 1; it must be one line."""
    with pytest.raises(SystemExit) as ended:
        program.main([str(a) for a in arguments])
    message = ended.value.code
    assert isinstance(message, str)  # Python prints it and exits with 1
    assert message.startswith("error: ")
    assert "\n" not in message
    assert "Traceback" not in capsys.readouterr().err
    return message


def read_npz(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


# ---------------------------------------------------------------------- training


def test_a_run_leaves_what_it_should(cifar10, run):
    assert steps(run) == [2, 3]
    _, step, history = saved(run, 3)
    assert step == 3
    assert [entry[0] for entry in history] == [1, 2, 3]
    assert list((run / "tensorboard").glob("events*"))
    with Image.open(run / "grids" / "00000003.png") as grid:
        assert grid.size == (2 * (4 * 33 - 1), 2 * 32)  # four images in a row
    with Image.open(run / "loss.png") as curve:
        assert curve.width > 100
    config, shape, names = cifar10.config.Config.load(run)
    assert shape == (3, 32, 32)
    assert names == ["0", "1", "2"]
    assert config.unet.channels == 4
    assert config.plan.steps == 3
    assert config.out == run


def test_a_run_that_goes_on_is_the_run_that_was_not_interrupted(cifar10, data, run, tmp_path, capsys):
    out = tmp_path / "parts"
    train(cifar10, data, out, "--plan.steps", "2")
    assert "going on" not in capsys.readouterr().out
    train(cifar10, data, out, "--plan.steps", "3")
    assert "going on from step 2" in capsys.readouterr().out
    assert_same(saved(out, 3), saved(run, 3))
    train(cifar10, data, out, "--plan.steps", "3")  # there is nothing left to do
    assert "3 steps;" in capsys.readouterr().out
    assert_same(saved(out, 3), saved(run, 3))


def test_every_configuration_is_saved_and_loaded(cifar10, tmp_path):
    from dataclasses import replace

    for name, (_, preset) in cifar10.config.PRESETS.items():
        config = replace(preset, out=tmp_path / name)
        config.save((3, 32, 32), ["a", "b"])
        assert cifar10.config.Config.load(tmp_path / name) == (config, (3, 32, 32), ["a", "b"])


def test_curves_and_grids_are_logged_also_at_the_same_steps(cifar10, data, tmp_path, monkeypatch):
    logged = []

    class Writer:
        def __init__(self, folder, purge_step):
            logged.append(("begin", purge_step))

        def add_scalar(self, name, value, step):
            logged.append((name, step))

        def add_images(self, name, images, step):
            assert images.shape == (4, 3, 32, 32)
            logged.append((name, step))

        def close(self):
            logged.append(("end", 0))

    monkeypatch.setattr(cifar10.train, "SummaryWriter", Writer)
    train(cifar10, data, tmp_path / "run", "--plan.steps", "2", "--plan.report-every", "1", "--grid-every", "1")
    assert logged[0] == ("begin", 0)
    assert logged[-1] == ("end", 0)
    for name in ("loss", "images per second", "samples"):
        assert [step for what, step in logged if what == name] == [1, 2]
    assert len(list((tmp_path / "run" / "grids").iterdir())) == 2


def test_transformer(cifar10, data, tmp_path):
    size = ["--transformer.width", "8", "--transformer.depth", "1", "--transformer.heads", "2"]
    size += ["--transformer.patch", "8", "--plan.steps", "2"]
    train(cifar10, data, tmp_path / "run", "--network", "transformer", *size, "--weighting", "likelihood")
    assert steps(tmp_path / "run") == [2]
    _, model, names = cifar10.sample.load(tmp_path / "run", "cpu")
    assert type(model.network).__name__ == "ImageTransformer"
    assert names == ["0", "1", "2"]


@pytest.mark.skipif("CIFAR10_SUBSET" not in os.environ, reason="CIFAR10_SUBSET names no images of CIFAR-10")
def test_images_of_cifar10(cifar10, tmp_path):
    path = Path(os.environ["CIFAR10_SUBSET"])
    if not path.exists():
        pytest.skip(f"{path} does not exist")
    found = cifar10.pictures.read(path)
    assert found.train.shape[1:] == (3, 32, 32)
    assert 0.35 < float(found.train.float().mean()) / 255 < 0.6  # of the data set: 0.47
    train(cifar10, path, tmp_path / "run")
    assert steps(tmp_path / "run") == [2, 3]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "nowhere.npz"], "nowhere.npz does not exist"),
        (["--data", "cifar-10-binary.tar.gz"], "pass --download"),
        (["--hide", "1.5"], "hide"),
        (["--unet.multipliers", "1", "1", "1", "1", "1", "1", "1"], "halved 6 times"),
        (["--sigma-min", "-1"], "sigma_min"),
    ],
    ids=lambda value: value[0][2:] if isinstance(value, list) else "",
)
def test_training_refuses(cifar10, data, tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    arguments = ["tiny", "--data", data, "--out", tmp_path / "run", *SMALL, *more]
    assert message in refused(capsys, cifar10.train, *arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_training_refuses_torn_data(cifar10, data, tmp_path, capsys):
    path = tmp_path / "torn.tar.gz"
    path.write_bytes(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + bytes(100))
    for content, name in ((path.read_bytes(), path), (data.read_bytes()[:3000], tmp_path / "torn.npz")):
        name.write_bytes(content)
        arguments = ["tiny", "--data", name, "--out", tmp_path / "run", *SMALL]
        assert name.name in refused(capsys, cifar10.train, *arguments)
    gc.collect()  # numpy leaves torn files open


def test_training_refuses_the_folder_of_another_run(cifar10, data, run, capsys):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    arguments = ["tiny", "--data", data, "--out", run, *SMALL, "--unet.channels", "8"]
    message = refused(capsys, cifar10.train, *arguments)
    assert "another network" in message
    assert "step-00000002" in message
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


# ---------------------------------------------------------------------- sampling


@pytest.mark.parametrize("guidance", ["0", "1.5"])
@pytest.mark.parametrize("sampler", ["euler", "predictor-corrector", "multistep", "ode"])
def test_samples(cifar10, run, tmp_path, capsys, sampler, guidance):
    out = tmp_path / "new" / "drawn.npz"
    arguments = ["--run", run, "--out", out, "--n", "5", "--sampler", sampler, "--steps", "2", "--guidance", guidance]
    cifar10.sample.main([str(a) for a in [*arguments, "--grid", "4"]])
    assert "5 images in" in capsys.readouterr().out
    drawn = read_npz(out)
    assert set(drawn) == {"x", "y"}
    assert drawn["x"].shape == (5, 32, 32, 3)
    assert drawn["x"].dtype == np.uint8
    assert drawn["x"].std() > 10
    assert drawn["y"].tolist() == [0, 1, 2, 0, 1]
    with Image.open(out.with_suffix(".png")) as grid:
        shown = np.asarray(grid)[::2, ::2]
    assert np.array_equal(shown[:, :32], drawn["x"][0])
    assert np.array_equal(shown[:, 99:], drawn["x"][3])
    assert {path.name for path in out.parent.iterdir()} == {"drawn.npz", "drawn.png"}


def draw(cifar10, run, out, *more):
    arguments = ["--run", run, "--out", out, "--sampler", "euler", "--steps", "2", "--n", "4", *more]
    cifar10.sample.main([str(a) for a in arguments])
    return read_npz(out)


def test_seed_label_guidance_and_boundary(cifar10, run, tmp_path):
    first = draw(cifar10, run, tmp_path / "a.npz")
    assert np.array_equal(draw(cifar10, run, tmp_path / "b.npz")["x"], first["x"])
    assert not np.array_equal(draw(cifar10, run, tmp_path / "c.npz", "--seed", "1")["x"], first["x"])
    assert draw(cifar10, run, tmp_path / "d.npz", "--label", "2")["y"].tolist() == [2] * 4
    chunks = draw(cifar10, run, tmp_path / "e.npz", "--chunk", "3")
    assert chunks["x"].shape == (4, 32, 32, 3)
    assert chunks["y"].tolist() == [0, 1, 2, 0]
    projected = draw(cifar10, run, tmp_path / "f.npz", "--boundary", "project")["x"]
    assert not np.array_equal(projected, first["x"])


def test_samples_without_labels(cifar10, without_labels):
    cifar10.sample.main(["--run", str(without_labels), "--n", "2", "--sampler", "multistep", "--steps", "2"])
    drawn = read_npz(without_labels / "samples.npz")
    assert set(drawn) == {"x"}
    assert drawn["x"].shape == (2, 32, 32, 3)


def test_samples_are_of_the_averaged_weights(cifar10, run):
    config, model, names = cifar10.sample.load(run, "cpu")
    other, _ = config.build((3, 32, 32), 3)
    assert load_averaged(run, other) == 3
    assert names == ["0", "1", "2"]
    assert not model.training
    for name, value in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--run", "nowhere"], "no run in nowhere"),
        (["--label", "3"], "label 3 is none of the run's 3 classes"),
        (["--label", "-1"], "label -1"),
        (["--n", "0"], "n must be"),
        (["--chunk", "0"], "chunk"),
        (["--steps", "0"], "steps"),
        (["--grid", "0"], "grid"),
        (["--boundary", "project"], "boundary is how Euler's moves end"),
        (["--out", "x.png"], "x.png: samples are written as an .npz"),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_sampling_refuses(cifar10, run, tmp_path, capsys, more, message):
    arguments = ["--run", run, "--out", tmp_path / "x.npz", "--n", "1", "--sampler", "multistep", "--steps", "1", *more]
    assert message in refused(capsys, cifar10.sample, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arrays", "more", "message"),
    [
        ({"x": np.zeros((4, 32, 32, 3), np.float32)}, [], "must hold x, uint8"),
        ({"y": np.zeros(4)}, [], "it has nothing"),
        ({"x": np.zeros((4, 31, 31, 3), np.uint8)}, [], "s.npz has images of [3, 31, 31]; the run's are [3, 32, 32]"),
        ({"x": np.zeros((4, 32, 32), np.uint8)}, [], "images of [1, 32, 32]"),
        (b"PKtorn", [], "s.npz cannot be read"),
        ({"x": np.zeros((4, 32, 32, 3), np.uint8)}, ["--bits", "-2"], "bits must be at least 0"),
        ({"x": np.zeros((4, 32, 32, 3), np.uint8)}, ["--chunk", "0"], "chunk must be at least 1"),
        ({"x": np.zeros((4, 32, 32, 3), np.uint8)}, ["--probes", "1"], "probes must be at least 2"),
    ],
    ids=range(8),
)
def test_evaluation_refuses(cifar10, run, tmp_path, capsys, arrays, more, message):
    """Before anything is computed."""
    path = tmp_path / "s.npz"
    path.write_bytes(arrays) if isinstance(arrays, bytes) else np.savez(path, **arrays)
    assert message in refused(capsys, cifar10.evaluate, "--run", run, "--samples", path, *more)
    assert not (run / "evaluation.json").exists()


def test_bits_need_dequantised_levels(cifar10, without_labels, tmp_path, capsys):
    np.savez(tmp_path / "s.npz", x=np.zeros((4, 32, 32, 3), np.uint8))
    words = ["--run", without_labels, "--samples", tmp_path / "s.npz", "--bits", "4"]
    assert "--bits needs a run that was trained with --dequantise" in refused(capsys, cifar10.evaluate, *words)


def test_sampling_refuses_guidance_and_labels_without_classes(cifar10, without_labels, capsys):
    assert "no classes" in refused(capsys, cifar10.sample, "--run", without_labels, "--guidance", "1")
    assert "0 classes" in refused(capsys, cifar10.sample, "--run", without_labels, "--label", "0")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"shape": [3, 32, 32], "names": []}'])
def test_sampling_refuses_what_is_no_run(cifar10, tmp_path, capsys, content):
    (tmp_path / "config.json").write_text(content)
    assert "not the configuration of a run" in refused(capsys, cifar10.sample, "--run", tmp_path)


def test_sampling_refuses_a_run_without_checkpoints(cifar10, run, tmp_path, capsys):
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    assert "no checkpoint" in refused(capsys, cifar10.sample, "--run", tmp_path)


def test_the_exit_code(tmp_path):
    command = [sys.executable, FOLDER / "sample.py", "--run", tmp_path / "nowhere"]
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent.parent), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("error: no run in")
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_comparison_goes_on_where_numbers_overflow(cifar10, data, tmp_path, capsys):
    """Without walls nothing holds a sample back: such a cell is grey and has no share, and the others are as ever."""
    train(cifar10, data, tmp_path, "--plan.steps", "1")
    with programs("compare") as modules:
        options = modules.compare.Options(tmp_path, weights=(0.0, 1e30), n=4, steps=3, shown=4, device="cpu")
        shares = modules.compare.compare(options)
    assert shares["clip"]["weight 1e+30"] is None
    assert "clip     weight 1e+30: diverged" in capsys.readouterr().out
    assert all(0 <= shares[way]["weight 0"] <= 1 for way in ("reflect", "project", "clip"))
    assert (tmp_path / "compare.png").is_file()
    assert json.loads((tmp_path / "compare.json").read_text()) == shares
