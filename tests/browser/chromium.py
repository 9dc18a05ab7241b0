"""Runs Debian's chromium for Playwright, and checks pages in it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

_AXE = Path(__file__).with_name("axe.min.js")

#: It must send no requests of its own.
_QUIET = (
    *("--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-gpu"),
)

#: All else that axe has found in a page of hundreds of rows takes seconds to send.
_VIOLATIONS = """axe.run({resultTypes: ["violations"]}).then(({violations}) =>
  violations.map(({id, nodes}) => [id, nodes.map(({html}) => html)]))"""


def path() -> str | None:
    """Find it; None when it is not installed."""
    return shutil.which("chromium")


@contextmanager
def browser() -> Iterator[Browser]:
    """Run it while the context lasts."""
    options: dict[str, Any] = {"executable_path": path(), "args": [*_QUIET]}
    if os.geteuid() == 0:
        # Its sandbox does not work for root.
        options["chromium_sandbox"] = False
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(**options)
        try:
            yield chromium
        finally:
            chromium.close()


def complaints(page: Page) -> list[Any]:
    """Return axe's violations, and whether the page is wider than its window."""
    page.evaluate(_AXE.read_text())
    said: list[Any] = page.evaluate(_VIOLATIONS)
    too_wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    return [*said, "too wide"] if too_wide else said
