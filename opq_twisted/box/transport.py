"""The HTTP client of the box: bounded headers, plain bodies, never less safe than it was told."""

import socket
from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.web.client import URI, Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

#: Seconds until a connection stands.
_CONNECT_TIMEOUT = 15.0

#: Bytes that a server may send until the headers of its answer are there, with what comes in the
#: same piece; Twisted bounds a line of them, and not their number.
MAX_HEADERS = 256 * 1024

#: Bytes that the kernel takes ahead of us (it doubles them, for what it needs itself). By default
#: it takes megabytes while the disk is slow, and whoever is cut then has fetched them for nothing.
#: So much in each round trip is 2.6 MB a second from a server that is 50 ms away.
_RECEIVE_BUFFER = 128 * 1024


def make_http_client(reactor: Any, endpoint: str) -> HTTPClient:
    """
    Make a treq client for an update server.

    :param endpoint: the server's URL: where it is https, no redirect leads to plain http.
    """
    return HTTPClient(PlainAgent(BoundedAgent(reactor), secure=endpoint.startswith("https:")))


@implementer(IAgent)
class PlainAgent:
    """
    Asks for bodies as they are, and takes them so.

    treq offers gzip and unpacks it without a limit; and servers say `Content-Encoding` of a .bz2
    file that nobody wants unpacked on the way.
    """

    def __init__(self, agent: IAgent, secure: bool = False) -> None:
        """:param secure: whether plain http is refused."""
        self._agent = agent
        self._allowed = (b"https://",) if secure else (b"https://", b"http://")

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """See `IAgent.request`; each redirect comes here too."""
        if not uri.startswith(self._allowed):
            return fail(ValueError(f"it leads to {uri[:80]!r}, which is not as safe"))
        headers = Headers() if headers is None else headers.copy()
        headers.setRawHeaders(b"Accept-Encoding", [b"identity"])
        return self._agent.request(method, uri, headers, bodyProducer).addCallback(
            _without_encoding
        )


def _without_encoding(response: IResponse) -> IResponse:
    response.headers.removeHeader(b"Content-Encoding")
    return response


@implementer(IAgent)
class BoundedAgent:
    """Cuts a server that sends without end before the headers of its answer are there."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """See `IAgent.request`."""
        endpoints = _BoundedEndpoints(self._reactor)
        # A connection of its own for each request: so it is known whose bytes are counted.
        pool = HTTPConnectionPool(self._reactor, persistent=False)
        agent = Agent.usingEndpointFactory(self._reactor, endpoints, pool)
        answer: Deferred[IResponse] = agent.request(method, uri, headers, bodyProducer)
        return answer.addCallback(endpoints.lift)


@implementer(IAgentEndpointFactory)
class _BoundedEndpoints:
    """Connects one request, and counts what it receives until its headers are there."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._left: int | None = MAX_HEADERS

    def lift(self, response: IResponse) -> IResponse:
        """Count no more: bodies have limits of their own."""
        self._left = None
        return response

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """See `IAgentEndpointFactory.endpointForURI`."""
        host = uri.host.decode("ascii")
        endpoint: IStreamClientEndpoint = HostnameEndpoint(
            self._reactor, host, uri.port, timeout=_CONNECT_TIMEOUT
        )
        endpoint = _Endpoint(endpoint, self)
        if uri.scheme == b"https":
            security = BrowserLikePolicyForHTTPS().creatorForNetloc(uri.host, uri.port)
            endpoint = wrapClientTLS(security, endpoint)
        return endpoint

    def bound(self, protocol: Any) -> Any:
        """Count what the protocol receives, and let the kernel take little ahead of it."""
        protocol.transport.getHandle().setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER
        )
        deliver = protocol.dataReceived

        def receive(data: bytes) -> None:
            if self._left is not None:
                self._left -= len(data)
                if self._left < 0:
                    protocol.transport.abortConnection()
                    return
            deliver(data)

        protocol.dataReceived = receive
        return protocol


@implementer(IStreamClientEndpoint)
class _Endpoint:
    def __init__(self, endpoint: IStreamClientEndpoint, bounds: _BoundedEndpoints) -> None:
        self._endpoint = endpoint
        self._bounds = bounds

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        return self._endpoint.connect(factory).addCallback(self._bounds.bound)
