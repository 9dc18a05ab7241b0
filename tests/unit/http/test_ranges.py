"""Range headers are parsed by RFC 9110 section 14."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.http.ranges import Range, Unsatisfiable, parse_ranges
from tests.helpers.torture import examples

SIZE = 1000

#: A header, and (offset, length) of its ranges for SIZE bytes; None if it is ignored.
TABLE: list[tuple[str, list[tuple[int, int]] | None]] = [
    ("bytes=0-0", [(0, 1)]),
    ("bytes=0-499", [(0, 500)]),
    ("bytes=500-", [(500, 500)]),
    ("bytes=0-", [(0, 1000)]),
    ("bytes=999-", [(999, 1)]),
    ("bytes=999-999", [(999, 1)]),
    ("bytes=500-5000", [(500, 500)]),
    ("bytes=-1", [(999, 1)]),
    ("bytes=-1000", [(0, 1000)]),
    ("bytes=-5000", [(0, 1000)]),
    ("bytes=000-0009", [(0, 10)]),
    ("bytes=5-" + "9" * 5000, [(5, 995)]),
    ("bytes=-" + "9" * 5000, [(0, 1000)]),
    # Several ranges, in the requested order.
    ("bytes=0-0,-1", [(0, 1), (999, 1)]),
    ("bytes=500-600 ,\t0-9", [(500, 101), (0, 10)]),
    ("bytes=,0-1,,2-3,", [(0, 2), (2, 2)]),
    ("bytes=0-9,5-14", [(0, 10), (5, 10)]),
    ("bytes=0-0,5000-", [(0, 1)]),
    ("bytes=" + ",".join(f"{n}-{n}" for n in range(16)), [(n, 1) for n in range(16)]),
    # The unit is case-insensitive.
    ("BYTES=0-1", [(0, 2)]),
    # Too many ranges, or ranges as long as the whole: the whole file.
    ("bytes=" + ",".join(f"{n}-{n}" for n in range(17)), None),
    ("bytes=0-,0-,0-", None),
    ("bytes=0-499,500-999", None),
    # Another unit, or a malformed header.
    ("seconds=0-1", None),
    ("bytes", None),
    ("bytes=", None),
    ("bytes=,", None),
    ("bytes=-", None),
    ("bytes=a-b", None),
    ("bytes=1", None),
    ("bytes=1-2-3", None),
    ("bytes=--1", None),
    ("bytes=+1-2", None),
    ("bytes=1_0-20", None),
    ("bytes=1 - 2", None),
    ("bytes=0x1-2", None),
    ("bytes=9-1", None),
    ("bytes=0-1, 9-1", None),
    ("bytes=0-1; 2-3", None),
    ("bytes=0-1 2-3", None),
    ("bytes=\u0661-2", None),
    ("0-1", None),
    ("", None),
]

UNSATISFIABLE = ("1000-", "1000-2000", "-0", "9999999999999999999999-", "1000-,-0,5000-6000")


class ParseTests(SynchronousTestCase):
    """`parse_ranges`."""

    def test_table(self) -> None:
        """Each header has its result."""
        for header, expected in TABLE:
            ranges = parse_ranges(header.encode(), SIZE)
            got = None if ranges is None else [(each.offset, each.length) for each in ranges]
            self.assertEqual(got, expected, header[:60])

    def test_unsatisfiable(self) -> None:
        """No range lies within the file."""
        for ranges in UNSATISFIABLE:
            self.assertRaises(Unsatisfiable, parse_ranges, b"bytes=" + ranges.encode(), SIZE)

    def test_content_range(self) -> None:
        """The header gives the first and last byte, counted from 0, and the size of the file."""
        self.assertEqual(Range(0, 500).content_range(SIZE), b"bytes 0-499/1000")
        self.assertEqual(Range(999, 1).content_range(SIZE), b"bytes 999-999/1000")

    @examples(100)
    @given(st.binary(max_size=60), st.integers(1, 2000))
    def test_any_bytes(self, header: bytes, size: int) -> None:
        """The ranges of any header lie within the file."""
        try:
            ranges = parse_ranges(b"bytes=" + header, size)
        except Unsatisfiable:
            return
        for each in ranges or []:
            self.assertGreaterEqual(each.offset, 0)
            self.assertGreater(each.length, 0)
            self.assertLessEqual(each.offset + each.length, size)
