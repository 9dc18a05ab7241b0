"""Starts the update server for the functional tests, and sends it requests."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest_twisted
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from opq_twisted.archive.name import UpdateName
from tests.functional.conftest import StartDaemon
from tests.functional.processes import TIMEOUT, Server, get, start_daemon, until
from tests.helpers.archives import make_archive, make_large_archive

#: A size in bytes: larger than the buffers between a server and a client.
LARGE = 32_000_000


def archive(folder: Path, version: int) -> Path:
    return make_archive(folder / str(UpdateName(version)), version)


def large_archive(folder: Path, version: int) -> Path:
    return make_large_archive(folder / str(UpdateName(version)), LARGE)


async def started(start: StartDaemon, updates: Path, *options: object) -> Server:
    """Start a server, and wait until it has read its directory, shortly after it listens."""
    server = start("opq-update-server", "--updates-dir", updates, *options)
    await get(f"{(await server.ready()).url}/")
    return server


@contextmanager
def serving(updates: Path) -> Iterator[Server]:
    """Run a server for all tests of a module."""
    server = pytest_twisted.blockon(Deferred.fromCoroutine(started(start_daemon, updates)))
    yield server
    pytest_twisted.blockon(Deferred.fromCoroutine(server.stop()))


async def exchange(server: Server, request: bytes) -> bytes:
    """Send bytes that no client would send; returns all bytes until the server closes."""

    def send() -> bytes:
        received = b""
        with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as client:
            client.sendall(request)
            while data := client.recv(65536):
                received += data
        return received

    return await deferToThread(send)


async def offers(server: Server, *versions: int) -> None:
    """Wait until the server offers these versions and no others."""
    expected = "".join(f"{UpdateName(version)}\n" for version in versions).encode()
    await until(lambda: get(f"{server.url}/ls"), lambda listed: listed == expected)


async def metrics(server: Server) -> dict[tuple[str, ...], float]:
    """Read all metrics, by name and the values of the labels, in the order of the labels."""
    text = (await get(f"{server.url}/metrics")).decode()
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def descriptors(server: Server) -> int:
    """Count the open descriptors of the server."""
    return len(os.listdir(f"/proc/{server.pid}/fd"))
