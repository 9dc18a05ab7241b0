"""What the metrics say of the rollouts that the engine judges."""

from typing import Any

from sqlalchemy import Connection, insert

from opq_twisted.fleet.engine.judge import Judge
from opq_twisted.fleet.metrics.families import families
from opq_twisted.fleet.metrics.figures import count_fleet
from opq_twisted.fleet.settings import Rollouts
from opq_twisted.fleet.store.schema import engine
from opq_twisted.fleet.store.states import RolloutState
from tests.helpers.fleet_rows import NEW, NOW, OLD, add_attempt, add_box, add_messages, add_rollout
from tests.helpers.store_case import StoreCase

_HOUR, _DAY = 3600.0, 86400.0

Series = dict[tuple[str, ...], float]


class FamiliesTests(StoreCase):
    """
    A release at 5 % of the boxes for a day and a half, which is a step.

    The tests of the collector count on each database.
    """

    def setUp(self) -> None:
        super().setUp()
        self.number = 0
        self.write(
            lambda store: add_rollout(store, announced_at=NOW - 2 * _DAY, since=NOW - 1.5 * _DAY)
        )

    def add(self, boxes: int, *attempt: str | None, **columns: Any) -> None:
        """Add boxes, each with an attempt of this outcome and reason, or without one."""

        def change(store: Connection) -> None:
            for _ in range(boxes):
                self.number += 1
                release = NEW if attempt == ("updated",) else OLD
                row = add_box(store, self.number, **{"release": release, **columns})
                if attempt:
                    add_attempt(store, row, *attempt, number=self.number)

        self.write(change)

    def series(self, mode: Rollouts = "auto") -> Series:
        """Return the series that depend on the engine, without the beginnings of their names."""
        figures = self.read(lambda store: count_fleet(store, Judge(mode=mode), NOW))
        found = {
            (sample.name.removeprefix("opq_fleet_"), *sample.labels.values()): sample.value
            for family in families(figures, mode)
            for sample in family.samples
        }
        others = {"boxes", "outcomes", "pace_bp", "held"}
        return {name: value for name, value in found.items() if name[0] not in others}

    def test_counts(self) -> None:
        """The boxes that began to install a release, and how many bad ones are too many."""
        self.add(5, "updated")
        self.add(2, "returned", "rescued")
        self.add(1, None)
        self.add(20)
        self.assertEqual(
            self.series(),
            {
                ("rollout_boxes", "stable", str(NEW), "well"): 5,
                ("rollout_boxes", "stable", str(NEW), "bad"): 2,
                ("rollout_boxes", "stable", str(NEW), "under-way"): 1,
                ("rollout_holds_at", "stable", str(NEW)): 3,
                ("asking", "stable", str(NEW)): 0,
                ("silent", "stable"): 0,
            },
        )

    def asks(self, mode: Rollouts) -> bool:
        return bool(self.series(mode)["asking", "stable", str(NEW)])

    def test_ready(self) -> None:
        """A step that is over and well asks for a person with `ask` only."""
        self.add(9, "updated")
        self.assertEqual([self.asks("ask"), self.asks("auto"), self.asks("observe")], [1, 0, 0])

    def test_would_hold(self) -> None:
        """A release that is bad asks for a person with `observe`, where nothing is held."""
        self.add(9, "returned", "rescued")
        self.assertEqual([self.asks("ask"), self.asks("auto"), self.asks("observe")], [0, 0, 1])

    def test_inconclusive(self) -> None:
        """Numbers that are neither good nor bad ask for a person always."""
        self.add(9, "updated")
        self.add(1, "returned", "rescued")
        self.assertEqual([self.asks("ask"), self.asks("auto"), self.asks("observe")], [1, 1, 1])

    def test_silent(self) -> None:
        """Many boxes that installed nothing are silent."""
        self.add(20, last_seen=NOW - 5 * _HOUR, due=NOW - 3 * _HOUR)
        self.add(5, last_seen=NOW - 60, due=NOW + _HOUR)
        self.assertEqual(self.series()["silent", "stable"], 1)

    def test_off(self) -> None:
        """Nothing is judged with `off`, whatever an engine did before."""
        self.write(lambda store: store.execute(insert(engine).values(holder="x", ran_at=NOW)))
        self.add(9, "returned", "rescued")
        self.assertEqual(self.series("off"), {})

    def test_last_run(self) -> None:
        """The time at which an engine last ran, in whatever process."""
        self.write(lambda store: store.execute(insert(engine).values(holder="x", ran_at=NOW - 5)))
        self.assertEqual(self.series()["engine_run_timestamp_seconds",], NOW - 5)

    def test_superseded(self) -> None:
        """A release that no channel names has no series."""
        self.write(lambda store: add_rollout(store, OLD, state=RolloutState.SUPERSEDED))
        self.assertFalse([name for name in self.series() if str(OLD) in name])

    def test_messages(self) -> None:
        """Messages for the webhook are counted."""
        self.write(lambda store: add_messages(store, 3))
        figures = self.read(lambda store: count_fleet(store, Judge(mode="off"), NOW))
        self.assertEqual(figures.messages, 3)
