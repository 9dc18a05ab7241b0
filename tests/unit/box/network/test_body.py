"""Bodies are read piece by piece, and the connection is closed at their limits."""

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IResponse

from opq_twisted.box.network.body import (
    IDLE_TIMEOUT,
    MAX_DURATION,
    BrokenOff,
    TooLong,
    discard,
    read_body,
)
from opq_twisted.common.errors import DownloadFailed
from tests.helpers.memory_network import Network, Peer

URL = "http://updates.example:8151/x"


class BodyTests(SynchronousTestCase):
    """The body of a response, byte by byte."""

    def setUp(self) -> None:
        self.network = Network()
        self.clock = self.network.clock
        self.pieces: list[bytes] = []

    def answer(self, *headers: str) -> tuple[Peer, IResponse]:
        asked = Deferred.fromCoroutine(self.network.server.get(URL))
        peer = self.network.accept()
        peer.answer("200 OK", *headers)
        return peer, self.successResultOf(asked)

    def take(self, *headers: str, limit: int = 100, **options: Any) -> tuple[Peer, Deferred[int]]:
        peer, response = self.answer(*headers)
        return peer, read_body(self.clock, response, self.pieces.append, limit, **options)

    def assert_given_up(
        self, peer: Peer, body: Deferred[int], kind: type[DownloadFailed], sentence: str
    ) -> None:
        error = self.failureResultOf(body, DownloadFailed).value
        self.assertEqual((type(error), str(error)), (kind, sentence))
        self.assertFalse(peer.open)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_whole(self) -> None:
        """A body is passed on as it arrives, and counted."""
        peer, body = self.take("Content-Length: 5")
        peer.send(b"ab")
        peer.send(b"cde")
        self.assertEqual(self.successResultOf(body), 5)
        self.assertEqual(self.pieces, [b"ab", b"cde"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_empty(self) -> None:
        """A body may be empty."""
        _, body = self.take("Content-Length: 0")
        self.assertEqual(self.successResultOf(body), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_came_before(self) -> None:
        """A body that arrives with the headers is not lost."""
        peer, response = self.answer("Content-Length: 5")
        peer.send(b"abcde")
        body = read_body(self.clock, response, self.pieces.append, 100)
        self.assertEqual(self.successResultOf(body), 5)
        self.assertEqual(b"".join(self.pieces), b"abcde")

    def test_chunked(self) -> None:
        """The framing of chunks is not part of the body."""
        peer, body = self.take("Transfer-Encoding: chunked")
        peer.send(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        self.assertEqual(self.successResultOf(body), 5)
        self.assertEqual(b"".join(self.pieces), b"abcde")

    def test_no_length(self) -> None:
        """A body without a length ends when the connection is closed."""
        peer, body = self.take()
        peer.send(b"abcde")
        self.assertNoResult(body)
        peer.close()
        self.assertEqual(self.successResultOf(body), 5)

    def test_broken(self) -> None:
        """A body that ends before its length is incomplete, however the connection ended."""
        for end in (Peer.close, Peer.reset):
            with self.subTest(end=end.__name__):
                peer, body = self.take("Content-Length: 5")
                peer.send(b"abcd")
                end(peer)
                error = self.failureResultOf(body, BrokenOff).value
                self.assertEqual(str(error), "The connection broke after 4 bytes. Try again.")
                self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_limit(self) -> None:
        """A byte beyond the limit ends the transfer."""
        peer, body = self.take(limit=5)
        peer.send(b"abcde")
        self.assertNoResult(body)
        peer.send(b"f")
        self.assert_given_up(peer, body, TooLong, "The server sent more than 5 bytes.")
        self.assertEqual(self.pieces, [b"abcde"])

    def test_silence(self) -> None:
        """Silence ends a transfer; each byte restarts the timeout."""
        peer, body = self.take("Content-Length: 5")
        for _ in range(3):
            self.clock.advance(IDLE_TIMEOUT - 1)
            peer.send(b"a")
        self.clock.advance(IDLE_TIMEOUT - 1)
        self.assertNoResult(body)
        self.clock.advance(1)
        self.assert_given_up(peer, body, BrokenOff, "The server sent nothing for 60 seconds.")

    def test_deadline(self) -> None:
        """A transfer has a maximum duration, even if bytes arrive."""
        peer, body = self.take(limit=10**6)
        for _ in range(int(MAX_DURATION / 50) - 1):
            self.clock.advance(50)
            peer.send(b"a")
        self.assertNoResult(body)
        self.clock.advance(50)
        self.assert_given_up(peer, body, DownloadFailed, "The transfer took more than 6 hours.")

    def take_slowly(self, *headers: str) -> tuple[Peer, Deferred[int], Deferred[None]]:
        """Read a body whose first piece keeps its receiver busy."""
        busy: list[Deferred[None]] = [Deferred()]
        peer, response = self.answer(*headers)
        body = read_body(self.clock, response, lambda data: busy.pop() if busy else None, 100)
        ready = busy[0]
        peer.send(b"abc")
        return peer, body, ready

    def test_paused(self) -> None:
        """The sender is paused until the receiver is ready; this does not count as silence."""
        peer, body, ready = self.take_slowly("Content-Length: 6")
        self.assertTrue(peer.paused)
        self.clock.advance(IDLE_TIMEOUT)
        self.clock.advance(IDLE_TIMEOUT - 1)
        ready.callback(None)
        self.assertFalse(peer.paused)
        self.clock.advance(IDLE_TIMEOUT - 1)
        self.assertNoResult(body)
        self.clock.advance(1)
        self.assert_given_up(peer, body, BrokenOff, "The server sent nothing for 60 seconds.")

    def test_paused_too_late(self) -> None:
        """Bytes that are on their way when the sender is paused are received."""
        peer, body, ready = self.take_slowly("Content-Length: 6")
        peer.send(b"def")
        self.assertEqual(self.successResultOf(body), 6)
        ready.callback(None)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_fails_while_paused(self) -> None:
        """If the receiver's Deferred fails, the transfer fails so, unless it has ended already."""
        peer, body, ready = self.take_slowly("Content-Length: 6")
        ready.errback(OSError(28, "No space left on device"))
        self.failureResultOf(body, OSError)
        self.assertFalse(peer.open)
        peer, body, ready = self.take_slowly("Content-Length: 6")
        body.cancel()
        self.failureResultOf(body, CancelledError)
        ready.errback(OSError(28, "No space left on device"))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_receiver_fails(self) -> None:
        """If the receiver raises an error, the transfer fails with it."""

        def fail(data: bytes) -> None:
            raise OSError(28, "No space left on device")

        peer, response = self.answer("Content-Length: 5")
        body = read_body(self.clock, response, fail, 100)
        peer.send(b"abc")
        self.failureResultOf(body, OSError)
        self.assertFalse(peer.open)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled(self) -> None:
        """Cancelling closes the connection."""
        peer, body = self.take("Content-Length: 5")
        peer.send(b"abc")
        body.cancel()
        self.failureResultOf(body, CancelledError)
        self.assertFalse(peer.open)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_hang_up(self) -> None:
        """The body of a discarded response is not read, and its connection is closed."""
        peer, response = self.answer("Content-Length: 5")
        discard(self.clock, response)
        self.assertFalse(peer.open)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_hang_up_late(self) -> None:
        """A discarded response may be complete already."""
        peer, response = self.answer("Content-Length: 5")
        peer.send(b"abcde")
        discard(self.clock, response)
        self.assertEqual(self.clock.getDelayedCalls(), [])
