"""Reaches a server through a proxy's tunnel (CONNECT, RFC 9110, section 9.3.6)."""

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
from opq_twisted.box.network.reasons import reason_of
from opq_twisted.box.network.urls import Url

#: Bytes of the head of a proxy's answer, with those of interim answers.
MAX_HEAD = 16 * 1024

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: |\r\n)")


class ProxyFailed(Exception):
    """A proxy does not bring the box to its server."""

    def __init__(self, proxy: Proxy, reason: str) -> None:
        super().__init__(f"the proxy {proxy} is of no help: {reason}")
        self.proxy = proxy
        self.reason = reason


def refusal(status: int) -> str:
    """Word a proxy's refusal."""
    if status == 407:
        return (
            "it asks for a user name and a password, or refuses those it got (407); write them as "
            "http://USER:PASSWORD@HOST:PORT"
        )
    return f"it answers {status}" + (" (forbidden)" if status == 403 else "")


@implementer(IStreamClientEndpoint)
class ProxyEndpoint:
    """Connects to a proxy, and says so when that fails."""

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
    """Connects to a server through a proxy."""

    def __init__(self, endpoint: IStreamClientEndpoint, proxy: Proxy, url: Url) -> None:
        """:param endpoint: connects to the proxy."""
        self._proxy = proxy
        self._endpoint = endpoint
        host = f"[{url.host}]" if ":" in url.host else url.host
        authority = f"{host}:{url.port}".encode()
        lines = [b"CONNECT %b HTTP/1.1" % authority, b"Host: %b" % authority]
        if proxy.authorization is not None:
            lines.append(b"Proxy-Authorization: %b" % proxy.authorization)
        self._request = b"\r\n".join([*lines, b"", b""])

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint.connect`; fails with `ProxyFailed`."""
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        opening = Factory.forProtocol(lambda: _Tunnel(self._request, self._proxy))
        # It would log a line at the beginning and at the end of each connection.
        opening.noisy = False
        tunnel = cast(_Tunnel, await self._endpoint.connect(opening))
        early = await tunnel.opened
        protocol = factory.buildProtocol(tunnel.transport.getPeer())
        assert protocol is not None
        tunnel.carry(protocol, early)
        return protocol


class _Tunnel(Protocol):
    """Asks for the tunnel, and then carries another protocol."""

    transport: ITCPTransport

    def __init__(self, request: bytes, proxy: Proxy) -> None:
        self._proxy = proxy
        self._request = request
        self._head = bytearray()
        self._received = 0
        self._carried: Any = None
        #: Fires with the bytes that came through the open tunnel already.
        self.opened: Deferred[bytes] = Deferred(lambda _: self._fail("it has not answered yet"))

    def connectionMade(self) -> None:
        self.transport.write(self._request)

    def carry(self, protocol: IProtocol, early: bytes) -> None:
        """Let a protocol have the connection."""
        self._carried = protocol
        protocol.makeConnection(self.transport)
        if early:
            protocol.dataReceived(early)

    def dataReceived(self, data: bytes) -> None:
        if self._carried is not None:
            self._carried.dataReceived(data)
        elif not self.opened.called:
            self._head += data
            self._received += len(data)
            self._read_heads()

    def _read_heads(self) -> None:
        """Read the head of the answer, behind those of interim answers (RFC 9110, 15.2)."""
        while (end := self._head.find(b"\r\n\r\n")) >= 0:
            read = self._received - len(self._head) + end
            status = _STATUS.match(self._head)
            if read > MAX_HEAD or status is None:
                break
            code = int(status[1])
            del self._head[: end + 4]
            if 200 <= code < 300:
                self.opened.callback(bytes(self._head))
                return
            if code >= 200 or code == SWITCHING:
                self._fail(refusal(code))
                return
        if end >= 0 or self._received > MAX_HEAD:
            self._fail("it does not answer as a proxy")

    def _fail(self, reason: str) -> None:
        self.opened.errback(ProxyFailed(self._proxy, reason))
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._carried is not None:
            self._carried.connectionLost(reason)
        elif not self.opened.called:
            self.opened.errback(ProxyFailed(self._proxy, "it closed the connection"))
