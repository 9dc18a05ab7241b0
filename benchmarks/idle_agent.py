"""Measures the memory and the wakeups of an idle box agent, against Twisted's idle web server."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.signed_metadata import with_one_release

#: The aims: megabytes, and wakeups a second.
MEMORY, WAKEUPS = 60.0, 1.0

#: The setting of deploy/box/bin/opq-box-agent; the peer has it too.
ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "PYTHONNODEBUGRANGES": "1",
    "PYTHONDONTWRITEBYTECODE": "",
}

RELEASE = 1600000000


@contextmanager
def daemon(folder: Path, *arguments: object) -> Iterator[tuple[int, str]]:
    """Run a twistd plugin; returns its pid and its address."""
    log = folder / f"{arguments[0]}.log"
    options = (f"--log-file={log}", "--log-format=text")
    command = [sys.executable, "-m", "twisted", *options, *map(str, arguments)]
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, **ENVIRONMENT})
    try:
        yield process.pid, f"http://127.0.0.1:{_port(log)}"
    finally:
        process.terminate()
        process.wait()


def _port(log: Path) -> int:
    for _ in range(600):
        text = log.read_text() if log.exists() else ""
        for line in text.splitlines():
            if "starting on" in line:
                return int(line.rsplit(" ", 1)[1])
        time.sleep(0.1)
    raise SystemExit(f"It does not start: see {log}.")


def measure(pid: int, seconds: float) -> tuple[float, float]:
    """Return the resident memory in MB, and the wakeups a second, of an idle process."""
    before = _wakeups(pid)
    time.sleep(seconds)
    return _memory(pid), (_wakeups(pid) - before) / seconds


def _memory(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024 / 1e6


def _wakeups(pid: int) -> int:
    """Count the voluntary context switches of all its threads."""
    return sum(
        int(line.split()[1])
        for status in Path(f"/proc/{pid}/task").glob("*/status")
        for line in status.read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches:")
    )


def main() -> None:
    """Measure once, and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=30.0, help="how long to watch")
    seconds = arguments.parse_args().seconds
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # On a box too, all modules are compiled before the start.
        ENVIRONMENT["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")
        run(folder / "first", 0.1)
        (memory, wakeups), (peer_memory, peer_wakeups) = run(folder / "second", seconds)
    print(f"idle agent: {memory:.1f} MB, {wakeups:.2f} wakeups a second")
    print(f"idle twisted web: {peer_memory:.1f} MB, {peer_wakeups:.2f} wakeups a second")
    print(f"memory / twisted web: {memory / peer_memory:.2f}; aim: {MEMORY:.0f} MB at most")
    print(f"aim of wakeups: {WAKEUPS:.0f} a second at most")


def run(folder: Path, seconds: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Run a server, a box and the peer, and measure the last two."""
    updates = folder / "updates"
    updates.mkdir(parents=True)
    signed, _ = with_one_release(updates, RELEASE)
    root = folder / "root.json"
    root.write_bytes((signed.folder / "1.root.json").read_bytes())
    options = ("--port=tcp:0:interface=127.0.0.1",)
    with (
        daemon(folder, "opq-update-server", *options, f"--updates-dir={updates}") as (_, url),
        daemon(folder, "web", "--listen=tcp:0:interface=127.0.0.1", f"--path={folder}") as peer,
    ):
        config = folder / "config.json"
        updater = {"trusted_root": str(root), "prefix": str(folder / "prefix")}
        config.write_text(json.dumps({"updates_ep": url, "updater": updater}))
        agent_options = (f"--config={config}", f"--state-dir={folder / 'state'}")
        with daemon(folder, "opq-box-agent", *options, *agent_options) as (pid, page):
            # After the first check, while the agent waits for the next release.
            urllib.request.urlopen(urllib.request.Request(f"{page}/check", method="POST")).read()
            time.sleep(5)
            return measure(pid, seconds), measure(peer[0], seconds)


if __name__ == "__main__":
    main()
