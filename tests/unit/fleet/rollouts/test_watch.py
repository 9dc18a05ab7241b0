"""Tests of noticing a rollout that another process has changed."""

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.rollouts.announce import announce
from opq_twisted.fleet.rollouts.orders import hold
from opq_twisted.fleet.rollouts.rollout import Rollout
from opq_twisted.fleet.rollouts.watch import PERIOD, RolloutWatch, current_rollouts
from opq_twisted.fleet.store.errors import StoreUnavailable
from opq_twisted.fleet.store.states import RolloutState
from tests.helpers.store_case import on_each_database
from tests.unit.fleet.rollouts.test_orders import RELEASE, OrdersTestCase, named


def rollout(bp: int) -> Rollout:
    return Rollout(
        channel="stable",
        release=RELEASE,
        sha256=None,
        ceiling_bp=10_000,
        bp=bp,
        state=RolloutState.BAKING,
        critical=False,
        was_held=False,
        announced_at=0,
        since=0,
    )


class RolloutWatchTests(SynchronousTestCase):
    """When the observers are called."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.found: list[Rollout] | Exception = [rollout(100)]
        self.queries = self.calls = 0
        self.watch = RolloutWatch(self.clock, self.read, [], [self.called])

    def called(self) -> None:
        self.calls += 1

    def read(self) -> Deferred[list[Rollout]]:
        self.queries += 1
        return fail(self.found) if isinstance(self.found, Exception) else succeed(self.found)

    def assertCalled(self, times: int, found: list[Rollout] | Exception) -> None:
        """The observers are called so often in the next minute."""
        self.found, before = found, self.calls
        self.clock.pump([PERIOD] * 12)
        self.assertEqual(self.calls - before, times)

    def test_changes(self) -> None:
        """They are called at the start, and once after each change."""
        self.watch.startService()
        self.clock.advance(0)
        self.assertEqual(self.calls, 1)
        self.assertCalled(0, [rollout(100)])
        self.assertCalled(1, [rollout(500)])
        self.assertCalled(1, [])

    def test_database_away(self) -> None:
        """They are called when the database goes, and when it is back."""
        self.watch.startService()
        self.clock.advance(0)
        self.assertCalled(1, StoreUnavailable("It is away."))
        self.assertCalled(1, [rollout(100)])

    def test_unexpected_error(self) -> None:
        """An error of ours is logged, and does not end the watch."""
        self.watch.startService()
        self.assertCalled(0, ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 12)
        self.assertCalled(1, [rollout(500)])

    def test_nobody(self) -> None:
        """Without observers the database is left alone."""
        watch = RolloutWatch(self.clock, self.read, [], [])
        watch.startService()
        self.clock.advance(PERIOD)
        self.assertEqual(self.queries, 0)

    def test_stop(self) -> None:
        """It ends with its service."""
        self.watch.startService()
        self.watch.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])


@on_each_database
class CurrentRolloutsTests(OrdersTestCase):
    """What the watch compares."""

    def test_current(self) -> None:
        """It sees each change of the current releases."""
        self.announce()
        self.write(lambda store: announce(store, [named(version=RELEASE + 1)], "off", 11.0))
        before = self.read(current_rollouts)
        self.assertEqual([each.release for each in before], [RELEASE + 1])
        self.do(hold, release=RELEASE + 1)
        self.assertNotEqual(self.read(current_rollouts), before)
