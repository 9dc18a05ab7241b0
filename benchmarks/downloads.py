"""Measures parallel downloads, in bytes a second and in CPU, against nginx, Twisted and Python."""

import argparse
import bz2
import os
import re
import select
import socket
import ssl
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median

from benchmarks import servers
from benchmarks.figures import report_ratio
from benchmarks.servers import Certificate, Server
from opq_twisted.archive.name import UpdateName
from tests.helpers.certificates import make_certificate

NAME = str(UpdateName(1_500_000_000))

#: A round with fewer parallel downloads has more of them in sequence.
_LEAST_IN_A_ROUND = 8

_BUFFER = memoryview(bytearray(1024 * 1024))

_SPEED_AIMS = {"nginx": 1.0, "nginx over TLS": 0.9, "static.File": 1.5}
_COST_AIMS = {"nginx": 1.2, "nginx over TLS": 1.3, "static.File": 0.4}

#: TLS 1.3 (RFC 8446): the bytes of a record's header, what encryption adds to each, and more than
#: a record has.
_HEADER = 5
_PROTECTION = 17
_RECORD = 1 << 15

_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_CONTEXT.check_hostname = False
_CONTEXT.verify_mode = ssl.CERT_NONE
_CONTEXT.minimum_version = ssl.TLSVersion.TLSv1_3


def make_archive(folder: Path, size: int) -> None:
    """Write a file with the two ends of a bzip2 file, which our server takes for an archive."""
    end = bz2.compress(b"")
    noise = os.urandom(size - 10 - len(end))
    (folder / NAME).write_bytes(end[:4] + bytes.fromhex("314159265359") + noise + end)


class Download:
    """One download over its own connection."""

    #: Bytes of the body that are still to come; None before the head of the answer.
    left: int | None = None
    _head = b""

    def __init__(self, port: int) -> None:
        self.connection = socket.create_connection(("127.0.0.1", port), servers.TIMEOUT)

    def start(self, path: str) -> None:
        """Ask for the file."""
        self.connection.sendall(self._encode(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode()))
        self.connection.setblocking(False)

    def _encode(self, request: bytes) -> bytes:
        return request

    def receive(self) -> None:
        """Read the available bytes."""
        count = self._receive_into(_BUFFER)
        if self.left is None:
            self._read_head(bytes(_BUFFER[:count]))
        else:
            self.left -= count

    def _receive_into(self, buffer: memoryview) -> int:
        count = self.connection.recv_into(buffer)
        if count == 0:
            raise SystemExit(f"The download was cut: {self._head!r}, {self.left} bytes left")
        return count

    def _read_head(self, data: bytes) -> None:
        self._head += data
        head, end, body = self._head.partition(b"\r\n\r\n")
        if not end:
            return
        length = re.search(rb"\r\nContent-Length: *(\d+)", head, re.IGNORECASE)
        if length is None or b" 200 " not in head.splitlines()[0]:
            raise SystemExit(f"Not the answer that was expected: {head!r}")
        self._head, self.left = head, int(length[1]) - len(body)


class EncryptedDownload(Download):
    """
    One download over TLS 1.3. Only the head of the answer is decrypted.

    If the client decrypted the body, it would be as busy as the server, and hide its speed.
    """

    #: The begin of a record that has not arrived completely, or the bytes before the next one.
    _begun = b""
    _skipped = 0

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = _CONTEXT.wrap_bio(self._received, self._to_send)
        while True:
            with suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
                break
            self.connection.sendall(self._to_send.read())
            self._received.write(self.connection.recv(_RECORD))

    def _encode(self, request: bytes) -> bytes:
        self._tls.write(request)
        return self._to_send.read()

    def receive(self) -> None:
        """Read the available bytes, and count what is in their records (RFC 8446, section 5)."""
        begun = len(self._begun)
        _BUFFER[:begun] = self._begun
        count = begun + self._receive_into(_BUFFER[begun:])
        record = self._skipped
        while record + _HEADER <= count:
            length = int.from_bytes(_BUFFER[record + 3 : record + _HEADER], "big")
            end = record + _HEADER + length
            if self.left is not None:
                self.left -= length - _PROTECTION
            elif end <= count:
                self._decrypt(_BUFFER[record:end])
            else:
                break
            record = end
        self._begun = bytes(_BUFFER[record:count])
        self._skipped = max(0, record - count)

    def _decrypt(self, record: memoryview) -> None:
        self._received.write(record)
        # The record may be a session ticket.
        with suppress(ssl.SSLWantReadError):
            self._read_head(self._tls.read(_RECORD))


