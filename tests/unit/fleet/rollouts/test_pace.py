"""Tests of the paces that the database gives to the timestamp."""

from pathlib import Path

from opq_twisted.fleet.rollouts.orders import hold
from opq_twisted.fleet.rollouts.pace import DatabasePaces
from opq_twisted.fleet.rollouts.rollout import find
from opq_twisted.fleet.store.states import RolloutState
from opq_twisted.trust.pace import ALL, HELD, Pace, PaceUnknown
from tests.helpers.store_case import on_each_database
from tests.unit.fleet.rollouts.test_orders import RELEASE, OrdersTestCase, named


@on_each_database
class DatabasePacesTests(OrdersTestCase):
    """The paces over a real database."""

    def setUp(self) -> None:
        super().setUp()
        self.paces = DatabasePaces(self.database, "ask", lambda: 30.0)

    def test_new_release(self) -> None:
        """A new release is written into the database, with its time."""
        self.assertEqual(self.paces([named()]), {"stable": Pace(RELEASE, 100)})
        (row,) = self.read(find)
        self.assertEqual((row.state, row.announced_at), (RolloutState.BAKING, 30))

    def test_held(self) -> None:
        """A hold is seen at the next question."""
        self.paces([named()])
        self.do(hold)
        self.assertEqual(self.paces([named()]), {"stable": Pace(RELEASE, 100, HELD)})

    def test_asks(self) -> None:
        """A new release waits while the database is away, if the server asks."""
        self.assertTrue(self.paces.asks)
        self.assertFalse(DatabasePaces(self.database, "off", lambda: 0.0).asks)

    def test_no_release(self) -> None:
        """Metadata without channels has no pace."""
        self.assertEqual(self.paces([]), {})


class DatabaseGoneTests(OrdersTestCase):
    """A file of SQLite that is removed."""

    def test_gone(self) -> None:
        """The pace is unknown; a new database learns it from the timestamp."""
        paces = DatabasePaces(self.database, "off", lambda: 30.0)
        paces([named()])
        Path(self.url.removeprefix("sqlite:///")).unlink()
        self.assertRaises(PaceUnknown, paces, [named()])
        self.assertRaises(PaceUnknown, paces, [named(version=RELEASE + 1)])
        self.setUp()
        paces = DatabasePaces(self.database, "off", lambda: 30.0)
        held = Pace(RELEASE, ALL, HELD)
        self.assertEqual(paces([named(last=held)]), {"stable": held})
