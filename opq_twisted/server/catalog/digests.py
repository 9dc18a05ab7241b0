"""Computes the SHA-256 of each archive once, in a thread."""

import os
import threading
from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from opq_twisted.common import files
from opq_twisted.server.catalog.snapshot import Archive, Snapshot, identify

InThread = Callable[..., Deferred[bytes | None]]


class Digests(Service):
    """Keeps the digests of the newest archive, and of those that were requested."""

    _log = Logger()

    def __init__(self, in_thread: InThread = deferToThread) -> None:
        self._in_thread = in_thread
        self._known: dict[Archive, bytes] = {}
        #: The archives whose digests are wanted, in order; the first is being hashed.
        self._wanted: dict[Archive, None] = {}
        self._working = False
        self._stopping = threading.Event()
        #: Called after each new digest.
        self.observers: list[Callable[[], None]] = []

    def known(self, archive: Archive) -> bytes | None:
        """Give the archive's SHA-256 (32 bytes), or None if it is not known yet."""
        return self._known.get(archive)

    def want(self, archive: Archive) -> None:
        """Request the archive's digest, unless it is known or already wanted."""
        if archive not in self._known:
            self._wanted[archive] = None
            if not self._working:
                Deferred.fromCoroutine(self._work())

    def catalog_changed(self, snapshot: Snapshot) -> None:
        """Forget archives that are gone, and compute the newest one's digest in advance."""
        for archives in (self._known, self._wanted):
            for archive in [each for each in archives if snapshot.find(str(each.name)) != each]:
                archives.pop(archive)
        if snapshot.newest is not None:
            self.want(snapshot.newest)

    def stopService(self) -> None:
        """End the thread, even if it is hashing a large archive."""
        super().stopService()
        self._stopping.set()

    async def _work(self) -> None:
        """Compute the wanted digests one after the other, to read the disk sequentially."""
        self._working = True
        while self._wanted:
            archive = next(iter(self._wanted))
            with self._log.failuresHandled("the digest of {name} failed", name=archive.name):
                digest = await self._in_thread(sha256_of, archive, self._stopping)
                # An archive that has gone meanwhile is no longer wanted.
                if digest is not None and archive in self._wanted:
                    self._known[archive] = digest
                    for observer in self.observers:
                        observer()
            # After a failure, the next request for the digest tries again.
            self._wanted.pop(archive, None)
        self._working = False


def sha256_of(archive: Archive, stopping: threading.Event) -> bytes | None:
    """
    Hash the archive; None if the file has changed, or if the server stops.

    :raises OSError: if the archive cannot be read.
    """

    def check_stopping(_: bytes) -> None:
        if stopping.is_set():
            raise _Stopping

    try:
        with files.open_regular(archive.path, follow_links=False) as file:
            hashes = files.hash_file(file.fileno(), ["sha256"], each_piece=check_stopping)
            is_unchanged = identify(os.fstat(file.fileno())) == archive.identity
    except (files.NotRegular, _Stopping):
        return None
    return bytes.fromhex(hashes["sha256"]) if is_unchanged else None


class _Stopping(Exception):
    """The server stops, and needs no digest."""
