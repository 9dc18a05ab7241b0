"""Notices when a rollout was changed in the database, by whatever process."""

from collections.abc import Callable, Sequence

from sqlalchemy import Connection
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from opq_twisted.fleet.rollouts.rollout import Rollout, find
from opq_twisted.fleet.store.errors import StoreUnavailable
from opq_twisted.fleet.store.schema import rollout
from opq_twisted.fleet.store.states import RolloutState

#: Seconds between two looks at the database.
PERIOD = 2.0


def current_rollouts(connection: Connection) -> list[Rollout]:
    """Return the rollouts of the releases that channels name."""
    return find(connection, rollout.c.state != RolloutState.SUPERSEDED.value)


class RolloutWatch(Service):
    """
    Calls observers soon after a rollout was changed, and when the database goes or comes back.

    The process with the timestamp's key needs this: operators may talk to another process. Without
    observers it does not look.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        look: Callable[[], Deferred[list[Rollout]]],
        observers: Sequence[Callable[[], None]],
    ) -> None:
        """:param look: returns the current rollouts; fails with StoreUnavailable."""
        self._look = look
        self._observers = observers
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._compare()))
        self._loop.clock = clock
        #: What was found last; None if the database was away.
        self._last: list[Rollout] | None = None

    def startService(self) -> None:
        """Look for the first time."""
        super().startService()
        self._loop.start(PERIOD)

    def stopService(self) -> None:
        """Look no more."""
        super().stopService()
        self._loop.stop()

    async def _compare(self) -> None:
        if not self._observers:
            return
        # The loop ends with the first error that gets out.
        with self._log.failuresHandled("looking for changed rollouts failed"):
            try:
                found = await self._look()
            except StoreUnavailable:
                found = None
            if found != self._last:
                self._last = found
                for observer in self._observers:
                    observer()
