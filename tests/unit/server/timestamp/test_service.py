"""Tests of the service that keeps the timestamp fresh: when it checks, and what it logs."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from opq_twisted.server.catalog.snapshot import Catalog
from opq_twisted.server.catalog.watcher import HEARTBEAT, Watcher
from opq_twisted.server.timestamp.alerts import Alert, AlertLog
from opq_twisted.server.timestamp.service import Timestamper
from opq_twisted.server.timestamp.state import MetadataState
from opq_twisted.trust.pace import HELD, Pace, PaceUnknown, read_paces
from tests.helpers.archives import make_archive, name_of
from tests.helpers.fake_paces import FakePaces
from tests.helpers.process import open_descriptors
from tests.helpers.signed_metadata import DAY, Signed

NOW = 1_700_000_000
RELEASE = 1_600_000_000


@implementer(ILogObserver)
class Log:
    """The log's messages at `warn` and above."""

    def __init__(self) -> None:
        self.events: list[tuple[LogLevel, str]] = []

    def __call__(self, event: Any) -> None:
        """Store a message."""
        if event["log_level"] >= LogLevel.warn and "sentence" in event:
            self.events.append((event["log_level"], event["sentence"]))

    def take(self) -> list[str]:
        """Return the messages since the last call."""
        events, self.events = self.events, []
        return [sentence for _, sentence in events]


class LoggedTestCase(SynchronousTestCase):
    """A test that reads the log."""

    def setUp(self) -> None:
        self.log = Log()
        globalLogPublisher.addObserver(self.log)
        self.addCleanup(globalLogPublisher.removeObserver, self.log)


class TimestamperTestCase(LoggedTestCase):
    """The service beside the one that watches the directory, over real files and kernel events."""

    def setUp(self) -> None:
        super().setUp()
        self.updates = Path(self.mktemp()).absolute()
        self.updates.mkdir()
        self.reactor = MemoryReactorClock()
        self.signed = Signed(self.updates, NOW)
        self.checks: list[float] = []
        self.pace = FakePaces()
        #: The error that a check fails with.
        self.failure: Exception | None = None

    def start(
        self, in_thread: Callable[..., Deferred[MetadataState]] | None = None, *, key: bool = True
    ) -> Timestamper:
        self.catalog = Catalog(self.updates)
        self.watcher = Watcher(self.reactor, self.catalog, in_thread=maybeDeferred)
        self.timestamper = Timestamper(
            self.reactor,
            self.catalog,
            self.signed.keys["timestamp"] if key else None,
            now=lambda: NOW + self.reactor.seconds(),
            in_thread=in_thread or self.at_once,
            pace=self.pace,
        )
        self.catalog.observers.append(self.timestamper.catalog_changed)
        self.watcher.observers.append(self.timestamper.directory_touched)
        for service in (self.watcher, self.timestamper):
            service.startService()
        self.addCleanup(self.stop)
        self.reactor.advance(0)
        return self.timestamper

    def start_signed(
        self, in_thread: Callable[..., Deferred[MetadataState]] | None = None
    ) -> Timestamper:
        """Start the service for metadata that has been signed before."""
        self.signed.init().publish(1)
        return self.start(in_thread)

    def stop(self) -> None:
        for service in (self.watcher, self.timestamper):
            if service.running:
                service.stopService()
        self.reactor.advance(0)

    def at_once(
        self, call: Callable[..., MetadataState], *arguments: Any
    ) -> Deferred[MetadataState]:
        """Stand in for a thread."""
        self.checks.append(self.reactor.seconds())
        if self.failure is not None:
            return maybeDeferred(self.fail_look)
        return maybeDeferred(call, *arguments)

    def fail_look(self) -> MetadataState:
        assert self.failure is not None
        raise self.failure

    def kernel_reports(self) -> None:
        """Deliver all events of the kernel, as the reactor would."""
        while True:
            checks = len(self.checks)
            for reader in tuple(self.reactor.readers):
                reader.doRead()
            # The events of the directory come first, and lead to a check of the folder.
            self.reactor.advance(0)
            self.reactor.advance(0)
            if len(self.checks) == checks:
                return

    def deaf(self) -> None:
        """Drop all further events of the kernel."""
        self.reactor.removeAll()

    def announced(self) -> int:
        """The announced snapshot."""
        return self.signed.read_timestamp().snapshot_meta.version


