"""Downloads and verifies the archive of a release."""

from typing import BinaryIO

from attrs import define
from twisted.internet.interfaces import IReactorTime

from opq_twisted.archive.member_rules import MAX_ARCHIVE
from opq_twisted.archive.release import Release
from opq_twisted.box.download import part_file
from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.box.download.progress import ReportProgress
from opq_twisted.box.download.resumable import ReportPause, fetch
from opq_twisted.box.download.verify import Content
from opq_twisted.box.network.update_server import UpdateServerClient
from opq_twisted.common import files
from opq_twisted.common.errors import DownloadFailed, PiecesDiffer


@define
class Downloader:
    """Downloads archives into the archive store."""

    _clock: IReactorTime
    _server: UpdateServerClient
    _archives: ArchiveStore

    async def fetch(
        self, release: Release, report: ReportProgress, report_pause: ReportPause
    ) -> Release:
        """
        Download an archive to its part file, without verifying it.

        The download continues a part file that an earlier attempt left of the same release.

        The other parameters and the errors are those of `resumable.fetch`.

        :param release: with the signed size and hashes; without hashes, those of the server count.
        :returns: the release with the size and hashes that were promised.
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
        Read the part file back from the disk, verify it, and give it its final name.

        :returns: as `ArchiveStore.open_verified`.
        :raises PiecesDiffer: if it is not the promised file, and was joined from several responses
            that may not belong together: another download may help. The file is removed.
        :raises DownloadFailed: if it is not the promised file otherwise. The file is removed.
        :raises OSError: if the disk fails.
        """
        part = self._archives.part(promised.version)
        try:
            release, file = await self._archives.open_verified(part, promised)
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
        return release, file
