"""An archive is a `.part` until it is on the disk, complete and verified."""

import bz2
import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

from twisted.internet.defer import CancelledError, Deferred, execute
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.release import Release
from opq_twisted.box.download import downloader
from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.box.download.downloader import Downloader
from opq_twisted.box.download.verify import InThread
from opq_twisted.box.state.status import Progress
from opq_twisted.common.errors import DownloadFailed, WronglyJoined
from tests.helpers.box_fakes import NEW, OLD
from tests.helpers.memory_network import Network, Peer

ARCHIVE = bz2.compress(os.urandom(3000))
OTHER = bz2.compress(os.urandom(3000))
HASHES = {"sha256": hashlib.sha256(ARCHIVE).hexdigest()}
SHA512 = {"sha512": hashlib.sha512(ARCHIVE).hexdigest()}
SIGNED = Release(NEW, len(ARCHIVE), HASHES)
NAME = f"opq-box-update-{NEW}.tar.bz2"


class DownloadCase(SynchronousTestCase):
    """A downloader whose server is the test."""

    def setUp(self) -> None:
        self.network = Network()
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.part = self.folder / f"{NAME}.part"
        self.downloader = self.another()

    def another(self, in_thread: InThread = execute) -> Downloader:
        """Make the downloader of a later run of the agent."""
        self.archives = ArchiveStore(self.folder, in_thread)
        return Downloader(self.network.clock, self.network.server, self.archives)

    def files(self) -> dict[str, bytes]:
        """Return the archives and parts."""
        return {
            path.name: path.read_bytes()
            for path in self.folder.iterdir()
            if path.name != ".lock" and path.suffix != ".pieces"
        }

    def failure(self, running: Deferred[Any]) -> str:
        return str(self.failureResultOf(running, DownloadFailed).value)


class FetchTests(DownloadCase):
    """The download of a release to its part file."""

    def fetch(self, release: Release = SIGNED) -> tuple[Deferred[Release], Peer]:
        self.reports: list[Progress] = []
        self.said: list[str] = []
        fetching = Deferred.fromCoroutine(
            self.downloader.fetch(release, self.reports.append, self.said.append)
        )
        return fetching.addCallback(lambda result: result[0]), self.network.accept()

    def interrupt(self, release: Release = SIGNED) -> None:
        """Let an earlier run leave 1000 bytes of a release."""
        fetching, peer = self.fetch(release)
        peer.answer("200 OK", 'ETag: "one"', body=ARCHIVE[:1000])
        fetching.cancel()
        self.failureResultOf(fetching, CancelledError)
        self.downloader = self.another()

    def test_fetched(self) -> None:
        """An archive is requested by its name, and its promised size and hashes are returned."""
        for release in (SIGNED, Release(NEW)):
            with self.subTest(release=release):
                fetching, peer = self.fetch(release)
                self.assertTrue(peer.request.startswith(f"GET /update/{NAME} HTTP/1.1\r\n"))
                peer.answer("200 OK", f"Content-Length: {len(ARCHIVE)}", body=ARCHIVE)
                promised = self.successResultOf(fetching)
                self.assertEqual(promised, Release(NEW, len(ARCHIVE), release.hashes))
                self.assertEqual(self.part.read_bytes(), ARCHIVE)
                self.assertNotIn(NAME, self.files())
                self.assertEqual(self.reports[-1].received, len(ARCHIVE))
                self.archives.prune()

    def test_resumed(self) -> None:
        """A later run continues an interrupted download, even after the store was cleared."""
        self.interrupt()
        self.archives.prune(OLD, fetching=NEW)
        fetching, peer = self.fetch()
        self.assertIn("\r\nRange: bytes=1000-\r\n", peer.request)
        total = len(ARCHIVE)
        peer.answer(
            "206 Partial Content",
            f"Content-Range: bytes 1000-{total - 1}/{total}",
            f"Content-Length: {total - 1000}",
            body=ARCHIVE[1000:],
        )
        self.assertEqual(self.successResultOf(fetching), SIGNED)
        received, file = self.successResultOf(
            Deferred.fromCoroutine(self.downloader.verify(SIGNED))
        )
        file.close()
        self.assertEqual(received, SIGNED)
        self.assertEqual(self.files(), {NAME: ARCHIVE})

    def test_pieces(self) -> None:
        """Joined responses that do not fit have another error than a single wrong response."""
        self.interrupt()
        fetching, peer = self.fetch()
        total = len(ARCHIVE)
        peer.answer(
            "206 Partial Content",
            f"Content-Range: bytes 1000-{total - 1}/{total}",
            f"Content-Length: {total - 1000}",
            body=bytes(total - 1000),
        )
        promised = self.successResultOf(fetching)
        verifying = Deferred.fromCoroutine(self.downloader.verify(promised))
        self.failureResultOf(verifying, WronglyJoined)
        self.assertEqual(self.files(), {})
        fetching, peer = self.fetch()
        self.assertNotIn("Range", peer.request)
        peer.answer("200 OK", f"Content-Length: {total}", body=bytes(total))
        promised = self.successResultOf(fetching)
        verifying = Deferred.fromCoroutine(self.downloader.verify(promised))
        error = self.failureResultOf(verifying, DownloadFailed).value
        self.assertNotIsInstance(error, WronglyJoined)

    def test_another_close_fd(self) -> None:
        """A part file of another archive with the same version is not continued."""
        self.interrupt()
        _, peer = self.fetch(Release(NEW, len(ARCHIVE), {"sha256": "00" * 32}))
        self.assertNotIn("Range", peer.request)
        self.assertEqual(self.files(), {})

    def test_too_large(self) -> None:
        """No archive is larger than the limit."""
        self.patch(downloader, "MAX_ARCHIVE", 1000)
        fetching, peer = self.fetch(Release(NEW))
        peer.answer("200 OK", "Content-Length: 1001")
        self.assertIn("1001 bytes; at most 1000", self.failure(fetching))


