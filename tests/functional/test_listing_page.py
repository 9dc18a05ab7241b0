"""The page of `/ls` in a real browser."""

import time
from pathlib import Path
from typing import Any

import pytest_twisted
from playwright.sync_api import Browser, ConsoleMessage
from tuf.api.metadata import TargetFile
from twisted.internet.threads import deferToThread

from tests.browser import chromium
from tests.browser.serving import served
from tests.functional.conftest import StartDaemon
from tests.functional.processes import skip
from tests.functional.update_server import archive, started
from tests.helpers.signed_metadata import Signed, channel, write_key
from tests.helpers.torture import sample

DAY = 86400

#: Colour schemes and widths: the table needs more than 72rem, and is a list below.
LOOKS: tuple[tuple[Any, int], ...] = (
    ("light", 1280),
    ("dark", 1153),
    ("dark", 1152),
    ("light", 320),
)


@pytest_twisted.ensureDeferred
async def test_page(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """
    The server's own address leads to it. Dark and light, wide and narrow, axe finds nothing, the
    browser has nothing to refuse, and a click downloads an archive.
    """
    if chromium.path() is None:
        skip("this test needs Debian's package chromium: install it and run again")
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
    assert await deferToThread(look, f"{server.url}/ls", newest.read_bytes()) == []


def test_accessible() -> None:
    """In each state, light and wide or dark and narrow, axe finds no violation."""
    if chromium.path() is None:
        skip("this test needs Debian's package chromium: install it and run again")
    with served("listing_gallery", "/ls") as urls, chromium.browser() as browser:
        for state, url in sample([*urls.items()], 1):
            for scheme, width in (LOOKS[0], LOOKS[-1]):
                page = browser.new_page(
                    color_scheme=scheme, viewport={"width": width, "height": 700}
                )
                page.goto(url)
                for details in page.locator("summary").all():
                    details.click()
                assert chromium.complaints(page) == [], (state, scheme, width)
                page.close()


def look(url: str, newest: bytes) -> list[Any]:
    """Check the page in each colour scheme and width; returns all faults."""
    with chromium.browser() as browser:
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
