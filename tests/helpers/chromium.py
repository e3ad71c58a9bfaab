"""What a real browser, without a window and without a network, makes of a page."""

import html
import re
import subprocess
from pathlib import Path

import pytest

from helpers.browser import find_chromium


def render(page: Path) -> str:
    """The page's elements after its scripts have run; a skip where there is no Chromium."""
    program = find_chromium()
    if program is None:
        pytest.skip("no browser: install Chromium")
    command = [
        program, "--headless=new", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND",
        "--virtual-time-budget=30000", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def render_charts(page: Path) -> dict[str, list[str]]:
    """The texts in each of the page's SVG charts, by its title.

    It asserts that no chart is empty and that the page holds no script of another place.
    """
    elements = render(page)
    assert "https://cdn" not in re.sub(r"<script>.*?</script>", "", elements, flags=re.DOTALL)
    charts = {}
    for chart in re.findall(r"<svg .*?</svg>", elements, re.DOTALL):
        texts = [html.unescape(text) for text in re.findall(r"<text [^>]*>([^<]+)</text>", chart)]
        titles = chart.rpartition('role-title"')[2]  # that of the whole chart comes after those of its parts
        if not texts:  # the icon of a menu
            continue
        title = html.unescape(re.findall(r"<text [^>]*>([^<]+)</text>", titles)[0])
        assert len(re.findall(r"<path ", chart)) > 10, title
        charts[title] = texts
    return charts
