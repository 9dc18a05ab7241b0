"""Takes pictures of the pages of the box, the server and the fleet: `make screenshots`."""

import base64
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page

from tests.browser.chromium import browser
from tests.browser.serving import served

#: The folder of the pictures.
FOLDER = Path(__file__).parent.parent.parent / "docs" / "pictures"

#: The state in a picture of its own.
_SINGLE = "available"

#: The widths of the window in pixels, and of the part in the middle that is shown; the columns of
#: their contact sheets.
_WIDTHS = ((1280, 760, 3), (390, 390, 6))

#: The states of a rollout of the fleet that are shown, and the pages on a phone.
_ROLLOUTS = ("begun", "baking", "ready", "asking", "held", "frozen", "observed", "done")
_ON_A_PHONE = ("held", "boxes", "box", "release", "audit")

_SHEET = """<style>
body { margin: 0; padding: 12px; background: #8a929b; font: 13px sans-serif; display: grid;
  gap: 12px; grid-template-columns: repeat(%d, 1fr); align-items: start; }
figure { margin: 0; }
img { display: block; width: 100%%; }
figcaption { padding: 2px; color: #fff; }
</style>"""

#: Encodes a PNG as WebP, which is smaller.
_TO_WEBP = """async (png) => {
  const image = new Image();
  image.src = `data:image/png;base64,${png}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL("image/webp", .88).split(",")[1];
}"""

#: The bottom of the last thing on the page, with some space.
_BOTTOM = "Math.ceil(document.querySelector('main').getBoundingClientRect().bottom) + 28"


def main() -> int:
    """Take all pictures."""
    FOLDER.mkdir(exist_ok=True)
    with served("listing_gallery", "/ls") as urls, browser() as chromium:
        page = chromium.new_page(color_scheme="light", viewport={"width": 1280, "height": 400})
        page.goto(urls["signed"])
        page.screenshot(path=FOLDER / "releases.png", full_page=True)
    with served("fleet_gallery", "/fleet") as urls, browser() as chromium:
        _take_fleet(chromium, urls)
    with served("gallery", "/") as urls, browser() as chromium:
        single = _take(chromium, urls[_SINGLE], "light", 1280, 760, 1.5)
        (FOLDER / f"{_SINGLE}.png").write_bytes(single)
        for width, part, columns in _WIDTHS:
            _make_sheet(chromium, urls, "light", width, part, columns)
            _make_sheet(chromium, urls, "dark", width, part, columns)
    return 0


def _make_sheet(
    chromium: Browser,
    urls: Mapping[str, str],
    scheme: Literal["light", "dark"],
    width: int,
    part: int,
    columns: int,
) -> None:
    """Make one picture of all states."""
    pictures = {state: _take(chromium, url, scheme, width, part) for state, url in urls.items()}
    _write_sheet(chromium, f"states-{scheme}-{width}", pictures, columns)


def _write_sheet(chromium: Browser, name: str, pictures: Mapping[str, bytes], columns: int) -> None:
    """Write pictures, with their names, as one."""
    sheet = _SHEET % columns
    for state, png in pictures.items():
        sheet += (
            f"<figure><figcaption>{state}</figcaption>"
            f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}"></figure>'
        )
    page = chromium.new_page(viewport={"width": 1500, "height": 400})
    page.set_content(sheet, wait_until="load")
    encoded = base64.b64encode(page.screenshot(full_page=True)).decode()
    webp = base64.b64decode(page.evaluate(_TO_WEBP, encoded))
    (FOLDER / f"{name}.webp").write_bytes(webp)
    page.close()


def _take_fleet(chromium: Browser, urls: Mapping[str, str]) -> None:
    """Take the pictures of the page of the fleet."""
    page = _open(chromium, urls["baking"], "light", 1280)
    page.screenshot(path=FOLDER / "fleet.png", full_page=True)
    page.close()
    rollouts = {}
    for state in _ROLLOUTS:
        page = _open(chromium, urls[state], "light", 1120)
        rollouts[state] = page.locator(".rollout").first.screenshot()
        page.close()
    _write_sheet(chromium, "fleet-rollouts", rollouts, 2)
    phones = {}
    for state in _ON_A_PHONE:
        page = _open(chromium, urls[state], "dark", 390)
        clip = {"x": 0, "y": 0, "width": 390, "height": 1300}
        phones[state] = page.screenshot(full_page=True, clip=clip)  # type: ignore[arg-type]
        page.close()
    _write_sheet(chromium, "fleet-phone", phones, len(phones))


def _open(chromium: Browser, url: str, scheme: str, width: int) -> Page:
    page = chromium.new_page(
        color_scheme=scheme,  # type: ignore[arg-type]
        viewport={"width": width, "height": 1300},
    )
    page.goto(url)
    return page


def _take(
    chromium: Browser,
    url: str,
    scheme: Literal["light", "dark"],
    width: int,
    part: int,
    scale: float = 1.0,
) -> bytes:
    page = chromium.new_page(
        color_scheme=scheme,
        viewport={"width": width, "height": 360},
        device_scale_factor=scale,
        reduced_motion="reduce",
        timezone_id="UTC",
    )
    page.goto(url)
    page.locator("body[data-live]").wait_for()
    if page.evaluate("installs()"):
        page.get_by_text("Building release").wait_for()
    height = page.evaluate(_BOTTOM)
    clip = {"x": (width - part) / 2, "y": 0, "width": part, "height": height}
    picture = page.screenshot(full_page=True, clip=clip)  # type: ignore[arg-type]
    page.close()
    return picture


if __name__ == "__main__":
    sys.exit(main())
