"""Requests are bounded, in size and in time; who sends too much is told so."""

import os
import re
import select
import socket
import threading

from twisted.internet import reactor, tcp
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from opq_twisted.http.listener import Listener
from opq_twisted.http.reply import Reply, header_lines
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource
from opq_twisted.http.site import BoundedSite
from tests.helpers.http_exchange import Connection, ReactorClock, Response, parse_all
from tests.helpers.resources import Waits, hello

#: Seconds after which a client that gets no answer gives up.
PATIENCE = 20

GOOD = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD_OF_POST = b"POST /hello HTTP/1.1\r\nHost: x\r\n"
HEAD_OF_CHUNKED = HEAD_OF_POST + b"Transfer-Encoding: chunked\r\n\r\n"

#: The most that is sent at once, and what a transport holds before it asks for a pause.
PIECE = 64 * 1024


class Breaks(PlainResource):
    """Fails before it has an answer."""

    isLeaf = True

    def render_GET(self, request: BoundedRequest) -> Reply:
        """Fail."""
        raise ZeroDivisionError


class BreaksOff(PlainResource):
    """Fails when part of the answer is on its way."""

    isLeaf = True

    def render_GET(self, request: BoundedRequest) -> Reply:
        """Fail."""
        request.channel.write(request.begin(200, header_lines({b"Content-Length": b"9"})))
        request.write(b"part")
        raise ZeroDivisionError


class Numbers(PlainResource):
    """Numbers its answers, of many kB each, and sees what a connection holds when it is asked."""

    isLeaf = True
    size = 60_000

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.most_held = 0

    def render_GET(self, request: BoundedRequest) -> Reply:
        """Answer."""
        transport = request.channel.transport
        if isinstance(transport, tcp.Server):
            self.most_held = max(self.most_held, held(transport))
        self.count += 1
        return Reply.sentence(200, f"Answer {self.count} ".ljust(self.size))


class Large(PlainResource):
    """Has more to say than is sent at once."""

    isLeaf = True
    body = os.urandom(150_000)

    def render_GET(self, request: BoundedRequest) -> Reply:
        """Answer."""
        return Reply.of(200, self.body, b"application/octet-stream")


def held(transport: tcp.Server) -> int:
    """Count the bytes that wait in this process for a client to take them."""
    return len(transport.dataBuffer) - transport.offset + transport._tempDataLen


def numbered(answers: bytes) -> list[int]:
    return [int(number) for number in re.findall(rb"Answer (\d+) ", answers)]


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