class EventTests(TimestamperTestCase):
    """An event of the kernel leads to a check at once."""

    def test_at_the_start(self) -> None:
        """The first check signs a timestamp for existing metadata."""
        self.start_signed()
        self.assertEqual(self.announced(), 1)
        self.assertEqual(self.timestamper.signed, 1)
        self.assertFalse(self.timestamper.problem)

    def test_observers(self) -> None:
        """Observers get the state of the metadata after each check, and only then."""
        self.start_signed()
        seen: list[MetadataState] = []
        self.timestamper.observers.append(seen.append)
        self.signed.publish(2)
        self.kernel_reports()
        # The server's own timestamp leads to another check.
        self.assertEqual([each.signed is None for each in seen], [False, True])
        self.assertIs(seen[-1], self.timestamper.metadata_state)
        self.failure = OSError(5, "Input/output error")
        self.reactor.advance(HEARTBEAT)
        self.assertEqual(len(seen), 2)

    def test_new_snapshot(self) -> None:
        """A new snapshot is announced at once."""
        self.start_signed()
        self.signed.publish(2)
        self.kernel_reports()
        self.assertEqual(self.announced(), 2)
        self.assertEqual(self.reactor.seconds(), 0)

    def test_archive_comes_last(self) -> None:
        """A snapshot that waits for its archive is announced when that is on offer."""
        path = make_archive(Path(self.mktemp()).with_name(name_of(RELEASE)), RELEASE)
        self.start_signed()
        self.signed.publish(2, path)
        self.kernel_reports()
        self.assertEqual(self.announced(), 1)
        self.assertTrue(self.timestamper.problem)
        path.rename(self.updates / path.name)
        self.kernel_reports()
        self.assertEqual(self.announced(), 2)
        self.assertFalse(self.timestamper.problem)

    def test_folder_appears(self) -> None:
        """A folder that is made later is watched."""
        self.start()
        self.assertTrue(self.timestamper.problem)
        self.signed.init()
        self.kernel_reports()
        self.signed.publish(1)
        self.kernel_reports()
        self.assertEqual(self.announced(), 1)

    def test_folder_replaced(self) -> None:
        """Another folder in its place is watched."""
        self.start_signed()
        self.signed.folder.rename(self.updates / "old")
        self.kernel_reports()
        self.assertTrue(self.timestamper.problem)
        self.assertFalse(self.timestamper.metadata_state.present)
        self.signed.folder.mkdir()
        for path in (self.updates / "old").iterdir():
            (self.signed.folder / path.name).write_bytes(path.read_bytes())
        self.kernel_reports()
        self.assertFalse(self.timestamper.problem)
        self.signed.publish(2)
        self.kernel_reports()
        self.assertEqual(self.announced(), 2)
        self.assertEqual(sum("inotify" in name for name in open_descriptors()), 2)

    def test_pace_changed(self) -> None:
        """A change of the pace that is reported is signed at once."""
        archive = make_archive(self.updates / name_of(RELEASE), RELEASE)
        self.signed.init().publish(1, archive)
        self.start()
        self.pace.paces = {"stable": Pace(RELEASE, 0, HELD)}
        self.timestamper.check_soon()
        self.reactor.advance(0)
        self.assertIn("stable", read_paces(self.signed.read_timestamp()))
        self.assertEqual(self.timestamper.signed, 2)

    def test_own_writing(self) -> None:
        """Its own timestamp leads to exactly one more check."""
        self.start_signed()
        self.kernel_reports()
        checks = len(self.checks)
        self.assertLessEqual(checks, 3)
        self.kernel_reports()
        self.assertEqual(len(self.checks), checks)
        self.assertEqual(self.timestamper.signed, 1)

    def test_no_storm(self) -> None:
        """A timestamp that cannot be written is tried again at the heartbeat, and logged once."""
        self.signed.init().publish(1)
        path = self.signed.folder / "timestamp.json"
        path.mkdir()
        self.start()
        self.kernel_reports()
        self.assertEqual(self.checks, [0])
        for number in range(1, 4):
            self.reactor.advance(HEARTBEAT)
            self.kernel_reports()
            self.assertEqual(len(self.checks), number + 1)
        self.assertEqual(self.log.take(), [f"Cannot write {path}: Is a directory."])
        self.assertTrue(self.timestamper.problem)
        path.rmdir()
        self.kernel_reports()
        self.assertEqual(self.announced(), 1)
        self.assertFalse(self.timestamper.problem)

    def test_one_check_at_a_time(self) -> None:
        """An event during a check leads to another check afterwards."""
        waiting: list[tuple[Deferred[MetadataState], Callable[[], MetadataState]]] = []

        def later(call: Callable[..., MetadataState], *arguments: Any) -> Deferred[MetadataState]:
            waiting.append((Deferred(), lambda: call(*arguments)))
            return waiting[-1][0]

        self.start_signed(later)
        for _ in range(3):
            os.utime(self.signed.folder / "1.root.json")
            self.kernel_reports()
            self.reactor.advance(HEARTBEAT)
        self.assertEqual(len(waiting), 1)
        done, call = waiting[0]
        done.callback(call())
        self.reactor.advance(0)
        self.assertEqual(len(waiting), 2)
        self.stop()
        done, call = waiting[1]
        done.callback(call())
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual([name for name in open_descriptors() if "inotify" in name], [])


