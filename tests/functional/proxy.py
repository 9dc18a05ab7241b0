"""A proxy between boxes and their update server, with the faults of real networks."""

import fcntl
import re
import struct
import termios
from collections.abc import Callable, Iterator
from email.utils import formatdate
from enum import Enum, auto
from random import Random
from typing import cast

from attrs import evolve, field, frozen
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.tcp import Server
from twisted.python.failure import Failure

from tests.functional.processes import LoopbackServer

#: The bytes of one write.
_PIECE = 65536

#: Seconds between two checks of the kernel's send queue.
_POLL_INTERVAL = 0.002


class End(Enum):
    """The end of a connection after the last byte."""

    #: An orderly close of the TCP connection.
    CLOSE = auto()
    #: A reset, after all sent bytes have arrived.
    RESET = auto()
    #: No end: the connection stays silent.
    IDLE_TIMEOUT = auto()
    #: No end: the box may send another request over the connection.
    KEEP = auto()


@frozen
class Message:
    """An HTTP request or response."""

    first: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    @classmethod
    def parse(cls, data: bytes) -> "Message":
        """Parse the bytes of a whole connection."""
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        named = (line.partition(":") for line in lines)
        return cls(first, tuple((name, value.strip()) for name, _, value in named), body)

    @property
    def path(self) -> str:
        """The path of a request."""
        return self.first.split(" ")[1]

    @property
    def code(self) -> int:
        """The status of a response."""
        return int(self.first.split(" ")[1])

    def get(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def having(self, name: str, *values: str) -> "Message":
        """Copy the message, with these values of a header."""
        others = [item for item in self.headers if item[0].lower() != name.lower()]
        return evolve(self, headers=(*others, *((name, value) for value in values)))

    @property
    def is_whole(self) -> bool:
        """Whether the body of a request has arrived."""
        return len(self.body) >= int(self.get("Content-Length") or 0)

    @property
    def head(self) -> bytes:
        """The bytes before the body."""
        lines = [self.first, *(f"{name}: {value}" for name, value in self.headers), "", ""]
        return "\r\n".join(lines).encode("latin-1")


@frozen
class Sending:
    """The bytes that a box gets as a response."""

    head: bytes
    body: bytes
    end: End = End.CLOSE
    #: The number of sent bytes; None for all.
    cut: int | None = None
    #: The bytes of a piece, and the seconds before each piece.
    piece: int = _PIECE
    pause: float = 0.0

    def pieces(self) -> Iterator[bytes]:
        """Yield the sent bytes in pieces, none of which is empty."""
        if self.cut != 0:
            yield self.head[: self.cut]
        for start in range(0, self.body_sent, self.piece):
            yield self.body[start : min(start + self.piece, self.body_sent)]

    @property
    def body_sent(self) -> int:
        """The number of sent bytes of the body."""
        whole = len(self.head) + len(self.body)
        return max(0, min(whole, whole if self.cut is None else self.cut) - len(self.head))


def as_it_is(answer: Message) -> Sending:
    """Send the server's response."""
    return Sending(answer.head, answer.body)


@frozen
class Mischief:
    """One fault of a network."""

    name: str
    send: Callable[[Message], Sending]
    #: Changes the request of the box.
    ask: Callable[[Message], Message] = field(default=lambda request: request)


# Faults of networks


def _bad_end(random: Random) -> End:
    return random.choice((End.CLOSE, End.RESET))


def cut_body(offset: int, end: End = End.RESET) -> Mischief:
    """End the connection after this many bytes of the body, if it is longer."""

    def send(answer: Message) -> Sending:
        if len(answer.body) <= offset:
            return as_it_is(answer)
        return Sending(answer.head, answer.body, end, cut=len(answer.head) + offset)

    return Mischief(f"{end.name} after {offset} bytes", send)


def cut_head(offset: int, end: End = End.RESET) -> Mischief:
    """End the connection after this many bytes, and before the end of the header."""

    def send(answer: Message) -> Sending:
        return Sending(answer.head, b"", end, cut=min(offset, len(answer.head) - 1))

    return Mischief(f"{end.name} after {offset} bytes of the header", send)


def _cut_request(random: Random) -> Mischief:
    return cut_head(0, _bad_end(random))


def _cut_header(random: Random) -> Mischief:
    return cut_head(random.randrange(1, 500), _bad_end(random))


def _cut_body(random: Random) -> Mischief:
    end, share = _bad_end(random), random.choice((0.0, 1.0, random.random(), random.random()))

    def send(answer: Message) -> Sending:
        # From before its first byte to before its last.
        offset = int(share * max(0, len(answer.body) - 1))
        return Sending(answer.head, answer.body, end, cut=len(answer.head) + offset)

    return Mischief("cut in the body", send)


def _silence(random: Random) -> Mischief:
    cut = _cut_body(random)
    return Mischief("silence", lambda answer: evolve(cut.send(answer), end=End.IDLE_TIMEOUT))


def drip(pieces: int, pause: float) -> Mischief:
    """Send the body in this many pieces, with a pause in seconds before each."""

    def send(answer: Message) -> Sending:
        piece = len(answer.body) // pieces + 1
        return evolve(as_it_is(answer), piece=piece, pause=pause)

    return Mischief("drip", send)


def _drip(random: Random) -> Mischief:
    return drip(random.randrange(2, 30), 0.01)


def _longer(random: Random) -> Mischief:
    more = random.choice((1, 7, 100_000))

    def send(answer: Message) -> Sending:
        return as_it_is(answer.having("Content-Length", str(len(answer.body) + more)))

    return Mischief("Content-Length too large", send)


def _shorter(random: Random) -> Mischief:
    share = random.random()

    def send(answer: Message) -> Sending:
        return as_it_is(answer.having("Content-Length", str(int(share * len(answer.body)))))

    return Mischief("Content-Length too small", send)


def altered(body: bytes, where: float) -> bytes:
    """Flip one bit of a body."""
    if not body:
        return body
    place = min(int(where * len(body)), len(body) - 1)
    return body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]


