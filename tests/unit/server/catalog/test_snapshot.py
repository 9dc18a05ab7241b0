"""The catalog offers whole archives and nothing else, and says why of everything else."""

import os
import shutil
import tempfile
import time
from pathlib import Path

from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.server.catalog.snapshot import Archive, Catalog, Snapshot
from tests.helpers.archives import make_archive, name_of
from tests.helpers.privileges import remove_tree, without_privileges


class CatalogTestCase(SynchronousTestCase):
    """A catalog over a real directory."""

    def setUp(self) -> None:
        # Not trial's own folder: a user without privileges must be able to get there.
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
        """Neither a look at everything nor one at the name offers it; the reason is logged once."""
        self.catalog.rescan()
        self.catalog.rescan()
        self.catalog.check([name])
        self.assertEqual(self.offered(), [])
        self.assertEqual(self.warnings(), [f"{name!r} is not offered: {reason}"])


class OfferedTests(CatalogTestCase):
    """What is on offer."""

    def test_nothing(self) -> None:
        """An empty directory offers nothing, and that is no problem."""
        self.catalog.rescan()
        self.assertEqual(self.offered(), [])
        self.assertIsNone(self.catalog.snapshot.newest)
        self.assertIsNone(self.catalog.problem)
        self.assertEqual(self.warnings(), [])

    def test_numeric_order(self) -> None:
        """Versions are ordered as numbers: one billion is newer than one less."""
        for version in (1000000000, 999999999, 20):
            self.archive(version)
        self.catalog.rescan()
        self.assertEqual(self.offered(), [20, 999999999, 1000000000])
        newest = self.catalog.snapshot.newest
        assert newest is not None
        self.assertEqual(newest.name.version, 1000000000)

    def test_description(self) -> None:
        """An archive is described as the file is."""
        path = self.archive(7)
        os.utime(path, ns=(1, 1547860803_123456789))
        self.catalog.rescan()
        archive = self.found(path.name)
        self.assertEqual(archive.path, path)
        self.assertEqual(archive.size, path.stat().st_size)
        self.assertEqual(archive.modified_ns, 1547860803_123456789)

    def test_link_within(self) -> None:
        """A link to an archive that lies in the directory, at any depth, is offered."""
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
        """The directory may itself be named by a link."""
        alias = self.outside / "alias"
        alias.symlink_to(self.directory)
        (self.directory / name_of(6)).symlink_to(self.archive(5).name)
        self.catalog = Catalog(alias)
        self.catalog.rescan()
        self.assertEqual(self.offered(), [5, 6])

    def test_uploads_and_metadata(self) -> None:
        """Hidden files are uploads under way, tuf/ is the signed metadata: no word about either."""
        (self.directory / "tuf").mkdir()
        self.archive(1).rename(self.directory / f".{name_of(1)}.Xa3")
        self.catalog.rescan()
        self.catalog.check(["tuf", f".{name_of(1)}.Xa3"])
        self.assertEqual(self.offered(), [])
        self.assertEqual(self.warnings(), [])


class NotOfferedTests(CatalogTestCase):
    """What is not on offer, and is logged once with the reason."""

    def test_bad_name(self) -> None:
        """A name that does not follow the template."""
        name = "opq-box-update-007.tar.bz2"
        self.archive(7).rename(self.directory / name)
        self.assertNotOffered(name, "its name does not follow opq-box-update-VERSION.tar.bz2")

    def test_name_that_is_no_text(self) -> None:
        """A name that is not UTF-8."""
        name = os.fsdecode(b"opq-box-update-\xff.tar.bz2")
        self.archive(7).rename(self.directory / name)
        self.assertNotOffered(name, "its name does not follow opq-box-update-VERSION.tar.bz2")

    def test_directory(self) -> None:
        """A directory that is named like an archive."""
        (self.directory / name_of(7)).mkdir()
        self.assertNotOffered(name_of(7), "it is not a regular file")

    def test_fifo(self) -> None:
        """A FIFO; nobody waits for its writer."""
        os.mkfifo(self.directory / name_of(7))
        self.assertNotOffered(name_of(7), "it is not a regular file")

    def test_time_beyond_dates(self) -> None:
        """A time that no HTTP date can say."""
        os.utime(self.archive(7), (-5, -5))
        self.assertNotOffered(name_of(7), "its modification time has no HTTP date: touch it")

    def test_link_to_nothing(self) -> None:
        """A link that leads nowhere."""
        (self.directory / name_of(7)).symlink_to(name_of(6))
        self.assertNotOffered(name_of(7), "it is a link that leads nowhere")

    def test_link_to_itself(self) -> None:
        """A link that leads in a circle."""
        (self.directory / name_of(7)).symlink_to(name_of(7))
        self.assertNotOffered(name_of(7), "it is a link that leads nowhere")

    def test_link_out(self) -> None:
        """A link that leads out of the directory, though to a good archive."""
        (self.directory / name_of(7)).symlink_to(self.archive(7, self.outside))
        self.assertNotOffered(name_of(7), "it is a link that leads out of the directory")

    def test_link_out_and_relative(self) -> None:
        """A link that climbs out of the directory."""
        self.archive(7, self.outside)
        (self.directory / name_of(7)).symlink_to(f"../outside/{name_of(7)}")
        self.assertNotOffered(name_of(7), "it is a link that leads out of the directory")

    def test_link_by_way_of_another(self) -> None:
        """A link that stays within the directory until it is followed to its end."""
        self.archive(7, self.outside)
        (self.directory / "tuf").symlink_to(self.outside)
        (self.directory / name_of(7)).symlink_to(f"tuf/{name_of(7)}")
        self.assertNotOffered(name_of(7), "it is a link that leads out of the directory")

    def test_link_to_a_neighbour(self) -> None:
        """A directory whose name only begins like ours is outside."""
        neighbour = self.directory.with_name("updates-old")
        neighbour.mkdir()
        (self.directory / name_of(7)).symlink_to(self.archive(7, neighbour))
        self.assertNotOffered(name_of(7), "it is a link that leads out of the directory")

    def test_cut_off(self) -> None:
        """An archive that lacks its last byte."""
        path = self.archive(7)
        os.truncate(path, path.stat().st_size - 1)
        self.assertNotOffered(
            name_of(7), "it is not a whole bzip2 file: its upload goes on, or was cut off"
        )

    def test_empty(self) -> None:
        """A file that was only just created."""
        (self.directory / name_of(7)).touch()
        self.assertNotOffered(
            name_of(7), "it is not a whole bzip2 file: its upload goes on, or was cut off"
        )

    def test_unreadable(self) -> None:
        """An archive that the server may not read."""
        self.archive(7).chmod(0)
        with without_privileges():
            self.assertNotOffered(name_of(7), "it cannot be opened: Permission denied")

    def test_a_new_reason(self) -> None:
        """Another reason is news; so is the same one after the file was good."""
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

    def test_gone_before_it_was_looked_at(self) -> None:
        """Nothing is said of a name that is there no more, however bad."""
        self.catalog.check(["notes.txt", name_of(7), "updates"])
        self.assertEqual(self.warnings(), [])


