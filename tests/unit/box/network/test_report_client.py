"""The requests with reports, and the reading of the answers."""

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.network.report_client import Answer, ReportClient
from opq_twisted.common.errors import ServerFailed
from tests.helpers.memory_network import Network, Peer

URL = "http://updates.example:8151/report"


class ReportClientTests(SynchronousTestCase):
    """A client whose server is the test."""

    def setUp(self) -> None:
        self.network = Network()
        self.clock = self.network.clock
        self.client = ReportClient(self.clock, self.network.server)

    def send(self, body: bytes = b'{"seq":1}') -> tuple[Deferred[Any], Peer]:
        sent = Deferred.fromCoroutine(self.client.send(body, "c2lnbmF0dXJl"))
        return sent, self.network.accept()

    def answer(self, status: str, *headers: str, body: bytes = b"") -> Answer:
        sent, self.peer = self.send()
        self.peer.answer(status, f"Content-Length: {len(body)}", *headers, body=body)
        answer: Answer = self.successResultOf(sent)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return answer

    def failure(self, sent: Deferred[Any]) -> str:
        error = self.failureResultOf(sent, ServerFailed).value
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertNotIn("\n", str(error))
        return str(error)

    def test_request(self) -> None:
        """The request has the body and its signature, and closes its connection."""
        _, peer = self.send(b'{"seq":7}')
        head, _, body = peer.request.partition("\r\n\r\n")
        lines = head.split("\r\n")
        self.assertEqual((lines[0], body), ("POST /report HTTP/1.1", '{"seq":7}'))
        for line in (
            "Content-Length: 9",
            "Content-Type: application/json",
            "Opq-Signature: c2lnbmF0dXJl",
            "User-Agent: opq-box-agent/test",
            "Accept-Encoding: identity",
            "Connection: close",
        ):
            self.assertIn(line, lines)

    def test_bodies(self) -> None:
        """Only the bodies that say something are read; the connection is closed in any case."""
        for status, expected in (
            ("200 OK", b'{"seq": 7}'),
            ("409 Conflict", b'{"seq": 7}'),
            ("401 Unauthorized", b""),
            ("503 Service Unavailable", b""),
        ):
            with self.subTest(status=status):
                answer = self.answer(status, body=b'{"seq": 7}')
                self.assertEqual(answer, Answer(int(status[:3]), expected))
                self.assertFalse(self.peer.open)

    def test_redirect(self) -> None:
        """A redirect is not followed: the report is for this server only."""
        for status in ("301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent"):
            with self.subTest(status=status):
                answer = self.answer(status, "Location: http://other.example/report")
                self.assertEqual(answer.status, int(status[:3]))
                self.assertFalse(self.network.is_asked)

    def test_retry_after(self) -> None:
        """The pause that the server asks for is at most a day, and delays no check."""
        for value, seconds in (("7", 7.0), ("999999999", 86400.0), ("soon", 0.0), ("-1", 0.0)):
            with self.subTest(value=value):
                answer = self.answer("503 Service Unavailable", f"Retry-After: {value}")
                self.assertEqual(answer, Answer(503, retry_after=seconds))
                self.assertEqual(self.network.server.retry_after_left, 0.0)

    def test_endless(self) -> None:
        """An endless answer is not read to its end."""
        sent, peer = self.send()
        peer.answer("200 OK")
        peer.send(b" " * 4096)
        self.assertNoResult(sent)
        peer.send(b" ")
        self.assertIn("sent more than 4096 bytes", self.failure(sent))
        self.assertFalse(peer.open)

    def test_slow(self) -> None:
        """An answer that comes byte by byte is given up."""
        sent, peer = self.send()
        peer.answer("200 OK", "Content-Length: 1000")
        for _ in range(29):
            self.clock.advance(1)
            peer.send(b" ")
        self.assertNoResult(sent)
        self.clock.advance(1)
        self.assertIn("it was not complete after 30 seconds", self.failure(sent))
        self.assertFalse(peer.open)

    def test_silent(self) -> None:
        """A server that does not answer is given up after a minute."""
        sent, peer = self.send()
        self.clock.advance(59)
        self.assertNoResult(sent)
        self.clock.advance(1)
        self.assertIn("did not answer within 60 seconds", self.failure(sent))
        self.assertFalse(peer.open)

    def test_cut(self) -> None:
        """An incomplete answer is an error."""
        sent, peer = self.send()
        peer.answer("200 OK", "Content-Length: 10", body=b"{")
        peer.reset()
        self.assertEqual(
            self.failure(sent),
            f"Cannot read the answer of {URL}: The connection broke after 1 bytes. Try again.",
        )

    def test_nobody(self) -> None:
        """A server that cannot be reached is an error with the reason."""
        sent = Deferred.fromCoroutine(self.client.send(b"{}", ""))
        self.network.refuse()
        self.assertIn("no server answers there", self.failure(sent))

    def test_cancelled(self) -> None:
        """Cancelling closes the connection, before the answer and during it."""
        for begin in (False, True):
            with self.subTest(begin=begin):
                sent, peer = self.send()
                if begin:
                    peer.answer("200 OK", "Content-Length: 10", body=b"{")
                sent.cancel()
                self.failureResultOf(sent, CancelledError)
                self.assertFalse(peer.open)
                self.assertEqual(self.clock.getDelayedCalls(), [])
