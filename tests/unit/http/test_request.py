"""A request is answered with a `Reply`, whatever fails, and however long its body is."""

import os

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.http.reply import Reply, header_lines
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource
from tests.helpers.http_exchange import Connection, Response, parse_all
from tests.helpers.resources import Breaks, hello
from tests.unit.http.test_channel import GOOD, HEAD_OF_POST, PIECE, Large


class BreaksOff(PlainResource):
    """Fails after part of the response was sent."""

    isLeaf = True

    def render_GET(self, request: BoundedRequest) -> Reply:
        """Fail."""
        request.channel.write(request.begin(200, header_lines({b"Content-Length": b"9"})))
        request.write(b"part")
        raise ZeroDivisionError


class BrokenTests(SynchronousTestCase):
    """An error in a resource."""

    def setUp(self) -> None:
        self.root = hello()
        self.root.putChild(b"breaks", Breaks())
        self.root.putChild(b"breaks-off", BreaksOff())
        self.connection = Connection(self.root)

    def assertLogged(self, times: int = 1) -> None:
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), times)

    def test_before_an_answer(self) -> None:
        """The client gets 500 with a sentence, without the traceback, and may go on."""
        self.connection.send("GET", "/breaks")
        self.connection.send("GET", "/hello")
        broken, good = parse_all(self.connection.transport.value())
        self.assertEqual(broken.status, 500)
        self.assertEqual(broken.text, "Something went wrong here; the log says what.\n")
        self.assertEqual(broken.headers["Content-Type"], "text/plain; charset=utf-8")
        self.assertEqual(good.text, "Hello.\n")
        self.assertLogged()

    def test_head(self) -> None:
        """HEAD gets 500 without a body."""
        self.connection.send("HEAD", "/breaks")
        self.assertEqual(self.connection.response("HEAD").status, 500)
        self.assertLogged()

    def test_pipelined(self) -> None:
        """Pipelined requests are answered in order, whether they fail or not."""
        self.connection.channel.dataReceived((GOOD + GOOD.replace(b"hello", b"breaks")) * 3)
        self.connection.clock.advance(0)
        responses = parse_all(self.connection.transport.value())
        self.assertEqual([response.status for response in responses], [200, 500] * 3)
        self.assertLogged(3)

    def test_in_the_middle(self) -> None:
        """A response that has begun is cut, so that no client takes the part for the whole."""
        self.connection.send("GET", "/breaks-off")
        response = self.connection.response()
        self.assertEqual((response.body, response.cut), (b"part", True))
        self.assertTrue(self.connection.transport.disconnected)
        self.assertLogged()


