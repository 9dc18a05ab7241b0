"""A complete bzip2 file is distinguished from one that was cut off."""

import bz2
import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.bzip2 import is_whole
from tests.helpers.archives import concatenated
from tests.helpers.torture import stride

_END_MARK = 0x177245385090


def padding_of(data: bytes) -> int:
    """Return the number of padding bits in the last byte of a bzip2 file."""
    tail = int.from_bytes(data, "big")
    return next(p for p in range(8) if (tail >> (32 + p)) & ((1 << 48) - 1) == _END_MARK)


def one_for_each_padding() -> dict[int, bytes]:
    """Small bzip2 files that end at each of the eight bit offsets."""
    found: dict[int, bytes] = {}
    length = 0
    while len(found) < 8:
        length += 1
        data = bz2.compress(bytes(range(length % 256)) * 2)
        found.setdefault(padding_of(data), data)
    return found


class IsWholeTests(SynchronousTestCase):
    """`is_whole` reads the two ends of a file."""

    def judge(self, data: bytes) -> bool:
        path = Path(self.mktemp())
        path.write_bytes(data)
        fd = os.open(path, os.O_RDONLY)
        try:
            return is_whole(fd, len(data))
        finally:
            os.close(fd)

    def test_every_bit_offset(self) -> None:
        """A stream may end at any bit of its last byte."""
        for padding, data in one_for_each_padding().items():
            self.assertTrue(self.judge(data), f"{padding} bits of padding")

    def test_every_level(self) -> None:
        """All nine block sizes are bzip2."""
        for level in range(1, 10):
            self.assertTrue(self.judge(bz2.compress(b"an update", level)))

    def test_cut_anywhere(self) -> None:
        """A file without its end is not whole, wherever it was cut, even before the last byte."""
        for data in (*one_for_each_padding().values(), bz2.compress(os.urandom(2_000))):
            for length in range(0, len(data), stride(7)):
                self.assertFalse(self.judge(data[:length]), f"{length} of {len(data)} bytes")

    def test_concatenated(self) -> None:
        """Streams one after another, as pbzip2 and lbzip2 write them, are one file."""
        self.assertTrue(self.judge(concatenated([b"one", b"two", b""])))

    def test_concatenated_and_cut(self) -> None:
        """A cut within the second stream is found; one between two streams looks whole."""
        first, both = bz2.compress(b"one"), concatenated([b"one", b"two"])
        for length in range(len(first) + 1, len(both)):
            self.assertFalse(self.judge(both[:length]), f"{length} of {len(both)} bytes")

    def test_empty_stream(self) -> None:
        """An empty bzip2 file is whole."""
        self.assertTrue(self.judge(bz2.compress(b"")))

    def test_space_set_aside(self) -> None:
        """A file that was allocated before its upload ends with zeros: it is not whole."""
        for data in one_for_each_padding().values():
            for zeros in (1, 2, 10, 11, 4096):
                self.assertFalse(self.judge(data + bytes(zeros)))

    def test_no_bzip2(self) -> None:
        """Other files are not whole bzip2 files, even with a good end."""
        good = bz2.compress(b"an update")
        for data in (
            b"",
            b"B",
            b"BZh9",
            b"<html>no such update</html>",
            bytes(4096),
            os.urandom(4096),
            b"BZh0" + good[4:],
            b"BZx9" + good[4:],
            good[:4] + b"\0" + good[5:],
            good[-11:],
        ):
            self.assertFalse(self.judge(data), repr(data[:20]))

    def test_shrinks_while_it_is_read(self) -> None:
        """A file that is shorter than the given size is not whole."""
        data = bz2.compress(b"an update")
        path = Path(self.mktemp())
        path.write_bytes(data)
        with path.open("rb") as file:
            self.assertFalse(is_whole(file.fileno(), len(data) + 1))
