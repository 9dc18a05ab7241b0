"""An update server with a fleet, for the functional tests."""

import json
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from twisted.internet.threads import deferToThread

from opq_twisted.cli.fleet.client import FleetClient
from opq_twisted.fleet.reports.incoming import Incoming
from opq_twisted.report.signature import HEADER
from tests.functional.conftest import StartDaemon
from tests.functional.processes import TIMEOUT, Server, run
from tests.functional.update_server import started
from tests.helpers.signed_metadata import Signed, write_key

OPQ_FLEET = str(Path(sys.executable).with_name("opq-fleet"))


@define
class FleetServer:
    """A server that takes reports, and by default signs timestamps."""

    _start: StartDaemon
    updates: Path
    signed: Signed
    #: Its URL for `--fleet-db`.
    database: str
    #: The Unix socket; its path must be short.
    socket: Path
    _more: tuple[object, ...] = ()
    #: Whether it has the timestamp's key.
    _signs: bool = True
    server: Server = field(init=False)
    _port: int | None = field(init=False, default=None)

    async def start(self, *prefix: str) -> None:
        """Start it, always on the same port."""
        options: list[object] = [
            *("--fleet-db", self.database, "--fleet-socket", self.socket, *self._more)
        ]
        if self._signs:
            key = self.updates.parent / "timestamp.pem"
            if not key.exists():
                write_key(key, self.signed.keys["timestamp"])
            options += ["--timestamp-key", key]
        if self._port is not None:
            options += ["--port", f"tcp:{self._port}:interface=127.0.0.1"]
        self.server = await started(self._start, self.updates, *options)
        self._port = self.server.port

    async def ask(self, *arguments: object, status: int = 0) -> Any:
        """Run `opq-fleet --json`; returns what it prints."""
        command = [OPQ_FLEET, "--socket", str(self.socket), "--json", *map(str, arguments)]
        code, out, err = await run(*command)
        assert code == status, (command, out, err, code)
        return json.loads(out) if out else None

    async def read(self, resource: str, **query: object) -> Any:
        """Ask what `opq-fleet` asks; a test that waits would start that very often."""
        client = FleetClient(str(self.socket))
        return (await deferToThread(client.get, resource, **query)).content


@frozen
class Reply:
    """What a server has replied to a report."""

    status: int
    headers: Any = field(repr=False, default=None)
    body: bytes = b""


async def send_report(url: str, report: Incoming, **headers: str) -> Reply:
    """Send a report of a box to a server, in a thread."""
    request = urllib.request.Request(
        f"{url}/report", report.body, {HEADER: report.signature, **headers}
    )

    def send() -> Reply:
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return Reply(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, error.headers, error.read())

    return await deferToThread(send)


@contextmanager
def short_folder() -> Iterator[Path]:
    """Make a folder whose path is short enough for a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="opq-", dir="/tmp") as name:
        yield Path(name)
