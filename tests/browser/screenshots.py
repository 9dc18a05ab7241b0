"""Takes pictures of the box's page and of the server's list: `make screenshots`."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser

from tests.browser import listing_gallery
from tests.browser.chromium import browser

#: The folder of the pictures.
FOLDER = Path(__file__).parent.parent.parent / "docs" / "pictures"

#: The state in a picture of its own.
_SINGLE = "available"

#: The widths of the window in pixels, and of the part in the middle that is shown; the columns of
#: their contact sheets.
_WIDTHS = ((1280, 760, 3), (390, 390, 6))

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
            ports: dict[str, int] = json.loads(gallery.stdout.readline())
            single = _take(chromium, ports[_SINGLE], "light", 1280, 760, 1.5)
            (FOLDER / f"{_SINGLE}.png").write_bytes(single)
            for width, part, columns in _WIDTHS:
                _make_sheet(chromium, ports, "light", width, part, columns)
                _make_sheet(chromium, ports, "dark", width, part, columns)
    finally:
        gallery.terminate()
        gallery.wait()
    return 0


def _make_sheet(
    chromium: Browser,
    ports: dict[str, int],
    scheme: Literal["light", "dark"],
    width: int,
    part: int,
    columns: int,
) -> None:
    """Make one picture of all states."""
    sheet = _SHEET % columns
    for state, port in ports.items():
        picture = base64.b64encode(_take(chromium, port, scheme, width, part)).decode()
        sheet += (
            f"<figure><figcaption>{state}</figcaption>"
            f'<img src="data:image/png;base64,{picture}"></figure>'
        )
    page = chromium.new_page(viewport={"width": 1500, "height": 400})
    page.set_content(sheet, wait_until="load")
    png = base64.b64encode(page.screenshot(full_page=True)).decode()
    webp = base64.b64decode(page.evaluate(_TO_WEBP, png))
    (FOLDER / f"states-{scheme}-{width}.webp").write_bytes(webp)
    page.close()


def _take(
    chromium: Browser,
    port: int,
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
    page.goto(f"http://127.0.0.1:{port}/")
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
