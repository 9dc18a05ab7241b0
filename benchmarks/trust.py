"""Measures the cost of a check for a signed release, against TUF's own blocking client."""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tuf.ngclient import Updater
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from benchmarks.agents import box, daemon, post
from benchmarks.figures import report, report_ratio
from benchmarks.trees import idle_script
from opq_twisted.archive.build.contents import Contents, find_script
from opq_twisted.archive.build.pack import pack
from opq_twisted.archive.name import INSTALL_SCRIPT, UpdateName
from opq_twisted.box.network.http_agent import make_http_clients
from opq_twisted.box.network.update_server import UpdateServerClient
from opq_twisted.box.offers.tuf_lookup import SignedMetadata
from tests.vm.releases import Keys

UPDATE = UpdateName(1600000000)

#: The memory that TUF's modules add to a process with the agent's other libraries.
MODULES = """
import twisted.internet.reactor, treq, attrs, cattrs, OpenSSL.SSL
def memory():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
before = memory()
import tuf.ngclient
print((memory() - before) * 1024 / 1e6)
"""


def make_repository(folder: Path) -> Keys:
    """Sign an update."""
    keys = Keys(folder)
    keys.make()
    contents: Contents = {INSTALL_SCRIPT: find_script(idle_script(folder))}
    keys.publish(pack(UPDATE, contents, keys.updates))
    return keys


def wait_for(url: str) -> None:
    """Wait until the server has signed a timestamp."""
    for _ in range(6000):
        try:
            urllib.request.urlopen(url, timeout=30).read()
            return
        except urllib.error.HTTPError:
            time.sleep(0.01)
    raise SystemExit(f"There is no {url}.")


async def measure(
    rounds: int, check: Callable[[Path], Awaitable[object]], place: Path
) -> tuple[float, float]:
    """Return the median milliseconds of a check without a cache, and of one without news."""
    cold: list[float] = []
    warm: list[float] = []
    for number in range(rounds):
        cache = place / str(number)
        cache.mkdir()
        for figures in (cold, warm):
            start = time.perf_counter()
            await check(cache)
            figures.append((time.perf_counter() - start) * 1000)
        shutil.rmtree(cache)
    return statistics.median(cold), statistics.median(warm)


async def compare(reactor: Any, endpoint: str, root: bytes, rounds: int, place: Path) -> None:
    """Measure both clients with the same server, one after the other."""
    base = f"{endpoint}/tuf/"
    server = UpdateServerClient(reactor, make_http_clients(reactor), endpoint, lambda: "bench")

    async def ours(cache: Path) -> None:
        assert await SignedMetadata(reactor, server.read, cache).find(base, root, "stable")

    async def theirs(cache: Path) -> None:
        assert Updater(str(cache), base, bootstrap=root).get_targetinfo("stable")

    await measure(2, ours, place)
    peers = await measure(rounds, theirs, place)
    for what, mine, peer, aim in zip(
        ("cold check, ms", "warm check, ms"),
        await measure(rounds, ours, place),
        peers,
        (100, 30),
        strict=True,
    ):
        report_ratio(what, mine, "ngclient", peer)
        report(f"{what}, aim", mine, at_most=aim)


def idle_memory(folder: Path, endpoint: str, root: Path | None) -> float:
    """Return the memory in MB of an agent that has checked, with a trusted root or without."""
    folder.mkdir()
    with box(folder, endpoint, root) as agent:
        for _ in range(5):
            post(f"{agent.url}/check")
        return agent.memory("VmRSS")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trust", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="checks of each kind (50)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        keys = make_repository(place)
        options = (
            *("--updates-dir", keys.updates, "--timestamp-key", keys.timestamp),
            *("--timestamp-passphrase-file", keys.passphrase),
        )
        with daemon(place, "opq-update-server", *options) as server:
            wait_for(f"{server.url}/tuf/timestamp.json")
            root = keys.root
            without = idle_memory(place / "unsigned", server.url, None)
            signed = idle_memory(place / "signed", server.url, root)
            report_ratio("memory of the idle agent, MB", signed, "without a trusted root", without)
            modules = subprocess.run(
                [sys.executable, "-c", MODULES], check=True, stdout=subprocess.PIPE
            )
            added = float(modules.stdout) + signed - without
            report("memory that trust adds, with TUF's modules, MB", added, at_most=5)
            asking = (server.url, root.read_bytes(), rounds, place)
            react(lambda reactor: Deferred.fromCoroutine(compare(reactor, *asking)))


if __name__ == "__main__":
    main()
