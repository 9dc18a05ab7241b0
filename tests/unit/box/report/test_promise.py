"""Within which time a box promises its next report."""

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.report.promise import choose_promise
from opq_twisted.box.state.records import Attempt
from opq_twisted.report.codes import Waiting
from tests.helpers.box_fakes import NEW

NOW = 1_790_000_000.0
HOUR = 3600
DAY = 24 * HOUR


def ended(seconds_ago: float, outcome: str = "updated") -> Attempt:
    """Make an attempt that has ended."""
    end = NOW - seconds_ago
    return Attempt(NEW, started=end - 400, ended=end, outcome=outcome, reason="")


class PromiseTests(SynchronousTestCase):
    """Three hours while the release is on its way, otherwise a day."""

    def test_waiting(self) -> None:
        """A box that waits for its turn reports soon, and one that waits for anything else not."""
        for waiting in (None, *Waiting):
            with self.subTest(waiting=waiting):
                expected = 3 * HOUR if waiting is Waiting.TURN else DAY
                self.assertEqual(choose_promise(waiting, (), NOW), expected)

    def test_after_attempt(self) -> None:
        """For a day after the end of an attempt, whatever came of it, a box reports soon."""
        for outcome in ("updated", "returned", "failed"):
            with self.subTest(outcome=outcome):
                for age, expected in ((0, 3 * HOUR), (DAY - 1, 3 * HOUR), (DAY, DAY)):
                    self.assertEqual(choose_promise(None, (ended(age, outcome),), NOW), expected)

    def test_one_of_many(self) -> None:
        """One recent attempt is enough."""
        self.assertEqual(choose_promise(None, (ended(3 * DAY), ended(5)), NOW), 3 * HOUR)

    def test_clock_set(self) -> None:
        """An attempt that ended in the future, or before the clock was set, promises nothing."""
        self.assertEqual(choose_promise(None, (ended(-1), ended(NOW)), NOW), DAY)
