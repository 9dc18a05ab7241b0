"""Measures the memory of many slow downloads, and the delay of other responses meanwhile."""

import argparse
import multiprocessing
import socket
import tempfile
import time
from contextlib import suppress
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks import servers
from benchmarks.downloads import NAME, make_archive
from benchmarks.figures import report, report_ratio
from benchmarks.servers import Server
from benchmarks.watch import get, worst

#: The bytes that each client reads in a second, and the number of reads.
RATE = 10_000
_PIECES = 4

#: The receive buffer of a client; the kernel doubles it.
_RECEIVE_BUFFER = 8192

#: The segment size of Ethernet: the segments of loopback are larger than the buffer.
_SEGMENT = 1460

#: The seconds over which the starts of the downloads are spread.
_BEGIN = 1.0

#: A shorter sleep would need more CPU than the reading.
_LEAST_SLEEP = 0.002

#: The seconds between two requests.
_ASK_AGAIN = 0.01

#: The size of the archive: larger than the read part and all buffers.
_SIZE = 64 * 1024 * 1024

#: The path on our server, and on a static.File.
_VERSION = "/version"


def read_slowly(port: int, path: str, count: int, seconds: float, parent: Connection) -> None:
    """Start downloads, read for some seconds, and send the bytes a second of each to the parent."""
    request = b"GET %s HTTP/1.1\r\nHost: bench\r\n\r\n" % path.encode()
    readers = []
    start = time.monotonic()
    for number in range(count):
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        reader.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
        reader.settimeout(servers.TIMEOUT)
        reader.connect(("127.0.0.1", port))
        reader.sendall(request)
        reader.setblocking(False)
        readers.append(reader)
        sleep_until(start + _BEGIN * number / count)
    begun = time.monotonic()
    received = 0
    for done in range(int(seconds * _PIECES * count)):
        with suppress(BlockingIOError):
            received += len(readers[done % count].recv(RATE // _PIECES))
        sleep_until(begun + done / count / _PIECES)
    parent.send(received / count / (time.monotonic() - begun))
    # The clients stay connected until this process ends.
    time.sleep(servers.TIMEOUT)


def sleep_until(due: float) -> None:
    pause = due - time.monotonic()
    if pause > _LEAST_SLEEP:
        time.sleep(pause)


def measure(server: Server, path: str, count: int, seconds: float) -> tuple[float, float, float]:
    """Return the kB of a download, the 99th percentile of a response in ms, and bytes a second."""
    version = HTTPConnection("127.0.0.1", server.port, timeout=servers.TIMEOUT)
    for _ in range(10):
        get(version, _VERSION)
    server.settle()
    before = server.memory()
    here, there = multiprocessing.Pipe()
    arguments = (server.port, path, count, seconds, there)
    readers = multiprocessing.Process(target=read_slowly, args=arguments, daemon=True)
    readers.start()
    there.close()
    taken = []
    try:
        until = time.monotonic() + seconds + servers.TIMEOUT
        while not here.poll(_ASK_AGAIN):
            if time.monotonic() > until:
                raise SystemExit(f"{server.name} lets the readers wait.")
            start = time.perf_counter()
            status, _, _ = get(version, _VERSION)
            taken.append(1000 * (time.perf_counter() - start))
            assert status == 200
        memory = (server.memory() - before) / count / 1000
        return memory, worst(taken), here.recv()
    finally:
        readers.kill()
        readers.join()
        version.close()


def measure_new(ours: bool, count: int, seconds: float) -> tuple[float, float, float]:
    """Measure one round with a new server."""
    with tempfile.TemporaryDirectory() as name:
        place, updates = Path(name), Path(name, "updates")
        updates.mkdir()
        make_archive(updates, _SIZE)
        if ours:
            with servers.update_server(updates, place) as server:
                return measure(server, f"/update/{NAME}", count, seconds)
        Path(updates, _VERSION[1:]).write_text("1500000000")
        with servers.static_file(updates, place) as server:
            return measure(server, f"/{NAME}", count, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slow_readers", description=__doc__)
    parser.add_argument("--downloads", type=int, default=1000, help="at once (1000)")
    parser.add_argument("--rounds", type=int, default=1, help="of both servers in turn (1)")
    # The kernel buffers 345 kB of each download, and reads more after a third of that.
    parser.add_argument("--seconds", type=float, default=15, help="of each server's turn (15)")
    options = parser.parse_args()
    count = servers.make_room(options.downloads)
    with servers.on_core(servers.LOAD_CORE):
        (memory, answer, rate), (their_memory, their_answer, their_rate) = servers.in_turn(
            options.rounds,
            lambda: measure_new(True, count, options.seconds),
            lambda: measure_new(False, count, options.seconds),
        )
    peer = "static.File"
    print(f"{count} downloads at {rate / 1000:.1f} kB/s each, {peer} {their_rate / 1000:.1f} kB/s")
    what = "kB of memory for each"
    report(what, memory, at_most=32)
    report_ratio(what, memory, peer, their_memory)
    what = "99th percentile of an answer of /version meanwhile, ms"
    report(what, answer, at_most=50)
    report_ratio(what, answer, peer, their_answer)


if __name__ == "__main__":
    main()
