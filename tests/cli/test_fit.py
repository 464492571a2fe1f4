"""The command fit: what it picks, domains by word and by file, totals."""

import inspect
import json
import sys

import numpy as np
import pytest
import torch

from constrained_diffusion import Hypercube, Polytope, ReflectedDiffusion
from constrained_diffusion.cli import main
from constrained_diffusion.cli.choosing import choose
from constrained_diffusion.cli.parser import DEFAULTS, build_parser
from constrained_diffusion.domains.specs import Extent
from constrained_diffusion.tables import open_table
from tests.cli.commands import FEW, TINY, rows, table, values

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

whole, kind, broken, number = {name}(2, 4.0), {name}, {name}(2), 3
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
    fails(
        *words,
        "own_disc:kind",
        message="own_disc:kind is a class: make one there, such as mine = kind(...), and give own_disc:mine",
    )
    fails(*words, "own_disc:number", message="own_disc:number must be a domain")
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
    fails(
        *words,
        "--total",
        "100",
        "--overwrite",
        message="row 8 sums to 50, not to 100: drop it, name the parts with --columns",
    )
    fails(*words, "--overwrite", message="compositions have one common sum")


def test_densities_are_in_the_units_of_the_data(says, tmp_path):
    x, means = rows("parts"), []
    for size in (1, 100):
        path, run = table(tmp_path / f"x{size}.npy", "abc", size * x), tmp_path / f"run{size}"
        assert says("fit", path, "--domain", "simplex", "--total", size, "--out", run, *TINY)[0] == 0
        means.append(json.loads(says("log-prob", run, path, "--json", "--quiet")[1])["mean"])
    assert means[0] - means[1] == pytest.approx(2 * np.log(100), abs=1e-3)
