"""The calls that renew a report come before the time is over that it has promised."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.report.renewal import Renewal

HOUR = 3600.0


class RenewalTests(SynchronousTestCase):
    """A clock on which the calls are noted."""

    def calls(self, random: float, promised: float) -> list[float]:
        """Return the times of the calls."""
        clock, calls = Clock(), list[float]()
        Renewal(clock, lambda: random, lambda: calls.append(clock.seconds())).begin(promised)
        while pending := clock.getDelayedCalls():
            clock.advance(min(each.getTime() for each in pending) - clock.seconds())
        return calls

    def test_spread(self) -> None:
        """The first call comes 30 to 90 minutes early, and the second one 10 minutes."""
        for promised in (3 * HOUR, 24 * HOUR):
            for random, early in ((0.0, 0.5 * HOUR), (0.5, HOUR), (1.0, 1.5 * HOUR)):
                expected = [promised - early, promised - 600]
                self.assertEqual(self.calls(random, promised), expected)

    def test_begin(self) -> None:
        """The seconds until the first call are returned, and an earlier promise is forgotten."""
        clock = Clock()
        renewal = Renewal(clock, lambda: 0.5, lambda: None)
        self.assertEqual(renewal.begin(24 * HOUR), 23 * HOUR)
        self.assertEqual(renewal.begin(3 * HOUR), 2 * HOUR)
        times = [each.getTime() for each in clock.getDelayedCalls()]
        self.assertEqual(sorted(times), [2 * HOUR, 3 * HOUR - 600])

    def test_stop(self) -> None:
        """No call comes after the end, also not if it is ended twice."""
        clock = Clock()
        renewal = Renewal(clock, lambda: 0.5, lambda: None)
        renewal.begin(3 * HOUR)
        renewal.stop()
        renewal.stop()
        self.assertEqual(clock.getDelayedCalls(), [])
