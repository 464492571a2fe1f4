"""The command line: every command, what it says, its exit codes, and what it leaves behind."""

import errno
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from constrained_diffusion import Hypercube, Polytope, ReflectedDiffusion
from constrained_diffusion.cli import main
from constrained_diffusion.cli.choosing import choose
from constrained_diffusion.cli.parser import DEFAULTS, build_parser, joined
from constrained_diffusion.cli.samplers import SAMPLERS
from constrained_diffusion.domains.specs import Extent
from constrained_diffusion.tables import open_table, write_table
from tests.trainings import ROOT

TINY = ["--steps", "20", "--width", "16", "--depth", "1", "--quiet"]
FEW = ["--steps", "5", "--quiet"]


def rows(kind="box", n=200):
    g = np.random.default_rng(0)
    if kind == "parts":
        return g.dirichlet([2.0, 1.0, 0.5], n)
    if kind == "ball":
        x = g.normal(size=(n, 2))
        return 3 * x / np.linalg.norm(x, axis=1, keepdims=True) * g.random((n, 1)) ** 0.5
    return np.stack([g.beta(2, 5, n) * 1000 + 300, g.beta(1, 3, n), g.integers(0, 3, n).astype(float)], 1)


def put(path, text):
    path.write_text(text)
    return str(path)


def table(path, names=("mass", "share", "kind"), x=None):
    write_table(path, list(names), rows() if x is None else x)
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return table(tmp_path_factory.mktemp("data") / "x.csv")


@pytest.fixture(scope="module")
def fitted(data, tmp_path_factory):
    """A run with a condition."""
    run = str(tmp_path_factory.mktemp("run") / "run")
    assert main(["fit", data, "--domain", "box", "--condition", "kind", "--out", run, *TINY]) == 0
    return run


