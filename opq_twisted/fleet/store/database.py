"""The connection to the database: one thread that writes, and four that read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError, SQLAlchemyError
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from opq_twisted.common.errors import CannotStart
from opq_twisted.fleet.store.engine import WRITES, has_password, make_engine, sqlite_file
from opq_twisted.fleet.store.errors import StoreUnavailable, WrongDatabase, describe
from opq_twisted.fleet.store.migrate import Tables, find_tables, upgrade
from opq_twisted.fleet.store.room import require_room
from opq_twisted.fleet.store.sqlite_file import Identity

_T = TypeVar("_T")

_REPLACED = "The file of the fleet's database was replaced just now."

_MIGRATE = (
    "The fleet's database has no tables, or those of an older program. "
    "Make or migrate them: opq-fleet migrate --fleet-db URL."
)


class Database:
    """
    Runs functions on the database, each in a transaction of its own, off the reactor's thread.

    A function gets a connection of SQLAlchemy, and must not keep it. After a failure the next
    function gets a new connection, so that a database that has recovered is used again.
    """

    _log = Logger()

    def __init__(self, reactor: Any, url: str) -> None:
        """
        Check the URL; nothing is opened yet.

        :param url: `sqlite:///PATH` or `postgresql://…`.
        :raises CannotStart: if it is not one of these.
        """
        self._reactor = reactor
        self._file = sqlite_file(url)
        self._password = has_password(url)
        self.engine = make_engine(url)
        self._writers = ThreadPool(1, 1, "fleet-write")
        self._readers = ThreadPool(1, 4, "fleet-read")
        self._lock = Lock()
        self._active = 0
        #: The file whose tables were checked; () for PostgreSQL.
        self._checked: Identity | tuple[()] | None = None

    def prepare(self) -> None:
        """
        Make and migrate a database of SQLite, or check the tables of PostgreSQL.

        If a server of PostgreSQL does not answer, that is logged, and the update server starts.

        :raises CannotStart: if the database cannot be used, or has to be migrated.
        """
        if self._password:
            self._log.warn(
                "--fleet-db: each user of this machine can see the password of the database in the "
                "list of processes. Put it into a file that PGPASSFILE names."
            )
        try:
            if self._file is not None:
                self._file.make()
                upgrade(self.engine)
            with self._same_file():
                pass
        except WrongDatabase as error:
            raise CannotStart(str(error)) from None
        except SQLAlchemyError as error:
            if self._file is not None:
                raise CannotStart(
                    f"{describe(error)} Check {self._file.path}, or restore a backup."
                ) from None
            self._log.warn(
                "{why} Reports are refused until the database can be used.", why=describe(error)
            )

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

        If it raises an error, nothing is changed, and the Deferred fails with that error. If the
        database caused the error, the Deferred fails with StoreUnavailable.
        """
        return deferToThreadPool(self._reactor, self._writers, self.write_now, change)

    def write_with_room(self, change: Callable[[Connection], _T]) -> Deferred[_T]:
        """Do as `write`, but fail with StoreUnavailable if SQLite's disk is nearly full."""

        def change_with_room(connection: Connection) -> _T:
            if self._file is not None:
                require_room(connection, self._file.path.resolve().parent)
            return change(connection)

        return self.write(change_with_room)

    def read(self, query: Callable[[Connection], _T]) -> Deferred[_T]:
        """Run a function that only reads; it fails in the same way as `write`."""
        return deferToThreadPool(self._reactor, self._readers, self.read_now, query)

    def write_now(self, change: Callable[[Connection], _T]) -> _T:
        """Do as `write` in this thread, which must not be the reactor's."""
        return self._run(change, writes=True)

    def read_now(self, query: Callable[[Connection], _T]) -> _T:
        """Do as `read` in this thread, which must not be the reactor's."""
        return self._run(query, writes=False)

    def _run(self, function: Callable[[Connection], _T], *, writes: bool) -> _T:
        try:
            with self._same_file(), self._transaction(writes) as connection:
                return function(connection)
        except (DataError, IntegrityError, ProgrammingError) as error:
            # An error of this program, and not of the database.
            self._log.failure("A query of the fleet's database is wrong")
            raise StoreUnavailable(describe(error)) from error
        except SQLAlchemyError as error:
            raise StoreUnavailable(describe(error)) from error
        except WrongDatabase as error:
            raise StoreUnavailable(str(error)) from error

    @contextmanager
    def _transaction(self, writes: bool) -> Iterator[Connection]:
        with self.engine.execution_options(**{WRITES: writes}).connect() as connection:
            try:
                with connection.begin():
                    yield connection
            except SQLAlchemyError as error:
                connection.invalidate(error)
                raise

    @contextmanager
    def _same_file(self) -> Iterator[None]:
        """
        Fail if the file of the database was replaced before or during a transaction.

        SQLite would write into the old file without an error, and the data would be lost.
        """
        checked = self._enter()
        try:
            yield
        finally:
            with self._lock:
                self._active -= 1
        if self._identity() != checked:
            raise StoreUnavailable(_REPLACED)
        if self._file is not None:
            self._file.note_log()

    def _enter(self) -> Identity | tuple[()]:
        with self._lock:
            found = self._identity()
            if found != self._checked:
                if self._active:
                    raise StoreUnavailable(_REPLACED)
                self.engine.dispose()
                if self._file is not None:
                    self._file.remove_old_log()
                self._check_tables()
                self._checked = found
            self._active += 1
            return found

    def _check_tables(self) -> None:
        if self._file is not None:
            # It may be a backup from before a migration. Only a start makes tables in an empty one.
            upgrade(self.engine, may_be_empty=False)
            return
        with self.engine.connect() as connection:
            if find_tables(connection) is not Tables.CURRENT:
                raise WrongDatabase(_MIGRATE)

    def _identity(self) -> Identity | tuple[()]:
        if self._file is None:
            return ()
        try:
            return self._file.identity()
        except OSError as error:
            raise StoreUnavailable(
                f"The database of the fleet {self._file.path} is missing: {error.strerror}. "
                "Restore a backup, or restart the server to begin with an empty one."
            ) from None
