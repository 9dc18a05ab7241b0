"""A site limits its connections, reports every request, and checks the deadlines."""

import os
import socket
from email.utils import formatdate
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.http import HTTPFactory

from opq_twisted.http import site as site_module
from opq_twisted.http.channel import BoundedChannel
from opq_twisted.http.connection_limits import ConnectionLimits
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.site import BoundedSite
from tests.helpers.box_fakes import logged
from tests.helpers.certificates import make_certificate
from tests.helpers.http_exchange import Connection
from tests.helpers.resources import Breaks, Waits, hello


class LimitTests(SynchronousTestCase):
    """The number of connections."""

    def make_site(self, limits: ConnectionLimits) -> None:
        self.clock = Clock()
        self.site = BoundedSite(self.clock, hello(), limits)
        self.refused: list[int] = []
        self.site.refusal_observers.append(self.refused.append)

    def setUp(self) -> None:
        self.make_site(ConnectionLimits(connections=2))

    def connect(self, host: str = "192.0.2.1", descriptor: int = 20) -> Connection:
        address = (IPv6Address if ":" in host else IPv4Address)("TCP", host, 50_000)
        return Connection(hello(), self.site, address, descriptor)

    def assertServed(self, connection: Connection) -> None:
        connection.transport.clear()
        connection.send("GET", "/hello")
        self.assertEqual(connection.response().status, 200)

    def assertReset(self, connection: Connection) -> None:
        """The client gets no bytes, and the file descriptor is already free."""
        transport = connection.transport
        self.assertEqual((transport.value(), transport.disconnected), (b"", True))
        self.assertTrue(transport.closed)

    def test_within(self) -> None:
        """Connections within the limit are served."""
        for connection in [self.connect(), self.connect()]:
            self.assertServed(connection)
        self.assertEqual(self.refused, [])

    def test_over(self) -> None:
        """Connections beyond the limit are reset at once; the others are not affected."""
        served = [self.connect(), self.connect()]
        for _ in range(300):
            self.assertReset(self.connect())
        self.assertEqual(self.refused, [503] * 300)
        self.assertEqual(len(self.site.channels), 2)
        for connection in served:
            self.assertServed(connection)

    def test_room_again(self) -> None:
        """A connection that ends makes room for one more; one that was reset does not."""
        first, _second = self.connect(), self.connect()
        self.assertReset(self.connect())
        self.assertReset(self.connect())
        first.lose()
        self.assertServed(self.connect())
        self.assertReset(self.connect())

    def test_gone_once(self) -> None:
        """A connection that has gone is not counted."""
        connections = [self.connect() for _ in range(2)]
        self.assertEqual(len(self.site.channels), 2)
        for connection in connections:
            connection.lose()
        self.assertEqual(self.site.channels, set())

    def test_each(self) -> None:
        """One client cannot use the connections of others."""
        self.make_site(ConnectionLimits(connections=4, each=2))
        self.connect()
        first = self.connect()
        self.assertReset(self.connect())
        self.assertServed(self.connect("192.0.2.2"))
        first.lose()
        self.assertServed(self.connect())

    def test_ipv6(self) -> None:
        """All addresses of a /64 are one client, and a mapped IPv4 address is the IPv4 address."""
        self.make_site(ConnectionLimits(connections=10, each=1))
        self.connect("2001:db8:0:1::1")
        self.assertReset(self.connect("2001:db8:0:1:ffff::2"))
        self.assertServed(self.connect("2001:db8:0:2::1"))
        self.connect("192.0.2.1")
        self.assertReset(self.connect("::ffff:192.0.2.1"))
        self.connect("fe80::1%eth0")
        self.assertReset(self.connect("fe80::2%eth0"))

    def test_each_address(self) -> None:
        """One machine cannot use the connections of others in its IPv6 network."""
        self.make_site(ConnectionLimits(connections=10, each=3, each_address=2))
        first = self.connect("2001:db8:0:1::1")
        self.connect("2001:db8:0:1::1")
        self.assertReset(self.connect("2001:db8:0:1::1"))
        self.assertServed(self.connect("2001:db8:0:1::2"))
        self.assertReset(self.connect("2001:db8:0:1::3"))
        first.lose()
        self.assertServed(self.connect("2001:db8:0:1::1"))

    def test_trusted(self) -> None:
        """A reverse proxy, or a UNIX socket, speaks for many: only the total limit applies."""
        self.make_site(
            ConnectionLimits(connections=5, each=1, trusted=[ip_network("192.0.2.0/28")])
        )
        for _ in range(3):
            self.assertServed(self.connect())
        for _ in range(2):
            unix = Connection(hello(), self.site, UNIXAddress(b""))
            self.assertServed(unix)
        self.assertReset(self.connect())

    def test_reserved_descriptors(self) -> None:
        """A connection whose descriptor is in the reserve is reset, although there is room."""
        self.make_site(ConnectionLimits(first_reserved=100))
        self.assertServed(self.connect(descriptor=99))
        self.assertReset(self.connect(descriptor=100))

    def test_logged(self) -> None:
        """This is logged at once, and then once a minute with a count."""
        said = logged(self)
        self.connect()
        self.connect()
        for _ in range(1235):
            self.connect()
        self.assertEqual(len(said), 1)
        self.assertIn("A connection from 192.0.2.1 was reset: there are too many", said[0])
        self.clock.advance(60)
        self.assertEqual(len(said), 2)
        self.assertIn("(1,234 more of these in the last minute.)", said[1])
        self.clock.advance(60)
        self.clock.advance(60)
        self.assertEqual(len(said), 2, "there were no more")
        self.connect()
        self.assertEqual(len(said), 3)


