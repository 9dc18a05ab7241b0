"""Sends requests to a server, one after the other over one connection, with limited headers."""

import socket
import sys
from collections.abc import Callable
from typing import Any, cast

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.components import proxyForInterface
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    Agent,
    BrowserLikePolicyForHTTPS,
    HTTPConnectionPool,
    ProxyAgent,
    ResponseDone,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import (
    UNKNOWN_LENGTH,
    IAgent,
    IAgentEndpointFactory,
    IBodyProducer,
    IResponse,
)
from zope.interface import implementer

from opq_twisted.box.network.addresses import Reach
from opq_twisted.box.network.connect import ReachLimitedEndpoint
from opq_twisted.box.network.proxies import Proxy
from opq_twisted.box.network.tunnel import ProxyEndpoint, TunnelEndpoint
from opq_twisted.box.network.urls import Url

#: Bytes that a server may send until the headers of its response are complete, including those of
#: TLS. Twisted limits the length of a header, but not their number.
MAX_HEADERS = 256 * 1024

#: Seconds after which a connection without a request is closed.
KEEP_ALIVE = 15

#: Connections kept without a request: one to the server, and one to the target of its redirect.
MAX_IDLE = 2

#: SO_RCVBUF in bytes; the kernel doubles it for its own needs. By default the kernel buffers
#: megabytes while the disk is slow, and all of them are lost if the connection breaks. With this
#: size, a server 50 ms away can send 2.6 MB/s.
_RECEIVE_BUFFER = 128 * 1024


class _QuietFactory(HTTPConnectionPool._factory):  # type: ignore[misc, valid-type]
    """Does not log the start and the end of each connection."""

    noisy = False


class _QuietPool(HTTPConnectionPool):
    _factory = _QuietFactory


@frozen
class Route:
    """Everything that two requests must have in common to use the same connection."""

    #: The server's, without a path.
    url: Url
    proxy: Proxy | None
    #: The limit for the server's address; see `ReachLimitedEndpoint`.
    closest: Reach


class IdleConnections(Service):
    """Keeps a few connections for a short time, in case another request follows."""

    def __init__(self) -> None:
        #: The oldest is the first.
        self._connections: dict[Route, Connection] = {}

    def take(self, route: Route) -> "Connection | None":
        """Return the connection of a route, if there is one; it is not idle any more."""
        return self._connections.pop(route, None)

    def put(self, connection: "Connection") -> None:
        """Keep a connection whose response was read completely."""
        if connection.route in self._connections:
            self._connections[connection.route].close()
        self._connections[connection.route] = connection
        if len(self._connections) > MAX_IDLE:
            next(iter(self._connections.values())).close()

    def remove(self, connection: "Connection") -> None:
        """Forget a connection, if it is idle."""
        if self._connections.get(connection.route) is connection:
            del self._connections[connection.route]

    def stopService(self) -> None:
        """Close all connections."""
        super().stopService()
        for connection in list(self._connections.values()):
            connection.close()


