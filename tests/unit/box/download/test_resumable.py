"""A download goes on where a connection broke, and ends when it has to."""

import base64
import errno
import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, execute
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.download import resumable as module
from opq_twisted.box.download.part_file import MAX_UNSYNCED, SYNC_EVERY, is_joined
from opq_twisted.box.download.resumable import RETRY_DELAYS, fetch
from opq_twisted.box.download.verify import Content
from opq_twisted.box.network.body import MAX_DURATION
from opq_twisted.box.state.status import Progress
from opq_twisted.common import files
from opq_twisted.common.errors import DownloadFailed, NoRoom, ServerFailed
from tests.helpers.box_fakes import Network, Peer

URL = "http://updates.example:8151/file"
DATA = os.urandom(3000)
HASHES = {"sha256": hashlib.sha256(DATA).hexdigest()}
SIGNED = Content(len(DATA), HASHES)
LIMIT = 10**8
TAG = 'ETag: "one"'
LENGTH = f"Content-Length: {len(DATA)}"


def rest(start: int, total: int | str = len(DATA)) -> list[str]:
    """The headers of an answer that is the rest."""
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
        return Deferred.fromCoroutine(
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

    def begin(
        self, *headers: str, body: bytes = b"", expected: Content = SIGNED
    ) -> tuple[Deferred[Content], Peer]:
        """Begin a download; the server answers, and sends some of it."""
        fetching = self.fetch(expected)
        peer = self.network.accept()
        self.assertNotIn("Range", peer.request)
        peer.answer("200 OK", *headers, body=body)
        return fetching, peer

    def interrupt(self, *headers: str, expected: Content = SIGNED) -> None:
        """Let an earlier run leave the first 1000 bytes."""
        fetching, _ = self.begin(*headers, body=DATA[:1000], expected=expected)
        fetching.cancel()
        self.failureResultOf(fetching, CancelledError)
        self.assertEqual(self.path.read_bytes(), DATA[:1000])

    def ask(self, *asked: str) -> Peer:
        """Accept the next request, which must ask for this range, on this condition."""
        peer = self.network.accept()
        lines = peer.request.split("\r\n")
        found = [line for line in lines if line.startswith(("Range", "If-Range"))]
        self.assertEqual(sorted(found), sorted(asked))
        return peer

    def assert_came(self, fetching: Deferred[Content], promised: Content) -> None:
        """All of it is here, and nothing goes on."""
        self.assertEqual(self.successResultOf(fetching), promised)
        self.assertEqual(self.path.read_bytes(), DATA)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def failure(self, fetching: Deferred[Any], kind: type[Exception] = DownloadFailed) -> str:
        """It has failed, and nothing goes on."""
        error = self.failureResultOf(fetching, kind).value
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.network.clock.tcpClients, [])
        return str(error)

    def assert_nothing_left(self) -> None:
        self.assertEqual(os.listdir(self.folder), [])


class WholeTests(FetchCase):
    """A download that nothing interrupts."""

    def test_unsigned(self) -> None:
        """Where nothing is known before, what the server promises is told."""
        digest = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
        fetching, peer = self.begin(LENGTH, f"Repr-Digest: sha-256=:{digest}:", expected=Content())
        peer.send(DATA)
        self.assert_came(fetching, SIGNED)

    def test_signed(self) -> None:
        """What is signed is not changed by what the server says."""
        digest = base64.b64encode(bytes(32)).decode()
        fetching, peer = self.begin(f"Repr-Digest: sha-256=:{digest}:")
        peer.send(DATA)
        self.assertEqual(self.reports[-1].total, len(DATA))
        peer.close()
        self.assert_came(fetching, SIGNED)

    def test_older_server(self) -> None:
        """A server that says neither length nor digest promises nothing, and sends all the same."""
        fetching = self.fetch(Content())
        peer = self.network.accept()
        peer.send(b"HTTP/1.0 200 OK\r\n\r\n" + DATA)
        self.assertIsNone(self.reports[-1].total)
        peer.close()
        self.assert_came(fetching, Content())

    def test_streamed(self) -> None:
        """What comes goes to the disk as it comes, and is not kept in memory."""
        size = 4 * 1024 * 1024
        fetching, peer = self.begin(f"Content-Length: {size}", expected=Content())
        piece = bytes(64 * 1024)
        for sent in range(0, size, len(piece)):
            self.assertEqual(self.path.stat().st_size, sent)
            peer.send(piece)
        self.assertEqual(self.successResultOf(fetching), Content(size))

    def test_progress(self) -> None:
        """Progress is told at most 4 times a second, and at the end."""
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
        """A hash that cannot be compared in the end is found before anything is fetched."""
        for name in ("sha1024", "shake_128", ""):
            with self.subTest(name=name):
                fetching = self.fetch(Content(10, {**HASHES, name: "00"}))
                self.assertIn("cannot compute", self.failure(fetching))
                self.assert_nothing_left()

    def test_any_known_algorithm(self) -> None:
        """Whatever Python can compute may be signed."""
        fetching = self.fetch(Content(None, {"blake2b": "00", "sha3_256": "00"}))
        self.network.accept().answer("200 OK", LENGTH, body=DATA)
        self.successResultOf(fetching)


