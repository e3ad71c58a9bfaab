"""Sphinx: the site is built from the repository's root, so every relative link works here as it does on GitHub."""

from importlib.metadata import version as installed

project = "harveyseg"
author = "The harveyseg developers"
copyright = author
version = release = installed("harveyseg")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "benchmarks/results/*.md"]
exclude_patterns = ["docs/_build"]
nitpicky = True

myst_heading_anchors = 3

html_theme = "furo"
html_title = "harveyseg"