class BoundsTests(SynchronousTestCase):
    """What is refused, byte for byte."""

    def exchange(self, *pieces: bytes) -> list[Response]:
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

    def test_address(self) -> None:
        """An IPv4 client of an IPv6 socket has its own address, and an IPv6 one keeps its own."""
        for host, expected in (
            ("::ffff:192.168.0.7", IPv4Address("TCP", "192.168.0.7", 9)),
            ("fe80::1%eth0", IPv6Address("TCP", "fe80::1%eth0", 9)),
            ("2001:db8::1", IPv6Address("TCP", "2001:db8::1", 9)),
        ):
            connection = Connection(hello(), address=IPv6Address("TCP", host, 9))
            self.assertEqual(connection.channel.getPeer(), expected)

    def test_good(self) -> None:
        """What is within the bounds is answered, to the last byte."""
        body = b"x" * 16384
        for post in (
            HEAD_OF_POST + b"Content-Length: 16384\r\n\r\n" + body,
            HEAD_OF_CHUNKED + chunked(body[:1], body[1:]),
        ):
            answers = self.exchange(post + GOOD)
            self.assertEqual([each.body for each in answers], [b"16384", b"Hello.\n"])

    def test_byte_by_byte(self) -> None:
        """It does not matter in which pieces a request comes."""
        sent = GOOD + HEAD_OF_CHUNKED + chunked(b"a", b"bc") + GOOD
        answers = self.exchange(*[sent[at : at + 1] for at in range(len(sent))])
        self.assertEqual([each.body for each in answers], [b"Hello.\n", b"3", b"Hello.\n"])

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
        self.assertRefused(413, HEAD_OF_CHUNKED, chunked(b"x" * 10_000, b"x" * 10_000), GOOD)
        self.assertRefused(413, HEAD_OF_CHUNKED, *[b"1\r\nx\r\n"] * 16_385, b"0\r\n\r\n", GOOD)

    def test_nonsense(self) -> None:
        """400 for what is no HTTP."""
        self.assertRefused(400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        self.assertRefused(400, HEAD_OF_POST, b"Content-Length: -1\r\n\r\n", GOOD)
        both = b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.assertRefused(400, HEAD_OF_POST, both, GOOD)

    def test_two_readings(self) -> None:
        """400 where a proxy in front might see the end of a request somewhere else."""
        for header in (
            b"Content-Length: 4\r\nContent-Length: 5",
            b"Content-Length: 4\r\nContent-Length: 4",
            b"Content-Length: 4, 4",
            b"Content-Length: +4",
            b"Content-Length: 0x4",
            b"Content-Length: 4 4",
            b"Content-Length:",
            b"Content-Length : 4",
            b"Content-Length: 4\r\n 5",
            b"X: y\nContent-Length: 4",
            b"X: y\rContent-Length: 4",
            b"X: y\0",
            b"Transfer-Encoding: chunked\r\nContent-Length: 4",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: gzip, chunked",
            b"Transfer-Encoding: chunked, identity",
            b"Transfer-Encoding: \x0bchunked",
            b"Transfer-Encoding",
        ):
            self.assertRefused(400, HEAD_OF_POST + header + b"\r\n\r\n", b"0\r\n\r\n", GOOD)
        self.assertRefused(400, b"POST /hello HTTP/1.1\r\n Content-Length: 4\r\n\r\n", GOOD)

    def test_malformed_chunks(self) -> None:
        """400 where the lengths of chunks are not what they should be."""
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
        """A good request before the one that is refused is answered."""
        good, refusal = self.exchange(GOOD + b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n" + GOOD)
        self.assertEqual((good.status, refusal.status), (200, 414))

    def test_continue(self) -> None:
        """A client that asks whether its body is welcome is told so (RFC 9110, 10.1.1)."""
        head = b"Content-Length: 3\r\nExpect: 100-Continue\r\n\r\n"
        self.connection = Connection(hello())
        self.connection.channel.dataReceived(HEAD_OF_POST + head)
        self.assertEqual(self.connection.transport.value(), b"HTTP/1.1 100 Continue\r\n\r\n")
        self.connection.transport.clear()
        self.connection.channel.dataReceived(b"abc")
        self.assertEqual(self.connection.response().body, b"3")
        self.assertEqual(self.exchange(b"POST /hello HTTP/1.0\r\n" + head), [], "1.0 knows no 100")

    def test_upgrade(self) -> None:
        """Nothing is switched to another protocol (RFC 9110, section 7.8)."""
        upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
        answers = self.exchange(GOOD[:-2] + upgrade + b"\r\n" + GOOD)
        self.assertEqual([answer.status for answer in answers], [200, 200])

    def test_drain(self) -> None:
        """Who was refused may still send 1 MiB, which is thrown away, and no more."""
        self.exchange(b"nonsense\r\n\r\n", *[b"a" * 65536] * 16)
        self.assertFalse(self.connection.transport.disconnected)
        self.connection.channel.dataReceived(b"a")
        self.assertTrue(self.connection.transport.disconnected)


class DeadlineTests(SynchronousTestCase):
    """Nothing on a connection lasts for ever."""

    def setUp(self) -> None:
        self.waits = Waits()
        self.root = hello()
        self.root.putChild(b"wait", self.waits)
        self.connect()

    def connect(self) -> None:
        self.connection = Connection(self.root)
        self.transport = self.connection.transport

    def assertClosedAfter(self, seconds: float, meanwhile: bytes = b"") -> None:
        """The connection is closed in good order then, and reset if that takes 15 s."""
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
        """A client that says nothing, or not enough, is not waited for."""
        for sent in (b"", b"GET / HT", HEAD_OF_POST + b"Content-Length: 5\r\n\r\nab"):
            self.connect()
            self.connection.channel.dataReceived(sent)
            self.assertClosedAfter(60)

    def test_byte_now_and_then(self) -> None:
        """A byte each second puts nothing off, in whichever part of a request it comes."""
        for begun in (
            b"",
            b"GET /hello HTTP/1.1\r\n",
            GOOD[:-2] + b"X: ",
            HEAD_OF_POST + b"Content-Length: 10000\r\n\r\n",
            HEAD_OF_CHUNKED,
            HEAD_OF_CHUNKED + b"100\r\n",
            HEAD_OF_CHUNKED + b"0\r\nX: ",
        ):
            self.connect()
            self.connection.channel.dataReceived(begun)
            self.assertClosedAfter(60, meanwhile=b"a")

    def test_line_now_and_then(self) -> None:
        """Neither does a whole header, nor a whole chunk."""
        for begun, meanwhile in ((GOOD[:-2], b"X: y\r\n"), (HEAD_OF_CHUNKED, b"1\r\na\r\n")):
            self.connect()
            self.connection.channel.dataReceived(begun)
            self.assertClosedAfter(60, meanwhile)

    def test_just_in_time(self) -> None:
        """A request that is whole before then is answered."""
        self.connection.channel.dataReceived(GOOD[:-1])
        self.connection.advance(59.5)
        self.connection.channel.dataReceived(GOOD[-1:])
        self.assertEqual(self.connection.response().status, 200)

    def test_next_request(self) -> None:
        """Each answer gives the client as much time for its next request."""
        for _ in range(5):
            self.connection.advance(59)
            self.connection.send("GET", "/hello")
        self.assertEqual(len(parse_all(self.transport.value())), 5)
        self.assertClosedAfter(60, meanwhile=b"a")

    def test_being_answered(self) -> None:
        """While a request is being answered, there is no hurry; from the answer on, there is."""
        self.connection.send("GET", "/wait")
        self.connection.advance(100_000)
        self.assertFalse(self.transport.disconnecting)
        self.waits.requests[0].reply(Reply.sentence(200, "At last."))
        self.assertClosedAfter(60)
        self.assertEqual(self.connection.response().text, "At last.\n")

    def test_deadline_of_the_answer(self) -> None:
        """Who makes an answer may set a deadline for it; it holds until there is an answer."""
        self.connection.send("GET", "/wait")
        request = self.waits.requests[0]

        def answer() -> None:
            request.reply(Reply.sentence(200, "In time."))

        request.channel.set_deadline(300, answer)
        self.connection.advance(299.5)
        self.assertEqual(self.transport.value(), b"")
        self.connection.advance(0.5)
        self.assertEqual(self.connection.response().text, "In time.\n")
        self.assertClosedAfter(60)

    def test_refused(self) -> None:
        """Who was refused gets 5 s to take the answer, whatever is sent meanwhile."""
        self.connection.advance(58)
        self.connection.channel.dataReceived(b"nonsense\r\n\r\n")
        for _ in range(9):
            self.connection.channel.dataReceived(GOOD)
            self.connection.advance(0.5)
        self.assertFalse(self.transport.disconnected)
        self.connection.advance(0.5)
        self.assertTrue(self.transport.disconnected)
        self.assertEqual([answer.status for answer in parse_all(self.transport.value())], [400])

    def test_replaced(self) -> None:
        """A connection has one deadline: a new one takes the place of that before, once."""
        called: list[str] = []
        self.connection.channel.set_deadline(10, lambda: called.append("first"))
        self.connection.channel.set_deadline(20, lambda: called.append("second"))
        self.connection.advance(19.5)
        self.assertEqual(called, [])
        for _ in range(3):
            self.connection.advance(100)
        self.assertEqual((called, self.transport.disconnecting), (["second"], False))

    def test_gone(self) -> None:
        """Nothing is overdue on a connection that is gone."""
        called: list[str] = []
        self.connection.channel.set_deadline(10, lambda: called.append("overdue"))
        self.connection.lose()
        self.connection.advance(100)
        self.assertEqual((called, self.transport.disconnecting), ([], False))

    def test_fails(self) -> None:
        """A deadline that fails is logged, once; those of other connections are kept."""
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


class ClosingTests(SynchronousTestCase):
    """Connections that are for one request only."""

    def setUp(self) -> None:
        self.waits = Waits()
        self.root = hello()
        self.root.putChild(b"wait", self.waits)
        self.connection = Connection(self.root)
        self.transport = self.connection.transport

    def test_close(self) -> None:
        """A client that will close is told that we do, and no request after it is answered."""
        for wish in (b"close", b"Close", b"keep-alive, close"):
            connection = Connection(self.root)
            connection.channel.dataReceived(GOOD[:-2] + b"Connection: %s\r\n\r\n" % wish + GOOD)
            answer = connection.response()
            self.assertEqual((answer.text, answer.headers["Connection"]), ("Hello.\n", "close"))
            self.assertTrue(connection.transport.disconnecting)

    def test_old_client(self) -> None:
        """HTTP/1.0 is answered in kind, and closed; keep-alive is not known here."""
        for wish in (b"", b"Connection: keep-alive\r\n"):
            connection = Connection(self.root)
            connection.channel.dataReceived(b"GET /hello HTTP/1.0\r\n" + wish + b"\r\n" + GOOD)
            self.assertTrue(connection.transport.value().startswith(b"HTTP/1.0 200 OK\r\n"))
            answer = connection.response()
            self.assertEqual(answer.text, "Hello.\n")
            self.assertNotEqual(answer.headers["Connection"], "keep-alive")
            self.assertTrue(connection.transport.disconnecting)

    def test_kept(self) -> None:
        """Any other connection is kept, and says nothing of it."""
        self.connection.channel.dataReceived(GOOD)
        self.assertIsNone(self.connection.response().headers["Connection"])
        self.assertFalse(self.transport.disconnecting)

    def test_answered_later(self) -> None:
        """A connection for one request is closed when that is answered."""
        self.connection.send("GET", "/wait", "Connection: close")
        self.connection.channel.dataReceived(GOOD)
        self.assertFalse(self.transport.disconnecting)
        self.waits.requests[0].reply(Reply.sentence(200, "At last."))
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual(self.connection.response().text, "At last.\n")

    def test_never_closed(self) -> None:
        """A client that does not take the answer is cut."""
        self.connection.send("GET", "/hello", "Connection: close")
        self.connection.advance(60)
        self.connection.advance(15)
        self.assertTrue(self.transport.disconnected)


class BrokenTests(SynchronousTestCase):
    """An error of ours."""

    def setUp(self) -> None:
        self.root = hello()
        self.root.putChild(b"breaks", Breaks())
        self.root.putChild(b"breaks-off", BreaksOff())
        self.connection = Connection(self.root)

    def assertLogged(self, times: int = 1) -> None:
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), times)

    def test_before_an_answer(self) -> None:
        """The client gets 500 in a sentence, nothing of the traceback, and may go on."""
        self.connection.send("GET", "/breaks")
        self.connection.send("GET", "/hello")
        broken, good = parse_all(self.connection.transport.value())
        self.assertEqual(broken.status, 500)
        self.assertEqual(broken.text, "Something went wrong here; the log says what.\n")
        self.assertEqual(broken.headers["Content-Type"], "text/plain; charset=utf-8")
        self.assertEqual(good.text, "Hello.\n")
        self.assertLogged()

    def test_head(self) -> None:
        """HEAD gets no body then either."""
        self.connection.send("HEAD", "/breaks")
        self.assertEqual(self.connection.response("HEAD").status, 500)
        self.assertLogged()

    def test_pipelined(self) -> None:
        """Requests that came together are answered in their order, broken or not."""
        self.connection.channel.dataReceived((GOOD + GOOD.replace(b"hello", b"breaks")) * 3)
        self.connection.clock.advance(0)
        answers = parse_all(self.connection.transport.value())
        self.assertEqual([answer.status for answer in answers], [200, 500] * 3)
        self.assertLogged(3)

    def test_in_the_middle(self) -> None:
        """An answer that was begun is cut: nobody takes a part for the whole."""
        self.connection.send("GET", "/breaks-off")
        answer = self.connection.response()
        self.assertEqual((answer.body, answer.cut), (b"part", True))
        self.assertTrue(self.connection.transport.disconnected)
        self.assertLogged()