class VerifyTests(DownloadCase):
    """The verification before an archive gets its final name."""

    def leave(self, content: bytes, path: Path | None = None) -> None:
        """Leave a part file and its record, as a download does."""
        (path or self.part).write_bytes(content)
        (self.folder / f"{NAME}.part.json").write_text("{}")

    def verify(self, promised: Release) -> Deferred[tuple[Release, BinaryIO]]:
        return Deferred.fromCoroutine(self.downloader.verify(promised))

    def verified(self, promised: Release) -> BinaryIO:
        received, file = self.successResultOf(self.verify(promised))
        self.addCleanup(file.close)
        self.assertEqual(received, Release(NEW, len(ARCHIVE), {**HASHES, **promised.hashes}))
        self.assertEqual(self.files(), {NAME: ARCHIVE})
        return file

    def refused(self, promised: Release) -> str:
        sentence = self.failure(self.verify(promised))
        self.assertEqual(self.files(), {})
        return sentence

    def test_promised(self) -> None:
        """The promised archive gets its name, and its SHA-256 is returned in any case."""
        for hashes in ({}, HASHES, SHA512, {**HASHES, **SHA512}):
            for size in (None, len(ARCHIVE)):
                with self.subTest(hashes=hashes, size=size):
                    self.leave(ARCHIVE)
                    self.verified(Release(NEW, size, hashes))

    def test_very_file(self) -> None:
        """The returned file is the verified one, even if its name leads to another file later."""
        self.leave(ARCHIVE)
        file = self.verified(SIGNED)
        self.leave(OTHER, self.folder / "other")
        (self.folder / "other").replace(self.archives.path(NEW))
        self.assertEqual(file.tell(), 0)
        self.assertEqual(file.read(), ARCHIVE)

    def test_another_digest(self) -> None:
        """An archive with another hash than promised is refused and removed."""
        for hashes, name in (
            ({"sha256": "00" * 32}, "SHA-256"),
            ({**HASHES, "sha512": "00" * 64}, "SHA-512"),
            ({**HASHES, "sha3_256": "00" * 32}, "sha3_256"),
        ):
            with self.subTest(name=name):
                self.leave(ARCHIVE)
                sentence = self.refused(Release(NEW, len(ARCHIVE), hashes))
                self.assertIn(f"another {name} than promised", sentence)

    def test_another_size(self) -> None:
        """So is one of another size, such as a part file that lost its end in a power cut."""
        self.leave(ARCHIVE[:1000])
        sentence = self.refused(Release(NEW, len(ARCHIVE)))
        self.assertIn(f"1000 bytes arrived instead of {len(ARCHIVE)}", sentence)

    def test_truncated(self) -> None:
        """A missing end is found even without a promised size."""
        for content in (ARCHIVE[:-1], ARCHIVE[:1000], b"", b"<!doctype html>", bytes(4096)):
            with self.subTest(content=content[:10]):
                self.leave(content)
                self.assertIn("not a whole bzip2", self.refused(Release(NEW)))

    def test_no_file(self) -> None:
        """A link is not followed, and a FIFO is not waited for."""
        target = Path(self.mktemp())
        target.write_bytes(ARCHIVE)
        for make in (
            lambda: None,
            lambda: os.mkfifo(self.part),
            lambda: self.part.symlink_to(target.absolute()),
        ):
            make()
            self.refused(SIGNED)

    def test_cancelled(self) -> None:
        """A verification can be cancelled; the part file is kept."""
        self.leave(ARCHIVE)
        before = os.listdir("/proc/self/fd")
        threads: list[tuple[Any, ...]] = []

        def in_thread(*work: Any) -> Deferred[Any]:
            threads.append(work)
            return Deferred()

        self.downloader = self.another(in_thread)
        verifying = self.verify(SIGNED)
        verifying.cancel()
        self.failureResultOf(verifying, CancelledError)
        self.assertIn(self.part.name, self.files())
        # The thread ends with the next chunk: a stopping agent waits for it.
        function, *args = threads.pop()
        self.assertRaises(CancelledError, function, *args)
        self.assertEqual(os.listdir("/proc/self/fd"), before)

    def test_disk_fails(self) -> None:
        """If the file cannot be renamed, it is closed."""
        self.leave(ARCHIVE)
        before = os.listdir("/proc/self/fd")
        self.archives.path(NEW).mkdir()
        self.failureResultOf(self.verify(SIGNED), OSError)
        self.assertEqual(os.listdir("/proc/self/fd"), before)
