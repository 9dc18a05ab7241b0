"""Tests of the pieces of an archive, and of the index of them."""

import bz2
import hashlib
import os
import random
import tempfile

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.pieces import (
    MAGIC,
    MAX_INDEX,
    MAX_PIECES,
    Index,
    NoIndex,
    PieceFinder,
    read_index,
)
from opq_twisted.archive.sizes import MAX_ARCHIVE


def index_of(data: bytes) -> Index:
    """Index these bytes, as those of an archive."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return read_index(file.fileno(), len(data))


def split(data: bytes) -> list[bytes]:
    """Split bytes before each magic, in the simplest way."""
    found = data.find(MAGIC, 1)
    if found == -1:
        return [data] if data else []
    return [data[:found], *split(data[found:])]


class ReadIndexTests(SynchronousTestCase):
    """`read_index`."""

    def test_streams(self) -> None:
        """Each bzip2 stream is a piece."""
        streams = [bz2.compress(each) for each in (b"one", b"two" * 1000, b"three")]
        index = index_of(b"".join(streams))
        self.assertEqual([each.length for each in index.pieces], list(map(len, streams)))
        digests = [hashlib.sha256(each).digest() for each in streams]
        self.assertEqual([each.digest for each in index.pieces], digests)
        self.assertEqual(index.size, sum(map(len, streams)))
        self.assertEqual(index.sha256, hashlib.sha256(b"".join(streams)).hexdigest())

    def test_boundaries(self) -> None:
        """A magic is found wherever it lies, and once, also across the boundary of two reads."""
        for shift in range(-12, 3):
            data = bytes((1 << 20) + shift) + MAGIC * 2 + MAGIC[:9]
            with self.subTest(shift):
                found = [each.length for each in index_of(data).pieces]
                self.assertEqual(found, [(1 << 20) + shift, 10, 19])

    def test_any_bytes(self) -> None:
        """Any bytes are cut as by the simplest way to do it."""
        for seed in range(40):
            source = random.Random(seed)
            kinds = [MAGIC, MAGIC * 3, MAGIC[: source.randint(1, 9)], source.randbytes(300_000)]
            data = b"".join(source.choice(kinds) for _ in range(source.randint(0, 12)))
            with self.subTest(seed):
                digests = [hashlib.sha256(each).digest() for each in split(data)]
                self.assertEqual([each.digest for each in index_of(data).pieces], digests)

    def test_short_reads(self) -> None:
        """The pieces do not depend on the lengths of the reads, as short as they may be."""
        data = b"BB" + MAGIC + b"B" + MAGIC[:4] + MAGIC * 2 + MAGIC[:9]
        for length in range(1, 13):
            with self.subTest(length):
                finder = PieceFinder()
                for start in range(0, len(data), length):
                    finder.add(data[start : start + length])
                found = [data[each.start : each.end] for each in finder.finish()]
                self.assertEqual(found, split(data))

    def test_too_many(self) -> None:
        """An archive with too many pieces has no index, and is not read further."""
        self.assertEqual(len(index_of(MAGIC * MAX_PIECES).pieces), MAX_PIECES)
        with self.assertRaises(NoIndex):
            index_of(MAGIC * (MAX_PIECES + 1))

    def test_too_large(self) -> None:
        """An archive that no box takes has no index."""
        with tempfile.TemporaryFile() as file:
            os.ftruncate(file.fileno(), MAX_ARCHIVE + 1)
            with self.assertRaises(NoIndex):
                read_index(file.fileno(), MAX_ARCHIVE + 1)


class JsonTests(SynchronousTestCase):
    """The index as JSON."""

    def test_round_trip(self) -> None:
        """An index stays the same."""
        for data in (b"", b"x", MAGIC * 5 + b"end"):
            index = index_of(data)
            self.assertEqual(Index.from_json(index.to_json()), index)

    def test_size(self) -> None:
        """The longest index has no more bytes than a box accepts."""
        sparse = index_of(MAGIC * MAX_PIECES).to_json()
        digits = len(str(MAX_ARCHIVE)) - len(str(len(MAGIC)))
        self.assertLess(len(sparse) + digits * MAX_PIECES, MAX_INDEX)

    def test_refused(self) -> None:
        """Bytes that are not an index are refused."""
        good = index_of(MAGIC * 2).to_json()
        self.assertIn(b'"size":20', good)
        for bad in (
            *(b"", b"{}", b"[]", b"null", b"7", b"\xff", b"[" * 100_000, good[:-1]),
            good.replace(b'"size":20', b'"size":21'),
            good.replace(b'"size":20', b'"size":20.0'),
            good.replace(b'"size":20', b'"size":true'),
            good.replace(b"[10,", b"[0,"),
            good.replace(b"[10,", b"[-10,", 1).replace(b"[10,", b"[30,", 1),
            good.replace(b"[10,", b"[true,"),
            good.replace(b"[10,", b'["10",'),
            good.replace(b"[10,", b"[10,1,"),
            good.replace(b"[10,", b"[1e1,"),
            good.replace(b"[10,", b"[NaN,"),
            good.replace(b'"pieces":', b'"pieces":null,"x":'),
            good.replace(b'"sha256":"', b'"sha256":"zz'),
            good.replace(b'"sha256":', b'"sha256":7,"x":'),
            good.replace(b'="]', b'"]'),
        ):
            with self.subTest(bad[:60]), self.assertRaises(NoIndex):
                Index.from_json(bad)

    def test_too_many(self) -> None:
        """An index of more pieces than an archive may have is refused."""
        one = b'[1,"' + b"A" * 43 + b'="]'
        text = b'{"size":%d,"sha256":"%s","pieces":[%s]}'
        many = MAX_PIECES + 1
        with self.assertRaises(NoIndex):
            Index.from_json(text % (many, b"0" * 64, b",".join([one] * many)))
