"""The page of the fleet in a real browser, in each of its states."""

from functools import partial
from itertools import product
from typing import Any

from playwright.sync_api import ConsoleMessage

from tests.browser import chromium
from tests.browser.serving import served
from tests.functional.processes import skip
from tests.helpers.torture import sample

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


def test_accessible() -> None:
    """Light and wide or dark and narrow, axe finds nothing, and the browser refuses nothing."""
    if chromium.path() is None:
        skip("this test needs Debian's package chromium: install it and run again")
    with served("fleet_gallery", "/fleet") as urls, chromium.browser() as browser:
        for state, (scheme, width) in {ALWAYS, *sample([*product(urls, LOOKS)], 1)}:
            page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 700})
            refused: list[str] = []
            page.on("console", partial(hear, refused))
            page.goto(urls[state])
            page.evaluate(_OPEN)
            found = chromium.complaints(page)
            assert found + refused == [], (state, scheme, width)
            page.close()
