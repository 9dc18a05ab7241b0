"""Waits until the version on the update server changes (long polling)."""

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from opq_twisted.box.network.update_server import UpdateServerClient
from opq_twisted.common.backoff import doubling
from opq_twisted.common.errors import NoWaiting, ServerFailed

#: Seconds that the server is asked to wait at most; opq-update-server never waits longer.
_MAX_WAIT = 300

#: Seconds that the response may come after the end of the wait; then the connection counts as dead.
_GRACE = 60.0

#: A server that responds without a change sooner than this many seconds is not asked again.
_MIN_WAIT = 10.0

#: Seconds until the request is repeated after a broken connection. The delay doubles with each
#: further failure, up to the maximum, and a random part of `spread` is added.
_MIN_RETRY_DELAY, _MAX_RETRY_DELAY = 5.0, 300.0


class LongPoll:
    """
    Remembers the entity tag of `/version`, and waits until it changes, with repeated requests.

    A change only means that a check is worthwhile; the tag is not trusted. The first tag counts as
    a change, because the version may be newer than the box's last check.

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
        self._spread = spread
        self._random = random
        self._tag: str | None = None
        #: The number of failed requests in a row.
        self._failures = 0

    async def wait(self, seconds: float) -> bool:
        """
        Wait until the tag changes.

        :param seconds: the maximum time.
        :returns: True if the tag has changed. False if the time is over. It is also False if the
            server responds at once; then do not ask it again before the time is over.
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
        delay = doubling(_MIN_RETRY_DELAY, _MAX_RETRY_DELAY, self._failures)
        delay = max(delay + self._spread * self._random(), error.retry_after or 0.0)
        self._failures += 1
        if self._clock.seconds() + delay >= deadline:
            raise error
        self._log.debug("{error}", error=error)
        await deferLater(self._clock, delay)
