"""Stands between boxes and their update server, and does to what passes all that networks do."""

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

#: Bytes that are sent at once.
_PIECE = 65536

#: Seconds between two looks whether the kernel has sent everything: it tells nobody when.
_POLL_INTERVAL = 0.002


class End(Enum):
    """How a connection ends when everything was sent."""

    #: In good order, as far as TCP can tell.
    CLOSE = auto()
    #: By a reset, once all that was sent has arrived.
    RESET = auto()
    #: Not at all: nothing more comes.
    IDLE_TIMEOUT = auto()


@frozen
class Message:
    """An HTTP request or answer."""

    first: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    @classmethod
    def parse(cls, data: bytes) -> "Message":
        """Read what has come until the connection ended."""
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        named = (line.partition(":") for line in lines)
        return cls(first, tuple((name, value.strip()) for name, _, value in named), body)

    @property
    def path(self) -> str:
        """What a request asks for."""
        return self.first.split(" ")[1]

    @property
    def code(self) -> int:
        """The status of an answer."""
        return int(self.first.split(" ")[1])

    def get(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def having(self, name: str, *values: str) -> "Message":
        """Make one that has these values of a header, and no others."""
        others = [item for item in self.headers if item[0].lower() != name.lower()]
        return evolve(self, headers=(*others, *((name, value) for value in values)))

    @property
    def head(self) -> bytes:
        """All that comes before the body."""
        lines = [self.first, *(f"{name}: {value}" for name, value in self.headers), "", ""]
        return "\r\n".join(lines).encode("latin-1")


@frozen
class Sending:
    """What a box gets for an answer."""

    head: bytes
    body: bytes
    end: End = End.CLOSE
    #: Bytes after which it ends, whatever there is; None when all of it is sent.
    cut: int | None = None
    #: Bytes of a piece, and seconds before each.
    piece: int = _PIECE
    pause: float = 0.0

    def pieces(self) -> Iterator[bytes]:
        """What is sent, piece by piece, none of which is empty."""
        if self.cut != 0:
            yield self.head[: self.cut]
        for start in range(0, self.body_sent, self.piece):
            yield self.body[start : min(start + self.piece, self.body_sent)]

    @property
    def body_sent(self) -> int:
        """Bytes of the body that are sent."""
        whole = len(self.head) + len(self.body)
        return max(0, min(whole, whole if self.cut is None else self.cut) - len(self.head))


def as_it_is(answer: Message) -> Sending:
    """Send what the server sent."""
    return Sending(answer.head, answer.body)


@frozen
class Mischief:
    """One thing that a network does to an answer."""

    name: str
    send: Callable[[Message], Sending]
    #: What the server is asked in the place of what the box asks.
    ask: Callable[[Message], Message] = field(default=lambda request: request)


# What networks do


def _bad_end(random: Random) -> End:
    return random.choice((End.CLOSE, End.RESET))


def cut_body(offset: int, end: End = End.RESET) -> Mischief:
    """End the connection after so many bytes of the body, if there are more."""

    def send(answer: Message) -> Sending:
        if len(answer.body) <= offset:
            return as_it_is(answer)
        return Sending(answer.head, answer.body, end, cut=len(answer.head) + offset)

    return Mischief(f"{end.name} after {offset} bytes", send)


def cut_head(offset: int, end: End = End.RESET) -> Mischief:
    """End the connection after so many bytes, and before the last of the header."""

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
    """Send the body in so many pieces, and wait before each, in seconds."""

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
    """Turn one bit of a body."""
    if not body:
        return body
    place = min(int(where * len(body)), len(body) - 1)
    return body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]


def other_file(where: float = 0.5) -> Mischief:
    """Send of another file what was asked for, on whatever condition."""

    def send(answer: Message) -> Sending:
        other = evolve(answer, body=altered(answer.body, where))
        return as_it_is(other.having("ETag", '"another"'))

    return Mischief("another file", send, lambda request: request.having("If-Range"))


def other_bytes(where: float = 0.5) -> Mischief:
    """Send other bytes under the same name."""
    return Mischief(
        "other bytes, same ETag",
        lambda answer: as_it_is(evolve(answer, body=altered(answer.body, where))),
    )


def other_range(further: int) -> Mischief:
    """Send the rest from another place than was asked for, and say so."""

    def ask(request: Message) -> Message:
        asked = re.fullmatch(r"bytes=(\d+)-", request.get("Range") or "")
        if asked is None:
            return request
        return request.having("Range", f"bytes={max(0, int(asked[1]) + further)}-")

    return Mischief("another range", as_it_is, ask)


def _other_range(random: Random) -> Mischief:
    return other_range(random.choice((-1_000_000, -1, 1, 1000)))


def _other_file(random: Random) -> Mischief:
    return other_file(random.random())


def _other_bytes(random: Random) -> Mischief:
    return other_bytes(random.random())


