"""Starts the programs of the demo, talks to them, and ends them."""

import os
import signal
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path

from demo.terminal import DemoFailed

ROOT = Path(__file__).parent.parent.absolute()

#: The seconds that a program may take to start.
START_TIMEOUT = 60.0

# The demo changes nothing outside its folder, for each user and on each machine.
ENVIRONMENT = {**os.environ, "OPQ_SYSTEMD": "no", "OPQ_PYTHON": sys.executable}


def run(*command: str | Path, folder: Path = ROOT, given: str = "", **environment: str) -> None:
    """
    Run a program to its end, and keep its output to itself.

    :param given: its standard input.
    :raises DemoFailed: if it fails; the text has its output.
    """
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**ENVIRONMENT, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as program:
        try:
            output = wait(program, given)
        except KeyboardInterrupt:
            program.terminate()
            raise
    if program.returncode != 0:
        raise DemoFailed(f"{output}This step failed: see above.")


def wait(program: subprocess.Popen[str], given: str = "") -> str:
    """Give a program its input, and wait for its end; returns its output."""
    while True:
        # Without a timeout, a signal that comes just before the wait would not end it.
        with suppress(subprocess.TimeoutExpired):
            return program.communicate(given, timeout=0.5)[0]
        # It goes on with the rest by itself.
        given = ""


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
