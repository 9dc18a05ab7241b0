"""The requests of a box to the update server, and its reading of the responses."""

import base64
import gzip
from collections.abc import Coroutine
from errno import EHOSTUNREACH, ENETUNREACH, ETIMEDOUT
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import DNSLookupError, getConnectError
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IResponse

from opq_twisted.box.network.headers import ContentRange, content_range, repr_digests, strong_etag
from opq_twisted.box.network.update_server import unexpected_status
from opq_twisted.common.errors import ServerFailed
from tests.helpers.box_fakes import NEW
from tests.helpers.memory_network import Network, Peer

ENDPOINT = "http://updates.example:8151"
DATE = "Date: Sun, 06 Nov 1994 08:49:00 GMT"


class ClientCase(SynchronousTestCase):
    """A client whose server is the test."""

    def setUp(self) -> None:
        self.network = Network()
        self.clock = self.network.clock

    def ask(self, question: Coroutine[Deferred[Any], Any, Any]) -> tuple[Deferred[Any], Peer]:
        asked = Deferred.fromCoroutine(question)
        return asked, self.network.accept()

    def newest(self, status: str, *headers: str, body: bytes = b"") -> Deferred[Any]:
        asked, self.peer = self.ask(self.network.server.newest())
        length = f"Content-Length: {len(body)}"
        self.peer.answer(status, length, *headers, body=body)
        return asked

    def failure(self, asked: Deferred[Any]) -> ServerFailed:
        error = self.failureResultOf(asked, ServerFailed).value
        assert isinstance(error, ServerFailed)
        self.assertNotIn("\n", str(error))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return error


