"""The folder of downloaded archives, with a link to the last good one."""

import contextlib
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from twisted.internet.threads import deferToThread

from opq_twisted.archive.bzip2 import is_whole
from opq_twisted.archive.name import UpdateName
from opq_twisted.archive.pieces import MAX_INDEX, Index, NoIndex
from opq_twisted.archive.release import Release
from opq_twisted.box.download import part_file
from opq_twisted.box.download.verify import Content, InThread, open_file, verify
from opq_twisted.common import files
from opq_twisted.common.errors import ArchiveLost, DownloadFailed, InvalidName, WrongContent

#: The link to the archive of the last good release. The rescue, a shell script, finds the archive
#: by this name, and its digest in NAME.sha256, in the format of sha256sum.
LAST_GOOD = "last-good"

_LOCK = ".lock"
_DIGEST = re.compile(r"([0-9a-f]{64})  \S+\n", re.ASCII)
_MAX_DIGEST = 256


class ArchiveStore:
    """
    A folder of archives, named `NAME.part` until they are verified, then `NAME`.

    The last good release is recorded here and not in the journal, so that a box can roll back to it
    even if the journal is lost.

    All methods raise OSError if the disk fails.
    """

    def __init__(self, folder: Path, in_thread: InThread = deferToThread) -> None:
        self.folder = folder
        self.in_thread = in_thread

    def path(self, version: int) -> Path:
        """Return the path of the verified archive of a version."""
        return self.folder / str(UpdateName(version))

    def part(self, version: int) -> Path:
        """Return the path of the part file of a version."""
        path = self.path(version)
        return path.with_name(f"{path.name}.part")

    @property
    def last_good(self) -> Release | None:
        """
        The release to which the box can roll back; None if there is none.

        :raises OSError: if this cannot be read now; it may be readable later.
        """
        try:
            version = self._last_good_version()
            if version is None:
                return None
            with self._digest(version).open("r", encoding="ascii") as file:
                digest = _DIGEST.fullmatch(file.read(_MAX_DIGEST))
        except (FileNotFoundError, UnicodeError):
            return None
        return digest and Release(version, None, {"sha256": digest[1]})

    def open_last_good(self) -> tuple[BinaryIO, Index | None] | None:
        """
        Open the last good archive without verifying it; None if there is none.

        :returns: the archive, and the index that was written when it was verified; None instead of
            an index that is missing or cannot be right. The archive may have changed since then, so
            each piece has to be hashed.
        :raises OSError: if it cannot be read now.
        """
        version = self._last_good_version()
        if version is None:
            return None
        try:
            file = open_file(self.path(version))
        except DownloadFailed:
            return None
        try:
            index: Index | None = Index.from_json(files.read(self._index(version), MAX_INDEX))
        except (NoIndex, OSError):
            index = None
        if index is not None and index.size != os.fstat(file.fileno()).st_size:
            index = None
        return file, index

    def write_index(self, version: int, index: Index) -> None:
        """Keep the index of an archive: the next update then need not read the archive for it."""
        files.write(self._index(version), index.to_json())

    def keep_as_last_good(self, release: Release) -> None:
        """
        Make this release, whose archive is in the store, the last good one.

        :raises OSError: if the disk is full or fails; then the last good release does not change.
        """
        name = self.write_digest(release)
        draft = self.folder / f".{LAST_GOOD}.new"
        draft.unlink(missing_ok=True)
        draft.symlink_to(name)
        files.rename(draft, self.folder / LAST_GOOD)

    def write_digest(self, release: Release) -> str:
        """Record the digest of an archive in the store, and return the archive's name."""
        name = str(UpdateName(release.version))
        files.write(self._digest(release.version), f"{release.sha256}  {name}\n".encode())
        return name

    def prune(self, *keep: int | None, fetching: int | None = None) -> None:
        """
        Remove all files except the last good archive.

        :param keep: further versions whose archives are kept.
        :param fetching: the version whose part file is kept.
        """
        with self.locked():
            kept = {self.folder / LAST_GOOD, self.folder / _LOCK}
            # Keep the last good one even if its digest cannot be read now: the rescue may read it.
            for version in (*keep, self._last_good_version()):
                if version is not None:
                    kept |= {self.path(version), self._digest(version), self._index(version)}
            if fetching is not None:
                part = self.part(fetching)
                kept |= {part, part_file.record_path(part)}
            for path in self.folder.iterdir():
                # A person has made a folder, which must not end all updates.
                if path not in kept and (path.is_symlink() or not path.is_dir()):
                    path.unlink()

    async def find(self, release: Release) -> tuple[Release, BinaryIO] | None:
        """
        Find an archive that was downloaded before.

        A file with its name and other content is removed, unless it is the last good archive.

        :param release: must have hashes: an archive is not found by its version alone.
        :returns: as `open_verified`; None if there is no such archive.
        """
        path = self.path(release.version)
        if not release.hashes:
            return None
        try:
            return await self.open_verified(path, release)
        except DownloadFailed:
            if release.version != self._last_good_version():
                path.unlink(missing_ok=True)
            return None

    async def open(self, release: Release) -> BinaryIO:
        """
        Open an archive that was verified after its download, and verify it again.

        :returns: the file, open at its beginning; the caller closes it.
        :raises ArchiveLost: if its content has changed. The file is kept: a memory error may be
            the cause, and the last good archive cannot be downloaded again.
        """
        with contextlib.suppress(DownloadFailed):
            if release.hashes:
                return (await self.open_verified(self.path(release.version), release))[1]
        raise ArchiveLost(
            f"The archive of release {release.version} on the disk is missing or has changed since "
            "it was downloaded. Try again."
        )

    async def open_verified(
        self,
        path: Path,
        promised: Release,
        each_chunk: Callable[[bytes], object] = lambda chunk: None,
    ) -> tuple[Release, BinaryIO]:
        """
        Open a file and verify it.

        :param each_chunk: is called with all bytes in order, in a thread.
        :returns: the release with its actual size and hashes, and the verified file, open at its
            beginning; the caller closes it.
        :raises ArchiveLost: if there is no such file.
        :raises WrongContent: if it is not the promised archive.
        """
        file = open_file(path)
        try:
            expected = Content(promised.size, promised.hashes)
            content = await verify(file, expected, self.in_thread, each_chunk)
            if not is_whole(file.fileno(), content.size or 0):
                raise WrongContent("The file is not a whole bzip2 archive. Try again.")
        except BaseException:
            file.close()
            raise
        return Release(promised.version, content.size, content.hashes), file

    def locked(self) -> AbstractContextManager[None]:
        """
        Lock the folder against changes by other processes, such as `opq-box adopt`.

        A lock is held only briefly, so waiting for it may block.
        """
        return files.locked(self.folder / _LOCK, blocking=True)

    def _last_good_version(self) -> int | None:
        """Read the version of the last good archive from its link; None if there is none."""
        try:
            return UpdateName.parse(os.readlink(self.folder / LAST_GOOD)).version
        except (FileNotFoundError, InvalidName):
            return None

    def _digest(self, version: int) -> Path:
        path = self.path(version)
        return path.with_name(f"{path.name}.sha256")

    def _index(self, version: int) -> Path:
        path = self.path(version)
        return path.with_name(f"{path.name}.pieces")
