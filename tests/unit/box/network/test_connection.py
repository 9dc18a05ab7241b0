"""Several requests use one connection, and a hostile server gains nothing by that."""

import os
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.tcp import Client, Connection
from twisted.trial.unittest import TestCase
from twisted.web.client import readBody

from opq_twisted.box.network.addresses import Reach
from opq_twisted.box.network.body import TooLong, discard, read_body
from opq_twisted.box.network.connect import TooClose
from opq_twisted.box.network.connection import KEEP_ALIVE, MAX_HEADERS, MAX_IDLE, IdleConnections
from opq_twisted.box.network.http_agent import BoundedAgent, make_http_clients
from opq_twisted.box.network.proxies import Proxies, Proxy
from opq_twisted.box.network.update_server import UpdateServerClient
from opq_twisted.common.errors import ServerFailed
from tests.helpers.certificates import make_certificate
from tests.unit.box.network.test_http_agent import Relaying


def ok(body: bytes) -> bytes:
    """Give a response with a length."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class Conversation(Protocol):
    """A connection of a `Server`."""

    transport: Any

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._received = b""
        self.requests: list[bytes] = []
        self.lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            request, _, self._received = self._received.partition(b"\r\n\r\n")
            self.requests.append(request)
            self._server.answer(self)

    def connectionLost(self, reason: object = None) -> None:
        self.lost.callback(None)


class Server(ServerFactory):
    """Records its connections, and lets a function answer each request."""

    noisy = False

    def __init__(self) -> None:
        self.conversations: list[Conversation] = []
        self.answer = self.echo
        self.port = 0

    @property
    def requests(self) -> list[int]:
        """The number of requests of each connection."""
        return [len(each.requests) for each in self.conversations]

    def echo(self, conversation: Conversation) -> None:
        """Answer with the path of the request."""
        conversation.transport.write(ok(conversation.requests[-1].split(b" ")[1]))

    def buildProtocol(self, addr: object) -> Conversation:
        self.conversations.append(Conversation(self))
        return self.conversations[-1]


class ConnectionCase(TestCase):
    """A box, and servers on this machine."""

    def setUp(self) -> None:
        self.use(Proxies())
        self.server = self.listen()

    def use(self, proxies: Proxies) -> None:
        """Make the box's client."""
        self.http = make_http_clients(reactor, proxies)
        self.addCleanup(self.http.idle.stopService)
        self.client = UpdateServerClient(reactor, self.http, "http://unused", lambda: "box")

    def listen(self, security: Any = None) -> Server:
        """Start a server."""
        server = Server()
        if security is None:
            port: Any = reactor.listenTCP(0, server, interface="127.0.0.1")
        else:
            listen = reactor.listenSSL  # type: ignore[attr-defined]
            port = listen(0, server, security, interface="127.0.0.1")
        server.port = port.getHost().port
        # The last one that was added is the first.
        self.addCleanup(lambda: gatherResults([each.lost for each in server.conversations]))
        self.addCleanup(lambda: self.http.idle.stopService())
        self.addCleanup(port.stopListening)
        return server

    def listen_securely(self) -> Server:
        """Start a server with TLS that the box trusts."""
        key, certificate = Path(self.mktemp()), Path(self.mktemp())
        make_certificate(key, certificate)
        os.environ["SSL_CERT_FILE"] = str(certificate)
        self.addCleanup(os.environ.pop, "SSL_CERT_FILE")
        return self.listen(DefaultOpenSSLContextFactory(str(key), str(certificate)))

    async def fetch(self, path: str, base: str | None = None) -> str:
        """Request an archive, and read it."""
        base = f"http://127.0.0.1:{self.server.port}" if base is None else base
        response = await self.client.get_archive(base + path, {"Range": "bytes=7-"})
        body = bytearray()
        await read_body(reactor, response, body.extend, 1_000_000)
        return body.decode()

    async def fetch_several(self, base: str | None = None) -> None:
        """Fetch one path after the other, and compare the responses."""
        for path in ("/a", "/b", "/c"):
            self.assertEqual((await self.fetch(path, base))[-2:], path)

    def delayed_calls(self) -> list[IDelayedCall]:
        """List the delayed calls, without that of the test's own timeout."""
        end = reactor.seconds() + 2 * KEEP_ALIVE
        return [call for call in reactor.getDelayedCalls() if call.getTime() < end]