class ChangeTests(CatalogTestCase):
    """How the snapshot follows the directory."""

    def setUp(self) -> None:
        super().setUp()
        self.archive(1)
        self.archive(2)
        self.catalog.rescan()
        self.seen: list[Snapshot] = []
        self.catalog.observers.append(self.seen.append)

    def test_unchanged(self) -> None:
        """What has not changed is neither replaced nor told."""
        before = self.catalog.snapshot
        self.catalog.rescan()
        self.catalog.check([name_of(1), name_of(2), name_of(3)])
        self.assertIs(self.catalog.snapshot, before)
        self.assertEqual(self.seen, [])

    def test_unchanged_is_not_inspected(self) -> None:
        """A look at everything takes what has not changed as it was known."""
        reading = self.catalog.scan()
        for archive in self.catalog.snapshot.archives:
            self.assertIs(reading.archives[str(archive.name)], archive)

    def test_added(self) -> None:
        """A new archive is offered; the old snapshot stays what it was."""
        before = self.catalog.snapshot
        self.archive(3)
        self.catalog.check([name_of(3)])
        self.assertEqual(self.offered(), [1, 2, 3])
        self.assertEqual(len(before.archives), 2)
        self.assertIsNone(before.find(name_of(3)))

    def test_one_snapshot_for_many_changes(self) -> None:
        """All names of one look make one new snapshot, told once."""
        self.archive(3)
        self.archive(4)
        (self.directory / name_of(1)).unlink()
        self.catalog.check([name_of(1), name_of(3), name_of(4)])
        self.assertEqual(self.seen, [self.catalog.snapshot])
        self.assertEqual(self.offered(), [2, 3, 4])

    def test_removed(self) -> None:
        """What is removed is offered no more, by either way of looking."""
        (self.directory / name_of(1)).unlink()
        self.catalog.check([name_of(1)])
        self.assertEqual(self.offered(), [2])
        (self.directory / name_of(2)).unlink()
        self.catalog.rescan()
        self.assertEqual(self.offered(), [])
        self.assertEqual(len(self.seen), 2)

    def test_moved(self) -> None:
        """What gets another name is offered under that one."""
        (self.directory / name_of(2)).rename(self.directory / name_of(3))
        self.catalog.check([name_of(2), name_of(3)])
        self.assertEqual(self.offered(), [1, 3])

    def test_replaced(self) -> None:
        """Another file under the same name, be it of the same size and time, is another archive."""
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
        """A link is as new as what it leads to."""
        (self.directory / name_of(3)).symlink_to(name_of(2))
        self.catalog.rescan()
        os.truncate(self.directory / name_of(2), 20)
        self.catalog.rescan()
        self.assertEqual(self.offered(), [1])

    def test_observer_that_fails(self) -> None:
        """One observer's failure is logged, and is not the others' problem."""

        def fail(snapshot: Snapshot) -> None:
            raise RuntimeError(snapshot)

        self.catalog.observers.insert(0, fail)
        self.archive(3)
        self.catalog.rescan()
        self.assertEqual(self.seen, [self.catalog.snapshot])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_touched_while_read(self) -> None:
        """A reading is old news of a name that was touched since it began."""
        reading = self.catalog.scan()
        (self.directory / name_of(2)).unlink()
        self.archive(3)
        self.catalog.apply(reading, [name_of(2), name_of(3)])
        self.assertEqual(self.offered(), [1, 3])
        self.assertEqual(self.seen, [self.catalog.snapshot])


class DirectoryTests(CatalogTestCase):
    """The directory itself."""

    def test_unreadable(self) -> None:
        """A directory that cannot be read is a problem, told once; what was known stays."""
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
        """A directory whose files cannot be reached is a problem too; what was known stays."""
        self.archive(1)
        self.catalog.rescan()
        self.directory.chmod(0o644)
        with without_privileges():
            self.catalog.rescan()
        self.assertEqual(self.offered(), [1])
        self.assertIsNotNone(self.catalog.problem)

    def test_looked_at_while_gone(self) -> None:
        """A name that is looked at while the directory cannot be read stays on offer."""
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
        """The time of the last change is known, and is not that of a look that found nothing."""
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
        """A directory that comes back is no problem any more."""
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
