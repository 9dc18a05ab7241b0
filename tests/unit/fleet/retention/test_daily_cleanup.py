"""Tests of the counted days, and of what is deleted and when."""

import time
from functools import partial
from typing import Any

from sqlalchemy import func, insert, select
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from opq_twisted.fleet.retention import expiry
from opq_twisted.fleet.retention.daily_cleanup import DailyCleanup
from opq_twisted.fleet.retention.daily_counts import DAY, count_day, missing_days, write_days
from opq_twisted.fleet.retention.expiry import (
    BATCH,
    delete_attempts,
    delete_audit,
    delete_boxes,
    retire_boxes,
)
from opq_twisted.fleet.store.errors import StoreUnavailable
from opq_twisted.fleet.store.schema import attempt, audit, box, day
from opq_twisted.fleet.store.states import BoxState
from tests.helpers.store_case import StoreCase, on_each_database

#: A day after the epoch, and its noon.
TODAY = 20_000
NOW = (TODAY + 0.5) * DAY

#: A time that a broken clock may give.
_2100 = 4_102_444_800.0


class _Case(StoreCase):
    """Adds rows."""

    def add_box(self, row: int, **values: Any) -> None:
        defaults = {"key_id": f"{row:032x}", "box_id": row, "state": BoxState.KNOWN, "seq": 1}
        defaults |= {"channel": "stable", "release": 5, "first_seen": 1.0, "last_seen": NOW}
        self.write(lambda store: store.execute(insert(box), [{"id": row} | defaults | values]))

    def add_attempt(self, row: int, **values: Any) -> None:
        number = self.count(attempt)
        defaults = {"box": row, "attempt_id": f"{number:032x}", "release": 5, "began": 1, "took": 1}
        defaults |= {"automatic": True, "stage": "idle", "inferred": False, "tries": 1}
        defaults |= {"received": NOW, "outcome": None, "ended_at": None}
        self.write(lambda store: store.execute(insert(attempt), [defaults | values]))

    def count(self, table: Any) -> int:
        return self.read(lambda store: store.scalar(select(func.count()).select_from(table)) or 0)

    def states(self) -> dict[int, str]:
        query = select(box.c.id, box.c.state)
        return {row.id: row.state for row in self.read(lambda store: store.execute(query).all())}


@on_each_database
class TestDays(_Case):
    """The counts of a day, for each channel and release."""

    def counts(self, number: int) -> dict[tuple[str, int], tuple[int, ...]]:
        names = ("boxes", "updated", "returned", "failed", "silent")
        return {
            (row["channel"], row["release"]): tuple(row[name] for name in names)
            for row in self.read(lambda store: count_day(store, number))
        }

    def test_boxes(self) -> None:
        """A box counts from its first day on until it is silent or not counted any more."""
        self.add_box(1)
        self.add_box(2, channel="beta", release=7)
        self.add_box(3, last_seen=(TODAY - 1) * DAY - 1)
        self.add_box(4, first_seen=TODAY * DAY)
        self.add_box(5, state=BoxState.DISTRUSTED)
        self.add_box(6, release=None)
        self.add_box(7, state=BoxState.ADMITTED, first_seen=None, last_seen=None)
        expected = {("stable", 5): (1, 0, 0, 0, 0), ("beta", 7): (1, 0, 0, 0, 0)}
        self.assertEqual(self.counts(TODAY - 1), expected)

    def test_outcomes(self) -> None:
        """An outcome counts on the day on which it was received, for the release it was about."""
        self.add_box(1)
        for outcome in ("updated", "updated", "returned", "failed"):
            self.add_attempt(1, outcome=outcome, ended_at=TODAY * DAY - 1)
        self.add_attempt(1, outcome="updated", ended_at=TODAY * DAY)
        self.add_attempt(1, outcome="failed", ended_at=(TODAY - 1) * DAY - 1)
        self.add_attempt(1, outcome="failed", ended_at=(TODAY - 1) * DAY, release=8)
        self.add_attempt(1)
        found = self.counts(TODAY - 1)
        self.assertEqual(found[("stable", 5)], (1, 2, 1, 1, 0))
        self.assertEqual(found[("stable", 8)], (0, 0, 0, 1, 0))

    def test_silent(self) -> None:
        """A box counts once as silent, 6 hours after its last report, if it was installing."""
        last = TODAY * DAY - 6.5 * 3600
        self.add_box(1, last_seen=last)
        self.add_attempt(1, stage="installing")
        self.add_box(2, last_seen=last)
        self.add_attempt(2, stage="downloading")
        self.add_box(3, last_seen=last)
        self.add_attempt(3, stage="installing", outcome="returned", ended_at=1)
        self.add_box(4, last_seen=TODAY * DAY - 5.5 * 3600)
        self.add_attempt(4, stage="installing")
        self.assertEqual([self.counts(TODAY - 1 + n)[("stable", 5)][-1] for n in (0, 1)], [1, 1])
        self.add_box(5, last_seen=(TODAY - 1) * DAY - 1)
        self.add_attempt(5, stage="installing")
        self.assertEqual(self.counts(TODAY - 1)[("stable", 5)][-1], 2)
        self.assertEqual(self.counts(TODAY + 1), {})

    def test_missing_days(self) -> None:
        """Yesterday is counted first; later all days since the last one, a month at most."""

        def missing(now: float) -> list[int]:
            return list(self.read(lambda store: missing_days(store, now)))

        self.assertEqual(missing(NOW), [TODAY - 1])
        self.add_box(1)
        self.write(lambda store: write_days(store, count_day(store, TODAY - 1)))
        self.assertEqual(missing(NOW), [])
        self.assertEqual(missing(NOW + 3 * DAY), [TODAY, TODAY + 1, TODAY + 2])
        self.assertEqual(len(missing(NOW + 1000 * DAY)), 31)
        # A clock that was set back, or is there again after it was far ahead.
        self.assertEqual(missing(NOW - 100 * DAY), [TODAY - 101])

    def test_twice(self) -> None:
        """Of two servers that count a day the first one wins."""
        self.add_box(1)
        rows = self.read(lambda store: count_day(store, TODAY - 1))
        for boxes in (3, 4):
            changed = [dict(row) | {"boxes": boxes} for row in rows]
            self.write(partial(write_days, rows=changed))
        self.assertEqual(self.read(lambda store: store.scalars(select(day.c.boxes)).all()), [3])
        self.write(lambda store: write_days(store, []))


