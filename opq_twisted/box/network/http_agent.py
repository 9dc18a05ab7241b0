"""The HTTP client of the box: bounded headers, plain bodies, and nothing kept of an answer."""

import socket
from collections.abc import Callable
from typing import Any

from attrs import frozen
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.web.client import (
    URI,
    Agent,
    BrowserLikePolicyForHTTPS,
    HTTPConnectionPool,
    ProxyAgent,
)
from twisted.web.http import FORBIDDEN, PROXY_AUTH_REQUIRED
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from opq_twisted.box.network.addresses import Reach
from opq_twisted.box.network.body import discard
from opq_twisted.box.network.connect import ReachLimitedEndpoint, TooClose, reaches_of, resolve
from opq_twisted.box.network.proxies import Proxies, Proxy
from opq_twisted.box.network.reasons import reason_of
from opq_twisted.box.network.redirects import Answer, RedirectingAgent
from opq_twisted.box.network.tunnel import ProxyEndpoint, ProxyFailed, TunnelEndpoint, refusal
from opq_twisted.box.network.urls import Url, read_url

#: Bytes that a server may send until the headers of its answer are there, with what comes in the
#: same piece; Twisted bounds a line of them, and not their number.
MAX_HEADERS = 256 * 1024

#: Bytes that the kernel takes ahead of us (it doubles them, for what it needs itself). By default
#: it takes megabytes while the disk is slow, and whoever is cut then has fetched them for nothing.
#: So much in each round trip is 2.6 MB a second from a server that is 50 ms away.
_RECEIVE_BUFFER = 128 * 1024

#: Headers of an answer that are of no use to the box: how the body is packed, for it is taken as
#: it is, and what treq would keep for the next request.
_LEFT_OUT = (b"Content-Encoding", b"Set-Cookie", b"Set-Cookie2")

#: Statuses by which a proxy refuses a request, before a server has been asked.
_REFUSED_BY_PROXY = (FORBIDDEN, PROXY_AUTH_REQUIRED)


@frozen
class HttpClients:
    """The treq clients of a box."""

    #: Follows no redirect.
    direct: HTTPClient
    #: Follows redirects, as far as a server may lead a box.
    following: HTTPClient


def make_http_clients(reactor: Any, proxies: Proxies | None = None) -> HttpClients:
    """
    Make the clients.

    :param proxies: None for none.
    """
    agent = BoundedAgent(reactor, proxies or Proxies())
    return HttpClients(
        HTTPClient(IdentityEncodingAgent(agent)),
        HTTPClient(IdentityEncodingAgent(RedirectingAgent(reactor, agent))),
    )


@implementer(IAgent)
class IdentityEncodingAgent:
    """
    Asks for bodies as they are, and takes them so; leaves out of an answer what would be kept.

    treq offers gzip and unpacks it without a limit; and servers say `Content-Encoding` of a .bz2
    file that nobody wants unpacked on the way. It also keeps cookies for as long as it lives.
    """

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

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
        return self._agent.request(method, uri, headers, bodyProducer).addCallback(_plain)


def _plain(response: IResponse) -> IResponse:
    for name in _LEFT_OUT:
        response.headers.removeHeader(name)
    return response


class _QuietFactory(HTTPConnectionPool._factory):  # type: ignore[misc, valid-type]
    """Logs no line at the beginning and at the end of each connection."""

    noisy = False


class _QuietPool(HTTPConnectionPool):
    _factory = _QuietFactory


