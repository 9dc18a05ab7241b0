"""Shows a whole update in one folder: builds, signs and serves it, and lets a box install it."""

import argparse
import ctypes
import itertools
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from opq_twisted.archive.extract.unpack import unpack
from opq_twisted.common import files

ROOT = Path(__file__).parent.absolute()
#: Each demo has a folder of its own in this one, so that several can run at the same time.
DEMOS = ROOT / ".demo"

#: The seconds that a reboot of the box takes: long enough to see it on the page.
DOWN = 2.0

#: The seconds that an update may take with --click.
TIMEOUT = 300.0

#: The seconds that the server and the box may take to start.
START_TIMEOUT = 60.0

#: The signals after which the server and the box are ended, too.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# The demo changes nothing outside its folder, for each user and on each machine.
ENVIRONMENT = {**os.environ, "OPQ_SYSTEMD": "no", "OPQ_PYTHON": sys.executable}

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


class DemoFailed(Exception):
    """The demo cannot go on; the text says why."""


def main() -> int:
    """Read the command line, and show the demo; Ctrl-C ends it."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--click", action="store_true", help="update at once, then end")
    click = arguments.parse_args().click
    for number in SIGNALS:
        signal.signal(number, interrupt)
    try:
        return Demo(claim_folder(), click).show()
    except KeyboardInterrupt:
        # The terminal has printed ^C.
        say("\rThe demo has ended. `make clean` removes what it has made.")
        return 130 if click else 0
    except DemoFailed as error:
        say(str(error))
        return 1


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """End the demo, and let no second signal interrupt that."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def claim_folder() -> Path:
    """
    Make an empty folder which no other demo uses until this process ends.

    :raises DemoFailed: if it cannot be made.
    """
    try:
        DEMOS.mkdir(exist_ok=True)
        for number in itertools.count(1):
            with suppress(BlockingIOError):
                files.lock(DEMOS / f"{number}.lock")
                break
        folder = DEMOS / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    except OSError as error:
        raise DemoFailed(
            f"Cannot make a folder in {DEMOS}: {error.strerror}. Remove {DEMOS}, as root if root "
            "has run a demo before."
        ) from None
    return folder


def say(text: str) -> None:
    """Print a line; if nobody can read it any more, end the demo."""
    show(f"{text}\n")


