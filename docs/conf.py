"""How the pages here become HTML: python -m sphinx -W -b html docs docs/_build.

Nothing is fetched, while building or while reading: formulas are written as MathML, which browsers draw themselves.
"""

import re
import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

sys.path.insert(0, str(Path(__file__).parent.parent))

from constrained_diffusion import __version__

project = "constrained_diffusion"
author = "The constrained_diffusion developers"
copyright = "the constrained_diffusion developers"  # noqa: A001 (Sphinx's name)
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
default_role = "code"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {"member-order": "bysource"}
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: name for name in ("Array", "Cloud", "Condition", "Grid", "Points", "Score")}
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
strip_signature_backslash = True  # so that the underscore of fitted attributes survives

html_theme = "furo"
html_title = "Reflected diffusion"
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False


def write_math(self: HTML5Translator, node: nodes.Element) -> None:
    """A formula as MathML; what the converter does not know is a warning."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    markup = convert(node.astext(), display=display)
    if display == "block":
        markup = f'<div style="overflow-x: auto">{markup}</div>'  # where the window is narrower than a formula
    if "\\" in markup or "<mi>&</mi>" in markup:
        logging.getLogger(__name__).warning("formula not understood: %s", node.astext(), location=node)
    self.body.append(markup)
    raise nodes.SkipNode


def tidy_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Drop what a module may import, which concerns those who change it, and what Python says of all strings."""
    kept = [] if what == "data" else lines
    lines[:] = re.sub(r"May use: .*?\.(\s+|\Z)", "", "\n".join(kept), flags=re.DOTALL).splitlines()


def tidy_signature(app: Sphinx, what: str, name: str, obj: object, options: object, arguments: str, result: str):
    """Aliases of types by their names, in unions too."""
    return tuple(part and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", part) for part in (arguments, result))


def setup(app: Sphinx) -> None:
    """Register the renderer that ``html_math_renderer`` names, and the above."""
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
    app.connect("autodoc-process-docstring", tidy_docstring)
    app.connect("autodoc-process-signature", tidy_signature)
