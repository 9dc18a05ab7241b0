"""Brings archives to the box: as a part until they are verified, and under their name then."""

from pathlib import Path
from typing import BinaryIO

from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThread

from opq_twisted import durable
from opq_twisted.box import partial
from opq_twisted.box.client import UpdateServer
from opq_twisted.box.content import Content, InThread, measure, open_file
from opq_twisted.box.fetch import fetch
from opq_twisted.box.journal import Release
from opq_twisted.box.meter import Report
from opq_twisted.errors import DownloadFailed
from opq_twisted.release.bzip2 import is_whole
from opq_twisted.release.name import UpdateName

#: Bytes: no archive is larger.
MAX_ARCHIVE = 2 * 1024**3


class Downloader:
    """Fetches archives into a folder: `NAME.part` until they are verified, then `NAME`."""

    def __init__(
        self,
        clock: IReactorTime,
        server: UpdateServer,
        folder: Path,
        in_thread: InThread = deferToThread,
    ) -> None:
        self._clock = clock
        self._server = server
        self._folder = folder
        self._in_thread = in_thread

    def path(self, version: int) -> Path:
        """Where the verified archive of a version lies."""
        return self._folder / str(UpdateName(version))

    def clear(self, keep: int | None = None, fetching: int | None = None) -> None:
        """
        Remove whatever was fetched.

        :param keep: the version whose archive is kept.
        :param fetching: the version whose part is kept.
        :raises OSError: when the disk fails.
        """
        kept: set[Path] = set()
        if keep is not None:
            kept.add(self.path(keep))
        if fetching is not None:
            part = self._part(fetching)
            kept |= {part, partial.record_path(part)}
        for path in self._folder.iterdir():
            if path not in kept:
                path.unlink()

    async def fetch(self, release: Release, report: Report) -> Release:
        """
        Download an archive to its part, which is on the disk then, not yet verified.

        Where an earlier attempt, or an earlier run, left a part of the same release, this goes on
        there.

        :param release: its size and hashes are those that were signed; without hashes it is what
            the server says.
        :param report: told of the progress, at most 4 times a second.
        :returns: the release, with what was promised about it.
        :raises ServerFailed: when the server does not send it; what came of it is kept.
        :raises DownloadFailed: when it does not come whole, or is too large.
        :raises NoRoom: when the disk has no room for it; what came of it is removed.
        :raises OSError: when the disk fails, or is full; what came of it is removed.
        """
        content = await fetch(
            self._clock,
            self._server,
            self._server.archive_url(release.version),
            Content(release.size, release.hashes),
            self._part(release.version),
            MAX_ARCHIVE,
            report,
            self._in_thread,
        )
        return Release(release.version, content.size, content.hashes)

    async def verify(self, promised: Release) -> tuple[Release, BinaryIO]:
        """
        Read back from the disk what was fetched, and give it its final name.

        :returns: the release with the size and the hashes it really has, and the very file that
            was read, open at its beginning; the caller closes it.
        :raises DownloadFailed: when it is not what was promised; it is removed then.
        :raises OSError: when the disk fails.
        """
        part = self._part(promised.version)
        try:
            received, file = await self._open_verified(part, promised)
        except DownloadFailed:
            partial.remove(part)
            raise
        try:
            durable.rename(part, self.path(promised.version))
            partial.remove(part)
        except OSError:
            file.close()
            raise
        return received, file

    async def open(self, release: Release) -> BinaryIO:
        """
        Open an archive that was verified before, verifying it again.

        :returns: the file, open at its beginning; the caller closes it.
        :raises DownloadFailed: when it is not that release's any more; it is removed then.
        :raises OSError: when the disk fails.
        """
        path = self.path(release.version)
        try:
            _, file = await self._open_verified(path, release)
        except DownloadFailed:
            path.unlink(missing_ok=True)
            raise DownloadFailed(
                f"The archive of release {release.version} is not on the disk any more as it was "
                "downloaded. Try again."
            ) from None
        return file

    async def _open_verified(self, path: Path, promised: Release) -> tuple[Release, BinaryIO]:
        file = open_file(path)
        try:
            content = await measure(file, Content(promised.size, promised.hashes), self._in_thread)
            if not is_whole(file.fileno(), content.size or 0):
                raise DownloadFailed("What came is not a whole bzip2 archive. Try again.")
        except BaseException:
            file.close()
            raise
        return Release(promised.version, content.size, content.hashes), file

    def _part(self, version: int) -> Path:
        path = self.path(version)
        return path.with_name(f"{path.name}.part")
