"""A browser for the functional tests of the pages."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar, cast

import pytest
from playwright.sync_api import Browser, Page, expect
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from tests.browser import chromium
from tests.functional.processes import TIMEOUT

#: These tests run in one process, because they share a browser.
IN_BROWSER = pytest.mark.xdist_group("browser")

_Result = TypeVar("_Result")


class Tabs:
    """A browser in its own thread, because Playwright's calls would block the reactor."""

    def __init__(self) -> None:
        expect.set_options(timeout=1000 * TIMEOUT)
        self._thread = ThreadPool(minthreads=1, maxthreads=1)
        self._thread.start()
        self._running = ExitStack()
        self._browser: Browser

    def do(self, call: Callable[[], _Result]) -> Deferred[_Result]:
        """Run a function in the browser's thread."""
        return deferToThreadPool(cast(IReactorFromThreads, reactor), self._thread, call)

    def browse(self, call: Callable[[Browser], _Result]) -> Deferred[_Result]:
        """Run a function with the browser, in its thread."""
        return self.do(lambda: call(self._browser))

    async def start(self) -> None:
        """Start the browser."""
        self._browser = await self.do(lambda: self._running.enter_context(chromium.browser()))

    async def close_all(self) -> None:
        """Close all windows."""

        def close(browser: Browser) -> None:
            for each in browser.contexts:
                each.close()

        await self.browse(close)

    async def stop(self) -> None:
        """End the browser."""
        await self.do(self._running.close)
        self._thread.stop()

    async def open(self, url: str, **options: Any) -> "Tab":
        """Open a page in a window with its own cookies and cache."""
        page = await self.do(lambda: self._browser.new_context(**options).new_page())
        await self.do(lambda: page.set_default_timeout(1000 * TIMEOUT))
        tab = Tab(self, page)
        await tab.do(lambda page: page.goto(url))
        return tab


class Tab:
    """One page."""

    def __init__(self, tabs: Tabs, page: Page) -> None:
        self._tabs = tabs
        self._page = page

    def do(self, call: Callable[[Page], _Result]) -> Deferred[_Result]:
        """Run a function with the page."""
        return self._tabs.do(lambda: call(self._page))

    async def shows(self, *texts: str) -> None:
        """Wait until each of these texts is visible."""
        for text in texts:
            await self.do(
                lambda page, text=text: expect(  # type: ignore[misc]
                    page.get_by_text(text).filter(visible=True).first
                ).to_be_visible()
            )

    async def headline(self, text: str) -> None:
        """Wait until this is the headline."""
        await self.do(lambda page: expect(page.locator("#headline")).to_have_text(text))

    async def current_stage(self, text: str) -> None:
        """Wait until this is the current stage."""
        current = '#stages [aria-current="step"]'
        await self.do(lambda page: expect(page.locator(current)).to_have_text(text))

    async def hears(self) -> None:
        """Wait until the page receives the agent's events."""
        await self.do(lambda page: page.wait_for_function("source.readyState === 1"))

    async def click(self, name: str = "Update Box") -> None:
        """Click a button."""
        await self.do(lambda page: page.get_by_role("button", name=name).click())

    async def update(self) -> None:
        """Let the box check, and click on Update Box."""
        await self.click("Check now")
        await self.click()

    async def html(self, selector: str) -> str:
        """Read the markup of an element."""
        return await self.do(lambda page: page.locator(selector).inner_html())

    async def text(self, selector: str) -> str:
        """Read the text of an element."""
        text: str | None = await self.do(lambda page: page.locator(selector).text_content())
        return text or ""
