"""A database of the fleet for a test."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Connection, Dialect, Engine, event
from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.store.database import Database
from opq_twisted.fleet.store.migrate import migrate_database
from opq_twisted.fleet.store.schema import metadata
from tests.helpers.postgres import shared_postgres

_T = TypeVar("_T")
_Case = TypeVar("_Case", bound=type)

#: Deletes all rows, also those of the audit, which a trigger keeps, and whoever uses the tables.
_EMPTY = f"""
SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid();
SET session_replication_role = replica;
{"".join(f"DELETE FROM {name};" for name in metadata.tables)}
SELECT setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S'
"""

#: Tests that change the tables of all others, instead of those of their own, fail.
_KEEP_TABLES = """
CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'tests that change tables need changes_tables = True'; END
$$;
CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION refuse()
"""

#: Those of the first engines, which have asked the database for its version.
_dialects: dict[str, Dialect] = {}
_statements: dict[Any, Any] = {}


class StoreCase(SynchronousTestCase):
    """Gives each test an empty database; decorate the class with `on_each_database`."""

    on_postgresql = False
    #: Whether the tests change the tables themselves, and not only their rows.
    changes_tables = False

    def make_url(self) -> str:
        """Return the URL of an empty database, which has the tables."""
        if not self.on_postgresql:
            path = Path(self.mktemp()).absolute()
            path.write_bytes(_sqlite_template())
            return f"sqlite:///{path}"
        server = shared_postgres()
        if not self.changes_tables:
            return server.url(_emptied())
        name = server.new_database(_template())
        self.addCleanup(server.drop_database, name)
        return server.url(name)

    def setUp(self) -> None:
        self.url = self.make_url()
        self.database = Database(reactor, self.url)
        self.addCleanup(self.database.engine.dispose)
        _share_statements(self.database.engine)
        if not self.on_postgresql:
            # As in the helper's PostgreSQL, no commit waits for the disk.
            event.listen(self.database.engine, "connect", _set_quick)

    def write(self, change: Callable[[Connection], _T]) -> _T:
        """Run a function in a transaction that is committed."""
        return self.database.write_now(change)

    def read(self, query: Callable[[Connection], _T]) -> _T:
        """Run a function that reads."""
        return self.database.read_now(query)


def on_each_database(case: _Case) -> _Case:
    """Run the tests of a class on SQLite, and those of a second one in its module on PostgreSQL."""
    name = f"{case.__name__}OnPostgreSQL"
    members = {"__module__": case.__module__, "on_postgresql": True}
    setattr(sys.modules[case.__module__], name, type(name, (case,), members))
    return case


def _share_statements(engine: Engine) -> None:
    """Let the engine use the statements that earlier ones have compiled, each for its dialect."""
    if engine.name not in _dialects:
        with engine.connect():
            _dialects[engine.name] = engine.dialect
        engine.dispose()
    engine.dialect = _dialects[engine.name]
    engine.update_execution_options(compiled_cache=_statements)


def _set_quick(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA synchronous=OFF")


@cache
def _sqlite_template() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, "fleet.db")
        migrate_database(f"sqlite:///{path}")
        return path.read_bytes()


@cache
def _template() -> str:
    server = shared_postgres()
    name = server.new_database()
    migrate_database(server.url(name))
    return name


@cache
def _shared() -> "tuple[str, psycopg.Connection[Any]]":
    server = shared_postgres()
    name = server.new_database(_template())
    connection = psycopg.connect(server.url(name), autocommit=True)
    connection.execute(_KEEP_TABLES)
    return name, connection


def _emptied() -> str:
    """Empty the database that all tests share: a new one takes a tenth of a second."""
    name, connection = _shared()
    connection.execute(_EMPTY)
    return name
