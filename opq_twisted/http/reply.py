"""A complete response as a value, so that it can be made once and sent often."""

from collections.abc import Mapping

from attrs import frozen
from twisted.web.http import NO_BODY_CODES

_TEXT = b"text/plain; charset=utf-8"


@frozen
class Reply:
    """A status, header lines and a body, as the bytes to be sent."""

    code: int
    head: bytes
    body: bytes = b""

    @classmethod
    def of(
        cls,
        code: int,
        body: bytes = b"",
        content_type: bytes = _TEXT,
        headers: Mapping[bytes, bytes] | None = None,
    ) -> "Reply":
        """Make a reply with a body; caches must not store it unless `headers` allow it."""
        lines = {b"Cache-Control": b"no-store", **(headers or {})}
        # Content-Length: 0 in a 304 would claim that the representation is empty (RFC 9110, 8.6).
        if code not in NO_BODY_CODES:
            lines[b"Content-Type"] = content_type
            lines[b"X-Content-Type-Options"] = b"nosniff"
            lines[b"Content-Length"] = b"%d" % len(body)
        return cls(code, header_lines(lines), body)

    @classmethod
    def sentence(
        cls, code: int, text: str, headers: Mapping[bytes, bytes] | None = None
    ) -> "Reply":
        """Make a reply with one line of text."""
        return cls.of(code, text.encode() + b"\n", headers=headers)


def header_lines(headers: Mapping[bytes, bytes]) -> bytes:
    """Write headers as they are sent; raise `ValueError` if a value contains a line break."""
    lines = b"".join(b"%s: %s\r\n" % header for header in headers.items())
    if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers):
        raise ValueError(f"a header contains a line break: {headers}")
    return lines
