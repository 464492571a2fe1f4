"""Commands on a trained run: sample, evaluate, log-prob, plot; and runs in folders."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from constrained_diffusion import Hypercube, ReflectedDiffusion
from constrained_diffusion.cli import main
from constrained_diffusion.cli.samplers import SAMPLERS
from constrained_diffusion.tables import open_table
from tests.cli.commands import FEW, TINY, put, rows, table, values

# ---------------------------------------------------------------------- sample


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "npy", "npz"])
def test_columns_come_out_as_they_went_in(says, fitted, tmp_path, suffix):
    path = tmp_path / "new" / f"y.{suffix}"
    code, out, _ = says("sample", fitted, "-n", 30, "--out", path, "--steps", 5)
    assert code == 0
    assert out == f"30 rows in {path}: mass, share; 0 % outside the domain\n"
    y = values(path)
    assert open_table(path).names == (("c0", "c1") if suffix == "npy" else ("mass", "share"))
    assert y.shape == (30, 2)
    assert 300 <= y[:, 0].min() < y[:, 0].max() <= 1300
    assert y[:, 1].max() <= 1


def test_the_same_seed_gives_the_same_samples(fitted, tmp_path):
    for name, words in {"a": [], "b": [], "c": ["--seed", "1"]}.items():
        assert main(["sample", fitted, "--out", str(tmp_path / f"{name}.npy"), "-n", "40", *FEW, *words]) == 0
    a, b, c = (np.load(tmp_path / f"{name}.npy") for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert np.array_equal(a, ReflectedDiffusion.load(fitted).sample(40, steps=5, seed=0))


def test_what_is_read_is_not_written_over(fails, fitted, data):
    before = Path(data).read_bytes()
    fails("log-prob", fitted, data, "--out", data, message=f"--out {data} is the file that is read: give another")
    fails("sample", fitted, "--condition-file", data, "--out", data, *FEW, message="is the file that is read")
    assert Path(data).read_bytes() == before


def test_many_samples_are_drawn_in_parts(fitted, tmp_path, monkeypatch):
    monkeypatch.setattr("constrained_diffusion.cli.sample._PIECE", 40)
    for n, name in ((40, "few"), (100, "many")):
        assert main(["sample", fitted, "--out", str(tmp_path / f"{name}.npy"), "-n", str(n), *FEW]) == 0
    few, many = np.load(tmp_path / "few.npy"), np.load(tmp_path / "many.npy")
    assert many.shape == (100, 2)
    assert np.array_equal(many[:40], few)
    assert len(np.unique(many[:, 0])) == 100


def test_conditions(says, fails, fitted, data, tmp_path):
    path = tmp_path / "y.csv"
    words = ["sample", fitted, "--out", path, *FEW]
    assert says(*words, "-n", 7, "--condition-values", "kind=2", "--guidance", "1.5")[0] == 0
    assert open_table(path).names == ("mass", "share", "kind")
    assert values(path)[:, 2].tolist() == [2] * 7
    assert says(*words, "--condition-file", data)[0] == 0
    assert np.array_equal(values(path)[:, 2], rows()[:, 2])
    assert says(*words, "--condition-file", data, "-n", 5)[0] == 0
    assert len(values(path)) == 5
    old = path.read_bytes()
    fails(*words, "--condition-file", data, "-n", 500, message="has 200 rows, fewer than -n 500")
    fails(*words, "--condition-values", "kin=2", message="no condition 'kin': did you mean 'kind'?")
    fails(*words, "--condition-values", "kind=2,mass=1", message="no condition 'mass': it has kind")
    fails(*words, "--guidance", "1", message="--guidance leads towards a condition")
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["y.csv"]


def test_conditions_of_a_run_without(fails, data, tmp_path):
    run = tmp_path / "run"
    assert main(["fit", data, "--domain", "box", "--out", str(run), *TINY]) == 0
    for words in (["--condition-values", "kind=1"], ["--condition-file", data]):
        fails("sample", run, "--out", tmp_path / "y.csv", *FEW, *words, message="fitted without conditions")


def test_two_conditions_are_given_together(fails, data, tmp_path):
    run = tmp_path / "run"
    words = ["fit", data, "--domain", "box", "--out", str(run), "--condition", "kind,share", *TINY]
    assert main(words) == 0
    words = ["sample", run, "--out", tmp_path / "y.npz", *FEW, "--condition-values"]
    fails(*words, "kind=1", message="lacks 'share': give kind=..,share=..")
    assert main([*map(str, words), "share=0.5,kind=1"]) == 0
    with np.load(tmp_path / "y.npz") as file:
        assert (file["kind"] == 1).all()
        assert (file["share"] == 0.5).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler(fitted, tmp_path, sampler):
    words = ["sample", fitted, "-n", "5", "--out", str(tmp_path / "y.npy"), "--sampler", sampler]
    assert main([*words, *(["--quiet"] if sampler == "ode" else FEW)]) == 0
    assert np.load(tmp_path / "y.npy").shape == (5, 2)


# ---------------------------------------------------------------------- evaluate, log-prob, plot, domains


def test_evaluate(says, fitted, data):
    words = ["evaluate", fitted, data, "--n", 60, "--log-prob", *FEW]
    code, out, err = says(*words, "--json")
    assert (code, err) == (0, "")
    figures = json.loads(out)
    assert figures["compared"] == 60
    assert figures["outside"] == {"data": 0, "samples": 0}
    for name in ("sliced_wasserstein", "mmd"):
        found = figures[name]
        assert found["ratio"] == pytest.approx(found["value"] / found["floor"])
    assert figures["columns"]["mass"]["mean"]["data"] == pytest.approx(rows()[:, 0].mean(), rel=0.1)
    assert 0 <= figures["near_wall"]["samples"] <= 1
    assert figures["log_prob"]["rows"] == 120
    again = json.loads(says(*words, "--json")[1])
    assert {**again, "seconds": 0} == {**figures, "seconds": 0}
    text = says(*words)[1]
    for word in ("sliced Wasserstein", "MMD", "floor", "outside the domain", "of a wall", "log-density", "mass"):
        assert word in text


def test_a_perfect_model_scores_its_floor(says, fitted, data, monkeypatch):
    """Samples that are data: the ratio is one but for chance."""
    x = rows(n=4000)
    monkeypatch.setattr(ReflectedDiffusion, "sample", lambda self, n, *_, **__: x[200 : 200 + n, :2])
    figures = json.loads(says("evaluate", fitted, data, "--json", "--quiet")[1])
    assert 0.5 < figures["sliced_wasserstein"]["ratio"] < 1.6
    assert 0.5 < figures["mmd"]["ratio"] < 1.6


def test_evaluate_counts_rows_outside(says, fitted, tmp_path):
    x = rows()
    x[:50, 0] = 5000
    path = table(tmp_path / "x.csv", x=x)
    figures = json.loads(says("evaluate", fitted, path, "--json", "--log-prob", *FEW)[1])
    assert figures["outside"] == {"data": 0.25, "samples": 0}
    assert figures["log_prob"]["rows"] == 150


def test_unbounded_data_have_no_wall(says, tmp_path):
    path, run = table(tmp_path / "x.npy", "ab", rows("ball")), tmp_path / "run"
    code, out, _ = says("fit", path, "--domain", "euclidean", "--out", run, "--json", *TINY)
    assert code == 0
    assert json.loads(out)["bounds"] is None
    code, out, _ = says("evaluate", run, path, "--json", *FEW)
    assert code == 0
    assert json.loads(out)["near_wall"] is None
    assert "of a wall" not in says("evaluate", run, path, *FEW)[1]


def test_log_prob(says, fitted, data, tmp_path, monkeypatch):
    code, out, _ = says("log-prob", fitted, data, "--quiet")
    assert code == 0
    numbers = np.array(out.split(), dtype=float)
    expected = ReflectedDiffusion.load(fitted).log_prob(rows()[:, :2], rows()[:, 2:])
    assert np.allclose(numbers, expected, atol=1e-5)
    monkeypatch.setattr("constrained_diffusion.cli.log_prob._PIECE", 64)
    code, out, _ = says("log-prob", fitted, data, "--out", tmp_path / "p.parquet", "--json", "--quiet")
    figures = json.loads(out)
    assert open_table(tmp_path / "p.parquet").names == ("log_prob",)
    assert np.allclose(values(tmp_path / "p.parquet")[:, 0], numbers, atol=1e-2)  # the solver's steps suit a piece
    assert figures["rows"] == 200
    assert figures["mean"] == pytest.approx(numbers.mean(), abs=1e-2)


def test_log_prob_outside_is_minus_infinity(says, fitted, tmp_path, monkeypatch):
    monkeypatch.setattr("constrained_diffusion.cli.log_prob._PIECE", 64)
    x = rows()
    x[[3, 150], 1] = 7.5
    path = table(tmp_path / "x.csv", x=x)
    code, out, err = says("log-prob", fitted, path)
    assert code == 0
    numbers = np.array(out.split(), dtype=float)
    assert np.flatnonzero(np.isneginf(numbers)).tolist() == [3, 150]
    assert "2 rows lie outside Hypercube" in err
    assert "200 rows (198 inside), mean" in err
    figures = json.loads(says("log-prob", fitted, path, "--json", "--quiet")[1])
    assert (figures["rows"], figures["outside"]) == (200, 2)
    assert figures["mean"] == pytest.approx(numbers[np.isfinite(numbers)].mean())
    x[:, 1] = 7.5
    figures = json.loads(says("log-prob", fitted, table(path, x=x), "--json", "--quiet")[1])
    assert (figures["outside"], figures["mean"]) == (200, None)


def test_data_with_other_columns(says, fails, fitted, tmp_path):
    other = table(tmp_path / "other.csv", ["weight", "share", "kind"])
    fails("log-prob", fitted, other, "--quiet", message="has no column 'mass': it has weight, share, kind")
    more = table(tmp_path / "more.csv", ["id", "kind", "share", "mass"], rows()[:, [0, 2, 1, 0]])
    assert says("evaluate", fitted, more, *FEW)[0] == 0
    nameless = table(tmp_path / "x.npy")  # in the order of the run
    assert says("evaluate", fitted, nameless, *FEW)[0] == 0
    two = table(tmp_path / "two.npy", "ab", rows()[:, :2])
    fails("evaluate", fitted, two, *FEW, message="has no column 'mass'")


def test_plot(says, fails, fitted, data, tmp_path):
    code, out, _ = says("plot", fitted, data, "--out", tmp_path / "new" / "x.png", "-n", 50, "--steps", 5)
    assert code == 0
    assert out.startswith("picture: ")
    assert (tmp_path / "new" / "x.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = says("plot", fitted, "--loss", "--out", tmp_path / "x.svg", "--json", "--quiet")
    assert code == 0
    assert json.loads(out)["command"] == "plot"
    assert "<svg" in (tmp_path / "x.svg").read_text()
    fails("plot", fitted, "--out", tmp_path / "y.png", message="give DATA to draw samples beside, or --loss")
    fails("plot", fitted, data, "--loss", "--out", tmp_path / "y.png", message="--loss draws the loss curve")
    fails("plot", fitted, data, "--out", tmp_path / "y.gif", message="pictures end in .png, .pdf, .svg")


def test_domains_are_listed(says):
    code, out, err = says("domains")
    assert (code, err) == (0, "")
    for word in ("box", "cube", "simplex", "ball", "euclidean", "polytope", "FILE.json", "MODULE:NAME", "--total 100"):
        assert word in out
    listed = json.loads(says("domains", "--json")[1])["domains"]
    assert {"box", "cube"} == {d["spec"] for d in listed if d["class"] == "Hypercube"}
    assert all(d["needs"] for d in listed)


# ---------------------------------------------------------------------- runs in folders


def test_runs_are_not_overwritten_unasked(fails, fitted, data, tmp_path, monkeypatch):
    monkeypatch.setattr(ReflectedDiffusion, "fit", lambda *_, **__: pytest.fail("trained before it looked"))
    words = ["fit", data, "--domain", "box", *TINY, "--out"]
    fails(*words, fitted, message="holds a saved run: choose another folder, or replace it with --overwrite")
    put(tmp_path / "file", "")
    fails(*words, tmp_path / "file", message="is a file")
    fails(*words, tmp_path / "file" / "run", message="cannot write to")
    fails(*words, tmp_path, message="is not empty, and holds no saved run")
    fails(*words, tmp_path, "--overwrite", message="is not empty, and holds no saved run")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failure_leaves_no_folder_and_no_old_one_changed(fails, data, tmp_path):
    words = ["fit", data, "--domain", "box", "--out", tmp_path / "run", *TINY]
    assert main([str(w) for w in words]) == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    fails(*words, "--overwrite", "--columns", "mass,none", message="has no column 'none'")
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before
    fails("fit", tmp_path / "none.csv", "--domain", "box", "--out", tmp_path / "new", message="no such file")
    assert not (tmp_path / "new").exists()


def test_a_full_disk(fails, data, tmp_path, monkeypatch):
    def full(handle):
        if os.fstat(handle).st_size > 4096:  # there is room for the columns' names
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    fails("fit", data, "--domain", "box", "--out", tmp_path / "run", *TINY, message="No space left on device")
    assert not (tmp_path / "run").exists()
    monkeypatch.undo()
    words = ["fit", data, "--domain", "box", "--out", tmp_path / "old", *TINY, "--columns"]
    assert main([*map(str, words), "mass,share"]) == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "old").iterdir()}
    monkeypatch.setattr(os, "fsync", full)
    fails(*words, "share,mass", "--overwrite", message="No space left on device")  # not the old model by new names
    assert {p.name: p.read_bytes() for p in (tmp_path / "old").iterdir()} == before


def test_runs_that_cannot_be_loaded(fails, fitted, data, tmp_path):
    words = ["--out", tmp_path / "y.csv", *FEW]
    fails("sample", tmp_path / "none", *words, message="no saved run")
    run = tmp_path / "run"
    assert main(["fit", data, "--domain", "box", "--out", str(run), *TINY]) == 0
    kept = (run / "table.json").read_text()
    for text in ("{", "[]", "{}", '{"format": 1, "colours": []}'):
        (run / "table.json").write_text(text)
        fails("sample", run, *words, message="table.json is torn, or not what a run keeps")
    (run / "table.json").write_text(kept.replace('"format": 1', '"format": 2'))
    fails("sample", run, *words, message="has format 2; this version reads 1")
    (run / "table.json").write_text(kept.replace('"mass",', ""))
    fails("sample", run, *words, message="table.json names 2 columns, the model has 3")
    (run / "table.json").write_text(kept)
    weights = next(run.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    fails("sample", run, *words, message="is damaged")


def test_a_run_that_python_saved(says, tmp_path):
    model = ReflectedDiffusion(Hypercube(2), width=16, depth=1, steps=20)
    model.fit(rows()[:, 1:2].repeat(2, 1), rows()[:, 2:], progress=False).save(tmp_path / "run")
    assert says("sample", tmp_path / "run", "--out", tmp_path / "y.csv", "-n", 5, *FEW)[0] == 0
    assert open_table(tmp_path / "y.csv").names == ("c0", "c1")
    assert says("sample", tmp_path / "run", "--out", tmp_path / "y.csv", "--condition-values", "c2=1", *FEW)[0] == 0
