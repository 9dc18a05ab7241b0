"""The HTTP client of the box, against hostile and broken servers."""

import os
from collections.abc import Callable
from pathlib import Path
from socket import SO_RCVBUF, SOL_SOCKET
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.task import LoopingCall
from twisted.internet.tcp import Client
from twisted.trial.unittest import TestCase
from twisted.web.client import ResponseFailed, readBody
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data

from opq_twisted.box.network.addresses import Reach
from opq_twisted.box.network.connect import TooClose
from opq_twisted.box.network.connection import MAX_HEADERS
from opq_twisted.box.network.http_agent import BoundedAgent, make_http_clients
from opq_twisted.box.network.proxies import Proxies, Proxy
from opq_twisted.box.network.report_client import Answer, ReportClient
from opq_twisted.box.network.update_server import UpdateServerClient
from opq_twisted.common.errors import ServerFailed
from tests.helpers.box_fakes import logged
from tests.helpers.certificates import make_certificate


class Answering(Protocol):
    """Sends the test's response after a request has arrived."""

    def __init__(self, answer: Callable[["Answering"], None]) -> None:
        self._answer = answer
        self.received = b""
        self.lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._answer(self)

    def connectionLost(self, reason: object = None) -> None:
        self.lost.callback(None)


class BoundedAgentCase(TestCase):
    """An agent whose server is the test, with real connections."""

    def serve(self, answer: Callable[[Answering], None]) -> bytes:
        """Listen, and return the URL."""
        self.peer = Answering(answer)
        factory = ServerFactory()
        factory.buildProtocol = lambda addr: self.peer  # type: ignore[method-assign]
        return self.listen(factory)

    def listen(self, factory: ServerFactory) -> bytes:
        """Listen on a free port, and return the URL."""
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return b"http://127.0.0.1:%d/" % port.getHost().port  # type: ignore[attr-defined]


class BoundedAgentTests(BoundedAgentCase):
    """The limit on the bytes before a body."""

    async def test_endless_headers(self) -> None:
        """Endless headers end the connection, long before they fill the memory."""
        sent = 0

        def answer(peer: Protocol) -> None:
            def more() -> None:
                nonlocal sent
                line = b"X-Filler: " + b"a" * 1000 + b"\r\n"
                sent += len(line)
                assert peer.transport is not None
                peer.transport.write(line)

            assert peer.transport is not None
            peer.transport.write(b"HTTP/1.1 200 OK\r\n")
            self.filler = LoopingCall(more)
            self.filler.start(0)

        url = self.serve(answer)
        request = Deferred.fromCoroutine(BoundedAgent(reactor).request(b"GET", url))
        await self.assertFailure(request, ResponseFailed)
        await self.peer.lost
        self.filler.stop()
        self.assertGreater(sent, MAX_HEADERS - 64 * 1024)

    async def test_endless_answers(self) -> None:
        """Endless 1xx responses end the connection too."""

        def answer(peer: Protocol) -> None:
            def more() -> None:
                assert peer.transport is not None
                peer.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)

            self.filler = LoopingCall(more)
            self.filler.start(0)

        url = self.serve(answer)
        request = Deferred.fromCoroutine(BoundedAgent(reactor).request(b"GET", url))
        await self.assertFailure(request, ResponseFailed)
        await self.peer.lost
        self.filler.stop()

    async def test_large_body(self) -> None:
        """A body may be larger, because it has a limit of its own."""
        body = bytes(3 * MAX_HEADERS)

        def answer(peer: Protocol) -> None:
            assert peer.transport is not None
            peer.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
            peer.transport.write(body)

        response = await BoundedAgent(reactor).request(b"GET", self.serve(answer))
        self.assertEqual(await readBody(response), body)
        await self.peer.lost

    async def test_kernel(self) -> None:
        """The kernel buffers little while the disk is slow, because that would be lost."""

        def answer(peer: Protocol) -> None:
            assert peer.transport is not None
            peer.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")

        response = await BoundedAgent(reactor).request(b"GET", self.serve(answer))
        body = readBody(response)
        [client] = [reader for reader in reactor.getReaders() if isinstance(reader, Client)]
        self.assertLessEqual(client.socket.getsockopt(SOL_SOCKET, SO_RCVBUF), 256 * 1024)
        assert self.peer.transport is not None
        self.peer.transport.write(b"x")
        self.assertEqual(await body, b"x")
        await self.peer.lost

    async def test_nonsense(self) -> None:
        """A response that is not HTTP is explained in plain words, not in Twisted's."""
        for answer in (
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n folded\r\n\r\n",
        ):

            def send(peer: Protocol, answer: bytes = answer) -> None:
                assert peer.transport is not None
                peer.transport.write(answer)

            endpoint = self.serve(send).decode().rstrip("/")
            server = UpdateServerClient(
                reactor, make_http_clients(reactor), endpoint, lambda: "box"
            )
            asking = Deferred.fromCoroutine(server.newest())
            sentence = str(await self.assertFailure(asking, ServerFailed))
            self.assertIn(": its answer is not HTTP. ", sentence)
            await self.peer.lost