class BrokenTests(FetchCase):
    """Connections break within one download."""

    def test_rest(self) -> None:
        """After a pause the rest is asked for, of the same file; progress counts on."""
        for expected in (SIGNED, Content()):
            with self.subTest(expected=expected):
                fetching, peer = self.begin(LENGTH, TAG, body=DATA[:1000], expected=expected)
                peer.reset()
                self.assertEqual(len(self.clock.tcpClients), 0)
                self.clock.advance(1)
                # Where the hash decides, other servers may send the rest, too.
                condition = [] if expected.hashes else ['If-Range: "one"']
                peer = self.ask("Range: bytes=1000-", *condition)
                peer.answer("206 Partial Content", *rest(1000), body=DATA[1000:])
                self.assert_came(fetching, Content(len(DATA), expected.hashes))
                self.assertEqual(self.reports[-1].received, len(DATA))
                self.path.unlink()

    def test_again_and_again(self) -> None:
        """As long as each connection brings something, the download goes on."""
        fetching, peer = self.begin(LENGTH, TAG, body=DATA[:100])
        for size in range(100, len(DATA), 100):
            peer.reset()
            self.clock.advance(1)
            peer = self.ask(f"Range: bytes={size}-")
            peer.answer("206 Partial Content", *rest(size), body=DATA[size : size + 100])
        self.assert_came(fetching, SIGNED)

    def test_silence(self) -> None:
        """A connection that falls silent is as good as broken."""
        fetching, peer = self.begin(LENGTH, TAG, body=DATA[:1000])
        self.clock.advance(60)
        self.assertFalse(peer.open)
        self.clock.advance(1)
        peer = self.ask("Range: bytes=1000-")
        peer.answer("206 Partial Content", *rest(1000), body=DATA[1000:])
        self.assert_came(fetching, SIGNED)

    def test_short(self) -> None:
        """A server that closes the connection too early, or sends less, is asked for the rest."""
        fetching, peer = self.begin(LENGTH, body=DATA[:1000])
        peer.close()
        self.clock.advance(1)
        peer = self.ask("Range: bytes=1000-")
        head = ["Content-Range: bytes 1000-1999/3000", "Content-Length: 1000"]
        peer.answer("206 Partial Content", *head, body=DATA[1000:2000])
        self.clock.advance(1)
        peer = self.ask("Range: bytes=2000-")
        peer.answer("206 Partial Content", *rest(2000, "*"), body=DATA[2000:])
        self.assert_came(fetching, SIGNED)

    def test_no_ranges(self) -> None:
        """A server without ranges sends all of it again, in place of what came before."""
        fetching, peer = self.begin(LENGTH, body=b"x" * 2000, expected=Content())
        peer.reset()
        self.clock.advance(1)
        # Without signature and validator nobody knows whether the rest would fit.
        self.ask().answer("200 OK", LENGTH, body=DATA)
        self.assert_came(fetching, Content(len(DATA)))

    def test_no_ranges_of_signed(self) -> None:
        """Where the hash decides, only what is missing of it is taken."""
        fetching, peer = self.begin(LENGTH, body=DATA[:1000])
        peer.reset()
        self.clock.advance(1)
        peer = self.ask("Range: bytes=1000-")
        peer.answer("200 OK", LENGTH, body=b"x" * 1000)
        peer.send(DATA[1000:])
        self.assert_came(fetching, SIGNED)
        self.assertTrue(is_joined(self.path))

    def test_nothing_lost(self) -> None:
        """A whole that breaks off sooner than what is here ends takes nothing of that away."""
        fetching, peer = self.begin(LENGTH, body=DATA[:1000])
        peer.reset()
        self.clock.advance(1)
        peer = self.ask("Range: bytes=1000-")
        peer.answer("200 OK", LENGTH, body=b"x" * 10)
        peer.reset()
        self.assertEqual(self.path.read_bytes(), DATA[:1000])
        self.clock.advance(2)
        peer = self.ask("Range: bytes=1000-")
        peer.answer("206 Partial Content", *rest(1000), body=DATA[1000:])
        self.assert_came(fetching, SIGNED)

    def test_passing_over_is_not_slow(self) -> None:
        """What is sent once more counts for the rate, if for nothing else."""
        size = 1_000_000
        expected = Content(size, HASHES)
        length = f"Content-Length: {size}"
        fetching, _ = self.begin(length, body=bytes(size - 10), expected=expected)
        fetching.cancel()
        self.failureResultOf(fetching, CancelledError)
        fetching = self.fetch(expected)
        peer = self.ask(f"Range: bytes={size - 10}-")
        peer.answer("200 OK", length)
        for _ in range(19):
            self.clock.advance(40)
            peer.send(bytes(52_631))
        peer.send(bytes(5))
        self.assertNoResult(fetching)
        peer.send(bytes(size - 19 * 52_631 - 5))
        self.assertEqual(self.successResultOf(fetching), expected)

    def test_changed(self) -> None:
        """A file that has changed begins anew, with its own promise and its own validator."""
        fetching, peer = self.begin("Content-Length: 5000", TAG, body=bytes(10), expected=Content())
        peer.reset()
        self.clock.advance(1)
        peer = self.ask("Range: bytes=10-", 'If-Range: "one"')
        peer.answer("200 OK", 'ETag: "two"', LENGTH, body=DATA[:20])
        peer.reset()
        self.clock.advance(1)
        peer = self.ask("Range: bytes=20-", 'If-Range: "two"')
        peer.answer("206 Partial Content", *rest(20), body=DATA[20:])
        self.assert_came(fetching, Content(len(DATA)))

    def test_weak(self) -> None:
        """A weak validator does not say that two parts are of the same file."""
        fetching, peer = self.begin(LENGTH, 'ETag: W/"one"', body=DATA[:9], expected=Content())
        peer.reset()
        self.clock.advance(1)
        self.ask().answer("200 OK", LENGTH, body=DATA)
        self.assert_came(fetching, Content(len(DATA)))

    def test_other_part(self) -> None:
        """What is not the rest that was asked for is not taken, and all of it is asked for."""
        for name, headers in (
            ("no range", ["Content-Length: 5"]),
            ("another start", rest(999)),
            ("another size", rest(1000, 4000)),
            ("another file", ['ETag: "two"', *rest(1000)]),
            ("nonsense", ["Content-Range: bytes some/3000", "Content-Length: 5"]),
            ("several", ["Content-Type: multipart/byteranges; boundary=x", "Content-Length: 5"]),
        ):
            with self.subTest(name=name):
                fetching, peer = self.begin(LENGTH, TAG, body=DATA[:1000], expected=Content())
                peer.reset()
                self.clock.advance(1)
                peer = self.ask("Range: bytes=1000-", 'If-Range: "one"')
                peer.answer("206 Partial Content", *headers)
                self.assertFalse(peer.open)
                self.assert_nothing_left()
                self.ask().answer("200 OK", LENGTH, body=DATA)
                self.assert_came(fetching, Content(len(DATA)))
                self.path.unlink()

    def test_other_part_of_signed(self) -> None:
        """So it is where the hash decides, and what is here is kept until the whole comes."""
        for headers in (
            ["Content-Length: 5"],
            rest(999),
            ["Content-Range: bytes some/3000", "Content-Length: 5"],
        ):
            with self.subTest(headers=headers):
                fetching, peer = self.begin(LENGTH, body=DATA[:1000])
                peer.reset()
                self.clock.advance(1)
                peer = self.ask("Range: bytes=1000-")
                peer.answer("206 Partial Content", *headers)
                self.assertFalse(peer.open)
                self.assertEqual(self.path.read_bytes(), DATA[:1000])
                self.ask().answer("200 OK", LENGTH, body=DATA)
                self.assert_came(fetching, SIGNED)
                self.path.unlink()

    def test_another_server(self) -> None:
        """Servers whose files have other tags and the same bytes continue each other's parts."""
        fetching, peer = self.begin(LENGTH, TAG, body=DATA[:1000])
        peer.reset()
        self.clock.advance(1)
        peer = self.ask("Range: bytes=1000-")
        peer.answer("206 Partial Content", 'ETag: "two"', *rest(1000), body=DATA[1000:2000])
        peer.reset()
        self.assertTrue(is_joined(self.path))
        self.clock.advance(1)
        peer = self.ask("Range: bytes=2000-")
        peer.answer("206 Partial Content", TAG, *rest(2000), body=DATA[2000:])
        self.assert_came(fetching, SIGNED)
        self.assertTrue(is_joined(self.path))

    def test_not_joined(self) -> None:
        """What comes in one piece, or is known to fit, needs no hash to tell that."""
        fetching, peer = self.begin(LENGTH, TAG, body=DATA)
        self.assert_came(fetching, SIGNED)
        self.assertFalse(is_joined(self.path))
        self.path.unlink()
        fetching, peer = self.begin(LENGTH, TAG, body=DATA[:1000], expected=Content())
        peer.reset()
        self.clock.advance(1)
        self.network.accept().answer("206 Partial Content", *rest(1000), body=DATA[1000:])
        self.assert_came(fetching, Content(len(DATA)))
        self.assertFalse(is_joined(self.path))

    def test_unasked_part(self) -> None:
        """A part that nobody asked for is not taken either."""
        fetching = self.fetch()
        peer = self.network.accept()
        peer.answer("206 Partial Content", *rest(1000))
        self.assertFalse(peer.open)
        self.assertIn("answers 206", self.said[-1])
        self.clock.advance(2)
        self.ask().answer("200 OK", LENGTH, body=DATA)
        self.assert_came(fetching, SIGNED)

    def begin_without_length(self, body: bytes) -> Deferred[Content]:
        """Let a file whose size nobody says break off."""
        fetching = self.fetch(Content())
        peer = self.network.accept()
        peer.answer("200 OK", TAG, "Transfer-Encoding: chunked")
        peer.send(b"%x\r\n%s\r\n" % (len(body), body))
        peer.reset()
        self.clock.advance(1)
        return fetching

    def test_size_learnt(self) -> None:
        """A size that was not known is learnt from the rest."""
        fetching = self.begin_without_length(DATA[:1000])
        peer = self.ask("Range: bytes=1000-", 'If-Range: "one"')
        peer.answer("206 Partial Content", *rest(1000), body=DATA[1000:])
        self.assert_came(fetching, Content(len(DATA)))

    def test_nothing_missing(self) -> None:
        """Of a file that is here already the server has no rest."""
        fetching = self.begin_without_length(DATA)
        peer = self.ask("Range: bytes=3000-", 'If-Range: "one"')
        peer.answer("416 Range Not Satisfiable", "Content-Range: bytes */3000", "Content-Length: 9")
        self.assertFalse(peer.open)
        self.assert_came(fetching, Content())

    def test_too_much(self) -> None:
        """A file of which the server has less than is here begins anew."""
        for headers in (["Content-Range: bytes */2999"], ["Content-Range: bytes */*"], []):
            with self.subTest(headers=headers):
                fetching = self.begin_without_length(bytes(3000))
                peer = self.ask("Range: bytes=3000-", 'If-Range: "one"')
                peer.answer("416 Range Not Satisfiable", *headers, "Content-Length: 9")
                self.assertFalse(peer.open)
                self.ask().answer("200 OK", LENGTH, body=DATA)
                self.assert_came(fetching, Content(len(DATA)))


