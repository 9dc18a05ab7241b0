"""The parts of a file that a request asks for (RFC 9110, section 14)."""

import re

from attrs import frozen

#: A request with more ranges than this gets the whole file (RFC 9110, section 17.15).
_MAX_RANGES = 16

_SPEC = re.compile(rb"(\d*)-(\d*)", re.ASCII)


class Unsatisfiable(Exception):
    """None of the requested ranges contains a byte of the file."""


@frozen
class Range:
    """`length` bytes, at least one, from `offset`."""

    offset: int
    length: int

    def content_range(self, size: int) -> bytes:
        """Give the value of Content-Range (RFC 9110, section 14.4)."""
        return b"bytes %d-%d/%d" % (self.offset, self.offset + self.length - 1, size)


def parse_ranges(header: bytes, size: int) -> list[Range] | None:
    """
    Parse a Range header for a file of `size` bytes.

    :returns: the ranges in the requested order. None if the header is ignored: it has another unit,
        is malformed, or its ranges together are as long as the file.
    :raises Unsatisfiable: if no range contains a byte of the file.
    """
    unit, equals, ranges = header.partition(b"=")
    if not equals or unit.strip().lower() != b"bytes":
        return None
    # Empty list elements are ignored (RFC 9110, section 5.6.1.2).
    specs = [spec.strip(b" \t") for spec in ranges.split(b",") if spec.strip(b" \t")]
    if not specs or len(specs) > _MAX_RANGES:
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
    # No file is larger, and Python does not convert numbers of thousands of digits.
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
