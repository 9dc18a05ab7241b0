"""Starts the update server for the functional tests, and asks it."""

import os
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from opq_twisted.archive.name import UpdateName
from tests.functional.conftest import StartDaemon
from tests.functional.processes import PATIENCE, Server, run
from tests.helpers.archives import make_archive, make_large_archive

TWISTD = os.fspath(Path(sys.executable).with_name("twistd"))

#: Seconds between two looks at what a server is like: it tells nobody of a change.
GLANCE = 0.01

#: More than the buffers between a server and a client hold.
LARGE = 32_000_000


def archive(folder: Path, version: int) -> Path:
    return make_archive(folder / str(UpdateName(version)), version)


def large_archive(folder: Path, version: int) -> Path:
    return make_large_archive(folder / str(UpdateName(version)), LARGE)


async def started(start: StartDaemon, updates: Path, *options: object) -> Server:
    """Start a server, and return when it knows its directory: it listens a moment before."""
    server = start("opq-update-server", "--updates-dir", updates, *options)
    await get(f"{(await server.ready()).url}/")
    return server


async def get(url: str) -> bytes:
    """Ask as Python's own client does."""

    def fetch() -> bytes:
        with urllib.request.urlopen(url, timeout=PATIENCE) as response:
            body: bytes = response.read()
        return body

    return await deferToThread(fetch)


async def offers(server: Server, *versions: int) -> None:
    """Wait until the server offers these and no others."""
    expected = "".join(f"{UpdateName(version)}\n" for version in versions).encode()
    for _ in range(int(PATIENCE / GLANCE)):
        listed = await get(f"{server.url}/ls")
        if listed == expected:
            return
        await deferLater(reactor, GLANCE)
    raise AssertionError(f"the server offers {listed!r}:\n{server.output}")


async def curl(*options: str) -> tuple[int, str]:
    """Return the status and the body of an answer."""
    ended, out, error = await run("curl", "-s", "-w", "\n%{http_code}", *options)
    assert ended == 0, error
    body, status = out.rsplit("\n", 1)
    return int(status), body


async def metrics(server: Server) -> dict[tuple[str, ...], float]:
    """All that the server tells of itself: by name and the labels' values, in the labels' order."""
    text = (await get(f"{server.url}/metrics")).decode()
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that nobody tells of."""
    for _ in range(int(PATIENCE / GLANCE)):
        if condition():
            return
        await deferLater(reactor, GLANCE)
    raise AssertionError("what was waited for did not come")


def descriptors(server: Server) -> int:
    """Count what the server has open."""
    return len(os.listdir(f"/proc/{server.pid}/fd"))
