"""Timers do not depend on the system clock."""

import time

from twisted.internet.selectreactor import SelectReactor
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.common.monotonic import use_monotonic_time


class TimersTests(SynchronousTestCase):
    """The time at which a timer is due."""

    def test_clock_set(self) -> None:
        """A change of the clock, forward or back, does not change it."""
        reactor = SelectReactor()
        self.addCleanup(reactor.removeAll)
        use_monotonic_time(reactor)
        for now in (0.0, 4e9):
            self.patch(time, "time", lambda now=now: now)
            fired: list[str] = []
            call = reactor.callLater(60, fired.append, "too early")
            reactor.runUntilCurrent()
            self.assertEqual(fired, [])
            self.assertLess(abs(call.getTime() - time.monotonic() - 60), 30)
            call.cancel()