@pytest.fixture
def says(capsys):
    """Run a command; its exit code, stdout and stderr."""

    def run(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.fixture
def fails(says):
    """Run a command that must fail in one line, which has some words."""

    def run(*words, message, code=1):
        got, out, err = says(*words)
        assert got == code, err
        assert out == ""
        assert err.startswith("constrained-diffusion: error: ")
        assert err.count("\n") == 1
        assert message in err
        return err

    return run


def values(path):
    return np.concatenate(list(open_table(path).pieces()))


# ---------------------------------------------------------------------- fit


def test_fit_says_what_it_picked(says, data, tmp_path):
    code, out, err = says("fit", data, "--domain", "box", "--out", tmp_path / "run", *TINY[:-1])
    assert code == 0
    for words in ("chosen by all 200 rows", "mass", "320 .. ", "training on 200 of 200 rows", "training: 100%"):
        assert words in err
    for words in ("sigma", "in Hypercube(shape=(3,), low=0.0, high=1.0)", "steps     20", "loss", "saved in"):
        assert words in out
    files = sorted(p.name.split("-")[0] for p in (tmp_path / "run").iterdir())
    assert files == ["config.json", "table.json", "weights"]


def test_the_box_contains_all_rows_and_few_are_trained_on(says, data, tmp_path):
    code, out, err = says("fit", data, "--domain", "box", "--out", tmp_path / "run", "--rows", 10, "--json", *TINY)
    figures = json.loads(out)
    assert (code, err) == (0, "")
    assert (figures["rows"], figures["rows_used"]) == (200, 10)
    x = rows()
    for j, name in enumerate(("mass", "share", "kind")):
        low, high = figures["bounds"][name]
        width = np.ptp(x[:, j])
        assert x[:, j].min() - width / 20 <= low <= x[:, j].min()
        assert x[:, j].max() <= high <= x[:, j].max() + width / 20
        assert figures["data_range"][name] == [x[:, j].min(), x[:, j].max()]
    assert figures["bounds"]["kind"] == [0, 2]  # round already
    assert 0 < figures["sigma_min"] < figures["sigma_max"]
    assert figures["domain"]["domain"] == "Hypercube"


def test_defaults_are_those_of_the_estimator():
    known = inspect.signature(ReflectedDiffusion).parameters
    assert {name: known[name].default for name in DEFAULTS} == DEFAULTS
    options = build_parser().parse_args(["fit", "x.csv", "--domain", "box", "--out", "run"])
    assert {name: getattr(options, name) for name in ("weighting", "seed")} == {
        name: known[name].default for name in ("weighting", "seed")
    }


def test_arguments_reach_the_estimator(data, tmp_path):
    words = "--steps 11 --width 12 --depth 2 --batch-size 33 --learning-rate 0.01 --dropout 0.2 --weighting likelihood"
    run = tmp_path / "run"
    assert main(["fit", data, "--domain", "box", "--out", str(run), "--seed", "5", "--quiet", *words.split()]) == 0
    model = ReflectedDiffusion.load(run)
    assert (model.steps, model.width, model.depth, model.batch_size) == (11, 12, 2, 33)
    assert (model.learning_rate, model.dropout, model.weighting, model.seed) == (0.01, 0.2, "likelihood", 5)
    assert model.fit(rows(), progress=False).sample(3).shape == (3, 3)


def test_early_stopping(says, data, tmp_path):
    run = tmp_path / "run"
    code, out, _ = says("fit", data, "--domain", "box", "--out", run, "--early-stopping", "--json", *TINY)
    assert code == 0
    assert json.loads(out)["validation_loss"] > 0


SPECS = {
    "box:-1,2000": ("box", Hypercube(3, -1.0, 2000.0)),
    "simplex": ("parts", "Simplex(n=3, metric='euclidean')"),
    "simplex:cumulative": ("parts", "Simplex(n=3, metric='cumulative')"),
    "cube": ("parts", Hypercube(3)),
    "ball": ("ball", "Ball(d=2, radius=3.0)"),
    "ball:4": ("ball", "Ball(d=2, radius=4.0)"),
    "euclidean": ("ball", "Euclidean(shape=(2,))"),
}


@pytest.mark.parametrize("spec", SPECS)
def test_domains_by_a_word(spec):
    kind, expected = SPECS[spec]
    x = torch.from_numpy(rows(kind))
    domain = choose(spec, Extent.of(x))
    assert domain == expected or repr(domain) == expected
    assert domain.contains(x, atol=1e-12).all()


@pytest.mark.parametrize("spec", ["simplex", "ball"])
def test_runs_on_other_domains(tmp_path, spec):
    x = rows({"simplex": "parts"}.get(spec, spec))
    path = table(tmp_path / "x.npy", range(x.shape[1]), x)
    assert main(["fit", path, "--domain", spec, "--out", str(tmp_path / "run"), *TINY]) == 0
    assert main(["sample", str(tmp_path / "run"), "--out", str(tmp_path / "y.npy"), *FEW]) == 0
    domain = ReflectedDiffusion.load(tmp_path / "run").domain
    assert domain.contains(torch.from_numpy(np.load(tmp_path / "y.npy"))).all()


def test_bounds_by_column(data, tmp_path, fails):
    words = ["fit", data, "--domain", "box", "--out", tmp_path / "run", *TINY]
    assert main([*map(str, words), "--low", "-1,-2,-3", "--high", "2000"]) == 0
    domain = ReflectedDiffusion.load(tmp_path / "run").domain
    assert domain == Hypercube(3, [-1.0, -2.0, -3.0], 2000.0)
    assert main([*map(str, words), "--low", "0", "--overwrite"]) == 0
    low, high = ReflectedDiffusion.load(tmp_path / "run").domain.bounding_box
    assert low.tolist() == [0, 0, 0]
    assert rows()[:, 1].max() <= high[1] < rows()[:, 1].max() + 0.05
    words = [*words, "--overwrite"]
    fails(*words, "--low", "1,2", message="'1,2' has 2 numbers; expected one, or one for each of 3 columns")
    fails(*words, "--low", "a", message="'a' must be numbers")
    fails(*words, "--high", "100", message="column 'mass' has no room from 330.391 to 100")
    fails(*words, "--domain", "box:0,1", "--low", "1", message="--low and --high go with a word alone")
    fails(*words, "--domain", "ball", "--low", "1", message="'1;' must be numbers")


def test_domains_in_files(tmp_path, fails):
    x = rows("parts")[:, :2]
    path = table(tmp_path / "x.csv", "ab", x)
    A, b = np.array([[1.0, 1.0], [-1, 0], [0, -1]]), np.array([1.0, 0, 0])
    np.savez(tmp_path / "A.npz", A=A, b=b)
    (tmp_path / "A.json").write_text(json.dumps(Polytope(A, b).config()))
    words = [
        "fit",
        path,
        "--out",
        tmp_path / "run",
        *TINY,
        "--steps",
        "1",
        "--batch-size",
        "8",
        "--overwrite",
        "--domain",
    ]
    for spec in (f"polytope:{tmp_path / 'A.npz'}", tmp_path / "A.json"):
        assert choose(str(spec), Extent.of(torch.from_numpy(x))) == Polytope(A, b)
    assert main([*map(str, words), str(spec)]) == 0
    assert ReflectedDiffusion.load(tmp_path / "run").domain == Polytope(A, b)
    np.savez(tmp_path / "A.npz", A=A)
    fails(*words, f"polytope:{tmp_path / 'A.npz'}", message="has no array 'b'")
    np.savez(tmp_path / "A.npz", A=np.ones((3, 3)), b=b, A_eq=np.ones((1, 3)))
    fails(*words, f"polytope:{tmp_path / 'A.npz'}", message="has no array 'b_eq'")
    (tmp_path / "A.npz").write_text("torn")
    fails(*words, f"polytope:{tmp_path / 'A.npz'}", message="is torn, or no NPZ file")
    fails(*words, "polytope", message="write polytope:FILE.npz")
    fails(*words, f"polytope:{tmp_path / 'none.npz'}", message="none.npz: No such file")
    for text in ("{", "[]", '{"domain": "Nothing"}', '{"domain": "Ball"}'):
        (tmp_path / "A.json").write_text(text)
        fails(*words, tmp_path / "A.json", message="A.json is not the configuration of a domain")
    (tmp_path / "A.json").write_text(json.dumps(Hypercube(3).config()))
    fails(*words, tmp_path / "A.json", message="has 3 coordinates, the table 2 columns")


OWN = """
from constrained_diffusion import Ball

class {name}(Ball):
    specs = {{"{word}": "vectors shorter than four"}}

    @classmethod
    def from_data(cls, data, spec="{word}"):
        return cls(2, 4.0)

whole, kind, broken = {name}(2, 4.0), {name}, {name}(2)
del broken.radius
"""


def test_a_domain_of_the_users_own(says, fails, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_disc.py").write_text(OWN.format(name="OwnDiscOfCli", word="own-disc"))
    (tmp_path / "bad_module.py").write_text("1 / 0")
    table(tmp_path / "x.csv", "ab", rows("ball"))
    words = ["fit", "x.csv", "--out", "run", *TINY, "--overwrite", "--domain"]
    fails(*words, "own-disc", message="there is no domain 'own-disc'")
    fails(*words, "own_disc:none", message="the module has no 'none'")
    fails(*words, "own_disc:kind", message="own_disc:kind must be a domain")
    fails(*words, "own_disc:broken", message="the domain cannot be saved")
    fails(*words, "no_module:whole", message="the module 'no_module' cannot be imported")
    fails(*words, "bad_module:whole", message="'bad_module' cannot be imported: ZeroDivisionError: division by zero")
    for spec in (["own_disc:whole"], ["own-disc", "--import", "own_disc"]):
        assert says(*words, *spec)[0] == 0
        fails("sample", "run", "--out", "y.csv", *FEW, message="add --import own_disc")
        assert says("sample", "run", "--out", "y.csv", "--import", "own_disc", *FEW)[0] == 0
        assert 3 < np.linalg.norm(values("y.csv"), axis=1).max() <= 4
    assert "own-disc" in says("domains", "--import", "own_disc")[1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("boxx", "there is no domain 'boxx': did you mean 'box'?"),
        ("xyzzy", "there is no domain 'xyzzy': known are ball, box, cube"),
        ("box:1", "write box:LOW,HIGH"),
        ("box:1,1", "low must be below high"),
        ("box:0,inf", "must be finite"),
        ("cube:1", "cube is the unit cube"),
        ("cube", "row 1 (mass="),
        ("ball:100", "lies outside Ball(d=3, radius=100.0): drop such rows, or choose a larger domain"),
        ("ball:-1", "radius must be positive"),
        ("simplex", "rows sum to 3"),
        ("simplex:flat", "the metric is euclidean or cumulative"),
        ("euclidean:1", "takes no argument"),
        ("nowhere.json", "nowhere.json: No such file"),
    ],
)
def test_specs_that_do_not_fit(fails, data, tmp_path, spec, message):
    fails("fit", data, "--domain", spec, "--out", tmp_path / "run", *TINY, message=message)
    assert not (tmp_path / "run").exists()


def test_rows_outside_are_found_beyond_those_trained_on(fails, tmp_path):
    x = rows("parts", 5000)
    x[4321] = [1.5, 0, 0]
    path = table(tmp_path / "x.npy", "abc", x)
    words = ["fit", path, "--domain", "cube", "--out", tmp_path / "run", "--rows", 10, *TINY]
    fails(*words, message="x.npy: row 4322 (c0=1.5, c1=0, c2=0) lies outside Hypercube")


def test_constant_columns_have_no_box(fails, tmp_path):
    path = table(tmp_path / "x.csv", "ab", np.array([[1.0, 5], [2, 5], [3, 5]]))
    words = ["fit", path, "--out", tmp_path / "run", *TINY, "--domain", "box"]
    fails(*words, message="column 'b' is constant (5): leave it out, or give its bounds (--low, --high)")
    assert main([*map(str, words), "--low", "0", "--high", "10"]) == 0


# ---------------------------------------------------------------------- totals


def test_percentages_come_back_as_percentages(says, fails, tmp_path):
    x = np.round(100 * rows("parts"), 1)  # rows sum to 99.9, 100 or 100.1
    path = table(tmp_path / "x.csv", ["sand", "silt", "clay"], x)
    words = ["fit", path, "--domain", "simplex", "--out", tmp_path / "run", *TINY]
    fails(*words, message="--total 100 divides each row by its sum")
    code, out, _ = says(*words, "--total", "100", "--json")
    assert code == 0
    figures = json.loads(out)
    assert figures["total"] == 100
    assert figures["bounds"]["clay"] == [0, 100]
    assert says("sample", tmp_path / "run", "--out", tmp_path / "y.csv", "-n", 50, *FEW)[0] == 0
    y = values(tmp_path / "y.csv")
    assert open_table(tmp_path / "y.csv").names == ("sand", "silt", "clay")
    assert np.allclose(y.sum(1), 100, rtol=1e-12)
    assert says("evaluate", tmp_path / "run", path, "--n", 20, *FEW)[0] == 0
    x[7] /= 2
    table(tmp_path / "x.csv", ["sand", "silt", "clay"], x)
    fails(*words, "--total", "100", "--overwrite", message="row 8 sums to 50, not to 100")
    fails(*words, "--overwrite", message="compositions have one common sum")


def test_densities_are_in_the_units_of_the_data(says, tmp_path):
    x, means = rows("parts"), []
    for size in (1, 100):
        path, run = table(tmp_path / f"x{size}.npy", "abc", size * x), tmp_path / f"run{size}"
        assert says("fit", path, "--domain", "simplex", "--total", size, "--out", run, *TINY)[0] == 0
        means.append(json.loads(says("log-prob", run, path, "--json", "--quiet")[1])["mean"])
    assert means[0] - means[1] == pytest.approx(2 * np.log(100), abs=1e-3)


# ---------------------------------------------------------------------- sample


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "npy", "npz"])
def test_columns_come_out_as_they_went_in(says, fitted, tmp_path, suffix):
    path = tmp_path / "new" / f"y.{suffix}"
    code, out, err = says("sample", fitted, "-n", 30, "--out", path, *FEW)
    assert (code, err) == (0, "")
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
    code, out, _ = says("plot", fitted, data, "--out", tmp_path / "new" / "x.png", "-n", 50, *FEW)
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
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    fails("fit", data, "--domain", "box", "--out", tmp_path / "run", *TINY, message="No space left on device")
    assert not (tmp_path / "run").exists()


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


