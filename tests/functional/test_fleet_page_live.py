"""The page of the fleet in a real browser, with a real server."""

from pathlib import Path
from typing import Any, cast

import pytest_twisted
from playwright.sync_api import Browser, BrowserContext, Page
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread

from tests.functional.conftest import StartDaemon
from tests.functional.fleet import short_folder
from tests.functional.tabs import IN_BROWSER, Tabs
from tests.functional.test_fleet_page import PASSWORD, PageServer
from tests.functional.test_pace import RELEASE, Site

pytestmark = IN_BROWSER


@pytest_twisted.ensureDeferred
async def test_hold(start: StartDaemon, updates: Path, tabs: Tabs) -> None:
    """
    An operator holds a release by the form, in a browser without JavaScript.

    The page of another operator shows that at once, keeps what she types, and her focus; when the
    server stops it says that its numbers are old.
    """
    with short_folder() as folder:
        server = PageServer(Site(start, updates), folder)
        await server.start()
        await tabs.browse(lambda browser: look(browser, server))


def look(browser: Browser, server: PageServer) -> None:
    """Look at the page in two windows."""
    watching = log_in(browser, server).new_page()
    watching.goto(f"{server.url}/fleet")
    watching.locator("body[data-live]").wait_for()
    watching.locator("summary", has_text="Hold").click()
    reason = watching.get_by_label("Reason, for the audit").locator("visible=true")
    reason.fill("I am still typ")
    hold(log_in(browser, server, java_script_enabled=False).new_page(), server)
    watching.get_by_text("Held by anna").wait_for()
    assert reason.input_value() == "I am still typ"
    assert watching.evaluate("document.activeElement.tagName") == "TEXTAREA"
    # The forms are renewed as soon as she has closed hers.
    watching.locator("summary", has_text="Hold").click()
    watching.locator("h1").click()
    watching.locator("summary", has_text="Resume").wait_for()
    stop: Any = lambda: Deferred.fromCoroutine(server.site.server.stop())  # noqa: E731
    blockingCallFromThread(cast(Any, reactor), stop)
    watching.get_by_text("The connection to the server is lost.").wait_for()


def log_in(
    browser: Browser, server: PageServer, *, java_script_enabled: bool = True
) -> BrowserContext:
    """Open a window of somebody who has typed the password."""
    return browser.new_context(
        http_credentials={"username": "anna", "password": PASSWORD, "origin": server.url},
        java_script_enabled=java_script_enabled,
    )


def hold(page: Page, server: PageServer) -> None:
    """Hold the release by the form."""
    page.goto(f"{server.url}/fleet")
    page.locator("summary", has_text="Hold").click()
    page.get_by_label("Reason, for the audit").locator("visible=true").fill("Box 7 is hot")
    page.get_by_role("button", name=f"Hold {RELEASE}").click()
    page.get_by_text(f"Release {RELEASE} in stable is held").wait_for()
    page.get_by_text("Box 7 is hot").first.wait_for()
