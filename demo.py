"""Shows a whole update in one folder: builds, signs and serves it, and lets a box install it."""

import argparse
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
from contextlib import ExitStack
from pathlib import Path

from opq_twisted.archive.extract.unpack import unpack

ROOT = Path(__file__).parent.absolute()
SANDBOX = ROOT / ".demo"
PREFIX = SANDBOX / "opq"
UPDATES = SANDBOX / "updates"
PID_FILE = SANDBOX / "agent.pid"
CONFIG = SANDBOX / "opqbox_config.json"
KEYS = SANDBOX / "keys"
PASSPHRASE = SANDBOX / "passphrase"
TRUSTED_ROOT = SANDBOX / "root.json"

#: The seconds that a reboot of the box takes: long enough to see it on the page.
DOWN = 2.0

#: The seconds that an update may take with --click.
TIMEOUT = 300.0

# The demo changes nothing outside the sandbox, for each user and on each machine.
ENVIRONMENT = {**os.environ, "OPQ_SYSTEMD": "no", "OPQ_PYTHON": sys.executable}


def main() -> int:
    """Read the command line; Ctrl-C ends the demo without a message."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--click", action="store_true", help="update at once, then end")
    click = arguments.parse_args().click
    # These signals too must end the server and the box.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        return demonstrate(click)
    except KeyboardInterrupt:
        return 130


def demonstrate(click: bool) -> int:
    """Build two releases, install the older one, and offer the newer one, signed, to the box."""
    shutil.rmtree(SANDBOX, ignore_errors=True)
    UPDATES.mkdir(parents=True)
    new = int(time.time())
    old = new - 24 * 3600
    say(f"Building release {old}, which the box will run at first.")
    set_up_box(build(old, SANDBOX), old)
    say("Making the keys to the releases, and pinning the box to their root.")
    make_keys()
    say(f"Building release {new}, and signing that it is the newest.")
    release("publish", build(new, SANDBOX))
    return run(new, click)


def run(new: int, click: bool) -> int:
    """Run the server and the box until Ctrl-C, or with --click until the end of the update."""
    server_port, box_port = free_port(8151), free_port(8080)
    configure(server_port)
    with ExitStack() as running:
        server = running.enter_context(start_server(server_port))
        running.callback(server.terminate)
        wait_for(server, server_port)
        box = Box(box_port)
        running.callback(box.stop)
        box.start()
        say(f"The update server:  http://localhost:{server_port}/ls")
        say(f"The box's page:     http://localhost:{box_port}/")
        if click:
            return update(box_port, new)
        say("Click on Update Box there. Ctrl-C ends the demo.")
        return server.wait()


def say(text: str) -> None:
    """Print a line of the demo."""
    print(f"demo: {text}", flush=True)


def build(version: int, folder: Path) -> Path:
    """Build an update of this project."""
    builder = str(ROOT / "build_update.py")
    options = [f"--version={version}", f"--output-dir={folder}"]
    subprocess.run([sys.executable, builder, *options], check=True)
    return folder / f"opq-box-update-{version}.tar.bz2"


def set_up_box(archive: Path, version: int) -> None:
    """Install a release as on a new box: unpack it, and run its script by hand."""
    folder = SANDBOX / "unpacked"
    unpack(archive, folder, version)
    environment = {**ENVIRONMENT, "OPQ_PREFIX": str(PREFIX)}
    subprocess.run(["./install_update.sh"], cwd=folder, env=environment, check=True)
    shutil.rmtree(folder)
    archive.unlink()


def make_keys() -> None:
    """Create all keys; in a real ceremony each root key is kept in another place."""
    PASSPHRASE.touch(mode=0o600)
    PASSPHRASE.write_text(f"{secrets.token_hex()}\n")
    release("init")
    shutil.copy(UPDATES / "tuf" / "1.root.json", TRUSTED_ROOT)


def release(command: str, *arguments: Path) -> None:
    """Run opq-release as the holder of the keys."""
    program = str(Path(sys.executable).with_name("opq-release"))
    options = [
        *(f"--updates-dir={UPDATES}", f"--keys-dir={KEYS}", f"--passphrase-file={PASSPHRASE}")
    ]
    subprocess.run([program, command, *options, *arguments], check=True)


def configure(server_port: int) -> None:
    """Write the box's configuration, with a reboot command that ends the agent."""
    settings = {
        "prefix": str(PREFIX),
        "log": str(SANDBOX / "box_update.log"),
        "trusted_root": str(TRUSTED_ROOT),
        "reboot_command": ["sh", "-c", f'kill "$(cat "{PID_FILE}")"'],
        "settle": 3,
    }
    config = {"updates_ep": f"http://127.0.0.1:{server_port}", "box_id": 1, "updater": settings}
    CONFIG.write_text(json.dumps(config, indent=2) + "\n")


