"""Measures the fleet's part of the server with 100,000 simulated boxes, on each database."""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from unittest import SkipTest

from sqlalchemy import func, select, text
from twisted.internet import reactor

from benchmarks import servers
from benchmarks.engine_runs import measure_runs
from benchmarks.figures import report, report_ratio
from benchmarks.fleet_data import FIRST, WEEK, fill
from benchmarks.fleet_load import asking_for_version, send
from benchmarks.servers import Server
from benchmarks.simulated_boxes import SimulatedBox
from benchmarks.watch import fill as fill_updates
from opq_twisted.fleet.store import schema
from opq_twisted.fleet.store.database import Database
from opq_twisted.fleet.store.engine import make_engine
from opq_twisted.fleet.store.migrate import migrate_database
from tests.helpers.postgres import Postgres

RELEASES = 12

#: Reports a second, for so many seconds, and in so many stretches. Before each stretch, the server
#: without a fleet is asked for /version.
RATE, DURATION, STRETCHES = 50, 300, 5

#: Reports within so many seconds, and the seconds until all must be stored.
HERD, HERD_SECONDS, ALL_IN = 20_000, 10, 300

_NEXT = FIRST + (RELEASES + 1) * WEEK


def measure(name: str, url: str, place: Path, options: argparse.Namespace) -> None:
    """Measure one database."""
    boxes = [SimulatedBox(number) for number in range(1, options.boxes + 1)]
    prepare(url, boxes)
    report(f"{name}: MB of the database", size_of(url, place), at_most=250)
    taken, _ = measure_runs(url)
    report(f"{name}: seconds of a run of the engine", median(taken), at_most=1)
    with fleet_server(None, place) as plain, fleet_server(url, place) as server:
        more = (server.memory() - plain.memory()) / 1e6
        report(f"{name}: MB of memory more than without a fleet", more, at_most=60)
        measure_status(name, place)
        measure_steady(name, plain, server, requests_of(boxes, RATE * options.seconds, _NEXT))
        herd = requests_of(boxes, options.herd, _NEXT + WEEK)
        measure_herd(name, server, herd)
        lost = options.herd - stored(url, _NEXT + WEEK)
        report(f"{name}: reports of the herd that were lost", lost, at_most=0)
        more = (server.peak_memory() - plain.peak_memory()) / 1e6
        report(f"{name}: MB of memory more at the peak of the herd", more, at_most=60)


def prepare(url: str, boxes: list[SimulatedBox]) -> None:
    """Make the database."""
    migrate_database(url)
    database = Database(reactor, url)
    database.prepare()
    fill(database, boxes, RELEASES, time.time())
    database.engine.dispose()


@contextmanager
def fleet_server(url: str | None, place: Path) -> Iterator[Server]:
    """Start the update server with this database; None for a server without the fleet."""
    place = place / ("plain" if url is None else "fleet")
    updates = place / "updates"
    updates.mkdir(parents=True)
    fill_updates(updates, 1)
    options = []
    if url is not None:
        options = ["--fleet-db", url, "--fleet-socket", str(place / "fleet.sock")]
        options += ["--rollouts", "auto"]
    with servers.update_server(updates, place, options=options) as server:
        server.settle()
        yield server


def requests_of(boxes: list[SimulatedBox], count: int, release: int) -> list[bytes]:
    """Sign reports of boxes in turn; each has just updated to the release, or one after it."""
    made = []
    for index in range(count):
        box, turn = boxes[index % len(boxes)], index // len(boxes)
        made.append(box.request(box.report(release + turn, release - WEEK)))
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
    """Count the attempts to install this release, or those that further turns made of it."""
    with make_engine(url).connect() as connection:
        newest = schema.attempt.c.release.between(release, release + WEEK - 1)
        count = connection.scalar(select(func.count()).where(newest))
    assert count is not None
    return count


