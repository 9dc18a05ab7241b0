"""The last count of the fleet, and when it is counted again."""

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.control.answers import Content
from opq_twisted.fleet.store.errors import StoreUnavailable
from opq_twisted.fleet.web.current_overview import CurrentOverview
from tests.helpers.http_exchange import ReactorClock


class CurrentOverviewTests(SynchronousTestCase):
    """The test decides when a count ends."""

    def setUp(self) -> None:
        self.clock = ReactorClock()
        self.counts: list[Deferred[Content]] = []
        self.is_followed = False
        self.current = CurrentOverview(self.clock, self.count, lambda: self.is_followed)
        self.current.startService()
        self.clock.turn()
        self.addCleanup(self.end)

    def end(self) -> None:
        """Let all counts end."""
        self.current.stopService()
        for each in self.counts:
            if not each.called:
                each.callback({})

    def count(self) -> Deferred[Content]:
        self.counts.append(Deferred())
        return self.counts[-1]

    def get(self) -> "Deferred[Content]":
        return Deferred.fromCoroutine(self.current.get())

    def answer(self, boxes: int) -> None:
        self.counts[-1].callback({"boxes": boxes})

    def assert_counts(self, number: int, after: float) -> None:
        """Assert how often was counted before a time is over, and then."""
        self.clock.advance(after - 1)
        self.assertEqual(len(self.counts), number - 1)
        self.clock.advance(1.1)
        self.assertEqual(len(self.counts), number)

    def test_first(self) -> None:
        """Only who comes before the first count waits for one."""
        asked = self.get()
        self.assertNoResult(asked)
        self.answer(7)
        self.answer(8)
        self.assertEqual(self.successResultOf(asked), {"boxes": 8, "problem": None})
        self.assertEqual(self.successResultOf(self.get())["boxes"], 8)

    def test_pauses(self) -> None:
        """It is counted each minute, and every five seconds while somebody looks."""
        self.answer(1)
        self.assert_counts(2, after=60)
        self.answer(2)
        self.assertEqual(self.successResultOf(self.get())["boxes"], 2)
        self.clock.turn()
        self.answer(3)
        self.assertEqual(len(self.counts), 3)
        self.assert_counts(4, after=5)
        self.answer(4)
        self.clock.advance(60)
        self.answer(5)
        self.assert_counts(6, after=60)

    def test_followed(self) -> None:
        """An open stream is somebody who looks."""
        self.is_followed = True
        self.answer(1)
        for number in range(2, 30):
            self.assert_counts(number, after=5)
            self.answer(number)

    def test_slow(self) -> None:
        """A count that takes long is not made all the time."""
        self.is_followed = True
        self.clock.advance(3)
        self.answer(1)
        self.assert_counts(2, after=30)

    def test_action(self) -> None:
        """Who has changed something gets a count that began after that."""
        counted = self.current.recount()
        self.answer(1)
        self.assertNoResult(counted)
        self.answer(2)
        self.successResultOf(counted)
        self.assertEqual(self.successResultOf(self.get())["boxes"], 2)

    def test_decision(self) -> None:
        """A decision of the engine is counted at once, though nobody has looked for long."""
        self.answer(1)
        self.current.count_soon()
        self.clock.turn()
        self.assertEqual(len(self.counts), 2)
        self.current.count_soon()
        self.clock.turn()
        self.assertEqual(len(self.counts), 2)
        self.answer(2)
        self.clock.turn()
        self.assertEqual(len(self.counts), 3)

    def test_slow_action(self) -> None:
        """Who has changed something waits for a slow count, or one that fails, for two seconds."""
        self.answer(1)
        counted = self.current.recount()
        self.clock.advance(2)
        self.successResultOf(counted)
        failed = self.current.recount()
        self.answer(2)
        self.counts[-1].errback(StoreUnavailable("The disk is full."))
        self.successResultOf(failed)
        self.assertEqual(self.successResultOf(self.get())["boxes"], 2)

    def test_away(self) -> None:
        """While the database cannot be used, the last count stays, with the reason."""
        asked = self.get()
        self.counts[-1].errback(StoreUnavailable("The disk is full."))
        self.counts[-1].errback(StoreUnavailable("The disk is full."))
        self.failureResultOf(asked, StoreUnavailable)
        self.clock.advance(6)
        self.answer(1)
        self.clock.advance(6)
        self.counts[-1].errback(StoreUnavailable("The disk is full."))
        self.assertEqual(
            self.successResultOf(self.get()), {"boxes": 1, "problem": "The disk is full."}
        )
        self.clock.advance(6)
        self.answer(2)
        self.assertIsNone(self.successResultOf(self.get())["problem"])

    def test_stop(self) -> None:
        """The service has stopped when its last count has ended."""
        stopped = self.current.stopService()
        self.assertNoResult(stopped)
        self.answer(1)
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])
