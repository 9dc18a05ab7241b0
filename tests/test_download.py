"""An archive has its name once it is on the disk, whole and as promised; before it is a `.part`."""

import base64
import bz2
import errno
import hashlib
import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import TestCase

from opq_twisted.box import download
from opq_twisted.box.download import MAX_ARCHIVE, Downloader
from opq_twisted.box.journal import Release
from opq_twisted.box.status import Progress
from opq_twisted.errors import DownloadFailed, NoRoom, ServerFailed
from tests.fakes import NEW, NEWER, OLD, Network, Peer

ARCHIVE = bz2.compress(os.urandom(3000))
DIGEST = hashlib.sha256(ARCHIVE)
NAME = f"opq-box-update-{NEW}.tar.bz2"


class DownloadCase(TestCase):
    """A downloader whose server is the test."""

    timeout = 30

    def setUp(self) -> None:
        self.network = Network()
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.downloader = Downloader(self.network.clock, self.network.server, self.folder)
        self.reports: list[Progress] = []

    def fetch(self) -> tuple[Deferred[Release], Peer]:
        fetching = Deferred.fromCoroutine(self.downloader.fetch(NEW, self.reports.append))
        return fetching, self.network.accept()

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}

    async def failure(self, running: Deferred[Any], kind: type[Exception]) -> str:
        """Wait for a failure, after which nothing goes on."""
        with self.assertRaises(kind) as caught:
            await running
        self.assertEqual(self.network.clock.getDelayedCalls(), [])
        return str(caught.exception)


class FetchTests(DownloadCase):
    """How an archive gets to the disk."""

    async def test_whole(self) -> None:
        """What comes is in the partial file, and what was promised about it is told."""
        fetching, peer = self.fetch()
        digest = base64.b64encode(DIGEST.digest()).decode()
        peer.answer("200 OK", f"Content-Length: {len(ARCHIVE)}", f"Repr-Digest: sha-256=:{digest}:")
        peer.send(ARCHIVE)
        self.assertEqual(await fetching, Release(NEW, len(ARCHIVE), DIGEST.hexdigest()))
        self.assertEqual(self.files(), {f"{NAME}.part": ARCHIVE})

    async def test_older_server(self) -> None:
        """A server that says neither length nor digest promises nothing, and sends all the same."""
        fetching, peer = self.fetch()
        peer.send(b"HTTP/1.0 200 OK\r\n\r\n" + ARCHIVE)
        peer.close()
        self.assertEqual(await fetching, Release(NEW))
        self.assertEqual(self.files(), {f"{NAME}.part": ARCHIVE})
        self.assertIsNone(self.reports[-1].total)

    async def test_streamed(self) -> None:
        """What comes goes to the disk as it comes, and is not kept in memory."""
        fetching, peer = self.fetch()
        size = 4 * 1024 * 1024
        peer.answer("200 OK", f"Content-Length: {size}")
        piece = bytes(64 * 1024)
        for sent in range(0, size, len(piece)):
            on_disk = (self.folder / f"{NAME}.part").stat().st_size
            self.assertGreaterEqual(on_disk, sent - len(piece))
            peer.send(piece)
        await fetching

    async def test_part_replaced(self) -> None:
        """What an earlier attempt left is not mixed with what comes now."""
        (self.folder / f"{NAME}.part").write_bytes(bytes(10_000))
        fetching, peer = self.fetch()
        peer.answer("200 OK", f"Content-Length: {len(ARCHIVE)}", body=ARCHIVE)
        await fetching
        self.assertEqual(self.files(), {f"{NAME}.part": ARCHIVE})

    async def test_progress(self) -> None:
        """Progress is told at most 4 times a second, and at the end."""
        fetching, peer = self.fetch()
        peer.answer("200 OK", "Content-Length: 1001")
        for _ in range(100):
            self.network.clock.advance(0.0625)
            peer.send(bytes(10))
        self.assertLessEqual(len(self.reports), 26)
        self.assertGreaterEqual(len(self.reports), 25)
        self.assertEqual(self.reports[-1].total, 1001)
        self.assertAlmostEqual(self.reports[-1].rate, 160)
        peer.send(b"x")
        self.assertEqual(self.reports[-1].received, 1001)
        await fetching

    async def test_broken(self) -> None:
        """A download that breaks off says how far it came."""
        fetching, peer = self.fetch()
        peer.answer("200 OK", f"Content-Length: {len(ARCHIVE)}", body=ARCHIVE[:1000])
        peer.reset()
        sentence = await self.failure(fetching, DownloadFailed)
        self.assertEqual(sentence, "The connection broke after 1000 bytes. Try again.")
        self.assertNotIn(NAME, self.files())

    async def test_not_sent(self) -> None:
        """A server that does not send it leaves nothing on the disk."""
        fetching, peer = self.fetch()
        peer.answer("503 Service Unavailable", "Retry-After: 7", "Content-Length: 0")
        with self.assertRaises(ServerFailed) as caught:
            await fetching
        self.assertEqual(caught.exception.retry_after, 7)
        self.assertEqual(self.files(), {})

    async def test_announced_too_large(self) -> None:
        """An archive that is larger than any is not even begun."""
        fetching, peer = self.fetch()
        peer.answer("200 OK", f"Content-Length: {MAX_ARCHIVE + 1}")
        sentence = await self.failure(fetching, DownloadFailed)
        self.assertIn(f"{MAX_ARCHIVE + 1} bytes", sentence)
        self.assertFalse(peer.open)
        self.assertEqual(self.files(), {})

    async def test_sent_too_large(self) -> None:
        """One that was not announced is taken up to the limit."""
        self.patch(download, "MAX_ARCHIVE", 1000)
        fetching, peer = self.fetch()
        peer.answer("200 OK", body=bytes(1001))
        self.assertIn("more than 1000 bytes", await self.failure(fetching, DownloadFailed))
        self.assertFalse(peer.open)

    async def test_no_room(self) -> None:
        """Without room for all of it nothing is begun, and the sentence says how much it takes."""
        self.patch(download, "RESERVE", 10**18)
        fetching, peer = self.fetch()
        peer.answer("200 OK", "Content-Length: 5000000")
        sentence = await self.failure(fetching, NoRoom)
        self.assertIn("needs 1000000000005 MB free", sentence)
        self.assertFalse(peer.open)
        self.assertEqual(self.files(), {})

    async def test_room_goes(self) -> None:
        """The reserve stays free, though the server did not say how much would come."""
        fetching, peer = self.fetch()
        peer.answer("200 OK", body=bytes(1000))
        self.patch(download, "RESERVE", 10**18)
        peer.send(bytes(1000))
        await self.failure(fetching, NoRoom)
        self.assertFalse(peer.open)
        self.assertEqual(self.files(), {})

    async def test_disk_full(self) -> None:
        """What came before the disk was full is removed again."""
        (self.folder / f"{NAME}.part").symlink_to("/dev/full")
        fetching, peer = self.fetch()
        peer.answer("200 OK", f"Content-Length: {len(ARCHIVE)}", body=ARCHIVE)
        with self.assertRaises(OSError) as caught:
            await fetching
        self.assertEqual(caught.exception.errno, errno.ENOSPC)
        self.assertEqual(self.files(), {})

    async def test_disk_fails(self) -> None:
        """When the file cannot even be made, the connection does not stay behind."""
        (self.folder / f"{NAME}.part").mkdir()
        fetching, peer = self.fetch()
        peer.answer("200 OK", f"Content-Length: {len(ARCHIVE)}")
        await self.failure(fetching, OSError)
        self.assertFalse(peer.open)

    async def test_cancelled(self) -> None:
        """A download can be given up at any time."""
        fetching, peer = self.fetch()
        peer.answer("200 OK", f"Content-Length: {len(ARCHIVE)}", body=ARCHIVE[:1000])
        fetching.cancel()
        with self.assertRaises((CancelledError, DownloadFailed)):
            await fetching
        self.assertFalse(peer.open)
        self.assertEqual(self.network.clock.getDelayedCalls(), [])


