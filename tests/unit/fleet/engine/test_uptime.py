"""Tests of the time in which the server could hear its boxes."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.engine.uptime import Uptime

_TIMES = st.integers(0, 1000).map(float)
_OUTAGES = st.lists(st.tuples(_TIMES, _TIMES), max_size=6)


class TestUptime(SynchronousTestCase):
    """Outages do not count."""

    def test_between(self) -> None:
        """Only what lies in the period is lost."""
        uptime = Uptime([(10.0, 20.0), (15.0, 30.0), (90.0, 110.0)])
        self.assertEqual(uptime.outages, ((10.0, 30.0), (90.0, 110.0)))
        self.assertEqual(uptime.between(0.0, 100.0), 70.0)
        self.assertEqual(uptime.between(12.0, 18.0), 0.0)

    def test_before(self) -> None:
        """Going back in time skips the outages."""
        uptime = Uptime([(10.0, 20.0), (40.0, 100.0)])
        self.assertEqual(uptime.before(120.0, 10.0), 110.0)
        self.assertEqual(uptime.before(120.0, 30.0), 30.0)
        self.assertEqual(uptime.before(120.0, 45.0), 5.0)
        self.assertEqual(uptime.before(60.0, 10.0), 30.0)

    def test_settled(self) -> None:
        """Some time after the last outage is needed."""
        self.assertTrue(Uptime().is_settled(0.0, 10.0))
        self.assertFalse(Uptime([(0.0, 5.0)]).is_settled(14.0, 10.0))
        self.assertTrue(Uptime([(0.0, 5.0)]).is_settled(15.0, 10.0))

    @given(_OUTAGES, _TIMES, _TIMES)
    def test_inverse(self, outages: list[tuple[float, float]], end: float, seconds: float) -> None:
        """Between the time before and the end there are as many seconds as were asked for."""
        uptime = Uptime(outages)
        self.assertEqual(uptime.between(uptime.before(end, seconds), end), seconds)
