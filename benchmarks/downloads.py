"""Measures parallel downloads, in bytes a second and in CPU, against nginx, Twisted and Python."""

import argparse
import bz2
import os
import re
import select
import socket
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks import servers
from benchmarks.figures import report_ratio
from benchmarks.servers import Server
from opq_twisted.archive.name import UpdateName

NAME = str(UpdateName(1_500_000_000))

#: A round with fewer parallel downloads has more of them in sequence.
_LEAST_IN_A_ROUND = 8

_BUFFER = memoryview(bytearray(1024 * 1024))


def make_archive(folder: Path, size: int) -> None:
    """Write a file with the two ends of a bzip2 file, which our server takes for an archive."""
    end = bz2.compress(b"")
    noise = os.urandom(size - 10 - len(end))
    (folder / NAME).write_bytes(end[:4] + bytes.fromhex("314159265359") + noise + end)


class Download:
    """One download over its own connection."""

    def __init__(self, port: int, path: str) -> None:
        self._head = b""
        self.left: int | None = None
        self.connection = socket.create_connection(("127.0.0.1", port), servers.TIMEOUT)
        self.connection.sendall(b"GET %s HTTP/1.1\r\nHost: bench\r\n\r\n" % path.encode())
        self.connection.setblocking(False)

    def receive(self) -> None:
        """Read the available bytes."""
        count = self.connection.recv_into(_BUFFER)
        if count == 0:
            raise SystemExit(f"The download was cut: {self._head!r}, {self.left} bytes left")
        if self.left is None:
            self._head += _BUFFER[:count]
            head, end, body = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            length = re.search(rb"\r\nContent-Length: *(\d+)", head, re.IGNORECASE)
            if length is None or b" 200 " not in head.splitlines()[0]:
                raise SystemExit(f"Not the answer that was expected: {head!r}")
            self._head, self.left, count = head, int(length[1]), len(body)
        self.left -= count


def download(port: int, path: str, at_once: int) -> float:
    """Download so many times in parallel; returns the seconds."""
    start = time.perf_counter()
    with select.epoll() as epoll:
        downloads = {}
        for _ in range(at_once):
            each = Download(port, path)
            downloads[each.connection.fileno()] = each
            epoll.register(each.connection, select.EPOLLIN)
        while downloads:
            ready = epoll.poll(servers.TIMEOUT)
            if not ready:
                raise SystemExit("The downloads have stopped.")
            for fd, _ in ready:
                downloads[fd].receive()
                if downloads[fd].left == 0:
                    downloads.pop(fd).connection.close()
    return time.perf_counter() - start


def measure(server: Server, path: str, size: int, at_once: int) -> tuple[float, float]:
    """Return the MB a second, and the CPU seconds for each GB, of one round."""
    times = max(1, _LEAST_IN_A_ROUND // at_once)
    before = server.cpu()
    seconds = sum(download(server.port, path, at_once) for _ in range(times))
    cpu = server.cpu() - before
    moved = size * at_once * times
    return moved / seconds / 1e6, cpu / moved * 1e9


def compare(running: dict[Server, str], size: int, at_once: int, rounds: int) -> None:
    speeds: dict[str, list[float]] = defaultdict(list)
    costs: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for server, path in running.items():
            speed, cost = measure(server, path, size, at_once)
            speeds[server.name].append(speed)
            costs[server.name].append(cost)
    speed_aims = {"nginx": 0.95, "static.File": 1.5}
    cost_aims = {"nginx": 1.3, "static.File": 0.4}
    ours, *peers = speeds
    for peer in peers:
        what = f"{at_once} at once, MB a second"
        aim = speed_aims.get(peer)
        report_ratio(what, median(speeds[ours]), peer, median(speeds[peer]), at_least=aim)
    for peer in peers:
        what = f"{at_once} at once, CPU seconds for each GB"
        aim = cost_aims.get(peer)
        report_ratio(what, median(costs[ours]), peer, median(costs[peer]), at_most=aim)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.downloads", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=64, help="size of the archive (64)")
    parser.add_argument("--rounds", type=int, default=9, help="of all servers in turn (9)")
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 8, 32], help="(1 8 32)")
    options = parser.parse_args()
    size = options.megabytes * 1024 * 1024
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        place = Path(name)
        updates = place / "updates"
        updates.mkdir()
        make_archive(updates, size)
        starting = [(servers.update_server(updates, place), f"/update/{NAME}")]
        if servers.has_nginx():
            starting.append((servers.nginx(f"root {updates};", place), f"/{NAME}"))
        starting.append((servers.static_file(updates, place), f"/{NAME}"))
        starting.append((servers.peer("http.server", updates, place), f"/{NAME}"))
        running = {stack.enter_context(server): path for server, path in starting}
        stack.enter_context(servers.on_core(servers.LOAD_CORE))
        for server, path in running.items():
            download(server.port, path, 1)
            server.settle()
        for at_once in options.at_once:
            compare(running, size, at_once, options.rounds)


if __name__ == "__main__":
    main()
