"""Logs each request as a line of JSON."""

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

#: Seconds between two writes.
_PERIOD = 1.0

#: Lines that are buffered at most.
_MAX_LINES = 500

#: Characters that are logged of a URI or a header. A client may send 16 KiB of each.
_MAX_LENGTH = 500

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class AccessLog(Service):
    """
    Writes a line for each request and its response.

    Lines are buffered and written together, so that no request waits for the disk. If they cannot
    be written, they are dropped as whole lines, and the server continues. After a rotation has
    renamed the file, a new one is opened.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, path: Path | None) -> None:
        """
        :param path: the log file; None for standard output.
        :raises CannotStart: if the file cannot be written. A full disk is not an error: it may
            have room later.
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
        """Start writing, after a daemon has replaced its standard output."""
        super().startService()
        self._writing.start(_PERIOD, now=False)

    def stopService(self) -> None:
        """Write the lines that are left."""
        super().stopService()
        self._writing.stop()
        self._write()
        self.close()
        if self._path is None:
            standard_output().drain()

    def request_ended(self, request: BoundedRequest, whole: bool) -> None:
        """Log a request."""
        # This runs for each request, and is faster than json.dumps.
        self._lines.append(
            f'{{"time": "{datetime.now(UTC).isoformat(timespec="milliseconds")}", '
            f'"client": {_as_json(getattr(request.client, "host", None))}, '
            f'"method": {_as_json(request.method)}, "uri": {_as_json(request.uri)}, '
            f'"status": {request.code if request.startedWriting else CLIENT_GONE}, '
            f'"bytes": {request.sentLength}, '
            f'"seconds": {self._clock.seconds() - request.began:.4f}, '
            f'"whole": {"true" if whole else "false"}, '
            f'"range": {_as_json(request.getHeader(b"Range"))}, '
            f'"agent": {_as_json(request.getHeader(b"User-Agent"))}}}\n'
        )
        if len(self._lines) >= _MAX_LINES:
            self._write()
        elif not self.running:
            # The reactor cuts the last connections after the services have stopped.
            self._write()
            self.close()

    def close(self) -> None:
        """Close the file, so that the next write opens the one that has the name then."""
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
            if self._file is not None and not self._is_at(self._path):
                self.close()
            file = self._file or self._open(self._path)
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

    def _open(self, path: Path) -> WholeLines:
        # Opening a FIFO without a reader must not block.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(path, flags, 0o640)
        self._identity = os.fstat(fd)
        # A power cut may have left an incomplete line.
        is_cut = stat.S_ISREG(self._identity.st_mode) and not _ends_whole(path)
        self._file = WholeLines(fd, rest=b"\n" if is_cut else b"")
        return self._file

    def _is_at(self, path: Path) -> bool:
        """Whether the open file still has its name."""
        try:
            return self._identity is not None and os.path.samestat(path.stat(), self._identity)
        except FileNotFoundError:
            return False


def _ends_whole(path: Path) -> bool:
    """Whether the last line is complete; also true if that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.seek(0, os.SEEK_END) == 0 or (
                file.seek(-1, os.SEEK_END) >= 0 and file.read(1) == b"\n"
            )
    except OSError:
        return True


def _as_json(text: bytes | str | None) -> str:
    """Write text from a client as a JSON string."""
    if isinstance(text, bytes):
        text = text[:_MAX_LENGTH].decode("ascii", "backslashreplace")
    return "null" if text is None else encode_basestring_ascii(text)
