"""A network in memory, and the servers in it that a test plays."""

from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock, StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from opq_twisted.box.network.addresses import Reach
from opq_twisted.box.network.connect import TooClose
from opq_twisted.box.network.http_agent import (
    HttpClients,
    IdentityEncodingAgent,
    without_body,
)
from opq_twisted.box.network.redirects import LocatedResponse, RedirectingAgent
from opq_twisted.box.network.update_server import UpdateServerClient
from opq_twisted.box.network.urls import Url, read_url
from opq_twisted.common.errors import NoWaiting
from opq_twisted.http.small_body import SmallBody


@implementer(IAgentEndpointFactory)
class Network:
    """A network in memory, in which the test is the server."""

    def __init__(self) -> None:
        self.clock = MemoryReactorClock()
        #: The reach of hosts that are not on the internet.
        self.reaches: dict[str, Reach] = {}
        #: Hosts that have an address on the internet as well.
        self.public_too: set[str] = set()
        #: Whether a proxy connects to them.
        self.proxied = False
        pool = HTTPConnectionPool(self.clock, persistent=False)
        self._agent = Agent.usingEndpointFactory(self.clock, self, pool)
        clients = HttpClients(
            HTTPClient(IdentityEncodingAgent(self._agent.request), data_to_body_producer=SmallBody),
            HTTPClient(
                IdentityEncodingAgent(without_body(RedirectingAgent(self.clock, self).request))
            ),
        )
        self.server = UpdateServerClient(
            self.clock, clients, "http://updates.example:8151", lambda: "opq-box-agent/test"
        )

    async def request_within(
        self, method: bytes, uri: bytes, headers: Headers | None, closest: Reach = Reach.MACHINE
    ) -> LocatedResponse:
        reach = max(await self.reaches_of_name(read_url(uri.decode())))
        if reach > closest:
            raise TooClose
        response = await self._agent.request(method, uri, headers)
        return LocatedResponse(response, None if self.proxied else reach)

    async def reaches_of_name(self, url: Url) -> list[Reach]:
        public = [Reach.INTERNET] if url.host in self.public_too else []
        return [*public, self.reaches.get(url.host, Reach.INTERNET)]

    def endpointForURI(self, uri: URI) -> TCP4ClientEndpoint:
        return TCP4ClientEndpoint(self.clock, uri.host.decode(), uri.port)

    @property
    def is_asked(self) -> bool:
        """Whether a connection is asked for, and was not given up meanwhile."""
        clients = self.clock.tcpClients
        while clients and clients[-1][2]._onConnection.called:  # type: ignore[attr-defined]
            clients.pop()
        return bool(clients)

    def accept(self) -> "Peer":
        """Accept the connection that was asked for last."""
        factory = self.clock.tcpClients.pop()[2]
        return Peer(factory.buildProtocol(None))

    def refuse(self, error: Exception | None = None) -> None:
        """Refuse the connection that was asked for last."""
        factory: Any = self.clock.tcpClients.pop()[2]
        factory.clientConnectionFailed(None, Failure(error or ConnectionRefusedError()))


class Peer:
    """The server's end of a connection."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._transport = StringTransportWithDisconnection()
        self._transport.protocol = protocol
        protocol.makeConnection(self._transport)

    @property
    def request(self) -> str:
        """What the client sent."""
        sent: bytes = self._transport.value()
        return sent.decode()

    @property
    def open(self) -> bool:
        """Whether the client has not closed the connection."""
        return bool(self._transport.connected)

    @property
    def paused(self) -> bool:
        """Whether the client wants nothing more for now."""
        return str(self._transport.producerState) == "paused"

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._protocol.dataReceived(data)

    def answer(self, status: str, *headers: str, body: bytes = b"") -> None:
        """Send a response's head, and this part of its body."""
        self.send("\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body)

    def close(self) -> None:
        """Close the connection in good order."""
        self._protocol.connectionLost(Failure(ConnectionDone()))

    def reset(self) -> None:
        """Break the connection."""
        self._protocol.connectionLost(Failure(ConnectionLost()))


class WaitingServer(UpdateServerClient):
    """A server whose long polls the test answers."""

    def __init__(self) -> None:
        #: Whether it has no long polls, as an older server.
        self.older = False
        #: The polls: the known tag, and the seconds to wait.
        self.asked: list[tuple[str | None, int]] = []
        #: The poll that waits.
        self.waiting: Deferred[str] | None = None

    async def poll_etag(self, known: str | None, wait: int, response_timeout: float) -> str:
        assert self.waiting is None, "one request at a time"
        self.asked.append((known, wait))
        if self.older:
            raise NoWaiting("It lets nobody wait.")
        self.waiting = Deferred()
        try:
            return await self.waiting
        finally:
            self.waiting = None

    def answer(self, tag: str) -> None:
        """Answer with this tag."""
        assert self.waiting is not None
        self.waiting.callback(tag)

    def fail(self, error: Exception) -> None:
        """Answer with this error."""
        assert self.waiting is not None
        self.waiting.errback(error)