class HeartbeatTests(TimestamperTestCase):
    """The heartbeat finds changes without an event."""

    def test_new_snapshot(self) -> None:
        """A snapshot without an event is announced at the next heartbeat."""
        self.start_signed()
        self.deaf()
        self.signed.publish(2)
        self.reactor.advance(HEARTBEAT - 1)
        self.assertEqual(self.announced(), 1)
        self.reactor.advance(1)
        self.assertEqual(self.announced(), 2)

    def test_half_life(self) -> None:
        """Each time half of its life is over, the timestamp is signed again."""
        self.start_signed()
        self.deaf()
        for count in (1, 2, 3):
            self.assertEqual(self.timestamper.signed, count)
            self.reactor.advance(3.5 * DAY)
        self.assertFalse(self.timestamper.problem)

    def test_error(self) -> None:
        """An unexpected error is logged and is a problem; the next heartbeat follows."""
        self.signed.init().publish(1)
        self.failure = RuntimeError("an error of ours")
        self.start()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertTrue(self.timestamper.problem)
        self.failure = None
        self.reactor.advance(HEARTBEAT)
        self.assertFalse(self.timestamper.problem)
        self.assertEqual(self.announced(), 1)

    def test_pace_fails(self) -> None:
        """A source of paces that fails in any way is a problem, and no timestamp becomes stale."""
        self.start_signed()
        self.pace.error = ZeroDivisionError()
        self.reactor.advance(3.5 * DAY)
        self.assertEqual(self.timestamper.signed, 2)
        self.assertTrue(self.timestamper.problem)
        (alert,) = self.log.take()
        self.assertIn("The pace of the rollouts is not known: the timestamp repeats", alert)
        self.assertIn("Asking for it failed: ZeroDivisionError.", alert)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.pace.error = None
        self.reactor.advance(HEARTBEAT)
        self.assertFalse(self.timestamper.problem)

    def test_machine_busy(self) -> None:
        """While the machine is too busy for a check, the state stays, and one alert is logged."""
        self.start_signed()
        self.deaf()
        metadata_state = self.timestamper.metadata_state
        self.failure = OSError(24, "Too many open files")
        for _ in range(3):
            self.reactor.advance(HEARTBEAT)
        self.assertEqual(
            self.log.take(),
            [f"Cannot check the signed metadata in {self.signed.folder}: Too many open files."],
        )
        self.assertTrue(self.timestamper.problem)
        self.assertIs(self.timestamper.metadata_state, metadata_state)
        self.failure = None
        self.reactor.advance(HEARTBEAT)
        self.assertFalse(self.timestamper.problem)

    def test_a_file_in_its_place(self) -> None:
        """A file in the place of the folder is a problem that can be repaired."""
        self.signed.folder.touch()
        self.start()
        self.assertEqual(
            self.log.take(),
            [f"Cannot check the signed metadata in {self.signed.folder}: Not a directory."],
        )
        self.signed.folder.unlink()
        self.signed.init().publish(1)
        self.reactor.advance(HEARTBEAT)
        self.assertEqual(self.announced(), 1)