@implementer(IAgent)
class BoundedAgent:
    """Cuts a server that sends without end before the headers of its answer are there."""

    def __init__(self, reactor: Any, proxies: Proxies | None = None) -> None:
        self._reactor = reactor
        self._proxies = proxies or Proxies()

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """See `IAgent.request`."""
        asking = Deferred.fromCoroutine(self.ask(method, uri, headers))
        return asking.addCallback(lambda answer: answer.response)

    async def ask(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        most: Reach = Reach.MACHINE,
    ) -> Answer:
        """
        Ask a server that is no closer to the box than it may be.

        A proxy connects to addresses of its own choice. So the addresses are judged then that the
        box finds for the name, if it finds any.

        :raises TooClose: if it is closer.
        :raises ProxyFailed: if the proxy does not let the box through.
        """
        url = read_url(uri.decode("ascii"))
        proxy = self._proxies.find(url)
        connection = _Connection(self._reactor, url, proxy, most)
        # A connection of its own for each request: so it is known whose bytes are counted.
        pool = _QuietPool(self._reactor, persistent=False)
        if proxy is None or url.secure:
            agent: IAgent = Agent.usingEndpointFactory(self._reactor, connection, pool)
        else:
            agent = ProxyAgent(connection.endpoint(), self._reactor, pool)
            headers = _authorized(headers, proxy)
        # The proxy takes whichever of the addresses it likes.
        if proxy and most < Reach.MACHINE and max(await self.reaches_of_name(url)) > most:
            raise TooClose
        try:
            response = await agent.request(method, uri, headers)
        except ProxyFailed:
            raise
        except Exception as error:
            if proxy is None or url.secure:
                raise
            # Nobody else was asked, and a proxy in the way is not looked for at the server.
            raise ProxyFailed(proxy, reason_of(error)) from None
        connection.lift()
        if proxy is not None and not url.secure and response.code in _REFUSED_BY_PROXY:
            discard(self._reactor, response)
            raise ProxyFailed(proxy, refusal(response.code))
        return Answer(response, connection.reach)

    async def reaches_of_name(self, url: Url) -> list[Reach]:
        """See `Asker.reaches_of_name`."""
        return reaches_of(await resolve(self._reactor, url.host, url.port))


def _authorized(headers: Headers | None, proxy: Proxy) -> Headers:
    headers = Headers() if headers is None else headers.copy()
    if proxy.authorization is not None:
        headers.setRawHeaders(b"Proxy-Authorization", [proxy.authorization])
    return headers


@implementer(IAgentEndpointFactory)
class _Connection:
    """Connects one request, and counts what it receives until its headers are there."""

    def __init__(self, reactor: Any, url: Url, proxy: Proxy | None, most: Reach) -> None:
        self._left: int | None = MAX_HEADERS
        self._url = url
        self._proxy = proxy
        place = url if proxy is None else proxy
        self._near = ReachLimitedEndpoint(
            reactor, place.host, place.port, most if proxy is None else Reach.MACHINE
        )

    @property
    def reach(self) -> Reach | None:
        """How close the server is; None if a proxy connects to it."""
        return self._near.reach if self._proxy is None else None

    def lift(self) -> None:
        """Count no more: bodies have limits of their own."""
        self._left = None

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """See `IAgentEndpointFactory.endpointForURI`."""
        return self.endpoint()

    def endpoint(self) -> IStreamClientEndpoint:
        """Give what connects to the server, or to the proxy that asks it."""
        url, proxy = self._url, self._proxy
        endpoint: IStreamClientEndpoint = _Prepared(self._near, self._bound)
        if proxy is not None:
            if proxy.secure:
                endpoint = _tls(endpoint, proxy.host, proxy.port)
            endpoint = ProxyEndpoint(endpoint, proxy)
            if url.secure:
                endpoint = TunnelEndpoint(endpoint, proxy, url)
        return _tls(endpoint, url.host, url.port) if url.secure else endpoint

    def _bound(self, protocol: Any) -> None:
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


def _tls(endpoint: IStreamClientEndpoint, host: str, port: int) -> IStreamClientEndpoint:
    name = host.removesuffix(".").encode("ascii")
    security = BrowserLikePolicyForHTTPS().creatorForNetloc(name, port)
    return _Prepared(wrapClientTLS(security, endpoint), _end_at_once)


def _end_at_once(protocol: Any) -> None:
    """Close a TLS connection without waiting for the other side to agree: it might never do so."""
    protocol.transport.loseConnection = protocol.transport.abortConnection


@implementer(IStreamClientEndpoint)
class _Prepared:
    """Prepares each connection that is made."""

    def __init__(
        self, endpoint: IStreamClientEndpoint, prepare: Callable[[IProtocol], None]
    ) -> None:
        self._endpoint = endpoint
        self._prepare = prepare

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        return self._endpoint.connect(factory).addCallback(self._prepared)

    def _prepared(self, protocol: IProtocol) -> IProtocol:
        self._prepare(protocol)
        return protocol
