"""Each archive is hashed once, one after the other, and only if it is the file on offer."""

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
        """A digest is not known until it is computed; then it is the file's SHA-256."""
        (archive,) = self.offer(1)
        self.digests.want(archive)
        self.assertIsNone(self.digests.known(archive))
        self.thread.work()
        self.assertEqual(
            self.digests.known(archive), hashlib.sha256(archive.path.read_bytes()).digest()
        )

    def test_computed_once(self) -> None:
        """Another request for a digest, during or after the computation, computes nothing."""
        (archive,) = self.offer(1)
        self.digests.want(archive)
        self.digests.want(archive)
        self.thread.work()
        self.digests.want(archive)
        self.assertEqual(self.thread.waiting, [])

    def test_one_at_a_time(self) -> None:
        """The archives are hashed one after the other."""
        first, second = self.offer(1, 2)
        self.digests.want(first)
        self.digests.want(second)
        self.assertEqual(len(self.thread.waiting), 1)
        self.thread.work()
        self.assertIsNone(self.digests.known(second))
        self.thread.work()
        self.assertIsNotNone(self.digests.known(second))

    def test_newest_without_being_asked(self) -> None:
        """The newest archive's digest is computed in advance."""
        self.catalog.observers.append(self.digests.catalog_changed)
        old, newest = self.offer(1, 2)
        self.thread.work()
        self.assertIsNotNone(self.digests.known(newest))
        self.assertIsNone(self.digests.known(old))
        self.assertEqual(self.thread.waiting, [])

    def test_nothing_on_offer(self) -> None:
        """An empty catalog requests nothing."""
        self.digests.catalog_changed(self.catalog.snapshot)
        self.assertEqual(self.thread.waiting, [])

    def test_forgotten(self) -> None:
        """An archive that is no longer on offer is forgotten, and not hashed."""
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
        """A file that is no longer the one on offer gets no digest; the new one does."""
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
        """After many requested archives have gone, the next one is hashed."""
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
        """An archive that has gone is logged, and the next ones are hashed."""
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
        """A FIFO in the place of the archive does not block."""
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
        """A server that stops does not wait for the digest of a large archive."""
        (archive,) = self.offer(1)
        self.digests.startService()
        self.digests.want(archive)
        self.digests.stopService()
        self.thread.work()
        self.assertIsNone(self.digests.known(archive))
