"""A box: the machine, its agent's page, and its update server."""

import json
import shutil
import socket
import time
import urllib.request
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path
from typing import Any, Self

from attrs import frozen

from opq_twisted.archive.name import UpdateName
from tests.vm.guest import Shell
from tests.vm.image import Image
from tests.vm.machine import HOST, Machine
from tests.vm.releases import COMPONENT, Keys
from tests.vm.report import Broken
from tests.vm.server import UpdateServer

#: Seconds until the page must respond after the start, even on a slow host.
BOOT = 240.0

CONFIG = "/etc/opq/opqbox_config.json"
PREFIX = "/opt/opq"
STATE = "/var/lib/opq/updater"

#: The stages in which no update is under way.
AT_REST = ("idle", "failed")
_POLL_INTERVAL = 0.3

#: The settings of a tested box: no automatic installs, and short waits.
UPDATER = {
    "install": "click",
    "settle": 10,
    "confirm_timeout": 120,
    "services": [f"{COMPONENT}.service"],
}


@frozen
class Prepared:
    """The start of all boxes: the release `old` is installed, and `new` is built."""

    image: Image
    disk: Path
    keys: Keys
    old: Path
    new: Path

    @property
    def durations(self) -> Path:
        """The file with the duration of each stage of an update."""
        return self.disk.with_name("durations.json")

    @property
    def old_version(self) -> int:
        """The version of `old`."""
        return UpdateName.parse(self.old.name).version

    @property
    def new_version(self) -> int:
        """The version of `new`."""
        return UpdateName.parse(self.new.name).version

    @property
    def archives(self) -> dict[int, Path]:
        """Both releases, by version."""
        return {self.old_version: self.old, self.new_version: self.new}


class VmBox:
    """One box and its update server, which stop at the end of the context."""

    def __init__(self, prepared: Prepared, folder: Path) -> None:
        """:param folder: for the disk, the updates and the logs; its old content is removed."""
        self.prepared = prepared
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder = folder
        self.keys = Keys(folder / "keys")
        self.updates = self.keys.updates
        self._running = ExitStack()
        self._page_port = free_port()
        self.server_port = free_port()

    def __enter__(self) -> Self:
        """Start both; the box knows where its update server is."""
        try:
            self._start()
        except BaseException:
            self._running.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def _start(self) -> None:
        prepared = self.prepared
        # opq-release stores its last signatures beside the keys, so each box has a copy.
        shutil.copytree(prepared.keys.folder, self.keys.folder)
        self.machine = self._running.enter_context(
            Machine(prepared.image, prepared.disk, self.folder, self._page_port)
        )
        self.shell = Shell(self.machine.shell_socket)
        self._running.callback(self.shell.close)
        self.boot()
        self.serve()
        self._running.callback(lambda: self.server.stop())
        self.shell.ready(BOOT)
        self.configure()

    @property
    def url(self) -> str:
        """The URL of the page on this host."""
        return f"http://127.0.0.1:{self._page_port}"

    def serve(self, *options: str) -> None:
        """Start the update server; one that runs has to be stopped before."""
        log = self.folder / "server.log"
        self.server = UpdateServer(self.keys, self.server_port, log, *options)

    def configure(self, number: int = 1, **changes: object) -> None:
        """Write the configuration, and restart the agent, as in the manual."""
        config = configuration(self.server_port, number, **changes)
        self.shell.run(f"cat >{CONFIG} && sync", input=config)
        self.shell.run("systemctl restart opq-box-agent", seconds=BOOT)
        self.answers(BOOT)

    def boot(self) -> None:
        """Switch the machine on."""
        self.machine.boot()

    def cut(self) -> None:
        """Cut the power."""
        self.machine.cut()
        self.shell.close()

    def publish(self, archive: Path, version: int) -> None:
        """Offer a release to the box, signed."""
        self.keys.publish(archive)
        self.server.offers(version)

    def click(self) -> None:
        """Click on Update Box."""
        self._ask("box_update", b"")

    def status(self) -> dict[str, Any]:
        """
        Request the status of the box.

        :raises OSError: if the box does not respond.
        """
        return self._ask("status")

    def answers(self, seconds: float) -> dict[str, Any]:
        """Wait until the page responds."""
        deadline = time.monotonic() + seconds
        while True:
            self.machine.must_run()
            try:
                return self.status()
            except OSError as error:
                if time.monotonic() > deadline:
                    raise Broken(f"The box's page does not answer: {error}.") from None
            time.sleep(_POLL_INTERVAL)

    def rests(self, before: dict[str, Any], seconds: float) -> dict[str, Any]:
        """
        Wait until an update has ended, successfully or not.

        :param before: the status before the update.
        """
        deadline = time.monotonic() + seconds
        status: dict[str, Any] | None = None
        while time.monotonic() < deadline:
            self.machine.must_run()
            try:
                status = self.status()
            except OSError:
                time.sleep(_POLL_INTERVAL)  # It is starting, or down.
                continue
            ended = status["last_attempt"] != before["last_attempt"]
            if ended and status["stage"] in AT_REST:
                return status
            time.sleep(_POLL_INTERVAL)
        stage = "no answer" if status is None else f"{status['stage']}: {status['message']}"
        raise Broken(f"The box does not come to rest in {seconds:.0f} seconds: {stage}")

    def _ask(self, path: str, data: bytes | None = None) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.url}/{path}", data)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                content: dict[str, Any] = json.load(answer)
        except (HTTPException, ValueError) as error:
            raise OSError(f"the answer was cut: {error}") from None
        return content


def configuration(server_port: int, number: int = 1, **changes: object) -> str:
    """Make a configuration for a server at this port of this host."""
    config = {
        "updates_ep": f"http://{HOST}:{server_port}",
        "box_id": number,
        "updater": {**UPDATER, **changes},
    }
    return json.dumps(config, indent=2) + "\n"


def free_port() -> int:
    """Find a port of loopback that nobody has."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
