"""Keeps the last count of the fleet, so that no page waits for a new one."""

from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from opq_twisted.common.heartbeat import Heartbeat
from opq_twisted.fleet.control.answers import Content
from opq_twisted.fleet.store.errors import StoreUnavailable

#: Seconds from the end of one count to the next, while somebody looks and while nobody does.
_WATCHED, _UNWATCHED = 5.0, 60.0

#: Counting takes at most one part in this many of the time: with a million boxes it is slow.
_SHARE = 10

#: Seconds that the answer to an action waits for a count.
_PATIENCE = 2.0

#: Seconds for which a request for the overview counts as somebody who looks.
_LOOKS = 60.0


class CurrentOverview(Service):
    """
    Counts the fleet every few seconds while somebody looks, and else every minute.

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
        self._looked_at = float("-inf")
        self._took = 0.0
        #: Called with each new count.
        self.observers: list[Callable[[Content], object]] = []

    def startService(self) -> None:
        """Count now, and again and again."""
        super().startService()
        self._heartbeat.startService()
        self._heartbeat.run_now()

    def stopService(self) -> Deferred[None]:
        """Count no more; fires when the current count has ended."""
        super().stopService()
        self._heartbeat.stopService()
        return self._lock.run(lambda: None)

    async def get(self) -> Content:
        """
        Return the last count; only the very first one is waited for.

        :raises StoreUnavailable: if the database could never be used.
        """
        was_watched = self._is_watched()
        self._looked_at = self._clock.seconds()
        if self._content is None:
            return await self.count_now()
        if not was_watched:
            self._heartbeat.run_now()
        return self._content

    def count_soon(self) -> None:
        """Count once more as soon as the current count has ended: something was changed."""
        self._heartbeat.run_now()

    def recount(self) -> Deferred[None]:
        """
        Count once more, because something was changed.

        :returns: fires when that is done, or failed, or takes so long that nobody should wait.
        """
        done: Deferred[None] = Deferred()
        timeout = self._clock.callLater(_PATIENCE, done.callback, None)

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
        return max(pause, self._took * _SHARE)

    def _is_watched(self) -> bool:
        return self._is_followed() or self._clock.seconds() < self._looked_at + _LOOKS
