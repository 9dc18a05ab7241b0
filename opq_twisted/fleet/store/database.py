"""The connection to the database: one thread that writes, and four that read."""

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from opq_twisted.common.errors import OpqError

_T = TypeVar("_T")

#: Seconds that SQLite waits for another process, and PostgreSQL for a connection.
_TIMEOUT = 5

#: The execution option of a connection whose transaction writes.
_WRITES = "opq_writes"


class StoreAway(OpqError):
    """The database cannot be used now; nothing was changed."""


class Database:
    """
    Runs functions on the database, each in a transaction of its own, off the reactor's thread.

    A function gets a connection of SQLAlchemy, and must not keep it.
    """

    def __init__(self, reactor: Any, url: str) -> None:
        """:param url: `sqlite:///PATH` or `postgresql://…`."""
        self.url = url
        self._reactor = reactor
        self.engine = make_engine(url)
        self._writers = ThreadPool(1, 1, "fleet-write")
        self._readers = ThreadPool(1, 4, "fleet-read")

    def start(self) -> None:
        """Start the threads."""
        self._writers.start()
        self._readers.start()

    def stop(self) -> None:
        """Wait for the functions that run, and close the database."""
        self._writers.stop()
        self._readers.stop()
        self.engine.dispose()

    def write(self, change: Callable[[Connection], _T]) -> Deferred[_T]:
        """
        Run a function that changes the database; its result comes after the commit.

        If it raises an error, nothing is changed, and the Deferred fails with that error; with
        StoreAway if the database is to blame.
        """
        return deferToThreadPool(self._reactor, self._writers, self.write_now, change)

    def read(self, query: Callable[[Connection], _T]) -> Deferred[_T]:
        """Run a function that only reads; fails as `write`."""
        return deferToThreadPool(self._reactor, self._readers, self.read_now, query)

    def write_now(self, change: Callable[[Connection], _T]) -> _T:
        """Do as `write` in this thread, which must not be the reactor's."""
        try:
            writer = self.engine.execution_options(**{_WRITES: True})
            with writer.begin() as connection:
                return change(connection)
        except SQLAlchemyError as error:
            raise StoreAway(
                f"The database of the fleet cannot be used: {_reason(error)}."
            ) from error

    def read_now(self, query: Callable[[Connection], _T]) -> _T:
        """Do as `read` in this thread, which must not be the reactor's."""
        try:
            with self.engine.connect() as connection:
                return query(connection)
        except SQLAlchemyError as error:
            raise StoreAway(
                f"The database of the fleet cannot be used: {_reason(error)}."
            ) from error


def make_engine(url: str) -> Engine:
    """Make the engine for a URL as it is given on the command line."""
    scheme = urlsplit(url).scheme
    if scheme == "sqlite":
        engine = create_engine(url, connect_args={"timeout": _TIMEOUT})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin)
        return engine
    return create_engine(
        url.replace("postgresql://", "postgresql+psycopg://", 1),
        connect_args={"connect_timeout": _TIMEOUT},
        pool_pre_ping=True,
    )


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver must begin no transaction by itself: see SQLAlchemy's notes on pysqlite.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin(connection: Connection) -> None:
    # Two writers that begin as readers would block each other.
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _reason(error: SQLAlchemyError) -> str:
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
