"""Computes and caches the SHA-256 of archives."""

from collections.abc import Callable

from opq_twisted.common import files
from opq_twisted.server.catalog.archive_cache import ArchiveCache


class Digests(ArchiveCache):
    """Caches the SHA-256 of archives (32 bytes each)."""

    what = "digest"

    @staticmethod
    def compute(fd: int, size: int, each_chunk: Callable[[bytes], object]) -> bytes:
        """Hash an open archive; raise `OSError` if it cannot be read."""
        return bytes.fromhex(files.hash_file(fd, ["sha256"], size, each_chunk)["sha256"])