class LargeTests(SynchronousTestCase):
    """A long body is sent in pieces, at the speed of the client."""

    def setUp(self) -> None:
        self.root = hello()
        self.root.putChild(b"large", Large())
        self.connection = Connection(self.root)
        self.transport = self.connection.transport
        self.ended: list[bool] = []
        self.connection.site.request_observers.append(lambda _, whole: self.ended.append(whole))

    def slowly(self, *headers: str) -> None:
        """Send a request as a client that reads nothing until `take` is called."""
        self.transport.room = 0
        self.connection.send("GET", "/large", *headers)

    def take(self) -> int:
        """Read the buffer; returns how much of the body has been sent after the next piece."""
        self.connection.channel.resumeProducing()
        return len(self.connection.response().body)

    def test_pieces(self) -> None:
        """The bytes are right, and are sent in pieces of 64 KiB."""
        self.slowly()
        self.assertEqual(self.connection.response().body, b"")
        self.assertEqual([self.take() for _ in range(3)], [PIECE, 2 * PIECE, 150_000])
        response = self.connection.response()
        self.assertEqual((response.body, response.cut), (Large.body, False))
        self.assertEqual(self.ended, [True])

    def test_edges(self) -> None:
        """No byte is lost or added between the pieces."""
        for size in (PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 1):
            self.patch(Large, "body", os.urandom(size))
            connection = Connection(self.root)
            connection.send("GET", "/large")
            self.assertEqual(connection.response().body, Large.body)
            connection.transport.clear()
            connection.send("GET", "/hello")
            self.assertEqual(connection.response().text, "Hello.\n")

    def test_taken_at_once(self) -> None:
        """A client that makes room directly after the headers gets the whole body."""
        self.transport.room = 10
        self.connection.send("GET", "/large")
        self.transport.drain()
        self.assertEqual(self.connection.response().body, Large.body)

    def test_head(self) -> None:
        """HEAD gets the length at once, and no body."""
        self.connection.send("HEAD", "/large")
        response = self.connection.response("HEAD")
        self.assertEqual((response.headers["Content-Length"], response.body), ("150000", b""))
        self.assertEqual(self.ended, [True])

    def test_next_request(self) -> None:
        """A pipelined request is answered after the body."""
        self.slowly()
        self.connection.send("GET", "/hello")
        self.transport.drain()
        large, good = parse_all(self.transport.value())
        self.assertEqual((large.body, good.text), (Large.body, "Hello.\n"))

    def test_last_request(self) -> None:
        """A connection for one request is closed after the last piece, and not earlier."""
        self.slowly("Connection: close")
        for _ in range(2):
            self.take()
            self.assertFalse(self.transport.disconnecting)
        self.take()
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual(self.connection.response().body, Large.body)

    def test_stalled(self) -> None:
        """A client that reads nothing for 300 seconds is cut off, and no more is sent."""
        self.slowly()
        self.take()
        self.connection.advance(299.5)
        self.assertFalse(self.transport.disconnecting)
        self.connection.advance(0.5)
        self.assertTrue(self.transport.disconnected)
        self.connection.lose()
        self.assertEqual((len(self.connection.response().body), self.ended), (PIECE, [False]))

    def test_stalled_at_once(self) -> None:
        """The same for a client that does not even read the headers."""
        self.slowly()
        self.connection.advance(300)
        self.assertTrue(self.transport.disconnected)

    def test_slow(self) -> None:
        """A client that reads a piece every 299 seconds gets the whole body."""
        self.slowly()
        for _ in range(3):
            self.connection.advance(299)
            self.take()
        self.assertFalse(self.transport.disconnecting)
        self.assertEqual(self.connection.response().body, Large.body)

    def test_gone(self) -> None:
        """Nothing more is sent to a client that has gone."""
        for pieces in range(3):
            connection = Connection(self.root, self.connection.site)
            connection.transport.room = 0
            connection.send("GET", "/large")
            for _ in range(pieces):
                connection.channel.resumeProducing()
            connection.lose()
            self.assertEqual(len(connection.response().body), pieces * PIECE)
        self.assertEqual(self.ended, [False] * 3)


class TargetTests(SynchronousTestCase):
    """The target of a request, and its body."""

    def exchange(self, sent: bytes) -> Response:
        connection = Connection(hello())
        connection.channel.dataReceived(sent)
        return connection.response()

    def test_absolute_form(self) -> None:
        """A whole URL is as good as its path."""
        for target in (b"http://x/hello", b"HTTP://x:80/hello?y", b"https://x/hello"):
            response = self.exchange(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertEqual(response.text, "Hello.\n", target)
        self.assertEqual(self.exchange(b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n").status, 404)

    def test_no_path(self) -> None:
        """A target that is neither a path nor a URL gets 400."""
        for target in (b"hello", b"xhello", b"*", b"ftp://x/hello"):
            response = self.exchange(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertEqual(response.status, 400, target)

    def test_forms_are_not_parsed(self) -> None:
        """A form is a body like any other."""
        form = b"--x\r\nContent-Disposition: form-data; name*=utf-8''x\r\n\r\n1\r\n--x--\r\n"
        for body in (form, b"no form"):
            response = self.exchange(
                HEAD_OF_POST
                + b"Content-Type: multipart/form-data; boundary=x\r\n"
                + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            self.assertEqual(response.body, b"%d" % len(body))
