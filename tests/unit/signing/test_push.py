"""Tests of sending signed releases to a server by a real rsync, in a folder of this machine."""

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import SkipTest

from tuf.api.metadata import Metadata, Timestamp

from opq_twisted.common.errors import ReleaseFailed
from opq_twisted.signing.prune import prune
from opq_twisted.signing.push import Push
from opq_twisted.signing.repository import Repository
from opq_twisted.signing.root_keys import RootSigner
from opq_twisted.signing.rsync import connected
from tests.helpers.archives import name_of
from tests.helpers.key_holders import NEW, NEWER, OLD, HoldersCase, TufClient, serve
from tests.helpers.signed_metadata import make_key


class PushCase(HoldersCase):
    """A release machine, and the directory of a server."""

    def setUp(self) -> None:
        if shutil.which("rsync") is None:
            if "CI" in os.environ:
                self.fail("There is no rsync.")
            raise SkipTest("There is no rsync.")
        super().setUp()
        self.there = self.place / "server"
        self.there.mkdir()
        self.clock = 0.0
        self.server_runs = True
        self.now = datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        """Let time pass for the server."""
        self.clock += seconds
        if self.server_runs:
            self.serve_there()

    def serve_there(self) -> None:
        serve(RootSigner(Repository(self.there), self.key_folder, lambda: self.now))

    def start(self) -> Push:
        with connected(str(self.there)) as destination:
            return Push(
                self.repository, destination, lambda: self.now, lambda: self.clock, self.sleep
            )

    def push(self) -> list[str]:
        """Do all steps of the command; return the names of the removed archives."""
        upload = self.start()
        current = upload.send()
        upload.wait(current)
        return upload.remove_old(current)

    def on_the_server(self) -> set[str]:
        return {path.name for path in self.there.iterdir()} - {"tuf"}

    def assert_fails(self, *words: str) -> None:
        with self.assertRaises(ReleaseFailed) as caught:
            self.push()
        for word in words:
            self.assertIn(word, str(caught.exception))


class AnnouncedTests(PushCase):
    """The server announces what it gets."""

    def test_release(self) -> None:
        """Boxes of the server see the release at the end, and this copy has its timestamp."""
        self.publish(OLD)
        os.umask(os.umask(0o077))
        self.push()
        self.assertEqual(TufClient(self.there / "tuf").version(), OLD)
        for path in (self.there / name_of(OLD), self.there / "tuf" / "1.root.json"):
            self.assertEqual(path.stat().st_mode & 0o777, 0o644)
        timestamp = (self.there / "tuf" / "timestamp.json").read_bytes()
        self.assertEqual((self.tuf / "timestamp.json").read_bytes(), timestamp)
        self.server_runs = False
        self.push()
        self.assertLess(self.clock, 10)

    def test_only_what_is_signed(self) -> None:
        """Other archives and an old timestamp stay here, and other files stay on the server."""
        self.publish(OLD)
        self.push()
        self.publish(NEW)
        before = (self.tuf / "timestamp.json").read_bytes()
        self.archive(NEWER, where=self.updates)
        for name in ("notes.txt", name_of(NEWER + 1)):
            (self.there / name).write_text("somebody's")
        upload = self.start()
        upload.send()
        self.assertEqual((self.there / "tuf" / "timestamp.json").read_bytes(), before)
        upload.remove_old(upload.current())
        self.assertEqual(
            self.on_the_server(), {name_of(OLD), name_of(NEW), "notes.txt", name_of(NEWER + 1)}
        )

    def test_pruned(self) -> None:
        """Pruned archives are removed when the server leads nowhere else, there and here."""
        self.publish(OLD - 1)
        self.push()
        for version in (OLD, NEW, NEWER):
            self.publish(version)
        self.assertEqual(prune(self.signer, 0).still_there, [name_of(OLD - 1)])
        self.archive(OLD, where=self.there)
        self.server_runs = False
        self.assert_fails("after 120 seconds the server still announces snapshot 2")
        self.assertIn(name_of(OLD - 1), self.on_the_server())
        self.server_runs = True
        self.assertEqual(self.push(), [name_of(OLD - 1), name_of(OLD)])
        self.assertEqual(self.on_the_server(), {name_of(NEW), name_of(NEWER)})
        self.assertFalse((self.updates / name_of(OLD - 1)).exists())


