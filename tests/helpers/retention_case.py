"""A database with boxes and attempts, for the tests of what is counted and deleted."""

from typing import Any

from sqlalchemy import func, insert, select

from opq_twisted.fleet.retention.daily_counts import DAY
from opq_twisted.fleet.store.schema import attempt, box
from opq_twisted.fleet.store.states import BoxState
from tests.helpers.store_case import StoreCase

#: A day after the epoch, and its noon.
TODAY = 20_000
NOW = (TODAY + 0.5) * DAY


class RetentionCase(StoreCase):
    """A database into which a test puts boxes and attempts."""

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