@implementer(IAgentEndpointFactory)
class Connection:
    """
    Connects to a server, and limits the bytes received until the headers of each response.

    A response that was read completely leaves the connection idle, if the server permits that. The
    next request uses it, or a new one if the server has closed it meanwhile.
    """

    def __init__(self, reactor: Any, route: Route, idle: IdleConnections | None) -> None:
        """:param idle: None to use another connection for each request."""
        self.route = route
        self._reactor = reactor
        self._idle = idle
        #: Bytes that may still arrive, including those of TLS; None for no limit.
        self._allowed: int | None = MAX_HEADERS
        #: Bytes of the response's body that have not arrived; None before the headers are complete.
        self._missing: int | None = None
        #: The protocol of the newest TCP connection.
        self._protocol: Any = None
        self._can_be_kept = False
        first_hop = route.url if route.proxy is None else route.proxy
        closest = route.closest if route.proxy is None else Reach.MACHINE
        self._first_hop = ReachLimitedEndpoint(reactor, first_hop.host, first_hop.port, closest)
        self._endpoint = self._make_endpoint()
        self._pool = _QuietPool(reactor, persistent=idle is not None)
        self._pool.cachedConnectionTimeout = KEEP_ALIVE
        if route.proxy is None or route.url.secure:
            self._agent: IAgent = Agent.usingEndpointFactory(reactor, self, self._pool)
        else:
            self._agent = ProxyAgent(self._endpoint, reactor, self._pool)

    @property
    def reach(self) -> Reach | None:
        """How close the server is; None behind a proxy."""
        return self._first_hop.reach if self.route.proxy is None else None

    async def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None,
        body: IBodyProducer | None = None,
    ) -> IResponse:
        """
        Send a request, after the body of the response before was read.

        A GET that finds the kept connection closed is sent once more, over a new one.
        """
        try:
            if self._protocol is not None:
                await self._read_unasked_bytes()
            self._missing = None
            response = await self._agent.request(method, uri, headers, body)
        except BaseException:
            # Nothing that still arrives is read.
            self._missing = 0
            self.close()
            raise
        # Bodies have limits of their own.
        self._allowed = None
        has_length = response.length is not UNKNOWN_LENGTH
        self._missing = response.length if has_length else sys.maxsize
        self._can_be_kept = (
            self._idle is not None and has_length and response.version == (b"HTTP", 1, 1)
        )
        return cast(IResponse, _Response(response, self))

    def body_ended(self, complete: bool) -> None:
        """Become idle after a complete body; close the connection otherwise."""
        self._allowed = MAX_HEADERS
        if self._idle is not None and self._can_be_kept and complete:
            self._idle.put(self)
        else:
            self.close()

    def close(self) -> None:
        """Close the connection, now if it is idle, or else after the body."""
        self._can_be_kept = False
        if self._idle is not None:
            self._idle.remove(self)
        self._pool.closeCachedConnections()

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """See `IAgentEndpointFactory.endpointForURI`."""
        return self._endpoint

    def _make_endpoint(self) -> IStreamClientEndpoint:
        """Make the endpoint of the server; for plain http behind a proxy, that of the proxy."""
        url, proxy = self.route.url, self.route.proxy
        endpoint: IStreamClientEndpoint = _PreparedEndpoint(self._first_hop, self._limit)
        if proxy is not None:
            if proxy.secure:
                endpoint = _tls(endpoint, proxy.host, proxy.port)
            endpoint = ProxyEndpoint(endpoint, proxy)
            if url.secure:
                endpoint = TunnelEndpoint(endpoint, proxy, url)
        if url.secure:
            endpoint = _tls(endpoint, url.host, url.port)
        return _PreparedEndpoint(endpoint, self._watch)

    def _limit(self, protocol: Any) -> None:
        """Count the bytes of a new connection, and shrink the kernel's buffer."""
        protocol.transport.getHandle().setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER
        )
        self._allowed = MAX_HEADERS
        deliver = protocol.dataReceived

        def receive(data: bytes) -> None:
            if self._allowed is not None:
                self._allowed -= len(data)
                if self._allowed < 0:
                    protocol.transport.abortConnection()
                    return
            deliver(data)

        protocol.dataReceived = receive

    def _watch(self, protocol: Any) -> None:
        """Close a new connection if the server sends more than its responses."""
        self._protocol = protocol
        deliver, lose = protocol.dataReceived, protocol.connectionLost

        def receive(data: bytes) -> None:
            start = 0
            while start < len(data):
                end = self._end_of_line_or_body(data, start)
                if end == start:
                    # The server has sent bytes that no request asked for. They may be meant as the
                    # response to the next request (response splitting).
                    self.close()
                    return
                if self._missing is not None:
                    self._missing -= end - start
                deliver(data[start:end])
                start = end

        def lost(reason: Failure) -> None:
            lose(reason)
            if self._protocol is protocol:
                self.close()

        protocol.dataReceived, protocol.connectionLost = receive, lost

    def _end_of_line_or_body(self, data: bytes, start: int) -> int:
        """Return where the current line of the headers ends, or the body."""
        if self._missing is None:
            # Line by line, because only Twisted's parser knows which line is the last one.
            return data.find(b"\n", start) + 1 or len(data)
        return min(len(data), start + self._missing)

    async def _read_unasked_bytes(self) -> None:
        """
        Let the reactor read the connection once, before another request uses it.

        Otherwise bytes that have arrived already would be taken as the response. The first turn
        ends before the reactor reads, the second one after it.
        """
        for _ in range(2):
            await deferLater(self._reactor, 0)


class _Response(proxyForInterface(IResponse)):  # type: ignore[misc]
    """A response that tells its connection how its body ended."""

    def __init__(self, original: IResponse, connection: Connection) -> None:
        super().__init__(original)
        self._connection = connection

    def deliverBody(self, protocol: IProtocol) -> None:
        """See `IResponse.deliverBody`."""
        self.original.deliverBody(_Body(protocol, self._connection))


@implementer(IPushProducer)
class _Body(Protocol):
    """Hands a body to another protocol, as its transport."""

    def __init__(self, protocol: IProtocol, connection: Connection) -> None:
        self._protocol = protocol
        self._connection = connection

    def connectionMade(self) -> None:
        self._protocol.makeConnection(cast(ITransport, self))

    def dataReceived(self, data: bytes) -> None:
        self._protocol.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._connection.body_ended(bool(reason.check(ResponseDone)))
        self._protocol.connectionLost(reason)

    def loseConnection(self) -> None:
        """Close the connection, even if the body has arrived completely."""
        self._connection.close()
        cast(ITransport, self.transport).loseConnection()

    def pauseProducing(self) -> None:
        """See `IPushProducer`."""
        cast(IPushProducer, self.transport).pauseProducing()

    def resumeProducing(self) -> None:
        """See `IPushProducer`."""
        cast(IPushProducer, self.transport).resumeProducing()

    def stopProducing(self) -> None:
        """See `IPushProducer`."""
        self.loseConnection()


def _tls(endpoint: IStreamClientEndpoint, host: str, port: int) -> IStreamClientEndpoint:
    name = host.removesuffix(".").encode("ascii")
    security = BrowserLikePolicyForHTTPS().creatorForNetloc(name, port)
    return _PreparedEndpoint(wrapClientTLS(security, endpoint), _close_at_once)


def _close_at_once(protocol: Any) -> None:
    """Let TLS connections close without the other side's close_notify, which may never come."""
    protocol.transport.loseConnection = protocol.transport.abortConnection


@implementer(IStreamClientEndpoint)
@frozen
class _PreparedEndpoint:
    """Calls a function with each new connection."""

    _endpoint: IStreamClientEndpoint
    _prepare: Callable[[IProtocol], None]

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        return self._endpoint.connect(factory).addCallback(self._prepared)

    def _prepared(self, protocol: IProtocol) -> IProtocol:
        self._prepare(protocol)
        return protocol
