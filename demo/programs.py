"""Starts the programs of the demo, sends requests to them, and ends them."""

import os
import signal
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path

from demo.terminal import DemoFailed

ROOT = Path(__file__).parent.parent.absolute()

#: The limit of seconds for the start of a program.
START_TIMEOUT = 60.0

# The demo must not change anything outside its folder, such as the units of systemd.
ENVIRONMENT = {**os.environ, "OPQ_SYSTEMD": "no", "OPQ_PYTHON": sys.executable}


def run(*command: str | Path, folder: Path = ROOT, given: str = "", **environment: str) -> None:
    """
    Run a program to its end; its output is only shown if it fails.

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
    """Give a program its input, wait for its end, and return its output."""
    while True:
        # With the timeout, a signal that arrives just before the wait is handled soon.
        with suppress(subprocess.TimeoutExpired):
            return program.communicate(given, timeout=0.5)[0]
        # `communicate` sends the rest of the input in its next call.
        given = ""


def kill_orphans() -> None:
    """Kill the processes that have become children of this one."""
    pid = os.getpid()
    # Some kernels do not have this file.
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
