"""Parses the headers of a response."""

import base64
import re

from attrs import frozen
from twisted.web.iweb import IResponse

#: Keyed by the algorithm's name in `hashlib`.
_DIGESTS = {
    "sha256": re.compile(rb"(?:^|[\s,])sha-256=:([A-Za-z0-9+/]{43}=):"),
    "sha512": re.compile(rb"(?:^|[\s,])sha-512=:([A-Za-z0-9+/]{86}==):"),
}

#: Only ASCII that can be sent back unchanged in If-Range and If-None-Match.
_STRONG_ETAG = re.compile(rb'"[!#-~]{0,256}"')

_RANGE = re.compile(
    rb"bytes (?:(?P<start>[0-9]{1,18})-(?P<last>[0-9]{1,18})|\*)/(?:(?P<total>[0-9]{1,18})|\*)"
)


@frozen
class ContentRange:
    """The range of a file that a response contains, in bytes (RFC 9110, section 14.4)."""

    #: The offsets of the first and the last byte; None for an unsatisfied range (`bytes */SIZE`,
    #: with status 416).
    start: int | None
    last: int | None
    #: The size of the whole file; None if unknown.
    total: int | None


def content_range(response: IResponse) -> ContentRange | None:
    """Parse `Content-Range`; None if it is missing or invalid."""
    values = response.headers.getRawHeaders(b"Content-Range", [])
    found = _RANGE.fullmatch(values[0]) if len(values) == 1 else None
    return found and ContentRange(*(None if item is None else int(item) for item in found.groups()))


def repr_digests(response: IResponse) -> dict[str, str]:
    """Parse `Repr-Digest` (RFC 9530): hexadecimal digests, keyed by their names in `hashlib`."""
    value = b", ".join(response.headers.getRawHeaders(b"Repr-Digest", []))
    found = {name: digest.search(value) for name, digest in _DIGESTS.items()}
    return {name: base64.b64decode(match[1]).hex() for name, match in found.items() if match}


def strong_etag(response: IResponse) -> str | None:
    """Parse `ETag` if it is strong, so that ranges may be combined (RFC 9110, 13.1.5)."""
    values = response.headers.getRawHeaders(b"ETag", [])
    if len(values) != 1 or _STRONG_ETAG.fullmatch(values[0]) is None:
        return None
    etag: str = values[0].decode("ascii")
    return etag


def is_html(response: IResponse) -> bool:
    """Whether the response is a web page, such as the login page of a network."""
    [value] = response.headers.getRawHeaders(b"Content-Type", [b""])[:1]
    kind = value.partition(b";")[0].strip(b" \t").lower()
    return kind in (b"text/html", b"application/xhtml+xml")


def wait_applied(response: IResponse) -> bool:
    """Whether the server honoured `Prefer: wait` (RFC 7240, section 3)."""
    values = response.headers.getRawHeaders(b"Preference-Applied", [])
    applied = b",".join(values).split(b",")
    return any(item.partition(b"=")[0].strip(b" \t").lower() == b"wait" for item in applied)
