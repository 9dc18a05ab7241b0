"""HTTP exchanges with a resource tree, byte for byte, without a network."""

import http.client
import io
import socket
from typing import Any, cast

from attrs import frozen
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IAddress, IDelayedCall, ITCPTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from zope.interface import alsoProvides

from opq_twisted.http.channel import BoundedChannel
from opq_twisted.http.site import BoundedSite


@frozen
class Response:
    """A response as a client parses it."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    #: Whether the connection ended before the announced length.
    cut: bool = False

    @property
    def text(self) -> str:
        """The body of a text response."""
        return self.body.decode()


class Transport(StringTransport):
    """The server's end of a TCP connection, without a network."""

    #: Whether the sending side was closed.
    half_closed = False
    #: Bytes that are buffered before the producer has to pause; None for any number.
    room: int | None = None

    protocol: BoundedChannel
    #: Whether the socket was closed, so that its descriptor is free.
    closed = False
    #: The number of the file descriptor.
    descriptor = 20

    def fileno(self) -> int:
        """Give the number of the file descriptor."""
        return self.descriptor

    def connectionLost(self, reason: Failure) -> None:
        """Close the socket."""
        self.closed = True
        self.protocol.connectionLost(reason)

    def write(self, data: bytes) -> None:
        """Buffer data, and pause the producer if there is no more room."""
        super().write(data)
        if self.room is not None and len(self.value()) > self.room and self.producer is not None:
            self.producer.pauseProducing()

    def drain(self) -> None:
        """Accept all data from now on."""
        self.room = None
        assert self.producer is not None
        self.producer.resumeProducing()

    def loseWriteConnection(self) -> None:
        """Close the sending side."""
        self.half_closed = True

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Do nothing."""

    def unregisterProducer(self) -> None:
        """Forget the producer; unlike the base class, accept that there is none."""
        self.producer = None


class ReactorClock(Clock):
    """A clock that runs calls with no delay in the next turn, as a reactor does."""

    TURN = 0.001

    def callLater(self, delay: float, *call: Any, **keywords: Any) -> IDelayedCall:
        """Call in the next turn at the earliest."""
        return super().callLater(max(delay, self.TURN), *call, **keywords)

    def turn(self) -> None:
        """Take a turn."""
        self.advance(self.TURN)


class Connection:
    """A client's connection to a resource tree, driven by the test."""

    def __init__(
        self,
        root: IResource,
        site: BoundedSite | None = None,
        address: IAddress | None = None,
        descriptor: int = 20,
    ) -> None:
        self.clock: Clock = Clock()
        self.transport = Transport(peerAddress=address)
        self.transport.descriptor = descriptor
        alsoProvides(self.transport, ITCPTransport)
        self.site = BoundedSite(self.clock, root) if site is None else site
        self.channel = cast(BoundedChannel, self.site.buildProtocol(None))
        self.transport.protocol = self.channel
        self.channel.makeConnection(self.transport)

    def send(self, method: str, path: str, *headers: str) -> None:
        """Send a request without a body."""
        lines = [f"{method} {path} HTTP/1.1", "Host: box.example", *headers, "", ""]
        self.channel.dataReceived("\r\n".join(lines).encode("latin-1"))

    def response(self, method: str = "GET") -> Response:
        """Parse the response so far."""
        return parse(self.transport.value(), method)

    def advance(self, seconds: float) -> None:
        """Let time pass, and let the site check the deadlines."""
        self.clock.advance(seconds)
        self.site.sweep()

    def lose(self) -> None:
        """Let the client go away, as a real transport reports it."""
        if self.transport.producer is not None:
            self.transport.producer.stopProducing()
        self.channel.connectionLost(Failure(ConnectionLost()))


class _Stream(io.BytesIO):
    def makefile(self, _mode: str) -> "_Stream":
        return self

    def close(self) -> None:
        """Stay open, because another response may follow."""


def parse(received: bytes, method: str = "GET") -> Response:
    """Parse the only response, with Python's own client."""
    (response,) = parse_all(received, method)
    return response


def parse_all(received: bytes, method: str = "GET") -> list[Response]:
    """Parse the responses to requests of one method."""
    stream = _Stream(received)
    responses = []
    while stream.tell() < len(received):
        response = http.client.HTTPResponse(cast(socket.socket, stream), method=method)
        response.begin()
        try:
            body, cut = response.read(), False
        except http.client.IncompleteRead as error:
            body, cut = error.partial, True
        responses.append(Response(response.status, response.headers, body, cut))
    return responses


def ask(root: IResource, method: str, path: str, *headers: str) -> Response:
    """Send one request that is answered at once."""
    connection = Connection(root)
    connection.send(method, path, *headers)
    return connection.response(method)
