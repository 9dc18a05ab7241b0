"""Measures the fleet's part of the server with 100,000 simulated boxes, on each database."""

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from statistics import median, quantiles

from attrs import define, field
from sqlalchemy import func, select, text

from benchmarks import servers
from benchmarks.figures import report, report_ratio
from benchmarks.servers import Server
from benchmarks.simulated_boxes import FIRST, INTERVAL, SimulatedBox, attempt_of, fill
from benchmarks.watch import fill as fill_updates
from opq_twisted.fleet.store import schema
from opq_twisted.fleet.store.engine import make_engine
from opq_twisted.fleet.store.migrate import migrate_database
from tests.helpers.postgres import Postgres

RELEASES = 12

#: Reports a second, and seconds.
RATE, DURATION = 50, 300

#: Reports within so many seconds, and the seconds until all must be stored.
HERD, HERD_SECONDS, ALL_IN = 20_000, 10, 300

#: Seconds after which a box without an answer gives up; it tries again.
_TIMEOUT = 60

#: Seconds: boxes without a `Retry-After` try again after a random part of this.
_PAUSE = 30


@define
class Sent:
    """What became of reports."""

    seconds: list[float] = field(factory=list)
    answers: Counter[str] = field(factory=Counter)


async def post(port: int, request: bytes) -> tuple[int, float | None]:
    """Send one report on a connection of its own; returns the status and the `Retry-After`."""
    async with asyncio.timeout(_TIMEOUT):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            answer = await reader.read()
        finally:
            writer.close()
    head = answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:])
    after = headers.get("retry-after")
    return int(head[0].split()[1]), None if after is None else float(after)


async def send_until_stored(port: int, request: bytes, due: float, sent: Sent) -> None:
    """Send a report at a time on the monotonic clock, and again until it is stored."""
    await asyncio.sleep(due - time.monotonic())
    while True:
        after = None
        try:
            status, after = await post(port, request)
        except (OSError, TimeoutError):
            status = 0
        sent.answers[str(status or "none")] += 1
        if status == 200:
            sent.seconds.append(time.monotonic() - due)
            return
        if status not in (0, 429, 503):
            raise SystemExit(f"The server answered {status}.")
        await asyncio.sleep(random.uniform(0, _PAUSE) if after is None else after)


