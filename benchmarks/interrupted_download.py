"""Measures the bytes that are downloaded twice if the agent is killed at 90 % of a download."""

import argparse
import json
import os
import signal
import tempfile
import time
from pathlib import Path

from benchmarks.agents import Daemon, box, daemon, post
from benchmarks.figures import report
from benchmarks.trees import UPDATE, make_update


def kill_at(agent: Daemon, port: int, state: Path, size: int) -> tuple[int, int]:
    """
    Kill the agent when so much of the archive is on its disk.

    :returns: the bytes that were, and those that the kernel had received for it.
    """
    while True:
        for part in state.rglob("*.part"):
            if part.stat().st_size >= size:
                os.kill(agent.pid, signal.SIGSTOP)
                waiting = not_read(port)
                os.kill(agent.pid, signal.SIGKILL)
                return part.stat().st_size, waiting
        time.sleep(0.0005)


def not_read(port: int) -> int:
    """Return the bytes that the clients of a local port have not read yet (proc(5))."""
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(
        int(queues.partition(":")[2], 16)
        for _number, _local, remote, _state, queues, *_ in sockets
        if int(remote.partition(":")[2], 16) == port
    )


def transfers(server: Path) -> list[dict[str, object]]:
    """Return the access log's lines about the archive, after the rest of it was sent."""
    while True:
        lines = [line for line in server.read_text().splitlines() if line.startswith("{")]
        found = [line for line in map(json.loads, lines) if str(UPDATE) in line["uri"]]
        if any(line["range"] for line in found):
            return found
        time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.interrupted_download", description=__doc__
    )
    parser.add_argument("--megabytes", type=int, default=50, help="size of the archive (50)")
    megabytes = parser.parse_args().megabytes
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        archive = make_update(folder, megabytes)
        size = archive.stat().st_size
        state = folder / "state"
        with daemon(folder, "opq-update-server", "--updates-dir", archive.parent) as server:
            with box(folder, server.url) as agent:
                post(f"{agent.url}/box_update")
                port = int(server.url.rpartition(":")[2])
                written, unread = kill_at(agent, port, state, size * 9 // 10)
            with box(folder, server.url) as agent:
                agent.says("Stage: rebooting")
            found = transfers(folder / "opq-update-server.log")
    [rest] = [line for line in found if line["range"]]
    begin = int(str(rest["range"]).removeprefix("bytes=").removesuffix("-"))
    print(f"killed at {written / 1e6:.2f} of {size / 1e6:.2f} MB, went on at {begin / 1e6:.2f}")
    report("received twice by the agent, MB", (written - begin) / 1e6, at_most=1)
    report("received twice by its kernel, MB", (written + unread - begin) / 1e6, at_most=1)
    sent = sum(int(str(line["bytes"])) for line in found)
    print(f"with what the server's kernel still had, MB: {(sent - size) / 1e6:.3g}")


if __name__ == "__main__":
    main()
