"""Tests of the database while it is used: it goes away, and comes back."""

import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from psycopg.sql import SQL, Identifier, Literal
from sqlalchemy import Connection, event, insert, select, text
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.store import watched_socket
from opq_twisted.fleet.store.database import Database
from opq_twisted.fleet.store.errors import StoreUnavailable
from opq_twisted.fleet.store.migrate import migrate_database
from opq_twisted.fleet.store.schema import rollout
from tests.helpers.postgres import Postgres
from tests.helpers.store_case import StoreCase, on_each_database


def add(release: int) -> Any:
    """Return a function that adds a row."""
    row = {"channel": "stable", "release": release, "ceiling_bp": 1, "bp": 1, "state": "baking"}
    row |= {"critical": False, "was_held": False, "announced_at": 1.0, "since": 1.0}
    return lambda connection: connection.execute(insert(rollout), [row])


def releases(connection: Connection) -> list[int]:
    """Return all rows."""
    return list(connection.scalars(select(rollout.c.release).order_by(rollout.c.release)))


class _Case(StoreCase):
    """Looks at sentences."""

    def assert_away(self, part: str, change: Any = None) -> None:
        sentence = str(self.assertRaises(StoreUnavailable, self.write, change or add(99)))
        self.assertIn(part, sentence)
        self.assertNotIn("\n", sentence)
        self.assertTrue(sentence.endswith("."), sentence)


@on_each_database
class TestTransactions(_Case):
    """A function is done wholly, or not at all."""

    def test_other_errors(self) -> None:
        """An error of the function undoes what it did, and reaches the caller as it is."""

        def fail(connection: Connection) -> None:
            add(1)(connection)
            raise KeyError

        self.assertRaises(KeyError, self.write, fail)
        self.assertEqual(self.read(releases), [])

    def test_wrong_question(self) -> None:
        """A mistake in a program is logged with its place, and does no harm to what follows."""
        self.assert_away("", lambda connection: (add(1)(connection), add(1)(connection)))
        self.assertEqual(len(self.flushLoggedErrors()), 1)
        self.write(add(2))
        self.assertEqual(self.read(releases), [2])

    def test_readers_see_one_state(self) -> None:
        """A commit of the writer does not change what a function that reads finds."""

        def read(connection: Connection) -> list[list[int]]:
            before = releases(connection)
            self.write(add(1))
            return [before, releases(connection), self.read(releases)]

        self.assertEqual(self.read(read), [[], [], [1]])


