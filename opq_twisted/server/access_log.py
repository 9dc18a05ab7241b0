"""A line of JSON for each request."""

import os
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii
from pathlib import Path

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from opq_twisted.errors import CannotStart
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.site import CLIENT_GONE

#: Seconds after which a line is written at the latest.
_PERIOD = 1.0

#: Lines that are kept before they are written.
_MOST_LINES = 500

#: Characters told of a URI or a header; a client may send 16 KiB of each.
_LONGEST = 500

_STANDARD_OUTPUT = 1


class AccessLog(Service):
    """
    Writes down who asked for what, and what came of it.

    Lines are written together, a moment later, so that a request does not wait for the disk. Where
    they cannot be written they are lost, and the server goes on. A file that a rotation has renamed
    is opened anew.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, path: Path | None) -> None:
        """
        Prepare to write.

        :param path: the file to write to; None for standard output.
        :raises CannotStart: when the file cannot be written.
        """
        self._clock = clock
        self._path = path
        self._lines: list[str] = []
        self._fd: int | None = None
        self._failed = False
        self._writing = LoopingCall(self._write)
        self._writing.clock = clock
        try:
            os.close(self._open())
        except OSError as error:
            raise CannotStart(
                f"Cannot write the access log {path}: {error.strerror}. "
                "Name another with --access-log, or turn it off with --no-access-log."
            ) from None

    def startService(self) -> None:
        """Begin to write. Not earlier: a daemon has another standard output than its parent."""
        super().startService()
        self._writing.start(_PERIOD, now=False)

    def stopService(self) -> None:
        """Write what is left."""
        super().stopService()
        self._writing.stop()
        self._write()
        self._close()

    def request_ended(self, request: BoundedRequest, whole: bool) -> None:
        """Note a request."""
        # Put together by hand, for it is done at each request: json.dumps takes longer.
        self._lines.append(
            f'{{"time": "{datetime.now(UTC).isoformat(timespec="milliseconds")}", '
            f'"client": {_told(getattr(request.client, "host", None))}, '
            f'"method": {_told(request.method)}, "uri": {_told(request.uri)}, '
            f'"status": {request.code if request.startedWriting else CLIENT_GONE}, '
            f'"bytes": {request.sentLength}, '
            f'"seconds": {self._clock.seconds() - request.began:.4f}, '
            f'"whole": {"true" if whole else "false"}, '
            f'"range": {_told(request.getHeader(b"Range"))}, '
            f'"agent": {_told(request.getHeader(b"User-Agent"))}}}\n'
        )
        if len(self._lines) >= _MOST_LINES:
            self._write()
        elif not self.running:
            # The reactor cuts what is under way after the services have stopped.
            self._write()
            self._close()

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        try:
            if self._fd is None:
                self._fd = self._open()
            elif self._path is not None and not _is_at(self._path, self._fd):
                self._close()
                self._fd = self._open()
            if lines:
                os.write(self._fd, "".join(lines).encode())
            self._failed = False
        except OSError as error:
            if not self._failed:
                self._log.error("The access log cannot be written: {error}", error=error)
            self._failed = True

    def _open(self) -> int:
        if self._path is None:
            return os.dup(_STANDARD_OUTPUT)
        # A FIFO that nobody reads must not be waited for.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        return os.open(self._path, flags, 0o640)

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _is_at(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _told(text: bytes | str | None) -> str:
    """Write down what a client sent, as JSON has it."""
    if isinstance(text, bytes):
        text = text[:_LONGEST].decode("ascii", "backslashreplace")
    return "null" if text is None else encode_basestring_ascii(text)
