"""The tunnel of a proxy to a server."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.network.proxies import Proxy
from opq_twisted.box.network.tunnel import MAX_HEADERS, ProxyEndpoint, ProxyFailed, TunnelEndpoint
from opq_twisted.box.network.urls import read_url
from tests.helpers.memory_network import Peer

PROXY = "http://proxy.example:3128"


class Inside(Protocol):
    """The protocol that uses the tunnel."""

    received = b""
    lost = False

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"hello")

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: object = None) -> None:
        self.lost = True


class TunnelTests(SynchronousTestCase):
    """The opening of a tunnel."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()

    def open(self, url: str = "https://updates.example", proxy: str = PROXY) -> Deferred[Any]:
        """Begin to open a tunnel."""
        to_proxy = TCP4ClientEndpoint(self.reactor, "192.0.2.1", 3128)
        parsed = Proxy.parse(proxy)
        tunnel = TunnelEndpoint(ProxyEndpoint(to_proxy, parsed), parsed, read_url(url))
        return tunnel.connect(Factory.forProtocol(Inside))

    def accept(self) -> Peer:
        """Let the proxy accept the connection."""
        return Peer(self.reactor.tcpClients.pop()[2].buildProtocol(None))

    def begin(self) -> tuple[Deferred[Any], Peer]:
        """Begin to open a tunnel; the proxy accepts the connection."""
        return self.open(), self.accept()

    def failure(self, opening: Deferred[Any]) -> str:
        """Return the reason why there is no tunnel."""
        error = self.failureResultOf(opening, ProxyFailed).value
        assert isinstance(error, ProxyFailed)
        self.assertEqual(str(error.proxy), PROXY)
        return error.reason

    def test_asked(self) -> None:
        """The request names the server with its port; a password goes to the proxy alone."""
        for url, proxy, lines in (
            (
                "https://updates.example",
                PROXY,
                ["CONNECT updates.example:443 HTTP/1.1", "Host: updates.example:443"],
            ),
            (
                "https://[::1]:8151",
                "http://box:sesame@proxy.example:3128",
                [
                    "CONNECT [::1]:8151 HTTP/1.1",
                    "Host: [::1]:8151",
                    "Proxy-Authorization: Basic Ym94OnNlc2FtZQ==",
                ],
            ),
        ):
            with self.subTest(url=url):
                self.open(url, proxy)
                self.assertEqual(self.accept().request, "\r\n".join([*lines, "", ""]))

    def test_opened(self) -> None:
        """All bytes after the headers of the response come from the server."""
        opening, proxy = self.begin()
        proxy.send(b"HTTP/1.1 200 Connection ")
        self.assertNoResult(opening)
        proxy.send(b"established\r\nX: y\r\n\r\nfir")
        inside = self.successResultOf(opening)
        proxy.send(b"st")
        self.assertEqual(inside.received, b"first")
        self.assertTrue(proxy.request.endswith("\r\n\r\nhello"))
        proxy.close()
        self.assertTrue(inside.lost)

    def test_interim(self) -> None:
        """1xx responses are skipped, and count for the limit."""
        opening, proxy = self.begin()
        proxy.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nX: y\r\n\r\nHTTP/1.1 ")
        self.assertNoResult(opening)
        proxy.send(b"200 OK\r\n\r\nfirst")
        self.assertEqual(self.successResultOf(opening).received, b"first")
        opening, proxy = self.begin()
        interim = b"HTTP/1.1 103 Early Hints\r\n\r\n"
        for _ in range(MAX_HEADERS // len(interim)):
            proxy.send(interim)
        self.assertNoResult(opening)
        proxy.send(interim)
        self.assertEqual(self.failure(opening), "it does not answer as a proxy")
        self.assertFalse(proxy.open)

    def test_refused(self) -> None:
        """The error has the status, and advice."""
        for answer, reason in (
            ("407 Proxy Authentication Required", "http://USER:PASSWORD@HOST:PORT"),
            ("403 Forbidden", "it answers 403 (forbidden)"),
            ("502 Bad Gateway", "it answers 502"),
            ("101 Switching Protocols", "it answers 101"),
            ("302 Found\r\nLocation: http://192.168.1.1/", "it answers 302"),
            ("1000 OK", "it does not answer as a proxy"),
        ):
            with self.subTest(answer=answer):
                opening, proxy = self.begin()
                proxy.send(f"HTTP/1.1 {answer}\r\n\r\n".encode())
                self.assertIn(reason, self.failure(opening))
                self.assertFalse(proxy.open)

    def test_no_proxy(self) -> None:
        """A response that is not HTTP, or has endless headers, is refused."""
        for answer in (b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEADERS):
            with self.subTest(answer=answer[:20]):
                opening, proxy = self.begin()
                proxy.send(answer)
                self.assertEqual(self.failure(opening), "it does not answer as a proxy")
                self.assertFalse(proxy.open)

    def test_away(self) -> None:
        """The error names a proxy that cannot be reached, or closes the connection."""
        opening = self.open()
        factory: Any = self.reactor.tcpClients.pop()[2]
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))
        self.assertEqual(self.failure(opening), "no server answers there")
        opening = self.open()
        self.accept().reset()
        self.assertEqual(self.failure(opening), "it closed the connection")

    def test_cancelled(self) -> None:
        """The wait for a silent proxy can be cancelled; the error names the proxy."""
        opening, proxy = self.begin()
        opening.cancel()
        self.assertEqual(self.failure(opening), "it has not answered yet")
        self.assertFalse(proxy.open)
