"""What the engine knows of a rollout, from the rows of the database."""

from typing import Any

from sqlalchemy import Connection, update

from opq_twisted.fleet.engine.assessment import Assessment
from opq_twisted.fleet.engine.decision import Action
from opq_twisted.fleet.engine.gather import assess
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.store.schema import box
from opq_twisted.fleet.store.states import BoxState
from tests.helpers.fleet_rows import NOW, add_attempt, add_box, add_rollout
from tests.helpers.store_case import StoreCase, on_each_database

_HOUR, _DAY = 3600.0, 86400.0

#: When a box that is silent now was heard last.
_LONG_AGO = NOW - 7 * _HOUR


class GatherCase(StoreCase):
    """A release that was announced two days ago, and has been at 5 % for a day and a half."""

    def setUp(self) -> None:
        super().setUp()
        self.rows: list[tuple[int, list[tuple[str | None, str | None]], dict[str, Any]]] = []
        self.number = 0
        self.write(lambda store: self.make_rollout(store))

    def make_rollout(self, store: Connection) -> None:
        """Add the rollout."""
        add_rollout(store, announced_at=NOW - 2 * _DAY, since=NOW - 1.5 * _DAY)

    def add(
        self,
        boxes: int = 1,
        *attempts: tuple[str | None, str | None],
        received: float = NOW - 900,
        stage: str | None = None,
        **columns: Any,
    ) -> None:
        """Add boxes, each with these attempts."""

        def change(store: Connection) -> None:
            for _ in range(boxes):
                self.number += 1
                row = add_box(store, self.number, **columns)
                for index, (outcome, reason) in enumerate(attempts):
                    more = {} if stage is None else {"stage": stage}
                    add_attempt(
                        store,
                        row,
                        outcome,
                        reason,
                        number=self.number * 100 + index,
                        received=received,
                        **more,
                    )

        self.write(change)

    def add_silent(self, boxes: int = 1, **columns: Any) -> None:
        """Add boxes that fell silent when they were about to install."""
        self.add(boxes, (None, None), **{"last_seen": _LONG_AGO, **columns})

    def assess(self, now: float = NOW) -> Assessment:
        """Assess the only rollout."""
        (found,) = self.read(lambda store: assess(store, now, Timing()))
        return found

    def counts(self, now: float = NOW) -> tuple[int, dict[str, int], int, int]:
        """Return well, bad by the reason, under way and unclear."""
        found = self.assess(now).evidence
        return found.well, dict(found.bad_by_reason), found.under_way, found.unclear


@on_each_database
class CountedTests(GatherCase):
    """Which boxes count, and as what."""

    def test_nothing(self) -> None:
        """A rollout that nobody has tried is assessed, too."""
        self.assertEqual(self.counts(), (0, {}, 0, 0))
        self.assertEqual(self.assess().next_bp, 2000)

    def test_results(self) -> None:
        """Boxes are well, bad by their reason, or under way; other failures are nothing."""
        self.add(2, ("updated", None))
        self.add(2, ("returned", "unhealthy-service"))
        self.add(1, ("returned", None))
        self.add(1, ("failed", "install-status"))
        self.add(4, ("failed", "download"))
        self.add(3, (None, None))
        bad = {"unhealthy-service": 2, "returned": 1, "install-status": 1}
        self.assertEqual(self.counts(), (2, bad, 3, 0))
        self.assertIs((self.assess().decision or self.fail()).action, Action.HOLD)

    def test_worst(self) -> None:
        """A box counts once, by its worst attempt; a failed download gives way to any other."""
        self.add(1, ("updated", None), ("returned", "rescued"), ("updated", None))
        self.add(1, ("failed", "download"), ("updated", None))
        self.add(1, ("failed", "no-room"), (None, None))
        self.assertEqual(self.counts(), (1, {"rescued": 1}, 1, 0))

    def test_keys(self) -> None:
        """Young keys count only if they are admitted, distrusted ones never, replaced ones do."""
        bad = ("returned", "rescued")
        young = NOW - 2 * _DAY - _DAY + 1
        self.add(100, bad, first_seen=young)
        self.add(1, bad, first_seen=young, state=BoxState.ADMITTED)
        self.add(1, bad, first_seen=young, state=BoxState.REPLACED)
        self.add(1, bad, first_seen=young - 1)
        self.add(1, bad, state=BoxState.DISTRUSTED)
        self.add(1, bad, state=BoxState.GONE)
        self.add(1, bad, state=BoxState.REPLACED)
        self.assertEqual(self.counts(), (0, {"rescued": 3}, 0, 0))

    def test_channels(self) -> None:
        """A box counts in the channel that it follows now."""
        self.add(1, ("returned", "rescued"))
        self.add(1, ("returned", "rescued"), channel="beta")
        self.assertEqual(self.counts(), (0, {"rescued": 1}, 0, 0))
        self.write(lambda store: store.execute(update(box).values(channel="stable")))
        self.assertEqual(self.counts(), (0, {"rescued": 2}, 0, 0))
