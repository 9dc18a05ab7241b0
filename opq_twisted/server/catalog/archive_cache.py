"""Caches a value of each archive that is computed from all its bytes, in a thread."""

import os
import threading
import time
from collections.abc import Callable
from math import inf

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from opq_twisted.common import files
from opq_twisted.server.catalog.snapshot import Snapshot
from opq_twisted.server.catalog.updates_file import Archive, identify

InThread = Callable[..., Deferred[bytes | None]]

#: Computes a value from an open archive: its arguments are the descriptor, the size in bytes, and a
#: function to be called with each chunk that was read.
Compute = Callable[[int, int, Callable[[bytes], object]], bytes]

#: How many archives may wait for their turn.
MAX_WANTED = 32

#: Seconds for which an archive is left alone after it could not be read.
RETRY_DELAY = 60


class ArchiveCache(Service):
    """
    Keeps the values of the newest archive, and of those that were requested.

    A subclass says how a value is computed.
    """

    _log = Logger()
    #: The name of the value in the log.
    what: str
    #: Maximum bytes of all values together; the least recently used ones are dropped.
    max_size: float = inf

    def __init__(
        self, in_thread: InThread = deferToThread, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._in_thread = in_thread
        self._now = now
        #: The values, the least recently used first, and their bytes together.
        self._known: dict[Archive, bytes] = {}
        self._size = 0
        self._newest: Archive | None = None
        #: The archives whose values are wanted, in order.
        self._wanted: dict[Archive, None] = {}
        #: When archives could not be read.
        self._failed: dict[Archive, float] = {}
        self._working = False
        self._stopping = threading.Event()
        #: Called after each new value.
        self.observers: list[Callable[[], None]] = []

    @staticmethod
    def compute(fd: int, size: int, each_chunk: Callable[[bytes], object]) -> bytes:
        """Compute the value of an open archive; the parameters are those of `Compute`."""
        raise NotImplementedError

    def known(self, archive: Archive) -> bytes | None:
        """Give the archive's value, or None if it is not known now."""
        value = self._known.pop(archive, None)
        if value is not None:
            self._known[archive] = value
        return value

    def want(self, archive: Archive) -> bool:
        """
        Request the archive's value, unless it is known or already wanted.

        :returns: False if it will not be known soon, because many others are wanted before it, or
            because the archive could not be read a moment ago.
        """
        if archive in self._known or archive in self._wanted:
            return True
        if len(self._wanted) >= MAX_WANTED or not self._may_try(archive):
            return False
        self._wanted[archive] = None
        self._start()
        return True

    def catalog_changed(self, snapshot: Snapshot) -> None:
        """Forget archives that are gone, and compute the newest one's value before the others."""
        known = {*self._known, *self._wanted, *self._failed}
        for archive in [each for each in known if snapshot.find(str(each.name)) != each]:
            self._size -= len(self._known.pop(archive, b""))
            self._wanted.pop(archive, None)
            self._failed.pop(archive, None)
        self._newest = newest = snapshot.newest
        if newest is not None and newest not in self._known and self._may_try(newest):
            self._wanted = dict.fromkeys([newest, *self._wanted][:MAX_WANTED])
            self._start()

    def stopService(self) -> None:
        """End the thread, even if it is reading a large archive."""
        super().stopService()
        self._stopping.set()

    def _may_try(self, archive: Archive) -> bool:
        return self._now() - self._failed.get(archive, -inf) >= RETRY_DELAY

    def _start(self) -> None:
        if not self._working:
            Deferred.fromCoroutine(self._work())

    async def _work(self) -> None:
        """Compute the wanted values one after the other, to read the disk sequentially."""
        self._working = True
        while self._wanted and not self._stopping.is_set():
            archive = next(iter(self._wanted))
            with self._log.failuresHandled(
                "the {what} of {name} failed", what=self.what, name=archive.name
            ) as computing:
                value = await self._in_thread(compute_from, archive, self.compute, self._stopping)
                # An archive that has gone meanwhile is no longer wanted.
                if value is not None and archive in self._wanted:
                    self._keep(archive, value)
            if computing.failed and archive in self._wanted:
                self._failed[archive] = self._now()
            self._wanted.pop(archive, None)
        self._working = False

    def _keep(self, archive: Archive, value: bytes) -> None:
        self._known[archive] = value
        self._size += len(value)
        if self._newest is not None:
            # Boxes need this one, however many others are requested.
            self.known(self._newest)
        while self._size > self.max_size:
            self._size -= len(self._known.pop(next(iter(self._known))))
        for observer in self.observers:
            observer()


def compute_from(archive: Archive, compute: Compute, stopping: threading.Event) -> bytes | None:
    """
    Compute a value of the archive; None if the file has changed, or if the server stops.

    :raises OSError: if the archive cannot be read.
    """

    def check_stopping(_: bytes) -> None:
        if stopping.is_set():
            raise _Stopping

    try:
        with files.open_regular(archive.path, follow_links=False) as file:
            value = compute(file.fileno(), archive.size, check_stopping)
            is_unchanged = identify(os.fstat(file.fileno())) == archive.identity
    except (files.NotRegular, _Stopping):
        return None
    return value if is_unchanged else None


class _Stopping(Exception):
    """The server stops, and needs no value."""
