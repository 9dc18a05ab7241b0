"""A download that nothing interrupts, or that an earlier run began."""

import base64
import hashlib
import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, execute
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.download.resumable import fetch
from opq_twisted.box.download.verify import Content
from opq_twisted.box.state.status import Progress
from opq_twisted.common.errors import DownloadFailed
from tests.helpers.memory_network import Network, Peer

URL = "http://updates.example:8151/file"
DATA = os.urandom(3000)
HASHES = {"sha256": hashlib.sha256(DATA).hexdigest()}
SIGNED = Content(len(DATA), HASHES)
LIMIT = 10**8
TAG = 'ETag: "one"'
LENGTH = f"Content-Length: {len(DATA)}"


def rest(start: int, total: int | str = len(DATA)) -> list[str]:
    """Return the headers of a response with the rest."""
    return [
        f"Content-Range: bytes {start}-{len(DATA) - 1}/{total}",
        f"Content-Length: {len(DATA) - start}",
    ]


class FetchCase(SynchronousTestCase):
    """A download whose server is the test."""

    def setUp(self) -> None:
        self.network = Network()
        self.clock = self.network.clock
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.path = self.folder / "file.part"
        self.reports: list[Progress] = []
        self.said: list[str] = []

    def fetch(
        self, expected: Content = SIGNED, url: str = URL, limit: int = LIMIT
    ) -> Deferred[Content]:
        fetching = Deferred.fromCoroutine(
            fetch(
                self.clock,
                self.network.server,
                url,
                expected,
                self.path,
                limit,
                self.reports.append,
                self.said.append,
                execute,
            )
        )
        return fetching.addCallback(lambda result: result[0])

    def begin(
        self, *headers: str, body: bytes = b"", expected: Content = SIGNED
    ) -> tuple[Deferred[Content], Peer]:
        """Begin a download; the server answers, and sends some of it."""
        fetching = self.fetch(expected)
        peer = self.network.accept()
        self.assertNotIn("Range", peer.request)
        peer.answer("200 OK", *headers, body=body)
        return fetching, peer

    def begin_broken(
        self, *headers: str, body: bytes = b"", expected: Content = SIGNED
    ) -> Deferred[Content]:
        """Begin a download whose connection breaks, and let the first pause pass."""
        fetching, peer = self.begin(*headers, body=body, expected=expected)
        peer.reset()
        self.clock.advance(1)
        return fetching

    def interrupt(self, *headers: str, expected: Content = SIGNED) -> None:
        """Let an earlier run leave the first 1000 bytes."""
        fetching, _ = self.begin(*headers, body=DATA[:1000], expected=expected)
        self.cancel(fetching)
        self.assertEqual(self.path.read_bytes(), DATA[:1000])

    def ask(self, *asked: str) -> Peer:
        """Accept the next request, which must ask for this range, on this condition."""
        peer = self.network.accept()
        lines = peer.request.split("\r\n")
        found = [line for line in lines if line.startswith(("Range", "If-Range"))]
        self.assertEqual(sorted(found), sorted(asked))
        return peer

    def send_rest(self, start: int, *conditions: str) -> None:
        """Answer the next request, which must ask for the rest on this condition."""
        self.send_missing(self.ask(f"Range: bytes={start}-", *conditions), start)

    def send_whole(self) -> None:
        """Answer the next request, which must ask for all of it."""
        self.send_missing(self.ask(), 0)

    def send_missing(self, peer: Peer, start: int) -> None:
        if start:
            peer.answer("206 Partial Content", *rest(start), body=DATA[start:])
        else:
            peer.answer("200 OK", LENGTH, body=DATA)

    def assert_came(self, fetching: Deferred[Content], promised: Content) -> None:
        """Assert that the file is complete, and nothing is pending."""
        self.assertEqual(self.successResultOf(fetching), promised)
        self.assertEqual(self.path.read_bytes(), DATA)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def failure(self, fetching: Deferred[Any], kind: type[Exception] = DownloadFailed) -> str:
        """Assert that the download has failed, and nothing is pending; return the sentence."""
        error = self.failureResultOf(fetching, kind).value
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.network.clock.tcpClients, [])
        return str(error)

    def cancel(self, fetching: Deferred[Any]) -> None:
        """Cancel a download; nothing is pending then."""
        fetching.cancel()
        self.failure(fetching, CancelledError)

    def assert_nothing_left(self, peer: Peer | None = None) -> None:
        """No file is left; the connection, if one is given, is closed."""
        if peer is not None:
            self.assertFalse(peer.open)
        self.assertEqual(os.listdir(self.folder), [])


