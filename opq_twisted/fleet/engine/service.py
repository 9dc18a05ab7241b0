"""Judges the rollouts every few seconds, in one process at a time, and carries out the result."""

from collections.abc import Callable, Sequence

from sqlalchemy import Connection
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from opq_twisted.common.heartbeat import Heartbeat
from opq_twisted.fleet.engine.alerts import tell_new_keys, tell_silence
from opq_twisted.fleet.engine.assessment import Assessment
from opq_twisted.fleet.engine.executor import Executor
from opq_twisted.fleet.engine.lease import Lease
from opq_twisted.fleet.engine.outages import note_server_outage
from opq_twisted.fleet.engine.timing import Timing
from opq_twisted.fleet.rollouts.rollout import bring_back_times
from opq_twisted.fleet.settings import Rollouts
from opq_twisted.fleet.store.database import Database
from opq_twisted.fleet.store.errors import StoreUnavailable
from opq_twisted.fleet.webhook.outbox import Notify

#: Judges each rollout, from the database and the seconds since the epoch.
Assess = Callable[[Connection, float], Sequence[Assessment]]

#: Seconds between two counts of new keys, which read all boxes.
_HOUR = 3600.0


class Engine(Heartbeat):
    """
    Runs the engine, unless another process does.

    Each run has two transactions. The first one counts the boxes. It only reads, so that reports
    can be stored meanwhile. The second one changes the database. It leaves out each rollout that
    somebody has changed meanwhile, and changes nothing if another process has taken over.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        database: Database,
        now: Callable[[], float],
        timing: Timing,
        mode: Rollouts,
        assess: Assess,
        *,
        notify: Notify,
        pace_changed: Callable[[], object],
    ) -> None:
        """
        :param now: gives the time of day, in seconds since the epoch.
        :param pace_changed: called when the pace of a rollout has changed.
        """
        super().__init__(clock, self.run, self._pause)
        self._clock = clock
        self._began = clock.seconds()
        self._database = database
        self._now = now
        self._timing = timing
        self._assess = assess
        self._notify = notify
        self._executor = Executor(mode, notify)
        self._lease = Lease(timing.period)
        self._pace_changed = pace_changed
        self._is_away = False
        self._counted_keys_at: float | None = None
        self.run_now()

    async def run(self) -> None:
        """Judge all rollouts once, unless another process does, or the database fails."""
        self._began = self._clock.seconds()
        try:
            await self._judge(self._now())
        except StoreUnavailable as error:
            if not self._is_away:
                self._log.warn("Rollouts are not judged now: {error}", error=error)
            self._is_away = True
            return
        if self._is_away:
            self._log.info("Rollouts are judged again")
        self._is_away = False

    def _pause(self) -> float:
        """Return a shorter pause after a long run, so that this process keeps its lease."""
        period, passed = self._timing.period, self._clock.seconds() - self._began
        return max(period / 2, period - passed)

    async def _judge(self, now: float) -> None:
        if not await self._database.write(lambda store: self._begin(store, now)):
            return
        found = await self._database.read(lambda store: self._assess(store, now))
        if await self._database.write(lambda store: self._carry_out(store, found, now)):
            self._pace_changed()
        # In a transaction of its own: no hold may fail because this does.
        last = self._counted_keys_at
        if last is None or not 0 <= now - last < _HOUR:
            await self._database.write(lambda store: self._count_keys(store, now))
            self._counted_keys_at = now

    def _begin(self, connection: Connection, now: float) -> bool:
        """Take the lease; return whether this process decides."""
        passed = self._lease.take(connection, now)
        if passed is None:
            return False
        if passed > self._timing.gap:
            note_server_outage(connection, now - passed, now)
        bring_back_times(connection, now)
        return True

    def _carry_out(self, connection: Connection, found: Sequence[Assessment], now: float) -> bool:
        """Carry out the decisions; return whether the pace of a rollout has changed."""
        if not self._lease.is_held(connection):
            return False
        for each in found:
            tell_silence(connection, each, self._timing, self._notify, now)
        changed = [self._executor.carry_out(connection, each, now) for each in found]
        return any(changed)

    def _count_keys(self, connection: Connection, now: float) -> None:
        if self._lease.is_held(connection):
            tell_new_keys(connection, self._notify, now)
