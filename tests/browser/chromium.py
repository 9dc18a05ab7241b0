"""Starts Debian's chromium for Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, sync_playwright

#: It is to ask nobody but the pages under test for anything.
_QUIET = (
    *("--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-gpu"),
)


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
