"""A commit that was acknowledged outlasts a kill of the writer, and one of PostgreSQL."""

import random
import subprocess
import sys
from functools import cache

from sqlalchemy import Connection, select

from opq_twisted.fleet.store.database import Database
from opq_twisted.fleet.store.migrate import migrate_database
from opq_twisted.fleet.store.schema import audit
from tests.helpers.postgres import Postgres
from tests.helpers.project import PROJECT
from tests.helpers.store_case import StoreCase, on_each_database
from tests.helpers.torture import SEED, TORTURE

#: Writes one row after the other to the database of its argument, and prints the numbers of those
#: that are committed. One that could not be written is written again.
_WRITES = """
import sys
import time
from sqlalchemy import func, insert, select
from opq_twisted.fleet.store.database import Database
from opq_twisted.fleet.store.errors import StoreUnavailable
from opq_twisted.fleet.store.schema import audit
database = Database(None, sys.argv[1])
number = database.read_now(lambda c: c.scalar(select(func.max(audit.c.at)))) or 0
def write(connection):
    there = connection.scalar(select(func.max(audit.c.at))) or 0
    if there < number:
        row = {"who": "", "what": "", "change": "", "because": "", "at": number}
        connection.execute(insert(audit), [row])
while True:
    number += 1
    while True:
        try:
            database.write_now(write)
            break
        except StoreUnavailable:
            time.sleep(0.05)
    print(int(number), flush=True)
"""

_KILLS = 100 if TORTURE else 3


@cache
def _server() -> Postgres:
    return Postgres(fsync=True)


class _Case(StoreCase):
    """Rows are neither lost nor doubled."""

    def make_url(self) -> str:
        if not self.on_postgresql:
            return super().make_url()
        url = _server().url(_server().new_database())
        migrate_database(url)
        return url

    def start(self) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", _WRITES, self.url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT)
        assert process.stdout is not None
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.addCleanup(process.stdout.close)
        return process

    def rows(self) -> list[int]:
        def read(connection: Connection) -> list[int]:
            return [int(at) for at in connection.scalars(select(audit.c.at).order_by(audit.c.id))]

        database = Database(None, self.url)
        self.addCleanup(database.engine.dispose)
        return database.read_now(read)

    def acknowledge(self, process: "subprocess.Popen[str]", count: int) -> None:
        assert process.stdout is not None
        for _ in range(count):
            self.acknowledged = int(process.stdout.readline())

    def assert_whole(self) -> None:
        rows = self.rows()
        self.assertGreaterEqual(len(rows), self.acknowledged)
        self.assertEqual(rows, list(range(1, len(rows) + 1)))


@on_each_database
class TestWriterKilled(_Case):
    """The update server is killed."""

    def test_kill(self) -> None:
        """Rows that a process has acknowledged are there after its end."""
        chance = random.Random(SEED)
        for _ in range(_KILLS):
            process = self.start()
            self.acknowledge(process, chance.randrange(1, 30))
            process.kill()
            process.wait()
            self.assert_whole()


class TestServerKilled(_Case):
    """PostgreSQL is killed."""

    on_postgresql = True

    def test_kill(self) -> None:
        """Rows are there afterwards, and the writer goes on by itself."""
        chance = random.Random(SEED)
        process = self.start()
        for _ in range(_KILLS):
            self.acknowledge(process, chance.randrange(1, 30))
            _server().kill()
            _server().start()
            self.assert_whole()
