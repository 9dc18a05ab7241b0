"""Waits until the update server has another version (long polling)."""

from collections.abc import Callable

from twisted.application.internet import backoffPolicy
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from opq_twisted.box.network.update_server import UpdateServerClient
from opq_twisted.common.errors import NoWaiting, ServerFailed

#: Seconds that the server is asked to wait at most; opq-update-server never waits longer.
_MAX_WAIT = 300

#: Seconds after that in which the response may arrive, before the connection counts as dead.
_GRACE = 60.0

#: A server that responds without a change sooner than this many seconds is not asked again.
_MIN_WAIT = 10.0

#: Seconds until the request is repeated after a broken connection. The delay doubles with each
#: further failure, up to the maximum, and a random part of `spread` is added.
_MIN_RETRY_DELAY, _MAX_RETRY_DELAY = 5.0, 300.0


class LongPoll:
    """
    Remembers the entity tag of `/version`, and waits for another, one request after the other.

    Another tag only means that a check is worthwhile; it is not trusted. The first tag counts as
    another, because the box may not have checked since the server has had it.

    If the connection breaks, for example because the server restarts, each box reconnects after a
    random delay of its own.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        server: UpdateServerClient,
        spread: float,
        random: Callable[[], float],
    ) -> None:
        """
        :param spread: seconds over which the boxes of a fleet distribute their new connections.
        :param random: gives numbers from 0 to 1.
        """
        self._clock = clock
        self._server = server
        self._retry_delay = backoffPolicy(
            _MIN_RETRY_DELAY, _MAX_RETRY_DELAY, factor=2.0, jitter=lambda: spread * random()
        )
        self._tag: str | None = None
        #: The number of failed requests in a row.
        self._failures = 0

    async def wait(self, seconds: float) -> bool:
        """
        Wait for another tag than the last one.

        :param seconds: the maximum time.
        :returns: True if there is another tag. False if the time is over, or earlier if the server
            does not wait; then it must not be asked again before the time is over.
        :raises NoWaiting: if the server does not support waiting.
        :raises ServerFailed: if it cannot be reached again within the time.
        """
        deadline = self._clock.seconds() + seconds
        while True:
            started = self._clock.seconds()
            left = deadline - started
            wait = int(min(left, _MAX_WAIT))
            if wait < 1:
                return False
            known = self._tag
            try:
                self._tag = await self._server.poll_etag(known, wait, min(left, wait + _GRACE))
            except NoWaiting:
                raise
            except ServerFailed as error:
                await self._delay_after(error, deadline)
                continue
            self._failures = 0
            if self._tag != known:
                return True
            if self._clock.seconds() - started < _MIN_WAIT:
                return False

    async def _delay_after(self, error: ServerFailed, deadline: float) -> None:
        """Wait before another request; raise the error if there is no time for one."""
        delay = max(self._retry_delay(self._failures), error.retry_after or 0.0)
        self._failures += 1
        if self._clock.seconds() + delay >= deadline:
            raise error
        self._log.debug("{error}", error=error)
        await deferLater(self._clock, delay)
