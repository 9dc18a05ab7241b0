"""A PostgreSQL server of the tests' own: Debian's package, without TCP, in a folder of its own."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from itertools import count
from pathlib import Path

import psycopg
from psycopg import sql

from tests.helpers.privileges import lacking

_DEBIAN = Path("/usr/lib/postgresql")
#: The owner of everything; it gets in without a password.
_OWNER = "opq"
#: Seconds for what takes one at most on an idle machine.
_PATIENCE = 60
#: What a test never needs, or waits for in vain.
_SETTINGS = (
    "listen_addresses=",
    "max_connections=60",
    "shared_buffers=16MB",
    "max_wal_size=64MB",
    # One call instead of one for each of a thousand files, at each start after a kill.
    "recovery_init_sync_method=syncfs",
)

# A shell waits for the end of the test process, however that ends: then it stops the server.
_WATCH = """
trap '' INT TERM HUP
folder=$1; shift
(trap - INT TERM HUP; exec "$@" </dev/null) &
read -r word || word=
kill -INT $! 2>/dev/null
wait $!
[ "$word" = keep ] || rm -rf "$folder"
"""


class Postgres:
    """
    One server; the user `postgres` or `nobody` runs it if the tests run as root.

    It ends with the process that started it, even if that is killed.
    """

    def __init__(self, *, fsync: bool = False) -> None:
        """
        Make a new cluster of databases.

        :param fsync: as in operation, for tests that kill the server; much slower. Without it
            nothing is vacuumed either, which could change the order of rows at any moment.
        :raises SkipTest: if the machine lacks PostgreSQL.
        """
        self._bin = _binaries()
        # The path of a Unix socket has at most 107 bytes: TMPDIR may be too long.
        self.folder = Path(tempfile.mkdtemp(prefix="opq-pg-", dir="/tmp"))
        self._user = _unprivileged()
        if self._user is not None:
            os.chown(self.folder, self._user, -1)
        self._data = self.folder / "data"
        self._fsync = "on" if fsync else "off"
        self._numbers = count(1)
        self._run("initdb", "--no-sync", "--auth=trust", f"--username={_OWNER}", "--encoding=UTF8")
        self.start()

    def start(self) -> None:
        """Start the server, and wait until it can be used."""
        settings = [*_SETTINGS, f"unix_socket_directories={self.folder}", f"fsync={self._fsync}"]
        settings.append(f"autovacuum={self._fsync}")
        command = [
            *("sh", "-c", _WATCH, "sh", str(self.folder), str(self._bin / "postgres")),
            *("-D", str(self._data), *(word for each in settings for word in ("-c", each))),
        ]
        with (self.folder / "log").open("ab") as log:
            self._watcher = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd="/",
                user=self._user,
                start_new_session=True,
            )
        self._wait_until_ready()

    def stop(self) -> None:
        """Stop the server; its databases are there at the next start."""
        self._dismiss(b"keep\n")

    def remove(self) -> None:
        """Stop the server, and remove its databases."""
        self._dismiss(b"")
        # The watcher of a server that was stopped before has left them.
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self) -> None:
        """Kill all processes of the server at once, as a loss of power does."""
        # The first one would make others until it has ended.
        os.kill(self._pids()[0], signal.SIGSTOP)
        pids = self._pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.stop()
        # PostgreSQL does not start as long as one has its shared memory.
        end = time.monotonic() + _PATIENCE
        while any(map(_runs, pids)) and time.monotonic() < end:
            time.sleep(0.01)

    def suspend(self) -> None:
        """Let no process of the server run, until `resume`."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let all processes of the server run again."""
        for pid in self._pids():
            os.kill(pid, signal.SIGCONT)

    def url(self, database: str) -> str:
        """Return the URL of a database, as for `--fleet-db`."""
        return f"postgresql://{_OWNER}@/{database}?host={self.folder}"

    def new_database(self, template: str = "template1") -> str:
        """Make a database, and return its name."""
        name = f"test_{next(self._numbers)}"
        command = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        self.execute(command.format(sql.Identifier(name), sql.Identifier(template)))
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever uses it."""
        self.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def execute(self, command: sql.Composed) -> None:
        """Run a command that no transaction may have around it."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(command)

    def client(self, program: str, database: str) -> list[str]:
        """Return the command of a client program, such as `pg_dump`, for a database."""
        return [str(self._bin / program), f"--dbname={self.url(database)}"]

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                if self._watcher.poll() is not None or time.monotonic() > end:
                    raise AssertionError((self.folder / "log").read_text()) from None
                time.sleep(0.02)
            else:
                return

    def _dismiss(self, word: bytes) -> None:
        assert self._watcher.stdin is not None
        if not self._watcher.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._watcher.stdin.write(word)
                self._watcher.stdin.close()
        self._watcher.wait(_PATIENCE)

    def _pids(self) -> list[int]:
        first = int((self._data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [first, *map(int, children)]

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._bin / program), "-D", str(self._data), *arguments],
            check=True,
            capture_output=True,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C"},
            user=self._user,
        )


@cache
def shared_postgres() -> Postgres:
    """Return the server of this test process, which is started at the first use."""
    return Postgres()


def _runs(pid: int) -> bool:
    try:
        # The state follows the name: proc(5). One that is ended waits for its parent only.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _binaries() -> Path:
    """Find the programs of the newest version."""
    found = [path.parent for path in _DEBIAN.glob("*/bin/initdb")]
    if not found:
        raise lacking("needs PostgreSQL: apt install postgresql")
    return max(found, key=lambda path: int(path.parent.name))


def _unprivileged() -> int | None:
    """Return a user that may run PostgreSQL, which refuses root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    raise lacking("needs a user such as postgres")
