"""The files that the page needs besides its HTML."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from opq_twisted.http.stylesheet import SHARED_STYLE

#: The folder of the templates and of the other files.
FOLDER = Path(__file__).with_name("page")

#: No page has styles or scripts in its HTML, or takes anything from elsewhere.
CONTENT_SECURITY_POLICY = (
    b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    b"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

#: The number of digits of the hash in the name of a file, so that new content has a new name.
_DIGITS = 12


@frozen
class Asset:
    """A file whose name changes with its content."""

    content: bytes
    media_type: bytes


def _read(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def _name(name: str, content: bytes) -> str:
    stem, _, suffix = name.partition(".")
    return f"{stem}.{hashlib.sha256(content).hexdigest()[:_DIGITS]}.{suffix}"


_FILES = {
    "style.css": Asset(SHARED_STYLE.encode() + _read("style.css"), b"text/css; charset=utf-8"),
    "fleet.js": Asset(_read("fleet.js"), b"text/javascript; charset=utf-8"),
    "icon.svg": Asset(_read("icon.svg"), b"image/svg+xml"),
}

#: The names of the files below `/fleet/`, by the names that templates use.
NAMES: Mapping[str, str] = {name: _name(name, each.content) for name, each in _FILES.items()}

#: The files by their names below `/fleet/`, which carry a hash of the content.
ASSETS: Mapping[str, Asset] = {NAMES[name]: each for name, each in _FILES.items()}
