"""Keeps the catalog true: INotify says "look again", and a slow heartbeat looks again anyway."""

import os
from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet import inotify
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.threads import deferToThread
from twisted.logger import Logger
from twisted.python.filepath import FilePath

from opq_twisted.server.catalog import Catalog, Reading

#: Seconds between two looks at the whole directory.
HEARTBEAT = 30.0

# Twisted's IN_WATCH_MASK lacks CLOSE_WRITE. CREATE is all that a new link causes, ATTRIB all that a
# change of permissions does.
_EVENTS = (
    inotify.IN_CREATE
    | inotify.IN_CLOSE_WRITE
    | inotify.IN_ATTRIB
    | inotify.IN_MOVED_TO
    | inotify.IN_MOVED_FROM
    | inotify.IN_DELETE
    | inotify.IN_MOVE_SELF
    | inotify.IN_ONLYDIR
)
_OF_THE_DIRECTORY = inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF | inotify.IN_UNMOUNT

InThread = Callable[[Callable[[], Reading]], Deferred[Reading]]


class Watcher(Service):
    """
    Looks at the directory at the start, whenever the kernel reports a change, and every heartbeat.

    Kernel events are hints: the queue overflows without a word, and a directory that is moved or
    replaced goes unreported. The heartbeat is the truth.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        catalog: Catalog,
        heartbeat: float = HEARTBEAT,
        in_thread: InThread = deferToThread,
    ) -> None:
        self._reactor = reactor
        self._catalog = catalog
        self._heartbeat = heartbeat
        self._in_thread = in_thread
        self._path = FilePath(os.fsencode(catalog.directory))
        self._notifier: inotify.INotify | None = None
        self._watched: tuple[int, int] | None = None
        self._touched: set[str] = set()
        self._touched_while_reading: set[str] = set()
        self._flush: IDelayedCall | None = None
        self._beat: IDelayedCall | None = None

    def startService(self) -> None:
        """Know the directory before the first request is answered."""
        super().startService()
        self._watch()
        self._catalog.rescan()
        self._schedule_beat()

    def stopService(self) -> None:
        """Stop looking."""
        super().stopService()
        self._unwatch()
        for call in (self._flush, self._beat):
            if call is not None and call.active():
                call.cancel()

    def _watch(self) -> None:
        """Watch what has the directory's name now: a watch stays with a directory that moves."""
        try:
            status = self._catalog.directory.stat()
        except OSError:
            self._unwatch()
            return
        if self._watched == (status.st_dev, status.st_ino):
            return
        self._unwatch()
        try:
            self._notifier = inotify.INotify(self._reactor)
            self._notifier.watch(self._path, _EVENTS, callbacks=[self._notified])
        except (OSError, inotify.INotifyError) as error:
            self._log.warn("no kernel events, only the heartbeat: {error}", error=error)
            self._unwatch()
            return
        self._notifier.startReading()
        self._watched = (status.st_dev, status.st_ino)

    def _unwatch(self) -> None:
        if self._notifier is not None:
            self._notifier.loseConnection()
        self._forget_watch()

    def _forget_watch(self) -> None:
        self._notifier = None
        self._watched = None

    def _notified(self, _watch: object, path: FilePath[bytes], events: int) -> None:
        # An exception in here would end Twisted's reading of events for good: note, and work later.
        if events & _OF_THE_DIRECTORY or path == self._path:
            if events & inotify.IN_DELETE_SELF:
                # Twisted closes the notifier by itself, and must not be asked to do so twice.
                self._forget_watch()
            if self._beat is not None and self._beat.active():
                self._beat.reset(0)
            return
        self._touched.add(os.fsdecode(path.basename()))
        if self._flush is None:
            self._flush = self._reactor.callLater(0, self._look)

    def _look(self) -> None:
        """Look at all that was touched since the last time: one snapshot for a burst of events."""
        self._flush = None
        touched, self._touched = self._touched, set()
        self._touched_while_reading |= touched
        with self._log.failuresHandled("looking at changed files failed"):
            self._catalog.look(touched)

    def _schedule_beat(self) -> None:
        self._beat = self._reactor.callLater(
            self._heartbeat, lambda: Deferred.fromCoroutine(self._reread())
        )

    async def _reread(self) -> None:
        """Look at the whole directory, off the reactor."""
        with self._log.failuresHandled("looking at the updates directory failed"):
            # Watch first: what comes before it is read, what comes after it is reported.
            self._watch()
            self._touched_while_reading.clear()
            try:
                reading = await self._in_thread(self._catalog.read)
            except OSError as error:
                self._catalog.lost(error)
            else:
                self._catalog.adopt(reading, self._touched_while_reading)
        if self.running:
            self._schedule_beat()