class PipelineTests(SynchronousTestCase):
    """A client that asks for more than it takes has to wait."""

    def setUp(self) -> None:
        self.numbers, self.waits = Numbers(), Waits()
        self.root = hello()
        self.root.putChild(b"numbers", self.numbers)
        self.root.putChild(b"wait", self.waits)
        self.connection = Connection(self.root)
        self.transport = self.connection.transport

    def test_reads_nothing(self) -> None:
        """One answer at most is made beyond what the transport holds, at each time it is empty."""
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
        """Of requests that came together four are answered, and the rest when others had a turn."""
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
        """A client that said all it wants to say gets every answer."""
        self.connection.channel.dataReceived(GOOD * 10)
        self.connection.channel.readConnectionLost()
        self.assertFalse(self.transport.disconnecting)
        self.connection.clock.advance(0)
        self.assertEqual(len(parse_all(self.transport.value())), 10)
        self.assertTrue(self.transport.disconnecting)

    def test_gone_between_turns(self) -> None:
        """What is left of a client that has gone is not answered."""
        self.connection.channel.dataReceived(b"GET /numbers HTTP/1.1\r\n\r\n" * 10)
        self.connection.lose()
        self.connection.clock.advance(0)
        self.assertEqual(self.numbers.count, 4)

    def test_sends_on(self) -> None:
        """What comes while the client is behind waits its turn."""
        self.transport.room = 0
        for _ in range(5):
            self.connection.send("GET", "/numbers")
        self.assertEqual(self.numbers.count, 1)
        self.transport.drain()
        self.connection.clock.advance(0)
        self.assertEqual(numbered(self.transport.value()), [1, 2, 3, 4, 5])

    def test_half_a_request(self) -> None:
        """A request of which only a part had come is answered when the rest has."""
        self.transport.room = 0
        asked = b"GET /numbers HTTP/1.1\r\n\r\n"
        self.connection.channel.dataReceived(asked + asked[:10])
        self.transport.drain()
        self.connection.channel.dataReceived(asked[10:])
        self.assertEqual(numbered(self.transport.value()), [1, 2])

    def test_never_reads(self) -> None:
        """A client that takes nothing is closed 60 s after its last answer, and then reset."""
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
        """A client that is behind when its last request was answered gets all, and is closed."""
        self.transport.room = 0
        self.connection.send("GET", "/numbers", "Connection: close")
        self.assertEqual(numbered(self.transport.value()), [1])
        self.assertTrue(self.transport.disconnecting)

    def test_being_answered(self) -> None:
        """A request waits for the answer to the one before it, and is looked at only then."""
        self.connection.channel.dataReceived(b"GET /wait HTTP/1.1\r\n\r\n" * 2 + GOOD)
        self.assertEqual((len(self.waits.requests), self.transport.value()), (1, b""))
        self.waits.requests[0].reply(Reply.sentence(200, "First."))
        self.assertEqual(len(self.waits.requests), 2)
        self.waits.requests[1].reply(Reply.sentence(200, "Second."))
        answers = parse_all(self.transport.value())
        self.assertEqual([each.text for each in answers], ["First.\n", "Second.\n", "Hello.\n"])

    def test_answered_while_behind(self) -> None:
        """An answer that is ready while the client is behind is sent; the next one waits."""
        self.transport.room = 0
        self.connection.channel.dataReceived(b"GET /wait HTTP/1.1\r\n\r\n" + GOOD * 3)
        self.waits.requests[0].reply(Reply.sentence(200, "At last."))
        self.assertEqual(len(parse_all(self.transport.value())), 1)
        self.transport.drain()
        self.assertEqual(len(parse_all(self.transport.value())), 4)

    def test_sends_for_ever(self) -> None:
        """Who sends on while a request is being answered is read no further than 16 KiB."""
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
        """A client that goes away while it is behind is forgotten."""
        self.transport.room = 0
        self.connection.channel.dataReceived(b"GET /numbers HTTP/1.1\r\n\r\n" * 10)
        self.connection.lose()
        self.connection.advance(100)
        self.assertEqual((self.numbers.count, self.transport.disconnecting), (1, False))
        self.assertEqual(self.connection.site.channels, set())


