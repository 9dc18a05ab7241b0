"""Reports are stored in batches, and turned away while that is not possible."""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, IntegrityError, OperationalError
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.reports.answer import Answer, choose_retry_after
from opq_twisted.fleet.reports.inbox import (
    BATCH_TIMEOUT,
    MAX_BATCH,
    MAX_BYTES,
    MAX_WAITING,
    RETRY_DELAY,
    Inbox,
)
from opq_twisted.fleet.reports.incoming import Incoming
from opq_twisted.fleet.store.errors import StoreUnavailable
from tests.helpers.box_fakes import logged
from tests.helpers.reporting_box import NOW, ReportingBox

Change = Callable[[Connection], Any]

_STORED = Answer(200, "stored")


_BOX = ReportingBox()


def incoming(body: bytes) -> Incoming:
    """Make a report; nobody looks at its content."""
    return Incoming(report=_BOX.report, body=body, signature="", network="", received=NOW)


class Conflict(Exception):
    """An error of PostgreSQL's driver."""

    sqlstate = "40P01"


def away(cause: Exception | None = None) -> StoreUnavailable:
    """Make the error of a database, with what SQLAlchemy said."""
    error = StoreUnavailable("The database of the fleet cannot be used: it is gone.")
    error.__cause__ = cause
    return error


class FakeStore:
    """A database whose transactions end when the test says so."""

    def __init__(self) -> None:
        self.changes: list[tuple[Change, Deferred[Any]]] = []
        #: The batches that were applied.
        self.batches: list[Sequence[Incoming]] = []
        #: The reports that no batch may have.
        self.poisoned: list[Incoming] = []
        self.make_error: Callable[[], Exception] = lambda: RuntimeError("a secret of the report")

    def write(self, change: Change) -> Deferred[Any]:
        self.changes.append((change, Deferred()))
        return self.changes[-1][1]

    def apply(self, _connection: Connection, batch: Sequence[Incoming]) -> Sequence[Answer]:
        self.batches.append(batch)
        if any(each in self.poisoned for each in batch):
            raise self.make_error()
        return [_STORED for _ in batch]

    def commit(self) -> None:
        """Let the transaction under way end."""
        change, ended = self.changes.pop(0)
        try:
            result = change(None)  # type: ignore[arg-type]
        except Exception as error:
            ended.errback(error)
        else:
            ended.callback(result)

    def fail(self, error: Exception) -> None:
        """Let the transaction under way fail."""
        self.changes.pop(0)[1].errback(error)


