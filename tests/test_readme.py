"""The README and the documents stay true: their code runs, their files exist."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
TEXT = README.read_text() if README.is_file() else ""
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
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


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {"__name__": "__main__"}
    for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(code, str(page), "exec"), names)


def test_files_that_are_named_exist():
    named = re.findall(r"\]\(([^)#:]+)\)", TEXT) + re.findall(r"`((?:examples|benchmarks)/\w+\.py)`", TEXT)
    named += [path for command in COMMANDS for path in re.findall(r"python ((?:examples|benchmarks)/\S+\.py)", command)]
    named += re.findall(r"python ((?:examples|benchmarks)/\S+\.py)", TEXT)
    assert named
    for path in named:
        assert (ROOT / path).is_file(), path
    for page in PAGES[1:]:
        linked = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
        commands = re.findall(r"python ((?:examples|benchmarks)/\w+\.py)", page.read_text())
        for path in [*(page.parent / name for name in linked), *(ROOT / name for name in commands)]:
            assert path.is_file(), path