class WarningTests(TimestamperTestCase):
    """Metadata that expires soon is logged at the start, and once a day."""

    def test_in_time(self) -> None:
        """Nothing is logged while everything is valid for more than 14 days."""
        self.signed.init().publish(1, days=14.1)
        self.signed.root(1, days=14.1)
        self.start()
        self.assertEqual(self.log.take(), [])

    def test_daily(self) -> None:
        """From 14 days before its expiry, each role is logged once a day, with the remedy."""
        self.signed.init()
        self.signed.root(1, days=10.5)
        self.signed.publish(1, days=12)
        self.start()
        self.deaf()
        root = "boxes install nothing new from then on. Renew it with: opq-release renew-root."
        resign = "boxes install nothing new from then on. Sign it again with: opq-release resign."
        self.assertEqual(
            self.log.take(),
            [
                f"1.root.json expires in 10.5 days: {root}",
                f"1.snapshot.json expires in 12.0 days: {resign}",
                f"1.targets.json expires in 12.0 days: {resign}",
            ],
        )
        for _ in range(23):
            self.reactor.advance(3600)
        self.assertEqual(self.log.take(), [])
        self.reactor.advance(3600)
        self.assertEqual(self.log.take()[0], f"1.root.json expires in 9.5 days: {root}")
        self.assertFalse(self.timestamper.problem)

    def test_expired(self) -> None:
        """The timestamp is signed even if the root has expired."""
        self.signed.init()
        self.signed.root(1, days=-2)
        self.signed.publish(1)
        self.start()
        self.assertEqual(
            self.log.take(),
            [
                "1.root.json expired 2.0 days ago: boxes install nothing new any more. "
                "Renew it with: opq-release renew-root."
            ],
        )
        self.assertEqual(self.announced(), 1)

    def test_renewed(self) -> None:
        """Metadata that was signed again is no longer logged."""
        self.signed.init()
        self.signed.publish(1, days=10)
        self.start()
        self.log.take()
        self.signed.publish(2)
        self.kernel_reports()
        self.reactor.advance(2 * DAY)
        self.assertEqual(self.log.take(), [])

    def test_timestamp_not_copied(self) -> None:
        """Without a key, a timestamp that should have been renewed by now is logged."""
        self.signed.init().publish(1)
        self.signed.timestamp(5, 1, days=3.2)
        self.start(key=False)
        self.assertEqual(self.log.take(), [])
        self.reactor.advance(DAY)
        self.assertEqual(
            self.log.take(),
            [
                "timestamp.json expires in 2.2 days: boxes install nothing new from then on. "
                "It should have been signed again by now: read the log of the server that has "
                "the timestamp key, and copy tuf/ from there."
            ],
        )
        self.assertEqual(self.signed.read_timestamp().version, 5)

    def test_without_metadata(self) -> None:
        """A directory without metadata is no problem if there is no key."""
        self.start(key=False)
        self.reactor.advance(DAY)
        self.assertEqual(self.log.take(), [])
        self.assertFalse(self.timestamper.problem)


