"""Tests of the work of a day."""

from typing import Any

from sqlalchemy import select
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from opq_twisted.fleet.retention.daily_cleanup import DailyCleanup
from opq_twisted.fleet.retention.daily_counts import DAY
from opq_twisted.fleet.store.errors import StoreUnavailable
from opq_twisted.fleet.store.schema import attempt, day
from opq_twisted.fleet.store.states import BoxState
from tests.helpers.retention_case import NOW, TODAY, RetentionCase
from tests.helpers.store_case import on_each_database

#: A time that a broken clock may give.
_2100 = 4_102_444_800.0


@on_each_database
class TestDailyCleanup(RetentionCase):
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
