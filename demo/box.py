"""Runs the real agent of a box in a folder, as systemd does on a box."""

import ctypes
import json
import re
import subprocess
import threading
import time
from pathlib import Path

from demo.programs import ENVIRONMENT, fetch, run
from demo.terminal import DemoFailed, say

#: The seconds that a reboot of the box takes: long enough to see it on the page.
DOWN = 2.0

#: The seconds that an update may take with --click.
TIMEOUT = 300.0

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


class Box(threading.Thread):
    """Runs the agent of the current release, and restarts it as systemd does on a box."""

    def __init__(self, folder: Path, prefix: Path, port: int) -> None:
        super().__init__()
        self.port = port
        self.config = folder / "opqbox_config.json"
        self.log = folder / "agent.log"
        self.pid_file = folder / "agent.pid"
        self._state = folder / "state"
        self._current = prefix / "current"
        self._stopping = threading.Event()
        self._agent: subprocess.Popen[str] | None = None
        #: The time at which the update began.
        self._began: float | None = None

    def run(self) -> None:
        """Start the agent, and start it again each time it ends."""
        with self.log.open("w", encoding="utf-8") as log:
            while not self._stopping.is_set():
                agent = self._start_agent()
                assert agent.stdout is not None
                for line in agent.stdout:
                    log.write(line)
                    log.flush()
                    if stage := re.search(r"Stage: (\w+)", line):
                        self._show(stage[1])
                    elif fetched := re.search(r"The update fetched .*", line):
                        say(f"{fetched[0]}.")
                agent.wait()
                if not self._stopping.is_set():
                    self._show("(the box is down)")
                    self._stopping.wait(DOWN)

    def _show(self, stage: str) -> None:
        """Show a stage of the update, and the seconds since the update began."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
        say(f"{now - self._began:5.0f} s  {stage}")
        if stage in ("idle", "failed"):
            self._began = None
            say(f"The box runs release {self._current.resolve().name}.")

    def _start_agent(self) -> subprocess.Popen[str]:
        agent = subprocess.Popen(
            [
                self._current / "box-configuration-daemon" / "bin" / "opq-box-agent",
                *(f"--config={self.config}", f"--state-dir={self._state}"),
                f"--port=tcp:{self.port}:interface=127.0.0.1",
            ],
            env=ENVIRONMENT,
            encoding="utf-8",
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        self.pid_file.write_text(str(agent.pid))
        self._agent = agent
        if self._stopping.is_set():
            agent.terminate()
        return agent

    def adopt(self, archive: Path) -> None:
        """Keep the archive of the installed release, as the first installation of a box does."""
        program = self._current / "box-configuration-daemon" / "bin" / "opq-box"
        run(program, "adopt", f"--config={self.config}", f"--state-dir={self._state}", archive)

    def stop(self) -> None:
        """End the agent and its child processes, and do not start it again."""
        self._stopping.set()
        # An install script outlives its agent, and becomes a child of this process instead.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        if self._agent is not None:
            self._agent.terminate()
        if self.is_alive():
            self.join()

    def update(self, version: int) -> int:
        """Click on Update Box, and wait until the box runs the new version."""
        self.ask("box_update", data=b"")
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            time.sleep(0.2)
            try:
                status = self.ask("status")
            except OSError:
                continue  # The box is starting, or down.
            if status["stage"] == "idle" and status["installed"] == version:
                return 0
            if status["stage"] == "failed":
                raise DemoFailed(f"The update failed: {status['message']}")
        raise DemoFailed(f"The update did not end within {TIMEOUT:.0f} seconds; see {self.log}.")

    def ask(self, path: str, data: bytes | None = None) -> dict[str, object]:
        """Send a request to the agent, and return the JSON object of its response."""
        content: dict[str, object] = json.loads(fetch(self.port, path, data))
        return content
