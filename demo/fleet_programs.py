"""Starts the programs of a fleet: the server with its page, and the small boxes."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from attrs import Factory, frozen

from demo.fates import Fate
from demo.folder import claim_port
from demo.narrator import Json
from demo.programs import ENVIRONMENT, ROOT, run
from demo.signer import Signer
from demo.small_boxes import write_admissions
from demo.terminal import DemoFailed
from demo.update_server import UpdateServer, start_server
from opq_twisted.cli.fleet.client import FleetClient, FleetFailed

#: The engine's times are divided by this: an hour takes a second.
FACTOR = 3600

# The programs run in the folder of the demo, because the path of a socket must be short.
_SOCKET, _OPERATORS, _DATABASE = "fleet.sock", "operators", "fleet.db"


@frozen
class Page:
    """The page of the fleet, with the name and the password of its operator."""

    #: The update server has one of the ten ports below.
    port: int = Factory(lambda: claim_port(8161))
    name: str = "anna"
    password: str = Factory(lambda: secrets.token_hex(4))


class FleetPrograms:
    """The running programs of a demo."""

    def __init__(self, folder: Path, signer: Signer, running: ExitStack) -> None:
        """:param running: ends the programs when it is closed."""
        self._folder = folder
        self._signer = signer
        self._running = running
        self._server: UpdateServer | None = None
        self._boxes: subprocess.Popen[bytes] | None = None
        self.page = Page()
        os.chdir(folder)

    def start_server(self) -> None:
        """Start the server, and let a person use its page."""
        page = self.page
        operator = (f"--operators={_OPERATORS}", "--role=operator", page.name)
        self._opq_fleet("add-operator", *operator, given=f"{page.password}\n")
        self._server = start_server(
            self._running,
            self._folder,
            self._signer,
            *(f"--fleet-db=sqlite:///{_DATABASE}", f"--fleet-socket={_SOCKET}"),
            *("--rollouts=auto", f"--shorten-rollouts={FACTOR}", "--no-access-log"),
            f"--fleet-port=tcp:{page.port}:interface=127.0.0.1",
            f"--fleet-operators={_OPERATORS}",
        )

    def start_boxes(
        self, numbers: Sequence[int], release: int, fates: Mapping[int, Sequence[Fate]]
    ) -> None:
        """
        Start small boxes whose keys are admitted.

        :param release: the release that they run.
        :param fates: the fates of the boxes that install a release, in turn.
        """
        assert self._server is not None
        folder = self._folder / "boxes"
        admissions = write_admissions(folder, numbers)
        self._opq_fleet("admit", f"--socket={_SOCKET}", str(admissions), "--because=They are new.")
        command = [
            *(sys.executable, "-m", "demo.small_boxes"),
            *(f"--server=http://127.0.0.1:{self._server.port}", f"--folder={folder}"),
            *(f"--root={self._signer.trusted_root}", f"--release={release}"),
            *(f"--fates={json.dumps(fates)}", *map(str, numbers)),
        ]
        self._boxes = self._running.enter_context(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=(self._folder / "boxes.log").open("wb"),
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        )
        self._running.callback(self._boxes.terminate)

    def status(self) -> Json:
        """
        Return the JSON of `opq-fleet status`.

        :raises DemoFailed: if a program has ended.
        """
        if self._server is not None and self._server.process.poll() is not None:
            self._server.wait()
        if self._boxes is not None and self._boxes.poll() is not None:
            raise DemoFailed(f"The small boxes have ended; see {self._folder / 'boxes.log'}.")
        try:
            return FleetClient(_SOCKET).get("status").content
        except FleetFailed as error:
            raise DemoFailed(str(error)) from None

    def _opq_fleet(self, command: str, *arguments: str, given: str = "") -> None:
        program = Path(sys.executable).with_name("opq-fleet")
        run(program, command, *arguments, folder=self._folder, given=given)