def other_file(where: float = 0.5) -> Mischief:
    """Send the requested range of another file, without regard to If-Range."""

    def send(answer: Message) -> Sending:
        other = evolve(answer, body=altered(answer.body, where))
        return as_it_is(other.having("ETag", '"another"'))

    return Mischief("another file", send, lambda request: request.having("If-Range"))


def other_bytes(where: float = 0.5) -> Mischief:
    """Send other bytes with the same ETag."""
    return Mischief(
        "other bytes, same ETag",
        lambda answer: as_it_is(evolve(answer, body=altered(answer.body, where))),
    )


def other_range(further: int) -> Mischief:
    """Send another range than the requested one, with a correct Content-Range."""

    def ask(request: Message) -> Message:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.get("Range") or "")
        if asked is None:
            return request
        start = max(0, int(asked[1]) + further)
        end = max(start, int(asked[2]) + further) if asked[2] else ""
        return request.having("Range", f"bytes={start}-{end}")

    return Mischief("another range", as_it_is, ask)


def _other_range(random: Random) -> Mischief:
    return other_range(random.choice((-1_000_000, -1, 1, 1000)))


def _other_file(random: Random) -> Mischief:
    return other_file(random.random())


def _other_bytes(random: Random) -> Mischief:
    return other_bytes(random.random())


def status(line: str, *headers: tuple[str, str]) -> Mischief:
    """Respond with a status and no body."""
    answer = Message(f"HTTP/1.1 {line}", (("Content-Length", "0"), *headers))
    return Mischief(line, lambda _: as_it_is(answer))


def _status(random: Random) -> Mischief:
    line = random.choice(
        ("500 Internal Server Error", "503 Service Unavailable", "429 Too Many Requests")
    )
    retry_after = random.choice((None, "0", "1", "soon", formatdate(0, usegmt=True)))
    return status(line, *(() if retry_after is None else (("Retry-After", retry_after),)))


def _busy(random: Random) -> Mischief:
    return status("503 Service Unavailable", ("Retry-After", str(random.randrange(10, 10**9))))


