"""Writes whole lines to what may be full, or may be read by nobody."""

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

#: Bytes that wait for standard output to take them; with more, lines are lost.
_MOST_WAITING = 1024 * 1024

#: Seconds that a write waits until standard output has taken it. When it takes longer, no write
#: waits until all that there is was taken.
_WAIT = 0.05

#: Seconds that the end of the process waits for standard output.
_LAST_WAIT = 1.0

_STANDARD_OUTPUT = 1


class WholeLines:
    """
    Writes lines to a descriptor.

    A full disk, or a full pipe, may take a part of a line. In a file that part is removed. Where it
    cannot be, the rest of that line comes before any other.
    """

    def __init__(self, fd: int, rest: bytes = b"", waits: bool = False) -> None:
        """
        Begin with the rest of a line, which comes before the first.

        :param waits: whether to wait until a descriptor that does not block takes more.
        """
        self._fd = fd
        self._rest = rest
        self._waits = waits

    def write(self, lines: bytes) -> None:
        """
        Write lines.

        :raises OSError: when not all was written; the lines that were not are lost.
        """
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
        """Close the descriptor; a file system may tell only then of lines that it has lost."""
        # The number is free all the same (close(2)), and the next connection may have it.
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
        """Take back the last bytes that were written, where that is possible."""
        try:
            end = os.fstat(self._fd)
            if not (
                stat.S_ISREG(end.st_mode)
                and fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_APPEND
                # Nobody else has written there since.
                and os.lseek(self._fd, 0, os.SEEK_CUR) == end.st_size
            ):
                return False
            os.ftruncate(self._fd, end.st_size - size)
        except OSError:
            return False
        return True


class Output:
    """
    Standard output, which nobody has to read.

    A pipe, a terminal or a socket whose reader stands still blocks each write to it, and with it
    the reactor. So a thread writes, and lines that wait for too long are lost. While somebody
    reads, a line is out when `write` returns: a signal may end the process a moment later. Whether
    standard output blocks is a property that other processes may share, and so it stays as it is.
    """

    def __init__(self, fd: int | None) -> None:
        """:param fd: None where there is no standard output; all lines are lost then."""
        # Others who share it may not want it to block.
        self._lines = None if fd is None else WholeLines(fd, waits=True)
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._lost = 0
        self._stands_still = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def write(self, text: str | bytes) -> None:
        """Write whole lines: now, or later if somebody takes them then."""
        if self._lines is None:
            return
        data = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
        with self._changed:
            if self._size + len(data) > _MOST_WAITING:
                self._lost += data.count(b"\n")
                return
            if self._lost:
                note = f"({self._lost} lines are missing here: nobody took them.)\n"
                data = note.encode() + data
                self._lost = 0
            self._waiting.append(data)
            self._size += len(data)
            # Not earlier: a daemon has left the threads of its parent behind.
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="output", daemon=True)
                self._thread.start()
                atexit.register(self.drain)
            self._changed.notify_all()
            if not self._stands_still:
                self._stands_still = not self._changed.wait_for(lambda: not self._size, _WAIT)

    def flush(self) -> None:
        """Wait for nothing: what was written goes out by itself."""

    def drain(self) -> None:
        """Wait until all was written, or for a second: then nobody reads."""
        with self._changed:
            self._changed.wait_for(lambda: not self._size, _LAST_WAIT)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                data = self._waiting[0]
            is_lost = not self._try_to_write(data)
            with self._changed:
                self._waiting.popleft()
                self._size -= len(data)
                self._lost += data.count(b"\n") if is_lost else 0
                self._stands_still = self._stands_still and bool(self._waiting)
                self._changed.notify_all()

    def _try_to_write(self, data: bytes) -> bool:
        """Write, for as long as that takes; returns whether it could be done."""
        assert self._lines is not None
        try:
            self._lines.write(data)
        except OSError:
            return False
        return True


@cache
def standard_output() -> Output:
    """Give the standard output of this process."""
    # Where it was closed from the start, its number may be that of a connection by now.
    return Output(None if sys.__stdout__ is None else _STANDARD_OUTPUT)
