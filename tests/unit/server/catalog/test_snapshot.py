"""The catalog offers whole archives only, and logs the reason for every other file."""

import os
import shutil
import tempfile
import time
from pathlib import Path

from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.server.catalog.snapshot import Catalog, Snapshot
from opq_twisted.server.catalog.updates_file import Archive
from tests.helpers.archives import make_archive, name_of
from tests.helpers.privileges import remove_tree, without_privileges


class CatalogTestCase(SynchronousTestCase):
    """A catalog over a real directory."""

    def setUp(self) -> None:
        # Not trial's own folder: a user without privileges must be able to reach it.
        place = Path(tempfile.mkdtemp())
        self.addCleanup(remove_tree, place)
        place.chmod(0o755)
        self.directory = place / "updates"
        self.directory.mkdir()
        self.outside = place / "outside"
        self.outside.mkdir()
        self.catalog = Catalog(self.directory)
        self.events = self.enterContext(capturedLogs())

    def archive(self, version: int, folder: Path | None = None) -> Path:
        return make_archive((folder or self.directory) / name_of(version), version)

    def offered(self) -> list[int]:
        for archive in self.catalog.snapshot.archives:
            self.assertIs(self.catalog.snapshot.find(str(archive.name)), archive)
        return [archive.name.version for archive in self.catalog.snapshot.archives]

    def found(self, name: str) -> Archive:
        archive = self.catalog.snapshot.find(name)
        assert archive is not None
        return archive

    def warnings(self) -> list[str]:
        return [formatEvent(event) for event in self.events if event["log_level"] >= LogLevel.warn]

    def assertNotOffered(self, name: str, reason: str) -> None:
        """Neither a scan nor a check of the name offers the file; the reason is logged once."""
        self.catalog = Catalog(self.directory)
        self.events = self.enterContext(capturedLogs())
        self.catalog.rescan()
        self.catalog.rescan()
        self.catalog.check([name])
        self.assertEqual(self.offered(), [])
        self.assertEqual(self.warnings(), [f"{name!r} is not offered: {reason}"])


class OfferedTests(CatalogTestCase):
    """Files that are offered."""

    def test_nothing(self) -> None:
        """An empty directory offers nothing, which is not a problem."""
        self.catalog.rescan()
        self.assertEqual(self.offered(), [])
        self.assertIsNone(self.catalog.snapshot.newest)
        self.assertIsNone(self.catalog.problem)
        self.assertEqual(self.warnings(), [])

    def test_numeric_order(self) -> None:
        """Versions have numeric order: one billion is newer than one less."""
        for version in (1000000000, 999999999, 20):
            self.archive(version)
        self.catalog.rescan()
        self.assertEqual(self.offered(), [20, 999999999, 1000000000])
        newest = self.catalog.snapshot.newest
        assert newest is not None
        self.assertEqual(newest.name.version, 1000000000)

    def test_description(self) -> None:
        """An archive has the size and time of its file."""
        path = self.archive(7)
        os.utime(path, ns=(1, 1547860803_123456789))
        self.catalog.rescan()
        archive = self.found(path.name)
        self.assertEqual(archive.path, path)
        self.assertEqual(archive.size, path.stat().st_size)
        self.assertEqual(archive.modified_ns, 1547860803_123456789)

    def test_link_within(self) -> None:
        """A link to an archive in the directory, at any depth, is offered."""
        builds = self.directory / "tuf" / "builds"
        builds.mkdir(parents=True)
        target = self.archive(5, builds).rename(builds / "nightly")
        (self.directory / name_of(5)).symlink_to(target)
        (self.directory / name_of(6)).symlink_to("tuf/builds/nightly")
        (self.directory / name_of(7)).symlink_to(name_of(6))
        self.catalog.rescan()
        self.assertEqual(self.offered(), [5, 6, 7])
        self.assertEqual(self.warnings(), [])

    def test_link_within_a_linked_directory(self) -> None:
        """The directory's own path may be a link."""
        alias = self.outside / "alias"
        alias.symlink_to(self.directory)
        (self.directory / name_of(6)).symlink_to(self.archive(5).name)
        self.catalog = Catalog(alias)
        self.catalog.rescan()
        self.assertEqual(self.offered(), [5, 6])

    def test_uploads_and_metadata(self) -> None:
        """Hidden files are uploads under way, and tuf/ is the signed metadata: both are ignored."""
        (self.directory / "tuf").mkdir()
        self.archive(1).rename(self.directory / f".{name_of(1)}.Xa3")
        self.catalog.rescan()
        self.catalog.check(["tuf", f".{name_of(1)}.Xa3"])
        self.assertEqual(self.offered(), [])
        self.assertEqual(self.warnings(), [])