class GivenUpTests(FetchCase):
    """Downloads that come to no end; what came of them is kept."""

    def exhaust(self, fail: Callable[[], None], pauses: tuple[float, ...] = RETRY_DELAYS) -> None:
        """Let attempt after attempt fail."""
        for pause in pauses:
            self.clock.advance(pause - 0.5)
            self.assertEqual(self.clock.tcpClients, [])
            self.clock.advance(0.5)
            fail()

    def test_broken_at_once(self) -> None:
        """Before the first byte a server has as many attempts as after it."""
        fetching, peer = self.begin(LENGTH, TAG)
        peer.reset()

        def fail() -> None:
            peer = self.ask()
            peer.answer("200 OK", LENGTH)
            peer.close()

        self.exhaust(fail, RETRY_DELAYS[1:])
        self.assertIn("nothing came after the first 0 bytes", self.failure(fetching))

    def test_unreachable(self) -> None:
        """A server that is gone, and does not come back, is named in the end."""
        fetching, peer = self.begin(LENGTH, TAG, body=DATA[:1000])
        peer.reset()
        self.exhaust(self.network.refuse)
        self.assertIn("Cannot reach the update server", self.failure(fetching, ServerFailed))
        self.assertEqual(self.path.read_bytes(), DATA[:1000])

    def test_nothing_new(self) -> None:
        """Neither does a server help that breaks off where it did before."""

        def fail() -> None:
            peer = self.network.accept()
            peer.answer("200 OK", LENGTH, body=DATA[:1000])
            peer.reset()

        fetching, peer = self.begin(LENGTH, body=DATA[:1000])
        peer.reset()
        self.exhaust(fail)
        self.assertIn(
            "The connection broke again and again, and nothing came after the first 1000 bytes",
            self.failure(fetching),
        )

    def test_in_a_row(self) -> None:
        """One byte more begins the count anew."""
        fetching, peer = self.begin(LENGTH, TAG, body=DATA[:1000])
        peer.reset()
        self.exhaust(self.network.refuse, RETRY_DELAYS[:-1])
        self.clock.advance(RETRY_DELAYS[-1])
        peer = self.ask("Range: bytes=1000-")
        peer.answer("206 Partial Content", *rest(1000), body=DATA[1000:1001])
        peer.reset()
        self.exhaust(self.network.refuse)
        self.failure(fetching, ServerFailed)

    def turn_away(self, *headers: str, status: str = "503 Service Unavailable") -> None:
        """Turn the next request away."""
        peer = self.network.accept()
        peer.answer(status, *headers, "Content-Length: 0")
        self.assertFalse(peer.open)

    def test_busy(self) -> None:
        """A server that asks for patience gets it, before the first byte and after it."""
        for come in (0, 1000):
            with self.subTest(come=come):
                fetching = self.fetch()
                if come:
                    peer = self.network.accept()
                    peer.answer("200 OK", LENGTH, body=DATA[:come])
                    peer.reset()
                    self.clock.advance(1)
                self.turn_away("Retry-After: 7")
                self.assertEqual(
                    self.said[-1],
                    f"The update server answers 503 when asked for {URL}. The box asks again in "
                    "7 s.",
                )
                # The pauses between attempts are the least, whatever the server says.
                for asked, pause in ((60, 7), (0, 60), (600, 10), (31, 600), (1, 31), (1, 30)):
                    self.exhaust(partial(self.turn_away, f"Retry-After: {asked}"), (pause,))
                self.clock.advance(30)
                peer = self.network.accept()
                if come:
                    peer.answer("206 Partial Content", *rest(come), body=DATA[come:])
                else:
                    peer.answer("200 OK", LENGTH, body=DATA)
                self.assert_came(fetching, SIGNED)
                self.path.unlink()

    def test_busy_too_long(self) -> None:
        """One that wants to be left alone for long is; the caller is told for how long."""
        for earlier in (False, True):
            with self.subTest(earlier=earlier):
                if earlier:
                    self.interrupt(LENGTH, TAG)
                fetching = self.fetch()
                self.turn_away("Retry-After: 601")
                error = self.failureResultOf(fetching, ServerFailed).value
                self.assertEqual(error.retry_after, 601)
                self.assertEqual(self.clock.getDelayedCalls(), [])
                self.assertEqual(self.path.exists(), earlier)

    def test_busy_for_an_hour(self) -> None:
        """One that goes on asking for patience gets an hour of it, and not many requests."""
        fetching, began, asked = self.fetch(), self.clock.seconds(), 0
        while not fetching.called:
            self.turn_away("Retry-After: 0")
            asked += 1
            if not fetching.called:
                self.clock.advance(RETRY_DELAYS[min(asked, 4)])
        self.failureResultOf(fetching, ServerFailed)
        self.assertLessEqual(self.clock.seconds() - began, 3600)
        self.assertLess(asked, 130)
        self.assertGreater(asked, 110)

    def test_slow_after_a_pause(self) -> None:
        """The time for which the server asked does not count as time without bytes."""
        size = 10**6
        fetching, peer = self.begin(f"Content-Length: {size}", expected=Content(size, HASHES))
        peer.send(bytes(1000))
        peer.reset()
        self.clock.advance(1)
        self.turn_away("Retry-After: 600")
        self.clock.advance(600)
        peer = self.network.accept()
        peer.answer("206 Partial Content", f"Content-Range: bytes 1000-{size - 1}/{size}")
        peer.send(bytes(10))
        self.assertNoResult(fetching)
        fetching.cancel()
        self.failureResultOf(fetching, CancelledError)

    def test_passing(self) -> None:
        """Whatever a proxy or a network says for a while, the download goes on after it."""
        page = b"<p>Please log in.</p>"
        length = f"Content-Length: {len(page)}"
        html = "Content-Type: text/html; charset=utf-8"
        for status, *headers in (
            ("200 OK", html, length),
            ("200 OK", html, "Connection: close"),
            ("200 OK", "Content-Type: text/plain", length),
            ("200 OK", "Content-Type: text/plain", "Connection: close"),
            ("203 Non-Authoritative Information", html, length),
            ("403 Forbidden", html, length),
            ("407 Proxy Authentication Required", length),
            ("429 Too Many Requests", length),
            ("500 Internal Server Error", length),
            ("502 Bad Gateway", html, length),
            ("504 Gateway Timeout", length),
            ("511 Network Authentication Required", html, length),
        ):
            for come in (0, 1000):
                with self.subTest(status=status, headers=headers, come=come):
                    if come:
                        self.interrupt(LENGTH, TAG)
                    fetching = self.fetch()
                    peer = self.network.accept()
                    peer.answer(status, *headers, body=page)
                    if peer.open:
                        peer.close()
                    self.assertRegex(self.said[-1], r"\A[A-Z].*\. The box asks again in 2 s\.\Z")
                    self.assertEqual(self.path.exists(), bool(come))
                    self.clock.advance(2)
                    peer = self.ask(*(["Range: bytes=1000-"] if come else []))
                    if come:
                        self.assertEqual(self.path.read_bytes(), DATA[:1000])
                        peer.answer("206 Partial Content", *rest(1000), body=DATA[1000:])
                    else:
                        peer.answer("200 OK", LENGTH, body=DATA)
                    self.assert_came(fetching, SIGNED)
                    self.path.unlink()

    def test_passing_unsigned(self) -> None:
        """A page is no archive either where nobody knows how long that is."""
        for come in (0, 1000):
            with self.subTest(come=come):
                if come:
                    self.interrupt(LENGTH, TAG, expected=Content())
                fetching = self.fetch(Content())
                peer = self.network.accept()
                peer.answer("200 OK", "Content-Type: TEXT/HTML", "Content-Length: 3000")
                self.assertFalse(peer.open)
                self.assertIn("The server sent 3000 bytes instead of an archive", self.said[-1])
                self.clock.advance(2)
                peer = self.network.accept()
                if come:
                    peer.answer("206 Partial Content", *rest(1000), body=DATA[1000:])
                else:
                    peer.answer("200 OK", LENGTH, body=DATA)
                self.assert_came(fetching, Content(len(DATA)))
                self.path.unlink()

    def test_long_page(self) -> None:
        """A page of unknown length may be longer than what is here, or than the archive."""
        for size in (1500, 2999, 3001):
            with self.subTest(size=size):
                self.interrupt(LENGTH, TAG)
                fetching = self.fetch()
                peer = self.network.accept()
                peer.answer("200 OK", "Content-Type: text/plain")
                peer.send(b"x" * size)
                if peer.open:
                    peer.close()
                self.assertIn("login page of a network", self.said[-1])
                self.assertEqual(self.path.read_bytes(), DATA[:1000])
                self.clock.advance(2)
                peer = self.ask("Range: bytes=1000-")
                peer.answer("206 Partial Content", *rest(1000), body=DATA[1000:])
                self.assert_came(fetching, SIGNED)
                self.path.unlink()

    def test_whole_without_length(self) -> None:
        """Of the whole that a server sends without its length, only what is missing is taken."""
        self.interrupt(LENGTH, TAG)
        fetching = self.fetch()
        peer = self.network.accept()
        peer.answer("200 OK")
        for piece in (DATA[:700], DATA[700:1400], DATA[1400:]):
            peer.send(piece)
        peer.close()
        self.assert_came(fetching, SIGNED)
        self.assertTrue(is_joined(self.path))

    def test_gone(self) -> None:
        """A file that is gone is not asked for again."""
        for status in ("404 Not Found", "410 Gone"):
            with self.subTest(status=status):
                self.path.unlink(missing_ok=True)
                fetching, peer = self.begin(LENGTH, TAG, body=DATA[:1000])
                peer.reset()
                self.clock.advance(1)
                self.network.accept().answer(status, "Content-Length: 0")
                self.assertIn(f"when asked for {URL}", self.failure(fetching, ServerFailed))

    def test_too_long_in_all(self) -> None:
        """All the attempts together have a limit."""
        size = 100 * 1000 * 1000
        expected = Content(size, HASHES)
        fetching, peer = self.begin(f"Content-Length: {size}", expected=expected)
        for _ in range(int(MAX_DURATION / 60) - 1):
            peer.send(bytes(100_000))
            peer.reset()
            self.clock.advance(1)
            start = self.path.stat().st_size
            peer = self.network.accept()
            headers = [f"Content-Range: bytes {start}-{size - 1}/{size}"]
            peer.answer("206 Partial Content", *headers)
            self.clock.advance(59)
        self.assertNoResult(fetching)
        peer.send(b"x")
        self.clock.advance(59)
        self.assertNoResult(fetching)
        peer.send(b"x")
        self.clock.advance(1)
        self.assertEqual(self.failure(fetching), "The download took more than 6 hours.")
        self.assertFalse(peer.open)
        self.assertGreater(self.path.stat().st_size, 10**7)

    def test_too_long_in_a_pause(self) -> None:
        """The limit also ends a pause."""
        self.patch(module, "MAX_DURATION", 90)
        fetching, peer = self.begin(LENGTH, TAG, body=DATA[:1000])
        peer.reset()
        self.clock.advance(1)
        self.network.accept().answer("503 Service Unavailable", "Retry-After: 60")
        self.clock.advance(60)
        self.network.accept().answer("503 Service Unavailable", "Retry-After: 60")
        self.clock.advance(28.5)
        self.assertNoResult(fetching)
        self.clock.advance(0.5)
        self.assertIn("The download took more than", self.failure(fetching))

    def test_too_slow(self) -> None:
        """A byte now and then does not keep a download alive; a slow line does."""
        expected = Content(10**8, HASHES)
        fetching, peer = self.begin(expected=expected)
        for _ in range(12):
            self.clock.advance(50)
            peer.send(bytes(50_000))
        self.assertNoResult(fetching)
        for _ in range(11):
            self.clock.advance(50)
            peer.send(bytes(49_000))
        self.assertNoResult(fetching)
        self.clock.advance(50)
        peer.send(bytes(49_000))
        self.assertIn("less than 1000 bytes a second", self.failure(fetching))
        self.assertFalse(peer.open)
        self.assertEqual(self.path.stat().st_size, 99_000 * 12)

    def test_cancelled(self) -> None:
        """A download can be given up at any time; what came of it is kept for the next."""
        self.interrupt(LENGTH, TAG)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled_between(self) -> None:
        """So it is before an answer, and in a pause."""
        fetching = self.fetch()
        peer = self.network.accept()
        fetching.cancel()
        self.failure(fetching, CancelledError)
        self.assertFalse(peer.open)
        self.assert_nothing_left()
        fetching, peer = self.begin(LENGTH, TAG, body=DATA[:1000])
        peer.reset()
        fetching.cancel()
        self.failure(fetching, CancelledError)
        fetching = self.fetch()
        self.ask("Range: bytes=1000-")
        fetching.cancel()
        self.failure(fetching, CancelledError)
        self.assertEqual(self.path.read_bytes(), DATA[:1000])