def start_server(port: int) -> subprocess.Popen[bytes]:
    """Start the update server."""
    log = (SANDBOX / "server.log").open("wb")
    twistd = str(Path(sys.executable).with_name("twistd"))
    [timestamp_key] = KEYS.glob("timestamp-*.pem")
    options = [
        *(f"--port=tcp:{port}:interface=127.0.0.1", f"--updates-dir={UPDATES}"),
        *(f"--timestamp-key={timestamp_key}", f"--timestamp-passphrase-file={PASSPHRASE}"),
    ]
    return subprocess.Popen(
        [twistd, "--nodaemon", "--pidfile=", "opq-update-server", *options], stdout=log
    )


def wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    """Wait until the server has signed a timestamp; its first start takes longer."""
    deadline = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/tuf/timestamp.json", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"The update server does not answer; see {SANDBOX / 'server.log'}.")


class Box(threading.Thread):
    """Runs the agent of the current release, and restarts it as systemd does on a box."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self._stopping = threading.Event()
        self._agent: subprocess.Popen[str] | None = None

    def run(self) -> None:
        """Start the agent again each time that it ends."""
        with (SANDBOX / "agent.log").open("w", encoding="utf-8") as log:
            while not self._stopping.is_set():
                agent = self._start_agent()
                assert agent.stdout is not None
                for line in agent.stdout:
                    log.write(line)
                    log.flush()
                    if stage := re.search(r"Stage: (\w+)", line):
                        say(f"  {stage[1]}")
                agent.wait()
                if not self._stopping.is_set():
                    say("  (the box is down)")
                    self._stopping.wait(DOWN)

    def _start_agent(self) -> subprocess.Popen[str]:
        launcher = PREFIX / "current" / "box-configuration-daemon" / "bin" / "opq-box-agent"
        agent = subprocess.Popen(
            [
                *(launcher, f"--config={CONFIG}", f"--state-dir={SANDBOX / 'state'}"),
                f"--port=tcp:{self._port}:interface=127.0.0.1",
            ],
            env=ENVIRONMENT,
            encoding="utf-8",
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        PID_FILE.write_text(str(agent.pid))
        self._agent = agent
        if self._stopping.is_set():
            agent.terminate()
        return agent

    def stop(self) -> None:
        """End the agent, and do not start it again."""
        self._stopping.set()
        if self._agent is not None:
            self._agent.terminate()
        if self.is_alive():
            self.join()


def update(port: int, version: int) -> int:
    """Click on Update Box, and wait until the box runs the new version."""
    deadline = time.monotonic() + TIMEOUT
    clicked = False
    while time.monotonic() < deadline:
        try:
            if not clicked:
                say(f"Update Box: {ask(port, 'box_update', data=b'')['status']}")
                clicked = True
            status = ask(port, "status")
        except OSError:
            time.sleep(0.2)  # The box is starting, or down.
            continue
        if status["stage"] == "idle" and status["installed"] == version:
            say(f"The box runs release {version}.")
            return 0
        if status["stage"] == "failed":
            say(f"The update failed: {status['message']}")
            return 1
        time.sleep(0.2)
    say(f"The update did not end within {TIMEOUT:.0f} seconds; see {SANDBOX}/*.log.")
    return 1


def ask(port: int, path: str, data: bytes | None = None) -> dict[str, object]:
    """Send a request to the box's agent, and return the JSON object of its response."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", data)
    with urllib.request.urlopen(request, timeout=30) as answer:
        content: dict[str, object] = json.load(answer)
    return content


def free_port(preferred: int) -> int:
    """Find a free port, the preferred one if possible."""
    for port in (preferred, 0):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            number: int = listener.getsockname()[1]
            return number
    raise SystemExit("No TCP port is free on this machine.")


if __name__ == "__main__":
    sys.exit(main())