@on_each_database
class TestExpiry(_Case):
    """What is deleted, and what is kept."""

    def test_attempts(self) -> None:
        """An attempt is kept for 400 days."""
        self.add_box(1)
        self.add_box(9)
        for row in (1, 9):
            self.add_attempt(row, received=NOW - 399 * DAY)
            self.add_attempt(row, received=NOW - 401 * DAY)
        self.assertEqual(self.write(lambda store: delete_attempts(store, NOW, 1)), 9)
        self.assertEqual(self.count(attempt), 3)
        self.assertEqual(self.write(lambda store: delete_attempts(store, NOW, 0)), 9)
        self.assertIsNone(self.write(lambda store: delete_attempts(store, NOW, 9)))
        self.assertEqual(self.count(attempt), 2)

    def test_newest(self) -> None:
        """Of each box the newest attempts are kept, however many it sends."""
        self.patch(expiry, "NEWEST", 3)
        for row, attempts in ((1, 5), (2, 3), (3, 4)):
            self.add_box(row)
            for age in range(attempts):
                self.add_attempt(row, received=NOW - age)
        self.assertEqual(self.write(lambda store: delete_attempts(store, NOW, 0)), 3)
        query = select(attempt.c.box, func.count(), func.min(attempt.c.received))
        query = query.group_by(attempt.c.box).order_by(attempt.c.box)
        found = [tuple(row) for row in self.read(lambda store: store.execute(query).all())]
        self.assertEqual(found, [(row, 3, NOW - 2) for row in (1, 2, 3)])

    def test_boxes(self) -> None:
        """A box is gone after 180 days of silence, and deleted with its attempts after 400."""
        for row, silence in ((1, 179), (2, 181), (3, 401)):
            self.add_box(row, last_seen=NOW - silence * DAY)
            self.add_attempt(row)
        self.add_box(4, state=BoxState.REPLACED, replaced_by=3, last_seen=NOW - 401 * DAY)
        self.add_box(5, state=BoxState.REPLACED, replaced_by=3)
        self.add_box(6, state=BoxState.DISTRUSTED, last_seen=NOW - 4000 * DAY)
        self.add_box(7, state=BoxState.ADMITTED, last_seen=None)
        self.assertFalse(self.write(lambda store: retire_boxes(store, NOW)))
        self.assertEqual({self.states()[row] for row in (2, 3)}, {BoxState.GONE})
        self.assertFalse(self.write(lambda store: delete_boxes(store, NOW)))
        self.assertEqual(
            self.states(), {1: "known", 2: "gone", 5: "replaced", 6: "distrusted", 7: "admitted"}
        )
        self.assertEqual(self.count(attempt), 2)

    def test_audit(self) -> None:
        """A row of the audit is kept for two years, which the database enforces."""
        row = {"who": "anna", "what": "hold", "change": "Held.", "because": "It fails."}
        now = time.time()
        rows = [row | {"at": now - days * DAY} for days in (1, 729, 732)]
        self.write(lambda store: store.execute(insert(audit), rows))
        self.assertFalse(self.write(lambda store: delete_audit(store, now)))
        self.assertEqual(self.count(audit), 2)
        ahead = now + 100 * DAY
        self.assertRaises(StoreUnavailable, self.write, lambda store: delete_audit(store, ahead))
        self.flushLoggedErrors()
        self.assertEqual(self.count(audit), 2)

    def test_audit_without_the_time(self) -> None:
        """A row from before the machine had got the time is no old one."""
        row = {"who": "anna", "what": "hold", "change": "Held.", "because": "It fails.", "at": 60.0}
        self.write(lambda store: store.execute(insert(audit), [row]))
        self.assertFalse(self.write(lambda store: delete_audit(store, time.time())))
        self.assertEqual(self.count(audit), 1)

    def test_batches(self) -> None:
        """A batch is small, and tells whether another one is needed."""
        rows = [
            {"key_id": f"{n:032x}", "box_id": n, "state": "known", "seq": 1, "last_seen": 1.0}
            for n in range(BATCH + 1)
        ]
        self.write(lambda store: store.execute(insert(box), rows))
        for step in (retire_boxes, delete_boxes):
            self.assertTrue(self.write(partial(step, now=NOW)))
            self.assertFalse(self.write(partial(step, now=NOW)))
        self.assertEqual(self.count(box), 0)


