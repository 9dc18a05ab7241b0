"""Each archive is read once, one after the other, and only if it is the file on offer."""

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.server.catalog.archive_cache import (
    MAX_WANTED,
    RETRY_DELAY,
    ArchiveCache,
    compute_from,
)
from opq_twisted.server.catalog.digests import Digests
from opq_twisted.server.catalog.snapshot import Catalog
from opq_twisted.server.catalog.updates_file import Archive
from tests.helpers.archives import make_archive, make_large_archive, name_of
from tests.helpers.manual_thread import Thread


class FirstBytes(ArchiveCache):
    """Keeps the first kilobyte of archives, and only two of them."""

    what = "first kilobyte"
    max_size = 2000

    @staticmethod
    def compute(fd: int, size: int, each_chunk: Callable[[bytes], object]) -> bytes:
        """Read the first kilobyte."""
        return os.pread(fd, 1000, 0)


class ArchiveCacheTests(SynchronousTestCase):
    """A cache of digests over a real directory."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.thread = Thread()
        self.addCleanup(self.thread.finish)
        self.clock = Clock()
        self.digests = Digests(self.thread, self.clock.seconds)
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

    def test_newest_first(self) -> None:
        """The newest archive does not wait for the others that are wanted."""
        self.catalog.observers.append(self.digests.catalog_changed)
        for archive in self.offer(1, 2, 3):
            self.digests.want(archive)
        (newest,) = self.offer(4)
        self.thread.work()
        self.thread.work()
        self.assertIsNotNone(self.digests.known(newest))

    def test_many_wanted(self) -> None:
        """Archives over the limit have to be requested again, but for the newest one."""
        *archives, last = self.offer(*range(1, MAX_WANTED + 2))
        self.assertEqual([self.digests.want(each) for each in archives], [True] * MAX_WANTED)
        self.assertFalse(self.digests.want(last))
        self.assertTrue(self.digests.want(archives[-1]))
        self.digests.catalog_changed(self.catalog.snapshot)
        self.thread.finish()
        self.assertIsNotNone(self.digests.known(last))

    def test_many_newest(self) -> None:
        """Each new archive is the newest one for a while, and the last ones are computed."""
        self.catalog.observers.append(self.digests.catalog_changed)
        offered = [archive for version in range(1, 81) for archive in self.offer(version)]
        self.thread.finish()
        known = [each.name.version for each in offered if self.digests.known(each) is not None]
        self.assertEqual(known, list(range(81 - MAX_WANTED, 81)))

    def test_least_recently_used(self) -> None:
        """The value that was not used for the longest time is dropped if there are too many."""
        cache = FirstBytes(self.thread)
        for version in (1, 2, 3):
            make_large_archive(self.directory / name_of(version), 2000)
        self.catalog.rescan()
        first, second, third = self.catalog.snapshot.archives

        def compute(archive: Archive) -> None:
            cache.want(archive)
            self.thread.finish()

        compute(first)
        compute(second)
        self.assertEqual(cache.known(first), first.path.read_bytes()[:1000])
        compute(third)
        self.assertIsNone(cache.known(second))
        self.assertIsNotNone(cache.known(first))
        # What is gone leaves its room to others.
        first.path.unlink()
        self.catalog.rescan()
        cache.catalog_changed(self.catalog.snapshot)
        compute(second)
        self.assertIsNotNone(cache.known(second))
        self.assertIsNotNone(cache.known(third))

    def test_newest_is_kept(self) -> None:
        """Requests for many other archives do not drop the newest one's value."""
        cache = FirstBytes(self.thread)
        for version in range(1, 6):
            make_large_archive(self.directory / name_of(version), 2000)
        self.catalog.rescan()
        cache.catalog_changed(self.catalog.snapshot)
        self.thread.finish()
        *others, newest = self.catalog.snapshot.archives
        for archive in others:
            cache.want(archive)
            self.thread.finish()
        known = [archive for archive in others if cache.known(archive) is not None]
        self.assertEqual(known, others[-1:])
        self.assertIsNotNone(cache.known(newest))

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

    def test_later_try(self) -> None:
        """An archive that cannot be read is read again after a while, and only if wanted."""
        (archive,) = self.offer(1)
        content = archive.path.read_bytes()
        archive.path.unlink()
        self.assertTrue(self.digests.want(archive))
        self.thread.finish()
        self.assertEqual(len(self.flushLoggedErrors(FileNotFoundError)), 1)
        self.clock.advance(RETRY_DELAY - 1)
        self.assertFalse(self.digests.want(archive))
        self.digests.catalog_changed(self.catalog.snapshot)
        self.assertEqual(self.thread.waiting, [])
        self.clock.advance(1)
        self.assertEqual(self.thread.waiting, [])
        archive.path.write_bytes(content)
        self.catalog.rescan()
        (archive,) = self.catalog.snapshot.archives
        self.assertTrue(self.digests.want(archive))
        self.thread.finish()
        self.assertEqual(self.digests.known(archive), hashlib.sha256(content).digest())

    def test_written_to(self) -> None:
        """An archive that is written to while it is read has no value, and its end is found."""
        (archive,) = self.offer(1)

        def compute(fd: int, size: int, each_chunk: Callable[[bytes], object]) -> bytes:
            def append(chunk: bytes) -> None:
                each_chunk(chunk)
                with archive.path.open("ab") as file:
                    file.write(bytes(2 * len(chunk)))

            return Digests.compute(fd, size, append)

        self.assertIsNone(compute_from(archive, compute, threading.Event()))

    def test_fifo_in_its_place(self) -> None:
        """A FIFO in the place of the archive does not block."""
        (archive,) = self.offer(1)
        archive.path.unlink()
        os.mkfifo(archive.path)
        stopping = threading.Event()
        result: list[bytes | None] = []
        reader = threading.Thread(
            target=lambda: result.append(compute_from(archive, Digests.compute, stopping)),
            daemon=True,
        )
        reader.start()
        reader.join(10)
        self.assertEqual(result, [None])

    def test_stopped(self) -> None:
        """A server that stops does not wait for the digest of a large archive, nor of others."""
        other, archive = self.offer(1, 2)
        self.digests.startService()
        self.digests.want(archive)
        self.digests.want(other)
        self.digests.stopService()
        self.thread.work()
        self.assertIsNone(self.digests.known(archive))
        self.assertEqual(self.thread.waiting, [])