@asynccontextmanager
async def asking_for_version(port: int, seconds: list[float]) -> AsyncIterator[None]:
    """Ask for /version 20 times a second on one connection, and note how long each takes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def ask() -> None:
        while True:
            begun = time.perf_counter()
            writer.write(b"GET /version HTTP/1.1\r\nHost: bench\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            seconds.append(time.perf_counter() - begun)
            await asyncio.sleep(0.05)

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        asking.cancel()
        writer.close()


async def send_all(port: int, requests: list[bytes], seconds: float) -> tuple[Sent, list[float]]:
    """Send reports evenly over some seconds; returns what became of them, and of /version."""
    sent, versions = Sent(), list[float]()
    begun = time.monotonic()
    pause = seconds / len(requests)
    async with asking_for_version(port, versions):
        await asyncio.gather(
            *(
                send_until_stored(port, request, begun + index * pause, sent)
                for index, request in enumerate(requests)
            )
        )
    return sent, versions


async def ask_alone(port: int, seconds: float) -> list[float]:
    """Ask for /version while nothing else happens."""
    versions: list[float] = []
    async with asking_for_version(port, versions):
        await asyncio.sleep(seconds)
    return versions


@contextmanager
def fleet_server(url: str | None, place: Path) -> Iterator[Server]:
    """Start the update server with this database; None for a server without the fleet."""
    updates = place / "updates"
    updates.mkdir(exist_ok=True)
    if not list(updates.iterdir()):
        fill_updates(updates, 1)
    options = []
    if url is not None:
        options = ["--fleet-db", url, "--fleet-socket", str(place / "fleet.sock")]
    with servers.update_server(updates, place, options=options) as server:
        server.settle()
        yield server


def requests_of(boxes: list[SimulatedBox], count: int, release: int) -> list[bytes]:
    """Sign the reports of boxes that have just updated to a release."""
    made = []
    for index in range(count):
        box = boxes[index % len(boxes)]
        attempt = attempt_of(box.number, release + index // len(boxes))
        made.append(box.request(box.report(release, (attempt,))))
    return made


def size_of(url: str, place: Path) -> float:
    """Return the size of the database in MB."""
    if url.startswith("sqlite"):
        return sum(each.stat().st_size for each in place.glob("fleet.db*")) / 1e6
    with make_engine(url).connect() as connection:
        size = connection.scalar(text("SELECT pg_database_size(current_database())"))
    assert isinstance(size, int)
    return size / 1e6


def stored(url: str, release: int) -> int:
    """Count the attempts to install this release, or those that repeated rounds made of it."""
    with make_engine(url).connect() as connection:
        newest = schema.attempt.c.release.between(release, release + INTERVAL - 1)
        count = connection.scalar(select(func.count()).where(newest))
    assert count is not None
    return count


def measure_status(name: str, place: Path) -> None:
    """Measure `opq-fleet status`, the whole process."""
    opq_fleet = str(Path(sys.executable).with_name("opq-fleet"))
    command = [opq_fleet, "--socket", str(place / "fleet.sock"), "status"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    report(f"{name}: seconds of opq-fleet status", time.perf_counter() - begun, at_most=1)


def measure(name: str, url: str, place: Path, options: argparse.Namespace) -> None:
    """Measure one database."""
    boxes = [SimulatedBox(number) for number in range(options.boxes)]
    newest = FIRST + RELEASES * INTERVAL
    migrate_database(url)
    with make_engine(url).begin() as connection:
        fill(connection, boxes, RELEASES, time.time())
    report(f"{name}: MB of the database", size_of(url, place), at_most=250)
    with fleet_server(None, place) as plain:
        asyncio.run(ask_alone(plain.port, 1))
        alone = asyncio.run(ask_alone(plain.port, options.seconds / 5))
        memory = plain.memory()
    with fleet_server(url, place) as server:
        measure_status(name, place)
        requests = requests_of(boxes, RATE * options.seconds, newest)
        sent, versions = asyncio.run(send_all(server.port, requests, options.seconds))
        slowest = quantiles(sent.seconds, n=100)[98] * 1000
        print(f"{name}: answers {dict(sent.answers)}, median {median(sent.seconds) * 1000:.1f} ms")
        report(
            f"{name}: ms of the 99th percentile of {RATE} reports a second", slowest, at_most=100
        )
        report_ratio(
            f"{name}: ms of /version meanwhile",
            median(versions) * 1000,
            "without a fleet",
            median(alone) * 1000,
            at_most=1.2,
        )
        herd = requests_of(boxes, options.herd, newest + INTERVAL)
        begun = time.monotonic()
        sent, _ = asyncio.run(send_all(server.port, herd, HERD_SECONDS))
        report(
            f"{name}: seconds until all of a herd are in", time.monotonic() - begun, at_most=ALL_IN
        )
        print(f"{name}: answers {dict(sent.answers)}")
        lost = options.herd - stored(url, newest + INTERVAL)
        report(f"{name}: reports of the herd that were lost", lost, at_most=0)
        more = (server.memory() - memory) / 1e6
        report(f"{name}: MB of memory more than without a fleet", more, at_most=60)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--boxes", type=int, default=100_000, help="in the database (100000)")
    parser.add_argument("--seconds", type=int, default=DURATION, help="of steady reports (300)")
    parser.add_argument("--herd", type=int, default=HERD, help="reports at once (20000)")
    parser.add_argument("--only", choices=("sqlite", "postgresql"), help="one database")
    options = parser.parse_args()
    servers.make_room(15_000)
    for name in ("sqlite", "postgresql"):
        if options.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder, servers.on_core(servers.LOAD_CORE):
            place = Path(folder)
            if name == "sqlite":
                measure(name, f"sqlite:///{place}/fleet.db", place, options)
                continue
            postgres = Postgres(fsync=True)
            try:
                measure(name, postgres.url(postgres.new_database()), place, options)
            finally:
                postgres.remove()


if __name__ == "__main__":
    main()
