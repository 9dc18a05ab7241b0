"""Computes and caches the indexes of archives' pieces."""

import zlib
from collections.abc import Callable

from opq_twisted.archive.pieces import NoIndex, read_index
from opq_twisted.server.catalog.archive_cache import ArchiveCache
from opq_twisted.server.catalog.updates_file import Archive


class Indexes(ArchiveCache):
    """
    Caches the indexes of archives: as JSON, which is compressed in the memory.

    The value of an archive without a useful index is empty: with one piece only there is nothing
    that a box could have already.
    """

    what = "index"
    # Compressed, the index of 300 MB that the builder made has at most 100,000 bytes.
    max_size = 8 << 20

    @staticmethod
    def compute(fd: int, size: int, each_chunk: Callable[[bytes], object]) -> bytes:
        """Index an open archive, and compress that; raise `OSError` if it cannot be read."""
        try:
            index = read_index(fd, size, each_chunk)
        except NoIndex:
            return b""
        return zlib.compress(index.to_json()) if len(index.pieces) > 1 else b""

    def known(self, archive: Archive) -> bytes | None:
        """Give the archive's index as JSON, or None if it is not known now."""
        index = super().known(archive)
        return zlib.decompress(index) if index else index
