"""Takes the body of a response: bounded in size, and never waiting in silence for long."""

from collections.abc import Callable
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, ITransport
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IResponse

from opq_twisted.errors import DownloadFailed

#: Seconds without a byte after which a transfer counts as dead.
SILENCE = 60.0

#: Seconds after which a transfer is given up, however lively it is.
DURATION = 6 * 3600.0


def take(
    clock: IReactorTime,
    response: IResponse,
    receive: Callable[[bytes], object],
    limit: int,
    silence: float = SILENCE,
) -> Deferred[int]:
    """
    Hand the body to `receive`, piece by piece.

    An answer without a length ends when the connection does, cleanly or not (HTTP/1.0): whoever
    needs it whole has to look at what came.

    :param limit: bytes; a longer body is not taken.
    :param silence: seconds without a byte after which it is given up; after `DURATION` it is in any
        case.
    :returns: fires with the number of bytes; fails with `DownloadFailed`, or with what `receive`
        raised. Cancelling it closes the connection.
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
        receive: Callable[[bytes], object],
        limit: int,
        silence: float,
    ) -> None:
        self._receive = receive
        self._limit = limit
        self._silence = silence
        self._taken = 0
        self._alarm = clock.callLater(silence, self._silent)
        self._deadline = clock.callLater(DURATION, self._too_slow)
        self.done: Deferred[int] = Deferred(lambda _: self._hang_up())

    def dataReceived(self, data: bytes) -> None:
        if self.done.called:
            return
        self._alarm.reset(self._silence)
        self._taken += len(data)
        if self._taken > self._limit:
            self._give_up(DownloadFailed(f"The server sent more than {self._limit} bytes."))
            return
        try:
            self._receive(data)
        except Exception as error:
            self._give_up(error)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._cancel_alarms()
        if self.done.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(self._taken)
        else:
            self.done.errback(
                DownloadFailed(f"The connection broke after {self._taken} bytes. Try again.")
            )

    def _silent(self) -> None:
        self._give_up(DownloadFailed(f"The server sent nothing for {self._silence:.0f} seconds."))

    def _too_slow(self) -> None:
        self._give_up(DownloadFailed(f"The transfer took more than {DURATION / 3600:.0f} hours."))

    def _cancel_alarms(self) -> None:
        for alarm in (self._alarm, self._deadline):
            if alarm.active():
                alarm.cancel()

    def _give_up(self, error: Exception) -> None:
        # First the reason: to hang up may end the connection at once.
        self.done.errback(error)
        self._hang_up()

    def _hang_up(self) -> None:
        self._cancel_alarms()
        # A body's transport has no abortConnection.
        cast(ITransport, self.transport).loseConnection()
