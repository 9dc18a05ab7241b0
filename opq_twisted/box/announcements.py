"""Waits at the update server until it has another release."""

from twisted.internet.interfaces import IReactorTime

from opq_twisted.box.client import UpdateServer

#: Seconds that the server is asked to wait at most; ours waits no longer.
_LONGEST_WAIT = 300

#: Seconds more in which its answer may come, before the connection counts as dead.
_GRACE = 60.0

#: A server that says sooner than after so many seconds that nothing is new is not asked again.
_SHORTEST_WAIT = 10.0


class Announcements:
    """
    Remembers the entity tag of `/version`, and waits for another: one request after the other.

    The tag only says that it is worth to look. What the box may believe, others decide.
    """

    def __init__(self, clock: IReactorTime, server: UpdateServer) -> None:
        self._clock = clock
        self._server = server
        self._tag: str | None = None

    async def wait(self, seconds: float) -> bool:
        """
        Wait for another tag than the last one.

        :param seconds: how long at most.
        :returns: whether there is another. Otherwise the time is over, or it is not, and the server
            must not be asked again before that.
        :raises ServerFailed: when it lets nobody wait, or cannot be reached.
        """
        over = self._clock.seconds() + seconds
        while True:
            began = self._clock.seconds()
            left = over - began
            wait = int(min(left, _LONGEST_WAIT))
            if wait < 1:
                return False
            known = self._tag
            self._tag = await self._server.entity_tag(known, wait, min(left, wait + _GRACE))
            if known is None:
                # Now there is one that another can differ from.
                continue
            if self._tag != known:
                return True
            if self._clock.seconds() - began < _SHORTEST_WAIT:
                return False
