"""Connections have limits in size and time, and a client that exceeds one gets an error status."""

import gc
import os
import re
import select
import socket
import threading
from weakref import ref

from twisted.internet import reactor, tcp
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from opq_twisted.http.listener import Listener
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource
from opq_twisted.http.site import BoundedSite
from tests.helpers.http_exchange import Connection, ReactorClock, Response, parse_all
from tests.helpers.resources import Waits, hello

#: Seconds after which a client that gets no response gives up.
TIMEOUT = 20

GOOD = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD_OF_POST = b"POST /hello HTTP/1.1\r\nHost: x\r\n"
HEAD_OF_CHUNKED = HEAD_OF_POST + b"Transfer-Encoding: chunked\r\n\r\n"

#: Bytes that are sent at once, and that a transport buffers before it asks for a pause.
PIECE = 64 * 1024


class Numbers(PlainResource):
    """Numbers its long responses, and notes how much the transport buffers at each request."""

    isLeaf = True
    size = 60_000

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.most_held = 0

    def render_GET(self, request: BoundedRequest) -> Reply:
        """Reply with the next number."""
        transport = request.channel.transport
        if isinstance(transport, tcp.Server):
            self.most_held = max(self.most_held, held(transport))
        self.count += 1
        return Reply.sentence(200, f"Answer {self.count} ".ljust(self.size))


class Large(PlainResource):
    """Has a body that is too long to be sent at once."""

    isLeaf = True
    body = os.urandom(150_000)

    def render_GET(self, request: BoundedRequest) -> Reply:
        """Reply with the body."""
        return Reply.of(200, self.body, b"application/octet-stream")


def held(transport: tcp.Server) -> int:
    """Count the bytes that this process buffers for a client."""
    return len(transport.dataBuffer) - transport.offset + transport._tempDataLen


def numbered(responses: bytes) -> list[int]:
    return [int(number) for number in re.findall(rb"Answer (\d+) ", responses)]


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


