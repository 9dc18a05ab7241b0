"""The file of a SQLite database: checks its folder, and whether the file was replaced."""

import contextlib
import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from opq_twisted.common.errors import CannotStart

#: Seconds to wait for another process that writes.
_BUSY_TIMEOUT = 5

#: SQLite shares memory between processes and relies on locks; neither works across machines.
_NETWORK = frozenset(
    [
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "gfs2",
        "glusterfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "smb3",
        "smbfs",
        "fuse.ceph-fuse",
        "fuse.curlftpfs",
        "fuse.gcsfuse",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "fuse.davfs",
    ]
)
_MOUNTS = Path("/proc/self/mountinfo")

#: The device and the number of a file: another file of the same name has others.
Identity = tuple[int, int]


class SqliteFile:
    """The file of the database; it is made only when the server starts."""

    def __init__(self, path: Path) -> None:
        # The server may change its folder later.
        self.path = path.absolute()
        #: The path and the identity of SQLite's write-ahead log, which is beside the file.
        self._known_log: tuple[Path, Identity] | None = None

    def make(self) -> None:
        """
        Make the file if there is none, readable only by this user.

        :raises CannotStart: if the folder or the file cannot be used.
        """
        try:
            folder = self.path.resolve().parent
            _refuse_network(folder)
            if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
                raise PermissionError(None, "this user may not write there")
            # SQLite gives the files beside it the same mode.
            descriptor = os.open(
                self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600
            )
            os.close(descriptor)
        except OSError as error:
            raise CannotStart(
                f"The database of the fleet {self.path} cannot be opened: {error.strerror}. "
                f"{_advice(error)}"
            ) from None
        if not self.path.is_file():
            raise CannotStart(f"--fleet-db: {self.path} is not a regular file.")

    def identity(self) -> Identity:
        """
        Return which file has the name now.

        :raises OSError: if there is none.
        """
        return _identity(self.path)

    def note_log(self) -> None:
        """Remember the write-ahead log of the present file."""
        with contextlib.suppress(FileNotFoundError):
            self._known_log = self._find_log()

    def remove_old_log(self) -> None:
        """
        Remove the log of a file that was replaced, after all connections to it were closed.

        SQLite would apply the old log to the new file, and so damage it.
        """
        with contextlib.suppress(FileNotFoundError):
            # Another process may have begun a new log already.
            log, identity = self._find_log()
            if (log, identity) == self._known_log:
                log.unlink()
                log.with_name(f"{self.path.resolve().name}-shm").unlink(missing_ok=True)

    def _find_log(self) -> tuple[Path, Identity]:
        # SQLite follows symbolic links, too.
        log = Path(f"{self.path.resolve()}-wal")
        return log, _identity(log)

    def connect(self) -> sqlite3.Connection:
        """Open the file; a missing one is not made."""
        connection = sqlite3.connect(
            f"file:{quote(os.fsencode(self.path))}?mode=rw",
            uri=True,
            timeout=_BUSY_TIMEOUT,
            # SQLAlchemy's pool gives a connection to one thread at a time.
            check_same_thread=False,
            # The driver must begin no transaction by itself: see SQLAlchemy's notes on pysqlite.
            isolation_level=None,
        )
        try:
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        return connection


_PRAGMAS = (
    "journal_mode=WAL",
    # A commit returns only when the data is on the disk.
    "synchronous=FULL",
    "foreign_keys=ON",
    # Without this, REPLACE could delete rows of the audit, because no trigger runs.
    "recursive_triggers=ON",
)


def _advice(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "Create the folder for the user of the server, or check --fleet-db."
    if isinstance(error, PermissionError):
        return "Give the folder and the file to the user of the server, or check --fleet-db."
    return "Check --fleet-db."


def _identity(path: Path) -> Identity:
    status = path.stat()
    return status.st_dev, status.st_ino


def _refuse_network(folder: Path) -> None:
    kind = file_system(folder)
    if kind in _NETWORK:
        raise CannotStart(
            f"The database of the fleet cannot be in {folder}: SQLite damages its files on a "
            f"network file system ({kind}). Choose a folder on a disk of this machine, "
            "or PostgreSQL."
        )


def file_system(folder: Path) -> str | None:
    """
    Return the kind of a folder's file system, as the kernel names it; None if it does not say.

    :raises OSError: if there is no such folder.
    """
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = _MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        # See proc(5): the fields after " - " are the kind, the source and the options.
        before, _, after = line.partition(" - ")
        if before.split()[2:3] == [wanted]:
            return after.split()[0]
    return None
