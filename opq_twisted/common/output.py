"""Writes whole lines to a disk that may be full, or to a pipe that may have no reader."""

import atexit
import fcntl
import os
import select
import stat
import sys
import threading
from collections import deque
from contextlib import suppress
from functools import cache

from attrs import define

#: The number of bytes that may wait for standard output; with more, lines are lost.
_MAX_WAITING = 1024 * 1024

#: The seconds that a call waits until standard output has accepted its lines. After a longer delay,
#: no call waits until all lines are written.
_WAIT = 0.05

#: The seconds that the end of the process waits for standard output.
_LAST_WAIT = 1.0

_STANDARD_OUTPUT = 1


@define(eq=False)
class WholeLines:
    """
    Writes lines to a descriptor.

    A full disk or a full pipe may accept only a part of a line. In a file, that part is removed.
    If that is impossible, the rest of that line is written before the next line.
    """

    _fd: int
    #: The end of an unfinished line, which is written before the next line.
    _rest: bytes = b""
    #: Whether to wait for a non-blocking descriptor that accepts no more.
    _waits: bool = False

    def write(self, lines: bytes) -> None:
        """Write lines; raise `OSError` if not all of them were written: the others are lost."""
        data, done = self._rest + lines, 0
        try:
            while done < len(data):
                done += self._write_some(data[done:])
        except OSError:
            half = done - (data.rfind(b"\n", 0, done) + 1)
            if half and not self._remove(half):
                self._rest = data[done : data.index(b"\n", done) + 1]
            elif done:
                self._rest = b""
            raise
        self._rest = b""

    def close(self) -> None:
        """Close the descriptor; errors, which some file systems report only now, are ignored."""
        # After an error the descriptor is closed too (close(2)), and may belong to another file.
        with suppress(OSError):
            os.close(self._fd)

    def _write_some(self, data: bytes) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            if not self._waits:
                raise
            select.select((), (self._fd,), ())
            return 0

    def _remove(self, size: int) -> bool:
        """Remove the last written bytes from a file; returns whether that was possible."""
        try:
            end = os.fstat(self._fd)
            if not (
                stat.S_ISREG(end.st_mode)
                and fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_APPEND
                # No other program has appended to the file.
                and os.lseek(self._fd, 0, os.SEEK_CUR) == end.st_size
            ):
                return False
            os.ftruncate(self._fd, end.st_size - size)
        except OSError:
            return False
        return True


class Output:
    """
    Writes to standard output without ever blocking the reactor.

    A pipe, a terminal or a socket blocks its writer while its reader is stopped. So a thread
    writes, and lines are lost if too many wait. While a reader reads, a line is written before
    `write` returns, because a signal may end the process directly afterwards. O_NONBLOCK is not
    set: other processes may share it.
    """

    def __init__(self, fd: int | None) -> None:
        """Write to `fd`; None if there is no standard output, and all lines are lost."""
        # Another process may have made it non-blocking.
        self._lines = None if fd is None else WholeLines(fd, waits=True)
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._lost = 0
        self._stands_still = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def write(self, text: str | bytes) -> None:
        """Write whole lines, at once or as soon as standard output accepts them."""
        if self._lines is None:
            return
        data = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
        with self._changed:
            if self._size + len(data) > _MAX_WAITING:
                self._lost += data.count(b"\n")
                return
            if self._lost:
                note = f"({self._lost} lines are missing here: nobody took them.)\n"
                data = note.encode() + data
                self._lost = 0
            self._waiting.append(data)
            self._size += len(data)
            # Not earlier: a daemon is forked, and would lose the thread.
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="output", daemon=True)
                self._thread.start()
                atexit.register(self.drain)
            self._changed.notify_all()
            if not self._stands_still:
                self._stands_still = not self._changed.wait_for(lambda: not self._size, _WAIT)

    def flush(self) -> None:
        """Do nothing: the thread writes all lines."""

    def drain(self) -> None:
        """Wait until all lines are written, but at most a second, as there may be no reader."""
        with self._changed:
            self._changed.wait_for(lambda: not self._size, _LAST_WAIT)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                data = self._waiting[0]
            assert self._lines is not None
            is_lost = False
            try:
                # This may take any time.
                self._lines.write(data)
            except OSError:
                is_lost = True
            with self._changed:
                self._waiting.popleft()
                self._size -= len(data)
                self._lost += data.count(b"\n") if is_lost else 0
                self._stands_still = self._stands_still and bool(self._waiting)
                self._changed.notify_all()


@cache
def standard_output() -> Output:
    """Return the standard output of this process."""
    # If it was closed at the start, its number may be that of a connection by now.
    return Output(None if sys.__stdout__ is None else _STANDARD_OUTPUT)
