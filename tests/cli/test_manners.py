"""Tables that cannot be used, wrong usage, exit codes, interrupts and pipes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from constrained_diffusion import ReflectedDiffusion
from constrained_diffusion.cli import main
from constrained_diffusion.cli.parser import joined
from constrained_diffusion.tables import open_table
from tests.cli.commands import FEW, TINY
from tests.trainings import ROOT

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


def test_names_with_commas_are_quoted(fails, says, tmp_path):
    table = tmp_path / "x.csv"
    table.write_text('a,"mass, kg",c\n' + "".join(f"{i},{i % 7},red\n" for i in range(20)))
    words = ["fit", table, "--domain", "box", "--out", tmp_path / "run", *TINY]
    fails(*words, message="""fit without it: --columns 'a,"mass, kg"'""")
    assert says(*words, "--columns", 'a, "mass, kg"')[0] == 0
    assert says("sample", tmp_path / "run", "--out", tmp_path / "y.csv", *FEW)[0] == 0
    assert open_table(tmp_path / "y.csv").names == ("a", "mass, kg")


def test_quiet_says_nothing_of_files(capsys, fitted, data, tmp_path):
    """Nor of anything else, but what was asked for on stdout."""
    for words in (
        ["fit", data, "--domain", "box", "--out", str(tmp_path / "run"), *TINY],
        ["sample", fitted, "--out", str(tmp_path / "y.csv"), *FEW],
        ["log-prob", fitted, data, "--out", str(tmp_path / "p.csv"), "--quiet"],
        ["plot", fitted, "--loss", "--out", str(tmp_path / "loss.png"), "--quiet"],
    ):
        assert main(words) == 0
        assert capsys.readouterr() == ("", "")
    assert main(["evaluate", fitted, data, "-n", "50", *FEW]) == 0
    assert "sliced Wasserstein" in capsys.readouterr().out


def test_few_rows_prove_little(says, fitted, data):
    assert "mostly chance" in says("evaluate", fitted, data, "-n", "50", "--steps", "2")[2]
    assert "mostly chance" not in says("evaluate", fitted, data, "-n", "100", "--steps", "2")[2]


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
