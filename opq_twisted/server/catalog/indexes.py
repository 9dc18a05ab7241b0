"""Computes and caches the indexes of archives' pieces."""

from collections.abc import Callable

from opq_twisted.archive.pieces import NoIndex, read_index
from opq_twisted.server.catalog.archive_cache import ArchiveCache


class Indexes(ArchiveCache):
    """
    Caches the indexes of archives as JSON.

    The value of an archive without a useful index is empty: with one piece only there is nothing
    that a box could have already.
    """

    what = "index"
    # An archive that the builder made has at most 100,000 bytes of index, and any archive at most
    # `MAX_INDEX`.
    max_size = 8 << 20

    @staticmethod
    def compute(fd: int, size: int, each_chunk: Callable[[bytes], object]) -> bytes:
        """Index an open archive; raise `OSError` if it cannot be read."""
        try:
            index = read_index(fd, size, each_chunk)
        except NoIndex:
            return b""
        return index.to_json() if len(index.pieces) > 1 else b""
