"""Keeps the catalog true: kernel events say "look again", and a heartbeat looks again anyway."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from opq_twisted.common.heartbeat import Heartbeat
from opq_twisted.server.catalog.inotify import Watch
from opq_twisted.server.catalog.snapshot import Catalog, Scan

#: Seconds between two looks at the whole directory.
HEARTBEAT = 30.0

#: The same while the directory cannot be read: nothing tells that it is back.
_WHILE_UNREADABLE = 1.0

InThread = Callable[[Callable[[], Scan]], Deferred[Scan]]


class Watcher(Service):
    """
    Looks at the directory at the start, whenever the kernel reports a change, and every heartbeat.

    Kernel events are hints: the queue overflows, a directory that is moved or replaced or mounted
    over goes unreported, a network filesystem reports nothing. The heartbeat is the truth.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        catalog: Catalog,
        heartbeat: float = HEARTBEAT,
        in_thread: InThread = deferToThread,
    ) -> None:
        self._reactor = reactor
        self._catalog = catalog
        self._period = heartbeat
        self._heartbeat = Heartbeat(reactor, self._read, self._pause)
        self._in_thread = in_thread
        self._watch = Watch(
            reactor, catalog.directory, self._note, self._directory_changed, self._events_lost
        )
        self._touched: set[str] = set()
        self._touched_while_reading: set[str] = set()
        self._flush: IDelayedCall | None = None
        self._reason = "heartbeat"
        #: Called with the names that something happened to.
        self.observers: list[Callable[[set[str]], None]] = []
        #: How often the whole directory was read, by reason.
        self.rescans: Counter[str] = Counter()
        #: How often the kernel's queue of events was full.
        self.overflows = 0

    def startService(self) -> None:
        """Know the directory before the first request is answered."""
        super().startService()
        self.rescans["start"] += 1
        try:
            self._watch.renew()
        except OSError as error:
            self._catalog.directory_lost(error)
        else:
            self._catalog.rescan()
        self._heartbeat.startService()

    def stopService(self) -> None:
        """Stop looking."""
        super().stopService()
        self._watch.end()
        self._heartbeat.stopService()
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None

    def _note(self, name: str) -> None:
        self._touched.add(name)
        if self._flush is None:
            self._flush = self._reactor.callLater(0, self._look)

    def _look(self) -> None:
        """Look at all that was touched since the last time: one snapshot for a burst of events."""
        self._flush = None
        touched, self._touched = self._touched, set()
        self._touched_while_reading |= touched
        with self._log.failuresHandled("looking at changed files failed"):
            self._catalog.check(touched)
        for observer in self.observers:
            with self._log.failuresHandled("{observer} failed", observer=observer):
                observer(touched)

    def _directory_changed(self) -> None:
        self._read_soon("directory")

    def _events_lost(self) -> None:
        self.overflows += 1
        self._log.warn("the kernel's queue of events was full: some are lost")
        self._read_soon("overflow")

    def _read_soon(self, reason: str) -> None:
        self._reason = reason
        self._heartbeat.run_now()

    def _pause(self) -> float:
        is_unreadable = self._catalog.problem is not None
        return min(self._period, _WHILE_UNREADABLE) if is_unreadable else self._period

    async def _read(self) -> None:
        """Look at the whole directory, off the reactor."""
        self.rescans[self._reason] += 1
        self._reason = "heartbeat"
        self._touched_while_reading.clear()
        try:
            # Watch first: what comes before it is read, what comes after it is reported. Read
            # nothing that is not watched: the directory may be back a moment later.
            self._watch.renew()
            reading = await self._in_thread(self._catalog.scan)
        except OSError as error:
            self._catalog.directory_lost(error)
        else:
            self._catalog.apply(reading, self._touched_while_reading)
