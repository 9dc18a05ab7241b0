"""Notices when any process has changed a rollout in the database."""

from collections.abc import Callable, Sequence
from itertools import chain

from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from opq_twisted.common.heartbeat import Heartbeat
from opq_twisted.fleet.rollouts.rollout import Rollout, find
from opq_twisted.fleet.store.errors import StoreUnavailable
from opq_twisted.fleet.store.schema import rollout
from opq_twisted.fleet.store.states import RolloutState

#: Seconds between two queries.
PERIOD = 2.0


def current_rollouts(connection: Connection) -> list[Rollout]:
    """Return the rollouts of the releases that channels name."""
    return find(connection, rollout.c.state != RolloutState.SUPERSEDED.value)


class RolloutWatch(Heartbeat):
    """
    Calls observers soon after a rollout has changed, or the database has failed or recovered.

    The process that signs the timestamp needs this, and so does the page: the change may come from
    another process, by an operator or the engine. Without observers the database is not read.
    """

    def __init__(
        self,
        clock: IReactorTime,
        read: Callable[[], Deferred[list[Rollout]]],
        *observers: Sequence[Callable[[], None]],
    ) -> None:
        """
        :param read: returns the current rollouts; fails with StoreUnavailable.
        :param observers: lists of them, which may still grow.
        """
        super().__init__(clock, self._compare, lambda: PERIOD)
        self._read = read
        self._observers = observers
        #: The rollouts of the last query; None if the database failed.
        self._last: list[Rollout] | None = None
        self.run_now()

    async def _compare(self) -> None:
        if not any(self._observers):
            return
        try:
            found = await self._read()
        except StoreUnavailable:
            found = None
        if found != self._last:
            self._last = found
            for observer in chain(*self._observers):
                observer()
