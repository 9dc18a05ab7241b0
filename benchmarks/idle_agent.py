"""Measures the memory and the wakeups of an idle box agent, against Twisted's idle web server."""

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.agents import Daemon, box, daemon, post
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


def measure(process: Daemon, seconds: float) -> tuple[float, float]:
    """Return the resident memory in MB, and the wakeups a second, of an idle process."""
    before = _wakeups(process.pid)
    time.sleep(seconds)
    return process.memory("VmRSS"), (_wakeups(process.pid) - before) / seconds


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
    root = signed.folder / "1.root.json"
    with (
        daemon(folder, "opq-update-server", "--updates-dir", updates) as server,
        daemon(folder, "web", "--path", folder, listen="--listen", environment=ENVIRONMENT) as peer,
        box(folder, server.url, root, ENVIRONMENT) as agent,
    ):
        # After the first check, while the agent waits for the next release.
        post(f"{agent.url}/check")
        time.sleep(5)
        return measure(agent, seconds), measure(peer, seconds)


if __name__ == "__main__":
    main()