def _not_found(random: Random) -> Mischief:
    return status(random.choice(("404 Not Found", "410 Gone")))


def _ignores_range(random: Random) -> Mischief:
    return Mischief("ignores Range", as_it_is, lambda request: request.having("Range"))


def _wrong_range(random: Random) -> Mischief:
    kind = random.randrange(6)

    def values(found: str) -> list[str]:
        span, _, total = found.removeprefix("bytes ").partition("/")
        start, _, last = span.partition("-")
        return [
            [f"bytes {int(start) + 1}-{last}/{total}"],
            [f"bytes {start}-{last}/{int(total) + 1}"],
            [f"bytes */{total}"],
            ["some of it"],
            [],
            [found, f"bytes 0-1/{total}"],
        ][kind]

    def send(answer: Message) -> Sending:
        found = answer.get("Content-Range")
        if answer.code != 206 or found is None:
            return as_it_is(answer.having("Content-Range", "bytes 1-2/3"))
        return as_it_is(answer.having("Content-Range", *values(found)))

    return Mischief("wrong Content-Range", send)


def _twice(random: Random) -> Mischief:
    start, length = random.random(), random.randrange(1, 5000)
    kind = random.randrange(3)

    def send(answer: Message) -> Sending:
        body = answer.body
        if kind == 0:
            # Some bytes are sent twice, and the last ones never.
            place = int(start * len(body))
            shifted = body[:place] + body[max(0, place - length) :]
            return Sending(answer.head, shifted[: len(body)])
        if kind == 1:
            return Sending(answer.head, body + answer.head + body)
        return as_it_is(answer.having("Content-Length", str(len(body)), str(len(body) + 1)))

    return Mischief("something twice", send)


def _chunked(random: Random) -> Mischief:
    share, kind, end = random.random(), random.randrange(3), _bad_end(random)

    def send(answer: Message) -> Sending:
        head = answer.having("Content-Length").having("Transfer-Encoding", "chunked").head
        middle = int(share * len(answer.body))
        parts = [part for part in (answer.body[:middle], answer.body[middle:]) if part]
        chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in parts]
        whole = b"".join(chunks)
        if kind == 0:
            # Only the last chunk, which marks the end, is missing.
            return Sending(head, whole, end)
        if kind == 1:
            return Sending(head, whole, end, cut=len(head) + int(share * len(whole)))
        return Sending(head, b"".join(chunks[:1]) + b"so many\r\n" + b"".join(chunks[1:]))

    return Mischief("chunked, and cut", send)


def _not_http(random: Random) -> Mischief:
    noise = random.randbytes(random.randrange(1, 3000))
    return Mischief("no HTTP", lambda _: Sending(noise, b""))


Make = Callable[[Random], Mischief]

#: The faults from which a box recovers within seconds.
QUICK: tuple[Make, ...] = (
    *(_cut_request, _cut_header, _cut_body, _cut_body, _cut_body, _drip),
    *(_longer, _shorter, _other_file, _other_bytes, _other_range, _status, _status),
    *(_ignores_range, _wrong_range, _wrong_range, _twice, _chunked, _chunked, _not_http),
    _not_found,
)

#: All faults.
ALL: tuple[Make, ...] = (*QUICK, _silence, _busy)

#: Chooses the fault for a request; None for no fault.
Plan = Callable[[Message], Mischief | None]


def honest(request: Message) -> None:
    """Choose no fault."""


class Seeded:
    """Chooses faults by a seed."""

    def __init__(
        self, seed: int, makes: tuple[Make, ...], share: float, most: int, only: str = "/"
    ) -> None:
        """
        Prepare the choices.

        :param share: the share of the requests with a fault.
        :param most: the maximum number of faults.
        :param only: the prefix of the paths that may have faults.
        """
        self.seed = seed
        self._random = Random(seed)
        self._makes = makes
        self._share = share
        self._only = only
        #: The number of faults that are left.
        self.left = most

    def __call__(self, request: Message) -> Mischief | None:
        if not request.path.startswith(self._only) or not self.left:
            return None
        if self._random.random() >= self._share:
            return None
        self.left -= 1
        return self._random.choice(self._makes)(self._random)