@on_each_database
class TestRetention(_Case):
    """The service."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.time = NOW
        self.calls = 0
        self.patch(self.database, "read", self.in_this_thread(self.database.read_now))
        self.patch(self.database, "write", self.in_this_thread(self.database.write_now))
        self.service = DailyCleanup(self.clock, self.database, lambda: self.time)
        self.service.startService()
        self.addCleanup(self.service.stopService)

    def in_this_thread(self, function: Any) -> Any:
        def run(question: Any) -> Deferred[Any]:
            self.calls += 1
            return maybeDeferred(function, question)

        return run

    def test_day(self) -> None:
        """After the start, and soon after midnight, the day before is counted and old rows go."""
        self.add_box(1)
        self.add_box(2, last_seen=NOW - 500 * DAY)
        self.add_attempt(1, received=NOW - 500 * DAY)
        self.clock.advance(600)
        self.assertEqual(list(self.states()), [1])
        self.assertEqual((self.count(attempt), self.counted()), (0, [TODAY - 1]))
        calls = self.calls
        self.clock.pump([600] * 10)
        self.assertEqual(self.calls, calls)
        self.time += DAY
        self.clock.advance(600)
        self.assertEqual(self.counted(), [TODAY - 1, TODAY])

    def counted(self) -> list[int]:
        """Return the days that were counted."""
        query = select(day.c.day).distinct().order_by(day.c.day)
        return list(self.read(lambda store: store.scalars(query).all()))

    def pass_days(self, *times: float) -> None:
        """Let the service find these times, one after the other."""
        for self.time in times:
            self.clock.advance(600)

    def test_clock_ahead(self) -> None:
        """A clock that is ahead by years deletes next to nothing, and stops no later count."""
        self.add_box(1, state=BoxState.ADMITTED)
        self.add_attempt(1, received=NOW - DAY, outcome="updated", ended_at=NOW)
        self.pass_days(NOW, _2100, _2100 + DAY)
        self.assertEqual((self.states(), self.count(attempt)), ({1: BoxState.ADMITTED}, 1))
        days = range(TODAY + 100, TODAY + 103)
        self.add_box(2, first_seen=NOW + 50 * DAY, last_seen=NOW + 200 * DAY)
        self.pass_days(*(number * DAY for number in days))
        self.assertLessEqual({TODAY + 99, TODAY + 100, TODAY + 101}, set(self.counted()))

    def test_clock_behind(self) -> None:
        """The days before a machine has got the time are no days."""
        self.add_box(1)
        self.pass_days(3600.0, NOW, NOW + DAY)
        self.assertEqual(self.counted(), [TODAY - 1, TODAY])

    def test_quiet_fleet(self) -> None:
        """Days without a report are counted, too, so that old rows go in the end."""
        self.pass_days(*(NOW + number * 20 * DAY for number in range(4)))
        self.add_box(1, last_seen=NOW - 420 * DAY)
        self.pass_days(NOW + 61 * DAY)
        self.assertEqual(self.states(), {})

    def test_away(self) -> None:
        """A database that is away is tried again ten minutes later."""
        self.add_box(2, last_seen=NOW - 500 * DAY)
        find = self.database._same_file

        def fail() -> Any:
            raise StoreUnavailable("The disk is full.")

        self.patch(self.database, "_same_file", fail)
        with capturedLogs() as events:
            self.clock.advance(600)
        self.assertEqual(len([each for each in events if "error" in each]), 1)
        self.patch(self.database, "_same_file", find)
        self.clock.advance(600)
        self.assertEqual(self.states(), {})
