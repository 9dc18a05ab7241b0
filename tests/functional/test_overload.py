"""Many or slow clients do not keep the server from its responses to others."""

import json
import os
import random
import re
import resource
import selectors
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from opq_twisted.archive.name import UpdateName
from tests.functional.conftest import StartDaemon
from tests.functional.processes import TIMEOUT, Server, curl, eventually, get, skip
from tests.functional.update_server import archive, descriptors, large_archive, metrics, started

DOWNLOAD = f"GET /update/{UpdateName(1)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    """Connections that are closed after the test."""
    with ExitStack() as stack:
        yield stack


def connect(server: Server, clients: ExitStack, buffer: int | None = None) -> socket.socket:
    """Connect, with a small buffer for a slow client."""
    client = clients.enter_context(socket.socket())
    if buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.settimeout(TIMEOUT)
    client.connect(("127.0.0.1", server.port))
    return client


def room_for(count: int) -> None:
    """Raise the limit of descriptors, or skip the test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + 200
    if hard not in (resource.RLIM_INFINITY,) and hard < needed:
        skip(f"this test needs {needed} descriptors: raise the limit (ulimit -Hn)")
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@pytest_twisted.ensureDeferred
async def test_slow_and_silent(start: StartDaemon, updates: Path, clients: ExitStack) -> None:
    """Clients that send nothing, half a request, or read nothing do not delay others."""
    room_for(1500)
    large_archive(updates, 1)
    server = await started(start, updates)
    before = descriptors(server)

    def arrive() -> None:
        for beginning in (b"", b"GET /version HT", b"GET / HTTP/1.1\r\nX: "):
            for _ in range(300):
                connect(server, clients).sendall(beginning)
        for _ in range(300):
            connect(server, clients, buffer=4096).sendall(DOWNLOAD)

    await deferToThread(arrive)
    while (await metrics(server)).get(("opq_downloads_in_progress", "1")) != 300:
        pass
    for _ in range(50):
        assert await get(f"{server.url}/version") == b"1"
    clients.close()
    await eventually(lambda: descriptors(server) <= before)
    found = await metrics(server)
    assert found["opq_downloads_total", "cut", "1"] == 300


@pytest_twisted.ensureDeferred
async def test_vanishing(start: StartDaemon, updates: Path, clients: ExitStack) -> None:
    """Clients that disconnect at any byte leave no descriptor open."""
    large_archive(updates, 1)
    server = await started(start, updates)
    before = descriptors(server)
    source = random.Random(1)

    def come_and_go() -> None:
        for _ in range(200):
            with ExitStack() as one:
                client = connect(server, one, buffer=source.choice([None, 4096]))
                if source.random() < 0.2:
                    client.sendall(DOWNLOAD[: source.randint(0, len(DOWNLOAD) - 1)])
                else:
                    client.sendall(DOWNLOAD)
                    left = source.choice([0, 1, 300, 100_000, 5_000_000])
                    while left > 0:
                        left -= len(client.recv(min(left, 65536)))
                if source.random() < 0.5:
                    linger = struct.pack("ii", 1, 0)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    await deferToThread(come_and_go)
    await eventually(lambda: descriptors(server) <= before)
    assert await get(f"{server.url}/version") == b"1"
    assert "Traceback" not in server.output


@pytest_twisted.ensureDeferred
async def test_too_many_downloads(start: StartDaemon, updates: Path, clients: ExitStack) -> None:
    """Downloads over the limit get 503 with Retry-After; later there is room again."""
    path = large_archive(updates, 1)
    server = await started(start, updates, "--max-downloads", 2)
    for _ in range(2):
        client = connect(server, clients, buffer=4096)
        client.sendall(DOWNLOAD)
        await deferToThread(client.recv, 100)
    status, sentence = await curl("-i", f"{server.url}/update/{path.name}")
    assert status == 503
    assert "There are too many downloads at once. Try again in a little while." in sentence
    retry_after = re.search(r"Retry-After: (\d+)\r", sentence)
    assert retry_after is not None
    assert 10 <= int(retry_after[1]) <= 60
    assert await curl(f"{server.url}/version") == (200, "1")
    clients.close()
    while ("opq_downloads_in_progress", "1") in await metrics(server):
        pass
    assert await get(f"{server.url}/update/{path.name}") == path.read_bytes()


@pytest_twisted.ensureDeferred
async def test_too_many_connections(start: StartDaemon, updates: Path, clients: ExitStack) -> None:
    """A connection over the limit is reset at once; a closed one makes room."""
    archive(updates, 1)
    server = await started(start, updates, "--max-connections", 20)
    held = [connect(server, clients) for _ in range(20)]
    for client in held:
        client.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await deferToThread(client.recv, 1000)).endswith(b"\r\n1")
    with pytest.raises(ConnectionResetError):
        await deferToThread(connect(server, clients).recv, 1)
    held[0].close()

    def answered() -> bool:
        with ExitStack() as one, suppress(ConnectionError):
            client = connect(server, one)
            client.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return client.recv(1000).startswith(b"HTTP/1.1 200 ")
        return False

    while not await deferToThread(answered):
        pass


