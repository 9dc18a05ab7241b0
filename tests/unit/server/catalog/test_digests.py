"""Each archive's sha-256 is computed once, one at a time, and is that of the very file on offer."""

import hashlib
import os
import threading
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.server.catalog.digests import Digests, sha256_of
from opq_twisted.server.catalog.snapshot import Archive, Catalog
from tests.helpers.archives import make_archive, name_of
from tests.helpers.manual_thread import Thread


class DigestsTests(SynchronousTestCase):
    """`Digests` over a real directory."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.thread = Thread()
        self.addCleanup(self.thread.finish)
        self.digests = Digests(self.thread)
        self.catalog = Catalog(self.directory)

    def offer(self, *versions: int) -> list[Archive]:
        for version in versions:
            make_archive(self.directory / name_of(version), version)
        self.catalog.rescan()
        found = [self.catalog.snapshot.find(name_of(version)) for version in versions]
        return [archive for archive in found if archive is not None]

    def test_known_when_computed(self) -> None:
        """Nothing is known until it is computed; then it is the file's sha-256."""
        (archive,) = self.offer(1)
        self.digests.want(archive)
        self.assertIsNone(self.digests.known(archive))
        self.thread.work()
        self.assertEqual(
            self.digests.known(archive), hashlib.sha256(archive.path.read_bytes()).digest()
        )

    def test_computed_once(self) -> None:
        """To ask again, while it is computed or later, computes nothing again."""
        (archive,) = self.offer(1)
        self.digests.want(archive)
        self.digests.want(archive)
        self.thread.work()
        self.digests.want(archive)
        self.assertEqual(self.thread.waiting, [])

    def test_one_at_a_time(self) -> None:
        """However many are wanted, one disk is read by one reader."""
        first, second = self.offer(1, 2)
        self.digests.want(first)
        self.digests.want(second)
        self.assertEqual(len(self.thread.waiting), 1)
        self.thread.work()
        self.assertIsNone(self.digests.known(second))
        self.thread.work()
        self.assertIsNotNone(self.digests.known(second))

    def test_newest_without_being_asked(self) -> None:
        """The newest archive's digest is there before the first box asks."""
        self.catalog.observers.append(self.digests.catalog_changed)
        old, newest = self.offer(1, 2)
        self.thread.work()
        self.assertIsNotNone(self.digests.known(newest))
        self.assertIsNone(self.digests.known(old))
        self.assertEqual(self.thread.waiting, [])

    def test_nothing_on_offer(self) -> None:
        """A catalog without an archive wants nothing."""
        self.digests.catalog_changed(self.catalog.snapshot)
        self.assertEqual(self.thread.waiting, [])

    def test_forgotten(self) -> None:
        """What is offered no more is forgotten: it is not read, nor known if it was."""
        self.catalog.observers.append(self.digests.catalog_changed)
        old, newest = self.offer(1, 2)
        self.digests.want(old)
        old.path.unlink()
        self.catalog.rescan()
        self.thread.work()
        self.assertEqual(self.thread.waiting, [])
        newest.path.unlink()
        self.catalog.rescan()
        self.assertIsNone(self.digests.known(newest))

    def test_changed_since(self) -> None:
        """A file that is no longer the one on offer has no digest; the new one gets its own."""
        (archive,) = self.offer(1)
        self.digests.want(archive)
        archive.path.write_bytes(make_archive(Path(self.mktemp()), 99).read_bytes())
        self.thread.work()
        self.assertIsNone(self.digests.known(archive))
        self.catalog.rescan()
        (changed,) = self.catalog.snapshot.archives
        self.digests.want(changed)
        self.thread.work()
        self.assertEqual(
            self.digests.known(changed), hashlib.sha256(archive.path.read_bytes()).digest()
        )

    def test_many_forgotten_at_once(self) -> None:
        """However many are gone that were wanted, the next one gets its turn."""
        self.catalog.observers.append(self.digests.catalog_changed)
        for archive in self.offer(*range(1, 1501)):
            self.digests.want(archive)
        for path in self.directory.iterdir():
            path.unlink()
        (newest,) = self.offer(2000)
        self.thread.work()
        self.thread.work()
        self.assertEqual(len(self.flushLoggedErrors(FileNotFoundError)), 1)
        self.assertIsNotNone(self.digests.known(newest))
        self.assertEqual(self.thread.waiting, [])

    def test_gone(self) -> None:
        """A file that is gone is logged, and those after it get their turn."""
        first, second = self.offer(1, 2)
        first.path.unlink()
        self.digests.want(first)
        self.digests.want(second)
        self.thread.work()
        self.assertEqual(len(self.flushLoggedErrors(FileNotFoundError)), 1)
        self.thread.work()
        self.assertIsNone(self.digests.known(first))
        self.assertIsNotNone(self.digests.known(second))

    def test_fifo_in_its_place(self) -> None:
        """A FIFO that took the archive's name is not waited for."""
        (archive,) = self.offer(1)
        archive.path.unlink()
        os.mkfifo(archive.path)
        stopping = threading.Event()
        result: list[bytes | None] = []
        reader = threading.Thread(
            target=lambda: result.append(sha256_of(archive, stopping)), daemon=True
        )
        reader.start()
        reader.join(10)
        self.assertEqual(result, [None])

    def test_stopped(self) -> None:
        """A server that ends does not wait for a large archive's digest."""
        (archive,) = self.offer(1)
        self.digests.startService()
        self.digests.want(archive)
        self.digests.stopService()
        self.thread.work()
        self.assertIsNone(self.digests.known(archive))
