"""Tests of what is deleted, and when."""

import time
from functools import partial

from sqlalchemy import func, insert, select

from opq_twisted.fleet.retention import expiry
from opq_twisted.fleet.retention.daily_counts import DAY
from opq_twisted.fleet.retention.expiry import (
    BATCH,
    delete_attempts,
    delete_audit,
    delete_boxes,
    retire_boxes,
)
from opq_twisted.fleet.store.errors import StoreUnavailable
from opq_twisted.fleet.store.schema import attempt, audit, box
from opq_twisted.fleet.store.states import BoxState
from tests.helpers.retention_case import NOW, RetentionCase
from tests.helpers.store_case import on_each_database


@on_each_database
class TestExpiry(RetentionCase):
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
