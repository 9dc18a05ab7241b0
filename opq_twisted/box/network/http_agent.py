"""The HTTP client of the box: limited headers, bodies without decoding, no cookies."""

import socket
from collections.abc import Awaitable, Callable
from typing import Any

from attrs import Factory, frozen
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.web.client import URI, Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool, ProxyAgent
from twisted.web.http import FORBIDDEN, PROXY_AUTH_REQUIRED
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from opq_twisted.box.network.addresses import Reach
from opq_twisted.box.network.body import discard
from opq_twisted.box.network.connect import ReachLimitedEndpoint, TooClose, reaches_of, resolve
from opq_twisted.box.network.proxies import Proxies, Proxy
from opq_twisted.box.network.reasons import reason_of
from opq_twisted.box.network.redirects import LocatedResponse, RedirectingAgent
from opq_twisted.box.network.tunnel import (
    ProxyEndpoint,
    ProxyFailed,
    TunnelEndpoint,
    describe_status,
)
from opq_twisted.box.network.urls import Url, read_url

#: Bytes that a server may send until the headers of its response are complete, including whatever
#: arrives with them. Twisted limits the length of a header, but not their number.
MAX_HEADERS = 256 * 1024

#: SO_RCVBUF in bytes; the kernel doubles it for its own needs. By default the kernel buffers
#: megabytes while the disk is slow, and all of them are lost if the connection breaks. With this
#: size, a server 50 ms away can send 2.6 MB/s.
_RECEIVE_BUFFER = 128 * 1024

#: Response headers hidden from treq: it would decode the body, and keep the cookies.
_REMOVED_HEADERS = (b"Content-Encoding", b"Set-Cookie", b"Set-Cookie2")

#: Statuses with which a proxy refuses a request without contacting the server.
_PROXY_REFUSALS = (FORBIDDEN, PROXY_AUTH_REQUIRED)


@frozen
class HttpClients:
    """The treq clients of a box."""

    #: Follows no redirect.
    direct: HTTPClient
    #: Follows redirects, within the limits of `RedirectingAgent`.
    following: HTTPClient


def make_http_clients(reactor: Any, proxies: Proxies | None = None) -> HttpClients:
    """Make the clients; `proxies` is None to use no proxy."""
    agent = BoundedAgent(reactor, proxies or Proxies())
    return HttpClients(
        HTTPClient(IdentityEncodingAgent(agent.request)),
        HTTPClient(IdentityEncodingAgent(RedirectingAgent(reactor, agent).request)),
    )


@implementer(IAgent)
@frozen
class IdentityEncodingAgent:
    """
    Requests bodies without a content coding, and hides the headers that treq acts on.

    treq accepts gzip and decompresses it without a limit. Some servers send `Content-Encoding` with
    a .bz2 file, which must stay compressed. treq also keeps cookies for the life of the client.
    """

    #: Sends a request: its method, URI and headers.
    _send: Callable[[bytes, bytes, Headers], Awaitable[IResponse]]

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """See `IAgent.request`."""
        headers = Headers() if headers is None else headers.copy()
        headers.setRawHeaders(b"Accept-Encoding", [b"identity"])
        return Deferred.fromCoroutine(self._request(method, uri, headers))

    async def _request(self, method: bytes, uri: bytes, headers: Headers) -> IResponse:
        response = await self._send(method, uri, headers)
        for name in _REMOVED_HEADERS:
            response.headers.removeHeader(name)
        return response


class _QuietFactory(HTTPConnectionPool._factory):  # type: ignore[misc, valid-type]
    """Does not log the start and the end of each connection."""

    noisy = False


class _QuietPool(HTTPConnectionPool):
    _factory = _QuietFactory