class WholeTests(FetchCase):
    """A download that nothing interrupts."""

    def test_unsigned(self) -> None:
        """Without expected content, the server's promise is returned."""
        digest = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
        fetching, peer = self.begin(LENGTH, f"Repr-Digest: sha-256=:{digest}:", expected=Content())
        peer.send(DATA)
        self.assert_came(fetching, SIGNED)

    def test_signed(self) -> None:
        """The server's headers do not change the signed content."""
        digest = base64.b64encode(bytes(32)).decode()
        fetching, peer = self.begin(f"Repr-Digest: sha-256=:{digest}:")
        peer.send(DATA)
        self.assertEqual(self.reports[-1].total, len(DATA))
        peer.close()
        self.assert_came(fetching, SIGNED)

    def test_older_server(self) -> None:
        """A download works with a server that sends neither a length nor a digest."""
        fetching = self.fetch(Content())
        peer = self.network.accept()
        peer.send(b"HTTP/1.0 200 OK\r\n\r\n" + DATA)
        self.assertIsNone(self.reports[-1].total)
        peer.close()
        self.assert_came(fetching, Content())

    def test_streamed(self) -> None:
        """Received bytes are written to the disk at once, and not kept in memory."""
        size = 4 * 1024 * 1024
        fetching, peer = self.begin(f"Content-Length: {size}", expected=Content())
        piece = bytes(64 * 1024)
        for sent in range(0, size, len(piece)):
            self.assertEqual(self.path.stat().st_size, sent)
            peer.send(piece)
        self.assertEqual(self.successResultOf(fetching), Content(size))

    def test_progress(self) -> None:
        """Progress is reported at most 4 times a second, and at the end."""
        fetching, peer = self.begin("Content-Length: 1001", expected=Content())
        for _ in range(100):
            self.clock.advance(0.0625)
            peer.send(bytes(10))
        self.assertLessEqual(len(self.reports), 26)
        self.assertGreaterEqual(len(self.reports), 25)
        self.assertEqual(self.reports[-1].total, 1001)
        self.assertAlmostEqual(self.reports[-1].rate, 160)
        peer.send(b"x")
        self.assertEqual(self.reports[-1].received, 1001)
        self.successResultOf(fetching)

    def test_unknown_algorithm(self) -> None:
        """A hash that cannot be computed is an error before anything is downloaded."""
        for name in ("sha1024", "shake_128", ""):
            with self.subTest(name=name):
                fetching = self.fetch(Content(10, {**HASHES, name: "00"}))
                self.assertIn("cannot compute", self.failure(fetching))
                self.assert_nothing_left()

    def test_any_known_algorithm(self) -> None:
        """Any hash that Python can compute may be signed."""
        fetching = self.fetch(Content(None, {"blake2b": "00", "sha3_256": "00"}))
        self.network.accept().answer("200 OK", LENGTH, body=DATA)
        self.successResultOf(fetching)