class VerifyTests(DownloadCase):
    """What must hold before an archive gets its name."""

    def part(self, content: bytes) -> None:
        (self.folder / f"{NAME}.part").write_bytes(content)

    async def refused(self, promised: Release) -> str:
        sentence = await self.failure(
            Deferred.fromCoroutine(self.downloader.verify(promised)), DownloadFailed
        )
        self.assertEqual(self.files(), {})
        return sentence

    async def test_promised(self) -> None:
        """What is as promised gets its name."""
        self.part(ARCHIVE)
        promised = Release(NEW, len(ARCHIVE), DIGEST.hexdigest())
        self.assertEqual(await self.downloader.verify(promised), promised)
        self.assertEqual(self.files(), {NAME: ARCHIVE})
        self.assertEqual(self.downloader.path(NEW), self.folder / NAME)

    async def test_nothing_promised(self) -> None:
        """Where nothing was promised, a whole archive is told by its end."""
        self.part(ARCHIVE)
        received = await self.downloader.verify(Release(NEW))
        self.assertEqual(received, Release(NEW, len(ARCHIVE), DIGEST.hexdigest()))
        self.assertEqual(self.files(), {NAME: ARCHIVE})

    async def test_another_digest(self) -> None:
        """Another digest than promised refuses the archive, and removes it."""
        self.part(ARCHIVE)
        sentence = await self.refused(Release(NEW, len(ARCHIVE), "00" * 32))
        self.assertIn("another SHA-256 than the server promised", sentence)

    async def test_another_size(self) -> None:
        """So does another size, as a part that lost its end in a power cut has."""
        self.part(ARCHIVE[:1000])
        sentence = await self.refused(Release(NEW, len(ARCHIVE)))
        self.assertIn(f"1000 bytes came instead of {len(ARCHIVE)}", sentence)

    async def test_truncated(self) -> None:
        """Without a promise a missing end is found all the same."""
        for content in (ARCHIVE[:-1], ARCHIVE[:1000], b"", b"<!doctype html>", bytes(4096)):
            with self.subTest(content=content[:10]):
                self.part(content)
                self.assertIn("not a whole bzip2", await self.refused(Release(NEW)))


class ClearTests(DownloadCase):
    """What is removed before another archive is fetched."""

    def test_clear(self) -> None:
        """Whatever was fetched goes, but for the release that is kept."""
        for version in (OLD, NEW, NEWER):
            self.downloader.path(version).write_bytes(b"whole")
        (self.folder / f"{NAME}.part").write_bytes(b"half")
        self.downloader.clear(keep=OLD)
        self.assertEqual(self.files(), {f"opq-box-update-{OLD}.tar.bz2": b"whole"})
        self.downloader.clear()
        self.assertEqual(self.files(), {})