class BoundsTests(SynchronousTestCase):
    """Requests that are refused, byte for byte."""

    def exchange(self, *pieces: bytes) -> list[Response]:
        self.connection = Connection(hello())
        for piece in pieces:
            self.connection.channel.dataReceived(piece)
        return parse_all(self.connection.transport.value())

    def assertRefused(self, status: int, *pieces: bytes) -> None:
        """The client gets one response and the end of the connection, whatever pieces it sends."""
        sent = b"".join(pieces)
        split = [sent[start : start + 1000] for start in range(0, len(sent), 1000)]
        for way in (pieces, (sent,), split):
            (refusal,) = self.exchange(*way)
            self.assertEqual((refusal.status, refusal.body), (status, b""))
            self.assertEqual(refusal.headers["Connection"], "close")
            self.assertIsNotNone(refusal.headers["Date"])
            transport = self.connection.transport
            self.assertEqual((transport.half_closed, transport.disconnecting), (True, False))
            self.connection.advance(5)
            self.assertTrue(transport.disconnected, "a client must not hold it open")

    def test_address(self) -> None:
        """An IPv4 client of an IPv6 socket has its IPv4 address; an IPv6 client keeps its own."""
        for host, expected in (
            ("::ffff:192.168.0.7", IPv4Address("TCP", "192.168.0.7", 9)),
            ("fe80::1%eth0", IPv6Address("TCP", "fe80::1%eth0", 9)),
            ("2001:db8::1", IPv6Address("TCP", "2001:db8::1", 9)),
        ):
            connection = Connection(hello(), address=IPv6Address("TCP", host, 9))
            self.assertEqual(connection.channel.getPeer(), expected)

    def test_good(self) -> None:
        """Requests within the limits are answered, to the last byte."""
        body = b"x" * 16384
        for post in (
            HEAD_OF_POST + b"Content-Length: 16384\r\n\r\n" + body,
            HEAD_OF_CHUNKED + chunked(body[:1], body[1:]),
        ):
            responses = self.exchange(post + GOOD)
            self.assertEqual([each.body for each in responses], [b"16384", b"Hello.\n"])

    def test_byte_by_byte(self) -> None:
        """A request may arrive in any pieces."""
        sent = GOOD + HEAD_OF_CHUNKED + chunked(b"a", b"bc") + GOOD
        responses = self.exchange(*[sent[at : at + 1] for at in range(len(sent))])
        self.assertEqual([each.body for each in responses], [b"Hello.\n", b"3", b"Hello.\n"])

    def test_head(self) -> None:
        """A long request line gets 414, a long header 431, and too many short headers 400."""
        self.assertRefused(414, b"GET /" + b"a" * 20_000, b" HTTP/1.1\r\n\r\n")
        self.assertRefused(414, b"a" * 200_000)
        self.assertRefused(431, b"GET / HTTP/1.1\r\nX: ", b"a" * 20_000, b"\r\n")
        self.assertRefused(400, b"GET / HTTP/1.1\r\n", b"X: aaaaaaaaaaaaaaaaa\r\n" * 2000, b"\r\n")
        self.assertRefused(400, b"GET / HTTP/1.1\r\n", b"X: \r\n" * 600, b"\r\n")

    def test_announced_body(self) -> None:
        """A long announced body gets 413, sent or not, and no 100 that asks for it."""
        for length in (b"16385", b"99999999999999999999"):
            head = HEAD_OF_POST + b"Content-Length: %s\r\n" % length
            self.assertRefused(413, head, b"\r\n")
            self.assertRefused(413, head, b"Expect: 100-continue\r\n\r\n")
        head = HEAD_OF_POST + b"Content-Length: 20000\r\n\r\n"
        self.assertRefused(413, head, b"x" * 20_000, GOOD)

    def test_chunked_body(self) -> None:
        """A chunked body gets 413 as soon as it is too long, whatever comes after it."""
        self.assertRefused(413, HEAD_OF_CHUNKED, chunked(b"x" * 10_000, b"x" * 10_000), GOOD)
        self.assertRefused(413, HEAD_OF_CHUNKED, *[b"1\r\nx\r\n"] * 16_385, b"0\r\n\r\n", GOOD)

    def test_nonsense(self) -> None:
        """Bytes that are not HTTP get 400."""
        self.assertRefused(400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        self.assertRefused(400, HEAD_OF_POST, b"Content-Length: -1\r\n\r\n", GOOD)
        both = b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.assertRefused(400, HEAD_OF_POST, both, GOOD)

    def test_two_readings(self) -> None:
        """A request gets 400 if a proxy in front could see its end somewhere else."""
        for header in (
            b"Content-Length: 4\r\nContent-Length: 5",
            b"Content-Length: 4\r\nContent-Length: 4",
            b"Content-Length: 4, 4",
            b"Content-Length: +4",
            b"Content-Length: 0x4",
            b"Content-Length: 4 4",
            b"Content-Length: " + b"9" * 21,
            b"Content-Length: " + b"9" * 5000,
            b"Content-Length:",
            b"Content-Length : 4",
            b"Content-Length: 4\r\n 5",
            b"X: y\nContent-Length: 4",
            b"X: y\rContent-Length: 4",
            b"X: y\0",
            b"Transfer-Encoding: chunked\r\nContent-Length: 4",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: gzip, chunked",
            b"Transfer-Encoding: identity, chunked",
            b"Transfer-Encoding: identity",
            b"Transfer-Encoding: gzip",
            b"Transfer-Encoding: ",
            b"Transfer-Encoding: chunked, identity",
            b"Transfer-Encoding: \x0bchunked",
            b"Transfer-Encoding",
        ):
            self.assertRefused(400, HEAD_OF_POST + header + b"\r\n\r\n", b"0\r\n\r\n", GOOD)
        self.assertRefused(400, b"POST /hello HTTP/1.1\r\n Content-Length: 4\r\n\r\n", GOOD)

    def test_malformed_chunks(self) -> None:
        """Malformed chunk lengths get 400."""
        for chunks in (
            b"0x3\r\nabc\r\n0\r\n\r\n",
            b"+3\r\nabc\r\n0\r\n\r\n",
            b" 3\r\nabc\r\n0\r\n\r\n",
            b"3\nabc\r\n0\r\n\r\n",
            b"3;a\nb\r\nabc\r\n0\r\n\r\n",
            b"3\r\nabcd\r\n0\r\n\r\n",
            b"-1\r\n\r\n",
            b"\r\n\r\n",
            b"3;" + b"a" * 2000 + b"\r\nabc\r\n0\r\n\r\n",
            b"0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        ):
            self.assertRefused(400, HEAD_OF_CHUNKED, chunks, GOOD)

    def test_after_a_good_one(self) -> None:
        """A good request before the refused one is answered."""
        good, refusal = self.exchange(GOOD + b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n" + GOOD)
        self.assertEqual((good.status, refusal.status), (200, 414))

    def test_continue(self) -> None:
        """A client that sends `Expect: 100-continue` gets 100 (RFC 9110, section 10.1.1)."""
        head = b"Content-Length: 3\r\nExpect: 100-Continue\r\n\r\n"
        self.connection = Connection(hello())
        self.connection.channel.dataReceived(HEAD_OF_POST + head)
        self.assertEqual(self.connection.transport.value(), b"HTTP/1.1 100 Continue\r\n\r\n")
        self.connection.transport.clear()
        self.connection.channel.dataReceived(b"abc")
        self.assertEqual(self.connection.response().body, b"3")
        self.assertEqual(self.exchange(b"POST /hello HTTP/1.0\r\n" + head), [], "1.0 knows no 100")

    def test_upgrade(self) -> None:
        """No request changes the protocol (RFC 9110, section 7.8)."""
        upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
        responses = self.exchange(GOOD[:-2] + upgrade + b"\r\n" + GOOD)
        self.assertEqual([response.status for response in responses], [200, 200])

    def test_drain(self) -> None:
        """After a refusal, a client may send 1 MiB more, which is discarded."""
        self.exchange(b"nonsense\r\n\r\n", *[b"a" * 65536] * 16)
        self.assertFalse(self.connection.transport.disconnected)
        self.connection.channel.dataReceived(b"a")
        self.assertTrue(self.connection.transport.disconnected)


class ConnectionCase(SynchronousTestCase):
    """A connection to a server whose `/wait` the test answers."""

    def setUp(self) -> None:
        self.waits = Waits()
        self.root = hello()
        self.root.putChild(b"wait", self.waits)
        self.connect()

    def connect(self) -> None:
        self.connection = Connection(self.root)
        self.transport = self.connection.transport


class DeadlineTests(ConnectionCase):
    """Each state of a connection has a deadline."""

    def assertClosedAfter(self, seconds: float, meanwhile: bytes = b"") -> None:
        """The connection is closed normally after so many seconds, and reset 15 seconds later."""
        for _ in range(int(seconds) - 1):
            self.connection.advance(1)
            self.connection.channel.dataReceived(meanwhile)
        self.assertFalse(self.transport.disconnecting)
        self.connection.advance(1)
        self.assertTrue(self.transport.disconnecting)
        self.connection.advance(14.5)
        self.assertFalse(self.transport.disconnected)
        self.connection.advance(0.5)
        self.assertTrue(self.transport.disconnected)

    def test_idle(self) -> None:
        """A client that sends nothing, or an incomplete request, is closed after 60 seconds."""
        for sent in (b"", b"GET / HT", HEAD_OF_POST + b"Content-Length: 5\r\n\r\nab"):
            self.connect()
            self.connection.channel.dataReceived(sent)
            self.assertClosedAfter(60)

    def test_slowly(self) -> None:
        """A byte, a header or a chunk each second extends nothing, in any part of a request."""
        for begun, meanwhile in (
            (b"", b"a"),
            (b"GET /hello HTTP/1.1\r\n", b"a"),
            (GOOD[:-2] + b"X: ", b"a"),
            (GOOD[:-2], b"X: y\r\n"),
            (HEAD_OF_POST + b"Content-Length: 10000\r\n\r\n", b"a"),
            (HEAD_OF_CHUNKED, b"a"),
            (HEAD_OF_CHUNKED, b"1\r\na\r\n"),
            (HEAD_OF_CHUNKED + b"100\r\n", b"a"),
            (HEAD_OF_CHUNKED + b"0\r\nX: ", b"a"),
        ):
            self.connect()
            self.connection.channel.dataReceived(begun)
            self.assertClosedAfter(60, meanwhile)

    def test_just_in_time(self) -> None:
        """A request that is complete before the deadline is answered."""
        self.connection.channel.dataReceived(GOOD[:-1])
        self.connection.advance(59.5)
        self.connection.channel.dataReceived(GOOD[-1:])
        self.assertEqual(self.connection.response().status, 200)

    def test_next_request(self) -> None:
        """After each response, the client has 60 seconds for its next request."""
        for _ in range(5):
            self.connection.advance(59)
            self.connection.send("GET", "/hello")
        self.assertEqual(len(parse_all(self.transport.value())), 5)
        self.assertClosedAfter(60, meanwhile=b"a")

    def test_being_answered(self) -> None:
        """While a request is being answered there is no deadline; after the response there is."""
        self.connection.send("GET", "/wait")
        self.connection.advance(100_000)
        self.assertFalse(self.transport.disconnecting)
        self.waits.requests[0].reply(Reply.sentence(200, "At last."))
        self.assertClosedAfter(60)
        self.assertEqual(self.connection.response().text, "At last.\n")

    def test_deadline_of_the_answer(self) -> None:
        """A resource may set a deadline for its response; it holds until the response."""
        self.connection.send("GET", "/wait")
        request = self.waits.requests[0]

        def response() -> None:
            request.reply(Reply.sentence(200, "In time."))

        request.channel.set_deadline(300, response)
        self.connection.advance(299.5)
        self.assertEqual(self.transport.value(), b"")
        self.connection.advance(0.5)
        self.assertEqual(self.connection.response().text, "In time.\n")
        self.assertClosedAfter(60)

    def test_refused(self) -> None:
        """A refused client has 5 seconds to read the status, whatever it sends meanwhile."""
        self.connection.advance(58)
        self.connection.channel.dataReceived(b"nonsense\r\n\r\n")
        for _ in range(9):
            self.connection.channel.dataReceived(GOOD)
            self.connection.advance(0.5)
        self.assertFalse(self.transport.disconnected)
        self.connection.advance(0.5)
        self.assertTrue(self.transport.disconnected)
        self.assertEqual([response.status for response in parse_all(self.transport.value())], [400])

    def test_replaced(self) -> None:
        """A connection has one deadline: a new one replaces the old one, and is called once."""
        called: list[str] = []
        self.connection.channel.set_deadline(10, lambda: called.append("first"))
        self.connection.channel.set_deadline(20, lambda: called.append("second"))
        self.connection.advance(19.5)
        self.assertEqual(called, [])
        for _ in range(3):
            self.connection.advance(100)
        self.assertEqual((called, self.transport.disconnecting), (["second"], False))

    def test_gone(self) -> None:
        """Nothing is called after a connection is lost."""
        called: list[str] = []
        self.connection.channel.set_deadline(10, lambda: called.append("overdue"))
        self.connection.lose()
        self.connection.advance(100)
        self.assertEqual((called, self.transport.disconnecting), ([], False))

    def test_freed(self) -> None:
        """A lost connection leaves nothing for the garbage collector, so its memory is free."""
        gc.collect()
        self.connection.channel.dataReceived(GOOD)
        channel = ref(self.connection.channel)
        self.connection.lose()
        gc.disable()
        self.addCleanup(gc.enable)
        # As a transport of Twisted's does.
        self.transport.producer = None
        del self.transport.protocol, self.connection
        self.assertIsNone(channel())

    def test_fails(self) -> None:
        """A deadline whose call fails is logged once, and does not affect other connections."""
        clock = Clock()
        site = BoundedSite(clock, hello())
        connections = [Connection(hello(), site) for _ in range(10)]
        connections[5].channel.set_deadline(60, lambda: print(1 / 0))
        clock.advance(60)
        site.sweep()
        site.sweep()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        closing = [connection.transport.disconnecting for connection in connections]
        self.assertEqual(closing, [True] * 5 + [False] + [True] * 4)

    def test_closing(self) -> None:
        """Data that arrives while a connection closes, as it may over TLS, extends nothing."""
        self.connection.advance(60)
        self.assertTrue(self.transport.disconnecting)
        for _ in range(3):
            self.connection.channel.dataReceived(GOOD)
            self.connection.advance(5)
        self.assertEqual(self.transport.value(), b"")
        self.assertTrue(self.transport.disconnected)


class ClosingTests(ConnectionCase):
    """Connections that close after one request."""

    def test_close(self) -> None:
        """A client that asks for `close`, in any spelling, gets one response with `close`."""
        for header in (
            b"Connection: close\r\n",
            b"Connection: Close\r\n",
            b"Connection: keep-alive, close\r\n",
            b"Connection: close, TE\r\n",
            b"Connection: TE,CLOSE\r\n",
            b"Connection: TE\r\nConnection: close\r\n",
        ):
            connection = Connection(self.root)
            connection.channel.dataReceived(GOOD[:-2] + header + b"\r\n" + GOOD)
            response = connection.response()
            self.assertEqual((response.text, response.headers["Connection"]), ("Hello.\n", "close"))
            self.assertTrue(connection.transport.disconnecting)

    def test_old_client(self) -> None:
        """HTTP/1.0 gets a response of HTTP/1.0, and is closed even with keep-alive."""
        for wish in (b"", b"Connection: keep-alive\r\n"):
            connection = Connection(self.root)
            connection.channel.dataReceived(b"GET /hello HTTP/1.0\r\n" + wish + b"\r\n" + GOOD)
            self.assertTrue(connection.transport.value().startswith(b"HTTP/1.0 200 OK\r\n"))
            response = connection.response()
            self.assertEqual(response.text, "Hello.\n")
            self.assertNotEqual(response.headers["Connection"], "keep-alive")
            self.assertTrue(connection.transport.disconnecting)

    def test_kept(self) -> None:
        """Any other connection stays open, without a Connection header."""
        self.connection.channel.dataReceived(GOOD)
        self.assertIsNone(self.connection.response().headers["Connection"])
        self.assertFalse(self.transport.disconnecting)

    def test_answered_later(self) -> None:
        """A connection for one request is closed after a delayed response, too."""
        self.connection.send("GET", "/wait", "Connection: close")
        self.connection.channel.dataReceived(GOOD)
        self.assertFalse(self.transport.disconnecting)
        self.waits.requests[0].reply(Reply.sentence(200, "At last."))
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual(self.connection.response().text, "At last.\n")

    def test_never_closed(self) -> None:
        """A client that does not read the response is cut off."""
        self.connection.send("GET", "/hello", "Connection: close")
        self.connection.advance(60)
        self.connection.advance(15)
        self.assertTrue(self.transport.disconnected)

    def test_half_closed(self) -> None:
        """A client that has closed its sending side gets its response, and then the end."""
        self.connection.channel.dataReceived(GOOD)
        self.connection.channel.readConnectionLost()
        self.assertEqual(self.connection.response().text, "Hello.\n")
        self.assertTrue(self.transport.disconnecting)

    def test_half_closed_under_way(self) -> None:
        """The same if it does so while the response is being sent."""
        self.root.putChild(b"large", Large())
        self.transport.room = 0
        self.connection.send("GET", "/large")
        self.connection.channel.readConnectionLost()
        self.assertFalse(self.transport.disconnecting)
        self.transport.drain()
        self.assertEqual(self.connection.response().body, Large.body)
        self.assertTrue(self.transport.disconnecting)


class PipelineTests(ConnectionCase):
    """A client that pipelines more than it reads has to wait."""

    def setUp(self) -> None:
        super().setUp()
        self.numbers = Numbers()
        self.root.putChild(b"numbers", self.numbers)

    def test_reads_nothing(self) -> None:
        """At most one response is made beyond the size of the transport's buffer."""
        self.transport.room = PIECE
        self.connection.channel.dataReceived(b"GET /numbers HTTP/1.1\r\n\r\n" * 2000)
        answered = []
        while self.numbers.count < 1900:
            made = numbered(self.transport.value())
            self.assertEqual(len(made), 2, "one, and one beyond")
            self.assertEqual(self.transport.producerState, "paused", "nothing more is read")
            answered += made
            self.transport.clear()
            self.connection.channel.resumeProducing()
        self.transport.drain()
        self.connection.clock.advance(0)
        answered += numbered(self.transport.value())
        self.assertEqual(answered, list(range(1, 2001)))
        self.assertEqual(self.transport.producerState, "producing")

    def test_turns(self) -> None:
        """Four pipelined requests are answered in a turn; then other clients have theirs."""
        self.connection.clock = ReactorClock()
        self.connection.site.reactor = self.connection.clock
        self.connection.channel.dataReceived(GOOD * 10)
        answered = []
        for _ in range(4):
            answered.append(len(parse_all(self.transport.value())))
            if answered[-1] < 10:
                self.assertEqual(self.transport.producerState, "paused", "nothing more is read")
            self.connection.clock.advance(ReactorClock.TURN)
        self.assertEqual(answered, [4, 8, 10, 10])
        self.assertEqual(self.transport.producerState, "producing")

    def test_half_closed(self) -> None:
        """A client that has closed its sending side gets all responses."""
        self.connection.channel.dataReceived(GOOD * 10)
        self.connection.channel.readConnectionLost()
        self.assertFalse(self.transport.disconnecting)
        self.connection.clock.advance(0)
        self.assertEqual(len(parse_all(self.transport.value())), 10)
        self.assertTrue(self.transport.disconnecting)

    def test_gone_between_turns(self) -> None:
        """After a client has gone, its remaining requests are not answered."""
        self.connection.channel.dataReceived(b"GET /numbers HTTP/1.1\r\n\r\n" * 10)
        self.connection.lose()
        self.connection.clock.advance(0)
        self.assertEqual(self.numbers.count, 4)

    def test_sends_on(self) -> None:
        """Requests that arrive while the transport's buffer is full wait."""
        self.transport.room = 0
        for _ in range(5):
            self.connection.send("GET", "/numbers")
        self.assertEqual(self.numbers.count, 1)
        self.transport.drain()
        self.connection.clock.advance(0)
        self.assertEqual(numbered(self.transport.value()), [1, 2, 3, 4, 5])

    def test_half_a_request(self) -> None:
        """A request that arrived in part is answered when the rest has arrived."""
        self.transport.room = 0
        asked = b"GET /numbers HTTP/1.1\r\n\r\n"
        self.connection.channel.dataReceived(asked + asked[:10])
        self.transport.drain()
        self.connection.channel.dataReceived(asked[10:])
        self.assertEqual(numbered(self.transport.value()), [1, 2])

    def test_never_reads(self) -> None:
        """A client that reads nothing is closed 60 s after the last response, and then reset."""
        self.transport.room = 0
        self.connection.channel.dataReceived(GOOD * 2000)
        self.connection.advance(59.5)
        self.assertFalse(self.transport.disconnecting)
        self.connection.advance(0.5)
        self.assertTrue(self.transport.disconnecting)
        self.connection.advance(15)
        self.assertTrue(self.transport.disconnected)
        self.assertEqual(len(parse_all(self.transport.value())), 1)

    def test_last_one(self) -> None:
        """A client whose buffer is full at its last request gets the response, and is closed."""
        self.transport.room = 0
        self.connection.send("GET", "/numbers", "Connection: close")
        self.assertEqual(numbered(self.transport.value()), [1])
        self.assertTrue(self.transport.disconnecting)

    def test_being_answered(self) -> None:
        """A request is processed only after the response to the one before it."""
        self.connection.channel.dataReceived(b"GET /wait HTTP/1.1\r\n\r\n" * 2 + GOOD)
        self.assertEqual((len(self.waits.requests), self.transport.value()), (1, b""))
        self.waits.requests[0].reply(Reply.sentence(200, "First."))
        self.assertEqual(len(self.waits.requests), 2)
        self.waits.requests[1].reply(Reply.sentence(200, "Second."))
        responses = parse_all(self.transport.value())
        self.assertEqual([each.text for each in responses], ["First.\n", "Second.\n", "Hello.\n"])

    def test_answered_while_behind(self) -> None:
        """A delayed response is sent although the buffer is full; the next one waits."""
        self.transport.room = 0
        self.connection.channel.dataReceived(b"GET /wait HTTP/1.1\r\n\r\n" + GOOD * 3)
        self.waits.requests[0].reply(Reply.sentence(200, "At last."))
        self.assertEqual(len(parse_all(self.transport.value())), 1)
        self.transport.drain()
        self.assertEqual(len(parse_all(self.transport.value())), 4)

    def test_sends_for_ever(self) -> None:
        """While a request is being answered, at most 16 KiB more are read from its client."""
        self.connection.send("GET", "/wait")
        self.connection.channel.dataReceived(GOOD * 400)
        self.assertEqual(self.transport.producerState, "producing")
        self.connection.channel.dataReceived(GOOD * 200)
        self.assertEqual(self.transport.producerState, "paused")
        self.waits.requests[0].reply(Reply.sentence(200, "At last."))
        self.connection.clock.advance(0)
        self.assertEqual(len(parse_all(self.transport.value())), 601)
        self.assertEqual(self.transport.producerState, "producing")

    def test_gone(self) -> None:
        """A client that goes away while its buffer is full is forgotten."""
        self.transport.room = 0
        self.connection.channel.dataReceived(b"GET /numbers HTTP/1.1\r\n\r\n" * 10)
        self.connection.lose()
        self.connection.advance(100)
        self.assertEqual((self.numbers.count, self.transport.disconnecting), (1, False))
        self.assertEqual(self.connection.site.channels, set())


class OverTheWireTests(TestCase):
    """A refusal reaches a client that is still sending."""

    def setUp(self) -> None:
        self.numbers = Numbers()
        root = hello()
        root.putChild(b"numbers", self.numbers)
        self.listener = Listener("tcp:0:interface=127.0.0.1", BoundedSite(reactor, root))
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

    async def exchange(self, *pieces: bytes) -> list[Response]:
        return parse_all(await deferToThread(talk, await self.address(), pieces))

    async def test_refused(self) -> None:
        """The status arrives, though half a megabyte was sent before the client read."""
        requests: tuple[tuple[int, list[bytes]], ...] = (
            (414, [b"GET /", *[b"a" * 10_000] * 50, b" HTTP/1.1\r\n\r\n"]),
            (431, [b"GET / HTTP/1.1\r\nX: ", *[b"a" * 10_000] * 50]),
            (400, [b"GET / HTTP/1.1\r\n", *[b"X: aaaa\r\n" * 1000] * 50]),
            (413, [HEAD_OF_POST + b"Content-Length: 500000\r\n\r\n", *[b"a" * 10_000] * 50]),
            (413, [HEAD_OF_CHUNKED, *[b"2710\r\n" + b"a" * 10_000 + b"\r\n"] * 50]),
        )
        for status, pieces in requests:
            (refusal,) = await self.exchange(*pieces)
            self.assertEqual(refusal.status, status)

    async def test_after_a_good_one(self) -> None:
        """The response to a good request before the refused one arrives, too."""
        responses = await self.exchange(GOOD, b"GET /" + b"a" * 500_000)
        self.assertEqual([response.status for response in responses], [200, 414])

    async def test_never_ending(self) -> None:
        """A client that never stops sending is cut off."""

        def send_for_ever(address: tuple[str, int]) -> None:
            with socket.create_connection(address, TIMEOUT) as client:
                while True:
                    client.sendall(b"a" * 100_000)

        sending = deferToThread(send_for_ever, await self.address())
        await self.assertFailure(sending, ConnectionError)

    async def test_reads_nothing(self) -> None:
        """A client that requests 100 MB and reads nothing makes this process buffer little."""
        self.numbers.size = 50_000
        read = threading.Event()
        self.addCleanup(read.set)

        def ask_for_much(address: tuple[str, int]) -> list[int]:
            with socket.create_connection(address, TIMEOUT) as client:
                client.sendall(b"GET /numbers HTTP/1.1\r\n\r\n" * 1999)
                client.sendall(b"GET /numbers HTTP/1.1\r\nConnection: close\r\n\r\n")
                read.wait(TIMEOUT)
                return [n for line in client.makefile("rb") for n in numbered(line)]

        asking = deferToThread(ask_for_much, await self.address())
        transport = await stalled()
        self.assertLess(self.numbers.count, 2000)
        self.assertLessEqual(held(transport), PIECE + 51_000)
        read.set()
        self.assertEqual(await asking, list(range(1, 2001)))
        self.assertLessEqual(self.numbers.most_held, PIECE, "whenever a response was made")


async def all_closed() -> None:
    """Wait until the server has noticed that its clients are gone."""
    while any(isinstance(reader, tcp.Server) for reader in reactor.getReaders()):
        await deferLater(reactor, 0.01)


async def stalled() -> tcp.Server:
    """Wait for a connection whose transport and kernel buffers are full."""
    while True:
        for writer in reactor.getWriters():
            if isinstance(writer, tcp.Server) and held(writer) > PIECE:
                _, writable, _ = select.select([], [writer], [], 0)
                if not writable:
                    return writer
        await deferLater(reactor, 0.01)


def talk(address: tuple[str, int], pieces: tuple[bytes, ...]) -> bytes:
    """Send all pieces, then read to the end."""
    received = b""
    with socket.create_connection(address, TIMEOUT) as client:
        for piece in pieces:
            client.sendall(piece)
        while data := client.recv(65536):
            received += data
    return received
