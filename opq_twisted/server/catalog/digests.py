"""The sha-256 of each archive: computed once, off the reactor, so that nobody waits for it."""

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
    """Knows the digests of the archives that were asked for, and of the newest one."""

    _log = Logger()

    def __init__(self, in_thread: InThread = deferToThread) -> None:
        self._in_thread = in_thread
        self._known: dict[Archive, bytes] = {}
        #: What is wanted, in the order in which it is computed; the first is under way.
        self._wanted: dict[Archive, None] = {}
        self._working = False
        self._stopping = threading.Event()
        #: Called whenever one more digest is known.
        self.observers: list[Callable[[], None]] = []

    def known(self, archive: Archive) -> bytes | None:
        """The archive's sha-256 (32 bytes), or None while it is being computed."""
        return self._known.get(archive)

    def want(self, archive: Archive) -> None:
        """Compute the archive's digest, unless that was done or is being done."""
        if archive not in self._known:
            self._wanted[archive] = None
            if not self._working:
                Deferred.fromCoroutine(self._work())

    def catalog_changed(self, snapshot: Snapshot) -> None:
        """Forget archives that are gone, and get the newest one's digest before it is asked for."""
        for archives in (self._known, self._wanted):
            for archive in [each for each in archives if snapshot.find(str(each.name)) != each]:
                archives.pop(archive)
        if snapshot.newest is not None:
            self.want(snapshot.newest)

    def stopService(self) -> None:
        """Let a thread that is hashing a large archive end at once."""
        super().stopService()
        self._stopping.set()

    async def _work(self) -> None:
        """Compute what is wanted, one after the other: one disk is read by one reader."""
        self._working = True
        while self._wanted:
            archive = next(iter(self._wanted))
            with self._log.failuresHandled("the digest of {name} failed", name=archive.name):
                digest = await self._in_thread(sha256_of, archive, self._stopping)
                # One that is gone meanwhile is forgotten already.
                if digest is not None and archive in self._wanted:
                    self._known[archive] = digest
                    for observer in self.observers:
                        observer()
            # Whoever wants one that failed lets it be tried again.
            self._wanted.pop(archive, None)
        self._working = False


def sha256_of(archive: Archive, stopping: threading.Event) -> bytes | None:
    """
    Read the archive; None when it is no longer the same file, or when there is no time left.

    :raises OSError: when it cannot be read.
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