def measure_status(name: str, place: Path) -> None:
    """Measure `opq-fleet status`, the whole process."""
    opq_fleet = str(Path(sys.executable).with_name("opq-fleet"))
    command = [opq_fleet, "--socket", str(place / "fleet" / "fleet.sock"), "status"]
    taken = []
    for _ in range(5):
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - begun)
    report(f"{name}: seconds of opq-fleet status", median(taken), at_most=1)


def measure_steady(name: str, plain: Server, server: Server, requests: list[bytes]) -> None:
    """Measure the answers while reports come in, against those of the server without a fleet."""
    alone, meanwhile, seconds = list[float](), list[float](), list[float]()
    before = server.cpu()
    size = -(-len(requests) // STRETCHES)
    for begin in range(0, len(requests), size):
        stretch = requests[begin : begin + size]
        duration = len(stretch) / RATE
        with asking_for_version(plain.port, alone):
            time.sleep(duration / 10)
        with asking_for_version(server.port, meanwhile):
            seconds += send(server.port, stretch, duration).seconds
    report(f"{name}: ms until a report is stored, median", 1000 * median(seconds))
    report(
        f"{name}: ms until a report is stored, 99th percentile",
        1000 * highest(seconds),
        at_most=100,
    )
    report(f"{name}: ms of CPU for a report", 1000 * (server.cpu() - before) / len(requests))
    what, peer = f"{name}: ms of /version meanwhile", "without a fleet"
    report_ratio(
        f"{what}, median", 1000 * median(meanwhile), peer, 1000 * median(alone), at_most=1.2
    )
    report_ratio(f"{what}, 99th percentile", 1000 * highest(meanwhile), peer, 1000 * highest(alone))


def measure_herd(name: str, server: Server, requests: list[bytes]) -> None:
    """Measure until all reports of a herd are stored."""
    versions = list[float]()
    before, begun = server.cpu(), time.monotonic()
    with asking_for_version(server.port, versions):
        sent = send(server.port, requests, HERD_SECONDS)
    taken = time.monotonic() - begun
    print(f"{name}: answers to the herd: {sent}", flush=True)
    report(f"{name}: seconds until all of the herd are stored", taken, at_most=ALL_IN)
    report(f"{name}: ms of CPU for each of them", 1000 * (server.cpu() - before) / len(requests))
    report(f"{name}: ms of /version in the herd, 99th percentile", 1000 * highest(versions))
    report(f"{name}: ms of /version in the herd, longest", 1000 * max(versions))


def highest(seconds: list[float]) -> float:
    """Return the 99th percentile."""
    return quantiles(seconds, n=100)[98]


@contextmanager
def sqlite(place: Path) -> Iterator[str]:
    """Give the URL of a new file."""
    yield f"sqlite:///{place}/fleet.db"


@contextmanager
def postgresql(_: Path) -> Iterator[str | None]:
    """Start PostgreSQL, and give the URL of an empty database; None if it is not installed."""
    try:
        postgres = Postgres(fsync=True)
    except SkipTest as error:
        print(f"NOT MEASURED WITH POSTGRESQL: {error}", flush=True)
        yield None
        return
    try:
        yield postgres.url(postgres.new_database())
    finally:
        postgres.remove()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--boxes", type=int, default=100_000, help="in the database (100000)")
    parser.add_argument("--seconds", type=int, default=DURATION, help="of steady reports (300)")
    parser.add_argument("--herd", type=int, default=HERD, help="reports at once (20000)")
    parser.add_argument("--only", choices=("sqlite", "postgresql"), help="one database")
    options = parser.parse_args()
    servers.make_room(15_000)
    for name, begin in (("sqlite", sqlite), ("postgresql", postgresql)):
        if options.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder, servers.on_core(servers.LOAD_CORE):
            place = Path(folder)
            with begin(place) as url:
                if url is not None:
                    measure(name, url, place, options)


if __name__ == "__main__":
    main()