class LargeTests(SynchronousTestCase):
    """A long body is sent in pieces, as the client takes them."""

    def setUp(self) -> None:
        self.root = hello()
        self.root.putChild(b"large", Large())
        self.connection = Connection(self.root)
        self.transport = self.connection.transport
        self.ended: list[bool] = []
        self.connection.site.request_observers.append(lambda _, whole: self.ended.append(whole))

    def slowly(self, *headers: str) -> None:
        """Ask as a client that takes nothing until `take` is called."""
        self.transport.room = 0
        self.connection.send("GET", "/large", *headers)

    def take(self) -> int:
        """Take what there is; returns how much of the body has come with the next piece."""
        self.connection.channel.resumeProducing()
        return len(self.connection.response().body)

    def test_pieces(self) -> None:
        """The bytes are right, and come 64 KiB at a time, as the client takes them."""
        self.slowly()
        self.assertEqual(self.connection.response().body, b"")
        self.assertEqual([self.take() for _ in range(3)], [PIECE, 2 * PIECE, 150_000])
        answer = self.connection.response()
        self.assertEqual((answer.body, answer.cut), (Large.body, False))
        self.assertEqual(self.ended, [True])

    def test_edges(self) -> None:
        """No byte is lost or added where the pieces end."""
        for size in (PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 1):
            self.patch(Large, "body", os.urandom(size))
            connection = Connection(self.root)
            connection.send("GET", "/large")
            self.assertEqual(connection.response().body, Large.body)
            connection.transport.clear()
            connection.send("GET", "/hello")
            self.assertEqual(connection.response().text, "Hello.\n")

    def test_taken_at_once(self) -> None:
        """A client that makes room again right after the head gets all of it."""
        self.transport.room = 10
        self.connection.send("GET", "/large")
        self.transport.drain()
        self.assertEqual(self.connection.response().body, Large.body)

    def test_head(self) -> None:
        """HEAD gets the length at once, and nothing else ever."""
        self.connection.send("HEAD", "/large")
        answer = self.connection.response("HEAD")
        self.assertEqual((answer.headers["Content-Length"], answer.body), ("150000", b""))
        self.assertEqual(self.ended, [True])

    def test_next_request(self) -> None:
        """A request after it is answered after it."""
        self.slowly()
        self.connection.send("GET", "/hello")
        self.transport.drain()
        large, good = parse_all(self.transport.value())
        self.assertEqual((large.body, good.text), (Large.body, "Hello.\n"))

    def test_last_request(self) -> None:
        """A connection for one request is closed after the last piece, and not before."""
        self.slowly("Connection: close")
        for _ in range(2):
            self.take()
            self.assertFalse(self.transport.disconnecting)
        self.take()
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual(self.connection.response().body, Large.body)

    def test_stalled(self) -> None:
        """A client that takes nothing for 300 s is cut; then nothing is sent any more."""
        self.slowly()
        self.take()
        self.connection.advance(299.5)
        self.assertFalse(self.transport.disconnecting)
        self.connection.advance(0.5)
        self.assertTrue(self.transport.disconnected)
        self.connection.lose()
        self.assertEqual((len(self.connection.response().body), self.ended), (PIECE, [False]))

    def test_stalled_at_once(self) -> None:
        """So is one that does not even take the head."""
        self.slowly()
        self.connection.advance(300)
        self.assertTrue(self.transport.disconnected)

    def test_slow(self) -> None:
        """A client that takes a piece every 299 s gets all of it."""
        self.slowly()
        for _ in range(3):
            self.connection.advance(299)
            self.take()
        self.assertFalse(self.transport.disconnecting)
        self.assertEqual(self.connection.response().body, Large.body)

    def test_gone(self) -> None:
        """To a client that is gone nothing more is sent."""
        for pieces in range(3):
            connection = Connection(self.root, self.connection.site)
            connection.transport.room = 0
            connection.send("GET", "/large")
            for _ in range(pieces):
                connection.channel.resumeProducing()
            connection.lose()
            self.assertEqual(len(connection.response().body), pieces * PIECE)
        self.assertEqual(self.ended, [False] * 3)


