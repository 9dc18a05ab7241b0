"""Brings archives to the box: as a part until they are verified, and under their name then."""

from typing import BinaryIO

from twisted.internet.interfaces import IReactorTime

from opq_twisted.archive.member_rules import MAX_ARCHIVE
from opq_twisted.box.download import part_file
from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.box.download.progress import ReportProgress
from opq_twisted.box.download.resumable import ReportPause, fetch
from opq_twisted.box.download.verify import Content
from opq_twisted.box.network.update_server import UpdateServerClient
from opq_twisted.box.state.records import Release
from opq_twisted.common import files
from opq_twisted.common.errors import DownloadFailed, PiecesDiffer


class Downloader:
    """Fetches archives into their folder."""

    def __init__(
        self, clock: IReactorTime, server: UpdateServerClient, archives: ArchiveStore
    ) -> None:
        self._clock = clock
        self._server = server
        self._archives = archives

    async def fetch(
        self, release: Release, report: ReportProgress, report_pause: ReportPause
    ) -> Release:
        """
        Download an archive to its part, which is on the disk then, not yet verified.

        Where an earlier attempt, or an earlier run, left a part of the same release, this goes on
        there.

        :param release: its size and hashes are those that were signed; without hashes it is what
            the server says.
        :param report: told of the progress, at most 4 times a second.
        :param report_pause: told in a sentence why it pauses, and for how long.
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
            self._archives.part(release.version),
            MAX_ARCHIVE,
            report,
            report_pause,
            self._archives.in_thread,
        )
        return Release(release.version, content.size, content.hashes)

    async def verify(self, promised: Release) -> tuple[Release, BinaryIO]:
        """
        Read back from the disk what was fetched, and give it its final name.

        :returns: the release with the size and the hashes it really has, and the very file that
            was read, open at its beginning; the caller closes it.
        :raises PiecesDiffer: when it is not what was promised, and came in pieces of which nobody
            knew whether they fit: to fetch it anew may help. It is removed then.
        :raises DownloadFailed: when it is not what was promised otherwise; it is removed then.
        :raises OSError: when the disk fails.
        """
        part = self._archives.part(promised.version)
        try:
            received, file = await self._archives.open_verified(part, promised)
        except DownloadFailed as error:
            joined = part_file.is_joined(part)
            part_file.remove(part)
            if joined:
                raise PiecesDiffer(str(error)) from None
            raise
        try:
            files.rename(part, self._archives.path(promised.version))
            part_file.remove(part)
        except OSError:
            file.close()
            raise
        return received, file