class SocketTests(TestCase):
    """Over the loopback interface, with and without TLS."""

    async def assert_reset(self, port: str) -> None:
        """The second client is reset, and its descriptor is free before the reactor's next turn."""
        site = BoundedSite(Clock(), hello(), ConnectionLimits(connections=1))
        closed: Deferred[bool] = Deferred()
        self.patch(
            BoundedChannel, "reset", lambda channel: closed.callback(self.is_closed_by(channel))
        )
        listening: Any = await serverFromString(reactor, port).listen(site)
        self.addCleanup(listening.stopListening)
        address = ("127.0.0.1", listening.getHost().port)
        with socket.create_connection(address), socket.create_connection(address) as second:
            self.assertTrue(await closed)
            self.assertEqual(len(site.channels), 1)
            second.settimeout(20)
            with self.assertRaises(ConnectionResetError):
                await deferToThread(second.recv, 1)
        while site.channels:
            await deferLater(reactor, 0)

    def is_closed_by(self, channel: BoundedChannel, reset: Any = BoundedChannel.reset) -> bool:
        descriptor = channel.descriptor()
        os.fstat(descriptor)
        reset(channel)
        try:
            os.fstat(descriptor)
        except OSError:
            return True
        return False

    async def test_plain(self) -> None:
        """Over TCP."""
        await self.assert_reset("tcp:0:interface=127.0.0.1")

    async def test_tls(self) -> None:
        """Over TLS, before the handshake."""
        folder = Path(self.mktemp())
        folder.mkdir()
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        make_certificate(key, certificate)
        await self.assert_reset(f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}")


class ObserverTests(SynchronousTestCase):
    """Observers are notified of each request once."""

    def setUp(self) -> None:
        self.waits = Waits()
        self.root = hello()
        self.root.putChild(b"wait", self.waits)
        self.root.putChild(b"breaks", Breaks())
        self.connection = Connection(self.root)
        self.site = self.connection.site
        self.ended: list[tuple[bytes, int, bool]] = []
        self.site.request_observers.append(self.observe)
        self.refused: list[int] = []
        self.site.refusal_observers.append(self.refused.append)

    def observe(self, request: BoundedRequest, whole: bool) -> None:
        self.ended.append((request.uri, request.code, whole))

    def test_finished(self) -> None:
        """A request is reported with its status when it is answered."""
        self.connection.send("GET", "/hello?a")
        self.connection.send("GET", "/nothing")
        self.assertEqual(self.ended, [(b"/hello?a", 200, True), (b"/nothing", 404, True)])
        self.connection.lose()
        self.assertEqual(len(self.ended), 2, "each is reported once")

    def test_under_way(self) -> None:
        """A request whose client goes away while it waits is reported then."""
        self.connection.send("GET", "/wait")
        self.assertEqual(self.ended, [])
        self.connection.lose()
        self.assertEqual([(uri, whole) for uri, _, whole in self.ended], [(b"/wait", False)])
        self.assertFalse(self.waits.requests[0].startedWriting, "so it has no status")

    def test_answered_later(self) -> None:
        """A request with a delayed response is reported with it, once."""
        self.connection.send("GET", "/wait")
        self.waits.requests[0].reply(Reply.sentence(200, "At last."))
        self.connection.lose()
        self.assertEqual(self.ended, [(b"/wait", 200, True)])

    def test_pipelined(self) -> None:
        """Pipelined requests that were not begun when the client went are not reported."""
        self.connection.send("GET", "/wait")
        self.connection.send("GET", "/hello")
        self.connection.lose()
        self.assertEqual([(uri, whole) for uri, _, whole in self.ended], [(b"/wait", False)])

    def test_incomplete(self) -> None:
        """An incomplete request is not reported."""
        for sent in (
            b"",
            b"GET /hel",
            b"GET /hello HTTP/1.1\r\nHost: x\r\n",
            b"POST /hello HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc",
        ):
            self.connection = Connection(self.root, self.site)
            self.connection.channel.dataReceived(sent)
            self.connection.lose()
        self.assertEqual((self.ended, self.refused), ([], []))

    def test_broken(self) -> None:
        """An error in a resource is reported with the status that the client got."""
        self.connection.send("GET", "/breaks")
        self.assertEqual(self.ended, [(b"/breaks", 500, True)])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_refused(self) -> None:
        """A malformed request is reported once, with its status only."""
        for status, sent in (
            (400, b"nonsense\r\n\r\n"),
            (413, b"POST / HTTP/1.1\r\nContent-Length: 99999\r\n\r\nabc"),
            (414, b"a" * 20_000),
            (431, b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000),
        ):
            self.connection = Connection(self.root, self.site)
            self.connection.channel.dataReceived(sent)
            self.connection.channel.dataReceived(sent)
            self.connection.lose()
            self.assertEqual(self.refused.pop(), status)
        self.assertEqual((self.ended, self.refused), ([], []))

    def test_observer_fails(self) -> None:
        """An observer that fails is logged; the others are notified, and the client is answered."""

        def fail(_request: BoundedRequest, _whole: bool) -> None:
            raise ZeroDivisionError

        self.site.request_observers.insert(0, fail)
        self.connection.send("GET", "/hello")
        self.connection.send("GET", "/wait")
        self.connection.lose()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertEqual([whole for _, _, whole in self.ended], [True, False])
        self.assertEqual(self.connection.response().status, 200)

    def test_no_line(self) -> None:
        """No line is logged for a request, to spare the SD card of a box."""
        lines: list[object] = []
        self.patch(HTTPFactory, "log", lambda _self, request: lines.append(request))
        self.connection.send("GET", "/hello")
        self.assertEqual(lines, [])


