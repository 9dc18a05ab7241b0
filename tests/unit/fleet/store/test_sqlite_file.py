"""Tests of the file of a SQLite database, as a start of the server finds or makes it."""

import os
import stat
from pathlib import Path
from unittest.mock import patch

from sqlalchemy import text
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.common.errors import CannotStart
from opq_twisted.fleet.store import sqlite_file
from opq_twisted.fleet.store.database import Database
from opq_twisted.fleet.store.sqlite_file import file_system
from tests.helpers.privileges import give_away, without_privileges


class TestStart(SynchronousTestCase):
    """A database is made at the first start, or the server says why it cannot be."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.path = self.folder / "fleet.db"

    def prepare(self, path: Path | str) -> Database:
        database = Database(None, f"sqlite:///{path}")
        self.addCleanup(database.engine.dispose)
        database.prepare()
        return database

    def refusal(self, path: Path | str) -> str:
        sentence = str(self.assertRaises(CannotStart, self.prepare, path))
        self.assertNotIn("\n", sentence)
        self.assertTrue(sentence.endswith("."), sentence)
        return sentence

    def test_mode(self) -> None:
        """Nobody else can read the new files, whatever the umask is."""
        self.addCleanup(os.umask, os.umask(0))
        self.prepare(self.path)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in self.folder.iterdir()}
        expected = dict.fromkeys(("fleet.db", "fleet.db-wal", "fleet.db-shm"), 0o600)
        self.assertEqual(modes, expected)

    def test_settings(self) -> None:
        """A commit waits for the disk, and readers do not wait for the writer."""
        database = self.prepare(self.path)
        names = ("journal_mode", "synchronous", "foreign_keys", "recursive_triggers")
        found = database.read_now(
            lambda connection: [
                connection.execute(text(f"PRAGMA {name}")).scalar() for name in names
            ]
        )
        self.assertEqual(found, ["wal", 2, 1, 1])

    def test_relative(self) -> None:
        """A relative path begins at the folder of the start, also when the server leaves that."""
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.folder)
        database = Database(None, "sqlite:///fleet.db")
        self.addCleanup(database.engine.dispose)
        os.chdir("/")
        database.prepare()
        self.assertTrue(self.path.exists())

    def test_no_folder(self) -> None:
        """A missing folder is named."""
        self.assertIn(
            f"{self.folder}/missing/fleet.db cannot be opened: No such file",
            self.refusal(self.folder / "missing" / "fleet.db"),
        )

    def test_not_writable(self) -> None:
        """SQLite needs to make files beside the database."""
        give_away(self.folder.parent)
        self.folder.chmod(0o500)
        with without_privileges():
            self.assertIn("may not write there. Give the folder", self.refusal(self.path))

    def test_folder_as_file(self) -> None:
        """Neither a folder nor a FIFO is a database."""
        self.assertIn("Is a directory", self.refusal(self.folder))
        os.mkfifo(self.path)
        self.assertIn("not a regular file", self.refusal(self.path))

    def test_no_database(self) -> None:
        """A file with something else in it is left as it is."""
        self.path.write_bytes(b"A letter to my aunt.\n" * 1000)
        sentence = f"file is not a database. Check {self.path}, or restore a backup."
        self.assertIn(sentence, self.refusal(self.path))
        self.assertEqual(self.path.read_bytes(), b"A letter to my aunt.\n" * 1000)

    def test_network(self) -> None:
        """No database is made on a network file system."""
        device = self.folder.stat().st_dev
        mounts = Path(self.mktemp())
        before = f"40 1 {os.major(device)}:{os.minor(device)} / /srv rw,relatime shared:1"
        for kind in ("nfs4", "cifs", "9p", "fuse.sshfs"):
            mounts.write_text(f"{before} - {kind} host:/srv rw\n")
            with patch.object(sqlite_file, "_MOUNTS", mounts):
                self.assertIn(f"network file system ({kind})", self.refusal(self.path))
        self.assertFalse(self.path.exists())
        mounts.write_text(f"{before} - fuse.fuse-overlayfs overlay rw\n")
        with patch.object(sqlite_file, "_MOUNTS", mounts):
            self.prepare(self.path)

    def test_file_system(self) -> None:
        """The file systems of this machine are recognized; an unknown list is no reason to stop."""
        self.assertEqual(file_system(Path("/proc")), "proc")
        with patch.object(sqlite_file, "_MOUNTS", self.folder / "missing"):
            self.assertIsNone(file_system(Path("/proc")))
