"""Measures responses a second, against a bare resource of Twisted and against nginx."""

import argparse
import re
import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from statistics import median

from benchmarks import servers
from benchmarks.figures import report_ratio
from benchmarks.servers import Server
from benchmarks.watch import fill, get

PATHS = ("version", "latest", "ls")

#: Parallel clients, each with a persistent connection.
CLIENTS = 16

#: nginx accepts no longer word in its configuration.
_MOST_ARCHIVES = 110

Load = Callable[[int, str, float], float]


def body_of(server: Server, path: str) -> bytes:
    _, body, _ = get(HTTPConnection("127.0.0.1", server.port, servers.TIMEOUT), f"/{path}")
    return body


def load_by_wrk(port: int, path: str, seconds: float) -> float:
    """Return the responses a second, as wrk counts them."""
    command = ["wrk", "-t1", f"-c{CLIENTS}", f"-d{seconds:g}s", f"http://127.0.0.1:{port}/{path}"]
    said = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=seconds + servers.TIMEOUT
    ).stdout
    found = re.search(r"Requests/sec: *([0-9.]+)", said)
    if found is None or "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"{' '.join(command)} says:\n{said}")
    return float(found[1])


def load_by_python(port: int, path: str, seconds: float) -> float:
    """Return the responses a second without wrk: this client may be slower than a server."""
    request = b"GET /%s HTTP/1.1\r\nHost: bench\r\n\r\n" % path.encode()
    answered = 0
    with ExitStack() as stack:
        epoll = stack.enter_context(select.epoll())
        clients = {}
        for _ in range(CLIENTS):
            client = socket.create_connection(("127.0.0.1", port), servers.TIMEOUT)
            clients[stack.enter_context(client).fileno()] = client
            epoll.register(client, select.EPOLLIN)
            client.sendall(request)
        received = dict.fromkeys(clients, b"")
        start = time.perf_counter()
        while (taken := time.perf_counter() - start) < seconds:
            for fd, _ in epoll.poll(seconds):
                received[fd] += clients[fd].recv(65536)
                if whole(received[fd]):
                    answered += 1
                    received[fd] = b""
                    clients[fd].sendall(request)
    return answered / taken


def whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"\r\nContent-Length: *(\d+)", head, re.IGNORECASE)
    return bool(end) and length is not None and len(body) >= int(length[1])


def choose_load() -> Load:
    if shutil.which("wrk"):
        return load_by_wrk
    print(
        "wrk is not installed: measuring with Python, which may be slower than the server",
        flush=True,
    )
    return load_by_python


def start_all(stack: ExitStack, place: Path, updates: Path) -> list[Server]:
    """Start our server, and peers that respond with the same bodies."""
    ours = stack.enter_context(servers.update_server(updates, place))
    bodies = place / "bodies"
    bodies.mkdir()
    locations = ""
    for path in PATHS:
        body = body_of(ours, path)
        (bodies / path).write_bytes(body)
        locations += f'location = /{path} {{ return 200 "{body.decode()}"; }}\n'
    logs = "twisted.web that logs as twistd does"
    starting = [
        servers.peer("twisted.web", bodies, place),
        servers.twistd_web(logs, "--class=benchmarks.peers.Constants", bodies, place),
    ]
    if servers.has_nginx():
        starting.append(servers.nginx(locations, place))
    return [ours, *(stack.enter_context(each) for each in starting)]


def compare(running: list[Server], path: str, load: Load, rounds: int, seconds: float) -> None:
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for server in running:
            rates[server.name].append(load(server.port, path, seconds))
    ours, *peers = rates
    for peer in peers:
        aim = 1.0 if peer.startswith("twisted.web") else None
        what = f"/{path}, answers a second"
        report_ratio(what, median(rates[ours]), peer, median(rates[peer]), at_least=aim)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.answers", description=__doc__)
    parser.add_argument("--archives", type=int, default=100, help="in the directory (100)")
    parser.add_argument("--rounds", type=int, default=9, help="of all servers in turn (9)")
    parser.add_argument("--seconds", type=float, default=1, help="of each server's turn (1)")
    options = parser.parse_args()
    if not 1 <= options.archives <= _MOST_ARCHIVES:
        parser.error(f"--archives is from 1 to {_MOST_ARCHIVES}")
    load = choose_load()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        place = Path(name)
        updates = place / "updates"
        updates.mkdir()
        fill(updates, options.archives)
        running = start_all(stack, place, updates)
        stack.enter_context(servers.on_core(servers.LOAD_CORE))
        for server in running:
            load(server.port, PATHS[0], 1)
            server.settle()
        for path in PATHS:
            compare(running, path, load, options.rounds, options.seconds)


if __name__ == "__main__":
    main()
