"""Takes pictures of the box's page and of the server's list: `make screenshots`."""

import json
import subprocess
import sys
from pathlib import Path

from tests.browser import listing_gallery
from tests.browser.chromium import browser

#: The folder of the pictures.
FOLDER = Path(__file__).parent.parent.parent / "docs" / "pictures"

#: The states in the pictures.
_MAIN = (
    *("up-to-date", "available", "downloading", "installing", "rebooting", "returned", "failed"),
    "unreachable",
)

#: The states with pictures in dark colours and on a phone.
_DARK, _NARROW = ("available",), ("installing",)


def main() -> int:
    """Take all pictures."""
    FOLDER.mkdir(exist_ok=True)
    with listing_gallery.served() as urls, browser() as chromium:
        page = chromium.new_page(color_scheme="light", viewport={"width": 1280, "height": 400})
        page.goto(urls["signed"])
        page.screenshot(path=FOLDER / "releases.png", full_page=True)
    gallery = subprocess.Popen(
        [sys.executable, "-m", "tests.browser.gallery"], stdout=subprocess.PIPE, text=True
    )
    assert gallery.stdout is not None
    try:
        with browser() as chromium:
            ports = json.loads(gallery.stdout.readline())
            for state in _MAIN:
                looks = [("", "light", 800)]
                looks += [("-dark", "dark", 800)] * (state in _DARK)
                looks += [("-phone", "light", 360)] * (state in _NARROW)
                for suffix, scheme, width in looks:
                    page = chromium.new_page(
                        color_scheme=scheme,  # type: ignore[arg-type]
                        viewport={"width": width, "height": 400},
                        device_scale_factor=1.5,
                    )
                    page.goto(f"http://127.0.0.1:{ports[state]}/")
                    page.locator("body[data-live]").wait_for()
                    if state == "installing":
                        page.get_by_text("Building release").wait_for()
                    page.screenshot(path=FOLDER / f"{state}{suffix}.png", full_page=True)
                    page.close()
    finally:
        gallery.terminate()
        gallery.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