@pytest_twisted.ensureDeferred
async def test_waiting_fleet(start: StartDaemon, updates: Path, clients: ExitStack) -> None:
    """2,000 boxes that wait are all answered when a release is renamed into the directory."""
    room_for(2500)
    path = archive(updates, 1)
    server = await started(start, updates)
    request = b'GET /version HTTP/1.1\r\nHost: x\r\nIf-None-Match: "1"\r\nPrefer: wait=300\r\n\r\n'

    def arrive() -> list[socket.socket]:
        fleet = [connect(server, clients) for _ in range(2000)]
        for box in fleet:
            box.sendall(request)
        return fleet

    def read_responses(fleet: list[socket.socket]) -> list[bytes]:
        selector = selectors.DefaultSelector()
        answers: list[bytes] = []
        for box in fleet:
            selector.register(box, selectors.EVENT_READ)
        while len(answers) < len(fleet):
            ready = selector.select(TIMEOUT)
            assert ready
            for key, _ in ready:
                selector.unregister(key.fileobj)
                answers.append(key.fileobj.recv(1000))  # type: ignore[union-attr]
        selector.close()
        return answers

    fleet = await deferToThread(arrive)
    while (await metrics(server))["opq_waiting_boxes",] < 2000:
        pass
    path.rename(updates / str(UpdateName(2)))
    for answer in await deferToThread(read_responses, fleet):
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nPreference-Applied: wait=300\r\n" in answer
        assert answer.endswith(b"\r\n\r\n2")
    assert (await metrics(server))["opq_waiting_boxes",] == 0


@pytest_twisted.ensureDeferred
async def test_wait_that_ends(start: StartDaemon, updates: Path) -> None:
    """A wait without a release ends with 304 and the waited time."""
    archive(updates, 1)
    server = await started(start, updates)
    status, head = await curl(
        *("-i", "-H", 'If-None-Match: "1"', "-H", "Prefer: wait=1", f"{server.url}/version")
    )
    assert status == 304
    assert "Preference-Applied: wait=1\r\n" in head


@pytest_twisted.ensureDeferred
async def test_access_log(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """Requests are logged on standard output, or in a file, or not at all."""
    archive(updates, 1)
    server = await started(start, updates)
    await curl("-A", "a box", f"{server.url}/version")
    line = json.loads((await server.says(r'\{"time": .*"uri": "/version".*\}'))[0])
    assert (line["status"], line["agent"]) == (200, "a box")

    log = tmp_path / "access.log"
    logging = await started(start, updates, "--access-log", log)
    await curl(f"{logging.url}/ls")
    await eventually(lambda: '"uri": "/ls"' in log.read_text())

    quiet = await started(start, updates, "--no-access-log")
    await curl(f"{quiet.url}/ls")
    await quiet.stop()
    for silent in (logging, quiet):
        assert '"uri"' not in silent.output


def start_unread(folder: Path, updates: Path, output: int) -> "subprocess.Popen[bytes]":
    """Start a server on a UNIX socket, with a standard output that the test has filled."""
    return subprocess.Popen(
        [
            *(Path(sys.executable).with_name("twistd"), "--nodaemon", "--pidfile="),
            *("opq-update-server", "--updates-dir", updates, "--port", f"unix:{folder / 'http'}"),
        ],
        stdout=output,
        env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify")},
    )


@pytest_twisted.ensureDeferred
async def test_output_that_nobody_reads(updates: Path, clients: ExitStack) -> None:
    """A server whose log nobody reads responds, survives SIGHUP, and ends on SIGTERM."""
    archive(updates, 1)
    folder = Path(clients.enter_context(TemporaryDirectory()))
    notified = clients.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    notified.bind(str(folder / "notify"))
    notified.settimeout(TIMEOUT)
    # A killed server has left its socket, and a lock with the PID of another process.
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / "http"))
    (folder / "http.lock").symlink_to(str(os.getpid()))
    read, write = os.pipe()
    clients.callback(os.close, read)
    os.set_blocking(write, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write, b"x" * 4096)
    os.set_blocking(write, True)
    server = start_unread(folder, updates, write)
    clients.callback(server.kill)
    os.close(write)
    assert await deferToThread(notified.recv, 100) == b"READY=1"
    for _ in range(3):
        asked = await curl("--unix-socket", str(folder / "http"), "http://x/[1-50]")
        assert asked[0] == 404
        server.send_signal(signal.SIGHUP)
    assert await curl("--unix-socket", str(folder / "http"), "http://x/version") == (200, "1")
    server.terminate()
    assert await deferToThread(server.wait, TIMEOUT) in (0, -signal.SIGTERM)
    assert await deferToThread(notified.recv, 100) == b"STOPPING=1"


@pytest_twisted.ensureDeferred
async def test_bad_options(start: StartDaemon, updates: Path, tmp_path: Path) -> None:
    """An invalid option ends the process with status 2 and a sentence, a bad file with 1."""
    for option, value, sentence, status in (
        ("--mirror", "mirror.example.org", "give a URL such as", 2),
        ("--heartbeat", "0", "--heartbeat 0: give a number from 0.1 to 86400.", 2),
        ("--max-downloads", "none", "--max-downloads none: give a number from 1 to 1000000.", 2),
        ("--access-log", tmp_path / "missing" / "log", "Cannot write the access log", 1),
    ):
        server = start("opq-update-server", "--updates-dir", updates, option, value)
        await server.refuses_to_start(sentence, status=status)
