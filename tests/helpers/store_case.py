"""A database of the fleet for a test."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection
from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.store.database import Database
from opq_twisted.fleet.store.schema import metadata

_T = TypeVar("_T")
_Case = TypeVar("_Case", bound=type)


class StoreCase(SynchronousTestCase):
    """Gives each test an empty database; decorate the class with `on_each_database`."""

    def make_url(self) -> str:
        """Return the URL of a new database."""
        return f"sqlite:///{Path(self.mktemp()).absolute()}"

    def setUp(self) -> None:
        self.database = Database(reactor, self.make_url())
        self.addCleanup(self.database.engine.dispose)
        with self.database.engine.begin() as connection:
            metadata.create_all(connection)

    def write(self, change: Callable[[Connection], _T]) -> _T:
        """Run a function in a transaction that is committed."""
        return self.database.write_now(change)

    def read(self, query: Callable[[Connection], _T]) -> _T:
        """Run a function that reads."""
        return self.database.read_now(query)


def on_each_database(case: _Case) -> _Case:
    """Run the tests of a class on SQLite, and on PostgreSQL."""
    return case
