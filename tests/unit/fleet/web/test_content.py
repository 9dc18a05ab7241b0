"""What the page shows besides the state of the fleet."""

from typing import Any

from sqlalchemy import Connection, insert

from opq_twisted.fleet.audit import AuditNote
from opq_twisted.fleet.control.overview import overview, release_page
from opq_twisted.fleet.engine.judge import Judge
from opq_twisted.fleet.rollouts.orders import Order, hold
from opq_twisted.fleet.store.schema import outage
from opq_twisted.fleet.web.content import overview_content, release_content
from opq_twisted.fleet.web.views import render
from opq_twisted.fleet.web.views.viewer import Viewer
from tests.helpers.fleet_rows import NEW, NOW, add_attempt, add_box, add_rollout
from tests.helpers.store_case import StoreCase, on_each_database

VIEWER = Viewer(name="anna", is_operator=True)


@on_each_database
class ContentTests(StoreCase):
    """Adds rows to the state of the fleet, and renders it."""

    judge = Judge(mode="auto")

    def setUp(self) -> None:
        super().setUp()

        def change(connection: Connection) -> None:
            add_rollout(connection)
            add_attempt(connection, add_box(connection, 7), "returned", "fell-over")

        self.write(change)

    def hold(self) -> None:
        """Hold the release."""
        note = AuditNote(who="ben", because="Box 7 is hot")
        order = Order(note=note, release=NEW, now=NOW)
        self.write(lambda connection: hold(connection, order))

    def overview(self) -> dict[str, Any]:
        """Return the content of the overview."""

        def read(connection: Connection) -> dict[str, Any]:
            status = {**overview(connection, NOW, self.judge), "waiting_now": 0}
            found = overview_content(connection, status, NOW, self.judge)
            return {**found, "problem": None}

        return self.read(read)

    def test_overview(self) -> None:
        """The page shows the bad boxes, and who holds a release."""
        [channel] = self.overview()["channels"]
        self.assertEqual((channel["hold"], [*channel["bad_boxes"]]), (None, ["fell-over"]))
        self.hold()
        page = render.overview(self.overview(), VIEWER).decode()
        self.assertIn("Held by ben", page)
        self.assertIn('fell-over 1 (box <a href="/fleet/box/7">7</a>)', page)

    def test_release(self) -> None:
        """The page of a release shows the same."""
        self.hold()

        def read(connection: Connection) -> Any:
            found = release_page(connection, NEW, NOW, self.judge)
            return release_content(connection, found, NOW, self.judge)

        found = self.read(read)
        shares = [(each["held"], each["bp"]) for each in found["channels"][0]["shares"]]
        self.assertEqual(shares, [(False, 500), (True, 500)])
        page = render.release(found, VIEWER).decode()
        self.assertIn("Share over time", page)
        self.assertIn("Held by ben", page)
        self.assertIn('<a href="/fleet/box/7">7</a>: went back (fell-over)', page)

    def test_silent(self) -> None:
        """The page shows since when the fleet is silent."""
        self.assertIsNone(self.overview()["channels"][0]["silent_since"])
        rows: list[dict[str, Any]] = [
            {"kind": "fleet", "channel": "stable", "began": NOW - 9000, "ended": NOW - 8000},
            {"kind": "server", "channel": None, "began": NOW - 700, "ended": None},
            {"kind": "fleet", "channel": "stable", "began": NOW - 600, "ended": None},
        ]
        self.write(lambda connection: connection.execute(insert(outage), rows))
        [channel] = self.overview()["channels"]
        self.assertEqual(channel["silent_since"], NOW - 600)
        self.assertIn("Frozen", render.overview(self.overview(), VIEWER).decode())
