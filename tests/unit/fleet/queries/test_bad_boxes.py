"""The names of bad boxes."""

from sqlalchemy import Connection

from opq_twisted.fleet.queries.bad_boxes import name_bad_boxes
from opq_twisted.fleet.queries.silence import SILENT_AFTER, Silence
from opq_twisted.fleet.store.states import BoxState
from tests.helpers.fleet_rows import NEW, NOW, add_attempt, add_box
from tests.helpers.store_case import StoreCase, on_each_database

SILENCE = Silence(NOW - SILENT_AFTER)


@on_each_database
class BadBoxTests(StoreCase):
    """Names boxes by the reason."""

    def named(self, after: float | None = None) -> dict[str, list[int]]:
        """Return the numbers of the boxes."""
        found = self.read(
            lambda connection: name_bad_boxes(connection, "stable", NEW, SILENCE, after)
        )
        return {reason: [each["box_id"] for each in some] for reason, some in found.items()}

    def test_reasons(self) -> None:
        """Boxes that went back, failed for the release, or are silent are named, each once."""

        def change(connection: Connection) -> None:
            for number in range(1, 8):
                add_attempt(connection, add_box(connection, number), "returned", "fell-over")
            add_attempt(connection, 1, "returned", "fell-over", number=99)
            silent = add_box(connection, 10, last_seen=NOW - SILENT_AFTER - 1)
            add_attempt(connection, silent, None)
            add_attempt(connection, add_box(connection, 11), "failed", "archive")
            add_attempt(connection, add_box(connection, 12), "failed", "no-room")
            add_attempt(connection, add_box(connection, 13), "updated")
            add_attempt(connection, add_box(connection, 14), None)
            add_attempt(connection, add_box(connection, 15, channel="beta"), "failed", "archive")
            gone = add_box(connection, 16, state=BoxState.DISTRUSTED)
            add_attempt(connection, gone, "failed", "archive")

        self.write(change)
        expected = {"archive": [11], "fell-over": [1, 2, 3, 4, 5], "silent": [10]}
        self.assertEqual(self.named(), expected)

    def test_resumed(self) -> None:
        """What was reported before a rollout was resumed is not named."""
        self.write(lambda c: add_attempt(c, add_box(c, 1), "returned", "fell-over"))
        self.assertEqual(self.named(after=NOW - 901), {"fell-over": [1]})
        self.assertEqual(self.named(after=NOW - 900), {})