class WideningTests(TimestamperTestCase):
    """What keeps a rollout from being widened."""

    def assertReason(self, words: str) -> None:
        self.assertIn(words, self.timestamper.reason_not_to_widen or "")

    def test_well(self) -> None:
        """Nothing does while the timestamp is signed, and everything is valid for long."""
        self.assertIsNone(self.start_signed().reason_not_to_widen)

    def test_expires_soon(self) -> None:
        """Boxes would install nothing any more before the rollout is over."""
        self.signed.init().publish(1, days=10)
        self.start()
        self.assertReason("1.snapshot.json expires in 10.0 days: ")

    def test_nothing_there(self) -> None:
        """Without any metadata, or before it was read, nobody knows what boxes see."""
        self.start()
        self.assertReason("There is no timestamp that boxes accept.")

    def test_other_key(self) -> None:
        """A timestamp that cannot be signed tells boxes of no step."""
        self.start_signed()
        self.signed.rotate("timestamp", 2)
        self.kernel_reports()
        self.assertReason("There is no timestamp that boxes accept.")

    def test_no_pace(self) -> None:
        """Nor does one that repeats the last pace."""
        self.start_signed()
        self.pace.error = PaceUnknown("the disk is full")
        self.timestamper.check_soon()
        self.reactor.advance(0)
        self.assertReason("The pace of the rollouts is not known: ")

    def test_not_checked(self) -> None:
        """Nor one that was not checked."""
        self.start_signed()
        self.failure = OSError(5, "Input/output error")
        self.timestamper.check_soon()
        self.reactor.advance(0)
        self.assertReason("Cannot check the signed metadata in ")

    def test_waiting_archive(self) -> None:
        """A release whose archive is not there yet says nothing about the one before."""
        self.signed.init().publish(1, make_archive(self.updates / name_of(RELEASE), RELEASE))
        self.start()
        next_one = make_archive(Path(self.mktemp()), RELEASE + 1)
        self.signed.publish(2, next_one.rename(next_one.with_name(name_of(RELEASE + 1))))
        self.kernel_reports()
        self.assertTrue(self.timestamper.problem)
        self.assertIsNone(self.timestamper.reason_not_to_widen)


class AlertLogTests(LoggedTestCase):
    """Alerts reach the log, and do not fill it."""

    def setUp(self) -> None:
        super().setUp()
        self.alert_log = AlertLog()

    def tell(self, now: float, *sentences: str) -> list[str]:
        self.alert_log.log(map(Alert, sentences), now)
        return self.log.take()

    def test_once_a_day(self) -> None:
        """An alert is logged at once, and then each day."""
        self.assertEqual(self.tell(0, "a"), ["a"])
        self.assertEqual(self.tell(1, "a", "b"), ["b"])
        self.assertEqual(self.tell(DAY - 1, "a", "b"), [])
        self.assertEqual(self.tell(DAY, "a", "b"), ["a"])
        self.assertEqual(self.tell(DAY + 1, "a", "b"), ["b"])

    def test_returns(self) -> None:
        """An alert that comes back is new."""
        self.tell(0, "a")
        self.assertEqual(self.tell(1), [])
        self.assertEqual(self.tell(2, "a"), ["a"])

    def test_clock_set_back(self) -> None:
        """A clock that is set back does not silence an alert."""
        self.tell(NOW, "a")
        self.assertEqual(self.tell(0, "a"), ["a"])
        self.assertEqual(self.tell(DAY, "a"), ["a"])

    def test_level_and_cause(self) -> None:
        """Alerts of one cause are one alert, even with different sentences."""
        first = Alert("2 days left", LogLevel.warn, "expiry")
        self.alert_log.log([first], 0)
        self.alert_log.log([Alert("1 day left", LogLevel.warn, "expiry")], 1)
        self.assertEqual(self.log.events, [(LogLevel.warn, "2 days left")])
