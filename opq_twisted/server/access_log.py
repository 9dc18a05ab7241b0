"""A line of JSON for each request."""

import errno
import os
import stat
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii
from pathlib import Path

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from opq_twisted.common.errors import CannotStart
from opq_twisted.common.output import WholeLines, standard_output
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.site import CLIENT_GONE

#: Seconds after which a line is written at the latest.
_PERIOD = 1.0

#: Lines that are kept before they are written.
_MOST_LINES = 500

#: Characters told of a URI or a header; a client may send 16 KiB of each.
_LONGEST = 500

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class AccessLog(Service):
    """
    Writes down who asked for what, and what came of it.

    Lines are written together, a moment later, so that a request does not wait for the disk. Where
    they cannot be written they are lost, each as a whole, and the server goes on. A file that a
    rotation has renamed is opened anew.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, path: Path | None) -> None:
        """
        Prepare to write.

        :param path: the file to write to; None for standard output.
        :raises CannotStart: when the file cannot be written, unless its disk is full: that passes.
        """
        self._clock = clock
        self._path = path
        self._lines: list[str] = []
        self._file: WholeLines | None = None
        self._identity: os.stat_result | None = None
        self._failed = False
        self._lost = 0
        self._writing = LoopingCall(self._write)
        self._writing.clock = clock
        try:
            if path is not None:
                self._open(path)
                self.close()
        except OSError as error:
            if error.errno in _DISK_FULL:
                return
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
        self.close()
        if self._path is None:
            standard_output().drain()

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
            self.close()

    def close(self) -> None:
        """Close the file; it is opened anew for the next lines, as a rotation may ask for."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        data = "".join(lines).encode()
        if self._path is None:
            standard_output().write(data)
            return
        try:
            file = self._current(self._path)
            if data:
                file.write(data)
        except OSError as error:
            self._lost += len(lines)
            if not self._failed:
                self._log.error("The access log cannot be written: {error}", error=error)
            self._failed = True
        else:
            if self._failed:
                self._log.info(
                    "The access log is written again; up to {lost} lines are missing.",
                    lost=self._lost,
                )
            self._failed, self._lost = False, 0

    def _current(self, path: Path) -> WholeLines:
        """Give the file that has the name now."""
        if self._file is not None and not self._is_at(path):
            self.close()
        return self._file or self._open(path)

    def _open(self, path: Path) -> WholeLines:
        # A FIFO that nobody reads must not be waited for.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(path, flags, 0o640)
        self._identity = os.fstat(fd)
        # A power cut may have left half a line.
        is_cut = stat.S_ISREG(self._identity.st_mode) and not _ends_whole(path)
        self._file = WholeLines(fd, rest=b"\n" if is_cut else b"")
        return self._file

    def _is_at(self, path: Path) -> bool:
        try:
            return self._identity is not None and os.path.samestat(path.stat(), self._identity)
        except FileNotFoundError:
            return False


def _ends_whole(path: Path) -> bool:
    """Tell whether the last line has its end, as far as that can be read."""
    try:
        with path.open("rb") as file:
            return file.seek(0, os.SEEK_END) == 0 or (
                file.seek(-1, os.SEEK_END) >= 0 and file.read(1) == b"\n"
            )
    except OSError:
        return True


def _told(text: bytes | str | None) -> str:
    """Write down what a client sent, as JSON has it."""
    if isinstance(text, bytes):
        text = text[:_LONGEST].decode("ascii", "backslashreplace")
    return "null" if text is None else encode_basestring_ascii(text)
