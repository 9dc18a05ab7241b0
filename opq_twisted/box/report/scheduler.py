"""Decides when the box reports to the update server."""

from collections.abc import Callable
from contextlib import suppress

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from opq_twisted.box.report.answers import Result, Verdict
from opq_twisted.box.report.content import LastContent, content_of
from opq_twisted.box.report.delay import Delay
from opq_twisted.box.report.exchange import Exchange, ReportComposer
from opq_twisted.box.report.renewal import Renewal
from opq_twisted.box.state.journal import Journal
from opq_twisted.report.document import DEFAULT_NEXT_IN, Report

#: Seconds that an installation waits for its report.
_INSTALL_TIMEOUT = 10.0

#: Seconds: the first report comes so long after the agent's start, and at most so much later.
_FIRST_DELAY, _FIRST_SPREAD = 60.0, 540.0

#: Seconds after which the box asks a server again that takes no reports.
_DAY = 24 * 3600.0


class ReportScheduler(Service):
    """
    Reports to the update server, with one request at a time.

    A box that has nothing new to say reports before the time is over that its last report has
    promised: usually once a day. The journal is the only queue: a report that was not accepted is
    composed anew after the next check. Nothing depends on these reports, so that no error leaves
    this class.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        exchange: Exchange,
        composer: ReportComposer,
        journal: Journal,
        spread: float,
        random: Callable[[], float],
        publish: Callable[[], None],
    ) -> None:
        """
        :param spread: the maximum random delay in seconds.
        :param random: gives numbers from 0 up to 1.
        :param publish: called after each answer.
        """
        self._clock = clock
        self._exchange = exchange
        self._composer = composer
        self._journal = journal
        self._random = random
        self._publish = publish
        self._delay = Delay(clock, spread, random)
        self._last = LastContent()
        self._renewal = Renewal(clock, random, self._schedule)
        #: The call that starts the service's own first report; None after it.
        self._first: IDelayedCall | None = None
        #: The call that sends the next report.
        self._due: IDelayedCall | None = None
        self._sending: Deferred[None] | None = None
        #: Whether there may be something new since the report that is being sent.
        self._again = False
        #: Those who wait for the next report.
        self._waiters: list[Deferred[None]] = []
        #: The last sentence in the log about a failure.
        self._logged = ""

    def startService(self) -> None:
        """Report some minutes after the start: a power cut starts all boxes of a town at once."""
        super().startService()
        delay = _FIRST_DELAY + _FIRST_SPREAD * self._random()
        self._first = self._clock.callLater(delay, self._report_first)

    def stopService(self) -> Deferred[None] | None:
        """Cancel the request; an installation that waits for it does not go on."""
        super().stopService()
        self._renewal.stop()
        for call in (self._first, self._due):
            if call is not None and call.active():
                call.cancel()
        sending = self._sending
        if sending is not None:
            sending.cancel()
        return sending

    def checked(self) -> None:
        """
        Report soon if there is something new: a check has ended.

        Before the first report only an outcome counts that the server does not know: a report of
        it has failed, or the agent ended before it.
        """
        if self._first is None or self._journal.has_unreported:
            self._schedule()

    def attempt_ended(self) -> None:
        """Report soon how an attempt has ended."""
        self._schedule()

    async def before_install(self) -> None:
        """
        Report that a release is about to be installed, and wait for the answer, but not for long.

        :raises CancelledError: if it is cancelled.
        """
        if not self.running or not self._delay.is_over:
            return
        reported: Deferred[None] = Deferred()
        self._waiters.append(reported)
        if self._sending is None:
            self._send()
        with suppress(TimeoutError):
            await reported.addTimeout(_INSTALL_TIMEOUT, self._clock)

    def _report_first(self) -> None:
        self._first = None
        self._schedule()

    def _schedule(self) -> None:
        """Send a report after a random delay, or when the server wants reports again."""
        if not self.running or self._due is not None:
            return
        self._due = self._clock.callLater(self._delay.choose(), self._send_due)

    def _send_due(self) -> None:
        self._due = None
        if self._sending is None:
            self._send()
        else:
            self._again = True

    def _send(self) -> None:
        waiters, self._waiters = self._waiters, []
        sending = Deferred.fromCoroutine(self._report_if_needed())
        sending.addBoth(lambda _: self._end(waiters))
        if not sending.called:
            self._sending = sending

    def _end(self, waiters: list[Deferred[None]]) -> None:
        self._sending = None
        if not self.running:
            return
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(None)
        if self._waiters:
            self._send()
        elif self._again:
            self._again = False
            self._schedule()

    async def _report_if_needed(self) -> None:
        try:
            if self._last.is_to_be_sent(self._content(), self._clock.seconds()):
                self._handle(await self._exchange.send())
                self._publish()
        except CancelledError:
            raise
        except Exception as error:
            self._delay.fail()
            # The log of a box must not fill up with the same traceback.
            if self._is_new(repr(error)):
                self._log.failure("The report failed")

    def _content(self) -> Report:
        return content_of(self._composer.compose(0))

    def _handle(self, result: Result) -> None:
        if result.verdict is Verdict.ACCEPTED:
            self._accept(result)
            return
        if self._is_new(result.sentence):
            self._log.info("The report was not accepted: {why}", why=result.sentence)
        self._delay.fail(_DAY if result.verdict is Verdict.NO_FLEET else result.retry_after)
        if result.verdict is Verdict.REFUSED:
            self._last.refuse(content_of(result.report), self._clock.seconds())

    def _accept(self, result: Result) -> None:
        self._delay.succeed()
        self._logged = ""
        # Something may have happened during the request, or the report has not all attempts.
        is_current = self._content() == content_of(result.report)
        try:
            self._journal.acknowledge(result.done, result.report.seq)
        except OSError as error:
            # The attempts are reported again, and the server has each of them once.
            self._log.error("The journal cannot record the report: {error}", error=error)
        promised = result.report.next_in or DEFAULT_NEXT_IN
        renew_at = self._clock.seconds() + self._renewal.begin(promised)
        self._last.accept(self._content() if is_current else None, renew_at)

    def _is_new(self, sentence: str) -> bool:
        """Whether a sentence is another than the last one in the log."""
        is_new, self._logged = sentence != self._logged, sentence
        return is_new