def show(text: str) -> None:
    """Print a text, as `say` does."""
    try:
        print(text, end="", flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Show a step of the preparations, and the seconds that it took."""
    started = time.monotonic()
    show(f"{text} ...")
    try:
        yield
    except BaseException:
        show("\n")
        raise
    show(f" {time.monotonic() - started:.0f} s\n")


def run(*command: str | Path, folder: Path = ROOT, **environment: str) -> None:
    """
    Run a program to its end, and keep its output to itself.

    :raises DemoFailed: if it fails; the text has its output.
    """
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**ENVIRONMENT, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as program:
        try:
            output = wait(program)
        except KeyboardInterrupt:
            program.terminate()
            raise
    if program.returncode != 0:
        raise DemoFailed(f"{output}This step failed: see above.")


def wait(program: subprocess.Popen[str]) -> str:
    """Wait for the end of a program; returns its output."""
    while True:
        # Without a timeout, a signal that comes just before the wait would not end it.
        with suppress(subprocess.TimeoutExpired):
            return program.communicate(timeout=0.5)[0]


class Demo:
    """A server, a box and the keys to the releases, in one folder."""

    def __init__(self, folder: Path, click: bool) -> None:
        self._folder = folder
        self._click = click
        self._updates = folder / "updates"
        self._prefix = folder / "opq"
        self._keys = folder / "keys"
        self._passphrase = folder / "passphrase"
        self._trusted_root = folder / "root.json"
        self._new = int(time.time())

    def show(self) -> int:
        """Build two releases, install the older one, and offer the newer one to the box."""
        name = self._folder.relative_to(ROOT)
        say(f"An update server, a box and keys, all in {name}. Nothing else is changed.")
        old = self._new - 24 * 3600
        self._updates.mkdir()
        with step("1/5 Building yesterday's release"):
            archive = self._build(old, self._folder)
        with step("2/5 Installing it on the box"):
            self._set_up_box(archive, old)
        with step("3/5 Making the keys that the box trusts"):
            self._make_keys()
        with step("4/5 Building today's release, and signing it"):
            self._release("publish", self._build(self._new, self._folder))
        with ExitStack() as running:
            running.callback(kill_orphans)
            with step("5/5 Starting the server and the box, which looks for updates"):
                server_port, server = self._start_server(running)
                box = self._start_box(running, server_port, archive)
            say("")
            if self._click:
                say("An update is available. Clicking on Update Box.")
                return box.update(self._new)
            say("An update is available. Open the page of the box, and click on Update Box:")
            say(f"\n    http://localhost:{box.port}/\n")
            say(f"The update server lists its releases at http://localhost:{server_port}/ls")
            say("Ctrl-C ends the demo.")
            server.wait()
            raise DemoFailed(f"The update server has ended; see {self._folder / 'server.log'}.")

    def _build(self, version: int, folder: Path) -> Path:
        """Build an update of this project."""
        builder = ROOT / "build_update.py"
        run(sys.executable, builder, f"--version={version}", f"--output-dir={folder}")
        return folder / f"opq-box-update-{version}.tar.bz2"

    def _set_up_box(self, archive: Path, version: int) -> None:
        """Install a release as on a new box: unpack it, and run its script by hand."""
        unpacked = self._folder / "unpacked"
        unpack(archive, unpacked, version)
        run("./install_update.sh", folder=unpacked, OPQ_PREFIX=str(self._prefix))
        shutil.rmtree(unpacked)

    def _make_keys(self) -> None:
        """Create all keys; in a real ceremony each root key is kept in another place."""
        self._passphrase.touch(mode=0o600)
        self._passphrase.write_text(f"{secrets.token_hex()}\n")
        self._release("init")
        shutil.copy(self._updates / "tuf" / "1.root.json", self._trusted_root)

    def _release(self, command: str, *arguments: Path) -> None:
        """Run opq-release as the holder of the keys."""
        run(
            Path(sys.executable).with_name("opq-release"),
            command,
            f"--updates-dir={self._updates}",
            f"--keys-dir={self._keys}",
            f"--passphrase-file={self._passphrase}",
            *arguments,
        )

    def _start_server(self, running: ExitStack) -> tuple[int, subprocess.Popen[bytes]]:
        """Start the update server, and wait until it has signed a timestamp."""
        port = free_port(8151)
        log = self._folder / "server.log"
        [timestamp_key] = self._keys.glob("timestamp-*.pem")
        command = [
            str(Path(sys.executable).with_name("opq-update-server")),
            f"--port=tcp:{port}:interface=127.0.0.1",
            *(f"--updates-dir={self._updates}", f"--timestamp-key={timestamp_key}"),
            f"--timestamp-passphrase-file={self._passphrase}",
        ]
        # Ctrl-C reaches only this process, which then ends the server and the box.
        server = running.enter_context(
            subprocess.Popen(
                command, stdout=log.open("wb"), stderr=subprocess.STDOUT, process_group=0
            )
        )
        running.callback(server.terminate)
        deadline = time.monotonic() + START_TIMEOUT
        while server.poll() is None and time.monotonic() < deadline:
            with suppress(OSError):
                fetch(port, "tuf/timestamp.json")
                return port, server
            time.sleep(0.1)
        raise DemoFailed(f"The update server does not answer; see {log}.")

    def _start_box(self, running: ExitStack, server_port: int, archive: Path) -> "Box":
        """Start the box with the archive of its release, and wait until it finds the update."""
        box = Box(self._folder, self._prefix, free_port(8080))
        settings = {
            "prefix": str(self._prefix),
            "log": str(self._folder / "box_update.log"),
            "trusted_root": str(self._trusted_root),
            "reboot_command": ["sh", "-c", f'kill "$(cat "{box.pid_file}")"'],
            "settle": 3,
            # It is alone, and need not wait for its turn.
            "spread": 0,
        }
        config = {"updates_ep": f"http://127.0.0.1:{server_port}", "box_id": 1, "updater": settings}
        box.config.write_text(json.dumps(config, indent=2) + "\n")
        box.adopt(archive)
        archive.unlink()
        running.callback(box.stop)
        box.start()
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            with suppress(OSError):
                if box.ask("status")["update_available"]:
                    return box
            time.sleep(0.1)
        raise DemoFailed(f"The box does not find the update; see {box.log}.")


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
        """Start the agent again each time that it ends."""
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
        """Keep the archive of the installed release, as a real box has done at its installation."""
        program = self._current / "box-configuration-daemon" / "bin" / "opq-box"
        run(program, "adopt", f"--config={self.config}", f"--state-dir={self._state}", archive)

    def stop(self) -> None:
        """End the agent and what it has started, and do not start it again."""
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


def kill_orphans() -> None:
    """Kill the processes that have become children of this one."""
    pid = os.getpid()
    # Not every kernel has this list.
    with suppress(FileNotFoundError):
        while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            for child in map(int, children):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def fetch(port: int, path: str, data: bytes | None = None) -> bytes:
    """Send a request to this machine; with data it is a POST request."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", data)
    with urllib.request.urlopen(request, timeout=30) as answer:
        content: bytes = answer.read()
    return content


def free_port(preferred: int) -> int:
    """Find a free port, the preferred one or one of the next if possible."""
    for port in (*range(preferred, preferred + 10), 0):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            number: int = listener.getsockname()[1]
            return number
    raise DemoFailed("No TCP port is free on this machine.")


if __name__ == "__main__":
    sys.exit(main())
