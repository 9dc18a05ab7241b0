"""A client's connection, bounded in every size and every wait."""

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

#: Requests of one connection that are answered before the reactor turns to others.
_PIPELINED = 4

#: Seconds in which a connection's next request must have arrived whole.
_REQUEST_TIMEOUT = 60

#: Seconds that a connection gets to close in good order before it is reset.
_CLOSE_TIMEOUT = 15

#: What a client whose request was refused may still send, and for how many seconds.
_MAX_DRAINED = 1024 * 1024
_DRAIN_TIMEOUT = 5


class ChannelSite(Protocol):
    """The methods of a site that its channels, and their requests, call."""

    reactor: IReactorTime

    def date(self) -> bytes:
        """Give the value of the Date header."""

    def connected(self, channel: "BoundedChannel") -> None:
        """Count a new connection."""

    def disconnected(self, channel: "BoundedChannel") -> None:
        """Count one less."""

    def refused(self, status: int) -> None:
        """Report a malformed request that was answered with `status`."""

    def ended(self, request: Any, *, whole: bool) -> None:
        """Report the end of a request."""

    def getResourceFor(self, request: Request) -> IResource:
        """Find the resource of a request."""


@implementer(IHalfCloseableProtocol)
class BoundedChannel(HTTPChannel):
    """
    A connection that answers what is too large, and on which nothing lasts for ever.

    A connection has one deadline at a time. It is a number that the site looks at every so often:
    ten thousand of them cost less than as many timers, and a request moves none. A client cannot
    put it off by sending a byte now and then.
    """

    site: ChannelSite
    #: TCP, TLS, or whatever the endpoint gives.
    transport: Any

    #: Who has a share of what is bounded; None for whom only the total counts.
    client: str | None = None
    #: Its address; None where `client` is.
    address: str | None = None

    #: When `overdue` is called, by the reactor's clock (seconds).
    deadline = inf
    #: What happens at the deadline.
    overdue: Callable[[], None]

    #: Bytes that were thrown away since no request is taken any more; None while they are.
    _drained: int | None = None
    #: Whether the client has yet to take what was answered.
    _behind = False
    #: How many of the requests that came together are answered.
    _answers = 0
    _peer: IAddress | None = None
    _host: IAddress | None = None
    #: Whether the client sends no more, and waits for answers only.
    _ending = False

    def connectionMade(self) -> None:
        """Begin to wait for a request."""
        super().connectionMade()
        self.set_deadline(_REQUEST_TIMEOUT, self.close)
        self.site.connected(self)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Let go of all that waited for this connection."""
        self.deadline = inf
        self._drained = 0
        self.site.disconnected(self)
        super().connectionLost(reason)

    def getPeer(self) -> IAddress:
        """The client's address; it is asked for with each request, and stays what it is."""
        if self._peer is None:
            self._peer = _without_mapping(self.transport.getPeer())
        return self._peer

    def getHost(self) -> IAddress:
        """The address that the client connected to."""
        if self._host is None:
            self._host = self.transport.getHost()
        return self._host

    def set_deadline(self, seconds: float, overdue: Callable[[], None]) -> None:
        """Call `overdue` when so many seconds have passed, in the place of an earlier deadline."""
        self.deadline = self.site.reactor.seconds() + seconds
        self.overdue = overdue

    def close(self) -> None:
        """Close in good order, or by a reset if that takes too long."""
        # TLS goes on giving what the client sends, which must not count as a request any more.
        self._drained = self._drained or 0
        self.set_deadline(_CLOSE_TIMEOUT, self.abort)
        self.loseConnection()

    def abort(self) -> None:
        """Reset the connection: what was not sent yet is lost."""
        self.transport.abortConnection()

    def reset(self) -> None:
        """
        Reset the connection, and free its descriptor before this returns.

        `abortConnection` frees it in the reactor's next turn: until then a burst of connections
        would use up all descriptors.
        """
        self.abort()
        self._socket.connectionLost(Failure(ConnectionAborted()))

    def descriptor(self) -> int:
        """Tell the number of the connection's descriptor."""
        number: int = self._socket.fileno()
        return number

    @property
    def _socket(self) -> Any:
        """The transport that has the socket, below TLS or the like."""
        transport = self.transport
        while isinstance(transport, ProtocolWrapper):
            transport = transport.transport
        return transport

    def readConnectionLost(self) -> None:
        """Give the answers that are due: the client sends no more, but may still read."""
        if self.paused:
            self._ending = True
        elif self.requests and self.requests[0].startedWriting:
            self.persistent = False
        else:
            self.loseConnection()

    def writeConnectionLost(self) -> None:
        """Nothing is left to be sent after a refusal."""

    def dataReceived(self, data: bytes) -> None:
        """Take data from the client, or throw it away after a refusal."""
        if self._drained is None:
            self._answers = 0
            super().dataReceived(data)
            return
        self._drained += len(data)
        if self._drained > _MAX_DRAINED:
            self.abort()

    def lineReceived(self, line: bytes) -> None:
        """Take a line of a request, unless it came together with what was refused."""
        if self._drained is None:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Answer a request line, or a header, that is longer than any of ours."""
        self.refuse(
            b"431 Request Header Fields Too Large" if self.requests else b"414 URI Too Long"
        )

    def allContentReceived(self) -> None:
        """Answer the request, unless it was refused before it had arrived whole."""
        if self._drained is None:
            self.deadline = inf
            super().allContentReceived()

    def requestDone(self, request: Request) -> None:
        """
        Wait for the next request; with those that came with this one, wait until it is their turn.

        Whoever sends many requests at once would otherwise keep all others waiting, and fill the
        memory with answers that are not read.
        """
        self._answers += 1
        if self._drained is None:
            self.set_deadline(_REQUEST_TIMEOUT, self.close)
        if self.persistent and (self._behind or self._answers == _PIPELINED):
            self.paused = True
            super().requestDone(request)
            self.transport.pauseProducing()
            if not self._behind:
                self.site.reactor.callLater(0, self._go_on)
        else:
            super().requestDone(request)

    def pauseProducing(self) -> None:
        """Remember that the client takes no more for now."""
        self._behind = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """Go on: the client has taken what there was."""
        self._behind = False
        super().resumeProducing()
        self._go_on()

    def _go_on(self) -> None:
        """Turn to the requests that came with those that are answered."""
        if not self.paused or self._drained is not None:
            return
        if self._behind:
            # Another answer was given meanwhile, and is more than the client takes.
            self.transport.pauseProducing()
            return
        self.paused = False
        self.transport.resumeProducing()
        self.dataReceived(b"")
        if self._ending:
            self.readConnectionLost()

    def headerReceived(self, line: bytes) -> bool:
        """Take a line of the header, unless it tells of a body whose end nobody can be sure of."""
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        # Twisted ignores `identity`, and would take such a body for the next request (RFC 9112,
        # section 6.3). Python does not read numbers of thousands of digits.
        if (name == b"transfer-encoding" and value.lower() != b"chunked") or (
            name == b"content-length" and len(value) > 20
        ):
            self.refuse(b"400 Bad Request")
            return False
        received: bool = super().headerReceived(line)
        return received

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Whether the connection lasts beyond this request (RFC 9112, section 9.3)."""
        headers = request.requestHeaders.getRawHeaders(b"Connection", ())
        options = [option.strip().lower() for option in b",".join(headers).split(b",")]
        if version == b"HTTP/1.1" and b"close" not in options:
            return True
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return False

    def _respondToBadRequestAndDisconnect(self) -> None:
        # Twisted would close at once, which may reset the connection: see `refuse`.
        self.refuse(b"400 Bad Request")

    def refuse(self, status: bytes) -> None:
        """Answer a request that has not been received whole, and close."""
        if self._drained is not None:
            return
        self._drained = 0
        self.set_deadline(_DRAIN_TIMEOUT, self.abort)
        self.site.refused(int(status[:3]))
        # Otherwise the transport would ask for more before it closes.
        self.transport.unregisterProducer()
        self.transport.write(
            b"HTTP/1.1 %s\r\nDate: %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            % (status, self.site.date())
        )
        if self._is_plain_tcp():
            # To close while input is unread would reset the connection, and lose the answer.
            self.transport.loseWriteConnection()
        else:
            self.loseConnection()

    def _is_plain_tcp(self) -> bool:
        return ITCPTransport.providedBy(self.transport) and not ISSLTransport.providedBy(
            self.transport
        )


def _without_mapping(address: IAddress) -> IAddress:
    """Give an IPv4 client of an IPv6 socket its own address (RFC 4291, section 2.5.5.2)."""
    if isinstance(address, IPv6Address):
        mapped = ipaddress.IPv6Address(address.host.partition("%")[0]).ipv4_mapped
        if mapped is not None:
            return IPv4Address(address.type, str(mapped), address.port)
    return address
