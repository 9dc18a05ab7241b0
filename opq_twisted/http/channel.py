"""A client's connection, with a limit on every size and every wait."""

import ipaddress
from collections.abc import Callable
from math import inf
from typing import Any, Protocol

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IReactorTime,
    ISSLTransport,
    ITCPTransport,
)
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Request
from zope.interface import implementer

#: Pipelined requests of one connection that are answered in one turn of the reactor.
_PIPELINED = 4

#: Seconds within which the next request of a connection must arrive completely.
_REQUEST_TIMEOUT = 60

#: Seconds that a connection gets to close normally before it is reset.
_CLOSE_TIMEOUT = 15

#: Bytes that a client may still send after its request was refused, and the seconds it has for it.
_MAX_DRAINED = 1024 * 1024
_DRAIN_TIMEOUT = 5


class _Site(Protocol):
    """The part of a site that channels and requests use. They must not import the site."""

    reactor: IReactorTime

    def date(self) -> bytes: ...
    def connected(self, channel: "BoundedChannel") -> None: ...
    def disconnected(self, channel: "BoundedChannel") -> None: ...
    def refused(self, status: int) -> None: ...
    def ended(self, request: Any, *, whole: bool) -> None: ...
    def getResourceFor(self, request: Request) -> IResource: ...


