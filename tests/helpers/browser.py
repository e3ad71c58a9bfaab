"""A real browser without a window: Chromium, driven through Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

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