class NotOfferedTests(CatalogTestCase):
    """Files that are not offered, and are logged once with the reason."""

    def test_bad_name(self) -> None:
        """The name does not follow the template, or is not UTF-8."""
        for name in ("opq-box-update-007.tar.bz2", os.fsdecode(b"opq-box-update-\xff.tar.bz2")):
            path = self.archive(7).rename(self.directory / name)
            self.assertNotOffered(name, "its name does not follow opq-box-update-VERSION.tar.bz2")
            path.unlink()

    def test_not_regular(self) -> None:
        """A directory or a FIFO has the name of an archive; the FIFO does not block."""
        path = self.directory / name_of(7)
        path.mkdir()
        self.assertNotOffered(path.name, "it is not a regular file")
        path.rmdir()
        os.mkfifo(path)
        self.assertNotOffered(path.name, "it is not a regular file")

    def assertLinkNotOffered(self, target: str | Path, where: str) -> None:
        """A link to this target is not offered."""
        path = self.directory / name_of(7)
        path.symlink_to(target)
        self.assertNotOffered(path.name, f"it is a link that leads {where}")
        path.unlink()

    def test_link_to_nothing(self) -> None:
        """The link leads to no file, or to itself."""
        for target in (name_of(6), name_of(7)):
            self.assertLinkNotOffered(target, "nowhere")

    def test_link_out(self) -> None:
        """The link leads to an archive outside the directory, in any way."""
        outside = self.archive(7, self.outside)
        (self.directory / "tuf").symlink_to(self.outside)
        # A name that only begins alike.
        neighbour = self.directory.with_name("updates-old")
        neighbour.mkdir()
        for target in (
            *(outside, f"../outside/{name_of(7)}", f"tuf/{name_of(7)}"),
            self.archive(7, neighbour),
        ):
            self.assertLinkNotOffered(target, "out of the directory")

    def test_not_whole(self) -> None:
        """The last byte is missing, or the file was only just created."""
        path = self.archive(7)
        for size in (path.stat().st_size - 1, 0):
            os.truncate(path, size)
            self.assertNotOffered(
                path.name, "it is not a whole bzip2 file: its upload goes on, or was cut off"
            )

    def test_time_beyond_dates(self) -> None:
        """The modification time has no HTTP date."""
        os.utime(self.archive(7), (-5, -5))
        self.assertNotOffered(name_of(7), "its modification time has no HTTP date: touch it")

    def test_unreadable(self) -> None:
        """The server may not read the archive."""
        self.archive(7).chmod(0)
        with without_privileges():
            self.assertNotOffered(name_of(7), "it cannot be read: Permission denied")

    def test_a_new_reason(self) -> None:
        """Another reason is logged, and the same reason again after the file was good."""
        path = self.directory / name_of(7)
        path.mkdir()
        self.catalog.rescan()
        path.rmdir()
        path.touch()
        self.catalog.rescan()
        self.archive(7)
        self.catalog.rescan()
        self.assertEqual(self.offered(), [7])
        os.truncate(path, 0)
        self.catalog.rescan()
        self.assertEqual(self.offered(), [])
        self.assertEqual(len(self.warnings()), 3)

    def test_gone_before_the_check(self) -> None:
        """Nothing is logged about a file that has gone."""
        self.catalog.check(["notes.txt", name_of(7), "updates"])
        self.assertEqual(self.warnings(), [])