class ProxyTests(BoundedAgentCase):
    """Requests through a proxy, which resolves the names of servers."""

    async def ask(self, answer: bytes, credentials: str = "") -> int | None:
        """Request the newest version through a proxy with this response."""

        def send(peer: Protocol) -> None:
            assert peer.transport is not None
            peer.transport.write(answer)

        where = self.serve(send).decode().removeprefix("http://")
        self.proxies = Proxies(Proxy.parse(credentials + where))
        clients = make_http_clients(reactor, self.proxies)
        endpoint = "http://updates.invalid:8151"
        return await UpdateServerClient(reactor, clients, endpoint, lambda: "box").newest()

    async def test_asked(self) -> None:
        """A proxy gets the whole URL, and its password."""
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n1500000000"
        self.assertEqual(await self.ask(answer, "box:sesame@"), 1500000000)
        lines = self.peer.received.split(b"\r\n")
        self.assertEqual(lines[0], b"GET http://updates.invalid:8151/version HTTP/1.1")
        self.assertIn(b"Host: updates.invalid:8151", lines)
        self.assertIn(b"Proxy-Authorization: Basic Ym94OnNlc2FtZQ==", lines)
        await self.peer.lost

    async def report(self, answer: bytes) -> Answer:
        """Send a report through a proxy with this response."""

        def send(peer: Answering) -> None:
            assert peer.transport is not None
            if peer.received.endswith(b'{"seq":1}'):
                peer.transport.write(answer)

        proxies = Proxies(Proxy.parse(self.serve(send).decode()))
        clients = make_http_clients(reactor, proxies)
        server = UpdateServerClient(reactor, clients, "http://updates.invalid", lambda: "box")
        return await ReportClient(reactor, server).send(b'{"seq":1}', "c2ln")

    async def test_report(self) -> None:
        """A report goes through the proxy with its body."""
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
        self.assertEqual(await self.report(answer), Answer(200, b"{}"))
        asked = b"POST http://updates.invalid/report HTTP/1.1\r\n"
        self.assertTrue(self.peer.received.startswith(asked))
        await self.peer.lost

    async def test_report_refused(self) -> None:
        """A refusal by the proxy is not taken for one by the update server."""
        answer = b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"
        reporting: Deferred[object] = Deferred.fromCoroutine(self.report(answer))
        sentence = str(await self.assertFailure(reporting, ServerFailed))
        self.assertIn("through the proxy http://127.0.0.1:", sentence)
        await self.peer.lost

    async def test_quiet(self) -> None:
        """A connection does not log lines without information."""
        said = logged(self)
        await self.ask(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n1500000000")
        await self.peer.lost
        self.assertEqual([line for line in said if "HTTP11" in line], [])

    async def test_refused(self) -> None:
        """A refusal names the proxy, without the password, and its body is not read."""
        for status, phrase in ((407, "write them as http://USER"), (403, "403 (forbidden)")):
            answer = b"HTTP/1.1 %d No\r\nContent-Length: 100000\r\n\r\nx" % status
            asking = Deferred.fromCoroutine(self.ask(answer, "box:sesame@"))
            sentence = str(await self.assertFailure(asking, ServerFailed))
            self.assertIn("through the proxy http://127.0.0.1:", sentence)
            self.assertIn(phrase, sentence)
            self.assertNotIn("sesame", sentence)
            await self.peer.lost

    async def test_broken(self) -> None:
        """The error names a proxy that does not answer in HTTP, or not at all."""
        for answer, phrase in (
            (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
            (b"", "closed the connection"),
        ):

            def send(peer: Protocol, answer: bytes = answer) -> None:
                assert peer.transport is not None
                peer.transport.write(answer)
                peer.transport.loseConnection()

            proxy = Proxy.parse(self.serve(send).decode())
            clients = make_http_clients(reactor, Proxies(proxy))
            server = UpdateServerClient(
                reactor, clients, "http://updates.invalid:8151", lambda: "box"
            )
            asking = Deferred.fromCoroutine(server.newest())
            sentence = str(await self.assertFailure(asking, ServerFailed))
            self.assertIn(f"through the proxy {proxy}: ", sentence)
            self.assertIn(phrase, sentence)
            await self.peer.lost

    async def test_too_close(self) -> None:
        """A proxy is not used for a name that the box resolves to its own network."""
        agent = BoundedAgent(reactor, Proxies(Proxy.parse("http://127.0.0.1:9")))
        for host in ("192.168.1.1", "[fe80::1]"):
            asking = agent.request_within(
                b"GET", f"http://{host}/".encode(), closest=Reach.INTERNET
            )
            await self.assertFailure(Deferred.fromCoroutine(asking), TooClose)


class TrustTests(TestCase):
    """The servers that a box trusts over TLS."""

    def setUp(self) -> None:
        key, self.certificate = Path(self.mktemp()), Path(self.mktemp())
        make_certificate(key, self.certificate)
        self.security = DefaultOpenSSLContextFactory(str(key), str(self.certificate))
        page = Resource()
        page.putChild(b"version", Data(b"1500000000", "text/plain"))
        listen = reactor.listenSSL  # type: ignore[attr-defined]
        port = listen(0, Site(page), self.security, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.port = port.getHost().port

    def trust(self) -> None:
        """Let this machine trust the server's certificate."""
        os.environ["SSL_CERT_FILE"] = str(self.certificate)
        self.addCleanup(os.environ.pop, "SSL_CERT_FILE")

    async def newest(self, host: str = "127.0.0.1", proxies: Proxies | None = None) -> int | None:
        """Request the version as a box does."""
        url = f"https://{host}:{self.port}"
        return await UpdateServerClient(
            reactor,
            make_http_clients(reactor, proxies),
            url,
            lambda: "box",
        ).newest()

    async def refused(self, host: str = "127.0.0.1") -> str:
        """Return the reason why the server is refused."""
        failure = await self.assertFailure(Deferred.fromCoroutine(self.newest(host)), ServerFailed)
        return str(failure)

    async def test_trusted(self) -> None:
        """A certificate that the machine trusts is accepted."""
        self.trust()
        self.assertEqual(await self.newest(), 1500000000)

    async def test_untrusted(self) -> None:
        """Any other certificate is refused; the sentence also mentions the clock."""
        self.assertIn(
            ": its certificate is not trusted here, or not valid by the clock of this machine",
            await self.refused(),
        )

    async def test_another(self) -> None:
        """A certificate for another name is refused."""
        self.trust()
        self.assertIn(
            ": its certificate is another server's. Check", await self.refused("localhost")
        )

    async def tunnelled(self, host: str) -> int | None:
        """Request the version through a proxy, which knows the server by another name."""
        relaying = Relaying(self.port)
        factory = ServerFactory()
        factory.buildProtocol = lambda addr: relaying  # type: ignore[method-assign]
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        proxy = Proxy.parse(f"127.0.0.1:{port.getHost().port}")  # type: ignore[attr-defined]
        try:
            return await self.newest(host, Proxies(proxy))
        finally:
            self.assertIn(b"CONNECT %b:" % host.encode(), relaying.request)
            await relaying.lost

    async def test_tunnel(self) -> None:
        """Through a proxy, the certificate of the server is checked."""
        asking = Deferred.fromCoroutine(self.tunnelled("updates.invalid"))
        self.assertIn("not trusted here", str(await self.assertFailure(asking, ServerFailed)))
        self.trust()
        said = logged(self)
        self.assertEqual(await self.tunnelled("updates.invalid"), 1500000000)
        self.assertEqual([line for line in said if "protocol.Factory" in line], [])
        asking = Deferred.fromCoroutine(self.tunnelled("others.invalid"))
        self.assertIn("another server's", str(await self.assertFailure(asking, ServerFailed)))

    async def test_silent_end(self) -> None:
        """A connection is closed without waiting for the server's close_notify."""
        self.trust()
        silent = Silent()
        factory = ServerFactory()
        factory.buildProtocol = lambda addr: silent  # type: ignore[method-assign]
        listen = reactor.listenSSL  # type: ignore[attr-defined]
        port = listen(0, factory, self.security, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.port = port.getHost().port
        await self.refused()
        # It notices when it reads on, and only if the connection has ended.
        silent.transport.resumeProducing()
        await silent.lost
        self.assertEqual([item for item in reactor.getReaders() if isinstance(item, Client)], [])


class Silent(Protocol):
    """Sends a redirect, and reads nothing more."""

    transport: Any

    def __init__(self) -> None:
        self.lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(b"HTTP/1.1 302 Found\r\nContent-Length: 9\r\n\r\n")
        self.transport.pauseProducing()

    def connectionLost(self, reason: object = None) -> None:
        self.lost.callback(None)


class Relaying(Protocol):
    """A proxy that connects to the same server for any name."""

    transport: Any

    def __init__(self, port: int) -> None:
        self._port = port
        self._other: Any = None
        self.request = b""
        self.lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        if self._other is not None:
            self._other.transport.write(data)
            return
        self.request += data
        if b"\r\n\r\n" in self.request:
            server = TCP4ClientEndpoint(reactor, "127.0.0.1", self._port)
            connecting = connectProtocol(server, Passing(self))
            connecting.addCallback(self._open)

    def _open(self, other: Any) -> None:
        self._other = other
        self.transport.write(b"HTTP/1.1 200 OK\r\n\r\n")

    def connectionLost(self, reason: object = None) -> None:
        self._other.transport.abortConnection()


class Passing(Protocol):
    """The proxy's connection to the server."""

    def __init__(self, client: Relaying) -> None:
        self._client = client

    def dataReceived(self, data: bytes) -> None:
        self._client.transport.write(data)

    def connectionLost(self, reason: object = None) -> None:
        self._client.transport.loseConnection()
        self._client.lost.callback(None)
