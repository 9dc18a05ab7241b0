"""Each network may send so many reports at once, and a few more each second."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.reports import rate_limit as module
from opq_twisted.fleet.reports.rate_limit import BURST, MAX_NETWORKS, RATE, RateLimit


class RateLimitTests(SynchronousTestCase):
    """The buckets of networks."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1e6)
        self.rate_limit = RateLimit(self.clock)

    def sent(self, network: str, count: int) -> int:
        """Try to send so many reports; returns how many are allowed."""
        return sum(self.rate_limit.take_token(network) for _ in range(count))

    def test_burst(self) -> None:
        """All boxes of an office can report at once, up to a limit that is the network's own."""
        self.assertEqual(self.sent("192.0.2.7", 3 * BURST), BURST)
        self.assertEqual(self.sent("192.0.2.8", 1), 1)

    def test_refill(self) -> None:
        """Then so many a second are allowed, whatever was refused meanwhile."""
        self.sent("192.0.2.7", 10 * BURST)
        self.clock.advance(10 / RATE)
        self.assertEqual(self.sent("192.0.2.7", BURST), 10)

    def test_full_again(self) -> None:
        """A bucket does not grow over its size."""
        self.sent("192.0.2.7", BURST)
        self.clock.advance(1e5)
        self.assertEqual(self.sent("192.0.2.7", 3 * BURST), BURST)

    def test_forgotten(self) -> None:
        """A network is not remembered for longer than its bucket needs."""
        for number in range(100):
            self.sent(f"192.0.2.{number}", 1)
        self.clock.advance(1 / RATE)
        for _ in range(100):
            self.sent("198.51.100.1", 1)
        self.assertEqual(len(self.rate_limit), 1)

    def test_bounded(self) -> None:
        """There is a limit of networks; the most recent ones are remembered."""
        self.patch(module, "MAX_NETWORKS", 100)
        self.sent("192.0.2.7", BURST)
        for number in range(1000):
            self.sent(f"2001:db8:0:{number:x}::/64", BURST)
            self.assertLessEqual(len(self.rate_limit), 100)
        self.assertEqual(self.sent("2001:db8:0:3e7::/64", 1), 0)
        self.assertGreater(MAX_NETWORKS, 1000)
