"""A download waits for a busy server or network, and ends when it has to."""

from collections.abc import Callable
from functools import partial

from opq_twisted.box.download import resumable as module
from opq_twisted.box.download.part_file import is_joined
from opq_twisted.box.download.verify import Content
from opq_twisted.box.network.body import MAX_DURATION
from opq_twisted.common.errors import ServerFailed
from tests.unit.box.download.test_resumable import (
    DATA,
    HASHES,
    LENGTH,
    SIGNED,
    TAG,
    URL,
    FetchCase,
    rest,
)

#: Seconds between attempts without a new byte, as in docs/protocol.md.
RETRY_DELAYS = (1.0, 2.0, 4.0, 10.0, 30.0)


class GivenUpTests(FetchCase):
    """Downloads that fail, or pause for long; the received bytes are kept."""

    def exhaust(self, fail: Callable[[], None], pauses: tuple[float, ...] = RETRY_DELAYS) -> None:
        """Let an attempt fail after each pause."""
        for pause in pauses:
            self.clock.advance(pause - 0.5)
            self.assertEqual(self.clock.tcpClients, [])
            self.clock.advance(0.5)
            fail()

    def test_broken_at_once(self) -> None:
        """There are as many attempts before the first byte as after it."""
        fetching, peer = self.begin(LENGTH, TAG)
        peer.reset()

        def fail() -> None:
            peer = self.ask()
            peer.answer("200 OK", LENGTH)
            peer.close()

        self.exhaust(fail, RETRY_DELAYS[1:])
        self.assertIn("nothing came after the first 0 bytes", self.failure(fetching))

    def test_unreachable(self) -> None:
        """A server that stays unreachable is named in the error."""
        fetching, peer = self.begin(LENGTH, TAG, body=DATA[:1000])
        peer.reset()
        self.exhaust(self.network.refuse)
        self.assertIn("Cannot reach the update server", self.failure(fetching, ServerFailed))
        self.assertEqual(self.path.read_bytes(), DATA[:1000])

    def test_nothing_new(self) -> None:
        """A server that always breaks off at the same byte is given up too."""

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
        """One more byte resets the count of attempts."""
        fetching, peer = self.begin(LENGTH, TAG, body=DATA[:1000])
        peer.reset()
        self.exhaust(self.network.refuse, RETRY_DELAYS[:-1])
        self.clock.advance(RETRY_DELAYS[-1])
        peer = self.ask()
        peer.answer("200 OK", LENGTH, body=DATA[:1001])
        peer.reset()
        self.exhaust(self.network.refuse)
        self.failure(fetching, ServerFailed)

    def test_no_ranges(self) -> None:
        """The last attempt asks for the complete file: some networks let no range through."""
        fetching, peer = self.begin(LENGTH, TAG, body=DATA[:1000])
        peer.reset()
        self.exhaust(lambda: self.ask("Range: bytes=1000-").reset(), RETRY_DELAYS[:-1])
        self.clock.advance(RETRY_DELAYS[-1])
        self.send_whole()
        self.assert_came(fetching, SIGNED)

    def turn_away(self, *headers: str, status: str = "503 Service Unavailable") -> None:
        """Turn the next request away."""
        peer = self.network.accept()
        peer.answer(status, *headers, "Content-Length: 0")
        self.assertFalse(peer.open)

    def test_busy(self) -> None:
        """`Retry-After` is respected, before the first byte and after it."""
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
                self.send_missing(peer, come)
                self.assert_came(fetching, SIGNED)
                self.path.unlink()

    def test_busy_too_long(self) -> None:
        """A long `Retry-After` is not waited for, but returned to the caller."""
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
        """A server that keeps sending `Retry-After` is given up after an hour."""
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
        """A pause that the server asked for does not lower the rate."""
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
        self.cancel(fetching)

    def test_passing(self) -> None:
        """A temporary response of a proxy or a network does not end the download."""
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
        """A web page is refused even if the size of the archive is unknown."""
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
                self.send_missing(peer, come)
                self.assert_came(fetching, Content(len(DATA)))
                self.path.unlink()

    def test_long_page(self) -> None:
        """A page of unknown length is refused, whatever its length turns out to be."""
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
                self.send_rest(1000)
                self.assert_came(fetching, SIGNED)
                self.path.unlink()

    def test_whole_without_length(self) -> None:
        """Of a complete response without a length, only the missing bytes are written."""
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
        """A file that is gone is not requested again."""
        for status in ("404 Not Found", "410 Gone"):
            with self.subTest(status=status):
                self.path.unlink(missing_ok=True)
                fetching = self.begin_broken(LENGTH, TAG, body=DATA[:1000])
                self.network.accept().answer(status, "Content-Length: 0")
                self.assertIn(f"when asked for {URL}", self.failure(fetching, ServerFailed))

    def test_too_long_in_all(self) -> None:
        """All attempts together have a time limit."""
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
        """The time limit also ends a pause."""
        self.patch(module, "MAX_DURATION", 90)
        fetching = self.begin_broken(LENGTH, TAG, body=DATA[:1000])
        self.network.accept().answer("503 Service Unavailable", "Retry-After: 60")
        self.clock.advance(60)
        self.network.accept().answer("503 Service Unavailable", "Retry-After: 60")
        self.clock.advance(28.5)
        self.assertNoResult(fetching)
        self.clock.advance(0.5)
        self.assertIn("The download took more than", self.failure(fetching))

    def test_too_slow(self) -> None:
        """A download that is slower than the minimum rate fails, and a faster one does not."""
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
        """A download can be cancelled at any time, and the received bytes are kept."""
        self.interrupt(LENGTH, TAG)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled_between(self) -> None:
        """It can also be cancelled before the response, and in a pause."""
        fetching = self.fetch()
        peer = self.network.accept()
        self.cancel(fetching)
        self.assertFalse(peer.open)
        self.assert_nothing_left()
        fetching, peer = self.begin(LENGTH, TAG, body=DATA[:1000])
        peer.reset()
        self.cancel(fetching)
        fetching = self.fetch()
        self.ask("Range: bytes=1000-")
        self.cancel(fetching)
        self.assertEqual(self.path.read_bytes(), DATA[:1000])
