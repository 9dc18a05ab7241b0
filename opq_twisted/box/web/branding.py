"""The title, the logo and the colour of the box's page: configured, of a component, or OPQ's."""

import json
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen
from twisted.logger import Logger

from opq_twisted.box.config.reader import read_page
from opq_twisted.box.config.settings import PageConfig
from opq_twisted.common import files
from opq_twisted.common.errors import ConfigInvalid

_log = Logger()

#: A component's file with the keys of `PageConfig`; its `logo` is relative to the component.
_FILE = "page.json"

#: Bytes.
_MAX_LOGO, _MAX_FILE = 64 * 1024, 4096

_LOGO_TYPES = {".svg": b"image/svg+xml", ".png": b"image/png"}
_PNG = b"\x89PNG\r\n\x1a\n"

_DEFAULT_TITLE = "OPQ Box"
_DEFAULT_LOGO = Path(__file__).parent / "page" / "icon.svg"

#: The ratio of contrast that text needs (WCAG 2.2, 1.4.3).
_CONTRAST = 4.5

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)

#: Of each theme: the colour to mix in for more contrast, and the grounds, as in the stylesheet.
LIGHT = _BLACK, ("#f5f7f9", "#ffffff")
DARK = _WHITE, ("#11161c", "#1a2129")

_Colour = tuple[int, int, int]


@frozen
class Branding:
    """What makes the page look like its owner's."""

    title: str
    #: The name of the logo among the page's files, its content type, and its bytes.
    logo_name: str
    logo_type: bytes
    logo: bytes
    #: CSS that sets the colour; empty for the default.
    style: str = ""


def read_branding(config: PageConfig, release: Path) -> Branding:
    """
    Find title, logo and colour, each in the configuration first, and then in the live release.

    Each mistake is logged, and the default is used instead: the agent must not fail because of it.

    :param release: the folder of the live release, with a folder for each component.
    """
    title, colour, logo = config.title, config.colour, config.logo
    found = None if logo is None else _read_logo(logo)
    for component, page in _component_pages(release):
        title, colour = title or page.title, colour or page.colour
        if found is None and page.logo is not None:
            found = _read_component_logo(component, page.logo)
    name, content = found or (_DEFAULT_LOGO.name, _DEFAULT_LOGO.read_bytes())
    return Branding(
        title=title or _DEFAULT_TITLE,
        logo_name=name,
        logo_type=_LOGO_TYPES[Path(name).suffix],
        logo=content,
        style="" if colour is None else make_style(colour),
    )


def _component_pages(release: Path) -> Iterator[tuple[Path, PageConfig]]:
    try:
        found = sorted(release.glob(f"*/{_FILE}"))
    except OSError as error:
        _log.warn("The components' pages are not looked for: {error}", error=error)
        return
    for path in found:
        try:
            yield path.parent, read_page(json.loads(files.read(path, _MAX_FILE)))
        except (OSError, ValueError, RecursionError, ConfigInvalid) as error:
            _log.warn("{path} is ignored: {error}", path=str(path), error=error)


def _read_component_logo(component: Path, logo: Path) -> tuple[str, bytes] | None:
    path = component / logo
    if not files.is_inside(path, component):
        _log.warn("The logo {path} is ignored: it is outside its component.", path=str(path))
        return None
    return _read_logo(path)


def _read_logo(path: Path) -> tuple[str, bytes] | None:
    suffix = path.suffix.lower()
    try:
        if suffix not in _LOGO_TYPES:
            raise ValueError("its name must end with .svg or .png")
        content = files.read(path, _MAX_LOGO)
        if content.startswith(_PNG) is (suffix == ".svg") or not content:
            raise ValueError(f"it is not the {suffix[1:].upper()} that its name promises")
    except (OSError, ValueError) as error:
        _log.warn("The logo {path} is ignored: {error}.", path=str(path), error=error)
        return None
    return f"logo{suffix}", content


def make_style(colour: str) -> str:
    """
    Make the CSS of a colour: it fills the buttons as it is, with black or white text on it.

    As the colour of text and lines it is darkened or lightened, as far as the theme needs.
    """
    fill = _parse(colour)
    on_fill = max(_BLACK, _WHITE, key=lambda text: contrast(text, fill))
    rules = []
    for towards, grounds in (LIGHT, DARK):
        shades = (_mix(fill, towards, share / 20) for share in range(21))
        line = next(
            shade
            for shade in shades
            if all(contrast(shade, _parse(ground)) >= _CONTRAST for ground in grounds)
        )
        tint = _mix(line, _parse(grounds[1]), 0.85)
        rules.append(
            f":root{{--accent:{_hex(fill)};--on-accent:{_hex(on_fill)};--link:{_hex(line)};"
            f"--news-tint:{_hex(tint)}}}"
        )
    light, dark = rules
    return f"{light}\n@media (prefers-color-scheme: dark){{{dark}}}\n"


def contrast(one: _Colour, other: _Colour) -> float:
    """Return the ratio of contrast of two colours, from 1 to 21 (WCAG 2.2)."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: _Colour) -> float:
    parts = (part / 255 for part in colour)
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _mix(one: _Colour, other: _Colour, share: float) -> _Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _parse(colour: str) -> _Colour:
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def _hex(colour: _Colour) -> str:
    return "#" + bytes(colour).hex()
