"""A database of the fleet for a test."""

import sys
from collections import deque
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection
from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.store.database import Database
from opq_twisted.fleet.store.schema import metadata
from tests.helpers.postgres import shared_postgres

_T = TypeVar("_T")
_Case = TypeVar("_Case", bound=type)

#: PostgreSQL makes a database 5 times as fast while files of others are there.
_KEPT = 5
_used: deque[str] = deque()


class StoreCase(SynchronousTestCase):
    """Gives each test an empty database; decorate the class with `on_each_database`."""

    def make_url(self) -> str:
        """Return the URL of a new database, which has the tables."""
        url = f"sqlite:///{Path(self.mktemp()).absolute()}"
        _make_tables(url)
        return url

    def setUp(self) -> None:
        self.database = Database(reactor, self.make_url())
        self.addCleanup(self.database.engine.dispose)

    def write(self, change: Callable[[Connection], _T]) -> _T:
        """Run a function in a transaction that is committed."""
        return self.database.write_now(change)

    def read(self, query: Callable[[Connection], _T]) -> _T:
        """Run a function that reads."""
        return self.database.read_now(query)


class _OnPostgreSQL:
    """Makes the databases of a StoreCase on a PostgreSQL server of the test process."""

    def make_url(self) -> str:
        server = shared_postgres()
        _used.append(server.new_database(_template()))
        if len(_used) > _KEPT:
            server.drop_database(_used.popleft())
        return server.url(_used[-1])


def on_each_database(case: _Case) -> _Case:
    """Run the tests of a class on SQLite, and those of a second one in its module on PostgreSQL."""
    name = f"{case.__name__}OnPostgreSQL"
    on_postgresql = type(name, (_OnPostgreSQL, case), {"__module__": case.__module__})
    setattr(sys.modules[case.__module__], name, on_postgresql)
    return case


@cache
def _template() -> str:
    server = shared_postgres()
    name = server.new_database()
    _make_tables(server.url(name))
    return name


def _make_tables(url: str) -> None:
    database = Database(reactor, url)
    database.write_now(metadata.create_all)
    # Nobody may be connected to a template.
    database.engine.dispose()
