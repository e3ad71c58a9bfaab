"""Sphinx: the site's sources are the repository's root, so every relative link works here as it does on GitHub."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

project = "harveyseg"
author = "The harveyseg developers"
found = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
assert found is not None
version = release = found[1]

extensions = ["myst_nb", "sphinx.ext.apidoc", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "benchmarks/results/*.md", "src/harveyseg/models/packaged/*/README.md"]
exclude_patterns = ["docs/_build", "docs/jupyter_execute", "docs/trial"]
nb_execution_mode = "off"  # notebooks hold their results; tests/docs/test_notebook.py runs them
myst_heading_anchors = 3  # links to headings, as on GitHub, are checked too

# The reference of the library; what is built on it (demo, studies, Kaggle, command line) is left out, and so is
# the file that MLflow runs: MLflow cannot be imported in the way in which Sphinx reads modules.
PACKAGE = ROOT / "src" / "harveyseg"
apidoc_modules = [
    {
        "path": str(PACKAGE),
        "destination": "docs/api",  # ignored by git
        "exclude_patterns": [
            str(PACKAGE / name)
            for name in ("champion/logged_model.py", "cli.py", "data/demo/*", "kaggle", "reproduction")
        ],
        "module_first": True,  # one page for each package
    }
]
autodoc_member_order = "bysource"
napoleon_use_ivar = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!harveyseg\.).*"),  # other libraries: their inventories would need a network
    ("py:.*", r"harveyseg\.(cli|data\.demo|kaggle|reproduction)\b.*"),
    ("py:class", r".*\.(_\w+|T|P|\w+T)"),  # private names and type variables in signatures
]

suppress_warnings = ["ref.python"]  # a shape such as (height, width) is not a reference

html_theme = "furo"
html_title = f"{project} {version}"
html_show_copyright = False