class ReuseTests(ConnectionCase):
    """Requests that use the connection of the last one."""

    async def test_plain(self) -> None:
        """A server sees one connection for all requests."""
        await self.fetch_several()
        self.assertEqual(self.server.requests, [3])

    async def test_secure(self) -> None:
        """With TLS there is one handshake."""
        server = self.listen_securely()
        await self.fetch_several(f"https://127.0.0.1:{server.port}")
        self.assertEqual(server.requests, [3])

    async def test_proxy(self) -> None:
        """A plain proxy sees one connection per server, and its password in each request."""
        self.use(Proxies(Proxy.parse(f"http://box:sesame@127.0.0.1:{self.server.port}")))
        await self.fetch_several("http://updates.invalid")
        await self.fetch_several("http://updates.invalid:81")
        await self.fetch_several("http://others.invalid")
        self.assertEqual(self.server.requests, [3, 3, 3])
        for conversation in self.server.conversations:
            for request in conversation.requests:
                self.assertIn(b"\r\nProxy-Authorization: Basic Ym94OnNlc2FtZQ==", request)

    async def test_tunnel(self) -> None:
        """A tunnel through a proxy is opened once, and the proxy's password stays outside."""
        server = self.listen_securely()
        relays: list[Relaying] = []

        def relay(addr: object) -> Relaying:
            relays.append(Relaying(server.port))
            return relays[-1]

        factory = ServerFactory()
        factory.buildProtocol = relay  # type: ignore[method-assign]
        port: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(lambda: gatherResults([each.lost for each in relays]))
        self.addCleanup(lambda: self.http.idle.stopService())
        self.addCleanup(port.stopListening)
        self.use(Proxies(Proxy.parse(f"http://box:sesame@127.0.0.1:{port.getHost().port}")))
        await self.fetch_several("https://updates.invalid")
        self.assertEqual(server.requests, [3])
        self.assertEqual(len(relays), 1)
        self.assertNotIn(b"Proxy-", b"".join(server.conversations[0].requests))

    async def test_other_proxy(self) -> None:
        """A connection to a proxy is not used for another proxy."""
        other = self.listen()
        environment = {"http_proxy": f"127.0.0.1:{self.server.port}"}
        self.use(Proxies(None, environment))
        await self.fetch_several("http://updates.invalid")
        environment["http_proxy"] = f"127.0.0.1:{other.port}"
        await self.fetch_several("http://updates.invalid")
        self.assertEqual((self.server.requests, other.requests), ([3], [3]))

    async def test_other_name(self) -> None:
        """A connection is not used for another name of the server."""
        await self.fetch_several()
        await self.fetch_several(f"http://127.1:{self.server.port}")
        self.assertEqual(self.server.requests, [3, 3])

    async def redirected(self, body: bytes) -> tuple[list[int], list[int]]:
        """Fetch from a mirror; returns the requests of each connection to server and mirror."""
        mirror = self.listen()

        def redirect(conversation: Conversation) -> None:
            path = conversation.requests[-1].split(b" ")[1]
            conversation.transport.write(
                b"HTTP/1.1 307 Temporary Redirect\r\nContent-Length: %d\r\n"
                b"Location: http://127.0.0.1:%d/m%b\r\n\r\n" % (len(body), mirror.port, path)
            )
            conversation.transport.write(body)

        self.server.answer = redirect
        await self.fetch_several()
        return self.server.requests, mirror.requests

    async def test_redirect(self) -> None:
        """The target of a redirect sees one connection, and so does the redirecting server."""
        self.assertEqual(await self.redirected(b"It is elsewhere."), ([3], [3]))

    async def test_long_redirect(self) -> None:
        """The connection is closed if the redirect has a long body."""
        self.assertEqual(await self.redirected(bytes(100_000)), ([1, 1, 1], [3]))

    async def test_broken_redirect(self) -> None:
        """A redirect whose body breaks off is followed."""
        mirror = self.listen()

        def redirect(conversation: Conversation) -> None:
            conversation.transport.write(
                b"HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 5\r\n"
                b"Location: http://127.0.0.1:%d/\r\n\r\nx" % mirror.port
            )
            conversation.transport.loseConnection()

        self.server.answer = redirect
        self.assertEqual(await self.fetch("/a"), "/")
        self.assertEqual(await self.fetch("/a"), "/")
        self.assertEqual((self.server.requests, mirror.requests), ([1, 1], [2]))

    async def test_direct(self) -> None:
        """Requests for anything but an archive use a connection each."""
        for _ in range(2):
            await self.client.read(f"http://127.0.0.1:{self.server.port}/a", 100)
        self.assertEqual(self.server.requests, [1, 1])

    async def test_at_the_same_time(self) -> None:
        """A connection is used for one request at a time, and one per server is kept."""
        bodies = gatherResults([Deferred.fromCoroutine(self.fetch(path)) for path in ("/a", "/b")])
        self.assertEqual(await bodies, ["/a", "/b"])
        self.assertEqual(self.server.requests, [1, 1])
        self.assertEqual(len(self.delayed_calls()), 1)
        await self.fetch_several()
        self.assertEqual(sorted(self.server.requests), [1, 4])


