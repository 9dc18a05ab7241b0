"""Requests are bounded; who sends too much is told so, over a real connection."""

import socket

from twisted.internet import reactor, tcp
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from opq_twisted.errors import CannotStart
from opq_twisted.http.channel import BoundedRequest
from opq_twisted.http.listener import Listener
from opq_twisted.http.reply import Reply
from opq_twisted.http.resource import PlainResource
from opq_twisted.http.site import BoundedSite
from tests.exchange import Answer, Connection, ask, parse_all

#: Seconds after which a client that gets no answer gives up.
PATIENCE = 20

GOOD = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD_OF_POST = b"POST /hello HTTP/1.1\r\nHost: x\r\n"


class Hello(PlainResource):
    """Says how long the body was that it got."""

    isLeaf = True

    def render_GET(self, request: BoundedRequest) -> Reply:
        """Answer."""
        return Reply.sentence(200, "Hello.")

    def render_POST(self, request: BoundedRequest) -> Reply:
        """Answer."""
        assert request.content is not None
        return Reply.of(200, b"%d" % len(request.content.read()))


def hello() -> PlainResource:
    root = PlainResource()
    root.putChild(b"hello", Hello())
    return root


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


class BoundsTests(SynchronousTestCase):
    """What is refused, byte for byte."""

    def exchange(self, *pieces: bytes) -> list[Answer]:
        self.connection = Connection(hello())
        for piece in pieces:
            self.connection.channel.dataReceived(piece)
        return parse_all(self.connection.transport.value())

    def assertRefused(self, status: int, *pieces: bytes) -> None:
        """One answer, and the connection is over, however the request comes in."""
        sent = b"".join(pieces)
        split = [sent[start : start + 1000] for start in range(0, len(sent), 1000)]
        for way in (pieces, (sent,), split):
            (refusal,) = self.exchange(*way)
            self.assertEqual((refusal.status, refusal.body), (status, b""))
            self.assertEqual(refusal.headers["Connection"], "close")
            transport = self.connection.transport
            self.assertEqual((transport.half_closed, transport.disconnecting), (True, False))
            self.connection.advance(5)
            self.assertTrue(transport.disconnected, "a client must not hold it open")

    def test_good(self) -> None:
        """What is within the bounds is answered, to the last byte."""
        body = b"x" * 16384
        for post in (
            HEAD_OF_POST + b"Content-Length: 16384\r\n\r\n" + body,
            HEAD_OF_POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body[:1], body[1:]),
        ):
            answers = self.exchange(post + GOOD)
            self.assertEqual([each.body for each in answers], [b"16384", b"Hello.\n"])

    def test_request_line(self) -> None:
        """414."""
        self.assertRefused(414, b"GET /" + b"a" * 20_000, b" HTTP/1.1\r\n\r\n")
        self.assertRefused(414, b"a" * 200_000)

    def test_header(self) -> None:
        """431."""
        self.assertRefused(431, b"GET / HTTP/1.1\r\nX: ", b"a" * 20_000, b"\r\n\r\n")

    def test_headers(self) -> None:
        """400 for headers that are short, but too many."""
        self.assertRefused(400, b"GET / HTTP/1.1\r\n", b"X: aaaaaaaaaaaaaaaaa\r\n" * 2000, b"\r\n")
        self.assertRefused(400, b"GET / HTTP/1.1\r\n", b"X: \r\n" * 600, b"\r\n")

    def test_announced_body(self) -> None:
        """413 before a byte of it came, and no 100 that asks for it."""
        for length in (b"16385", b"99999999999999999999"):
            head = HEAD_OF_POST + b"Content-Length: %s\r\n" % length
            self.assertRefused(413, head, b"\r\n")
            self.assertRefused(413, head, b"Expect: 100-continue\r\n\r\n")

    def test_announced_body_that_comes(self) -> None:
        """413 also when it comes at once, with another request after it."""
        head = HEAD_OF_POST + b"Content-Length: 20000\r\n\r\n"
        self.assertRefused(413, head, b"x" * 20_000, GOOD)

    def test_chunked_body(self) -> None:
        """413 as soon as it is too large, whatever comes after it."""
        head = HEAD_OF_POST + b"Transfer-Encoding: chunked\r\n\r\n"
        self.assertRefused(413, head, chunked(b"x" * 10_000, b"x" * 10_000), GOOD)
        self.assertRefused(413, head, *[b"1\r\nx\r\n"] * 16_385, b"0\r\n\r\n", GOOD)

    def test_nonsense(self) -> None:
        """400 for what is no HTTP."""
        self.assertRefused(400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        self.assertRefused(400, HEAD_OF_POST, b"Content-Length: -1\r\n\r\n", GOOD)
        both = b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.assertRefused(400, HEAD_OF_POST, both, GOOD)

    def test_after_a_good_one(self) -> None:
        """A good request before the one that is refused is answered."""
        good, refusal = self.exchange(GOOD + b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n" + GOOD)
        self.assertEqual((good.status, refusal.status), (200, 414))

    def test_idle(self) -> None:
        """A client that says nothing, or not enough, is not waited for."""
        for sent in (b"", b"GET / HT", HEAD_OF_POST + b"Content-Length: 5\r\n\r\nab"):
            self.connection = Connection(hello())
            self.connection.channel.dataReceived(sent)
            self.connection.advance(61)
            self.assertTrue(self.connection.transport.disconnecting)


class OverTheWireTests(TestCase):
    """A refusal reaches a client that is still sending."""

    def setUp(self) -> None:
        self.listener = Listener("tcp:0:interface=127.0.0.1", BoundedSite(reactor, hello()))
        self.listener.privilegedStartService()
        self.listener.startService()
        self.addCleanup(self.listener.stopService)
        self.addCleanup(lambda: Deferred.fromCoroutine(all_closed()))

    async def address(self) -> tuple[str, int]:
        (service,) = self.listener
        port: IListeningPort = await service._waitingForPort
        address = port.getHost()
        assert isinstance(address, IPv4Address)
        return address.host, address.port

    async def exchange(self, *pieces: bytes) -> list[Answer]:
        return parse_all(await deferToThread(talk, await self.address(), pieces))

    async def assertReceives(self, status: int, *pieces: bytes) -> None:
        (refusal,) = await self.exchange(*pieces)
        self.assertEqual(refusal.status, status)

    async def test_request_line(self) -> None:
        """414, though half a megabyte was sent before the client read."""
        await self.assertReceives(414, b"GET /", *[b"a" * 10_000] * 50, b" HTTP/1.1\r\n\r\n")

    async def test_header(self) -> None:
        """431."""
        await self.assertReceives(431, b"GET / HTTP/1.1\r\nX: ", *[b"a" * 10_000] * 50)

    async def test_headers(self) -> None:
        """400."""
        await self.assertReceives(400, b"GET / HTTP/1.1\r\n", *[b"X: aaaa\r\n" * 1000] * 50)

    async def test_body(self) -> None:
        """413."""
        head = HEAD_OF_POST + b"Content-Length: 500000\r\n\r\n"
        await self.assertReceives(413, head, *[b"a" * 10_000] * 50)

    async def test_chunked_body(self) -> None:
        """413."""
        head = HEAD_OF_POST + b"Transfer-Encoding: chunked\r\n\r\n"
        await self.assertReceives(413, head, *[b"2710\r\n" + b"a" * 10_000 + b"\r\n"] * 50)

    async def test_after_a_good_one(self) -> None:
        """The answer to a good request that came before is received too."""
        answers = await self.exchange(GOOD, b"GET /" + b"a" * 500_000)
        self.assertEqual([answer.status for answer in answers], [200, 414])

    async def test_never_ending(self) -> None:
        """Who goes on sending for ever is cut off."""

        def send_for_ever(address: tuple[str, int]) -> None:
            with socket.create_connection(address, PATIENCE) as client:
                while True:
                    client.sendall(b"a" * 100_000)

        sending = deferToThread(send_for_ever, await self.address())
        await self.assertFailure(sending, ConnectionError)


async def all_closed() -> None:
    """Wait until the server has noticed that its clients are gone."""
    while any(isinstance(reader, tcp.Server) for reader in reactor.getReaders()):
        await deferLater(reactor, 0.01)


def talk(address: tuple[str, int], pieces: tuple[bytes, ...]) -> bytes:
    """Send all of it, then read to the end."""
    received = b""
    with socket.create_connection(address, PATIENCE) as client:
        for piece in pieces:
            client.sendall(piece)
        while data := client.recv(65536):
            received += data
    return received


class ListenerTests(SynchronousTestCase):
    """A port that cannot be had ends the process with a sentence."""

    def test_no_port(self) -> None:
        """What is neither a number nor an endpoint description is named."""
        for port in ("", "eighty", "tcp", "tcp:", "tcp:x", "unknown:80", "ssl:443:privateKey=/no"):
            error = self.assertRaises(CannotStart, Listener, port, BoundedSite(Clock(), hello()))
            self.assertRegex(str(error), r"\A--port .*: .*\. Give a TCP port number, or ")

    def test_busy(self) -> None:
        """A busy port is named, with what to do about it."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            listener = Listener(port, BoundedSite(Clock(), hello()))
            error = self.assertRaises(CannotStart, listener.privilegedStartService)
        self.assertIn(f"Cannot listen on port {port}: ", str(error))
        self.assertIn("choose another --port", str(error))
        self.assertEqual(error.code, str(error))

    def test_too_high(self) -> None:
        """A number that is no TCP port is told so."""
        listener = Listener("70000", BoundedSite(Clock(), hello()))
        self.assertRaises(CannotStart, listener.privilegedStartService)


class AnswerTests(SynchronousTestCase):
    """Answers in plain text."""

    def test_sentence(self) -> None:
        """One line of text, with its length, that no browser takes for anything else."""
        got = ask(hello(), "GET", "/hello")
        self.assertEqual(got.text, "Hello.\n")
        self.assertEqual(got.headers["Content-Type"], "text/plain; charset=utf-8")
        self.assertEqual(got.headers["X-Content-Type-Options"], "nosniff")
        self.assertEqual(got.headers["Content-Length"], "7")

    def test_methods(self) -> None:
        """`Allow` names what a resource has."""
        got = ask(hello(), "DELETE", "/hello")
        self.assertEqual((got.status, got.headers["Allow"]), (405, "GET, HEAD, POST"))
        self.assertEqual(got.text, "Only GET, HEAD, POST can be asked for here.\n")

    def test_no_methods(self) -> None:
        """A resource that has none is only a step on the way: not found."""
        self.assertEqual(ask(PlainResource(), "GET", "/").status, 404)

    def test_head_of_a_refusal(self) -> None:
        """HEAD never has a body, also where nothing is."""
        got = ask(hello(), "HEAD", "/nothing")
        self.assertEqual((got.status, got.body), (404, b""))
        self.assertGreater(int(got.headers["Content-Length"]), 0)
