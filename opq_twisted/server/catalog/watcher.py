"""Keeps the catalog up to date, by inotify events and by regular scans."""

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

#: Seconds between two scans of the whole directory.
HEARTBEAT = 30.0

#: The same while the directory cannot be read: no event reports its return.
_WHILE_UNREADABLE = 1.0

InThread = Callable[[Callable[[], Scan]], Deferred[Scan]]


class Watcher(Service):
    """
    Scans the directory at the start and every heartbeat, and checks files that the kernel reports.

    Kernel events are only hints: their queue can overflow, a directory that is replaced or mounted
    over goes unreported, and a network file system reports nothing. The heartbeat finds the rest.
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
        self._heartbeat = Heartbeat(reactor, self._scan, self._pause)
        self._in_thread = in_thread
        self._watch = Watch(
            reactor,
            catalog.directory,
            self._note_touched,
            lambda: self._scan_soon("directory"),
            self._events_lost,
        )
        self._touched: set[str] = set()
        self._touched_during_scan: set[str] = set()
        self._flush: IDelayedCall | None = None
        self._reason = "heartbeat"
        #: Called with the names of files that may have changed.
        self.observers: list[Callable[[set[str]], None]] = []
        #: How often the whole directory was scanned, by reason.
        self.rescans: Counter[str] = Counter()
        #: How often the kernel's event queue was full.
        self.overflows = 0

    def startService(self) -> None:
        """Scan the directory before the first request is answered."""
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
        """Stop watching and scanning."""
        super().stopService()
        self._watch.end()
        self._heartbeat.stopService()
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None

    def _note_touched(self, name: str) -> None:
        self._touched.add(name)
        if self._flush is None:
            self._flush = self._reactor.callLater(0, self._check_touched)

    def _check_touched(self) -> None:
        """Check all files touched since the last call: one new snapshot for a burst of events."""
        self._flush = None
        touched, self._touched = self._touched, set()
        self._touched_during_scan |= touched
        with self._log.failuresHandled("checking changed files failed"):
            self._catalog.check(touched)
        for observer in self.observers:
            with self._log.failuresHandled("{observer} failed", observer=observer):
                observer(touched)

    def _events_lost(self) -> None:
        self.overflows += 1
        self._log.warn("the kernel's queue of events was full: some are lost")
        self._scan_soon("overflow")

    def _scan_soon(self, reason: str) -> None:
        self._reason = reason
        self._heartbeat.run_now()

    def _pause(self) -> float:
        is_unreadable = self._catalog.problem is not None
        return min(self._period, _WHILE_UNREADABLE) if is_unreadable else self._period

    async def _scan(self) -> None:
        """Scan the whole directory in a thread."""
        self.rescans[self._reason] += 1
        self._reason = "heartbeat"
        self._touched_during_scan.clear()
        try:
            # Watch first: then every change is either found by the scan or reported. Do not scan
            # without a watch: the directory may come back a moment later.
            self._watch.renew()
            scan = await self._in_thread(self._catalog.scan)
        except OSError as error:
            self._catalog.directory_lost(error)
        else:
            self._catalog.apply(scan, self._touched_during_scan)