class InboxTests(SynchronousTestCase):
    """A queue and a database."""

    def setUp(self) -> None:
        self.said = logged(self)
        self.clock = Clock()
        self.store = FakeStore()
        self.inbox = Inbox(self.clock, self.store.write, self.store.apply)
        self.inbox.startService()

    def put(self, count: int = 1, size: int = 100) -> list[Deferred[Answer]]:
        return [self.inbox.put(incoming(body=b"x" * size)) for _ in range(count)]

    def results(self, answers: Sequence[Deferred[Answer]]) -> list[str]:
        return [self.successResultOf(each).result for each in answers]

    def assert_turned_away(self, answers: Sequence[Deferred[Answer]], result: str) -> None:
        for each in answers:
            answer = self.successResultOf(each)
            self.assertEqual((answer.code, answer.result), (503, result))
            assert answer.retry_after is not None
            self.assertTrue(10 <= answer.retry_after <= 60)

    def test_answered_after_commit(self) -> None:
        """A report is written at once, and answered when it is committed, not before."""
        [answer] = self.put()
        self.assertNoResult(answer)
        self.store.commit()
        self.assertEqual(self.successResultOf(answer), _STORED)
        self.assertEqual(len(self.inbox), 0)

    def test_batches(self) -> None:
        """What arrives during a batch is the next one; a batch has a limited number of reports."""
        first, *others = self.put(MAX_BATCH + 2)
        self.store.commit()
        self.successResultOf(first)
        for each in others:
            self.assertNoResult(each)
        self.store.commit()
        self.store.commit()
        self.assertEqual(self.results(others), ["stored"] * (MAX_BATCH + 1))
        self.assertEqual([len(batch) for batch in self.store.batches], [1, MAX_BATCH, 1])

    def test_one_batch_at_a_time(self) -> None:
        """While a batch is under way, none other begins."""
        self.put(5)
        self.assertEqual(len(self.store.changes), 1)

    def test_observers(self) -> None:
        """The number of reports and the seconds of each batch that was stored are told."""
        seen: list[tuple[int, float]] = []
        self.inbox.observers.append(lambda reports, seconds: seen.append((reports, seconds)))
        self.put(3)
        self.clock.advance(2)
        self.store.commit()
        self.store.fail(away())
        self.assertEqual(seen, [(1, 2.0)])

    def test_full(self) -> None:
        """At the limit of waiting reports, more are turned away; those that wait are stored."""
        waiting = self.put(MAX_WAITING)
        self.assert_turned_away(self.put(3), "queue-full")
        while self.store.changes:
            self.store.commit()
        self.assertEqual(self.results(waiting), ["stored"] * MAX_WAITING)
        [again] = self.put()
        self.assertNoResult(again)

    def test_full_of_bytes(self) -> None:
        """Large reports are turned away before there are many of them."""
        size = 16 * 1024
        self.put()
        self.put(MAX_BYTES // size, size)
        self.assert_turned_away(self.put(1, size), "queue-full")
        self.store.commit()
        self.store.commit()
        self.assertNoResult(*self.put(1, size))

    def test_retry_after_differs(self) -> None:
        """Boxes that are turned away do not come back all at once."""
        seconds = {choose_retry_after() for _ in range(100)}
        self.assertGreater(len(seconds), 90)

    def test_away(self) -> None:
        """If the database is away, what waits is turned away at once, and so is what comes."""
        waiting = self.put(3)
        self.store.fail(away())
        self.assert_turned_away(waiting, "store-away")
        self.assert_turned_away(self.put(2), "store-away")
        self.assertEqual(self.store.changes, [])
        self.assertTrue(self.inbox.is_away)
        self.assertIn("cannot be used: it is gone.", self.said[0])

    def test_probe(self) -> None:
        """Then one report at a time tries whether it is back, and no more than one in a second."""
        self.put()
        self.store.fail(away())
        for _ in range(3):
            self.clock.advance(RETRY_DELAY)
            [probe] = self.put()
            self.assert_turned_away(self.put(2), "store-away")
            self.assertNoResult(probe)
            self.assertEqual(len(self.store.changes), 1)
            self.store.fail(away())
            self.assert_turned_away([probe], "store-away")
        self.clock.advance(RETRY_DELAY)
        [probe] = self.put()
        self.store.commit()
        self.assertEqual(self.results([probe]), ["stored"])
        more = self.put(2)
        self.store.commit()
        self.store.commit()
        self.assertEqual(self.results(more), ["stored"] * 2)
        self.assertEqual(len(self.said), 2)

    def test_stuck(self) -> None:
        """A batch that does not end counts as one that failed, and no other begins."""
        waiting = self.put(3)
        self.clock.advance(BATCH_TIMEOUT)
        self.assert_turned_away(waiting, "store-away")
        self.clock.advance(RETRY_DELAY)
        self.assert_turned_away(self.put(), "store-away")
        self.assertEqual(len(self.store.changes), 1)
        self.store.commit()
        self.assertFalse(self.inbox.is_away)
        self.assertNoResult(*self.put())

    def test_conflict(self) -> None:
        """A batch that another server process was in the way of is written again."""
        for cause in (
            OperationalError("", {}, Conflict()),
            IntegrityError("", {}, Exception("unique")),
        ):
            [answer] = self.put()
            self.store.fail(away(cause))
            self.clock.advance(1)
            self.store.commit()
            self.assertEqual(self.results([answer]), ["stored"])
        self.assertFalse(self.inbox.is_away)

    def test_conflict_for_ever(self) -> None:
        """After some attempts the reports are turned away."""
        [answer] = self.put()
        tries = 0
        while self.store.changes:
            self.store.fail(away(OperationalError("", {}, Conflict())))
            self.clock.advance(1)
            tries += 1
        self.assertEqual(tries, 4)
        self.assert_turned_away([answer], "store-away")

    def test_poisoned(self) -> None:
        """A report that cannot be stored fails alone; its content is not in the log."""
        for make_error in (
            lambda: RuntimeError("a secret"),
            lambda: away(DataError("", {}, Exception("a secret"))),
        ):
            self.setUp()
            first, *others = self.put(4)
            poisoned = incoming(body=b"poisoned")
            others.append(self.inbox.put(poisoned))
            self.store.poisoned, self.store.make_error = [poisoned], make_error
            while self.store.changes:
                self.store.commit()
            self.assertEqual(self.results([first, *others]), ["stored"] * 4 + ["error"])
            self.assertFalse(self.inbox.is_away)
            self.assertTrue(self.said)
            for line in self.said:
                self.assertNotIn("secret", line)

    def test_poisoned_again(self) -> None:
        """A thousand of them are a few lines in the log."""
        poisoned = incoming(body=b"poisoned")
        self.store.poisoned = [poisoned]
        for _ in range(1000):
            self.inbox.put(poisoned)
            while self.store.changes:
                self.store.commit()
        self.clock.advance(60)
        self.assertLess(len(self.said), 5)

    def test_away_while_each_is_tried(self) -> None:
        """If the database goes away while a batch is tried report by report, the rest is spared."""
        self.put()
        batch = self.put(10)
        self.store.commit()
        self.store.fail(RuntimeError())
        self.store.commit()
        self.store.fail(away())
        self.assertEqual(self.store.changes, [])
        self.assertEqual(self.results(batch[:1]), ["stored"])
        self.assert_turned_away(batch[1:], "store-away")

    def test_wrong_number_of_answers(self) -> None:
        """No report stays without an answer, whatever this program does wrong."""
        self.inbox = Inbox(self.clock, self.store.write, lambda connection, batch: [])
        self.inbox.startService()
        answers = self.put(3)
        while self.store.changes:
            self.store.commit()
        self.assertEqual(self.results(answers), ["error"] * 3)

    def test_next_of_a_connection(self) -> None:
        """A report that comes with the answer to another is in the next batch, whatever it is."""
        for end in (
            self.store.commit,
            lambda: self.store.fail(RuntimeError()),
            lambda: self.store.fail(away(DataError("", {}, Exception()))),
        ):
            [answer, waiting] = self.put(2)
            came: list[Deferred[Answer]] = []
            answer.addCallback(lambda _: self.put(2)).addCallback(came.extend)
            end()
            self.assertEqual(len(self.store.changes), 1)
            self.store.commit()
            self.assertEqual(self.store.changes, [])
            self.assertEqual(self.results([waiting, *came]), ["stored"] * 3)

    def test_stop(self) -> None:
        """At the end the batch under way is stored, and all others are turned away."""
        batch, *waiting = self.put(3)
        stopped = self.inbox.stopService()
        assert stopped is not None
        self.assert_turned_away([*waiting, *self.put()], "stopping")
        self.assertNoResult(stopped)
        self.store.commit()
        self.successResultOf(stopped)
        self.assertEqual(self.results([batch]), ["stored"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_without_work(self) -> None:
        """Without a batch, there is nothing to wait for."""
        self.assertIsNone(self.inbox.stopService())
