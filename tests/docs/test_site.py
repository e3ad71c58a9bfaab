"""The documentation's site: builds without a warning, links included, and needs no network to be read."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT

pytestmark = pytest.mark.slow

LOADED = re.compile(r"""<(?:script|img|iframe|link)[^>]*\s(?:src|href)=["']((?:https?:)?//[^"']+)""")
IN_STYLES = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    options = ["-c", "docs", "--fail-on-warning", "--keep-going", "--nitpicky", "--quiet"]
    command = [sys.executable, "-m", "sphinx", *options, ".", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_nothing_is_loaded_from_a_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert {"docs/index.html", "README.html", "docs/api/modules.html"} <= {
        page.relative_to(site).as_posix() for page in pages
    }
    for page in pages:
        assert LOADED.findall(page.read_text(encoding="utf-8")) == [], page
    for style in site.rglob("*.css"):
        assert IN_STYLES.findall(style.read_text(encoding="utf-8")) == [], style


def test_every_page_of_the_documentation_is_in_its_index(site: Path) -> None:
    contents = (site / "docs" / "index.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f'href="{page.stem}.html' in contents or page.stem == "index", page