class Proxy(LoopbackServer):
    """Passes requests to an update server, and its responses, with faults, to the box."""

    noisy = False

    def __init__(self, server_port: int, plan: Plan = honest) -> None:
        self.server_port = server_port
        self.plan = plan
        #: The requests of the box, in order, with the names of the faults.
        self.passed: list[tuple[Message, str]] = []
        #: The bytes of the sent bodies, by path.
        self.body_bytes: dict[str, int] = {}
        #: The number of requests that the server has not answered yet.
        self.waiting = 0
        super().__init__()

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        return _Passage(self)

    async def answer(self, request: Message) -> Sending:
        """Pass a request to the server; returns the response for the box."""
        mischief = self.plan(request)
        name = "nothing" if mischief is None else mischief.name
        self.passed.append((request, name))
        self.waiting += 1
        try:
            answer = await self._ask(request if mischief is None else mischief.ask(request))
        finally:
            self.waiting -= 1
        if mischief is not None:
            sending = mischief.send(answer)
        elif request.get("Connection") is None:
            sending = evolve(as_it_is(answer.having("Connection")), end=End.KEEP)
        else:
            sending = as_it_is(answer)
        before = self.body_bytes.get(request.path, 0)
        self.body_bytes[request.path] = before + sending.body_sent
        return sending

    async def _ask(self, request: Message) -> Message:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.server_port)
        asking = await connectProtocol(endpoint, _Asking())
        assert asking.transport is not None
        asking.transport.write(request.having("Connection", "close").head + request.body)
        return Message.parse(await asking.answered)

    def __str__(self) -> str:
        """Describe all requests and faults, for a failed test."""
        return "\n".join(
            f"{request.first} ({request.get('Range') or 'all of it'}): {name}"
            for request, name in self.passed
        )


class _Asking(Protocol):
    """Collects all bytes until the connection ends."""

    def __init__(self) -> None:
        self._data = bytearray()
        self.answered: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self._data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.answered.callback(bytes(self._data))


class _Passage(Protocol):
    """One box's connection, for one request after the other."""

    transport: Server

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._request = b""
        self._is_asked = False
        self._sending: Sending | None = None
        self._pieces: Iterator[bytes] = iter(())
        self._later: IDelayedCall | None = None

    def dataReceived(self, data: bytes) -> None:
        self._request += data
        if self._is_asked or b"\r\n\r\n" not in self._request:
            return
        request = Message.parse(self._request)
        if request.is_whole:
            self._is_asked = True
            Deferred.fromCoroutine(self._answer(request))

    async def _answer(self, request: Message) -> None:
        try:
            sending = await self._proxy.answer(request)
        except ConnectError:
            self.transport.abortConnection()
            return
        self._sending, self._pieces = sending, sending.pieces()
        # The transport asks for the next piece when the one before is sent.
        self.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """Send the next piece."""
        assert self._sending is not None
        piece = next(self._pieces, None)
        if piece is None:
            self.transport.unregisterProducer()
            self._end(self._sending.end)
        elif self._sending.pause:
            self._later = reactor.callLater(self._sending.pause, self.transport.write, piece)
        else:
            self.transport.write(piece)

    def stopProducing(self) -> None:
        """Send no more."""

    def _end(self, end: End) -> None:
        if end is End.KEEP:
            self._request, self._is_asked = b"", False
        elif end is End.CLOSE:
            self.transport.loseConnection()
        elif end is End.RESET:
            if self._under_way():
                # A reset discards the bytes that have not arrived.
                self._later = reactor.callLater(_POLL_INTERVAL, self._end, end)
            else:
                self.transport.abortConnection()

    def _under_way(self) -> int:
        """The number of sent bytes that are not acknowledged yet."""
        answer = fcntl.ioctl(self.transport.getHandle(), termios.TIOCOUTQ, bytes(4))
        return cast(int, struct.unpack("i", answer)[0])

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._later is not None and self._later.active():
            self._later.cancel()
