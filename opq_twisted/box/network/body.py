"""Takes the body of a response: bounded in size, and never waiting in silence for long."""

from collections.abc import Callable
from typing import cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime, ITransport
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IResponse

from opq_twisted.common.errors import DownloadFailed

#: Takes a piece of the body; returns a Deferred to be waited for before more is asked for.
Receive = Callable[[bytes], Deferred[None] | None]

#: Seconds without a byte after which a transfer counts as dead.
SILENCE = 60.0

#: Seconds after which a transfer is given up, however lively it is.
DURATION = 6 * 3600.0


class BrokenOff(DownloadFailed):
    """The connection broke or fell silent: what came before is good, and more may come."""


class TooLong(DownloadFailed):
    """There was more than may be taken."""


def take(
    clock: IReactorTime,
    response: IResponse,
    receive: Receive,
    limit: int,
    silence: float = SILENCE,
) -> Deferred[int]:
    """
    Hand the body to `receive`, piece by piece.

    An answer without a length ends when the connection does, cleanly or not (HTTP/1.0): whoever
    needs it whole has to look at what came.

    :param limit: bytes; a longer body is not taken.
    :param receive: while a Deferred that it returned has not fired, the sender is asked to pause;
        some pieces may be under way already.
    :param silence: seconds without a byte after which it is given up; after `DURATION` it is in any
        case.
    :returns: fires with the number of bytes; fails with `BrokenOff`, `TooLong`, another
        `DownloadFailed` after `DURATION`, or with what `receive` raised. Cancelling it closes the
        connection.
    """
    taker = _Taker(clock, receive, limit, silence)
    response.deliverBody(taker)
    return taker.done


def hang_up(clock: IReactorTime, response: IResponse) -> None:
    """Close the connection of an answer whose body is of no use."""
    body = take(clock, response, lambda data: None, limit=0)
    body.addErrback(lambda _: None)
    body.cancel()


class _Taker(Protocol):
    def __init__(
        self,
        clock: IReactorTime,
        receive: Receive,
        limit: int,
        silence: float,
    ) -> None:
        self._clock = clock
        self._receive = receive
        self._limit = limit
        self._silence = silence
        self._taken = 0
        self._waiting = False
        self._alarm = clock.callLater(silence, self._silent)
        self._deadline = clock.callLater(DURATION, self._too_slow)
        self.done: Deferred[int] = Deferred(lambda _: self._give_up(CancelledError()))

    def dataReceived(self, data: bytes) -> None:
        if self.done.called:
            return
        self._alarm.reset(self._silence)
        self._taken += len(data)
        if self._taken > self._limit:
            self._give_up(TooLong(f"The server sent more than {self._limit} bytes."))
            return
        try:
            received = self._receive(data)
        except Exception as error:
            self._give_up(error)
        else:
            if received is not None:
                self._wait_for(received)

    def _wait_for(self, received: Deferred[None]) -> None:
        self._waiting = True
        cast(IPushProducer, self.transport).pauseProducing()
        received.addCallbacks(self._go_on, self._fail)

    def _go_on(self, _: object) -> None:
        self._waiting = False
        if not self.done.called:
            self._alarm.reset(self._silence)
            cast(IPushProducer, self.transport).resumeProducing()

    def _fail(self, failure: Failure) -> None:
        if not self.done.called:
            self._give_up(failure)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._cancel_alarms()
        if self.done.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(self._taken)
        else:
            self.done.errback(
                BrokenOff(f"The connection broke after {self._taken} bytes. Try again.")
            )

    def _silent(self) -> None:
        if self._waiting:
            # The silence is ours.
            self._alarm = self._clock.callLater(self._silence, self._silent)
            return
        self._give_up(BrokenOff(f"The server sent nothing for {self._silence:.0f} seconds."))

    def _too_slow(self) -> None:
        self._give_up(DownloadFailed(f"The transfer took more than {DURATION / 3600:.0f} hours."))

    def _cancel_alarms(self) -> None:
        for alarm in (self._alarm, self._deadline):
            if alarm.active():
                alarm.cancel()

    def _give_up(self, error: BaseException | Failure) -> None:
        # First the reason: to hang up may end the connection at once.
        self.done.errback(error)
        self._hang_up()

    def _hang_up(self) -> None:
        self._cancel_alarms()
        # A body's transport has no abortConnection.
        cast(ITransport, self.transport).loseConnection()
