"""Sphinx: the site's sources are the repository's root, so every relative link works here as it does on GitHub."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

project = "harveyseg"
author = "The harveyseg developers"
found = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
assert found is not None
version = release = found[1]

extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "benchmarks/results/*.md"]
exclude_patterns = ["docs/_build"]

myst_heading_anchors = 3  # links to headings, as on GitHub, are checked too

html_theme = "furo"
html_title = f"{project} {version}"
html_show_copyright = False
