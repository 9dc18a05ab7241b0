"""The box reports when there is something new, and not more often, whatever the server answers."""

import errno
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.report.exchange import Exchange
from opq_twisted.box.report.identity import Identity
from opq_twisted.box.report.record import ReportRecord
from opq_twisted.box.report.scheduler import ReportScheduler
from opq_twisted.box.state.journal import Journal
from opq_twisted.box.state.records import Attempt
from opq_twisted.report.codes import Waiting
from tests.helpers.box_fakes import NEW, logged
from tests.helpers.failing_disk import counting
from tests.helpers.report_fakes import FakeClient, FakeComposer, attempt

HOUR = 3600.0
DAY = 24 * HOUR

#: Seconds, with the test's random number: until the first report, and the delay of the others.
FIRST, DELAY = 60 + 270.0, 15.0


class SenderCase(SynchronousTestCase):
    """A service whose server is the test; the random number is one half."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        identity = Identity(Ed25519PrivateKey.generate())
        self.composer = FakeComposer(identity.fingerprint)
        self.client = FakeClient()
        self.path = Path(self.mktemp())
        self.journal = Journal(self.path, "boot")
        self.composer.is_reported = self.is_reported
        self.record = ReportRecord(identity.fingerprint)
        self.published = 0
        self.sender = ReportScheduler(
            self.clock,
            Exchange(
                self.composer, identity, self.client, self.journal, self.record, self.clock.seconds
            ),
            self.composer,
            self.journal,
            300.0,
            lambda: 0.5,
            self.publish,
        )
        self.sender.startService()
        self.addCleanup(self.sender.stopService)

    def publish(self) -> None:
        self.published += 1

    def is_reported(self, uuid: str) -> bool:
        return any(each.reported for each in self.journal.entry.attempts if each.uuid == uuid)

    @property
    def sent(self) -> int:
        """The number of requests."""
        return len(self.client.bodies)

    def report_first(self) -> None:
        """Let the first report be accepted."""
        self.clock.advance(FIRST)
        self.clock.advance(DELAY)
        self.client.accept()

    def check(self) -> None:
        """A check ends; any report that follows is sent."""
        self.sender.checked()
        self.clock.advance(DELAY)

    def end_attempt(self, number: int) -> str:
        """An attempt ends; returns its id."""
        ended = attempt(number)
        recorded = Attempt(NEW, 1.0, 2.0, "updated", "It runs.", number, uuid=ended.id)
        self.journal.write(attempts=(*self.journal.entry.attempts, recorded))
        self.composer.change(attempts=(*self.composer.report.attempts, ended))
        self.sender.attempt_ended()
        return ended.id

    def begin_install(self) -> Deferred[None]:
        """An installation begins."""
        self.composer.change(attempts=(attempt(1, None, stage="installing"),))
        return Deferred.fromCoroutine(self.sender.before_install())


class WhenTests(SenderCase):
    """When the box reports."""

    def test_first(self) -> None:
        """The first report comes one to ten minutes after the start, and not after a check."""
        self.check()
        self.clock.advance(FIRST - DELAY - 1)
        self.assertEqual(self.sent, 0)
        self.clock.advance(1)
        self.assertEqual(self.sent, 0)
        self.clock.advance(DELAY)
        self.assertEqual(self.sent, 1)
        self.client.accept()
        self.assertEqual(self.published, 1)

    def test_unreported_before_the_first(self) -> None:
        """An outcome that the server does not know is reported after a check, also again."""
        self.journal.write(attempts=(Attempt(NEW, 1.0, 2.0, "updated", "", 1, uuid="a" * 32),))
        self.check()
        self.assertEqual(self.sent, 1)
        self.client.answer(503)
        self.sender.checked()
        # A random part of a pause, which is longer after more failures.
        self.clock.advance(30)
        self.assertEqual(self.sent, 2)

    def test_nothing_new(self) -> None:
        """After a check without news, nothing is sent for 23 hours, and then one report."""
        self.report_first()
        for _ in range(22):
            self.clock.advance(HOUR - DELAY)
            self.check()
        self.assertEqual(self.sent, 1)
        self.clock.advance(HOUR - DELAY)
        self.check()
        self.assertEqual(self.sent, 2)

    def test_something_new(self) -> None:
        """After a check, anything that is new is reported, after a random part of the spread."""
        self.report_first()
        self.composer.change(waiting=Waiting.TURN.value)
        self.sender.checked()
        self.clock.advance(DELAY - 1)
        self.assertEqual(self.sent, 1)
        self.clock.advance(1)
        self.assertEqual(self.client.reports[-1].waiting, "turn")

    def test_duration_is_not_new(self) -> None:
        """Only because an attempt takes longer, nothing is sent."""
        self.composer.change(attempts=(attempt(1, None),))
        self.report_first()
        self.composer.change(attempts=(attempt(1, None, took=500),))
        self.check()
        self.assertEqual(self.sent, 1)

    def test_attempt_ended(self) -> None:
        """The end of an attempt is reported without waiting for a check, also after a start."""
        ended = self.end_attempt(1)
        self.clock.advance(DELAY)
        self.client.accept(ended)
        self.assertTrue(self.journal.entry.attempts[0].reported)
        self.assertTrue(Journal(self.path, "boot").entry.attempts[0].reported)

    def test_acknowledged(self) -> None:
        """A report without the attempts that the server has stored is nothing new."""
        ended = self.end_attempt(1)
        self.report_first_with(ended)
        self.check()
        self.assertEqual(self.sent, 1)
        self.composer.change(waiting="click")
        self.check()
        self.assertEqual(self.client.reports[-1].attempts, ())

    def report_first_with(self, *done: str) -> None:
        """Let the first report be accepted, with these attempts."""
        self.clock.advance(FIRST)
        self.client.accept(*done)

    def test_spread(self) -> None:
        """A box without a spread reports at once."""
        self.sender = ReportScheduler(
            self.clock,
            self.sender._exchange,
            self.composer,
            self.journal,
            0.0,
            lambda: 0.5,
            self.publish,
        )
        self.sender.startService()
        self.addCleanup(self.sender.stopService)
        self.sender.attempt_ended()
        self.clock.advance(0)
        self.assertEqual(self.sent, 1)

    def test_coalesced(self) -> None:
        """However much happens meanwhile, one request follows the one that is under way."""
        self.report_first()
        for number in range(5):
            self.end_attempt(number)
        self.clock.advance(DELAY)
        self.assertEqual(self.sent, 2)
        for number in range(5, 10):
            self.end_attempt(number)
            self.clock.advance(DELAY)
        self.assertEqual(self.sent, 2)
        self.client.accept()
        self.clock.advance(DELAY)
        self.assertEqual((self.sent, len(self.client.reports[-1].attempts)), (3, 10))
        self.client.accept()
        self.clock.advance(HOUR)
        self.assertEqual(self.sent, 3)

    def test_changed_meanwhile(self) -> None:
        """What changes during a request is reported after the next check."""
        self.clock.advance(FIRST)
        self.clock.advance(DELAY)
        self.composer.change(waiting="held")
        self.client.accept()
        self.check()
        self.assertEqual(self.client.reports[-1].waiting, "held")

    def test_too_large(self) -> None:
        """The attempts that did not fit are reported after the next check."""
        self.report_first()
        ids = [self.end_attempt(number) for number in range(4)]
        self.clock.advance(DELAY)
        self.client.answer(413)
        self.client.accept(*ids[2:])
        self.composer.change(attempts=self.composer.report.attempts[:2])
        self.check()
        self.assertEqual([each.id for each in self.client.reports[-1].attempts], ids[:2])


class PromiseTests(SenderCase):
    """The box reports before the time is over that its last report has promised."""

    #: Seconds: a short promise, and until the report that keeps it, without its random delay.
    SOON, RENEWAL = 3 * HOUR, 2 * HOUR

    def promise(self, next_in: int | None) -> None:
        """Let the first report be accepted, with this promise."""
        self.composer.change(next_in=next_in)
        self.report_first()

    def assert_next_after(self, seconds: float) -> None:
        """Assert that a report is sent so long after now, and its random delay."""
        before = self.sent
        self.clock.advance(seconds)
        self.clock.advance(DELAY - 1)
        self.assertEqual(self.sent, before)
        self.clock.advance(1)
        self.assertEqual(self.sent, before + 1)

    def test_kept(self) -> None:
        """Without any check, the next report comes in time, and promises the next one."""
        self.promise(int(self.SOON))
        for sent in range(2, 10):
            self.assert_next_after(self.RENEWAL)
            self.assertEqual(self.sent, sent)
            self.client.accept()

    def test_day(self) -> None:
        """A report without a promise is one for a day."""
        self.promise(None)
        self.assert_next_after(DAY - HOUR)

    def test_one_retry(self) -> None:
        """A report that fails is sent once more before the time is over."""
        self.promise(int(self.SOON))
        accepted = self.clock.seconds()
        self.assert_next_after(self.RENEWAL)
        self.client.fail()
        self.clock.advance(accepted + self.SOON - 600 - self.clock.seconds())
        self.clock.advance(30)
        self.assertEqual(self.sent, 3)
        self.client.fail()
        self.clock.advance(DAY)
        self.assertEqual(self.sent, 3)
        self.sender.checked()
        self.clock.advance(HOUR)
        self.assertEqual(self.sent, 4)

    def test_reported_before(self) -> None:
        """A report in between, of something new, begins another promise."""
        self.promise(int(self.SOON))
        self.clock.advance(HOUR)
        self.composer.change(waiting=Waiting.TURN.value)
        self.check()
        self.client.accept()
        self.assert_next_after(self.RENEWAL)

    def test_longer(self) -> None:
        """A promise for a longer time is no news by itself, and holds from the next report on."""
        self.promise(int(self.SOON))
        self.composer.change(next_in=int(DAY))
        self.check()
        self.assertEqual(self.sent, 1)
        self.assert_next_after(self.RENEWAL - DELAY)
        self.assertEqual(self.client.reports[-1].next_in, DAY)
        self.client.accept()
        self.assert_next_after(DAY - HOUR)

    def test_refused(self) -> None:
        """A report that the server does not understand is not sent again to keep a promise."""
        self.promise(int(self.SOON))
        self.composer.change(waiting="held")
        self.check()
        self.client.answer(400)
        self.clock.advance(self.SOON)
        self.assertEqual(self.sent, 2)

    def test_stopped(self) -> None:
        """An agent that stops reports no more."""
        self.promise(int(self.SOON))
        self.sender.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class BeforeInstallTests(SenderCase):
    """The report before an installation."""

    def test_awaited(self) -> None:
        """The installation begins when the report has been answered."""
        reported = self.begin_install()
        self.assertEqual(self.client.reports[-1].attempts[0].stage, "installing")
        self.assertNoResult(reported)
        self.client.accept()
        self.successResultOf(reported)

    def test_not_long(self) -> None:
        """It begins after 10 seconds in any case; the report may still arrive."""
        reported = self.begin_install()
        self.clock.advance(9)
        self.assertNoResult(reported)
        self.clock.advance(1)
        self.successResultOf(reported)
        self.client.accept()

    def test_failures(self) -> None:
        """It begins whatever the server answers."""
        for status in (200, 201, 302, 400, 403, 500):
            with self.subTest(status=status):
                self.composer.change(release=status)
                reported = Deferred.fromCoroutine(self.sender.before_install())
                self.client.answer(status)
                self.successResultOf(reported)
        reported = Deferred.fromCoroutine(self.sender.before_install())
        self.client.fail()
        self.successResultOf(reported)

    def test_broken(self) -> None:
        """It begins even if no report can be composed."""
        self.composer.error = ZeroDivisionError("It has a fault.")
        self.successResultOf(self.begin_install())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_after_another(self) -> None:
        """A request that is under way is awaited first, and then another one."""
        self.clock.advance(FIRST)
        self.clock.advance(DELAY)
        reported = self.begin_install()
        self.client.accept()
        self.assertNoResult(reported)
        self.assertEqual(self.client.reports[-1].attempts[0].stage, "installing")
        self.client.accept()
        self.successResultOf(reported)

    def test_after_a_silent_one(self) -> None:
        """A request that gets no answer does not prevent the installation."""
        self.clock.advance(FIRST)
        self.clock.advance(DELAY)
        reported = self.begin_install()
        self.clock.advance(10)
        self.successResultOf(reported)

    def test_network_failed_before(self) -> None:
        """Earlier failures do not delay this report."""
        self.clock.advance(FIRST)
        self.clock.advance(DELAY)
        self.client.fail()
        self.begin_install()
        self.assertEqual(self.sent, 2)

    def test_unwanted(self) -> None:
        """A server that wants no reports now gets none, and the installation begins at once."""
        for status in (404, 503):
            self.clock.advance(DAY)
            self.sender.attempt_ended()
            self.clock.advance(DAY)
            before = self.sent
            self.client.answer(status, retry_after=60.0)
            self.successResultOf(self.begin_install())
            self.assertEqual(self.sent, before)

    def test_stopped(self) -> None:
        """When the agent stops, the request is cancelled, and the installation does not begin."""
        reported = self.begin_install()
        self.sender.stopService()
        self.assertTrue(self.client.is_cancelled)
        self.assertNoResult(reported)
        # The updater, which stops as well, cancels it.
        reported.cancel()
        self.failureResultOf(reported, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class AnswerTests(SenderCase):
    """What follows each answer."""

    def fail_first(self, status: int, **answer: Any) -> None:
        """Let the first report be answered so."""
        self.clock.advance(FIRST)
        self.clock.advance(DELAY)
        self.client.answer(status, **answer)

    def assert_silent(self, seconds: float) -> None:
        """Assert that no request follows, although a check ends every hour."""
        before, end = self.sent, self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            self.sender.checked()
            self.clock.advance(min(HOUR, end - self.clock.seconds()))
        self.assertEqual(self.sent, before)

    def test_disk_fails(self) -> None:
        """If the journal cannot be written, the attempt is reported again a day later."""
        ended = self.end_attempt(1)
        self.clock.advance(DELAY)
        self.composer.change(attempts=())
        with counting(1):
            self.client.accept(ended)
        self.assertFalse(self.journal.entry.attempts[0].reported)

    def test_no_fleet(self) -> None:
        """A server without a fleet is asked once a day, whatever happens on the box."""
        for status in (404, 405):
            with self.subTest(status=status):
                self.setUp()
                self.fail_first(status)
                for hour in range(4 * 24):
                    self.end_attempt(hour)
                    self.check()
                    self.clock.advance(HOUR - DELAY)
                    if self.client.is_asked:
                        self.client.answer(status)
                self.assertEqual(self.sent, 4)

    def test_not_understood(self) -> None:
        """A report that the server does not understand is sent again if it changes, or in a day."""
        self.fail_first(400)
        self.assert_silent(DAY - HOUR)
        self.composer.change(waiting="held")
        self.sender.checked()
        self.clock.advance(HOUR)
        self.assertEqual(self.sent, 2)
        self.client.answer(400)
        self.clock.advance(DAY)
        self.sender.checked()
        self.clock.advance(HOUR)
        self.assertEqual(self.sent, 3)

    def test_failures(self) -> None:
        """After a failure the next check sends the report, after a random part of more time."""
        self.fail_first(500)
        self.clock.advance(DAY)
        self.assertEqual(self.sent, 1)
        for number, delay in enumerate((30.0, 60.0, 120.0, 240.0, 480.0, 900.0, 900.0), 2):
            self.sender.checked()
            self.clock.advance(delay - 1)
            self.assertEqual(self.sent, number - 1)
            self.clock.advance(1)
            self.assertEqual(self.sent, number)
            self.client.fail()

    def test_recovered(self) -> None:
        """A report that is accepted ends the longer delays."""
        self.fail_first(500)
        self.sender.checked()
        self.clock.advance(30)
        self.client.accept()
        self.composer.change(waiting="held")
        self.check()
        self.assertEqual(self.sent, 3)

    def test_retry_after(self) -> None:
        """A server that is busy gets no report for as long as it says, and one later."""
        self.fail_first(503, retry_after=DAY)
        self.assert_silent(DAY)
        self.clock.advance(30)
        self.assertEqual(self.sent, 2)
        self.client.accept()
        self.assert_silent(HOUR)

    def test_unknown_key(self) -> None:
        """A server that does not know the key gets it in a second request."""
        self.fail_first(401)
        self.assertIsNotNone(self.client.reports[-1].pubkey)
        self.client.accept()
        self.assertEqual(self.sent, 2)
        self.assert_silent(HOUR)

    def test_hostile(self) -> None:
        """A server cannot make the box send in a loop, nor fill its journal or its log."""
        said = logged(self)
        self.clock.advance(FIRST)
        self.clock.advance(DELAY)
        content = self.path.read_bytes() if self.path.exists() else b""
        statuses = (200, 301, 401, 403, 409, 413, 429, 500, 503)
        for hour in range(100):
            requests = self.sent
            while self.client.is_asked:
                self.client.answer_raw(
                    statuses[(hour + self.sent) % len(statuses)], b'{"seq": 9, "done": 7}'
                )
            self.assertLess(self.sent - requests, 6)
            self.sender.checked()
            self.clock.advance(HOUR)
        self.assertEqual(self.path.read_bytes() if self.path.exists() else b"", content)
        self.assertLessEqual(len([line for line in said if "report" in line]), 100)

    def test_one_line(self) -> None:
        """A server that never accepts a report fills no log: the same sentence is logged once."""
        said = logged(self)
        self.fail_first(403)
        for _ in range(24):
            self.sender.checked()
            self.clock.advance(HOUR)
            self.client.answer(403)
        [line] = [line for line in said if "not accepted" in line]
        self.assertIn(self.composer.report.key, line)

    def test_broken(self) -> None:
        """An unforeseen error is logged once with its traceback, and the next check tries again."""
        self.composer.error = ZeroDivisionError("It has a fault.")
        for _ in range(5):
            self.sender.attempt_ended()
            self.clock.advance(HOUR)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.composer.error = None
        self.sender.attempt_ended()
        self.clock.advance(HOUR)
        self.assertEqual(self.sent, 1)

    def test_disk_full(self) -> None:
        """An error of the disk while the report is composed is no reason to stop reporting."""
        self.composer.error = OSError(errno.EIO, "Input/output error")
        self.clock.advance(FIRST + DELAY)
        self.flushLoggedErrors(OSError)
        self.composer.error = None
        self.sender.checked()
        self.clock.advance(HOUR)
        self.assertEqual(self.sent, 1)


class StopTests(SenderCase):
    """The end of the service."""

    def test_request(self) -> None:
        """A request is cancelled, and nothing follows."""
        self.clock.advance(FIRST)
        self.clock.advance(DELAY)
        self.sender.attempt_ended()
        self.sender.stopService()
        self.assertTrue(self.client.is_cancelled)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_idle(self) -> None:
        """Calls that wait are cancelled, and later triggers do nothing."""
        self.sender.attempt_ended()
        self.sender.stopService()
        self.sender.attempt_ended()
        self.sender.checked()
        self.successResultOf(self.begin_install())
        self.assertEqual((self.sent, self.clock.getDelayedCalls()), (0, []))