# ---------------------------------------------------------------------- tables that cannot be used

BAD = {
    "empty.csv": (b"", "is empty"),
    "header.csv": (b"a,b\n", "has no rows"),
    "ragged.csv": (b"a,b\n1,2\n3\n", "row 2 has 1 values"),
    "nan.csv": (b"a,b\n1,2\n3,nan\n", "row 2: column 'b' is missing or NaN"),
    "inf.csv": (b"a,b\n1,2\n3,inf\n", "row 2: column 'b' is inf"),
    "text.csv": (b"a,b\n1,2\n3,red\n", "column 'b' holds text: 'red' in row 2"),
    "x.txt": (b"1", "cannot read files that end in '.txt'"),
    "torn.parquet": (b"PAR1torn", "is torn"),
    "torn.npz": (b"PKtorn", "is torn"),
    "torn.npy": (b"\x93NUMPY", "is torn"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables(fails, fitted, tmp_path, name):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    fails("fit", tmp_path / name, "--domain", "box", "--out", tmp_path / "run", *TINY, message=message)
    (tmp_path / name).write_bytes(content.replace(b"a,b", b"mass,share"))
    words = [] if "torn" in name or content in (b"", b"1") else ["--traceback"]
    code = main(["sample", fitted, "--condition-file", str(tmp_path / name), "--out", str(tmp_path / "y.csv"), *words])
    assert code == 1
    assert not (tmp_path / "y.csv").exists()


def test_columns(fails, says, data, tmp_path):
    words = ["fit", data, "--domain", "box", "--out", tmp_path / "run", *TINY]
    fails(*words, "--columns", "mas", message="has no column 'mas': did you mean 'mass'?")
    fails(*words, "--columns", "mass,mass", message="asked twice for 'mass'")
    fails(*words, "--columns", "mass,kind", "--condition", "kind", message="in --columns and in --condition")
    fails(*words, "--condition", "mass,share,kind", message="no column is left to learn")
    assert says(*words, "--columns", "kind,mass")[0] == 0
    assert says("sample", tmp_path / "run", "--out", tmp_path / "y.csv", *FEW)[0] == 0
    assert open_table(tmp_path / "y.csv").names == ("kind", "mass")


def test_device_that_is_not_there(fails, fitted, data, tmp_path):
    words = ["fit", data, "--domain", "box", "--out", tmp_path / "run", *TINY, "--device"]
    fails(*words, "abacus", message="device 'abacus' cannot be used")
    fails("sample", fitted, "--out", tmp_path / "y.csv", "--device", "cuda:77", message="'cuda:77' cannot be used")


# ---------------------------------------------------------------------- manners


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["dance"],
        ["fit", "x.csv"],
        ["fit", "x.csv", "--domain", "box", "--out", "r", "--steps", "0"],
        ["fit", "x.csv", "--domain", "box", "--out", "r", "--learning-rate", "-1"],
        ["fit", "x.csv", "--domain", "box", "--out", "r", "--dropout", "1"],
        ["fit", "x.csv", "--domain", "box", "--out", "r", "--seed", "-1"],
        ["fit", "x.csv", "--domain", "box", "--out", "r", "--columns", "a,,b"],
        ["sample", "run", "--out", "y.csv", "--sampler", "best"],
        ["sample", "run", "--out", "y.csv", "--condition-values", "a"],
        ["sample", "run", "--out", "y.csv", "--condition-values", "a=b"],
        ["sample", "run", "--out", "y.csv", "--condition-values", "a=1", "--condition-file", "z.csv"],
    ],
    ids=" ".join,
)
def test_wrong_usage(says, words):
    code, out, err = says(*words)
    assert code == 2
    assert out == ""
    assert "usage:" in err
    assert "error:" in err


