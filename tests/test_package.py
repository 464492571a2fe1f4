"""Promises about the package as a whole."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import constrained_diffusion

ROOT = Path(constrained_diffusion.__file__).parent
DOMAINS = {
    name
    for name in constrained_diffusion.domains.__all__
    if isinstance(getattr(constrained_diffusion, name, None), type)
    and issubclass(getattr(constrained_diffusion, name), constrained_diffusion.Domain)
} - {"Domain"}
LISTS = ("__init__.py", "public.py")  # of public names
UPPER = [p for p in ROOT.rglob("*.py") if "domains" not in p.relative_to(ROOT).parts and p.name not in LISTS]


def test_all_public_names_exist():
    for name in constrained_diffusion.__all__:
        assert hasattr(constrained_diffusion, name)
    modules = ("domains", "losses", "samplers", "networks", "testing", "metrics", "plotting", "checkpoints", "tables")
    for module in modules:
        loaded = importlib.import_module(f"constrained_diffusion.{module}")
        for name in loaded.__all__:
            assert hasattr(loaded, name)


def test_the_names_people_import():
    from constrained_diffusion import Hypercube, ReflectedSDE
    from constrained_diffusion.domains import Hypercube as Same

    assert Same is Hypercube
    assert ReflectedSDE(Hypercube(2)).domain == Hypercube(2)


@pytest.mark.parametrize("path", UPPER, ids=lambda p: p.name)
def test_nothing_above_the_domains_asks_which_domain_it_has(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and "domains" in (node.module or ""):
            assert not DOMAINS & {alias.name for alias in node.names}
        if isinstance(node, ast.Attribute):
            assert node.attr not in DOMAINS


def test_domains_is_no_package_by_itself():
    code = f"import sys; sys.path.insert(0, {str(ROOT.parent)!r}); import domains"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "import constrained_diffusion.domains" in done.stderr


def test_import_loads_nothing_heavy():
    code = (
        "import sys, constrained_diffusion; "
        "heavy = {'matplotlib', 'scipy', 'networkx', 'geoopt', 'torchdiffeq', 'pandas'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert done.stdout.strip() == "[]"
