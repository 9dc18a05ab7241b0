"""The HTTP client of the box: limited headers, bodies without decoding, no cookies."""

from collections.abc import Awaitable, Callable
from typing import Any

from attrs import Factory, evolve, frozen
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.web.http import FORBIDDEN, PROXY_AUTH_REQUIRED
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from opq_twisted.box.network.addresses import Reach
from opq_twisted.box.network.body import discard
from opq_twisted.box.network.connect import TooClose, reaches_of, resolve
from opq_twisted.box.network.connection import Connection, IdleConnections, Route
from opq_twisted.box.network.proxies import Proxies, Proxy
from opq_twisted.box.network.redirects import LocatedResponse, RedirectingAgent
from opq_twisted.box.network.tunnel import ProxyFailed, describe_status
from opq_twisted.box.network.urls import Url, read_url
from opq_twisted.http.reasons import reason_of
from opq_twisted.http.small_body import SmallBody

#: Response headers hidden from treq: it would decode the body, and keep the cookies.
_REMOVED_HEADERS = (b"Content-Encoding", b"Set-Cookie", b"Set-Cookie2")

#: Statuses with which a proxy refuses a request without contacting the server.
_PROXY_REFUSALS = (FORBIDDEN, PROXY_AUTH_REQUIRED)


@frozen
class HttpClients:
    """The treq clients of a box."""

    #: Follows no redirect.
    direct: HTTPClient
    #: Follows redirects, within the limits of `RedirectingAgent`. A request uses the connection of
    #: the last one, if the response was read completely and is not long ago.
    following: HTTPClient
    #: The connections of `following` that wait for another request.
    idle: IdleConnections = Factory(IdleConnections)


def make_http_clients(reactor: Any, proxies: Proxies | None = None) -> HttpClients:
    """Make the clients; `proxies` is None to use no proxy."""
    proxies = proxies or Proxies()
    idle = IdleConnections()
    redirecting = RedirectingAgent(reactor, BoundedAgent(reactor, proxies, idle))
    return HttpClients(
        HTTPClient(
            IdentityEncodingAgent(BoundedAgent(reactor, proxies).request),
            data_to_body_producer=SmallBody,
        ),
        HTTPClient(IdentityEncodingAgent(without_body(redirecting.request))),
        idle,
    )


def without_body(
    send: Callable[[bytes, bytes, Headers], Awaitable[IResponse]],
) -> Callable[[bytes, bytes, Headers, IBodyProducer | None], Awaitable[IResponse]]:
    """Adapt a function that sends requests without a body, such as those that are redirected."""
    return lambda method, uri, headers, _: send(method, uri, headers)


@implementer(IAgent)
@frozen
class IdentityEncodingAgent:
    """
    Requests bodies without a content coding, and hides the headers that treq acts on.

    treq accepts gzip and decompresses it without a limit. Some servers send `Content-Encoding` with
    a .bz2 file, which must stay compressed. treq also keeps cookies for the life of the client.
    """

    #: Sends a request: its method, URI, headers and body.
    _send: Callable[[bytes, bytes, Headers, IBodyProducer | None], Awaitable[IResponse]]

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
        return Deferred.fromCoroutine(self._request(method, uri, headers, bodyProducer))

    async def _request(
        self, method: bytes, uri: bytes, headers: Headers, body: IBodyProducer | None
    ) -> IResponse:
        response = await self._send(method, uri, headers, body)
        for name in _REMOVED_HEADERS:
            response.headers.removeHeader(name)
        return response


@frozen
class BoundedAgent:
    """Limits the size of response headers, and how close to the box a server may be."""

    _reactor: Any
    _proxies: Proxies = Factory(Proxies)
    #: Keeps connections for the next requests; None to use another one for each request.
    _idle: IdleConnections | None = None

    async def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        body: IBodyProducer | None = None,
    ) -> IResponse:
        """Send a request to a server that may be on the box itself; see `request_within`."""
        return (await self.request_within(method, uri, headers, body=body)).response

    async def request_within(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        closest: Reach = Reach.MACHINE,
        body: IBodyProducer | None = None,
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
        # The proxy may connect to any of the addresses.
        if proxy and closest < Reach.MACHINE and max(await self.reaches_of_name(url)) > closest:
            raise TooClose
        if proxy is not None and not url.secure:
            headers = _authorized(headers, proxy)
        connection = self._connection(Route(evolve(url, path=""), proxy, closest))
        try:
            response = await connection.request(method, uri, headers, body)
        except ProxyFailed:
            raise
        except Exception as error:
            if proxy is None or url.secure:
                raise
            # Only the proxy was contacted, so the server is not to blame.
            raise ProxyFailed(proxy, reason_of(error)) from None
        if proxy is not None and not url.secure and response.code in _PROXY_REFUSALS:
            discard(self._reactor, response)
            raise ProxyFailed(proxy, describe_status(response.code))
        return LocatedResponse(response, connection.reach)

    def _connection(self, route: Route) -> Connection:
        kept = self._idle.take(route) if self._idle is not None else None
        return kept or Connection(self._reactor, route, self._idle)

    async def reaches_of_name(self, url: Url) -> list[Reach]:
        """Classify each address of the URL's host; an unknown name counts as on the internet."""
        return reaches_of(await resolve(self._reactor, url.host, url.port))


def _authorized(headers: Headers | None, proxy: Proxy) -> Headers:
    headers = Headers() if headers is None else headers.copy()
    if proxy.authorization is not None:
        headers.setRawHeaders(b"Proxy-Authorization", [proxy.authorization])
    return headers
