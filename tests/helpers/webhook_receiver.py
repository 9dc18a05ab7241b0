"""A receiver of webhooks on this machine, which answers as a test wants."""

from collections import deque
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure


def answer(status: str, *headers: str, body: bytes = b"") -> bytes:
    """Return a response that ends with its connection."""
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


OK = answer("204 No Content")


@frozen
class Request:
    """A request that has arrived."""

    line: str
    headers: dict[str, str]
    body: bytes


class Receiver(Factory):
    """Listens on a port of its own; each request gets the next answer, at the end the last one."""

    noisy = False

    def __init__(self, reactor: Any, *answers: bytes, tls: Any = None) -> None:
        """:param answers: what is sent; nothing at all for an empty one."""
        self.answers = deque(answers or (OK,))
        self.requests: list[Request] = []
        self._arrived: list[Deferred[Request]] = []
        self._lost: list[Deferred[None]] = []
        where = {"interface": "127.0.0.1"}
        self._port: IListeningPort = (
            reactor.listenTCP(0, self, **where)
            if tls is None
            else reactor.listenSSL(0, self, tls, **where)
        )
        scheme = "http" if tls is None else "https"
        self.origin = f"{scheme}://127.0.0.1:{self._port.getHost().port}"

    def next_request(self) -> Deferred[Request]:
        """Return the next request that arrives."""
        arrived: Deferred[Request] = Deferred()
        self._arrived.append(arrived)
        return arrived

    async def stop(self) -> None:
        """Listen no more, and wait until all connections are closed."""
        await maybeDeferred(self._port.stopListening)
        for lost in self._lost:
            await lost

    def buildProtocol(self, _address: object) -> "_Connection":
        """Make the protocol of a connection."""
        lost: Deferred[None] = Deferred()
        self._lost.append(lost)
        return _Connection(self, lost)

    def take(self, request: Request) -> bytes:
        """Note a request, and return its answer."""
        self.requests.append(request)
        reply = self.answers.popleft() if len(self.answers) > 1 else self.answers[0]
        while self._arrived:
            self._arrived.pop().callback(request)
        return reply


class _Connection(Protocol):
    def __init__(self, receiver: Receiver, lost: Deferred[None]) -> None:
        self._receiver = receiver
        self._lost = lost
        self._received = b""

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        head, _, body = self._received.partition(b"\r\n\r\n")
        line, *lines = head.decode().split("\r\n")
        headers = dict(each.split(": ", 1) for each in lines)
        if len(body) < int(headers.get("Content-Length", "1")):
            return
        assert self.transport is not None
        if reply := self._receiver.take(Request(line, headers, body)):
            self.transport.write(reply)
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._lost.callback(None)
