"""Small boxes beside the machine, and what the server says of all of them."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from demo.fates import Fate
from demo.small_boxes import write_admissions
from tests.vm.box import VmBox
from tests.vm.cache import ROOT
from tests.vm.report import Broken

_POLL_INTERVAL = 1.0

#: `opq-fleet status` exits with this if something is held.
_HELD = 10


class Fleet:
    """The update server of a box keeps a fleet; it ends with the context, as do the small boxes."""

    def __init__(self, box: VmBox, shorten: float) -> None:
        """:param shorten: all times of the engine are divided by this."""
        self._box = box
        self._shorten = shorten
        self._running = ExitStack()
        self._folder = box.folder / "fleet"
        self._folder.mkdir()

    def __enter__(self) -> Self:
        """Start the server again, with a database."""
        # The path of a socket is limited.
        run_folder = self._running.enter_context(tempfile.TemporaryDirectory(prefix="opq-vm-"))
        self._socket = Path(run_folder, "fleet.sock")
        self._box.server.stop()
        self._box.serve(
            *(f"--fleet-db=sqlite:///{self._folder.absolute()}/fleet.db", "--rollouts=auto"),
            *(f"--fleet-socket={self._socket}", f"--shorten-rollouts={self._shorten:g}"),
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def admit(self, admissions: Path) -> None:
        """Let keys count in the next rollout."""
        self._opq_fleet("admit", os.fspath(admissions), "--because=they are the boxes of a test")

    def start(
        self, numbers: Sequence[int], release: int, fates: Mapping[int, Sequence[Fate]]
    ) -> None:
        """
        Start small boxes, and wait until the server knows them.

        :param release: the release that they run.
        :param fates: what becomes of those that install a release, in turn.
        """
        self.admit(write_admissions(self._folder, numbers))
        command = [
            *("setpriv", "--pdeathsig=TERM", sys.executable, "-m", "demo.small_boxes"),
            *(f"--server=http://127.0.0.1:{self._box.server_port}", f"--folder={self._folder}"),
            *(
                f"--root={self._box.keys.root}",
                f"--release={release}",
                f"--fates={json.dumps(fates)}",
            ),
            *("--report-every=5", *map(str, numbers)),
        ]
        with (self._folder / "boxes.log").open("wb") as log:
            boxes = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        self._running.enter_context(boxes)
        self._running.callback(boxes.terminate)
        known = {"release": release, "boxes": len(numbers)}
        self.wait("knows the small boxes", lambda: known in self.status()["releases"], 120)

    def status(self) -> dict[str, Any]:
        """Return what `opq-fleet status` says, for programs."""
        content: dict[str, Any] = json.loads(self._opq_fleet("status", "--json"))
        return content

    def text(self) -> str:
        """Return what `opq-fleet status` says, for people."""
        return self._opq_fleet("status")

    def attempts(self, number: int) -> list[dict[str, Any]]:
        """Return the attempts of a box that has reported, the last one first."""
        content: list[dict[str, Any]] = json.loads(self._opq_fleet("box", str(number), "--json"))[
            "attempts"
        ]
        return content

    def wait(self, what: str, is_so: Callable[[], bool], seconds: float) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > deadline:
                raise Broken(f"After {seconds:.0f} seconds it is not so that the server {what}.")
            time.sleep(_POLL_INTERVAL)

    def _opq_fleet(self, command: str, *arguments: str) -> str:
        program = os.fspath(Path(sys.executable).with_name("opq-fleet"))
        ended = subprocess.run(
            [program, command, f"--socket={self._socket}", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if ended.returncode not in (0, _HELD):
            raise Broken(f"opq-fleet {command} ended with {ended.returncode}: {ended.stdout}")
        return ended.stdout
