"""Tests of the tables that migrations make, on both databases."""

import os
import signal
import sys
import time
from contextlib import closing
from subprocess import PIPE, Popen
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import (
    BigInteger,
    Connection,
    delete,
    insert,
    inspect,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from opq_twisted.common.errors import CannotStart, OpqError
from opq_twisted.common.strict_json import MAX_NUMBER
from opq_twisted.fleet.store.column_types import LARGEST_SMALL
from opq_twisted.fleet.store.database import Database
from opq_twisted.fleet.store.engine import make_engine
from opq_twisted.fleet.store.errors import StoreUnavailable, WrongDatabase
from opq_twisted.fleet.store.migrate import (
    Tables,
    _config,
    find_tables,
    migrate_database,
    upgrade,
)
from opq_twisted.fleet.store.schema import VERSION_TABLE, attempt, audit, metadata
from tests.helpers.project import PROJECT
from tests.helpers.store_case import StoreCase, on_each_database
from tests.helpers.torture import sample

_YEARS = 365 * 86400


@on_each_database
class TestTables(StoreCase):
    """A database that was migrated is the one of schema.py."""

    def test_equal(self) -> None:
        """Alembic finds no difference between the migrated tables and schema.py."""

        def compare(connection: Connection) -> list[Any]:
            options = {"version_table": VERSION_TABLE, "compare_type": True}
            context = MigrationContext.configure(connection, opts=options)
            return list(compare_metadata(context, metadata))

        self.assertEqual(self.read(compare), [])

    def test_columns_and_strictness(self) -> None:
        """Each table has the columns in the order of schema.py, and SQLite checks their types."""
        found = self.read(
            lambda connection: {
                name: [column["name"] for column in inspect(connection).get_columns(name)]
                for name in metadata.tables
            }
        )
        expected = {name: list(table.c.keys()) for name, table in metadata.tables.items()}
        self.assertEqual(found, expected)
        wrong = text("INSERT INTO rollout VALUES (1, 'stable', 'x', '', 1, 1, 'held', 1, 1)")
        self.assertRaises(
            StoreUnavailable, self.write, lambda connection: connection.execute(wrong)
        )
        self.flushLoggedErrors()

    def test_again(self) -> None:
        """A database of this program is left as it is."""
        self.assertFalse(upgrade(self.database.engine))


@on_each_database
class TestAudit(StoreCase):
    """Rows of the audit are only added."""

    def setUp(self) -> None:
        super().setUp()
        row = {"who": "anna", "what": "hold", "change": "Held.", "because": "It fails."}
        rows = [row | {"at": time.time()}, row | {"at": time.time() - 2.01 * _YEARS}]
        self.write(lambda connection: connection.execute(insert(audit), rows))

    def assert_refused(self, change: Any) -> None:
        with self.assertRaises(SQLAlchemyError), self.database.engine.begin() as connection:
            connection.execute(change)

    def test_update(self) -> None:
        """No row can be changed, however old it is."""
        self.assert_refused(update(audit).values(because="It was somebody else."))
        old = audit.c.at < time.time() - 2 * _YEARS
        self.assert_refused(update(audit).where(old).values(at=time.time()))

    def test_delete(self) -> None:
        """No row of the last two years can be deleted; an older one can."""
        self.assert_refused(delete(audit))
        old = delete(audit).where(audit.c.at < time.time() - 2 * _YEARS)
        self.assertEqual(self.write(lambda connection: connection.execute(old).rowcount), 1)
        self.assert_refused(delete(audit))

    def test_replace(self) -> None:
        """The other ways to get rid of rows are closed, too."""
        if self.database.engine.dialect.name == "sqlite":
            self.assert_refused(text("REPLACE INTO audit SELECT * FROM audit"))
        else:
            self.assert_refused(text("TRUNCATE audit"))


@on_each_database
class TestOtherTables(StoreCase):
    """A database that this program does not know is left alone."""

    changes_tables = True

    def change(self, command: str) -> None:
        self.write(lambda connection: connection.execute(text(command)))

    def refusal(self) -> str:
        database = Database(None, self.url)
        self.addCleanup(database.engine.dispose)
        error = self.assertRaises(CannotStart, database.prepare)
        self.assertEqual(
            self.assertRaises(WrongDatabase, upgrade, self.database.engine).args, error.args
        )
        return str(error)

    def test_newer(self) -> None:
        """A server does not start with the database of a newer program, and says what to do."""
        self.change(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
        self.assertIn("newer program (migration 9999)", self.refusal())

    def test_another(self) -> None:
        """Nor with the tables of something else."""
        self.change(f"DROP TABLE {VERSION_TABLE}")
        self.assertIn("tables of another program", self.refusal())


class _Empty(StoreCase):
    """Makes databases without tables."""

    changes_tables = True

    def make_url(self) -> str:
        url = super().make_url()
        engine = make_engine(url)
        with engine.begin() as connection:
            metadata.drop_all(connection)
            connection.execute(text(f"DROP TABLE {VERSION_TABLE}"))
            if engine.dialect.name == "postgresql":
                connection.execute(text("DROP FUNCTION opq_audit_is_kept"))
        engine.dispose()
        return url


@on_each_database
class TestOlderTables(_Empty):
    """A database of the first version of the tables, with an attempt."""

    def setUp(self) -> None:
        super().setUp()
        with self.database.engine.begin() as connection:
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "0001")
            row = "INSERT INTO box (id, key_id, box_id, state, seq) VALUES (7, 'a', 7, 'known', 1)"
            connection.execute(text(row))
            connection.execute(
                insert(attempt).values(
                    box=7,
                    attempt_id="ab" * 16,
                    began=MAX_NUMBER,
                    took=literal(MAX_NUMBER, BigInteger),
                    automatic=True,
                    stage="idle",
                    inferred=False,
                    tries=1,
                    size=12_300_000,
                    received=1.5,
                )
            )

    def test_numbers(self) -> None:
        """The numbers of an attempt stay; PostgreSQL limits those that take less room now."""
        self.assertTrue(upgrade(self.database.engine))
        columns = (
            attempt.c.box,
            attempt.c.began,
            attempt.c.took,
            attempt.c.fetched,
            attempt.c.size,
        )
        [row] = self.read(lambda connection: connection.execute(select(*columns)).all())
        took = LARGEST_SMALL if self.on_postgresql else MAX_NUMBER
        self.assertEqual(tuple(row), (7, MAX_NUMBER, took, None, 12_300_000))


#: Migrates the database of the first argument, and stops before the statement whose number is the
#: second one.
_STOPS = """
import sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
from opq_twisted.fleet.store.migrate import migrate_database
left = int(sys.argv[2])
@event.listens_for(Engine, "before_cursor_execute")
def count(connection, cursor, statement, *_):
    global left
    if statement.lstrip().startswith(("CREATE", "INSERT", "UPDATE", "DROP")):
        left -= 1
        if left < 0:
            print("stopped", flush=True)
            sys.stdin.read()
print(migrate_database(sys.argv[1]), flush=True)
"""


@on_each_database
class TestInterruptedMigration(_Empty):
    """A migration is made wholly, or not at all."""

    def start(self, statements: int) -> "Popen[str]":
        command = [sys.executable, "-c", _STOPS, self.url, str(statements)]
        return Popen(command, stdin=PIPE, stdout=PIPE, text=True, cwd=PROJECT)

    def test_killed(self) -> None:
        """After a kill before any of its statements, the next migration makes everything."""
        for statements in sample((0, 1, 3, 9, 15), 2):
            with self.start(statements) as process:
                assert process.stdout is not None
                self.assertEqual(process.stdout.readline(), "stopped\n")
                process.send_signal(signal.SIGKILL)
            with closing(self.database.engine.connect()) as connection:
                self.assertIs(find_tables(connection), Tables.NONE)
        self.assertTrue(migrate_database(self.url))
        self.assertFalse(migrate_database(self.url))

    def test_several_at_once(self) -> None:
        """Of several at once one migrates; the others wait, and find nothing to do."""
        processes = [self.start(99) for _ in range(3)]
        printed = sorted(process.communicate()[0] for process in processes)
        self.assertEqual(printed, ["False\n", "False\n", "True\n"])


@on_each_database
class TestFirstStart(_Empty):
    """What a server does with a database that has no tables."""

    def test_prepare(self) -> None:
        """A database of SQLite is migrated by itself; PostgreSQL waits for the operator."""
        if self.database.engine.dialect.name == "sqlite":
            self.database.prepare()
            self.assertIs(self.read(find_tables), Tables.CURRENT)
        else:
            error = self.assertRaises(CannotStart, self.database.prepare)
            self.assertIn("opq-fleet migrate --fleet-db", str(error))

    def test_use(self) -> None:
        """A running server makes no tables in a database that became empty."""
        self.assertRaises(StoreUnavailable, self.read, find_tables)
        with self.database.engine.connect() as connection:
            self.assertIs(find_tables(connection), Tables.NONE)


class TestMigrateCommand(StoreCase):
    """What `opq-fleet migrate` runs."""

    def test_nowhere(self) -> None:
        """A database that cannot be reached is told in a sentence."""
        for url in (f"sqlite:///{os.getcwd()}/missing/fleet.db", "postgresql://127.0.0.1:1/fleet"):
            error = self.assertRaises(OpqError, migrate_database, url)
            self.assertTrue(str(error).endswith("."))
            self.assertNotIn("\n", str(error))

    def test_percent_sign(self) -> None:
        """A path may have any letters."""
        path = f"{self.mktemp()}100% of a #?&é"
        self.assertTrue(migrate_database(f"sqlite:///{path}"))
        self.assertTrue(os.path.exists(path))
        Database(None, f"sqlite:///{path}").prepare()
