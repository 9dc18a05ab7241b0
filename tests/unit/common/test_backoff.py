"""The delay before an attempt is repeated grows to its maximum."""

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.common.backoff import doubling


class DoublingTests(SynchronousTestCase):
    """Exponential backoff."""

    def test_doubles(self) -> None:
        """Each failure doubles the delay, up to the maximum."""
        delays = [doubling(5.0, 30.0, failures) for failures in range(5)]
        self.assertEqual(delays, [5.0, 10.0, 20.0, 30.0, 30.0])

    def test_maximum_is_less(self) -> None:
        """A maximum below the first delay holds from the first failure on."""
        self.assertEqual(doubling(60.0, 10.0, 0), 10.0)

    def test_many_failures(self) -> None:
        """A server that is gone for years causes no overflow."""
        self.assertEqual(doubling(5.0, 300.0, 10**6), 300.0)
