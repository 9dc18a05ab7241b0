"""The verified archives on the box's disk, and which of them is the last good one."""

import contextlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from twisted.internet.threads import deferToThread

from opq_twisted.archive.bzip2 import is_whole
from opq_twisted.archive.name import UpdateName
from opq_twisted.box.download import part_file
from opq_twisted.box.download.verify import Content, InThread, measure, open_file
from opq_twisted.box.state.records import Release
from opq_twisted.common import files
from opq_twisted.common.errors import DownloadFailed, InvalidName

#: The link to the archive of the release that has proved itself last. The rescue script, which has
#: no Python, finds it by this name, and its digest, as sha256sum prints it, in NAME.sha256.
LAST_GOOD = "last-good"

_LOCK = ".lock"
_DIGEST = re.compile(r"([0-9a-f]{64})  \S+\n", re.ASCII)
_MAX_DIGEST = 256


class ArchiveStore:
    """
    A folder of archives: `NAME.part` until they are verified, then `NAME`.

    The last good one does not hang on the journal: a box can return to it whatever happens to that.
    """

    def __init__(self, folder: Path, in_thread: InThread = deferToThread) -> None:
        self.folder = folder
        self.in_thread = in_thread

    def path(self, version: int) -> Path:
        """Where the verified archive of a version lies."""
        return self.folder / str(UpdateName(version))

    def part(self, version: int) -> Path:
        """Where the archive of a version grows."""
        path = self.path(version)
        return path.with_name(f"{path.name}.part")

    @property
    def last_good(self) -> Release | None:
        """
        The release to which the box can return; None when there is none.

        :raises OSError: when it cannot be told: what cannot be read now may be read later.
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

    def keep_as_last_good(self, release: Release) -> None:
        """
        Let the box return to this release, whose archive is here, from now on.

        :raises OSError: when the disk is full or fails; the one before stays the last good one.
        """
        name = str(UpdateName(release.version))
        files.write(self._digest(release.version), f"{release.sha256}  {name}\n".encode())
        draft = self.folder / f".{LAST_GOOD}.new"
        draft.unlink(missing_ok=True)
        draft.symlink_to(name)
        files.rename(draft, self.folder / LAST_GOOD)

    def clear(self, *keep: int | None, fetching: int | None = None) -> None:
        """
        Remove all archives but the last good one.

        :param keep: versions whose archives are kept as well.
        :param fetching: the version whose part is kept.
        :raises OSError: when the disk fails.
        """
        with self.locked():
            kept = {self.folder / LAST_GOOD, self.folder / _LOCK}
            # Whatever keeps its digest from being read now: the rescue may read it later.
            for version in (*keep, self._last_good_version()):
                if version is not None:
                    kept |= {self.path(version), self._digest(version)}
            if fetching is not None:
                part = self.part(fetching)
                kept |= {part, part_file.record_path(part)}
            for path in self.folder.iterdir():
                if path not in kept:
                    path.unlink()

    async def find(self, release: Release) -> tuple[Release, BinaryIO] | None:
        """
        Find an archive that is here already.

        What has its name and is another is removed, unless it is the last good one.

        :param release: nothing is found by a version alone.
        :returns: as `open_verified`; None when there is none.
        :raises OSError: when the disk fails.
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
        Open an archive that was verified before, verifying it again.

        :returns: the file, open at its beginning; the caller closes it.
        :raises DownloadFailed: when it is not that release's any more. It stays: a memory that errs
            may be the reason, and the last good one cannot be had again.
        :raises OSError: when the disk fails.
        """
        with contextlib.suppress(DownloadFailed):
            if release.hashes:
                return (await self.open_verified(self.path(release.version), release))[1]
        raise DownloadFailed(
            f"The archive of release {release.version} is not on the disk any more as it was "
            "downloaded. Try again."
        )

    async def open_verified(self, path: Path, promised: Release) -> tuple[Release, BinaryIO]:
        """
        Open a file, and read all of it: it is what was promised.

        :returns: the release with the size and the hashes it really has, and the very file that
            was read, open at its beginning; the caller closes it.
        :raises DownloadFailed: when it is not what was promised.
        :raises OSError: when the disk fails.
        """
        file = open_file(path)
        try:
            content = await measure(file, Content(promised.size, promised.hashes), self.in_thread)
            if not is_whole(file.fileno(), content.size or 0):
                raise DownloadFailed("What came is not a whole bzip2 archive. Try again.")
        except BaseException:
            file.close()
            raise
        return Release(promised.version, content.size, content.hashes), file

    @contextmanager
    def locked(self) -> Iterator[None]:
        """
        Keep another process from changing the folder; each does so for a moment only.

        :raises OSError: when the disk fails.
        """
        with files.locked(self.folder / _LOCK, blocking=True):
            yield

    def _last_good_version(self) -> int | None:
        """
        Read which archive is called the last good one; None when none is.

        :raises OSError: when the disk fails.
        """
        try:
            return UpdateName.parse(os.readlink(self.folder / LAST_GOOD)).version
        except (FileNotFoundError, InvalidName):
            return None

    def _digest(self, version: int) -> Path:
        path = self.path(version)
        return path.with_name(f"{path.name}.sha256")
