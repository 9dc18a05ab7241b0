"""The catalog follows the directory, by real kernel events and by the heartbeat."""

import os
import shutil
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

from twisted.internet import inotify
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.server.catalog.snapshot import Catalog, Scan, Snapshot
from opq_twisted.server.catalog.updates_file import Archive
from opq_twisted.server.catalog.watcher import HEARTBEAT, InThread, Watcher
from tests.helpers.archives import make_archive, name_of
from tests.helpers.process import open_descriptors


def at_once(call: Callable[[], Scan]) -> Deferred[Scan]:
    """Call at once, instead of in a thread."""
    return maybeDeferred(call)


class FailingCatalog(Catalog):
    """A catalog that fails as many times as the test says."""

    failures = 0

    def check(self, names: Iterable[str]) -> None:
        """Check, or fail."""
        self._perhaps_fail()
        super().check(names)

    def scan(self) -> Scan:
        """Scan, or fail."""
        self._perhaps_fail()
        return super().scan()

    def _perhaps_fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("an error in the catalog")


class WatcherTestCase(SynchronousTestCase):
    """A watcher over a real directory."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.reactor = MemoryReactorClock()
        self.catalog = FailingCatalog(self.directory)
        self.seen: list[Snapshot] = []
        self.catalog.observers.append(self.seen.append)

    def watch(self, in_thread: InThread = at_once) -> Watcher:
        watcher = Watcher(self.reactor, self.catalog, in_thread=in_thread)
        watcher.startService()
        self.addCleanup(self.reactor.advance, 0)
        self.addCleanup(self.stop, watcher)
        return watcher

    def stop(self, watcher: Watcher) -> None:
        if watcher.running:
            watcher.stopService()

    def archive(self, version: int) -> Path:
        return make_archive(self.directory / name_of(version), version)

    def moved_in(self, version: int) -> Path:
        path = make_archive(Path(self.mktemp()), version)
        return path.rename(self.directory / name_of(version))

    def kernel_reports(self) -> None:
        """Read the kernel's events, as the reactor would."""
        for reader in tuple(self.reactor.readers):
            reader.doRead()
        self.reactor.advance(0)

    def assert_noticed(self, versions: list[int]) -> None:
        """These archives are offered once the kernel's events are read."""
        self.kernel_reports()
        self.assertEqual(self.offered(), versions)

    def notifiers(self) -> int:
        """Count the inotify descriptors."""
        return sum("inotify" in target for target in open_descriptors())

    def found(self, version: int) -> Archive:
        archive = self.catalog.snapshot.find(name_of(version))
        assert archive is not None
        return archive

    def offered(self) -> list[int]:
        return [archive.name.version for archive in self.catalog.snapshot.archives]