def status(line: str, *headers: tuple[str, str]) -> Mischief:
    """Answer with a status and no file."""
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
            # Some of it comes twice, and the last of it never.
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
            # Nothing but the last chunk, which says that this was all, is missing.
            return Sending(head, whole, end)
        if kind == 1:
            return Sending(head, whole, end, cut=len(head) + int(share * len(whole)))
        return Sending(head, b"".join(chunks[:1]) + b"so many\r\n" + b"".join(chunks[1:]))

    return Mischief("chunked, and cut", send)


def _not_http(random: Random) -> Mischief:
    noise = random.randbytes(random.randrange(1, 3000))
    return Mischief("no HTTP", lambda _: Sending(noise, b""))


Make = Callable[[Random], Mischief]

#: What a box outlives within seconds.
QUICK: tuple[Make, ...] = (
    *(_cut_request, _cut_header, _cut_body, _cut_body, _cut_body, _drip),
    *(_longer, _shorter, _other_file, _other_bytes, _other_range, _status, _status),
    *(_ignores_range, _wrong_range, _wrong_range, _twice, _chunked, _chunked, _not_http),
    _not_found,
)

#: All there is.
ALL: tuple[Make, ...] = (*QUICK, _silence, _busy)

#: Decides what is done to the answer to a request; nothing when it returns None.
Plan = Callable[[Message], Mischief | None]


def honest(request: Message) -> None:
    """Let everything through as it is."""


class Seeded:
    """Chooses from mischief as a seed has it."""

    def __init__(
        self, seed: int, makes: tuple[Make, ...], share: float, most: int, only: str = "/"
    ) -> None:
        """
        Prepare to choose.

        :param share: of the requests that something is done to.
        :param most: so many times in all.
        :param only: what paths begin with to which anything is done.
        """
        self.seed = seed
        self._random = Random(seed)
        self._makes = makes
        self._share = share
        self._only = only
        #: How often something may still be done.
        self.left = most

    def __call__(self, request: Message) -> Mischief | None:
        if not request.path.startswith(self._only) or not self.left:
            return None
        if self._random.random() >= self._share:
            return None
        self.left -= 1
        return self._random.choice(self._makes)(self._random)


class Proxy(LoopbackServer):
    """Brings requests to an update server, and what a plan makes of its answers to the box."""

    noisy = False

    def __init__(self, server_port: int, plan: Plan = honest) -> None:
        self.server_port = server_port
        self.plan = plan
        #: The requests, in order, as the box made them, with what was done to the answers.
        self.passed: list[tuple[Message, str]] = []
        #: Bytes of bodies that were sent, by path.
        self.body_bytes: dict[str, int] = {}
        super().__init__()

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        return _Passage(self)

    async def answer(self, request: Message) -> Sending:
        """Ask the server, and decide what the box gets."""
        mischief = self.plan(request)
        name = "nothing" if mischief is None else mischief.name
        self.passed.append((request, name))
        answer = await self._ask(request if mischief is None else mischief.ask(request))
        sending = as_it_is(answer) if mischief is None else mischief.send(answer)
        before = self.body_bytes.get(request.path, 0)
        self.body_bytes[request.path] = before + sending.body_sent
        return sending

    async def _ask(self, request: Message) -> Message:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.server_port)
        asking = await connectProtocol(endpoint, _Asking())
        assert asking.transport is not None
        asking.transport.write(request.having("Connection", "close").head)
        return Message.parse(await asking.answered)

    def __str__(self) -> str:
        """Tell what was done, for a test that fails."""
        return "\n".join(
            f"{request.first} ({request.get('Range') or 'all of it'}): {name}"
            for request, name in self.passed
        )


class _Asking(Protocol):
    """Takes whatever comes until the connection ends."""

    def __init__(self) -> None:
        self._data = bytearray()
        self.answered: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self._data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.answered.callback(bytes(self._data))


class _Passage(Protocol):
    """One box's connection, for one request."""

    transport: Server

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._request = b""
        self._sending: Sending | None = None
        self._pieces: Iterator[bytes] = iter(())
        self._later: IDelayedCall | None = None

    def dataReceived(self, data: bytes) -> None:
        asked = b"\r\n\r\n" in self._request
        self._request += data
        if b"\r\n\r\n" in self._request and not asked:
            Deferred.fromCoroutine(self._answer())

    async def _answer(self) -> None:
        try:
            sending = await self._proxy.answer(Message.parse(self._request))
        except ConnectError:
            self.transport.abortConnection()
            return
        self._sending, self._pieces = sending, sending.pieces()
        # Asked for the next piece whenever the one before has left.
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
        if end is End.CLOSE:
            self.transport.loseConnection()
        elif end is End.RESET:
            if self._under_way():
                # A reset throws away what has not arrived.
                self._later = reactor.callLater(_POLL_INTERVAL, self._end, end)
            else:
                self.transport.abortConnection()

    def _under_way(self) -> int:
        """Bytes that the kernel has sent, and does not know to have arrived."""
        answer = fcntl.ioctl(self.transport.getHandle(), termios.TIOCOUTQ, bytes(4))
        return cast(int, struct.unpack("i", answer)[0])

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._later is not None and self._later.active():
            self._later.cancel()
