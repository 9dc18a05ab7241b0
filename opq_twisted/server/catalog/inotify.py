"""Tells what the kernel says of one directory, and when it could not say it all."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

from twisted.internet import inotify
from twisted.internet.interfaces import IReactorFDSet
from twisted.logger import Logger
from twisted.python.filepath import FilePath

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

#: What the kernel writes when its queue was full: no watch, no name (inotify(7)).
_OVERFLOW = struct.pack("=lLLL", -1, inotify.IN_Q_OVERFLOW, 0, 0)


class InotifyWatch(inotify.INotify):
    """
    Watches one directory for as long as it lives.

    The callbacks only take note, and must not fail: an exception in one would end Twisted's reading
    of events for good.
    """

    def __init__(
        self,
        reactor: IReactorFDSet,
        directory: Path,
        touched: Callable[[str], None],
        directory_changed: Callable[[], None],
        overflowed: Callable[[], None],
    ) -> None:
        """
        Begin to watch.

        :param touched: called with the name of a file that something happened to.
        :param directory_changed: called when the directory was moved, removed, unmounted, or had
            its own mode or owner changed.
        :param overflowed: called when events were lost.
        :raises OSError, INotifyError: when the kernel cannot watch it.
        """
        super().__init__(reactor)
        self._path = FilePath(os.fsencode(directory))
        self._touched = touched
        self._directory_changed = directory_changed
        self._overflowed = overflowed
        self._closed = False
        try:
            self.watch(self._path, _EVENTS, callbacks=[self._notified])
        except BaseException:
            self.close()
            raise
        self.startReading()

    def close(self) -> None:
        """Watch no more."""
        if not self._closed:
            self._closed = True
            self.loseConnection()

    def _doRead(self, in_: bytes) -> None:
        # Twisted drops this event, for it belongs to no watch.
        if _OVERFLOW in in_:
            self._overflowed()
        super()._doRead(in_)

    def _notified(self, _watch: object, path: FilePath[bytes], events: int) -> None:
        if events & inotify.IN_DELETE_SELF:
            # Twisted closes by itself then, and must not be asked to do so twice.
            self._closed = True
        if events & _OF_THE_DIRECTORY or path == self._path:
            self._directory_changed()
        else:
            self._touched(os.fsdecode(path.basename()))


class Watch:
    """
    Watches what has a directory's name: a notifier stays with a directory that moves.

    The callbacks are those of `InotifyWatch`.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorFDSet,
        directory: Path,
        touched: Callable[[str], None],
        directory_changed: Callable[[], None],
        overflowed: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._directory = directory
        self._touched = touched
        self._directory_changed = directory_changed
        self._overflowed = overflowed
        self._notifier: InotifyWatch | None = None
        self._watched: tuple[int, int] | None = None

    def renew(self) -> None:
        """
        Watch what has the name now, unless it is watched already.

        :raises OSError: when nothing has the name.
        """
        try:
            status = self._directory.stat()
        except OSError:
            self.end()
            raise
        if self._watched == (status.st_dev, status.st_ino):
            return
        self.end()
        try:
            self._notifier = InotifyWatch(
                self._reactor, self._directory, self._touched, self._changed, self._overflowed
            )
        except (OSError, inotify.INotifyError) as error:
            self._log.warn("no kernel events, only the heartbeat: {error}", error=error)
        else:
            self._watched = (status.st_dev, status.st_ino)

    def end(self) -> None:
        """Watch no more."""
        if self._notifier is not None:
            self._notifier.close()
        self._notifier = None
        self._watched = None

    def _changed(self) -> None:
        # The watch may have ended with this event, though the directory may soon look the same: one
        # that is unmounted and mounted again.
        self._watched = None
        self._directory_changed()
