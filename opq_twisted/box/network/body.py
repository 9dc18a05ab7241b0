"""Reads the body of a response, with limits on its size, its pauses and its duration."""

from collections.abc import Callable
from typing import cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime, ITransport
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IResponse

from opq_twisted.common.errors import DownloadFailed, WrongContent

#: Receives a piece of the body. It may return a Deferred: the sender is paused until that fires.
Receive = Callable[[bytes], Deferred[None] | None]

#: Seconds without a byte after which a transfer fails.
IDLE_TIMEOUT = 60.0

#: Seconds after which a transfer fails even if bytes still arrive.
MAX_DURATION = 6 * 3600.0


class BrokenOff(DownloadFailed):
    """The connection broke or went silent; the bytes received so far can be kept."""


class TooLong(WrongContent):
    """The body is longer than the limit."""


def read_body(
    clock: IReactorTime,
    response: IResponse,
    receive: Receive,
    limit: int,
    idle_timeout: float = IDLE_TIMEOUT,
) -> Deferred[int]:
    """
    Hand the body to `receive`, piece by piece.

    A response without a length ends when the connection does, cleanly or not (HTTP/1.0): the caller
    has to check that the body is complete.

    :param limit: bytes; a longer body fails with `TooLong`.
    :param receive: the sender is paused until the returned Deferred fires; pieces that are on
        their way already may still arrive.
    :param idle_timeout: seconds without a byte after which the transfer fails.
    :returns: fires with the number of bytes; fails with `BrokenOff`, with `TooLong`, with another
        `DownloadFailed` after `MAX_DURATION`, or with the error that `receive` raised. Cancelling
        it closes the connection.
    """
    reader = _BodyReader(clock, receive, limit, idle_timeout)
    response.deliverBody(reader)
    return reader.done


def discard(clock: IReactorTime, response: IResponse) -> None:
    """Close the connection of a response without reading its body."""
    reader = _BodyReader(clock, lambda data: None, 0, IDLE_TIMEOUT)
    reader.done.addErrback(lambda _: None)
    response.deliverBody(reader)
    reader.done.cancel()
    # If the body was complete already, the connection is kept for another request.
    cast(ITransport, reader.transport).loseConnection()


class _BodyReader(Protocol):
    def __init__(
        self, clock: IReactorTime, receive: Receive, limit: int, idle_timeout: float
    ) -> None:
        self._clock = clock
        self._receive = receive
        self._limit = limit
        self._idle_timeout = idle_timeout
        self._received = 0
        self._paused = False
        self._idle_call = clock.callLater(idle_timeout, self._went_silent)
        self._duration_call = clock.callLater(MAX_DURATION, self._took_too_long)
        self.done: Deferred[int] = Deferred(lambda _: self._abort(CancelledError()))

    def dataReceived(self, data: bytes) -> None:
        if self.done.called:
            return
        self._idle_call.reset(self._idle_timeout)
        self._received += len(data)
        if self._received > self._limit:
            self._abort(TooLong(f"The server sent more than {self._limit} bytes."))
            return
        try:
            processed = self._receive(data)
        except Exception as error:
            self._abort(error)
            return
        if processed is not None:
            self._paused = True
            cast(IPushProducer, self.transport).pauseProducing()
            processed.addCallbacks(self._resume, self._fail)

    def _resume(self, _: object) -> None:
        self._paused = False
        if not self.done.called:
            self._idle_call.reset(self._idle_timeout)
            cast(IPushProducer, self.transport).resumeProducing()

    def _fail(self, failure: Failure) -> None:
        if not self.done.called:
            self._abort(failure)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._cancel_calls()
        if self.done.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(self._received)
        else:
            self.done.errback(
                BrokenOff(f"The connection broke after {self._received} bytes. Try again.")
            )

    def _went_silent(self) -> None:
        if self._paused:
            # The server is silent because this side has paused it.
            self._idle_call = self._clock.callLater(self._idle_timeout, self._went_silent)
            return
        self._abort(BrokenOff(f"The server sent nothing for {self._idle_timeout:.0f} seconds."))

    def _took_too_long(self) -> None:
        hours = MAX_DURATION / 3600
        self._abort(DownloadFailed(f"The transfer took more than {hours:.0f} hours."))

    def _cancel_calls(self) -> None:
        for call in (self._idle_call, self._duration_call):
            if call.active():
                call.cancel()

    def _abort(self, error: BaseException | Failure) -> None:
        # Report the error first: closing may call connectionLost at once.
        self.done.errback(error)
        self._cancel_calls()
        # The transport of a body has no abortConnection.
        cast(ITransport, self.transport).loseConnection()
