"""The page of the fleet in a real browser, in each of its states."""

from functools import partial
from itertools import product
from typing import Any

import pytest_twisted
from playwright.sync_api import Browser, ConsoleMessage

from tests.browser import chromium
from tests.browser.serving import served
from tests.functional.tabs import IN_BROWSER, Tabs
from tests.helpers.torture import sample

pytestmark = IN_BROWSER

#: Colour schemes and widths.
LOOKS: tuple[tuple[Any, int], ...] = (("light", 1280), ("dark", 390))

#: Opens all forms and tables at once.
_OPEN = """for (const details of document.querySelectorAll("details")) {
  details.removeAttribute("name");
  details.open = true;
}"""

#: The state that shows most of what there is, and the looks in which it is always tried.
ALWAYS = ("held", LOOKS[0])


def hear(refused: list[str], message: ConsoleMessage) -> None:
    """Remember what the browser says."""
    refused.append(message.text)


@pytest_twisted.ensureDeferred
async def test_accessible(tabs: Tabs) -> None:
    """Light and wide or dark and narrow, axe finds nothing, and the browser refuses nothing."""
    await tabs.browse(check_states)


def check_states(browser: Browser) -> None:
    with served("fleet_gallery", "/fleet") as urls:
        for state, (scheme, width) in {ALWAYS, *sample([*product(urls, LOOKS)], 1)}:
            page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 700})
            refused: list[str] = []
            page.on("console", partial(hear, refused))
            page.goto(urls[state])
            page.evaluate(_OPEN)
            found = chromium.complaints(page)
            assert found + refused == [], (state, scheme, width)
            page.close()
