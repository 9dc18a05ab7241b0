"""Lets one process at a time decide about the rollouts."""

import uuid

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects import postgresql, sqlite

from opq_twisted.fleet.store.schema import engine

#: The only row.
_ROW = 1

#: After this number of periods without a run, another process takes over.
_PERIODS = 2


class Lease:
    """
    A row in the database with the process that decides, and the time of its last run.

    It works in the same way in SQLite and PostgreSQL. An advisory lock of PostgreSQL would be lost
    when the pool replaces its connection. The clocks of the servers must agree: they need NTP.
    """

    def __init__(self, period: float) -> None:
        """:param period: seconds between two runs."""
        self._holder = uuid.uuid4().hex
        self._expires_after = _PERIODS * period

    def take(self, connection: Connection, now: float) -> float | None:
        """
        Begin a run, in the transaction of the connection.

        :param now: seconds since the epoch.
        :returns: the seconds since the last run of any process, less than 0 if the clock was set
            back; None if another process has the lease.
        """
        _add_row(connection, self._holder, now)
        holder, ran_at = connection.execute(_LOCK).one()
        passed: float = now - ran_at
        if holder != self._holder and abs(passed) < self._expires_after:
            return None
        connection.execute(
            update(engine).where(engine.c.id == _ROW).values(holder=self._holder, ran_at=now)
        )
        return passed

    def is_held(self, connection: Connection) -> bool:
        """Whether no other process has taken over; none does until the end of the transaction."""
        holder = connection.execute(_LOCK).one()[0]
        return bool(holder == self._holder)


_LOCK = select(engine.c.holder, engine.c.ran_at).where(engine.c.id == _ROW).with_for_update()


def _add_row(connection: Connection, holder: str, now: float) -> None:
    """Add the row if there is none; two processes may try that at once."""
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    row = insert(engine).values(id=_ROW, holder=holder, ran_at=now)
    connection.execute(row.on_conflict_do_nothing(index_elements=["id"]))
