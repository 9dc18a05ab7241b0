"""Shows a fleet: a good release walks to all boxes, and a bad one is held."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from demo.fates import Fate
from demo.narrator import Json, Narrator, is_done, is_held, run_all
from demo.programs import ENVIRONMENT, ROOT, kill_orphans, run
from demo.signer import Signer
from demo.small_boxes import write_admissions
from demo.small_releases import make_release
from demo.terminal import DemoFailed, say, step
from demo.update_server import UpdateServer, start_server
from opq_twisted.archive.name import UpdateName
from opq_twisted.cli.fleet.client import FleetClient, FleetFailed

#: The numbers of the boxes.
NUMBERS = range(1, 26)

#: The steps of a rollout to so many boxes, before all of them.
SHARES = (0.2, 0.5)

#: An hour of the engine takes a second.
FACTOR = 3600

#: What the bad release does to the boxes of the first step.
BAD = (*3 * (Fate.RETURNED,), *2 * (Fate.SILENT,))

#: Seconds until the end of each rollout.
TIMEOUT = 120.0

_DAY = 86400
_POLL_INTERVAL = 0.5
_SOCKET = "fleet.sock"


class FleetDemo:
    """A server, small boxes and the keys to their releases, in one folder."""

    def __init__(self, folder: Path, click: bool) -> None:
        self._folder = folder
        self._click = click
        self._signer = Signer(folder)
        self._bad = int(time.time())
        self._good = self._bad - _DAY
        self._old = self._good - _DAY
        self._narrator = Narrator({self._good: "The good release", self._bad: "The bad release"})

    def show(self) -> int:
        """Publish a good release and a bad one, and tell what becomes of them."""
        name = self._folder.relative_to(ROOT)
        say(f"An update server, 25 small boxes and keys, all in {name}. Nothing else is changed.")
        # Whatever the length of the folder's path, that of a socket is limited.
        os.chdir(self._folder)
        with step("1/4 Making the keys that the boxes trust"):
            self._signer.make_keys()
        with step("2/4 Making a good release and a bad one"):
            good, bad = (self._make_release(each) for each in (self._good, self._bad))
        with ExitStack() as running:
            running.callback(kill_orphans)
            with step("3/4 Starting the server"):
                server = self._start_server(running)
            with step("4/4 Starting the small boxes, and admitting their keys"):
                boxes = self._start_boxes(running, server.port)
                self._wait(server, boxes, lambda status: run_all(status, self._old))
            say("\nAn hour of a real rollout takes a second here.\n")
            self._publish(good, "Every box can run it")
            self._wait(server, boxes, lambda status: is_done(status, self._good))
            self._publish(bad, "No box can run it")
            self._wait(server, boxes, lambda status: is_held(status, self._bad))
            if self._click:
                return 0
            say("Ctrl-C ends the demo.")
            self._wait(server, boxes, None)
        raise AssertionError

    def _make_release(self, version: int) -> Path:
        return make_release(version, self._folder / str(version), NUMBERS, SHARES)

    def _start_server(self, running: ExitStack) -> UpdateServer:
        return start_server(
            running,
            self._folder,
            self._signer,
            *(f"--fleet-db=sqlite:///{self._folder}/fleet.db", f"--fleet-socket={_SOCKET}"),
            *("--rollouts=auto", f"--shorten-rollouts={FACTOR}", "--no-access-log"),
        )

    def _start_boxes(self, running: ExitStack, port: int) -> "subprocess.Popen[bytes]":
        folder = self._folder / "boxes"
        self._run_fleet("admit", write_admissions(folder, NUMBERS), "--because=the demo made them")
        command = [
            *(sys.executable, "-m", "demo.small_boxes"),
            *(f"--server=http://127.0.0.1:{port}", f"--root={self._signer.trusted_root}"),
            *(f"--folder={folder}", f"--release={self._old}"),
            f"--fates={json.dumps({self._bad: BAD})}",
            *map(str, NUMBERS),
        ]
        boxes = running.enter_context(
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
        running.callback(boxes.terminate)
        return boxes

    def _run_fleet(self, command: str, *arguments: str | Path) -> None:
        program = Path(sys.executable).with_name("opq-fleet")
        run(program, command, f"--socket={_SOCKET}", *arguments, folder=self._folder)

    def _publish(self, archive: Path, truth: str) -> None:
        """
        Offer a release to all boxes.

        :param truth: what the server does not know of it.
        """
        self._signer.publish(archive)
        _tell(f"Release {UpdateName.parse(archive.name).version} is published. {truth}.")

    def _wait(
        self,
        server: UpdateServer,
        boxes: "subprocess.Popen[bytes]",
        is_over: Callable[[Json], bool] | None,
    ) -> None:
        """
        Tell what happens until something is over; None: for ever.

        :raises DemoFailed: if it takes too long, or a program has ended.
        """
        deadline = time.monotonic() + TIMEOUT
        while is_over is None or time.monotonic() < deadline:
            if server.process.poll() is not None:
                server.wait()
            if boxes.poll() is not None:
                raise DemoFailed(f"The small boxes have ended; see {self._folder / 'boxes.log'}.")
            status = self._status()
            for line in self._narrator.tell(status):
                _tell(line)
            if is_over is not None and is_over(status):
                return
            time.sleep(_POLL_INTERVAL)
        raise DemoFailed(f"This took more than {TIMEOUT:.0f} seconds; see {server.log}.")

    def _status(self) -> Json:
        try:
            return FleetClient(_SOCKET).get("status").content
        except FleetFailed as error:
            raise DemoFailed(str(error)) from None


def _tell(line: str) -> None:
    say(f"{time.strftime('%H:%M:%S')}  {line}")