class _Reactor:
    """Keeps the results of threads."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def callFromThread(self, *call: Any) -> None:
        self.calls.append(call)


@on_each_database
class TestThreads(StoreCase):
    """The threads of a database."""

    def test_stop(self) -> None:
        """A stop waits for the functions that are queued, and closes all connections."""
        reactor = _Reactor()
        database = Database(reactor, self.url)
        database.start()
        found: list[object] = []
        deferreds: list[Deferred[Any]] = [database.write(add(number)) for number in range(20)]
        deferreds.append(database.read(lambda connection: None))
        for deferred in deferreds:
            deferred.addBoth(found.append)
        database.stop()
        for call, *arguments in reactor.calls:
            call(*arguments)
        self.assertEqual(len(found), 21)
        self.assertEqual(self.read(releases), list(range(20)))
        self.assertEqual(database.engine.pool.status().split("Current")[0].split()[-1], "0")


class TestFileAway(_Case):
    """A file of SQLite that is damaged, in the way, removed or replaced."""

    def setUp(self) -> None:
        super().setUp()
        self.path = Path(self.url.removeprefix("sqlite:///"))
        self.write(add(1))

    def settle(self, pragma: str) -> None:
        """Set something on each connection."""
        event.listen(
            self.database.engine, "connect", lambda raw, _: raw.execute(f"PRAGMA {pragma}")
        )
        self.database.engine.dispose()

    def backup(self, name: str) -> Path:
        """Copy the database while it is used."""
        copy = self.path.with_name(name)
        with (
            closing(sqlite3.connect(self.path)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        return copy

    def test_locked(self) -> None:
        """A database that another process keeps locked is away until it is not."""
        self.settle("busy_timeout=0")
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            self.assert_away("database is locked")
        self.write(add(2))
        self.assertEqual(self.read(releases), [1, 2])

    def test_full(self) -> None:
        """On a full disk nothing is changed, and reading goes on."""
        pages = self.read(lambda connection: connection.scalar(text("PRAGMA page_count")))
        self.settle(f"max_page_count={pages}")
        big = text("UPDATE rollout SET sha256 = hex(zeroblob(100000))")
        self.assert_away("database or disk is full", lambda connection: connection.execute(big))
        self.assertEqual(self.read(releases), [1])

    def test_removed(self) -> None:
        """A removed file takes no rows, is not made anew, and goes on when it is back."""
        away = self.path.rename(self.path.with_name("away"))
        self.assert_away("is missing: No such file")
        self.assertRaises(StoreUnavailable, self.read, releases)
        self.assertFalse(self.path.exists())
        away.rename(self.path)
        self.write(add(2))
        self.assertEqual(self.read(releases), [1, 2])

    def test_replaced(self) -> None:
        """A backup that takes the place of the file is used from then on, and stays whole."""
        copy = self.backup("copy")
        for release in range(2, 50):
            self.write(add(release))
        copy.rename(self.path)
        self.assertEqual(self.read(releases), [1])
        self.write(add(77))
        self.database.engine.dispose()
        with closing(sqlite3.connect(self.path)) as other:
            self.assertEqual(other.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
            self.assertEqual(len(other.execute("SELECT * FROM rollout").fetchall()), 2)

    def test_link(self) -> None:
        """A symbolic link that leads elsewhere is followed, and the file before stays whole."""
        copy, link = self.backup("copy"), self.path.with_name("link")
        link.symlink_to(self.path)
        linked = Database(None, f"sqlite:///{link}")
        self.addCleanup(linked.engine.dispose)
        linked.write_now(add(2))
        link.unlink()
        link.symlink_to(copy)
        linked.write_now(add(3))
        self.assertEqual(linked.read_now(releases), [1, 3])
        self.assertEqual(self.read(releases), [1, 2])

    def test_replaced_in_a_transaction(self) -> None:
        """A commit into a file that has no name any more is not acknowledged."""
        copy = self.backup("copy")

        def change(connection: Connection) -> None:
            add(2)(connection)
            copy.rename(self.path)

        self.assert_away("was replaced just now", change)
        self.write(add(3))
        self.assertEqual(self.read(releases), [1, 3])

    def test_removed_in_a_transaction(self) -> None:
        """So it is if there is no other file."""

        def change(connection: Connection) -> None:
            add(2)(connection)
            self.path.unlink()

        self.assert_away("is missing: ", change)

    def test_replaced_while_another_reads(self) -> None:
        """The new file waits until the last function has left the old one."""
        copy = self.backup("copy")

        def read(connection: Connection) -> list[int]:
            copy.rename(self.path)
            self.assert_away("was replaced just now")
            return releases(connection)

        self.assertRaises(StoreUnavailable, self.read, read)
        self.write(add(2))
        self.assertEqual(self.read(releases), [1, 2])

    def test_emptied(self) -> None:
        """An empty file in its place is no new database while the server runs."""
        self.path.rename(self.path.with_name("away"))
        self.path.touch()
        self.assert_away("has lost its tables")
        with closing(sqlite3.connect(self.path)) as other:
            self.assertEqual(other.execute("SELECT * FROM sqlite_schema").fetchall(), [])

    def test_damaged(self) -> None:
        """A damaged file is away; a backup in its place is used."""
        copy = self.backup("copy")
        damaged = self.backup("damaged")
        with damaged.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (damaged.stat().st_size - 4096))
        damaged.rename(self.path)
        self.assert_away("malformed")
        copy.rename(self.path)
        self.write(add(2))
        self.assertEqual(self.read(releases), [1, 2])

    def test_no_database(self) -> None:
        """Any other file in its place is not touched."""
        other = self.path.with_name("other")
        other.write_bytes(b"not a database" * 1000)
        other.rename(self.path)
        self.assert_away("not a database")
        self.assertEqual(self.path.read_bytes(), b"not a database" * 1000)


@cache
def _server() -> Postgres:
    """Return a server that no other test uses."""
    return Postgres(fsync=True)


class TestServerAway(SynchronousTestCase):
    """A server of PostgreSQL that is stopped, killed, suspended or in recovery."""

    def setUp(self) -> None:
        self.server = _server()
        self.name = self.server.new_database()
        self.url = self.server.url(self.name)
        migrate_database(self.url)
        self.database = Database(None, self.url)
        self.addCleanup(self.database.engine.dispose)
        self.database.write_now(add(1))

    def assert_away(self, change: Any = None) -> None:
        sentence = str(
            self.assertRaises(StoreUnavailable, self.database.write_now, change or add(99))
        )
        self.assertNotIn("\n", sentence)
        self.assertTrue(sentence.endswith("."), sentence)

    def assert_back(self) -> None:
        self.database.write_now(add(2))
        self.assertEqual(self.database.read_now(releases), [1, 2])

    def test_stopped(self) -> None:
        """A server that was stopped is used again after its start."""
        self.server.stop()
        try:
            self.assert_away()
            self.assertRaises(StoreUnavailable, self.database.read_now, releases)
        finally:
            self.server.start()
        self.assert_back()

    def test_away_at_the_start(self) -> None:
        """So is one that was away when the update server started."""
        self.server.stop()
        try:
            late = Database(None, self.url)
            self.addCleanup(late.engine.dispose)
            late.prepare()
            self.assertRaises(StoreUnavailable, late.read_now, releases)
        finally:
            self.server.start()
        self.assertEqual(late.read_now(releases), [1])

    def test_killed_in_a_transaction(self) -> None:
        """A transaction that was not committed leaves nothing."""

        def change(connection: Connection) -> None:
            add(3)(connection)
            self.server.kill()
            self.server.start()
            add(4)(connection)

        self.assert_away(change)
        self.assert_back()

    def test_connections_cut(self) -> None:
        """A connection that the server has closed is not used again."""
        command = text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        other = Database(None, self.url)
        self.addCleanup(other.engine.dispose)

        def change(connection: Connection) -> None:
            add(3)(connection)
            other.write_now(lambda connection: connection.execute(command))

        self.assert_away(change)
        other.write_now(lambda connection: connection.execute(command))
        self.assert_back()

    def test_suspended(self) -> None:
        """A server that does not answer keeps no thread, in a transaction or between."""
        self.patch(watched_socket, "TRANSACTION", 0.5)
        self.patch(watched_socket, "PING", 0.3)

        def change(connection: Connection) -> None:
            add(3)(connection)
            self.server.suspend()
            add(4)(connection)

        try:
            self.assert_away(change)
            self.assert_away()
        finally:
            self.server.resume()
        self.assert_back()

    def test_read_only(self) -> None:
        """A server that became a copy of another is away for changes, and only as long as that."""
        self.set_read_only("on")
        self.database.engine.dispose()
        self.assert_away()
        self.assertEqual(self.database.read_now(releases), [1])
        self.set_read_only("off")
        # This connection was made before.
        self.assert_away()
        self.assert_back()

    def set_read_only(self, value: str) -> None:
        command = SQL("ALTER DATABASE {} SET default_transaction_read_only = {}")
        self.server.execute(command.format(Identifier(self.name), Literal(value)))

    def test_dropped(self) -> None:
        """A database that is dropped and made anew is away until it is migrated."""
        self.server.drop_database(self.name)
        self.assert_away()
