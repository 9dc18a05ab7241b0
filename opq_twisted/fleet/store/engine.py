"""Makes the engine of SQLAlchemy for the URL of a database."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool

from opq_twisted.common.errors import CannotStart
from opq_twisted.fleet.store.sqlite_file import SqliteFile
from opq_twisted.fleet.store.watched_socket import watch_sockets

#: The execution option of a connection whose transaction writes.
WRITES = "opq_writes"

#: A connection for each thread.
_POOL: dict[str, Any] = {
    "poolclass": QueuePool,
    "pool_size": 6,
    "max_overflow": 0,
    "pool_timeout": 5,
    # Messages of errors, and so the log, must not quote reports.
    "hide_parameters": True,
}

_ADVICE = "--fleet-db: give sqlite:///PATH, or postgresql://USER@HOST/DATABASE."

_POSTGRESQL = {
    # Seconds, for each address of the host.
    "connect_timeout": 5,
    "application_name": "opq-update-server",
    # A host that has vanished is noticed within half a minute.
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}

_SETTINGS = (
    "SET statement_timeout = '20s'",
    "SET lock_timeout = '5s'",
    "SET idle_in_transaction_session_timeout = '60s'",
)


def sqlite_file(url: str) -> SqliteFile | None:
    """
    Return the file of a database of SQLite; None for PostgreSQL.

    :raises CannotStart: if the URL is not one of a database.
    """
    if url.startswith("sqlite:"):
        # A path may contain a question mark, so SQLAlchemy must not parse it.
        path = url.removeprefix("sqlite:///")
        if path == url or not path or path == ":memory:" or path.endswith("/") or "\0" in path:
            raise CannotStart(_ADVICE)
        return SqliteFile(Path(path))
    try:
        urlsplit(url)
    except ValueError:
        raise CannotStart(_ADVICE) from None
    if not re.match(r"postgresql://.", url):
        raise CannotStart(_ADVICE)
    return None


def make_engine(url: str, *, limits: bool = True) -> Engine:
    """
    Make the engine for a URL of the command line; it connects when it is first used.

    :param limits: whether a transaction on PostgreSQL is ended after half a minute.
    :raises CannotStart: if the URL is not one of a database.
    """
    file = sqlite_file(url)
    if file is not None:
        engine = create_engine("sqlite://", creator=file.connect, **_POOL)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        parsed = make_url(url).set(drivername="postgresql+psycopg")
        engine = create_engine(parsed, connect_args=_POSTGRESQL, **_POOL)
    except (ArgumentError, ValueError):
        # The message quotes the URL, which may contain a password.
        raise CannotStart(_ADVICE) from None
    event.listen(engine, "begin", _begin_postgresql)
    if limits:
        event.listen(engine, "connect", _set_limits)
        watch_sockets(engine)
    return engine


def has_password(url: str) -> bool:
    """Return whether a URL contains a password, which `ps` shows to each user of the machine."""
    parts = urlsplit(url)
    return ":" in parts.netloc.rpartition("@")[0] or "password=" in unquote(parts.query)


def _begin_sqlite(connection: Connection) -> None:
    # Without IMMEDIATE, two transactions could both read first, and then wait for each other.
    writes = connection.get_execution_options().get(WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _begin_postgresql(connection: Connection) -> None:
    # All queries of a reader see the database at the same moment, as in SQLite: a rollout, its
    # numbers and the audit have to fit together.
    if connection.get_execution_options().get(WRITES) is False:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def _set_limits(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        for command in _SETTINGS:
            cursor.execute(command)
    connection.commit()