class ResumeTests(FetchCase):
    """A download goes on that an earlier run began."""

    def finish(self, fetching: Deferred[Content], *asked: str) -> None:
        """Send the rest, which must be asked for; all of the promise is known."""
        peer = self.ask(*asked)
        peer.answer("206 Partial Content", *rest(1000), body=DATA[1000:])
        self.assert_came(fetching, SIGNED)

    def test_signed(self) -> None:
        """The rest is asked for."""
        self.interrupt(LENGTH, TAG)
        self.finish(self.fetch(), "Range: bytes=1000-")

    def test_unsigned(self) -> None:
        """The promise of the earlier answer holds for the whole."""
        digest = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
        self.interrupt(LENGTH, TAG, f"Repr-Digest: sha-256=:{digest}:", expected=Content())
        fetching = self.fetch(Content())
        self.finish(fetching, "Range: bytes=1000-", 'If-Range: "one"')

    def test_signed_without_validator(self) -> None:
        """Where the hash decides no validator is needed."""
        self.interrupt(LENGTH, 'ETag: W/"one"')
        self.finish(self.fetch(), "Range: bytes=1000-")

    def test_another_server(self) -> None:
        """Another server's validator says nothing; the hash does."""
        self.interrupt(LENGTH, TAG)
        self.finish(self.fetch(url="http://mirror.example/file"), "Range: bytes=1000-")

    def test_signed_since(self) -> None:
        """What was promised, and is signed now, is the same file."""
        digest = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
        self.interrupt(LENGTH, TAG, f"Repr-Digest: sha-256=:{digest}:", expected=Content())
        self.finish(self.fetch(), "Range: bytes=1000-")

    def test_something_else(self) -> None:
        """A part of something else, or of nobody knows what, is removed."""
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
                fetching.cancel()
                self.failure(fetching, CancelledError)

    def test_all_here(self) -> None:
        """Of what is here as a whole nothing is asked for."""
        for expected in (SIGNED, Content()):
            with self.subTest(expected=expected):
                fetching, _ = self.begin(LENGTH, TAG, body=DATA, expected=expected)
                promised = self.successResultOf(fetching)
                again = self.fetch(expected)
                self.assertEqual(self.clock.tcpClients, [])
                self.assert_came(again, promised)
                self.path.unlink()

    def test_changed(self) -> None:
        """What has changed since begins anew."""
        self.interrupt(LENGTH, TAG, expected=Content())
        fetching = self.fetch(Content())
        peer = self.ask("Range: bytes=1000-", 'If-Range: "one"')
        peer.answer("200 OK", 'ETag: "two"', LENGTH, body=DATA)
        self.assert_came(fetching, Content(len(DATA)))

    def test_another_size(self) -> None:
        """A server whose file has another size does not have this one now; the part is kept."""
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


