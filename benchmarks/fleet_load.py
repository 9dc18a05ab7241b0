"""Sends reports to the update server, and asks it for /version meanwhile."""

import errno
import heapq
import http.client
import multiprocessing
import random
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from attrs import define, field

#: Seconds after which a box without an answer gives up; it tries again.
_TIMEOUT = 60

#: Seconds: boxes without a `Retry-After` try again after a random part of this.
_PAUSE = 30

#: Seconds between two questions for /version.
_INTERVAL = 0.02

#: With memory of its own from the start, and without the threads of this process.
_PROCESSES = multiprocessing.get_context("spawn")


@define
class Sent:
    """What became of reports."""

    #: From the time at which each was due until it was stored.
    seconds: list[float] = field(factory=list)
    #: How many answers there were of each status; 0: no connection, or no answer.
    answers: Counter[int] = field(factory=Counter)

    def __str__(self) -> str:
        return ", ".join(
            f"{count:,} {status or 'without an answer'}"
            for status, count in sorted(self.answers.items())
        )


@define(eq=False)
class _Sending:
    """A report on a connection of its own."""

    index: int
    begun: float
    socket: socket.socket
    answer: bytes = b""


class _Boxes:
    """
    Boxes that send a report each, at its time, and again until it is stored.

    A box that cannot connect tries again, also if this process has no descriptor to spare.
    """

    def __init__(self, port: int, requests: list[bytes], pause: float) -> None:
        self.sent = Sent()
        self._port = port
        self._requests = requests
        begun = time.monotonic()
        self._due = [begun + index * pause for index in range(len(requests))]
        self._next = [(due, index) for index, due in enumerate(self._due)]
        #: By descriptor, the oldest first.
        self._open: dict[int, _Sending] = {}
        self._epoll = select.epoll()

    def run(self) -> None:
        """Send all."""
        while self._next or self._open:
            now = time.monotonic()
            while self._next and self._next[0][0] <= now:
                self._connect(heapq.heappop(self._next)[1], now)
            for sending in list(self._open.values())[:1]:
                if now - sending.begun > _TIMEOUT:
                    self._end(sending)
            wait = min(1.0, self._next[0][0] - now) if self._next else 1.0
            for fd, event in self._epoll.poll(max(0.0, wait)):
                self._go_on(self._open[fd], event)
        self._epoll.close()

    def _connect(self, index: int, now: float) -> None:
        try:
            connection = socket.socket()
        except OSError:
            self.sent.answers[0] += 1
            self._again(index, None)
            return
        connection.setblocking(False)
        sending = _Sending(index, now, connection)
        self._open[connection.fileno()] = sending
        self._epoll.register(connection, select.EPOLLOUT)
        if connection.connect_ex(("127.0.0.1", self._port)) not in (0, errno.EINPROGRESS):
            self._end(sending)

    def _go_on(self, sending: _Sending, event: int) -> None:
        try:
            if event & select.EPOLLOUT:
                sending.socket.sendall(self._requests[sending.index])
                self._epoll.modify(sending.socket, select.EPOLLIN)
                return
            received = sending.socket.recv(4096)
        except OSError:
            received = b""
        sending.answer += received
        if not received:
            self._end(sending)

    def _end(self, sending: _Sending) -> None:
        del self._open[sending.socket.fileno()]
        sending.socket.close()
        status, after = _read(sending.answer)
        self.sent.answers[status] += 1
        if status == 200:
            self.sent.seconds.append(time.monotonic() - self._due[sending.index])
            return
        if status not in (0, 429, 503):
            raise SystemExit(f"The server answered {status}.")
        self._again(sending.index, after)

    def _again(self, index: int, after: float | None) -> None:
        pause = random.uniform(0, _PAUSE) if after is None else after
        heapq.heappush(self._next, (time.monotonic() + pause, index))


def _read(answer: bytes) -> tuple[int, float | None]:
    """Return the status of an answer, 0 for none, and the `Retry-After`."""
    if b"\r\n\r\n" not in answer:
        return 0, None
    head = answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:])
    after = headers.get("retry-after")
    return int(head[0].split()[1]), None if after is None else float(after)


def send(port: int, requests: list[bytes], seconds: float) -> Sent:
    """Send reports evenly over some seconds, and wait until all are stored."""
    boxes = _Boxes(port, requests, seconds / len(requests))
    boxes.run()
    return boxes.sent


@contextmanager
def asking_for_version(port: int, seconds: list[float]) -> Iterator[None]:
    """Let another process ask for /version 50 times a second; adds the seconds of each answer."""
    ours, theirs = _PROCESSES.Pipe()
    process = _PROCESSES.Process(target=_ask, args=(port, theirs))
    process.start()
    theirs.close()
    try:
        ours.recv()
        yield
        ours.send(None)
        seconds += ours.recv()
    finally:
        ours.close()
        process.join()


def _ask(port: int, pipe: Connection) -> None:
    server = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
    seconds: list[float] = []
    server.connect()
    pipe.send(None)
    while not pipe.poll(_INTERVAL):
        begun = time.perf_counter()
        server.request("GET", "/version")
        server.getresponse().read()
        seconds.append(time.perf_counter() - begun)
    pipe.send(seconds)
