"""The store of archives: verification, removal, and the last good archive."""

import bz2
import errno
import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

from twisted.internet.defer import Deferred, execute
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.release import Release
from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.common.errors import DownloadFailed
from tests.helpers.box_fakes import NEW, NEWER, OLD
from tests.helpers.failing_disk import counting, unopenable

ARCHIVE = bz2.compress(os.urandom(3000))
OTHER = bz2.compress(os.urandom(3000))
SHA256 = hashlib.sha256(ARCHIVE).hexdigest()
SIGNED = Release(NEW, len(ARCHIVE), {"sha512": hashlib.sha512(ARCHIVE).hexdigest()})
NAME = f"opq-box-update-{NEW}.tar.bz2"


class ArchivesCase(SynchronousTestCase):
    """A folder of archives."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.archives = ArchiveStore(self.folder, execute)

    def files(self) -> list[str]:
        return sorted(name for name in os.listdir(self.folder) if name != ".lock")


class OpenTests(ArchivesCase):
    """Archives that were verified before are verified again."""

    def open(self) -> Deferred[BinaryIO]:
        return Deferred.fromCoroutine(self.archives.open(SIGNED))

    def find(self, release: Release) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(self.archives.find(release)))

    def refused(self) -> str:
        return str(self.failureResultOf(self.open(), DownloadFailed).value)

    def test_same(self) -> None:
        """An unchanged archive is opened at its beginning."""
        self.archives.path(NEW).write_bytes(ARCHIVE)
        with self.successResultOf(self.open()) as file:
            self.assertEqual(file.read(), ARCHIVE)

    def test_not_the_same(self) -> None:
        """A changed archive is not opened, but kept: a memory error may be the cause."""
        for content in (OTHER, ARCHIVE[:-1], bytes(len(ARCHIVE)), b""):
            with self.subTest(content=content[:10]):
                self.archives.path(NEW).write_bytes(content)
                self.assertIn(f"release {NEW} on the disk is missing", self.refused())
                self.assertEqual(self.files(), [NAME])

    def test_gone(self) -> None:
        """A missing archive has the same error."""
        self.assertIn(f"release {NEW} on the disk is missing", self.refused())

    def test_found(self) -> None:
        """An archive with the signed content need not be downloaded again."""
        self.assertIsNone(self.find(SIGNED))
        self.archives.path(NEW).write_bytes(ARCHIVE)
        release, file = self.find(SIGNED)
        with file:
            self.assertEqual(file.read(), ARCHIVE)
        self.assertEqual(release, Release(NEW, len(ARCHIVE), {**SIGNED.hashes, "sha256": SHA256}))

    def test_another(self) -> None:
        """A file of its name with other content is removed."""
        self.archives.path(NEW).write_bytes(OTHER)
        self.assertIsNone(self.find(SIGNED))
        self.assertEqual(self.files(), [])

    def test_not_signed(self) -> None:
        """An archive is not found by its version alone, which another may have had."""
        self.archives.path(NEW).write_bytes(ARCHIVE)
        self.assertIsNone(self.find(Release(NEW)))
        self.assertEqual(self.files(), [NAME])


class ClearTests(ArchivesCase):
    """The removal of archives before another download."""

    def test_clear(self) -> None:
        """All archives are removed, except those to be kept, and a part file with its record."""
        for version in (OLD, NEW, NEWER):
            name = self.archives.path(version).name
            for suffix in ("", ".part", ".part.json"):
                (self.folder / f"{name}{suffix}").write_bytes(b"x")
        (self.folder / f".{NAME}.part.json.new").write_bytes(b"x")
        self.archives.prune(OLD, NEWER, fetching=NEW)
        old, newer = (self.archives.path(version).name for version in (OLD, NEWER))
        self.assertEqual(self.files(), sorted([old, newer, f"{NAME}.part", f"{NAME}.part.json"]))
        self.archives.prune(OLD, None)
        self.assertEqual(self.files(), [old])
        self.archives.prune()
        self.assertEqual(self.files(), [])

    def test_last_good(self) -> None:
        """The last good archive is always kept."""
        for version in (OLD, NEW):
            self.archives.path(version).write_bytes(ARCHIVE)
        self.archives.keep_as_last_good(Release(OLD, None, {"sha256": SHA256}))
        self.archives.prune()
        name = self.archives.path(OLD).name
        self.assertEqual(self.files(), ["last-good", name, f"{name}.sha256"])

    def test_folder(self) -> None:
        """A folder that a person has made is left alone, and a link to one is removed."""
        (self.folder / "old").mkdir()
        (self.folder / "link").symlink_to("old")
        self.archives.path(NEW).write_bytes(ARCHIVE)
        self.archives.prune()
        self.assertEqual(self.files(), ["old"])

    def test_busy(self) -> None:
        """It is kept even while the machine is too busy to read its digest."""
        self.archives.path(OLD).write_bytes(ARCHIVE)
        self.archives.keep_as_last_good(Release(OLD, None, {"sha256": SHA256}))
        files = self.files()
        with unopenable():
            self.archives.prune()
        self.assertEqual(self.files(), files)


class LastGoodTests(ArchivesCase):
    """The release to which the box can roll back."""

    def keep(self, version: int) -> Release:
        self.archives.path(version).write_bytes(ARCHIVE)
        release = Release(version, len(ARCHIVE), {**SIGNED.hashes, "sha256": SHA256})
        self.archives.keep_as_last_good(release)
        return Release(version, None, {"sha256": SHA256})

    def test_none(self) -> None:
        """A new box has no last good release."""
        self.assertIsNone(self.archives.last_good)

    def test_kept(self) -> None:
        """The next last good release replaces the previous one; sha256sum can check it."""
        for version in (OLD, NEW):
            self.assertEqual(self.keep(version), ArchiveStore(self.folder).last_good)
        digest = self.folder / f"{NAME}.sha256"
        self.assertEqual(digest.read_text(), f"{SHA256}  {NAME}\n")
        self.assertEqual(os.readlink(self.folder / "last-good"), NAME)

    def test_disk_full(self) -> None:
        """If the next one cannot be recorded, the previous one stays."""
        good = self.keep(OLD)
        for number in (1, 2):
            with counting(number), self.assertRaises(OSError):
                self.keep(NEW)
            self.assertEqual(self.archives.last_good, good)

    def test_busy(self) -> None:
        """A busy machine or a failing disk is an error, and does not mean that there is none."""
        self.keep(NEW)
        for number in (errno.EMFILE, errno.EIO, errno.EACCES):
            with unopenable(number), self.assertRaises(OSError):
                _ = self.archives.last_good

    def test_damaged(self) -> None:
        """An unreadable record counts as none, because the archive could not be verified."""
        self.keep(NEW)
        digest = self.folder / f"{NAME}.sha256"
        for damage in (b"", b"\xff" * 99, f"{SHA256[:-1]}  {NAME}\n".encode(), bytes(99)):
            digest.write_bytes(damage)
            self.assertIsNone(self.archives.last_good)
        digest.unlink()
        self.assertIsNone(self.archives.last_good)
        self.keep(NEW)
        for target in ("/etc/passwd", "opq-box-update-x.tar.bz2", "../x"):
            (self.folder / "last-good").unlink()
            (self.folder / "last-good").symlink_to(target)
            self.assertIsNone(self.archives.last_good)
