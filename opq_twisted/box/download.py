"""Brings an archive to disk: bounded, with room for it, and verified before it gets its name."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThread
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse

from opq_twisted import durable
from opq_twisted.box.body import hang_up, take
from opq_twisted.box.client import UpdateServer, announced_digest
from opq_twisted.box.journal import Release
from opq_twisted.box.status import Progress
from opq_twisted.errors import DownloadFailed, NoRoom, OpqError
from opq_twisted.release.bzip2 import is_whole
from opq_twisted.release.name import UpdateName
from opq_twisted.release.unpack import RESERVE

#: Bytes: no archive is larger.
MAX_ARCHIVE = 2 * 1024**3

#: Seconds between two reports of progress.
_REPORT_EVERY = 0.25

_CHUNK = 1024 * 1024


class Downloader:
    """Fetches archives into a folder: `NAME.part` until they are verified, then `NAME`."""

    def __init__(self, clock: IReactorTime, server: UpdateServer, folder: Path) -> None:
        self._clock = clock
        self._server = server
        self._folder = folder

    def path(self, version: int) -> Path:
        """Where the verified archive of a version lies."""
        return self._folder / str(UpdateName(version))

    def clear(self, keep: int | None = None) -> None:
        """
        Remove whatever was fetched, but for one version.

        :raises OSError: when the disk fails.
        """
        for path in self._folder.iterdir():
            if keep is None or path != self.path(keep):
                path.unlink()

    async def fetch(self, version: int, report: Callable[[Progress], object]) -> Release:
        """
        Download an archive to its partial file, which is on the disk then, not yet verified.

        :param report: told of the progress, at most 4 times a second.
        :returns: what the server promised about it.
        :raises ServerFailed: when the server does not send it.
        :raises DownloadFailed: when it does not come whole, or is too large.
        :raises NoRoom: when the disk has no room for it; what came of it is removed.
        :raises OSError: when the disk fails, or is full; what came of it is removed.
        """
        response = await self._server.archive(version)
        size = None if response.length is UNKNOWN_LENGTH else int(response.length)
        partial = self._partial(version)
        try:
            self._require_room(size)
            file = partial.open("wb")
        except (OpqError, OSError):
            hang_up(self._clock, response)
            raise
        try:
            with file:
                await self._receive(response, file, _Meter(self._clock, size, report))
        except (NoRoom, OSError):
            partial.unlink(missing_ok=True)
            raise
        return Release(version, size, announced_digest(response))

    async def _receive(self, response: IResponse, file: BinaryIO, meter: "_Meter") -> None:
        def receive(data: bytes) -> None:
            # Not every server says how much it will send, and others write to the disk too.
            self._require_room(len(data))
            file.write(data)
            meter.count(len(data))

        await take(self._clock, response, receive, MAX_ARCHIVE)
        await deferToThread(_flush, file)

    async def verify(self, promised: Release) -> Release:
        """
        Read back from the disk what was fetched, and give it its final name.

        :returns: the release with the size and the digest it really has.
        :raises DownloadFailed: when it is not what was promised; it is removed then.
        """
        partial = self._partial(promised.version)
        try:
            received = await deferToThread(_measure, partial, promised)
        except DownloadFailed:
            partial.unlink()
            raise
        durable.rename(partial, self.path(promised.version))
        return received

    def _partial(self, version: int) -> Path:
        path = self.path(version)
        return path.with_name(f"{path.name}.part")

    def _require_room(self, size: int | None) -> None:
        if size is not None and size > MAX_ARCHIVE:
            raise DownloadFailed(f"The archive has {size} bytes; at most {MAX_ARCHIVE} are taken.")
        disk = os.statvfs(self._folder)
        free = disk.f_bavail * disk.f_frsize
        needed = (size or 0) + RESERVE
        if free < needed:
            raise NoRoom(
                f"The download needs {_megabytes(needed)} free under {self._folder}, and there are "
                f"{_megabytes(free)}. Make room, and try again."
            )


class _Meter:
    """Measures a download, and reports it now and then."""

    def __init__(
        self, clock: IReactorTime, total: int | None, report: Callable[[Progress], object]
    ) -> None:
        self._clock = clock
        self._total = total
        self._report = report
        self._received = 0
        self._started = clock.seconds()
        self._reported = float("-inf")

    def count(self, received: int) -> None:
        self._received += received
        now = self._clock.seconds()
        if now - self._reported >= _REPORT_EVERY or self._received == self._total:
            self._reported = now
            rate = self._received / max(now - self._started, 0.001)
            self._report(Progress(self._received, self._total, rate))


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _measure(path: Path, promised: Release) -> Release:
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if promised.size not in (None, size):
            raise DownloadFailed(f"{size} bytes came instead of {promised.size}. Try again.")
        if not is_whole(file.fileno(), size):
            raise DownloadFailed("What came is not a whole bzip2 archive. Try again.")
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
    if promised.sha256 not in (None, sha256.hexdigest()):
        raise DownloadFailed("What came has another SHA-256 than the server promised. Try again.")
    return Release(promised.version, size, sha256.hexdigest())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
