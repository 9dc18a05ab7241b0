"""Connects to a proxy, and through its tunnel to a server (CONNECT, RFC 9110, section 9.3.6)."""

import re
from typing import Any, NoReturn, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.http import SWITCHING
from zope.interface import implementer

from opq_twisted.box.network.proxies import Proxy
from opq_twisted.box.network.urls import Url
from opq_twisted.http.reasons import reason_of

#: Maximum bytes of the proxy's response headers, including those of 1xx responses.
MAX_HEADERS = 16 * 1024

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: |\r\n)")


class ProxyFailed(Exception):
    """The server cannot be reached through the proxy."""

    def __init__(self, proxy: Proxy, reason: str) -> None:
        super().__init__(f"the proxy {proxy} failed: {reason}")
        self.proxy = proxy
        self.reason = reason


def describe_status(status: int) -> str:
    """Explain the status with which a proxy refuses a request."""
    if status == 407:
        return (
            "it requires a user name and a password, or refuses those it got (407); write them as "
            "http://USER:PASSWORD@HOST:PORT"
        )
    return f"it answers {status}" + (" (forbidden)" if status == 403 else "")


@implementer(IStreamClientEndpoint)
class ProxyEndpoint:
    """Connects to a proxy, and turns any error into `ProxyFailed`."""

    def __init__(self, endpoint: IStreamClientEndpoint, proxy: Proxy) -> None:
        self._endpoint = endpoint
        self._proxy = proxy

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint.connect`; fails with `ProxyFailed`."""
        return self._endpoint.connect(factory).addErrback(self._explain)

    def _explain(self, failure: Failure) -> NoReturn:
        failure.trap(Exception)
        assert isinstance(failure.value, Exception)
        raise ProxyFailed(self._proxy, reason_of(failure.value))


@implementer(IStreamClientEndpoint)
class TunnelEndpoint:
    """Connects to a server through a tunnel that the proxy opens."""

    def __init__(self, endpoint: IStreamClientEndpoint, proxy: Proxy, url: Url) -> None:
        """:param endpoint: a `ProxyEndpoint`, whose errors are passed on."""
        self._proxy = proxy
        self._endpoint = endpoint
        host = f"[{url.host}]" if ":" in url.host else url.host
        authority = f"{host}:{url.port}".encode()
        lines = [b"CONNECT %b HTTP/1.1" % authority, b"Host: %b" % authority]
        if proxy.authorization is not None:
            lines.append(b"Proxy-Authorization: %b" % proxy.authorization)
        self._request = b"\r\n".join([*lines, b"", b""])

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint.connect`; fails with `ProxyFailed` if no tunnel is opened."""
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        tunnel_factory = Factory.forProtocol(lambda: _Tunnel(self._request, self._proxy))
        # Do not log the start and the end of each connection.
        tunnel_factory.noisy = False
        tunnel = cast(_Tunnel, await self._endpoint.connect(tunnel_factory))
        leftover = await tunnel.opened
        protocol = factory.buildProtocol(tunnel.transport.getPeer())
        assert protocol is not None
        tunnel.hand_over(protocol, leftover)
        return protocol


class _Tunnel(Protocol):
    """Requests the tunnel, then hands the connection over to another protocol."""

    transport: ITCPTransport

    def __init__(self, request: bytes, proxy: Proxy) -> None:
        self._proxy = proxy
        self._request = request
        self._buffer = bytearray()
        self._received = 0
        self._inner: Any = None
        #: Fires with the bytes that arrived after the proxy's response. If it is cancelled, nobody
        #: reads its error: the client that cancels it raises another one.
        self.opened: Deferred[bytes] = Deferred(lambda _: self._fail("it has not answered yet"))

    def connectionMade(self) -> None:
        self.transport.write(self._request)

    def hand_over(self, protocol: IProtocol, leftover: bytes) -> None:
        """Give the connection, and the bytes received so far, to another protocol."""
        self._inner = protocol
        protocol.makeConnection(self.transport)
        if leftover:
            protocol.dataReceived(leftover)

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
        elif not self.opened.called:
            self._buffer += data
            self._received += len(data)
            self._read_headers()

    def _read_headers(self) -> None:
        """Read the headers of the final response, after any 1xx responses (RFC 9110, 15.2)."""
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            read = self._received - len(self._buffer) + end
            status = _STATUS.match(self._buffer)
            if read > MAX_HEADERS or status is None:
                break
            code = int(status[1])
            del self._buffer[: end + 4]
            if 200 <= code < 300:
                self.opened.callback(bytes(self._buffer))
                return
            if code >= 200 or code == SWITCHING:
                self._fail(describe_status(code))
                return
        if end >= 0 or self._received > MAX_HEADERS:
            self._fail("it does not answer as a proxy")

    def _fail(self, reason: str) -> None:
        self.opened.errback(ProxyFailed(self._proxy, reason))
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._inner is not None:
            self._inner.connectionLost(reason)
        elif not self.opened.called:
            self.opened.errback(ProxyFailed(self._proxy, "it closed the connection"))
