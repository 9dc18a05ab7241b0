"""What the boxes of the fleet run, wait for, and need."""

from sqlalchemy import Connection

from opq_twisted.fleet.queries.census import Census, Need, count_running, take_census
from opq_twisted.fleet.queries.silence import SILENT_AFTER, Silence
from opq_twisted.fleet.store.states import BoxState
from tests.helpers.fleet_rows import NEW, NOW, OLD, add_attempt, add_box
from tests.helpers.store_case import StoreCase, on_each_database


@on_each_database
class CountsTests(StoreCase):
    """Boxes are counted by what they report."""

    def test_nothing(self) -> None:
        """An empty fleet has no releases, and nothing needs somebody."""
        found = self.census()
        self.assertEqual((found.by_release, found.by_waiting), ({}, {}))
        self.assertEqual(set(found.needs.values()), {Need(0, ())})

    def test_by_release(self) -> None:
        """Boxes with a key that counts are counted; a release may be unknown."""

        def change(connection: Connection) -> None:
            add_box(connection, 1)
            add_box(connection, 2, state=BoxState.ADMITTED)
            add_box(connection, 3, release=NEW)
            add_box(connection, 4, release=None)
            for number, state in enumerate(("distrusted", "replaced", "gone"), 5):
                add_box(connection, number, state=state)

        self.write(change)
        self.assertEqual(self.census().by_release, {OLD: 2, NEW: 1, None: 1})
        self.assertEqual(self.read(lambda connection: count_running(connection, OLD)), 2)

    def test_by_waiting(self) -> None:
        """Boxes are counted by what they wait for."""

        def change(connection: Connection) -> None:
            add_box(connection, 1, waiting="turn")
            add_box(connection, 2, waiting="turn")
            add_box(connection, 3, waiting="held")
            add_box(connection, 4)
            add_box(connection, 5, waiting="for-godot")
            add_box(connection, 6, waiting="for-rain")

        self.write(change)
        self.assertEqual(self.census().by_waiting, {"turn": 2, "held": 1, "other": 2})

    def test_clock_was_ahead(self) -> None:
        """A box that was seen in the future was not seen; its key is not new for years."""
        ahead = NOW + 9e8

        def change(connection: Connection) -> None:
            add_box(connection, 1, first_seen=ahead, last_seen=ahead)
            add_box(connection, 2, first_seen=NOW, last_seen=NOW)

        self.write(change)
        needs = self.census().needs
        self.assertEqual((needs["not_seen"], needs["new_key"]), (Need(1, [1]), Need(1, [2])))

    def census(self) -> Census:
        """Count the boxes."""
        return self.read(
            lambda connection: take_census(connection, NOW, Silence(NOW - SILENT_AFTER))
        )

    def test_needs(self) -> None:
        """Each reason has the number of boxes, and names some of them."""

        def change(connection: Connection) -> None:
            add_attempt(connection, add_box(connection, 1, last_seen=NOW - SILENT_AFTER - 1), None)
            add_box(connection, 2, waiting="refused")
            add_box(connection, 3, key_id="a" * 32)
            add_box(connection, 3, key_id="b" * 32)
            add_box(connection, 4, cloned_at=NOW - 10)
            add_box(connection, 5, first_seen=NOW - 3600)
            add_box(connection, 6, first_seen=NOW - 3600, state=BoxState.ADMITTED)
            for number, waiting in enumerate(("stale", "untrusted", "clock"), 7):
                add_box(connection, number, waiting=waiting)
            add_box(connection, 10, last_seen=NOW - 8 * 86400)
            # Several boxes without a number are no mistake.
            add_box(connection, 0, key_id="c" * 32)
            add_box(connection, 0, key_id="d" * 32)

        self.write(change)
        self.assertEqual(
            self.census().needs,
            {
                "silent": Need(1, [1]),
                "blocked": Need(1, [2]),
                "shared_number": Need(2, [3, 3]),
                "cloned": Need(1, [4]),
                "new_key": Need(1, [5]),
                "stale_metadata": Need(3, [7, 8, 9]),
                "not_seen": Need(1, [10]),
            },
        )

    def test_many(self) -> None:
        """Of many boxes only the first few are named."""

        def change(connection: Connection) -> None:
            for number in range(1, 21):
                add_box(connection, number, waiting="refused")

        self.write(change)
        self.assertEqual(self.census().needs["blocked"], Need(20, [1, 2, 3, 4, 5]))