class EventTests(WatcherTestCase):
    """Files that the kernel reports are checked."""

    def test_known_at_the_start(self) -> None:
        """The archives are known at the start."""
        self.archive(1)
        self.watch()
        self.assertEqual(self.offered(), [1])

    def test_written_in_place(self) -> None:
        """A copy is offered when its writer closes it, not while it is written."""
        whole = make_archive(Path(self.mktemp()), 1).read_bytes()
        self.watch()
        with (self.directory / name_of(1)).open("wb") as file:
            file.write(whole[:-1])
            file.flush()
            self.assert_noticed([])
            file.write(whole[-1:])
        self.assert_noticed([1])

    def test_changes(self) -> None:
        """Moves, links, renames, replacements, permissions and removals are all noticed."""
        self.watch()
        first = self.moved_in(1)
        self.assert_noticed([1])

        os.link(first, self.directory / name_of(2))
        (self.directory / name_of(3)).symlink_to(name_of(1))
        self.assert_noticed([1, 2, 3])

        (self.directory / name_of(3)).rename(self.directory / name_of(4))
        self.assert_noticed([1, 2, 4])

        before = self.found(2)
        self.moved_in(2)
        self.kernel_reports()
        self.assertNotEqual(self.found(2), before)

        (self.directory / name_of(2)).chmod(0o600)
        self.kernel_reports()
        self.assertEqual(
            self.found(2).identity[-1],
            (self.directory / name_of(2)).stat().st_ctime_ns,
        )

        (self.directory / name_of(4)).rename(Path(self.mktemp()))
        (self.directory / name_of(2)).unlink()
        self.assert_noticed([1])

    def test_a_burst(self) -> None:
        """Many events make one new snapshot."""
        self.watch()
        for version in range(1, 51):
            self.archive(version)
        self.kernel_reports()
        self.assertEqual(len(self.seen), 1)
        self.assertEqual(self.offered(), list(range(1, 51)))

    def test_lost_events(self) -> None:
        """After an overflow of the kernel's queue, the whole directory is scanned at once."""
        watcher = self.watch()
        limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
        for number in range(limit // 2 + 1):
            (self.directory / f".{number}").touch()  # each is reported twice, at least
        self.archive(1)
        self.kernel_reports()
        while watcher.overflows == 0:
            self.kernel_reports()
        self.assertEqual(self.offered(), [1])
        self.assertEqual(watcher.rescans["overflow"], 1)
        self.archive(2)
        self.assert_noticed([1, 2])

    def test_error_in_a_check(self) -> None:
        """An error is logged, and the next event is handled."""
        self.watch()
        self.catalog.failures = 1
        self.archive(1)
        self.kernel_reports()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.archive(2)
        self.assert_noticed([2])

    def test_stopped(self) -> None:
        """After its stop, a watcher has no descriptors and no scheduled calls."""
        watcher = self.watch()
        self.assertEqual(self.notifiers(), 1)
        self.archive(1)
        for reader in tuple(self.reactor.readers):
            reader.doRead()
        watcher.stopService()
        self.reactor.advance(0)
        self.assertEqual(self.reactor.readers, set())
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(self.notifiers(), 0)
        self.assertEqual(self.offered(), [])


class DirectoryTests(WatcherTestCase):
    """Changes of the directory itself."""

    def test_its_own_name(self) -> None:
        """A change of the directory's own mode or times is not a change of a file of its name."""
        looked: list[set[str]] = []
        self.patch(self.catalog, "check", lambda names: looked.append(set(names)))
        self.watch()
        looked.clear()
        os.utime(self.directory)
        self.kernel_reports()
        self.assertEqual(looked, [])

    def test_moved_away(self) -> None:
        """A directory that is moved away is a problem at once."""
        self.archive(1)
        self.watch()
        self.directory.rename(self.mktemp())
        self.kernel_reports()
        self.assertIsNotNone(self.catalog.problem)

    def test_deleted_and_created_again(self) -> None:
        """A deleted directory is a problem at once; after its return, its events are read."""
        self.archive(1)
        self.watch()
        shutil.rmtree(self.directory)
        self.kernel_reports()
        self.assertIsNotNone(self.catalog.problem)
        self.assertEqual(self.offered(), [1], "the known archives stay on offer")

        self.directory.mkdir()
        self.archive(2)
        self.reactor.advance(1)
        self.assertIsNone(self.catalog.problem)
        self.assertEqual(self.offered(), [2])
        self.archive(3)
        self.assert_noticed([2, 3])

    def test_unmounted(self) -> None:
        """A watch that the kernel ended is renewed, although the directory looks the same."""
        watcher = self.watch()
        (reader,) = self.reactor.readers
        reader._doRead(struct.pack("=LLLL", 1, inotify.IN_UNMOUNT, 0, 0))
        self.reactor.advance(0)
        self.assertEqual(watcher.rescans["directory"], 1)
        self.assertNotEqual(self.reactor.readers, {reader})
        self.archive(1)
        self.assert_noticed([1])
        self.assertEqual(self.notifiers(), 1)

    def test_back_in_between(self) -> None:
        """A directory that comes back between the watch and the scan is watched."""
        away = Path(self.mktemp())

        def back_then_read(call: Callable[[], Scan]) -> Deferred[Scan]:
            if away.exists():
                away.rename(self.directory)
            return at_once(call)

        self.watch(back_then_read)
        self.directory.rename(away)
        self.kernel_reports()
        if away.exists():
            away.rename(self.directory)
            self.reactor.advance(1)
        self.archive(1)
        self.assert_noticed([1])

    def test_unreadable_for_a_while(self) -> None:
        """While the directory cannot be read, it is scanned every second, and then less often."""
        watcher = self.watch()
        away = self.directory.rename(self.mktemp())
        self.kernel_reports()
        self.assertIsNotNone(self.catalog.problem)
        before = watcher.rescans.total()
        for _ in range(3):
            self.reactor.advance(1)
        self.assertEqual(watcher.rescans.total(), before + 3)
        away.rename(self.directory)
        self.reactor.advance(1)
        self.assertIsNone(self.catalog.problem)
        self.reactor.advance(HEARTBEAT - 1)
        self.assertEqual(watcher.rescans.total(), before + 4)

    def test_replaced_unnoticed(self) -> None:
        """Another directory at the path is watched from the next heartbeat on."""
        self.watch()
        self.directory.rename(self.mktemp())
        self.directory.mkdir()
        self.reactor.advance(HEARTBEAT)
        self.archive(1)
        self.assert_noticed([1])
        self.assertEqual(len(self.reactor.readers), 1)

    def test_no_events_to_be_had(self) -> None:
        """Without kernel events the heartbeat finds everything, and no descriptor is lost."""
        self.directory.rmdir()
        self.directory.touch()  # the kernel refuses to watch what is no directory
        self.watch()
        for _ in range(3):
            self.reactor.advance(HEARTBEAT)
            self.reactor.advance(0)
        self.assertEqual(self.notifiers(), 0)
        self.assertEqual(self.reactor.readers, set())
        self.directory.unlink()
        self.directory.mkdir()
        self.archive(1)
        self.reactor.advance(HEARTBEAT)
        self.assertEqual(self.offered(), [1])


class HeartbeatTests(WatcherTestCase):
    """Every heartbeat scans the whole directory, whatever was reported."""

    def deaf(self, in_thread: InThread = at_once) -> Watcher:
        """A watcher without kernel events."""
        watcher = self.watch(in_thread)
        self.reactor.removeAll()
        return watcher

    def test_finds_what_was_not_reported(self) -> None:
        """Each heartbeat finds the changes that no event reported."""
        self.deaf()
        for version in (1, 2, 3):
            self.archive(version)
            self.reactor.advance(HEARTBEAT - 1)
            self.assertEqual(len(self.offered()), version - 1)
            self.reactor.advance(1)
            self.assertEqual(len(self.offered()), version)

    def test_touched_while_reading(self) -> None:
        """A scan does not undo a change that was reported during it."""
        readings: list[tuple[Deferred[Scan], Scan]] = []

        def later(call: Callable[[], Scan]) -> Deferred[Scan]:
            readings.append((Deferred(), call()))
            return readings[-1][0]

        self.archive(1)
        self.watch(later)
        self.reactor.advance(HEARTBEAT)
        ((done, reading),) = readings
        (self.directory / name_of(1)).unlink()
        self.archive(2)
        self.assert_noticed([2])
        done.callback(reading)
        self.assertEqual(self.offered(), [2])

    def test_one_reading_at_a_time(self) -> None:
        """Only one scan runs at a time."""
        waiting: list[Deferred[Scan]] = []

        def never(_call: object) -> Deferred[Scan]:
            waiting.append(Deferred())
            return waiting[-1]

        watcher = self.deaf(never)
        for _ in range(5):
            self.reactor.advance(HEARTBEAT)
        self.assertEqual(len(waiting), 1)
        watcher.stopService()
        waiting[0].callback(self.catalog.scan())
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_error_does_not_end_it(self) -> None:
        """An error is logged, and the next heartbeat comes."""
        self.deaf()
        self.catalog.failures = 2
        self.archive(1)
        for _ in range(2):
            self.reactor.advance(HEARTBEAT)
            self.assertEqual(self.offered(), [])
        self.reactor.advance(HEARTBEAT)
        self.assertEqual(self.offered(), [1])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)

    def test_directory_unreadable(self) -> None:
        """An unreadable directory is a problem until it is readable again."""
        self.deaf()
        away = self.directory.rename(self.mktemp())
        self.reactor.advance(HEARTBEAT)
        self.assertIsNotNone(self.catalog.problem)
        away.rename(self.directory)
        self.reactor.advance(HEARTBEAT)
        self.assertIsNone(self.catalog.problem)
