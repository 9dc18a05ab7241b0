"""Downloads and verifies the archive of a release."""

from typing import BinaryIO

from attrs import define
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from opq_twisted.archive.pieces import Index, NoIndex, PieceFinder
from opq_twisted.archive.release import Release
from opq_twisted.archive.sizes import MAX_ARCHIVE
from opq_twisted.box.download import part_file
from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.box.download.assembly import prepare
from opq_twisted.box.download.progress import ReportProgress
from opq_twisted.box.download.resumable import ReportPause, fetch
from opq_twisted.box.download.verify import Content
from opq_twisted.box.network.update_server import UpdateServerClient
from opq_twisted.common import files, wording
from opq_twisted.common.errors import DownloadFailed, WronglyJoined


@define
class Downloader:
    """Downloads archives into the archive store."""

    _log = Logger()

    _clock: IReactorTime
    _server: UpdateServerClient
    _archives: ArchiveStore

    async def fetch(
        self,
        release: Release,
        report: ReportProgress,
        report_pause: ReportPause,
        whole: bool = False,
    ) -> tuple[Release, int]:
        """
        Download an archive to its part file, without verifying it.

        The download continues a part file that an earlier attempt left of the same release. Pieces
        that the last good archive has too are copied from there.

        The other parameters and the errors are those of `resumable.fetch`.

        :param release: with the signed size and hashes; without hashes, those of the server count.
        :param whole: whether to copy nothing.
        :returns: the release with the size and hashes that were promised, and the number of the
            archive's bytes that were fetched.
        """
        url = self._server.archive_url(release.version)
        expected = Content(release.size, release.hashes)
        assembly = None
        if not whole:
            assembly = await prepare(self._clock, self._server, self._archives, url, expected)
        if assembly is not None:
            words = wording.part_of(assembly.delta.fetched, assembly.delta.size)
            self._log.info("The download fetches {words}; the rest is here already", words=words)
        try:
            content, fetched = await fetch(
                self._clock,
                self._server,
                url,
                expected if assembly is None else assembly.content,
                self._archives.part(release.version),
                MAX_ARCHIVE,
                report,
                report_pause,
                self._archives.in_thread,
                assembly,
            )
        finally:
            if assembly is not None:
                assembly.close()
        return Release(release.version, content.size, content.hashes), fetched

    async def verify(self, promised: Release) -> tuple[Release, BinaryIO]:
        """
        Read the part file back from the disk, verify it, and give it its final name.

        :returns: as `ArchiveStore.open_verified`.
        :raises WronglyJoined: if it is not the promised file, and was joined from several sources,
            responses or the last good archive, that may not belong together: another download may
            help. The file is removed.
        :raises DownloadFailed: if it is not the promised file otherwise. The file is removed.
        :raises OSError: if the disk fails.
        """
        part, finder = self._archives.part(promised.version), PieceFinder()
        try:
            release, file = await self._archives.open_verified(part, promised, finder.add)
        except DownloadFailed as error:
            joined = part_file.is_joined(part)
            part_file.remove(part)
            if joined:
                raise WronglyJoined(str(error)) from None
            raise
        self._write_index(release, finder)
        try:
            files.rename(part, self._archives.path(promised.version))
            part_file.remove(part)
        except OSError:
            file.close()
            raise
        return release, file

    def _write_index(self, release: Release, finder: PieceFinder) -> None:
        if release.size is None or release.sha256 is None:
            return
        try:
            index = Index(release.size, release.sha256, finder.finish())
            self._archives.write_index(release.version, index)
        except (NoIndex, OSError) as error:
            # The next update then finds the pieces itself.
            self._log.info("The index of the archive is not kept: {error}", error=error)
