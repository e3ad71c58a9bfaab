"""A real browser without a window: Chromium, driven through Playwright, or asked what it makes of a page."""

import html
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Names under which systems install it."""

_PATIENCE_MS = 180_000
"""MLflow's pages draw in seconds, and in minutes where other programs need the machine."""


def find_chromium() -> str | None:
    """The path of an installed Chromium; None if there is none."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


@contextmanager
def open_page(width: int = 1600, height: int = 1000) -> Iterator[Page]:
    """A page of a fresh browser that knows nothing of earlier visits."""
    with sync_playwright() as playwright:
        # Chromium's sandbox does not run as root, as containers do; only pages of this machine are opened.
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(_PATIENCE_MS)
            yield page
        finally:
            browser.close()


def render(page: Path) -> str:
    """Without a network, the page's elements after its scripts have run; a skip where there is no Chromium."""
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
