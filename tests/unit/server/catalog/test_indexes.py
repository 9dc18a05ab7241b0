"""An index is that of the archive's bytes, and no archive makes one without bounds."""

import bz2
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from twisted.internet.defer import maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.pieces import MAGIC, MAX_INDEX, MAX_PIECES, Index, read_index
from opq_twisted.archive.sizes import MAX_ARCHIVE
from opq_twisted.server.catalog.archive_cache import compute_from
from opq_twisted.server.catalog.indexes import Indexes
from opq_twisted.server.catalog.snapshot import Catalog
from opq_twisted.server.catalog.updates_file import Archive
from tests.helpers.archives import make_archive, make_pieces_archive, name_of, random_parts
from tests.helpers.torture import TORTURE

MIB = 1 << 20

#: A whole bzip2 file, as the end of a file that is to be offered.
END = bz2.compress(b"")


class IndexesTests(SynchronousTestCase):
    """`Indexes` over a real directory."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.path = self.directory / name_of(1)
        self.chunks = 0

    def offered(self) -> Archive:
        catalog = Catalog(self.directory)
        catalog.rescan()
        (archive,) = catalog.snapshot.archives
        return archive

    def index(self) -> bytes | None:
        indexes, archive = Indexes(maybeDeferred), self.offered()
        indexes.want(archive)
        return indexes.known(archive)

    def index_counting(self) -> bytes:
        """Index the archive, and count the chunks that are read."""

        def count(_: bytes) -> None:
            self.chunks += 1

        with self.path.open("rb") as file:
            return Indexes.compute(file.fileno(), self.offered().size, count)

    def test_pieces(self) -> None:
        """An archive of pieces has the index of its bytes."""
        make_pieces_archive(self.path, 1, random_parts(1, 2, size=5000))
        index = self.index()
        assert index is not None
        with self.path.open("rb") as file:
            expected = read_index(file.fileno(), self.path.stat().st_size)
        self.assertEqual(Index.from_json(index), expected)
        self.assertEqual(len(expected.pieces), 4)

    def test_compressed(self) -> None:
        """A cached index takes less memory than its JSON, most of which are digests."""
        make_pieces_archive(self.path, 1, random_parts(*range(50), size=1000))
        index = self.index()
        assert index is not None
        self.assertLess(len(self.index_counting()), len(index) * 3 // 4)

    def test_one_piece(self) -> None:
        """An archive of one piece, as older ones are, has none."""
        make_archive(self.path, 1)
        self.assertEqual(self.index(), b"")

    def test_most_pieces(self) -> None:
        """The index of an archive with the most pieces is within its bound; one more has none."""
        most = MAGIC * (MAX_PIECES - 2) + bytes(8) + bz2.compress(b"end")
        self.path.write_bytes(MAGIC + most)
        index = self.index()
        assert index is not None
        self.assertEqual(len(Index.from_json(index).pieces), MAX_PIECES)
        self.assertLess(len(index), MAX_INDEX)
        self.path.write_bytes(MAGIC * 2 + most)
        self.assertEqual(self.index(), b"")

    def test_magics_only(self) -> None:
        """A large file of beginnings of pieces is given up near its start."""
        with self.path.open("wb") as file:
            for _ in range(1024 if TORTURE else 16):
                file.write(MAGIC * (MIB // len(MAGIC)))
            file.write(END)
        self.assertEqual(self.index_counting(), b"")
        self.assertEqual(self.chunks, 1)

    def test_tiny_streams(self) -> None:
        """Ten million valid streams of a byte each are given up early, too."""
        tiny = bz2.compress(b"x")
        with self.path.open("wb") as file:
            for _ in range(1000 if TORTURE else 10):
                file.write(tiny * 10_000)
        self.assertEqual(self.index_counting(), b"")
        self.assertEqual(self.chunks, 2)

    def sparse(self, size: int) -> None:
        with self.path.open("wb") as file:
            file.write(END[:10])
            file.seek(size - len(END))
            file.write(END)

    def test_larger_than_a_box_takes(self) -> None:
        """A file that no box takes is not read."""
        self.sparse(MAX_ARCHIVE + 1)
        self.assertEqual(self.index_counting(), b"")
        self.assertEqual(self.chunks, 0)

    def test_memory(self) -> None:
        """A large file, here with holes, needs no more memory than a few chunks."""
        self.sparse(MAX_ARCHIVE if TORTURE else 64 * MIB)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        self.assertEqual(self.index_counting(), b"")
        self.assertLess(tracemalloc.get_traced_memory()[1], 8 * MIB)
        self.assertGreaterEqual(self.chunks, 64)

    def test_stopping(self) -> None:
        """A server that stops reads no more of a large file."""
        self.sparse(64 * MIB)
        stopping = threading.Event()
        chunks: list[bytes] = []

        def stop_after_two(fd: int, size: int, each_chunk: Callable[[bytes], object]) -> bytes:
            def stop(chunk: bytes) -> None:
                chunks.append(chunk)
                if len(chunks) == 2:
                    stopping.set()
                each_chunk(chunk)

            return Indexes.compute(fd, size, stop)

        self.assertIsNone(compute_from(self.offered(), stop_after_two, stopping))
        self.assertEqual(len(chunks), 2)
