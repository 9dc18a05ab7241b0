"""Tests of the backups in docs/operating-a-fleet.md, made while the server writes."""

import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import Connection, insert, select

from opq_twisted.fleet.store.database import Database
from opq_twisted.fleet.store.schema import audit
from tests.helpers.postgres import shared_postgres
from tests.helpers.store_case import StoreCase, on_each_database


def add(number: int) -> Callable[[Connection], object]:
    """Return a function that adds two rows, which belong together."""
    row = {"what": "hold", "change": "", "because": "", "at": float(number)}
    rows = [row | {"who": "anna"}, row | {"who": "otto"}]
    return lambda connection: connection.execute(insert(audit), rows)


def numbers(connection: Connection) -> list[float]:
    """Return the number of each row, in the order of the rows."""
    return list(connection.scalars(select(audit.c.at).order_by(audit.c.id)))


@on_each_database
class TestBackup(StoreCase):
    """A backup has all that was acknowledged before it, and nothing half."""

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write in another thread."""
        stop, began = threading.Event(), threading.Event()

        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                self.write(add(number))
                self.acknowledged = number
                if number == 20:
                    began.set()

        thread = threading.Thread(target=write)
        thread.start()
        try:
            began.wait()
            yield
        finally:
            stop.set()
            thread.join()

    def assert_whole(self, url: str, acknowledged: int) -> None:
        restored = Database(None, url)
        self.addCleanup(restored.engine.dispose)
        restored.prepare()
        found = restored.read_now(numbers)
        pairs = len(found) // 2
        self.assertGreaterEqual(pairs, acknowledged)
        self.assertEqual(found, [float(n // 2 + 1) for n in range(2 * pairs)])
        # The restored one is used as the other was.
        restored.write_now(add(1))

    def test_restore(self) -> None:
        """A restored backup is whole, and the server starts with it."""
        if self.on_postgresql:
            self.restore_dump()
            return
        source = self.url.removeprefix("sqlite:///")
        backup, vacuumed = Path(self.mktemp()).absolute(), Path(self.mktemp()).absolute()
        with self.writing():
            acknowledged = self.acknowledged
            with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(backup)) as two:
                one.backup(two, pages=1)
            with closing(sqlite3.connect(source)) as one:
                one.execute("VACUUM INTO ?", (str(vacuumed),))
        for path in (backup, vacuumed):
            with closing(sqlite3.connect(path)) as connection:
                self.assertEqual(connection.execute("PRAGMA integrity_check").fetchone(), ("ok",))
            shutil.copy(path, f"{path}.restored")
            self.assert_whole(f"sqlite:///{path}.restored", acknowledged)

    def restore_dump(self) -> None:
        server = shared_postgres()
        dump = Path(self.mktemp()).absolute()
        name = self.url.partition("@/")[2].partition("?")[0]
        with self.writing():
            acknowledged = self.acknowledged
            command = [*server.client("pg_dump", name), "--format=custom", f"--file={dump}"]
            subprocess.run(command, check=True)
        restored = server.new_database()
        command = [*server.client("pg_restore", restored), "--no-owner", "--exit-on-error"]
        subprocess.run([*command, str(dump)], check=True)
        self.assert_whole(server.url(restored), acknowledged)
