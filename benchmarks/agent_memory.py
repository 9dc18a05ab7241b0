"""Measures the memory of the box agent during an update, against a client that reads it whole."""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.agents import box, daemon, update
from benchmarks.trees import UPDATE, make_update

#: The older way: the whole body in memory.
PEER = """
import sys, urllib.request
def memory(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key))
before = memory("VmRSS:")
body = urllib.request.urlopen(sys.argv[1]).read()
print((memory("VmHWM:") - before) * 1024 / 1e6)
"""


def download_with_curl(url: str, target: Path) -> float:
    """Return the seconds in which curl downloads the same file to the disk."""
    start = time.perf_counter()
    subprocess.run(["curl", "-s", "-f", "-o", target, url], check=True, timeout=600)
    subprocess.run(["sync", target], check=True, timeout=600)
    taken = time.perf_counter() - start
    target.unlink()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agent_memory", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=300, help="size of the archive (300)")
    megabytes = parser.parse_args().megabytes
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        archive = make_update(folder, megabytes)
        print(f"archive: {archive.stat().st_size / 1e6:.0f} MB")
        with daemon(folder, "opq-update-server", "--updates-dir", archive.parent) as server:
            url = f"{server.url}/update/{UPDATE}"
            curl = download_with_curl(url, folder / "peer")
            with box(folder, server.url) as agent:
                over_idle, taken = update(agent)
            peer = subprocess.run(
                [sys.executable, "-c", PEER, url], check=True, timeout=600, stdout=subprocess.PIPE
            )
    whole = float(peer.stdout)
    print(f"agent peak over idle: {over_idle:.1f} MB (aim: at most 10 MB)")
    print(f"agent / urlopen().read(), {whole:.0f} MB over idle: {over_idle / whole:.3f}")
    print(f"download stage {taken:.1f} s / curl -o and sync {curl:.1f} s: {taken / curl:.2f}")


if __name__ == "__main__":
    main()
