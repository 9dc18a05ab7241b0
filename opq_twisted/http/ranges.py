"""What part of a file a request asks for, as RFC 9110 section 14 has it."""

import re

from attrs import frozen

#: More ranges than this in one request are answered with the whole (RFC 9110, section 17.15).
_MOST = 16

_SPEC = re.compile(rb"(\d*)-(\d*)", re.ASCII)


class Unsatisfiable(Exception):
    """None of the ranges that were asked for holds a byte of the file."""


@frozen
class Range:
    """So many bytes from an offset on; at least one."""

    offset: int
    length: int

    def content_range(self, size: int) -> bytes:
        """Say which bytes of how many these are (RFC 9110, section 14.4)."""
        return b"bytes %d-%d/%d" % (self.offset, self.offset + self.length - 1, size)


def parse_ranges(header: bytes, size: int) -> list[Range] | None:
    """
    Read a Range header for a file of `size` bytes.

    :returns: the ranges in the order asked for; None when the header counts as not sent: another
        unit, a malformed one, or ranges that together are no less than the whole.
    :raises Unsatisfiable: when there is nothing to send.
    """
    unit, equals, ranges = header.partition(b"=")
    if not equals or unit.strip().lower() != b"bytes":
        return None
    # Empty elements of a list are ignored (RFC 9110, section 5.6.1.2).
    specs = [spec.strip(b" \t") for spec in ranges.split(b",") if spec.strip(b" \t")]
    if not specs or len(specs) > _MOST:
        return None
    found = []
    for spec in specs:
        match = _SPEC.fullmatch(spec)
        if match is None or match[0] == b"-":
            return None
        first, last = (None if number == b"" else _number(number) for number in match.groups())
        if first is not None and last is not None and last < first:
            return None
        found.append(_resolve(first, last, size))
    satisfiable = [each for each in found if each is not None]
    if not satisfiable:
        raise Unsatisfiable
    if len(satisfiable) > 1 and sum(each.length for each in satisfiable) >= size:
        return None
    return satisfiable


def _number(digits: bytes) -> int:
    # No file is larger, and Python refuses to read numbers of thousands of digits.
    return int(digits) if len(digits) < 20 else 10**20


def _resolve(first: int | None, last: int | None, size: int) -> Range | None:
    if first is None:
        assert last is not None
        length = min(last, size)
        return Range(size - length, length) if length else None
    if first >= size:
        return None
    end = size if last is None else min(last + 1, size)
    return Range(first, end - first)
