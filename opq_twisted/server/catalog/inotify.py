"""Watches one directory by inotify, and reports when the kernel has lost events."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

from attrs import define, field
from twisted.internet import inotify
from twisted.internet.interfaces import IReactorFDSet
from twisted.logger import Logger
from twisted.python.filepath import FilePath

# Twisted's IN_WATCH_MASK lacks CLOSE_WRITE. A new link causes only CREATE, a change of permissions
# only ATTRIB.
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

#: The event after an overflow of the kernel's queue: no watch, no name (inotify(7)).
_OVERFLOW = struct.pack("=lLLL", -1, inotify.IN_Q_OVERFLOW, 0, 0)


class InotifyWatch(inotify.INotify):
    """Watches one directory (an inode), also when it is moved."""

    def __init__(self, owner: "Watch") -> None:
        """
        Start watching the directory of `owner`, and call its functions.

        :raises OSError, INotifyError: if the kernel cannot watch the directory.
        """
        super().__init__(owner.reactor)
        self._path = FilePath(os.fsencode(owner.directory))
        self._owner = owner
        self._closed = False
        try:
            self.watch(self._path, _EVENTS, callbacks=[self._notified])
        except BaseException:
            self.close()
            raise
        self.startReading()

    def close(self) -> None:
        """Stop watching."""
        if not self._closed:
            self._closed = True
            self.loseConnection()

    def _doRead(self, in_: bytes) -> None:
        # Twisted drops this event, because it belongs to no watch.
        if _OVERFLOW in in_:
            self._owner.overflowed()
        super()._doRead(in_)

    def _notified(self, _watch: object, path: FilePath[bytes], events: int) -> None:
        if events & inotify.IN_DELETE_SELF:
            # Twisted closes the connection itself. A second close would fail.
            self._closed = True
        if events & _OF_THE_DIRECTORY or path == self._path:
            self._owner.changed()
        else:
            self._owner.touched(os.fsdecode(path.basename()))


@define(eq=False)
class Watch:
    """
    Watches a path: after `renew`, the directory that has this path now.

    The functions must not fail: after an exception, Twisted would never read events again.
    """

    _log = Logger()

    reactor: IReactorFDSet
    directory: Path
    #: Called with the name of a file that may have changed.
    touched: Callable[[str], None]
    #: Called after the directory itself was moved, removed or unmounted, or its mode or owner
    #: changed.
    directory_changed: Callable[[], None]
    #: Called after events were lost.
    overflowed: Callable[[], None]
    _inotify_watch: InotifyWatch | None = field(init=False, default=None)
    _watched: tuple[int, int] | None = field(init=False, default=None)

    def renew(self) -> None:
        """
        Watch the directory that has the path now, unless it is watched already.

        :raises OSError: if the path does not exist.
        """
        try:
            status = self.directory.stat()
        except OSError:
            self.end()
            raise
        if self._watched == (status.st_dev, status.st_ino):
            return
        self.end()
        try:
            self._inotify_watch = InotifyWatch(self)
        except (OSError, inotify.INotifyError) as error:
            self._log.warn("no kernel events, only the heartbeat: {error}", error=error)
        else:
            self._watched = (status.st_dev, status.st_ino)

    def end(self) -> None:
        """Stop watching."""
        if self._inotify_watch is not None:
            self._inotify_watch.close()
        self._inotify_watch = None
        self._watched = None

    def changed(self) -> None:
        """Report a change of the directory itself."""
        # The event may have ended the watch, although the path soon leads to the same inode again:
        # after an unmount and a mount.
        self._watched = None
        self.directory_changed()