class EndTests(ConnectionCase):
    """Connections that are not kept, or not for long."""

    async def assert_not_kept(self) -> None:
        """Check that the newest connection ends, and not only when it was idle for long."""
        self.assertEqual(self.delayed_calls(), [])
        await self.lost()

    async def lost(self) -> None:
        """Wait until the newest connection has ended."""
        await self.server.conversations[-1].lost

    async def test_idle(self) -> None:
        """A connection without a request is closed after a while."""
        await self.fetch_several()
        [call] = self.delayed_calls()
        call.reset(0)
        await self.lost()
        self.assertEqual(self.delayed_calls(), [])
        await self.fetch_several()
        self.assertEqual(self.server.requests, [3, 3])

    async def test_stop(self) -> None:
        """The connections are closed when the service stops, and no delayed call remains."""
        await self.fetch_several()
        self.http.idle.stopService()
        await self.assert_not_kept()

    async def test_number(self) -> None:
        """Only the newest connections are kept."""
        others = [self.listen() for _ in range(MAX_IDLE)]
        await self.fetch("/a")
        for server in others:
            await self.fetch("/a", f"http://127.0.0.1:{server.port}")
        self.assertEqual(len(self.delayed_calls()), MAX_IDLE)
        await self.lost()
        for server in others:
            await self.fetch("/a", f"http://127.0.0.1:{server.port}")
            self.assertEqual(server.requests, [2])

    async def test_closed_while_idle(self) -> None:
        """A server may close an idle connection, normally or by a reset."""
        for times, end in enumerate(("loseConnection", "abortConnection"), start=1):
            await self.fetch("/a")
            getattr(self.server.conversations[-1].transport, end)()
            while any(isinstance(reader, Client) for reader in reactor.getReaders()):
                await deferLater(reactor, 0)
            await self.assert_not_kept()
            self.assertEqual(await self.fetch("/b"), "/b")
            self.assertEqual(len(self.server.requests), times + 1)

    async def test_closed_meanwhile(self) -> None:
        """A request is repeated once if the server closes the idle connection at that moment."""
        for times, end in enumerate(("loseConnection", "abortConnection"), start=1):

            def close_second(conversation: Conversation, end: str = end) -> None:
                if len(conversation.requests) == 2:
                    getattr(conversation.transport, end)()
                else:
                    self.server.echo(conversation)

            self.server.answer = close_second
            await self.fetch("/a")
            self.assertEqual(await self.fetch("/b"), "/b")
            self.assertEqual(self.server.requests, [2, 1] * times)
            self.http.idle.stopService()

    async def test_closed_again(self) -> None:
        """A request that fails on the new connection, too, is not repeated."""
        await self.fetch("/a")
        self.server.answer = lambda conversation: conversation.transport.loseConnection()
        fetching = Deferred.fromCoroutine(self.fetch("/b"))
        error = await self.assertFailure(fetching, ServerFailed)
        self.assertIn("it closed the connection", str(error))
        self.assertEqual(self.server.requests, [2, 1])

    async def test_last_response(self) -> None:
        """No other request follows a response that is the connection's last, or has no length."""
        for answer in (
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n/a",
            b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n/a",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n/a\r\n0\r\n\r\n",
        ):

            def send(conversation: Conversation, answer: bytes = answer) -> None:
                conversation.transport.write(answer)

            self.server.answer = send
            self.assertEqual(await self.fetch("/a"), "/a")
            await self.assert_not_kept()
        self.assertEqual(await self.fetch("/a"), "/a")
        self.assertEqual(self.server.requests, [1, 1, 1, 1])

    async def test_discarded(self) -> None:
        """The connection of a discarded response is closed, even if the body is complete."""
        for answer in (ok(b""), ok(b"abc"), ok(b"abc")[:-1], ok(bytes(500_000))):

            def send(conversation: Conversation, answer: bytes = answer) -> None:
                conversation.transport.write(answer)

            self.server.answer = send
            url = f"http://127.0.0.1:{self.server.port}/"
            for turns in range(2):
                response = await self.client.get_archive(url, {})
                for _ in range(turns):
                    await deferLater(reactor, 0)
                discard(reactor, response)
                await self.assert_not_kept()

    async def test_too_long(self) -> None:
        """The connection of a body that is too long is closed, even if the body is complete."""
        url = f"http://127.0.0.1:{self.server.port}/abcde"
        for turns in range(2):
            response = await self.client.get_archive(url, {})
            for _ in range(turns):
                await deferLater(reactor, 0)
            reading = read_body(reactor, response, lambda data: None, limit=5)
            await self.assertFailure(reading, TooLong)
            await self.assert_not_kept()

    async def test_cancelled(self) -> None:
        """Cancelling a request closes the kept connection that it uses, at any time."""
        await self.fetch("/a")
        fetching = Deferred.fromCoroutine(self.fetch("/b"))
        fetching.cancel()
        await self.assertFailure(fetching, CancelledError)
        await self.assert_not_kept()
        self.assertEqual(self.server.requests, [1])
        await self.fetch("/a")
        self.server.answer = lambda conversation: fetching.cancel()
        fetching = Deferred.fromCoroutine(self.fetch("/b"))
        await self.assertFailure(fetching, CancelledError)
        # A request under way is aborted in the reactor's next turn.
        await self.lost()
        self.assertEqual(self.delayed_calls(), [])
        self.assertEqual(self.server.requests, [1, 2])