@frozen
class BoundedAgent:
    """Limits the size of response headers, and how close to the box a server may be."""

    _reactor: Any
    _proxies: Proxies = Factory(Proxies)

    async def request(self, method: bytes, uri: bytes, headers: Headers | None = None) -> IResponse:
        """Send a request to a server that may be on the box itself; see `request_within`."""
        return (await self.request_within(method, uri, headers)).response

    async def request_within(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        closest: Reach = Reach.MACHINE,
    ) -> LocatedResponse:
        """
        Send a request, unless the server is closer to the box than a limit.

        A proxy resolves the name itself and connects to an address of its own choice. The limit
        then applies to the addresses, if any, that the box itself resolves the name to.

        :raises TooClose: if the server is closer than `closest`.
        :raises ProxyFailed: if the proxy fails or refuses the request.
        """
        url = read_url(uri.decode("ascii"))
        proxy = self._proxies.find(url)
        connection = _Connection(self._reactor, url, proxy, closest)
        # One connection per request, so that its bytes can be counted.
        pool = _QuietPool(self._reactor, persistent=False)
        if proxy is None or url.secure:
            agent: IAgent = Agent.usingEndpointFactory(self._reactor, connection, pool)
        else:
            agent = ProxyAgent(connection.endpoint(), self._reactor, pool)
            headers = _authorized(headers, proxy)
        # The proxy may connect to any of the addresses.
        if proxy and closest < Reach.MACHINE and max(await self.reaches_of_name(url)) > closest:
            raise TooClose
        try:
            response = await agent.request(method, uri, headers)
        except ProxyFailed:
            raise
        except Exception as error:
            if proxy is None or url.secure:
                raise
            # Only the proxy was contacted, so the server is not to blame.
            raise ProxyFailed(proxy, reason_of(error)) from None
        connection.stop_counting()
        if proxy is not None and not url.secure and response.code in _PROXY_REFUSALS:
            discard(self._reactor, response)
            raise ProxyFailed(proxy, describe_status(response.code))
        return LocatedResponse(response, connection.reach)

    async def reaches_of_name(self, url: Url) -> list[Reach]:
        """Classify each address of the URL's host; an unknown name counts as on the internet."""
        return reaches_of(await resolve(self._reactor, url.host, url.port))


def _authorized(headers: Headers | None, proxy: Proxy) -> Headers:
    headers = Headers() if headers is None else headers.copy()
    if proxy.authorization is not None:
        headers.setRawHeaders(b"Proxy-Authorization", [proxy.authorization])
    return headers


@implementer(IAgentEndpointFactory)
class _Connection:
    """Connects one request, and limits the bytes received until its headers are complete."""

    def __init__(self, reactor: Any, url: Url, proxy: Proxy | None, closest: Reach) -> None:
        #: Bytes that may still arrive; None for no limit.
        self._remaining: int | None = MAX_HEADERS
        self._url = url
        self._proxy = proxy
        first_hop = url if proxy is None else proxy
        self._first_hop = ReachLimitedEndpoint(
            reactor, first_hop.host, first_hop.port, closest if proxy is None else Reach.MACHINE
        )

    @property
    def reach(self) -> Reach | None:
        """How close the server is; None behind a proxy."""
        return self._first_hop.reach if self._proxy is None else None

    def stop_counting(self) -> None:
        """Remove the limit: the headers are complete, and bodies have limits of their own."""
        self._remaining = None

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """See `IAgentEndpointFactory.endpointForURI`."""
        return self.endpoint()

    def endpoint(self) -> IStreamClientEndpoint:
        """Return the endpoint of the server; for plain http behind a proxy, that of the proxy."""
        url, proxy = self._url, self._proxy
        endpoint: IStreamClientEndpoint = _PreparedEndpoint(self._first_hop, self._limit)
        if proxy is not None:
            if proxy.secure:
                endpoint = _tls(endpoint, proxy.host, proxy.port)
            endpoint = ProxyEndpoint(endpoint, proxy)
            if url.secure:
                endpoint = TunnelEndpoint(endpoint, proxy, url)
        return _tls(endpoint, url.host, url.port) if url.secure else endpoint

    def _limit(self, protocol: Any) -> None:
        """Count the bytes that the protocol receives, and shrink the kernel's buffer."""
        protocol.transport.getHandle().setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER
        )
        deliver = protocol.dataReceived

        def receive(data: bytes) -> None:
            if self._remaining is not None:
                self._remaining -= len(data)
                if self._remaining < 0:
                    protocol.transport.abortConnection()
                    return
            deliver(data)

        protocol.dataReceived = receive


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
