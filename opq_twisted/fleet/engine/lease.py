"""Lets one process at a time decide about the rollouts."""

import uuid

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects import postgresql, sqlite

from opq_twisted.fleet.store.schema import engine

#: The only row.
_ROW = 1

#: Periods without a run after which another process takes over.
_PERIODS = 2


class Lease:
    """
    The row in the database that says which process decides, and when it last did.

    It works alike in SQLite and PostgreSQL, and outlasts a connection: an advisory lock would be
    lost, and found again, with every one that the pool replaces. The clocks of the servers must
    agree, which NTP sees to.
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