class ChangeTests(CatalogTestCase):
    """The snapshot follows the directory."""

    def setUp(self) -> None:
        super().setUp()
        self.archive(1)
        self.archive(2)
        self.catalog.rescan()
        self.seen: list[Snapshot] = []
        self.catalog.observers.append(self.seen.append)

    def test_unchanged(self) -> None:
        """Without a change, the snapshot stays and observers are not called."""
        before = self.catalog.snapshot
        self.catalog.rescan()
        self.catalog.check([name_of(1), name_of(2), name_of(3)])
        self.assertIs(self.catalog.snapshot, before)
        self.assertEqual(self.seen, [])

    def test_unchanged_is_not_inspected(self) -> None:
        """A scan reuses the archives that have not changed."""
        reading = self.catalog.scan()
        for archive in self.catalog.snapshot.archives:
            self.assertIs(reading.archives[str(archive.name)], archive)

    def test_added(self) -> None:
        """A new archive is offered; the old snapshot does not change."""
        before = self.catalog.snapshot
        self.archive(3)
        self.catalog.check([name_of(3)])
        self.assertEqual(self.offered(), [1, 2, 3])
        self.assertEqual(len(before.archives), 2)
        self.assertIsNone(before.find(name_of(3)))

    def test_one_snapshot_for_many_changes(self) -> None:
        """One check of several names makes one new snapshot."""
        self.archive(3)
        self.archive(4)
        (self.directory / name_of(1)).unlink()
        self.catalog.check([name_of(1), name_of(3), name_of(4)])
        self.assertEqual(self.seen, [self.catalog.snapshot])
        self.assertEqual(self.offered(), [2, 3, 4])

    def test_removed(self) -> None:
        """A removed archive is not offered after a check or a scan."""
        (self.directory / name_of(1)).unlink()
        self.catalog.check([name_of(1)])
        self.assertEqual(self.offered(), [2])
        (self.directory / name_of(2)).unlink()
        self.catalog.rescan()
        self.assertEqual(self.offered(), [])
        self.assertEqual(len(self.seen), 2)

    def test_moved(self) -> None:
        """A renamed archive is offered under its new name."""
        (self.directory / name_of(2)).rename(self.directory / name_of(3))
        self.catalog.check([name_of(2), name_of(3)])
        self.assertEqual(self.offered(), [1, 3])

    def test_replaced(self) -> None:
        """Another file of the same name, size and modification time is another archive."""
        path = self.directory / name_of(2)
        before, old = path.stat(), self.found(path.name)
        other = shutil.copy2(path, self.outside / "copy")
        os.replace(other, path)
        self.assertEqual(path.stat().st_mtime_ns, before.st_mtime_ns)
        self.catalog.rescan()
        new = self.found(path.name)
        self.assertNotEqual(new.identity, old.identity)
        self.assertEqual(self.seen, [self.catalog.snapshot])

    def test_target_of_a_link_replaced(self) -> None:
        """A link changes with its target."""
        (self.directory / name_of(3)).symlink_to(name_of(2))
        self.catalog.rescan()
        os.truncate(self.directory / name_of(2), 20)
        self.catalog.rescan()
        self.assertEqual(self.offered(), [1])

    def test_observer_that_fails(self) -> None:
        """An observer that fails is logged, and the others are called."""

        def fail(snapshot: Snapshot) -> None:
            raise RuntimeError(snapshot)

        self.catalog.observers.insert(0, fail)
        self.archive(3)
        self.catalog.rescan()
        self.assertEqual(self.seen, [self.catalog.snapshot])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_touched_while_read(self) -> None:
        """A scan does not overrule names that were touched since it began."""
        reading = self.catalog.scan()
        (self.directory / name_of(2)).unlink()
        self.archive(3)
        self.catalog.apply(reading, [name_of(2), name_of(3)])
        self.assertEqual(self.offered(), [1, 3])
        self.assertEqual(self.seen, [self.catalog.snapshot])


class DirectoryTests(CatalogTestCase):
    """The directory itself."""

    def test_unreadable(self) -> None:
        """An unreadable directory is reported once; the known archives stay on offer."""
        self.archive(1)
        self.catalog.rescan()
        self.directory.chmod(0o311)
        with without_privileges():
            self.catalog.rescan()
            self.catalog.rescan()
        self.assertEqual(self.offered(), [1])
        sentence = f"Cannot read the updates directory {self.directory}: Permission denied."
        self.assertEqual(self.catalog.problem, sentence)
        self.assertEqual(self.warnings(), [sentence])

    def test_names_but_no_files(self) -> None:
        """A directory whose files cannot be reached is a problem, too."""
        self.archive(1)
        self.catalog.rescan()
        self.directory.chmod(0o644)
        with without_privileges():
            self.catalog.rescan()
        self.assertEqual(self.offered(), [1])
        self.assertIsNotNone(self.catalog.problem)

    def test_checked_while_gone(self) -> None:
        """A name that is checked while the directory cannot be read stays on offer."""
        path = self.archive(1)
        self.catalog.rescan()
        self.directory.chmod(0o311)
        with without_privileges():
            self.catalog.check([path.name])
        self.assertEqual(self.offered(), [1])
        self.assertIsNotNone(self.catalog.problem)
        self.directory.chmod(0o755)
        self.directory.rename(away := self.outside / "away")
        self.catalog.check([path.name])
        self.assertEqual(self.offered(), [1])
        away.rename(self.directory)
        path.unlink()
        self.catalog.check([path.name])
        self.assertEqual(self.offered(), [])

    def test_when_it_changed(self) -> None:
        """The time of the last change is not that of a scan without a change."""
        self.assertIsNone(self.catalog.changed)
        self.archive(1)
        before = time.time()
        self.catalog.rescan()
        changed = self.catalog.changed
        assert changed is not None
        self.assertGreaterEqual(changed, before)
        self.catalog.rescan()
        self.assertEqual(self.catalog.changed, changed)

    def test_gone_and_back(self) -> None:
        """A directory that comes back is no longer a problem."""
        self.directory.rename(self.outside / "away")
        self.catalog.rescan()
        self.assertEqual(
            self.catalog.problem,
            f"Cannot read the updates directory {self.directory}: No such file or directory.",
        )
        self.directory.mkdir()
        self.archive(1)
        self.catalog.rescan()
        self.assertIsNone(self.catalog.problem)
        self.assertEqual(self.offered(), [1])
