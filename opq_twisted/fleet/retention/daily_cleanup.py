"""Counts the past days and deletes old rows, once a day."""

from collections.abc import Callable

from sqlalchemy import Connection
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from opq_twisted.common.heartbeat import Heartbeat
from opq_twisted.fleet.retention.daily_counts import (
    DAY,
    count_day,
    find_expiry_time,
    mark_counted,
    missing_days,
    write_days,
)
from opq_twisted.fleet.retention.expiry import (
    delete_attempts,
    delete_audit,
    delete_boxes,
    retire_boxes,
)
from opq_twisted.fleet.store.database import Database
from opq_twisted.fleet.store.errors import StoreUnavailable

#: Seconds between two checks whether a day is over.
_PERIOD = 600.0


class DailyCleanup(Heartbeat):
    """
    Keeps the database small; several servers on one database may do so at once.

    Each batch is a transaction of its own, so that reports are stored in between.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, database: Database, now: Callable[[], float]) -> None:
        """:param now: gives the time of day, in seconds since the epoch."""
        super().__init__(clock, self.run, lambda: _PERIOD)
        self._database = database
        self._now = now
        self._done: int | None = None

    async def run(self) -> None:
        """Do the work of the day, unless it is done."""
        now = self._now()
        today = int(now // DAY)
        if today == self._done:
            return
        try:
            await self._count_days(now)
            await self._delete(
                await self._database.read(lambda store: find_expiry_time(store, now))
            )
        except StoreUnavailable as error:
            self._log.warn("No old rows were deleted: {error}", error=error)
            return
        self._done = today

    async def _count_days(self, now: float) -> None:
        for number in await self._database.read(lambda store: missing_days(store, now)):
            await self._count(number)

    async def _count(self, number: int) -> None:
        rows = await self._database.read(lambda store: count_day(store, number))
        await self._database.write(lambda store: write_days(store, [*rows, mark_counted(number)]))

    async def _delete(self, now: float) -> None:
        # Attempts first: deleting a box deletes its attempts too, and then there are few of them.
        after: int | None = 0
        while after is not None:
            after = await self._delete_attempts(now, after)
        for step in (retire_boxes, delete_boxes, delete_audit):
            while await self._batch(step, now):
                pass

    async def _delete_attempts(self, now: float, after: int) -> int | None:
        return await self._database.write(lambda store: delete_attempts(store, now, after))

    async def _batch(self, step: Callable[[Connection, float], bool], now: float) -> bool:
        return await self._database.write(lambda store: step(store, now))
