"""The page of `/ls` in a real browser."""

import time
from pathlib import Path
from typing import Any

import pytest_twisted
from playwright.sync_api import Browser, ConsoleMessage
from tuf.api.metadata import TargetFile

from tests.browser import chromium
from tests.browser.serving import served
from tests.functional.conftest import StartDaemon
from tests.functional.tabs import IN_BROWSER, Tabs
from tests.functional.update_server import archive, started
from tests.helpers.signed_metadata import Signed, channel, write_key
from tests.helpers.torture import sample

DAY = 86400

pytestmark = IN_BROWSER

#: Colour schemes and widths: the table needs more than 72rem, and is a list below.
LOOKS: tuple[tuple[Any, int], ...] = (
    ("light", 1280),
    ("dark", 1153),
    ("dark", 1152),
    ("light", 320),
)

#: Unfolds all notes; hundreds of clicks would take seconds.
_OPEN = "document.querySelectorAll('details').forEach((each) => { each.open = true; })"


@pytest_twisted.ensureDeferred
async def test_page(start: StartDaemon, updates: Path, tmp_path: Path, tabs: Tabs) -> None:
    """
    The server's own address leads to it. Dark and light, wide and narrow, axe finds nothing, the
    browser has nothing to refuse, and a click downloads an archive.
    """
    now = int(time.time())
    _, other, newest = (archive(updates, now - days * DAY) for days in (9, 2, 1))
    signed = Signed(updates).init()
    targets = {
        "stable": channel(newest, {"rollout": {"percent": 25, "salt": "x"}}),
        other.name: TargetFile(1, {"sha256": "00" * 32}, other.name),
    }
    signed.targets(1, targets)
    signed.snapshot(1, 1)
    key = write_key(tmp_path / "timestamp.pem", signed.keys["timestamp"])
    server = await started(start, updates, "--timestamp-key", key)
    await server.says("signed timestamp")
    content = newest.read_bytes()
    assert await tabs.browse(lambda browser: look(browser, f"{server.url}/ls", content)) == []


@pytest_twisted.ensureDeferred
async def test_accessible(tabs: Tabs) -> None:
    """In each state, light and wide or dark and narrow, axe finds no violation."""
    await tabs.browse(check_states)


def check_states(browser: Browser) -> None:
    with served("listing_gallery", "/ls") as urls:
        for state, url in sample([*urls.items()], 1):
            for scheme, width in (LOOKS[0], LOOKS[-1]):
                page = browser.new_page(
                    color_scheme=scheme, viewport={"width": width, "height": 700}
                )
                page.goto(url)
                page.evaluate(_OPEN)
                assert chromium.complaints(page) == [], (state, scheme, width)
                page.close()


def look(browser: Browser, url: str, newest: bytes) -> list[Any]:
    """Check the page in each colour scheme and width; returns all faults."""
    first = browser.new_page()
    first.goto(url.removesuffix("ls"))
    first.wait_for_url(url)
    first.close()
    return [
        each
        for scheme, width in LOOKS
        for each in look_once(browser, url, newest, color_scheme=scheme, width=width)
    ]


def look_once(
    browser: Browser, url: str, newest: bytes, *, color_scheme: Any, width: int
) -> list[Any]:
    """Check the page in one colour scheme and width."""
    context = browser.new_context(
        color_scheme=color_scheme, viewport={"width": width, "height": 700}
    )
    page = context.new_page()
    refused: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        refused.append(message.text)

    page.on("console", hear)
    page.goto(url)
    for text in ("stable: 25 % of the boxes", "does not match", "not signed", "not known yet"):
        page.get_by_text(text).first.wait_for()
    found = chromium.complaints(page)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").first.click()
    if download.value.path().read_bytes() != newest:
        found.append("the download is not the archive")
    context.close()
    return [(color_scheme, width, each) for each in (*found, *refused)]
