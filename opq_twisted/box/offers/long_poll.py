"""Waits at the update server until it has something new."""

from collections.abc import Callable

from twisted.application.internet import backoffPolicy
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from opq_twisted.box.network.update_server import UpdateServerClient
from opq_twisted.common.errors import NoWaiting, ServerFailed

#: Seconds that the server is asked to wait at most; ours waits no longer.
_LONGEST_WAIT = 300

#: Seconds more in which its answer may come, before the connection counts as dead.
_GRACE = 60.0

#: A server that says sooner than after so many seconds that nothing is new is not asked again.
_SHORTEST_WAIT = 10.0

#: Seconds after which a server whose connection broke is asked again. The pause doubles with each
#: failure that follows, up to the longest, and a random part of the spread comes on top.
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0


class LongPoll:
    """
    Remembers the entity tag of `/version`, and waits for another: one request after the other.

    The tag only says that it is worth to look. What the box may believe, others decide. The first
    tag is news as well: nobody knows whether the box has looked since that became the tag.

    A connection that breaks, as when the server is restarted, is made again soon, at a moment of
    each box's own.
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
        Prepare to wait.

        :param spread: seconds over which the boxes of a fleet come back to a server.
        :param random: gives numbers from 0 up to 1.
        """
        self._clock = clock
        self._server = server
        self._pause = backoffPolicy(
            _FIRST_PAUSE, _LONGEST_PAUSE, factor=2.0, jitter=lambda: spread * random()
        )
        self._tag: str | None = None
        #: Requests in a row that failed.
        self._failures = 0

    async def wait(self, seconds: float) -> bool:
        """
        Wait for another tag than the last one.

        :param seconds: how long at most.
        :returns: whether there is another. Otherwise the time is over, or it is not, and the server
            must not be asked again before that.
        :raises NoWaiting: when the server lets nobody wait.
        :raises ServerFailed: when it cannot be reached any more in that time.
        """
        over = self._clock.seconds() + seconds
        while True:
            began = self._clock.seconds()
            left = over - began
            wait = int(min(left, _LONGEST_WAIT))
            if wait < 1:
                return False
            known = self._tag
            try:
                self._tag = await self._server.poll_etag(known, wait, min(left, wait + _GRACE))
            except NoWaiting:
                raise
            except ServerFailed as error:
                await self._pause_after(error, over)
                continue
            self._failures = 0
            if self._tag != known:
                return True
            if self._clock.seconds() - began < _SHORTEST_WAIT:
                return False

    async def _pause_after(self, error: ServerFailed, over: float) -> None:
        """Let a pause pass after a failure; raise that if there is no time for another request."""
        pause = max(self._pause(self._failures), error.retry_after or 0.0)
        self._failures += 1
        if self._clock.seconds() + pause >= over:
            raise error
        self._log.debug("{error}", error=error)
        await deferLater(self._clock, pause)