class DateTests(SynchronousTestCase):
    """The Date header."""

    def setUp(self) -> None:
        self.now = 784111777.9
        self.patch(site_module, "time", lambda: self.now)
        self.site = BoundedSite(Clock(), hello())

    def test_format(self) -> None:
        """The format is that of RFC 9110 section 5.6.7. This is its example."""
        self.assertEqual(self.site.date(), b"Sun, 06 Nov 1994 08:49:37 GMT")

    def test_changes(self) -> None:
        """It changes with the second, also when the clock is set back."""
        dates = []
        for now in (784111777.0, 784111777.99, 784111778.0, 784111777.5, 784111779.0):
            self.now = now
            dates.append(self.site.date()[-6:-4])
        self.assertEqual(dates, [b"37", b"37", b"38", b"37", b"39"])

    def test_calendar(self) -> None:
        """It is right on any day."""
        for now in (1, 951782400, 1709251199, 1798761599, 2147483648, 4102444800):
            self.now = now
            self.assertEqual(self.site.date().decode(), formatdate(now, usegmt=True))

    def test_sent(self) -> None:
        """A response has it."""
        connection = Connection(hello(), self.site)
        connection.send("GET", "/hello")
        self.assertEqual(connection.response().headers["Date"], "Sun, 06 Nov 1994 08:49:37 GMT")


class SweepTests(SynchronousTestCase):
    """Deadlines are checked while the site is served."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.site = BoundedSite(self.clock, hello())

    def start(self) -> None:
        self.site.startFactory()
        self.addCleanup(self.site.stopFactory)

    def test_runs(self) -> None:
        """After `startFactory`, an overdue connection ends within a second."""
        self.start()
        connection = Connection(hello(), self.site)
        self.clock.pump([0.5] * 119)
        self.assertFalse(connection.transport.disconnecting)
        self.clock.pump([0.5] * 2)
        self.assertTrue(connection.transport.disconnecting)
        self.assertFalse(connection.transport.disconnected)
        self.clock.pump([0.5] * 31)
        self.assertTrue(connection.transport.disconnected)

    def test_slow_reactor(self) -> None:
        """Connections that became overdue while the process was busy end at the next check."""
        self.start()
        connections = [Connection(hello(), self.site) for _ in range(3)]
        self.clock.advance(1000)
        self.assertTrue(all(each.transport.disconnecting for each in connections))

    def test_not_before(self) -> None:
        """A site that is not served schedules nothing."""
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stops(self) -> None:
        """`stopFactory` cancels all calls, and the site may start again."""
        Connection(hello(), self.site)
        for _ in range(2):
            self.site.startFactory()
            self.assertNotEqual(self.clock.getDelayedCalls(), [])
            self.site.stopFactory()
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_idle(self) -> None:
        """A site without connections schedules nothing until the next connection."""
        self.start()
        for _ in range(2):
            self.assertEqual(self.clock.getDelayedCalls(), [])
            connection = Connection(hello(), self.site)
            self.clock.pump([0.5] * 121)
            self.assertTrue(connection.transport.disconnecting)
            connection.lose()
            self.clock.advance(0.5)