@implementer(IHalfCloseableProtocol)
class BoundedChannel(HTTPChannel):
    """
    A connection that refuses requests that are too large, and that always has a deadline.

    The deadline is a number that the site compares with the clock twice a second: ten thousand
    numbers cost less than ten thousand timers. A client cannot extend it by sending a byte now and
    then.
    """

    site: _Site
    #: The transport of TCP, TLS, or any other endpoint.
    transport: Any

    #: The client whose connections are counted together; None if only the total limit applies.
    client: str | None = None
    #: The client's IP address; None if `client` is None.
    address: str | None = None

    #: The time at which `overdue` is called, by the reactor's clock (seconds).
    deadline = inf
    #: The function that is called at the deadline.
    overdue: Callable[[], None]

    #: Bytes discarded since the connection stopped accepting requests; None while it accepts them.
    _drained: int | None = None
    #: Whether the transport's buffer is full, because the client does not read the responses.
    _is_blocked = False
    #: How many of the pipelined requests have been answered in this turn.
    _answered = 0
    _peer: IAddress | None = None
    _host: IAddress | None = None
    #: Whether the client has closed its sending side, while requests wait to be answered.
    _is_half_closed = False

    def connectionMade(self) -> None:
        """Start the deadline of the first request."""
        super().connectionMade()
        self.set_deadline(_REQUEST_TIMEOUT, self.close)
        self.site.connected(self)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Clear the deadline, and tell the site."""
        self.deadline = inf
        self._drained = 0
        self.site.disconnected(self)
        super().connectionLost(reason)
        # It refers to this channel: without this, only the garbage collector would free the memory.
        del self.overdue

    def getPeer(self) -> IAddress:
        """Give the client's address. It is cached: Twisted asks for it with each request."""
        if self._peer is None:
            self._peer = _without_mapping(self.transport.getPeer())
        return self._peer

    def getHost(self) -> IAddress:
        """Give the address that the client connected to."""
        if self._host is None:
            self._host = self.transport.getHost()
        return self._host

    def set_deadline(self, seconds: float, overdue: Callable[[], None]) -> None:
        """Call `overdue` after so many seconds. This replaces the deadline before."""
        self.deadline = self.site.reactor.seconds() + seconds
        self.overdue = overdue

    def close(self) -> None:
        """Close normally, or by a reset if that takes too long."""
        # Over TLS, data still arrives while the connection closes. It must not count as a request.
        self._drained = self._drained or 0
        self.set_deadline(_CLOSE_TIMEOUT, self.abort)
        self.loseConnection()

    def abort(self) -> None:
        """Reset the connection. Data that has not been sent is lost."""
        self.transport.abortConnection()

    def reset(self) -> None:
        """
        Reset the connection, and free its file descriptor before this returns.

        `abortConnection` frees the descriptor only in the reactor's next turn. Until then, a burst
        of connections would use up all descriptors.
        """
        self.abort()
        self._socket.connectionLost(Failure(ConnectionAborted()))

    def descriptor(self) -> int:
        """Give the number of the connection's file descriptor."""
        return int(self._socket.fileno())

    @property
    def _socket(self) -> Any:
        """The transport that owns the socket, below TLS or a similar protocol."""
        transport = self.transport
        while isinstance(transport, ProtocolWrapper):
            transport = transport.transport
        return transport

    def readConnectionLost(self) -> None:
        """Answer the requests that have arrived: the client sends no more, but may still read."""
        if self.paused:
            self._is_half_closed = True
        elif self.requests and self.requests[0].startedWriting:
            self.persistent = False
        else:
            self.loseConnection()

    def writeConnectionLost(self) -> None:
        """Do nothing: after a refusal there is nothing left to send."""

    def dataReceived(self, data: bytes) -> None:
        """Parse data from the client, or discard it after a refusal."""
        if self._drained is None:
            self._answered = 0
            super().dataReceived(data)
            return
        self._drained += len(data)
        if self._drained > _MAX_DRAINED:
            self.abort()

    def lineReceived(self, line: bytes) -> None:
        """Parse a line, unless a request was refused earlier in the same data."""
        if self._drained is None:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a request line or a header that is too long."""
        self.refuse(
            b"431 Request Header Fields Too Large" if self.requests else b"414 URI Too Long"
        )

    def allContentReceived(self) -> None:
        """Answer the request, unless it was refused before it had arrived completely."""
        if self._drained is None:
            self.deadline = inf
            super().allContentReceived()

    def requestDone(self, request: Request) -> None:
        """
        Wait for the next request, or pause before the next of the pipelined ones.

        Without the pause, a client that sends many requests at once would delay all other clients,
        and would fill the memory with responses that it does not read.
        """
        self._answered += 1
        if self._drained is None:
            self.set_deadline(_REQUEST_TIMEOUT, self.close)
        if self.persistent and (self._is_blocked or self._answered == _PIPELINED):
            self.paused = True
            super().requestDone(request)
            self.transport.pauseProducing()
            if not self._is_blocked:
                self.site.reactor.callLater(0, self._resume_pipeline)
        else:
            super().requestDone(request)

    def pauseProducing(self) -> None:
        """Remember that the transport's buffer is full."""
        self._is_blocked = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """Continue: the transport's buffer is empty again."""
        self._is_blocked = False
        super().resumeProducing()
        self._resume_pipeline()

    def _resume_pipeline(self) -> None:
        """Continue with the pipelined requests."""
        if not self.paused or self._drained is not None:
            return
        if self._is_blocked:
            # Meanwhile another response has filled the buffer.
            self.transport.pauseProducing()
            return
        self.paused = False
        self.transport.resumeProducing()
        self.dataReceived(b"")
        if self._is_half_closed:
            self.readConnectionLost()

    def headerReceived(self, line: bytes) -> bool:
        """Parse a header, but refuse one that leaves the end of the body in doubt."""
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        # Twisted ignores the coding `identity`, and would parse such a body as the next request
        # (RFC 9112, section 6.3). Python does not convert numbers of thousands of digits.
        if (name == b"transfer-encoding" and value.lower() != b"chunked") or (
            name == b"content-length" and len(value) > 20
        ):
            self.refuse(b"400 Bad Request")
            return False
        return bool(super().headerReceived(line))

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Decide whether the connection stays open after this request (RFC 9112, section 9.3)."""
        headers = request.requestHeaders.getRawHeaders(b"Connection", ())
        options = [option.strip().lower() for option in b",".join(headers).split(b",")]
        if version == b"HTTP/1.1" and b"close" not in options:
            return True
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return False

    def _respondToBadRequestAndDisconnect(self) -> None:
        # Twisted would close at once. That can reset the connection: see `refuse`.
        self.refuse(b"400 Bad Request")

    def refuse(self, status: bytes) -> None:
        """Answer an incomplete request with an error status, and close the connection."""
        if self._drained is not None:
            return
        self._drained = 0
        self.set_deadline(_DRAIN_TIMEOUT, self.abort)
        self.site.refused(int(status[:3]))
        # A registered producer would be asked for more before the transport closes.
        self.transport.unregisterProducer()
        self.transport.write(
            b"HTTP/1.1 %s\r\nDate: %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            % (status, self.site.date())
        )
        is_tls = ISSLTransport.providedBy(self.transport)
        if ITCPTransport.providedBy(self.transport) and not is_tls:
            # Closing while input is unread would reset the connection, and lose the response.
            self.transport.loseWriteConnection()
        else:
            self.loseConnection()


def _without_mapping(address: IAddress) -> IAddress:
    """Turn an IPv4-mapped IPv6 address into the IPv4 address (RFC 4291, section 2.5.5.2)."""
    if isinstance(address, IPv6Address):
        mapped = ipaddress.IPv6Address(address.host.partition("%")[0]).ipv4_mapped
        if mapped is not None:
            return IPv4Address(address.type, str(mapped), address.port)
    return address
