"""Measures the cost of a box that waits for a release, and the time until all boxes know one."""

import argparse
import select
import socket
import tempfile
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path

from benchmarks import servers
from benchmarks.figures import report, report_ratio
from benchmarks.servers import Server
from benchmarks.watch import CONTENT, FIRST, fill
from opq_twisted.archive.name import UpdateName

_REQUEST = (
    b"GET /version HTTP/1.1\r\nHost: bench\r\n"
    b'If-None-Match: "%d"\r\nPrefer: wait=300\r\n\r\n' % FIRST
)

#: The number of connections that are opened before the server gets time to accept them.
_AT_ONCE = 1000


class Boxes:
    """Waiting boxes, each with its own connection."""

    def __init__(self, server: Server, count: int) -> None:
        self._connections: dict[int, socket.socket] = {}
        self._epoll = select.epoll()
        for number in range(count):
            if number % _AT_ONCE == 0:
                server.settle(0.05)
            box = socket.create_connection(("127.0.0.1", server.port), servers.TIMEOUT)
            box.sendall(_REQUEST)
            self._connections[box.fileno()] = box
            self._epoll.register(box, select.EPOLLIN)
        server.settle()
        if self._epoll.poll(0):
            raise SystemExit(f"{server.name} has answered a box that was to wait.")

    def wait(self, version: int) -> None:
        """Wait until all have received a response with this version."""
        expected = b"\r\n\r\n%d" % version
        waiting = set(self._connections)
        while waiting:
            ready = self._epoll.poll(servers.TIMEOUT)
            if not ready:
                raise SystemExit(f"{len(waiting)} boxes were not answered.")
            for fd, _ in ready:
                answer = self._connections[fd].recv(4096)
                if not (answer.startswith(b"HTTP/1.1 200 ") and expected in answer):
                    raise SystemExit(f"Not the answer that was expected: {answer!r}")
                waiting.discard(fd)

    def close(self) -> None:
        """Close all connections."""
        self._epoll.close()
        for box in self._connections.values():
            box.close()


def measure(server: Server, boxes: int, release: Callable[[], object]) -> tuple[float, float]:
    """Let boxes wait; returns the kB of each, and the seconds from a release until all know it."""
    # The first boxes make the server allocate what all boxes share.
    Boxes(server, 10).close()
    server.settle()
    before = server.memory()
    waiting = Boxes(server, boxes)
    taken = (server.memory() - before) / boxes / 1000
    start = time.perf_counter()
    release()
    waiting.wait(FIRST + 1)
    seconds = time.perf_counter() - start
    waiting.close()
    return taken, seconds


def measure_ours(boxes: int) -> tuple[float, float]:
    """Measure our server; a release is a rename into the directory."""
    with tempfile.TemporaryDirectory() as name:
        updates, upload = Path(name, "updates"), Path(name, "upload")
        updates.mkdir()
        fill(updates, 1)
        upload.write_bytes(CONTENT)
        with servers.update_server(updates, Path(name)) as server:
            newest = updates / str(UpdateName(FIRST + 1))
            return measure(server, boxes, lambda: upload.rename(newest))


def measure_peer(boxes: int) -> tuple[float, float]:
    """Measure the peer; a release is a request that ends all waiting ones."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        with servers.peer("held", place, place) as server:
            teller = HTTPConnection("127.0.0.1", server.port, timeout=servers.TIMEOUT)
            body = b"%d" % (FIRST + 1)
            return measure(server, boxes, lambda: teller.request("POST", "/version", body))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.waiting", description=__doc__)
    parser.add_argument("--boxes", type=int, default=10_000, help="that wait (10000)")
    parser.add_argument("--rounds", type=int, default=3, help="of both servers in turn (3)")
    options = parser.parse_args()
    boxes = servers.make_room(options.boxes)
    with servers.on_core(servers.LOAD_CORE):
        (memory, seconds), (their_memory, their_seconds) = servers.in_turn(
            options.rounds, lambda: measure_ours(boxes), lambda: measure_peer(boxes)
        )
    peer = "a bare resource of Twisted's"
    what = f"{boxes} boxes wait, kB of memory for each"
    report(what, memory, at_most=8)
    report_ratio(what, memory, peer, their_memory)
    what = "seconds from a rename until all are answered"
    report(what, seconds, at_most=2)
    report_ratio(what, seconds, peer, their_seconds)


if __name__ == "__main__":
    main()
