"""The documentation builds without a warning or a network, and its interface pages miss no public name."""

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PUBLIC = ("", ".metrics", ".plotting", ".testing")  # modules whose names are all on the interface pages
DIRECTIVE = re.compile(r"^\.\. (currentmodule|auto\w+):: (\S+)", re.MULTILINE)


def public():
    for part in PUBLIC:
        module = f"constrained_diffusion{part}"
        yield from (f"{module}.{name}" for name in importlib.import_module(module).__all__)


def documented():
    """Full names of what the directives of the interface pages document."""
    names = []
    for page in sorted((DOCS / "interface").glob("*.md")):
        module = ""
        for kind, name in DIRECTIVE.findall(page.read_text()):
            if kind in ("currentmodule", "automodule"):
                module = name
            if kind == "automodule":
                found = importlib.import_module(name)
                names += [f"{name}.{each}" for each in found.__all__ if not isinstance(getattr(found, each), str)]
            elif kind != "currentmodule":
                names.append(f"{module}.{name}")
    return names


def test_every_public_name_is_on_the_interface_pages_once():
    names = documented()
    assert sorted(set(public()) - set(names)) == []
    assert sorted({name for name in names if names.count(name) > 1}) == []


@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="the extra `docs` is not installed")
def test_pages_build_without_a_warning_and_load_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", str(tmp_path / "state")]
    done = subprocess.run([*command, str(DOCS), str(tmp_path / "html")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path / "html"): path.read_text() for path in (tmp_path / "html").rglob("*.html")}
    sources = [page.relative_to(DOCS).with_suffix(".html") for page in DOCS.rglob("*.md") if "_build" not in page.parts]
    assert set(sources) <= set(pages)
    everything = "".join(pages.values())
    assert [name for name in public() if f'id="{name}"' not in everything] == []
    assert pages[Path("mathematics.html")].count("<math") > 50
    loaded = re.findall(r"<(?:script|img|iframe)\b[^>]*\bsrc=\"([^\"]*)\"", everything)
    loaded += re.findall(r"<link\b[^>]*\brel=\"(?:stylesheet|preload)\"[^>]*\bhref=\"([^\"]*)\"", everything)
    assert loaded
    assert [address for address in loaded if "//" in address] == []