class ResumeTests(FetchCase):
    """A download continues what an earlier run began."""

    def finish(self, fetching: Deferred[Content], *asked: str) -> None:
        """Send the rest, which must be requested; the whole promise is known."""
        peer = self.ask(*asked)
        peer.answer("206 Partial Content", *rest(1000), body=DATA[1000:])
        self.assert_came(fetching, SIGNED)

    def test_signed(self) -> None:
        """The rest of a signed file is requested."""
        self.interrupt(LENGTH, TAG)
        self.finish(self.fetch(), "Range: bytes=1000-")

    def test_unsigned(self) -> None:
        """The promise of the earlier response applies to the complete file."""
        digest = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
        self.interrupt(LENGTH, TAG, f"Repr-Digest: sha-256=:{digest}:", expected=Content())
        fetching = self.fetch(Content())
        self.finish(fetching, "Range: bytes=1000-", 'If-Range: "one"')

    def test_signed_without_validator(self) -> None:
        """With a signed hash, no validator is needed."""
        self.interrupt(LENGTH, 'ETag: W/"one"')
        self.finish(self.fetch(), "Range: bytes=1000-")

    def test_another_server(self) -> None:
        """With a signed hash, another server may continue, whatever its validator is."""
        self.interrupt(LENGTH, TAG)
        self.finish(self.fetch(url="http://mirror.example/file"), "Range: bytes=1000-")

    def test_signed_since(self) -> None:
        """A file that was promised before, and is signed now, is the same file."""
        digest = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
        self.interrupt(LENGTH, TAG, f"Repr-Digest: sha-256=:{digest}:", expected=Content())
        self.finish(self.fetch(), "Range: bytes=1000-")

    def test_something_else(self) -> None:
        """A part of another file, or of an unknown one, is removed."""
        other = {"sha256": "00" * 32}
        for name, headers, before, now, url in (
            ("hashes", [TAG], SIGNED, Content(len(DATA), other), URL),
            ("size", [TAG], Content(None, HASHES), Content(4000, HASHES), URL),
            ("more hashes", [TAG], SIGNED, Content(len(DATA), {**HASHES, "sha512": ""}), URL),
            ("signed now", [TAG], Content(), SIGNED, URL),
            ("no validator", [], Content(), Content(), URL),
            ("another URL", [TAG], Content(), Content(), f"{URL}s"),
        ):
            with self.subTest(name=name):
                self.interrupt(LENGTH, *headers, expected=before)
                fetching = self.fetch(now, url)
                self.ask()
                self.assert_nothing_left()
                self.cancel(fetching)

    def test_all_here(self) -> None:
        """Nothing is requested of a complete file."""
        for expected in (SIGNED, Content()):
            with self.subTest(expected=expected):
                fetching, _ = self.begin(LENGTH, TAG, body=DATA, expected=expected)
                promised = self.successResultOf(fetching)
                again = self.fetch(expected)
                self.assertEqual(self.clock.tcpClients, [])
                self.assert_came(again, promised)
                self.path.unlink()

    def test_changed(self) -> None:
        """The download of a changed file starts again."""
        self.interrupt(LENGTH, TAG, expected=Content())
        fetching = self.fetch(Content())
        peer = self.ask("Range: bytes=1000-", 'If-Range: "one"')
        peer.answer("200 OK", 'ETag: "two"', LENGTH, body=DATA)
        self.assert_came(fetching, Content(len(DATA)))

    def test_another_size(self) -> None:
        """If the server has a file of another size, the part file is kept for later."""
        for status, *headers in (
            ("416 Range Not Satisfiable", "Content-Range: bytes */9", "Content-Length: 0"),
            ("206 Partial Content", "Content-Range: bytes 1000-3999/4000", "Content-Length: 3000"),
            ("200 OK", "Content-Length: 9"),
        ):
            with self.subTest(status=status):
                self.interrupt(LENGTH, TAG)
                fetching = self.fetch()
                peer = self.ask("Range: bytes=1000-")
                peer.answer(status, *headers)
                self.assertFalse(peer.open)
                self.assertIn("instead of 3000 bytes", self.said[-1])
                self.clock.advance(2)
                self.finish(fetching, "Range: bytes=1000-")
                self.path.unlink()