def test_lists_that_begin_with_a_minus():
    assert joined(["fit", "--low", "-1,0", "--high=2", "-n", "5"]) == ["fit", "--low=-1,0", "--high=2", "-n", "5"]
    assert joined(["--seed", "-1", "--quiet", "-n", "-2"]) == ["--seed=-1", "--quiet", "-n", "-2"]


def test_traceback_is_shown_on_demand(says, tmp_path):
    code, _, err = says("log-prob", tmp_path, tmp_path / "x.csv", "--traceback")
    assert code == 1
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("constrained-diffusion: error: ")


def test_an_error_of_our_own_is_one_line_too(fails, fitted, data, monkeypatch):
    def broken(*_, **__):
        raise KeyError("nothing\nof that name")

    monkeypatch.setattr(ReflectedDiffusion, "load", broken)
    fails("log-prob", fitted, data, message="KeyError: 'nothing")


def test_warnings_are_one_line(says, fitted, data, monkeypatch):
    import warnings

    real = ReflectedDiffusion.load

    def load(*args, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("the walk\nmixes slowly", stacklevel=1)
        return real(*args, **options)

    monkeypatch.setattr(ReflectedDiffusion, "load", load)
    words = ["plot", fitted, "--loss", "--out", "/nowhere.gif"]
    monkeypatch.setattr("constrained_diffusion.cli.plot._SUFFIXES", (".gif",))
    monkeypatch.setattr("constrained_diffusion.cli.plot.save_figure", lambda *_: None)
    assert says(*words)[2] == "constrained-diffusion: warning: the walk mixes slowly\n"
    assert says(*words, "--quiet")[2] == ""


def test_an_interrupt_before_anything_is_learnt(says, data, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(ReflectedDiffusion, "fit", interrupted)
    code, out, err = says("fit", data, "--domain", "box", "--out", tmp_path / "run")
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "constrained-diffusion: interrupted"
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------- real processes

COMMAND = [sys.executable, "-m", "constrained_diffusion"]


def buffered():
    """The environment, in which output is written at the end: argparse overlooks what goes wrong before."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def test_help_needs_no_torch():
    code = (
        "import sys; from constrained_diffusion.cli import main\n"
        "for words in (['--help'], ['fit', '--help'], ['--version'], ['fit']): main(words)\n"
        "assert not {'torch', 'numpy', 'pyarrow', 'tqdm'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    for words in ("usage: constrained-diffusion", "box:LOW,HIGH", "constrained-diffusion 0."):
        assert words in done.stdout


def test_ctrl_c_saves_what_was_learnt(says, data, tmp_path):
    run = tmp_path / "run"
    words = ["fit", data, "--domain", "box", "--out", run, "--width", "16", "--steps", "1000000", "--json"]
    process = subprocess.Popen([*COMMAND, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        seen = b""
        while b"training:" not in seen:
            seen += process.stderr.read1()
            assert process.poll() is None, seen
        time.sleep(2)  # some hundred steps
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert b"Traceback" not in err
    assert b"interrupted: what was learnt so far is saved in" in err
    figures = json.loads(out)
    assert figures["interrupted"]
    assert 50 <= figures["steps"] < 1_000_000
    assert says("sample", run, "--out", tmp_path / "y.csv", "-n", 5, *FEW)[0] == 0


@pytest.mark.parametrize("words", [["--help"], ["domains"]], ids=str)
def test_output_that_nobody_reads(words):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*COMMAND, *words], stdout=write, stderr=subprocess.PIPE, cwd=ROOT, env=buffered(), check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_output_that_does_not_fit():
    with Path("/dev/full").open("wb") as out:
        done = subprocess.run(
            [*COMMAND, "--help"], stdout=out, stderr=subprocess.PIPE, cwd=ROOT, env=buffered(), check=False
        )
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert done.stderr.startswith(b"constrained-diffusion: error: No space left on device")
