"""Tests of the counts of a day."""

from functools import partial

from sqlalchemy import select

from opq_twisted.fleet.retention.daily_counts import DAY, count_day, missing_days, write_days
from opq_twisted.fleet.store.schema import day
from opq_twisted.fleet.store.states import BoxState
from tests.helpers.retention_case import NOW, TODAY, RetentionCase
from tests.helpers.store_case import on_each_database


@on_each_database
class TestDays(RetentionCase):
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