def download(server: Server, path: str, at_once: int) -> float:
    """Download so many times in parallel; returns the seconds."""
    start = time.perf_counter()
    with select.epoll() as epoll:
        kind = EncryptedDownload if server.is_encrypted else Download
        downloads = {
            each.connection.fileno(): each for each in (kind(server.port) for _ in range(at_once))
        }
        for fd, each in downloads.items():
            epoll.register(fd, select.EPOLLIN)
            each.start(path)
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
    seconds = sum(download(server, path, at_once) for _ in range(times))
    cpu = server.cpu() - before
    moved = size * at_once * times
    return moved / seconds / 1e6, cpu / moved * 1e9


def compare(running: dict[Server, str], size: int, at_once: int, rounds: int) -> None:
    """Measure the servers in turn, and print the figures of the first against each other one."""
    speeds: dict[str, list[float]] = defaultdict(list)
    costs: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for server, path in running.items():
            speed, cost = measure(server, path, size, at_once)
            speeds[server.name].append(speed)
            costs[server.name].append(cost)
    ours, *peers = speeds
    for peer in peers:
        what = f"{at_once} at once, MB a second"
        aim = _SPEED_AIMS.get(peer)
        report_ratio(what, median(speeds[ours]), peer, median(speeds[peer]), at_least=aim)
    for peer in peers:
        what = f"{at_once} at once, CPU seconds for each GB"
        aim = _COST_AIMS.get(peer)
        report_ratio(what, median(costs[ours]), peer, median(costs[peer]), at_most=aim)


def start(
    updates: Path, place: Path, tls: Certificate | None, stack: ExitStack
) -> dict[Server, str]:
    """Start the servers, all of them over TLS or none; returns the paths of the archive."""
    starting = [(servers.update_server(updates, place, tls), f"/update/{NAME}")]
    if servers.has_nginx():
        starting.append((servers.nginx(f"root {updates};", place, tls), f"/{NAME}"))
    if tls is None:
        starting.append((servers.static_file(updates, place), f"/{NAME}"))
        starting.append((servers.peer("http.server", updates, place), f"/{NAME}"))
    return {stack.enter_context(server): path for server, path in starting}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.downloads", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=64, help="size of the archive (64)")
    parser.add_argument("--rounds", type=int, default=9, help="of all servers in turn (9)")
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 8, 32], help="(1 8 32)")
    options = parser.parse_args()
    size = options.megabytes * 1024 * 1024
    with tempfile.TemporaryDirectory() as name:
        updates = Path(name) / "updates"
        updates.mkdir()
        make_archive(updates, size)
        certificate = Certificate(Path(name) / "key.pem", Path(name) / "certificate.pem")
        make_certificate(certificate.key, certificate.path)
        for tls in (None, certificate):
            place = Path(name) / ("plain" if tls is None else "tls")
            place.mkdir()
            with ExitStack() as stack:
                running = start(updates, place, tls, stack)
                stack.enter_context(servers.on_core(servers.LOAD_CORE))
                for server, path in running.items():
                    download(server, path, 1)
                    server.settle()
                for at_once in options.at_once:
                    compare(running, size, at_once, options.rounds)


if __name__ == "__main__":
    main()
