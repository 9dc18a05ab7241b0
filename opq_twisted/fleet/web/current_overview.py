"""Keeps the last count of the fleet, so that no page waits for a new one."""

from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from opq_twisted.common.heartbeat import Heartbeat
from opq_twisted.fleet.control.answers import Content
from opq_twisted.fleet.store.errors import StoreUnavailable

#: Seconds from the end of one count to the next, while somebody watches the page.
_WATCHED = 5.0

#: The same while nobody watches it.
_UNWATCHED = 60.0

#: After a count of n seconds, the next one begins n times this later: with a million boxes a count
#: is slow.
_PAUSE_FACTOR = 10

#: The answer to an action waits at most so many seconds for a count.
_RECOUNT_TIMEOUT = 2.0

#: After a request for the overview, the page counts as watched for so many seconds.
_WATCHED_FOR = 60.0


class CurrentOverview(Service):
    """
    Counts the fleet every few seconds while somebody watches the page, otherwise every minute.

    While the database cannot be used, the last count stays, with the reason in `problem`.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        count: Callable[[], Deferred[Content]],
        is_followed: Callable[[], bool],
    ) -> None:
        """
        :param count: counts the fleet; fails with `StoreUnavailable` if that is impossible.
        :param is_followed: whether somebody follows the events of the page.
        """
        self._clock = clock
        self._count = count
        self._is_followed = is_followed
        self._lock = DeferredLock()
        self._heartbeat = Heartbeat(clock, self._try_to_count, self._pause)
        self._content: Content | None = None
        self._watched_at = float("-inf")
        self._took = 0.0
        #: Called with each new count.
        self.observers: list[Callable[[Content], object]] = []

    def startService(self) -> None:
        """Count now and then regularly."""
        super().startService()
        self._heartbeat.startService()
        self._heartbeat.run_now()

    def stopService(self) -> Deferred[None]:
        """Stop counting; the Deferred fires when the current count has ended."""
        super().stopService()
        self._heartbeat.stopService()
        return self._lock.run(lambda: None)

    async def get(self) -> Content:
        """
        Return the last count; before the first one has ended, wait for it.

        :raises StoreUnavailable: if there was no successful count yet.
        """
        was_watched = self._is_watched()
        self._watched_at = self._clock.seconds()
        if self._content is None:
            return await self.count_now()
        if not was_watched:
            self._heartbeat.run_now()
        return self._content

    def count_soon(self) -> None:
        """Count again after the current count has ended, because something has changed."""
        self._heartbeat.run_now()

    def recount(self) -> Deferred[None]:
        """
        Count again, because something has changed.

        :returns: fires when the count has ended or failed, or after `_RECOUNT_TIMEOUT`.
        """
        done: Deferred[None] = Deferred()
        timeout = self._clock.callLater(_RECOUNT_TIMEOUT, done.callback, None)

        def counted(_: object) -> None:
            if timeout.active():
                timeout.cancel()
                done.callback(None)

        Deferred.fromCoroutine(self._try_to_count()).addBoth(counted)
        return done

    async def count_now(self) -> Content:
        """Count, and return the result; raise `StoreUnavailable` if that is impossible."""
        await self._lock.acquire()
        try:
            began = self._clock.seconds()
            content = {**await self._count(), "problem": None}
            self._took = self._clock.seconds() - began
        except StoreUnavailable as error:
            if self._content is not None:
                self._keep({**self._content, "problem": str(error)})
            raise
        finally:
            self._lock.release()
        self._keep(content)
        return content

    async def _try_to_count(self) -> None:
        try:
            await self.count_now()
        except StoreUnavailable as error:
            self._log.warn("The fleet's page cannot count the boxes: {error}", error=error)

    def _keep(self, content: Content) -> None:
        self._content = content
        for observer in self.observers:
            with self._log.failuresHandled("{observer} failed", observer=observer):
                observer(content)

    def _pause(self) -> float:
        pause = _WATCHED if self._is_watched() else _UNWATCHED
        return max(pause, self._took * _PAUSE_FACTOR)

    def _is_watched(self) -> bool:
        return self._is_followed() or self._clock.seconds() < self._watched_at + _WATCHED_FOR