class NewestTests(ClientCase):
    """`/version`."""

    def test_asked(self) -> None:
        """The request has a User-Agent, accepts no content coding, and closes the connection."""
        _, peer = self.ask(self.network.server.newest())
        lines = peer.request.split("\r\n")
        self.assertEqual(lines[0], "GET /version HTTP/1.1")
        self.assertIn("Host: updates.example:8151", lines)
        self.assertIn("User-Agent: opq-box-agent/test", lines)
        self.assertIn("Accept-Encoding: identity", lines)
        self.assertIn("Connection: close", lines)

    def test_version(self) -> None:
        """The body is digits, with an optional newline."""
        for body in (b"1700000100", b"1700000100\n"):
            with self.subTest(body=body):
                asked = self.newest("200 OK", body=body)
                self.assertEqual(self.successResultOf(asked), NEW)
                self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_older_server(self) -> None:
        """A response of HTTP/1.0 without a length is read."""
        asked, peer = self.ask(self.network.server.newest())
        peer.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n1700000100")
        peer.close()
        self.assertEqual(self.successResultOf(asked), NEW)

    def test_none(self) -> None:
        """A server without an update answers 404; the connection is closed."""
        for status in ("404 Not Found", "410 Gone"):
            with self.subTest(status=status):
                asked, peer = self.ask(self.network.server.newest())
                peer.answer(status, "Content-Length: 100")
                self.assertIsNone(self.successResultOf(asked))
                self.assertFalse(peer.open)
                self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_garbage(self) -> None:
        """A body that is not a version is refused, and the sentence shows its beginning."""
        for body in (b"", b"<!doctype html>", b"-1", b"0", b"017", b"1e9", b"\xff\xfe", b"9" * 40):
            with self.subTest(body=body):
                error = self.failure(self.newest("200 OK", body=body))
                self.assertIn(
                    f"{ENDPOINT}/version did not answer as an update server does", str(error)
                )
                self.assertLess(len(str(error)), 300)

    def test_too_long(self) -> None:
        """An endless body is not read to its end."""
        asked, peer = self.ask(self.network.server.newest())
        peer.answer("200 OK")
        peer.send(b"1" * 1024)
        self.assertNoResult(asked)
        peer.send(b"1")
        self.assertIn("more than 1024 bytes", str(self.failure(asked)))
        self.assertFalse(peer.open)

    def test_dripping(self) -> None:
        """An endless slow body is given up, so that a check ends."""
        asked, peer = self.ask(self.network.server.newest())
        peer.answer("200 OK", "Content-Length: 1000")
        for _ in range(14):
            self.clock.advance(40)
            peer.send(b"1")
        self.assertNoResult(asked)
        self.clock.advance(40)
        self.assertEqual(
            str(self.failure(asked)),
            f"Cannot read {ENDPOINT}/version: it was not complete after 10 minutes.",
        )
        self.assertFalse(peer.open)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cut(self) -> None:
        """An incomplete number is refused, because it is another number."""
        asked, peer = self.ask(self.network.server.newest())
        peer.answer("200 OK", "Content-Length: 10", body=b"17000")
        peer.close()
        self.assertEqual(
            str(self.failure(asked)),
            f"Cannot read {ENDPOINT}/version: The connection broke after 5 bytes. Try again.",
        )

    def test_bomb(self) -> None:
        """A body with a content coding that was not requested is not decoded."""
        bomb = gzip.compress(bytes(10**5))
        self.assertLess(len(bomb), 1024)
        error = self.failure(self.newest("200 OK", "Content-Encoding: gzip", body=bomb))
        # Unpacked, it would have been too long.
        self.assertIn("is not a version", str(error))

    def test_redirect(self) -> None:
        """A redirect is not followed: the server could choose the box's requests."""
        for status in ("301 Moved Permanently", "302 Found", "303 See Other", "308 Permanent"):
            with self.subTest(status=status):
                asked = self.newest(status, "Location: http://router.home/reboot")
                self.assertIn(
                    "Change updates_ep in the configuration, or log in.", str(self.failure(asked))
                )
                self.assertEqual(self.clock.tcpClients, [])
                self.assertFalse(self.peer.open)

    def test_cookies(self) -> None:
        """Cookies are not sent with the next request."""
        asked = self.newest(
            "200 OK", "Set-Cookie: a=b; Path=/", "Set-Cookie2: c=d", body=b"1700000100"
        )
        self.successResultOf(asked)
        _, peer = self.ask(self.network.server.newest())
        self.assertNotIn("cookie", peer.request.lower())

    def test_server_error(self) -> None:
        """The error has any other status, and the body is not read."""
        asked, peer = self.ask(self.network.server.newest())
        peer.answer("500 Internal Server Error", "Content-Length: 100")
        error = self.failure(asked)
        self.assertEqual(
            str(error), f"The update server answers 500 when asked for {ENDPOINT}/version."
        )
        self.assertIsNone(error.retry_after)
        self.assertFalse(peer.open)

    def test_retry_after(self) -> None:
        """Both forms of `Retry-After` are read; a date is relative to the server's clock."""
        for headers, seconds in (
            (["Retry-After: 120"], 120.0),
            (["Retry-After: 0"], 0.0),
            (["Retry-After: Sun, 06 Nov 1994 08:49:37 GMT", DATE], 37.0),
            (["Retry-After: Sun, 06 Nov 1994 08:48:00 GMT", DATE], 0.0),
            (["Retry-After: Sun, 06 Nov 1994 08:49:37 GMT"], None),
            (["Retry-After: -5"], None),
            (["Retry-After: 1.5"], None),
            (["Retry-After: 9999999999"], None),
            (["Retry-After: soon", DATE], None),
            (["Retry-After: Foo, 99 Bar 1994 99:99:99 GMT", DATE], None),
            (["Retry-After: \xb2", DATE], None),
            (["Retry-After: ", DATE], None),
        ):
            with self.subTest(headers=headers):
                asked = self.newest("503 Service Unavailable", *headers)
                self.assertEqual(self.failure(asked).retry_after, seconds)

    def test_left_alone(self) -> None:
        """The last `Retry-After` is remembered, for a day at most."""
        server, clock = self.network.server, self.network.clock
        for status, asked, alone in (
            ("503 Service Unavailable", 120, 120),
            ("429 Too Many Requests", 10**8, 86400),
            ("404 Not Found", 5, 86400),
            ("502 Bad Gateway", 7, 7),
        ):
            with self.subTest(status=status):
                asking = self.newest(status, f"Retry-After: {asked}", "Content-Length: 0")
                asking.addErrback(lambda _: None)
                self.assertEqual(server.retry_after_left, alone)
        clock.advance(5)
        self.assertEqual(server.retry_after_left, 2)
        clock.advance(5)
        self.assertEqual(server.retry_after_left, 0)


