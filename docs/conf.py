"""Sphinx builds the site from docs/ and from the docstrings of tfppo: `make docs`."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "extensions")]

import tfppo  # noqa: E402  after the path is set
from tfppo.cli import startup  # noqa: E402

startup.import_tensorflow()  # autodoc needs TensorFlow, which would print lines about CUDA

project = "tfppo"
author = "the authors of tfppo"
copyright = f"2026, {author}"
release = version = tfppo.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "docstrings",
    "faults",
    "mathml",
    "metric_table",
    "recipe_table",
    "renamed",
    "settings",
]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "attrs_inline"]
myst_heading_anchors = 4

default_role = "code"  # docstrings have `single backticks`
smartquotes = False  # [T, ...] is a shape
autosummary_generate = False
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"  # no script from a network, as MathJax would be
html_title = f"tfppo {version}"
copybutton_exclude = ".linenos, .gp"
