"""A heartbeat repeats a job, even if it fails."""

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.common.heartbeat import Heartbeat


class HeartbeatTests(SynchronousTestCase):
    """A job that the test ends, and a pause of 30 seconds."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.runs: list[Deferred[None]] = []
        self.heartbeat = Heartbeat(self.clock, self.job, lambda: 30.0)

    def tearDown(self) -> None:
        if self.runs and not self.runs[-1].called:
            self.runs[-1].callback(None)

    async def job(self) -> None:
        self.runs.append(Deferred())
        await self.runs[-1]

    def test_repeats(self) -> None:
        """The pause is between the end of a run and the next run, also after a failure."""
        self.heartbeat.startService()
        self.clock.pump([29, 1, 100])
        self.assertEqual(len(self.runs), 1)
        self.runs[0].errback(ValueError("It failed."))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.clock.pump([29, 1])
        self.assertEqual(len(self.runs), 2)

    def test_run_now(self) -> None:
        """`run_now` runs the job at once, or once more after the current run."""
        self.heartbeat.run_now()
        self.heartbeat.startService()
        self.clock.advance(0)
        self.assertEqual(len(self.runs), 1)
        self.heartbeat.run_now()
        self.heartbeat.run_now()
        for _ in range(2):
            self.runs[-1].callback(None)
            self.clock.advance(0)
        self.assertEqual(len(self.runs), 2)

    def test_stopped(self) -> None:
        """No run begins after the end of the service."""
        self.heartbeat.startService()
        self.clock.advance(30)
        self.heartbeat.stopService()
        self.runs[0].callback(None)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.heartbeat.startService()
        self.heartbeat.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