class HostileTests(ConnectionCase):
    """Servers that use the kept connection for an attack."""

    def answer_in_turn(self, server: Server, *answers: bytes) -> None:
        """Let a server send these responses."""
        remaining = list(answers)
        server.answer = lambda conversation: conversation.transport.write(remaining.pop(0))

    async def test_two_responses(self) -> None:
        """A second response in the same bytes is not taken as that to the next request."""
        for times, first in enumerate((ok(b"one"), ok(b""), ok(bytes(100_000))), start=1):
            self.answer_in_turn(self.server, first + ok(b"forged"), ok(b"two"))
            await self.fetch("/a")
            self.assertEqual(await self.fetch("/b"), "two")
            self.assertEqual(self.server.requests, [1, 1] * times)
            await self.server.conversations[-2].lost
            self.http.idle.stopService()

    async def test_arrived_already(self) -> None:
        """Neither is one that has arrived, and is read later than the first one."""
        first = ok(bytes(10_000))
        self.patch(Connection, "bufferSize", len(first))
        self.answer_in_turn(self.server, first + ok(b"forged"), ok(b"two"))
        await self.fetch("/a")
        self.assertEqual(await self.fetch("/b"), "two")
        self.assertEqual(self.server.requests, [1, 1])

    async def test_next_record(self) -> None:
        """Neither is one that TLS hands over later than the first one."""
        server = self.listen_securely()
        base = f"https://127.0.0.1:{server.port}"
        first = ok(bytes(16_342))
        self.assertEqual(len(first), 2**14, "the size of a record")
        self.answer_in_turn(server, first + ok(b"forged"), ok(b"two"))
        await self.fetch("/a", base)
        self.assertEqual(await self.fetch("/b", base), "two")
        self.assertEqual(server.requests, [1, 1])

    async def test_unasked(self) -> None:
        """A byte between two responses closes the connection."""
        for byte in (b"\r", b"H"):
            await self.fetch("/a")
            self.server.conversations[-1].transport.write(byte)
            await self.server.conversations[-1].lost

    async def test_endless_headers(self) -> None:
        """The headers of the second response have the same limit."""
        self.answer_in_turn(self.server, ok(bytes(2 * MAX_HEADERS)))
        await self.fetch("/a")
        for line in (b"X-Filler: " + b"a" * 1000 + b"\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 40):
            sent = await self.endless_headers(line)
            self.assertGreater(sent, MAX_HEADERS - 64 * 1024)
            self.server.answer = self.server.echo
            await self.fetch("/a")
        self.assertEqual(self.server.requests, [2, 2, 1])

    async def endless_headers(self, line: bytes) -> int:
        """Answer a request with this line until the box refuses that; returns the sent bytes."""
        sent = 0

        def more() -> None:
            nonlocal sent
            sent += len(line)
            self.server.conversations[-1].transport.write(line)

        def answer(conversation: Conversation) -> None:
            if line.startswith(b"X"):
                conversation.transport.write(b"HTTP/1.1 200 OK\r\n")
            filler.start(0)

        filler = LoopingCall(more)
        self.server.answer = answer
        fetching = Deferred.fromCoroutine(self.fetch("/b"))
        await self.assertFailure(fetching, ServerFailed)
        await self.server.conversations[-1].lost
        filler.stop()
        return sent

    async def test_half_a_header(self) -> None:
        """Headers may arrive byte by byte, also on a kept connection."""

        def answer(conversation: Conversation) -> None:
            remaining = list(ok(b"body"))

            def more() -> None:
                conversation.transport.write(bytes([remaining.pop(0)]))
                if remaining:
                    reactor.callLater(0, more)

            more()

        self.server.answer = answer
        self.assertEqual(await self.fetch("/a"), "body")
        self.assertEqual(await self.fetch("/a"), "body")
        self.assertEqual(self.server.requests, [2])

    async def test_closer(self) -> None:
        """A connection that is too close is not used, although another request may use it."""
        idle = IdleConnections()
        self.addCleanup(idle.stopService)
        agent = BoundedAgent(reactor, Proxies(), idle)
        url = b"http://127.0.0.1:%d/" % self.server.port

        async def ask(closest: Reach) -> bytes:
            located = await agent.request_within(b"GET", url, closest=closest)
            self.assertIs(located.reach, Reach.MACHINE)
            return await readBody(located.response)

        for _ in range(2):
            await ask(Reach.MACHINE)
            await self.assertFailure(Deferred.fromCoroutine(ask(Reach.HOME)), TooClose)
        self.assertEqual(self.server.requests, [2])
        idle.stopService()
        await self.server.conversations[0].lost
