"""A database of the fleet for a test."""

import sys
from collections import deque
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from sqlalchemy import Connection
from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.store.database import Database
from opq_twisted.fleet.store.migrate import migrate_database
from tests.helpers.postgres import shared_postgres

_T = TypeVar("_T")
_Case = TypeVar("_Case", bound=type)

#: PostgreSQL makes a database 5 times as fast while files of others are there.
_KEPT = 5
_used: deque[str] = deque()


class StoreCase(SynchronousTestCase):
    """Gives each test an empty database; decorate the class with `on_each_database`."""

    on_postgresql = False

    def make_url(self) -> str:
        """Return the URL of a new database, which has the tables."""
        return _new_postgresql() if self.on_postgresql else _new_sqlite(Path(self.mktemp()))

    def setUp(self) -> None:
        self.url = self.make_url()
        self.database = Database(reactor, self.url)
        self.addCleanup(self.database.engine.dispose)

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


def _new_sqlite(path: Path) -> str:
    path.write_bytes(_sqlite_template())
    return f"sqlite:///{path.absolute()}"


def _new_postgresql() -> str:
    server = shared_postgres()
    _used.append(server.new_database(_template()))
    if len(_used) > _KEPT:
        server.drop_database(_used.popleft())
    return server.url(_used[-1])


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