class UnreachableTests(ClientCase):
    """Servers that cannot be reached, or do not respond."""

    def assert_unreachable(self, asked: Deferred[Any], reason: str) -> None:
        self.assertEqual(
            str(self.failure(asked)),
            f"Cannot reach the update server {ENDPOINT}: {reason}. "
            "Check the network, and updates_ep in the configuration, which "
            "opq-box setup --server URL sets.",
        )

    def test_refused(self) -> None:
        """Nobody listens there."""
        asked = Deferred.fromCoroutine(self.network.server.newest())
        self.network.refuse()
        self.assert_unreachable(asked, "no server answers there")

    def test_no_way(self) -> None:
        """Network errors are explained in plain words, without error numbers."""
        for error, reason in (
            (
                DNSLookupError("no results for hostname lookup: updates"),
                "its name is not known here",
            ),
            (getConnectError((ENETUNREACH, "x")), "there is no route to it from here"),
            (getConnectError((ETIMEDOUT, "x")), "it does not answer"),
            (getConnectError((EHOSTUNREACH, "x")), "No route to host"),
        ):
            with self.subTest(reason=reason):
                asked = Deferred.fromCoroutine(self.network.server.newest())
                self.network.refuse(error)
                self.assert_unreachable(asked, reason)

    def test_broken(self) -> None:
        """The connection breaks before the response."""
        asked, peer = self.ask(self.network.server.newest())
        peer.reset()
        self.assert_unreachable(asked, "it closed the connection")

    def test_silent(self) -> None:
        """A server that does not respond is given up after a minute."""
        asked, peer = self.ask(self.network.server.newest())
        self.clock.advance(59)
        self.assertNoResult(asked)
        self.clock.advance(1)
        self.assert_unreachable(asked, "it did not answer within 60 seconds")
        self.assertFalse(peer.open)

    def test_not_http(self) -> None:
        """A program that does not speak HTTP listens there."""
        asked, peer = self.ask(self.network.server.newest())
        peer.send(b"SSH-2.0-OpenSSH_9.2\r\n")
        sentence = str(self.failure(asked))
        self.assertIn(f"Cannot reach the update server {ENDPOINT}: ", sentence)
        self.assertFalse(peer.open)

    def test_cancelled(self) -> None:
        """A request can be cancelled at any time, and nothing remains."""
        asked, peer = self.ask(self.network.server.newest())
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertFalse(peer.open)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ReadTests(ClientCase):
    """Small files."""

    URL = f"{ENDPOINT}/tuf/timestamp.json"

    def test_read(self) -> None:
        """A file is read, up to a limit."""
        asked, peer = self.ask(self.network.server.read(self.URL, 5))
        self.assertTrue(peer.request.startswith("GET /tuf/timestamp.json HTTP/1.1\r\n"))
        peer.answer("200 OK", "Content-Length: 5", body=b"abcde")
        self.assertEqual(self.successResultOf(asked), b"abcde")

    def test_nothing(self) -> None:
        """There may be no such file."""
        asked, peer = self.ask(self.network.server.read(self.URL, 5))
        peer.answer("404 Not Found", "Content-Length: 100")
        self.assertIsNone(self.successResultOf(asked))
        self.assertFalse(peer.open)

    def test_too_long(self) -> None:
        """A longer body is an error, which names the URL."""
        asked, peer = self.ask(self.network.server.read(self.URL, 5))
        peer.answer("200 OK", "Content-Length: 6", body=b"abcdef")
        self.assertIn(f"{self.URL} did not answer as", str(self.failure(asked)))
        self.assertFalse(peer.open)