class FailingTests(PushCase):
    """What does not work, and what the sentence says."""

    def test_server_does_not_run(self) -> None:
        """After two minutes the command gives up, and says what is on the server."""
        self.server_runs = False
        self.assert_fails("has no timestamp", "--timestamp-key", f"opq-release push {self.there}")
        self.assertTrue(120 <= self.clock < 130)
        self.serve_there()
        self.now += timedelta(days=8)
        self.assert_fails("has a timestamp that has expired")
        path = self.there / "tuf" / "timestamp.json"
        timestamp = Metadata[Timestamp].from_file(str(path))
        timestamp.sign(make_key())
        timestamp.to_file(str(path))
        self.assert_fails("is not signed by the key that root 1 names")
        path.write_bytes(b"{")
        self.assert_fails("has a damaged timestamp")
        self.assertFalse((self.tuf / "timestamp.json").exists())

    def test_archives_first(self) -> None:
        """If an archive cannot be sent, no metadata is."""
        self.publish(OLD)
        (self.there / name_of(OLD) / "in the way").mkdir(parents=True)
        self.assert_fails(f"rsync could not finish with {self.there}", "again")
        self.assertFalse((self.there / "tuf").exists())

    def test_wrong_archive(self) -> None:
        """An archive of another length than the signed one is not sent."""
        self.publish(OLD)
        (self.updates / name_of(OLD)).write_bytes(b"")
        self.assert_fails("has 0 bytes", "put back")
        self.assertEqual(self.on_the_server(), set())


class ConflictTests(PushCase):
    """Somebody has signed in another copy of the directory."""

    def setUp(self) -> None:
        super().setUp()
        self.publish(OLD)
        self.push()
        self.other = self.place / "other"
        for name in ("updates", "keys"):
            shutil.copytree(self.place / name, self.other / name)

    def push_from_other(self, work: str) -> None:
        """Let another holder with the same keys do something."""
        before = self.place
        self.place, self.updates, self.tuf = (
            *(self.other, self.other / "updates"),
            self.other / "updates" / "tuf",
        )
        self.renew_signer()
        getattr(self.signer, work)()
        self.push()
        self.place, self.updates, self.tuf = before, before / "updates", before / "updates" / "tuf"
        self.renew_signer()

    def test_newer(self) -> None:
        """Nothing is sent to a server that has announced a newer snapshot."""
        self.push_from_other("resign")
        self.assert_fails("has snapshot 3, and", "has snapshot 2", "another copy")

    def test_same_number(self) -> None:
        """A snapshot of the same number is never replaced by another one, announced or not."""
        self.push_from_other("resign")
        self.publish(NEW)
        theirs = (self.there / "tuf" / "3.snapshot.json").read_bytes()
        self.assert_fails("has another snapshot 3, and", "another copy")
        (self.there / "tuf" / "timestamp.json").unlink()
        self.assert_fails("has another snapshot 3, and", "another copy")
        self.assertEqual((self.there / "tuf" / "3.snapshot.json").read_bytes(), theirs)
        self.assertNotIn(name_of(NEW), self.on_the_server())

    def test_newer_root(self) -> None:
        """A root that this copy lacks is noticed, but not one that the server has made up."""
        (self.there / "tuf" / "2.root.json").write_bytes(b"{}")
        self.push()
        (self.there / "tuf" / "2.root.json").unlink()
        self.push_from_other("renew_root")
        self.assert_fails("has root 2, and", "has root 1")


class PlaceTests(PushCase):
    """The directory itself, and what is typed for it."""

    def test_same_directory(self) -> None:
        """On the server itself, the command waits, and removes pruned archives."""
        self.there = self.updates
        for version in (OLD, NEW, NEWER):
            self.publish(version)
            self.serve_there()
        before = {path: path.read_bytes() for path in self.tuf.glob("*.*.json")}
        prune(self.signer, 0)
        self.assertEqual(self.push(), [])
        self.assertEqual({path: path.read_bytes() for path in before if path.exists()}, before)
        self.assertEqual(self.on_the_server(), {name_of(NEW), name_of(NEWER)})

    def test_missing(self) -> None:
        """A directory that is not there is not made."""
        self.there = Path(self.mktemp())
        self.assert_fails("There is no directory", "SERVER:/DIR")
