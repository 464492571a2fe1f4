"""A table, a run, and ways to call the command line."""

import pytest

from constrained_diffusion.cli import main
from tests.cli.commands import TINY, table


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
