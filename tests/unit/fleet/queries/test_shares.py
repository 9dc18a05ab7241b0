"""The shares of a rollout over time."""

from sqlalchemy import Connection

from opq_twisted.fleet.audit import AuditNote, record
from opq_twisted.fleet.queries.shares import read_shares
from opq_twisted.fleet.rollouts.orders import Order, hold, resume, widen
from tests.helpers.fleet_rows import NEW, NOW, add_rollout
from tests.helpers.store_case import StoreCase, on_each_database

NOTE = AuditNote(who="anna", because="a test")


@on_each_database
class ShareTests(StoreCase):
    """Reads the audit."""

    def shares(self) -> list[tuple[float, bool, int]]:
        """Return the time since the announcement, whether it is held, and the share."""
        found = self.read(lambda connection: read_shares(connection, "stable", NEW, NOW))
        return [(each["at"] - NOW, each["held"], each["bp"]) for each in found]

    def test_orders(self) -> None:
        """Each order changes the share; without one there is nothing to show."""

        def change(connection: Connection) -> None:
            add_rollout(connection, bp=25)
            for hours, order in enumerate((widen, hold, resume), 1):
                order(connection, Order(note=NOTE, release=NEW, now=NOW + hours))

        self.assertEqual(self.shares(), [])
        self.write(change)
        expected = [(0, False, 25), (1, False, 100), (2, True, 100), (3, False, 100)]
        self.assertEqual(self.shares(), expected)

    def test_others(self) -> None:
        """Rows of other channels, and sentences that are no change of a share, are left out."""

        def change(connection: Connection) -> None:
            for channel, text in (
                ("beta", "From baking at 1 % to held at 1 %."),
                ("stable", "It is as it was."),
                ("stable", "To held at 5 %."),
            ):
                record(
                    connection, NOTE, NOW, what="hold", change=text, channel=channel, release=NEW
                )

        self.write(change)
        self.assertEqual(self.shares(), [(0, True, 500)])
