"""The numbers of the charts."""

from typing import Any

from sqlalchemy import insert

from opq_twisted.fleet.queries.history import DAYS, read_history
from opq_twisted.fleet.store.schema import day
from tests.helpers.fleet_rows import NEW, NOW, OLD
from tests.helpers.store_case import StoreCase, on_each_database

TODAY = int(NOW // 86400)


def row(number: int, channel: str, release: int, **counts: int) -> dict[str, Any]:
    """Return a row of the table."""
    names = ("boxes", "updated", "returned", "failed", "silent")
    return (
        {"day": number, "channel": channel, "release": release} | dict.fromkeys(names, 0) | counts
    )


@on_each_database
class HistoryTests(StoreCase):
    """Reads the table of days."""

    def history(self, *rows: dict[str, Any], current: tuple[int, ...] = ()) -> dict[str, Any]:
        """Write rows, and return the history."""
        if rows:
            self.write(lambda connection: connection.execute(insert(day), list(rows)))
        return dict(self.read(lambda connection: read_history(connection, NOW, current)))

    def test_empty(self) -> None:
        """Without counts there are days, and no numbers."""
        found = self.history()
        self.assertEqual((len(found["days"]), found["releases"]), (DAYS, []))
        self.assertEqual((found["days"][0], found["days"][-1]), ("2026-12-16", "2027-01-14"))
        self.assertEqual(found["others"], [None] * DAYS)

    def test_counts(self) -> None:
        """Channels are added up, older days are left out, and a day without a count is not 0."""
        found = self.history(
            row(TODAY - 2, "", 0),
            row(TODAY - 2, "stable", NEW, boxes=5, updated=3, silent=1),
            row(TODAY - 2, "beta", NEW, boxes=2, returned=1),
            row(TODAY - 1, "", 0),
            row(TODAY - 1, "stable", OLD, boxes=4),
            row(TODAY - DAYS - 1, "stable", 1, boxes=99),
        )
        releases = {each["release"]: each["boxes"] for each in found["releases"]}
        self.assertEqual([*releases], [NEW, OLD])
        self.assertEqual(releases[NEW][-3:], [None, 7, 0])
        self.assertEqual(releases[OLD][-3:], [None, 0, 4])
        outcomes = {name: each[-2:] for name, each in found["outcomes"].items()}
        self.assertEqual(
            outcomes, {"updated": [3, 0], "returned": [1, 0], "failed": [0, 0], "silent": [1, 0]}
        )

    def test_others(self) -> None:
        """Releases of few boxes are counted together, unless a channel names one of them."""
        rows = [row(TODAY - 1, "stable", number, boxes=number) for number in range(1, 11)]
        found = self.history(row(TODAY - 1, "", 0), *rows, current=(1,))
        self.assertEqual([each["release"] for each in found["releases"]], [10, 9, 8, 7, 6, 1])
        self.assertEqual(found["others"][-1], 2 + 3 + 4 + 5)
