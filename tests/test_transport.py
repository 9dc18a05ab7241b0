"""The HTTP client of the box, against servers that mean it ill."""

import os
from collections.abc import Callable
from pathlib import Path
from socket import SO_RCVBUF, SOL_SOCKET

from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.task import LoopingCall
from twisted.internet.tcp import Client
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import ResponseFailed, readBody
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data
from zope.interface import implementer

from opq_twisted.box.client import UpdateServer
from opq_twisted.box.transport import MAX_HEADERS, BoundedAgent, PlainAgent, make_http_client
from opq_twisted.errors import ServerFailed
from tests.certificates import make_certificate
from tests.fakes import Network


class SchemeTests(SynchronousTestCase):
    """Where a redirect may lead."""

    def test_scheme(self) -> None:
        """The client asks nothing but HTTP servers."""
        client = make_http_client(Network().clock, "http://updates.example")
        self.assertTrue(self.failureResultOf(client.get("ftp://updates.example/version")))

    def test_downgrade(self) -> None:
        """From https no redirect leads to plain http."""

        @implementer(IAgent)
        class Asked:
            def request(
                self,
                method: bytes,
                uri: bytes,
                headers: Headers | None = None,
                bodyProducer: IBodyProducer | None = None,
            ) -> Deferred[IResponse]:
                return succeed(Answer(Headers()))  # type: ignore[arg-type]

        class Answer:
            def __init__(self, headers: Headers) -> None:
                self.headers = headers

        agent = PlainAgent(Asked(), secure=True)
        self.failureResultOf(agent.request(b"GET", b"http://updates.example/"), ValueError)
        self.successResultOf(agent.request(b"GET", b"https://updates.example/"))


class Answering(Protocol):
    """Answers a request as the test says, once it has come."""

    def __init__(self, answer: Callable[[Protocol], None]) -> None:
        self._answer = answer
        self.lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self._answer(self)

    def connectionLost(self, reason: object = None) -> None:
        self.lost.callback(None)


class BoundedAgentTests(TestCase):
    """What a server may send before its body, over real connections."""

    def serve(self, answer: Callable[[Protocol], None]) -> bytes:
        """Listen; returns the URL."""
        self.peer = Answering(answer)
        factory = ServerFactory()
        factory.buildProtocol = lambda addr: self.peer  # type: ignore[method-assign]
        return self.listen(factory)

    def listen(self, factory: ServerFactory) -> bytes:
        """Listen on a free port; returns the URL."""
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return b"http://127.0.0.1:%d/" % port.getHost().port  # type: ignore[attr-defined]

    async def test_endless_headers(self) -> None:
        """Headers without end are cut, long before they fill the memory."""
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
        await self.assertFailure(BoundedAgent(reactor).request(b"GET", url), ResponseFailed)
        await self.peer.lost
        self.filler.stop()
        self.assertGreater(sent, MAX_HEADERS - 64 * 1024)

    async def test_endless_answers(self) -> None:
        """So are answers that announce another answer."""

        def answer(peer: Protocol) -> None:
            def more() -> None:
                assert peer.transport is not None
                peer.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)

            self.filler = LoopingCall(more)
            self.filler.start(0)

        url = self.serve(answer)
        await self.assertFailure(BoundedAgent(reactor).request(b"GET", url), ResponseFailed)
        await self.peer.lost
        self.filler.stop()

    async def test_large_body(self) -> None:
        """A body may be larger: it has limits of its own."""
        body = bytes(3 * MAX_HEADERS)

        def answer(peer: Protocol) -> None:
            assert peer.transport is not None
            peer.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
            peer.transport.write(body)

        response = await BoundedAgent(reactor).request(b"GET", self.serve(answer))
        self.assertEqual(await readBody(response), body)
        await self.peer.lost

    async def test_kernel(self) -> None:
        """The kernel takes little ahead of a slow disk: who is cut then has fetched it in vain."""

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


class TrustTests(TestCase):
    """Whom a box takes for its update server over TLS."""

    def setUp(self) -> None:
        key, self.certificate = Path(self.mktemp()), Path(self.mktemp())
        make_certificate(key, self.certificate)
        security = DefaultOpenSSLContextFactory(str(key), str(self.certificate))
        page = Resource()
        page.putChild(b"version", Data(b"1500000000", "text/plain"))
        listen = reactor.listenSSL  # type: ignore[attr-defined]
        port = listen(0, Site(page), security, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.port = port.getHost().port

    def trust(self) -> None:
        """Let this machine trust the server's certificate."""
        os.environ["SSL_CERT_FILE"] = str(self.certificate)
        self.addCleanup(os.environ.pop, "SSL_CERT_FILE")

    async def newest(self, host: str = "127.0.0.1") -> int | None:
        """Ask the server as a box does."""
        url = f"https://{host}:{self.port}"
        return await UpdateServer(
            reactor,
            make_http_client(reactor, url),
            url,
            lambda: "box",
        ).newest()

    async def refused(self, host: str = "127.0.0.1") -> str:
        """Say why the server is not asked."""
        failure = await self.assertFailure(Deferred.fromCoroutine(self.newest(host)), ServerFailed)
        return str(failure)

    async def test_trusted(self) -> None:
        """A certificate that the machine trusts is enough."""
        self.trust()
        self.assertEqual(await self.newest(), 1500000000)

    async def test_untrusted(self) -> None:
        """Any other is refused, in a sentence that names what else it can be: a wrong clock."""
        self.assertIn(
            ": its certificate is not trusted here, or not valid by the clock of this box. Check",
            await self.refused(),
        )

    async def test_another(self) -> None:
        """So is one for another name."""
        self.trust()
        self.assertIn(
            ": its certificate is another server's. Check", await self.refused("localhost")
        )