class HostileTests(SynchronousTestCase):
    """What was found by trying to break it."""

    def exchange(self, sent: bytes, room: int | None = None) -> list[Response]:
        self.connection = Connection(hello())
        self.connection.transport.room = room
        self.connection.channel.dataReceived(sent)
        return parse_all(self.connection.transport.value())

    def test_numbers_that_python_does_not_read(self) -> None:
        """400 for a length of thousands of digits."""
        for digits in (21, 5000):
            (refusal,) = self.exchange(
                HEAD_OF_POST + b"Content-Length: " + b"9" * digits + b"\r\n\r\n"
            )
            self.assertEqual(refusal.status, 400)

    def test_identity(self) -> None:
        """400 for a body of which nobody can say where it ends; it is no other request."""
        for coding in (b"identity", b"gzip", b"identity, chunked", b""):
            (refusal,) = self.exchange(
                HEAD_OF_POST + b"Transfer-Encoding: " + coding + b"\r\n\r\nabc" + GOOD
            )
            self.assertEqual(refusal.status, 400)

    def test_forms_are_not_read(self) -> None:
        """A form is a body like any other, whatever it looks like."""
        form = b"--x\r\nContent-Disposition: form-data; name*=utf-8''x\r\n\r\n1\r\n--x--\r\n"
        for body in (form, b"no form"):
            (answer,) = self.exchange(
                HEAD_OF_POST
                + b"Content-Type: multipart/form-data; boundary=x\r\n"
                + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            self.assertEqual(answer.body, b"%d" % len(body))

    def test_connection_options(self) -> None:
        """`close` counts wherever it stands."""
        for header in (
            b"Connection: close, TE\r\n",
            b"Connection: TE,CLOSE\r\n",
            b"Connection: TE\r\nConnection: close\r\n",
        ):
            (answer,) = self.exchange(b"GET /hello HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n")
            self.assertEqual((answer.status, answer.headers["Connection"]), (200, "close"))
            self.assertTrue(self.connection.transport.disconnecting)

    def test_absolute_form(self) -> None:
        """A whole URL as the target is as good as its path."""
        for target in (b"http://x/hello", b"HTTP://x:80/hello?y", b"https://x/hello"):
            (answer,) = self.exchange(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertEqual(answer.text, "Hello.\n", target)
        (answer,) = self.exchange(b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(answer.status, 404)

    def test_closing(self) -> None:
        """What comes while a connection closes, as over TLS it may, puts its end not off."""
        self.exchange(b"")
        self.connection.advance(60)
        self.assertTrue(self.connection.transport.disconnecting)
        for _ in range(3):
            self.connection.channel.dataReceived(GOOD)
            self.connection.advance(5)
        self.assertEqual(self.connection.transport.value(), b"")
        self.assertTrue(self.connection.transport.disconnected)

    def test_half_closed(self) -> None:
        """A client that has said all it wants to say gets its answer, and then the end."""
        (answer,) = self.exchange(GOOD)
        self.connection.channel.readConnectionLost()
        self.assertEqual(answer.text, "Hello.\n")
        self.assertTrue(self.connection.transport.disconnecting)

    def test_half_closed_under_way(self) -> None:
        """So it does when the answer is under way."""
        root = hello()
        root.putChild(b"large", Large())
        connection = Connection(root)
        connection.transport.room = 0
        connection.send("GET", "/large")
        connection.channel.readConnectionLost()
        self.assertFalse(connection.transport.disconnecting)
        connection.transport.drain()
        self.assertEqual(connection.response().body, Large.body)
        self.assertTrue(connection.transport.disconnecting)

    def test_no_path(self) -> None:
        """400 for a target that is neither a path nor a URL."""
        for target in (b"hello", b"xhello", b"*", b"ftp://x/hello"):
            (answer,) = self.exchange(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertEqual(answer.status, 400, target)

    def test_dated(self) -> None:
        """A refusal has a date, too."""
        (refusal,) = self.exchange(b"nonsense\r\n\r\n")
        self.assertIsNotNone(refusal.headers["Date"])


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
        await self.assertReceives(
            413, HEAD_OF_CHUNKED, *[b"2710\r\n" + b"a" * 10_000 + b"\r\n"] * 50
        )

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

    async def test_reads_nothing(self) -> None:
        """What waits for a client that asks for 100 MB and reads nothing stays small."""
        self.numbers.size = 50_000
        read = threading.Event()
        self.addCleanup(read.set)

        def ask_for_much(address: tuple[str, int]) -> list[int]:
            with socket.create_connection(address, PATIENCE) as client:
                client.sendall(b"GET /numbers HTTP/1.1\r\n\r\n" * 1999)
                client.sendall(b"GET /numbers HTTP/1.1\r\nConnection: close\r\n\r\n")
                read.wait(PATIENCE)
                return [n for line in client.makefile("rb") for n in numbered(line)]

        asking = deferToThread(ask_for_much, await self.address())
        transport = await stalled()
        self.assertLess(self.numbers.count, 2000)
        self.assertLessEqual(held(transport), PIECE + 51_000)
        read.set()
        self.assertEqual(await asking, list(range(1, 2001)))
        self.assertLessEqual(self.numbers.most_held, PIECE, "whenever an answer was made")


async def all_closed() -> None:
    """Wait until the server has noticed that its clients are gone."""
    while any(isinstance(reader, tcp.Server) for reader in reactor.getReaders()):
        await deferLater(reactor, 0.01)


async def stalled() -> tcp.Server:
    """Wait until neither the kernel nor the transport of some connection takes any more."""
    while True:
        for writer in reactor.getWriters():
            if isinstance(writer, tcp.Server) and held(writer) > PIECE:
                _, writable, _ = select.select([], [writer], [], 0)
                if not writable:
                    return writer
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
