"""A whole answer to a request, as a value: made once, it can be sent often."""

from collections.abc import Mapping

from attrs import frozen
from twisted.web.http import NO_BODY_CODES

_TEXT = b"text/plain; charset=utf-8"


@frozen
class Reply:
    """A status, the lines of its header, and a body; the bytes of all three are ready to go."""

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
        """Make an answer, which nobody keeps for later unless its header says otherwise."""
        lines = {b"Cache-Control": b"no-store", **(headers or {})}
        # A 304 does not claim that what it stands for is empty (RFC 9110, section 8.6).
        if code not in NO_BODY_CODES:
            lines[b"Content-Type"] = content_type
            lines[b"X-Content-Type-Options"] = b"nosniff"
            lines[b"Content-Length"] = b"%d" % len(body)
        return cls(code, header_lines(lines), body)

    @classmethod
    def sentence(
        cls, code: int, text: str, headers: Mapping[bytes, bytes] | None = None
    ) -> "Reply":
        """Answer with one line of text."""
        return cls.of(code, text.encode() + b"\n", headers=headers)


def header_lines(headers: Mapping[bytes, bytes]) -> bytes:
    """
    Write down a header as it goes over the wire.

    :raises ValueError: for a value that would begin another line.
    """
    lines = b"".join(b"%s: %s\r\n" % header for header in headers.items())
    if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers):
        raise ValueError(f"a header holds a line break: {headers}")
    return lines