class LimitTests(FetchCase):
    """More than there may be, or than there is room for."""

    def test_announced(self) -> None:
        """What is too large is not even begun."""
        fetching = self.fetch(Content(), limit=1000)
        peer = self.network.accept()
        peer.answer("200 OK", LENGTH)
        self.assertIn("has 3000 bytes; at most 1000 are allowed", self.failure(fetching))
        self.assertFalse(peer.open)
        self.assert_nothing_left()

    def test_expected(self) -> None:
        """Nor is it even asked for, when that is known before."""
        self.assertIn("at most 1000", self.failure(self.fetch(limit=1000)))

    def test_sent(self) -> None:
        """What was not announced is taken up to the limit, and removed."""
        fetching = self.fetch(Content(), limit=1000)
        peer = self.network.accept()
        peer.answer("200 OK", body=bytes(1000))
        self.assertEqual(self.path.stat().st_size, 1000)
        peer.send(b"x")
        self.assertIn("more than 1000 bytes", self.failure(fetching))
        self.assertFalse(peer.open)
        self.assert_nothing_left()

    def test_sent_of_signed(self) -> None:
        """So it is up to the signed size; what is longer is something else."""
        fetching = self.fetch()
        peer = self.network.accept()
        peer.answer("200 OK", body=bytes(3000))
        peer.send(b"x")
        self.assertIn("The server sent more than 3000 bytes", self.said[-1])
        self.assertFalse(peer.open)
        self.assert_nothing_left()
        fetching.cancel()
        self.failureResultOf(fetching, CancelledError)

    def test_rest_too_long(self) -> None:
        """With what came before, the rest stays within the limit too."""
        self.interrupt(LENGTH, TAG)
        fetching = self.fetch()
        peer = self.ask("Range: bytes=1000-")
        peer.answer("206 Partial Content", "Content-Range: bytes 1000-2999/3000", body=bytes(2001))
        self.assertFalse(peer.open)
        self.assertIn("The server sent more than 3000 bytes", self.said[-1])
        self.assertEqual(self.path.read_bytes(), DATA[:1000])
        fetching.cancel()
        self.failureResultOf(fetching, CancelledError)

    def test_another_size(self) -> None:
        """A server that goes on having a file of another size does not have this one."""
        fetching, peer = self.begin("Content-Length: 2999")
        for pause in RETRY_DELAYS[1:]:
            self.assertFalse(peer.open)
            self.clock.advance(pause)
            peer = self.ask()
            peer.answer("200 OK", "Content-Length: 2999")
        self.assertIn(
            "The server sent 2999 bytes instead of 3000 bytes",
            self.failure(fetching, ServerFailed),
        )
        self.assert_nothing_left()

    def test_no_room(self) -> None:
        """Without room for all of it nothing is begun, and the sentence says how much it takes."""
        self.patch(module, "RESERVE", 10**18)
        fetching = self.fetch(Content(5_000_000, HASHES))
        sentence = self.failure(fetching, NoRoom)
        self.assertIn("needs 1000000000005.0 MB free", sentence)

    def test_no_room_then(self) -> None:
        """It may be the server who says how much it is."""
        fetching = self.fetch(Content())
        self.patch(module, "RESERVE", 10**18)
        peer = self.network.accept()
        peer.answer("200 OK", "Content-Length: 5000000")
        self.assertIn("needs 1000000000005.0 MB free", self.failure(fetching, NoRoom))
        self.assertFalse(peer.open)
        self.assert_nothing_left()

    def test_room_for_the_rest(self) -> None:
        """What is here already needs no more room."""
        self.interrupt(LENGTH, TAG)
        free = self.statvfs(2000)
        self.patch(module, "RESERVE", 0)
        fetching = self.fetch()
        self.assertNoResult(fetching)
        self.network.accept()
        fetching.cancel()
        self.failure(fetching, CancelledError)
        free(1999)
        self.failure(self.fetch(), NoRoom)
        self.assert_nothing_left()

    def statvfs(self, free: int) -> Callable[[int], None]:
        """Let the disk have so many bytes left."""
        sizes = [free]

        class Disk:
            f_frsize = 1

            @property
            def f_bavail(self) -> int:
                return sizes[0]

        self.patch(os, "statvfs", lambda path: Disk())

        def change(free: int) -> None:
            sizes[0] = free

        return change

    def test_room_goes(self) -> None:
        """The reserve stays free, though the server did not say how much would come."""
        fetching = self.fetch(Content())
        peer = self.network.accept()
        peer.answer("200 OK", body=bytes(1000))
        self.patch(module, "RESERVE", 10**18)
        peer.send(bytes(1000))
        self.failure(fetching, NoRoom)
        self.assertFalse(peer.open)
        self.assert_nothing_left()

    def full(self, *args: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def test_disk_full(self) -> None:
        """What came before the disk was full is removed again: some disks tell late."""
        for call in ("write", "fdatasync"):
            with self.subTest(call=call):
                fetching, peer = self.begin(LENGTH, TAG)
                patched = self.patch(os, call, self.full)
                peer.send(DATA)
                patched.restore()
                self.assertIn("No space left", self.failure(fetching, OSError))
                self.assert_nothing_left()

    def test_disk_full_at_a_piece(self) -> None:
        """So it is when a piece cannot even be noted; its connection does not stay behind."""
        for headers in (["Content-Length: 2000", "Content-Range: bytes 1000-2999/3000"], []):
            with self.subTest(headers=headers):
                self.interrupt(LENGTH, TAG)
                fetching = self.fetch()
                peer = self.ask("Range: bytes=1000-")
                patched = self.patch(files, "write", self.full)
                peer.answer("206 Partial Content" if headers else "200 OK", *headers)
                patched.restore()
                self.failure(fetching, OSError)
                self.assertFalse(peer.open)
                self.assert_nothing_left()

    def test_disk_full_at_the_end(self) -> None:
        """So it is when that comes out as a download is given up."""
        fetching, _ = self.begin(LENGTH, TAG, body=DATA[:1000])
        patched = self.patch(os, "fdatasync", self.full)
        fetching.cancel()
        patched.restore()
        self.failure(fetching, OSError)
        self.assert_nothing_left()

    def test_disk_fails(self) -> None:
        """When the file cannot even be made, the connection does not stay behind."""
        fetching = self.fetch()
        self.path.mkdir()
        peer = self.network.accept()
        peer.answer("200 OK", LENGTH)
        self.failure(fetching, OSError)
        self.assertFalse(peer.open)

    def test_paced(self) -> None:
        """The server pauses while the disk takes in what came."""
        threads: list[Deferred[Any]] = []

        def in_thread(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
            function(*args)
            threads.append(Deferred())
            return threads[-1]

        fetching = Deferred.fromCoroutine(
            fetch(
                self.clock,
                self.network.server,
                URL,
                Content(MAX_UNSYNCED),
                self.path,
                LIMIT,
                in_thread=in_thread,
            )
        )
        peer = self.network.accept()
        peer.answer("200 OK", body=bytes(SYNC_EVERY - 1))
        self.assertFalse(peer.paused)
        peer.send(b"x")
        self.assertTrue(peer.paused)
        peer.send(b"x")
        threads.pop().callback(None)
        self.assertFalse(peer.paused)
        peer.send(bytes(MAX_UNSYNCED - SYNC_EVERY - 1))
        peer.close()
        self.assertNoResult(fetching)
        threads.pop().callback(None)
        self.assertEqual(self.successResultOf(fetching), Content(MAX_UNSYNCED))
