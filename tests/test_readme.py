"""The README and the documents stay true: their code runs, their files exist."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from constrained_diffusion.cli import main

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
TEXT = README.read_text() if README.is_file() else ""
DOCS = ROOT / "docs"
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if "_build" not in page.parts]
BLOCK = re.compile(r"```(python|console)\n(.*?)```", re.DOTALL)
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)  # each by itself
COMMANDS = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)


def test_there_are_snippets_and_commands():
    assert len(SNIPPETS) >= 3
    assert len(COMMANDS) == 2


@pytest.mark.parametrize("code", SNIPPETS, ids=lambda code: code.splitlines()[0])
def test_snippet_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(compile(code, str(README), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(
    "page", [p for p in PAGES if BLOCK.search(p.read_text())], ids=lambda page: str(page.relative_to(DOCS))
)
def test_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {"__name__": "__main__"}
    for kind, code in BLOCK.findall(page.read_text()):
        if kind == "python":
            exec(compile(code, str(page), "exec"), names)
        else:
            run_commands(code)


def run_commands(code):
    for line in code.splitlines():
        dollar, command, *argv = shlex.split(line, comments=True)
        assert (dollar, command) == ("$", "constrained-diffusion"), line
        assert main([*argv, "--quiet"]) == 0, line


def test_files_that_are_named_exist():
    named = re.findall(r"\]\(([^)#:]+)\)", TEXT) + re.findall(r"`((?:examples|benchmarks)/\w+\.py)`", TEXT)
    named += [path for command in COMMANDS for path in re.findall(r"python ((?:examples|benchmarks)/\S+\.py)", command)]
    named += re.findall(r"python ((?:examples|benchmarks)/\S+\.py)", TEXT)
    assert named
    for path in named:
        assert (ROOT / path).is_file(), path
    for page in PAGES:
        linked = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
        commands = re.findall(r"python ((?:examples|benchmarks)/\w+\.py)", page.read_text())
        for path in [*(page.parent / name for name in linked), *(ROOT / name for name in commands)]:
            assert path.is_file(), path
