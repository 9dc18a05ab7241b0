"""Tests of the row that says which process decides about the rollouts."""

from sqlalchemy import select

from opq_twisted.fleet.engine.lease import Lease
from opq_twisted.fleet.store.schema import engine
from tests.helpers.store_case import StoreCase, on_each_database


@on_each_database
class LeaseTests(StoreCase):
    """Two processes that run every 20 seconds."""

    def setUp(self) -> None:
        super().setUp()
        self.first, self.second = Lease(20), Lease(20)

    def take(self, lease: Lease, now: float) -> float | None:
        return self.write(lambda store: lease.take(store, now))

    def test_alone(self) -> None:
        """A process keeps the lease, and learns when it last ran."""
        self.assertEqual([self.take(self.first, now) for now in (100, 120, 1000)], [0, 20, 880])
        self.assertEqual(len(self.read(lambda store: store.execute(select(engine)).all())), 1)

    def test_taken(self) -> None:
        """Another process waits, for as long as the first one runs."""
        for now in range(0, 2000, 20):
            self.assertIsNotNone(self.take(self.first, now))
            self.assertIsNone(self.take(self.second, now + 19))
        self.assertTrue(self.write(self.first.is_held))
        self.assertFalse(self.write(self.second.is_held))

    def test_killed(self) -> None:
        """Within a minute after the last run of a killed process, the other one has taken over."""
        self.take(self.first, 100)
        times = [self.take(self.second, now) for now in (101, 121, 141)]
        self.assertEqual(times, [None, None, 41])
        self.assertFalse(self.write(self.first.is_held))
        self.assertIsNone(self.take(self.first, 142))

    def test_restarted(self) -> None:
        """A process that was started again is another one, and learns of the pause."""
        self.take(self.first, 100)
        self.assertEqual(self.take(Lease(20), 100_000), 99_900)

    def test_clock_set_back(self) -> None:
        """A clock that was ahead keeps nobody from deciding."""
        self.take(self.first, 1_000_000)
        self.assertEqual(self.take(self.first, 100), -999_900)
        self.take(self.first, 1_000_000)
        self.assertEqual(self.take(self.second, 100), -999_900)
