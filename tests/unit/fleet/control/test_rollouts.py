"""What is shown of a rollout, beside what the engine thinks of it."""

from typing import Any

from sqlalchemy import Connection, update

from opq_twisted.fleet.settings import Rollouts
from opq_twisted.fleet.store.schema import rollout
from opq_twisted.fleet.store.states import RolloutState
from tests.helpers.fleet_control import Control
from tests.helpers.fleet_rows import NEW, NOW, OLD, add_attempt, add_box, add_rollout
from tests.helpers.store_case import StoreCase, on_each_database

_LONG_AGO = NOW - 7 * 3600


@on_each_database
class AssessmentTests(StoreCase):
    """The numbers of the list and those of the engine fit together."""

    def setUp(self) -> None:
        super().setUp()
        self.number = 0
        self.write(lambda store: add_rollout(store, sentence="It began at 5 %."))

    def add(self, boxes: int, outcome: str | None, reason: str | None = None, **more: Any) -> None:
        """Add boxes with an attempt."""

        def change(store: Connection) -> None:
            for _ in range(boxes):
                self.number += 1
                add_attempt(store, add_box(store, self.number, **more), outcome, reason)

        self.write(change)

    def channel(self, mode: Rollouts = "auto") -> Any:
        """Return what is shown of the channel."""
        found = Control(self.database, mode).get("/status")
        self.assertEqual(found["rollouts"], mode)
        released = Control(self.database, mode).get(f"/release?release={NEW}")
        self.assertEqual(released["channels"], found["channels"])
        return found["channels"][0]

    def outcomes(self, shown: Any) -> dict[str, tuple[int, bool]]:
        """Return the number of boxes by outcome, and whether they are bad."""
        return {each["outcome"]: (each["boxes"], each["bad"]) for each in shown["outcomes"]}

    def test_off(self) -> None:
        """Nothing is judged; silence is seen all the same."""
        self.add(1, None, last_seen=_LONG_AGO)
        shown = self.channel("off")
        self.assertEqual((shown["assessment"], shown["not_judged"]), (None, None))
        self.assertEqual(self.outcomes(shown), {"silent": (1, True)})

    def test_equal(self) -> None:
        """Boxes that count are the same in both; failures of the network are in none."""
        self.add(5, "updated")
        self.add(2, "returned", "rescued")
        self.add(3, "failed", "download")
        shown = self.channel()
        judged = shown["assessment"]
        self.assertEqual((judged["boxes"], judged["bad"], judged["well"]), (7, 2, 5))
        self.assertEqual(judged["bad_by_reason"], {"rescued": 2})
        self.assertEqual(shown["not_judged"], 0)
        self.assertEqual((shown["sentence"], shown["acknowledged_at"]), ("It began at 5 %.", None))

    def test_young_keys(self) -> None:
        """Boxes that do not count are shown, and told."""
        self.add(2, "updated")
        self.add(20, "returned", "rescued", first_seen=NOW - 7200)
        shown = self.channel()
        self.assertEqual(self.outcomes(shown)["returned"], (20, True))
        self.assertEqual((shown["assessment"]["bad"], shown["not_judged"]), (0, 20))

    def test_unclear(self) -> None:
        """A silent box is not called bad while nobody can tell why it is silent."""
        self.add(2, None, last_seen=_LONG_AGO)
        self.assertEqual(self.outcomes(self.channel()), {"unclear": (2, False)})
        self.write(lambda store: [add_box(store, number) for number in range(100, 120)])
        self.assertEqual(self.outcomes(self.channel()), {"silent": (2, True)})

    def test_some_unclear(self) -> None:
        """Some boxes may be silent, and others unclear."""
        self.add(2, None, last_seen=_LONG_AGO)
        self.add(3, None, last_seen=NOW - 50 * 3600)

        def change(store: Connection) -> None:
            for number in range(100, 110):
                add_box(store, number)
            for number in range(110, 115):
                add_box(store, number, last_seen=NOW - 50 * 3600, due=NOW - 40 * 3600)

        self.write(change)
        shown = self.channel()
        self.assertEqual(self.outcomes(shown), {"silent": (2, True), "unclear": (3, False)})
        self.assertEqual(shown["assessment"]["unclear"], 3)

    def test_superseded(self) -> None:
        """A release that the channel does not name any more is not judged."""
        self.write(lambda store: add_rollout(store, OLD, state=RolloutState.SUPERSEDED))
        found = Control(self.database, "auto").get(f"/release?release={OLD}")
        self.assertIsNone(found["channels"][0]["assessment"])

    def test_held(self) -> None:
        """A held release has numbers, and no action."""
        self.write(lambda store: store.execute(update(rollout).values(state=RolloutState.HELD)))
        judged = self.channel()["assessment"]
        self.assertEqual((judged["action"], judged["sentence"]), (None, None))