class EntityTagTests(ClientCase):
    """Waiting for another version."""

    def tag(self, known: str | None = '"1"', wait: int = 300) -> Deferred[Any]:
        asked, self.peer = self.ask(self.network.server.poll_etag(known, wait, wait + 60))
        return asked

    def test_asked(self) -> None:
        """The request has the known tag, and the time to wait."""
        self.tag()
        lines = self.peer.request.split("\r\n")
        self.assertEqual(lines[0], "GET /version HTTP/1.1")
        self.assertIn('If-None-Match: "1"', lines)
        self.assertIn("Prefer: wait=300", lines)
        self.assertIn("User-Agent: opq-box-agent/test", lines)

    def test_nothing_known(self) -> None:
        """Without a known tag, the response has the tag."""
        asked = self.tag(None)
        self.assertNotIn("If-None-Match", self.peer.request)
        self.peer.answer("200 OK", 'ETag: "1"', "Content-Length: 1", body=b"1")
        self.assertEqual(self.successResultOf(asked), '"1"')
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_another(self) -> None:
        """Another tag ends the wait; the body is not read, and nothing remains."""
        for headers in ([], ["Preference-Applied: wait=300"]):
            asked = self.tag()
            self.assertNoResult(asked)
            self.peer.answer("200 OK", 'ETag: "2"', "Content-Length: 1000000", *headers)
            self.assertEqual(self.successResultOf(asked), '"2"')
            self.assertFalse(self.peer.open)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_same(self) -> None:
        """A server that has waited without a change says so."""
        for header in (
            "Preference-Applied: wait=300",
            "Preference-Applied: WAIT",
            "preference-applied:wait",
            "Preference-Applied: foo, wait =300",
            "Preference-Applied: foo\r\nPreference-Applied: wait",
        ):
            with self.subTest(header=header):
                asked = self.tag()
                self.clock.advance(300)
                self.peer.answer("304 Not Modified", 'ETag: "1"', header)
                self.assertEqual(self.successResultOf(asked), '"1"')
                self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_not_waited(self) -> None:
        """A server that has not waited, or has no tag, does not support waiting."""
        for status, *headers in (
            ("304 Not Modified", 'ETag: "1"'),
            ("304 Not Modified", "Preference-Applied: respond-async"),
            ("304 Not Modified", "Preference-Applied: waiting=300"),
            ("200 OK", "Content-Length: 10"),
            ("200 OK", "Content-Length: 10", "ETag: 1"),
            ("200 OK", "Content-Length: 10", 'ETag: W/"1"'),
        ):
            with self.subTest(status=status, headers=headers):
                asked = self.tag()
                self.peer.answer(status, *headers)
                self.assertEqual(
                    str(self.failure(asked)),
                    f"The update server does not let a box wait until {ENDPOINT}/version changes.",
                )

    def test_never_asked_to_wait_for_nothing(self) -> None:
        """A 304 without a known tag is refused."""
        asked = self.tag(None)
        self.peer.answer("304 Not Modified", "Preference-Applied: wait=300")
        self.failure(asked)

    def test_refused(self) -> None:
        """Any other status is a failure, with its `Retry-After`."""
        for status in ("302 Found", "404 Not Found", "503 Service Unavailable"):
            for header, seconds in (
                ("Retry-After: 120", 120),
                (f"Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n{DATE}", 37),
                ("X: y", None),
            ):
                with self.subTest(status=status, header=header):
                    asked = self.tag()
                    self.peer.answer(status, header, "Content-Length: 5", body=b"hello")
                    error = self.failure(asked)
                    self.assertIn(f"answers {status[:3]}", str(error))
                    self.assertEqual(error.retry_after, seconds)

    def test_dead(self) -> None:
        """A dead connection is given up some time after the end of the wait."""
        asked = self.tag(wait=300)
        self.clock.advance(359)
        self.assertNoResult(asked)
        self.clock.advance(1)
        self.assertIn("did not answer within 360 seconds", str(self.failure(asked)))
        self.assertFalse(self.peer.open)

    def test_cancelled(self) -> None:
        """Cancelling ends the wait, and closes the connection."""
        asked = self.tag()
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertFalse(self.peer.open)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class GetTests(ClientCase):
    """Responses whose body is read later."""

    def answer(self, status: str, *headers: str) -> tuple[IResponse, Peer]:
        url = self.network.server.archive_url(NEW)
        asked, peer = self.ask(self.network.server.get(url, {"Range": "bytes=7-"}))
        peer.answer(status, *headers)
        response: IResponse = self.successResultOf(asked)
        return response, peer

    def test_asked(self) -> None:
        """An archive has its URL, and the request has the given headers."""
        # As servers say that know the file's suffix.
        response, peer = self.answer("200 OK", "Content-Encoding: bzip2", "Content-Length: 5")
        lines = peer.request.split("\r\n")
        self.assertEqual(lines[0], "GET /update/opq-box-update-1700000100.tar.bz2 HTTP/1.1")
        self.assertIn("Range: bytes=7-", lines)
        self.assertIn("User-Agent: opq-box-agent/test", lines)
        self.assertEqual(response.length, 5)
        self.assertTrue(peer.open)

    def test_any_status(self) -> None:
        """Any status is returned, and a sentence describes it."""
        response, peer = self.answer("404 Not Found", "Content-Length: 100", "Retry-After: 3")
        error = unexpected_status(response, f"{ENDPOINT}/x")
        self.assertEqual(str(error), f"The update server answers 404 when asked for {ENDPOINT}/x.")
        self.assertEqual(error.retry_after, 3)
        self.assertTrue(peer.open)

    def test_digests(self) -> None:
        """The digests are read from among other algorithms (RFC 9530)."""
        short = "RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o="
        sha256 = {"sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}
        long = base64.b64encode(bytes(range(64))).decode()
        sha512 = {"sha512": bytes(range(64)).hex()}
        for headers, expected in (
            ([], {}),
            ([f"sha-256=:{short}:"], sha256),
            ([f"sha-512=:AAAA:, sha-256=:{short}:, unixsum=:BBBB:"], sha256),
            (["sha-512=:AAAA:", f"sha-256=:{short}:"], sha256),
            ([f"sha-512=:{long}:"], sha512),
            ([f"sha-512=:{long}:,sha-256=:{short}:"], {**sha256, **sha512}),
            ([f"sha-256=:{long}:"], {}),
            ([f"x-sha-256=:{short}:"], {}),
            ([f"sha-256={short}"], {}),
            (["sha-256=:AAAA:"], {}),
            ([f"sha-256=:{short[:-4]}====:"], {}),
            (["sha-256=:\xb2:"], {}),
            (["\xff"], {}),
            ([""], {}),
        ):
            with self.subTest(headers=headers):
                response, _ = self.answer("200 OK", *(f"Repr-Digest: {item}" for item in headers))
                self.assertEqual(repr_digests(response), expected)

    def test_etag(self) -> None:
        """Only a strong validator proves that two ranges are of the same file."""
        for headers, expected in (
            ([], None),
            (['"abc"'], '"abc"'),
            (['""'], '""'),
            (['W/"abc"'], None),
            (["abc"], None),
            (['"a b"'], None),
            (['"\xe9"'], None),
            (['"a"', '"b"'], None),
            (['"' + 300 * "a" + '"'], None),
        ):
            with self.subTest(headers=headers):
                response, _ = self.answer("200 OK", *(f"ETag: {item}" for item in headers))
                self.assertEqual(strong_etag(response), expected)

    def test_content_range(self) -> None:
        """The range of a response is read if it is valid."""
        for headers, expected in (
            ([], None),
            (["bytes 5-9/10"], ContentRange(5, 9, 10)),
            (["bytes 5-9/*"], ContentRange(5, 9, None)),
            (["bytes */10"], ContentRange(None, None, 10)),
            (["bytes 5-9"], None),
            (["bytes=5-9/10"], None),
            (["bytes -5-9/10"], None),
            (["lines 5-9/10"], None),
            (["bytes 5-9/10", "bytes 5-9/10"], None),
            (["bytes 5-9/" + "9" * 30], None),
        ):
            with self.subTest(headers=headers):
                response, _ = self.answer("200 OK", *(f"Content-Range: {i}" for i in headers))
                self.assertEqual(content_range(response), expected)
