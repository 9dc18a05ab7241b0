"""Measures the page of the fleet with 100,000 boxes: its first paint, its size, and its answers."""

import argparse
import base64
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from playwright.sync_api import Browser
from sqlalchemy import Connection, insert
from twisted.internet import reactor

from benchmarks import servers
from benchmarks.figures import report, report_ratio
from benchmarks.fleet_data import FIRST, WEEK, fill
from benchmarks.page import paint_in
from benchmarks.servers import free_port, static_file
from benchmarks.simulated_boxes import SimulatedBox
from benchmarks.watch import fill as fill_updates
from opq_twisted.fleet.store.database import Database
from opq_twisted.fleet.store.migrate import migrate_database
from opq_twisted.fleet.store.schema import day
from opq_twisted.fleet.web.views.assets import ASSETS
from tests.browser.chromium import browser

RELEASES, ROUNDS = 12, 20

_PASSWORD = "correct horse battery"
_LOGIN = {
    "Accept": "text/html",
    "Authorization": f"Basic {base64.b64encode(f'anna:{_PASSWORD}'.encode()).decode()}",
}


def main() -> None:
    """Measure, and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--boxes", type=int, default=100_000, help="in the database")
    boxes = arguments.parse_args().boxes
    with tempfile.TemporaryDirectory() as folder, page_server(Path(folder), boxes) as url:
        static = Path(folder, "static")
        size = copy(url, static)
        report("bytes of the page and all it takes", size, at_most=60_000)
        with static_file(static, Path(folder)) as peer, browser() as chromium:
            # With the slash, without which it would redirect.
            alike = f"http://127.0.0.1:{peer.port}/fleet/"
            paints = [(paint(chromium, url), paint(chromium, alike)) for _ in range(ROUNDS)]
    ours, theirs = (median(each) for each in zip(*paints, strict=True))
    print(f"rounds: {ROUNDS}")
    report_ratio(
        f"first paint with {boxes:,} boxes, ms",
        ours,
        "the same bytes from static.File",
        theirs,
        at_most=1.5,
    )


@contextmanager
def page_server(place: Path, boxes: int) -> Iterator[str]:
    """Run a server with a fleet; gives the URL of its page, which shows all boxes."""
    database, updates, operators = place / "fleet.db", place / "updates", place / "operators"
    updates.mkdir()
    fill_updates(updates, 1)
    make_fleet(f"sqlite:///{database}", boxes)
    opq_fleet = str(Path(sys.executable).with_name("opq-fleet"))
    command = [opq_fleet, "add-operator", "anna", "--role", "operator"]
    subprocess.run(
        [*command, "--operators", str(operators)], input=f"{_PASSWORD}\n", text=True, check=True
    )
    port = free_port()
    options = [
        *("--fleet-db", f"sqlite:///{database}", "--fleet-socket", str(place / "fleet.sock")),
        *("--fleet-operators", str(operators), "--rollouts", "auto"),
        *("--fleet-port", f"tcp:{port}:interface=127.0.0.1"),
    ]
    with servers.update_server(updates, place, options=options):
        url = f"http://127.0.0.1:{port}/fleet"
        while f"{boxes:,} boxes".encode() not in get(url):
            time.sleep(0.2)
        yield url


def make_fleet(url: str, boxes: int) -> None:
    """Make the database, with the counts of 30 days."""
    migrate_database(url)
    database = Database(reactor, url)
    database.prepare()
    fill(
        database,
        [SimulatedBox(number) for number in range(1, boxes + 1)],
        RELEASES,
        time.time(),
    )
    database.write_now(lambda connection: add_days(connection, boxes))
    database.engine.dispose()


def add_days(connection: Connection, boxes: int) -> None:
    """Write the counts of 30 days, on which each release gave way to the next one."""
    today, rows = int(time.time() // 86400), []
    for number in range(today - 30, today):
        rows.append({"day": number, "channel": "", "release": 0} | counts(0))
        rows += [
            {"day": number, "channel": "stable", "release": FIRST + WEEK * each}
            | counts(boxes // (RELEASES + each))
            for each in range(RELEASES)
        ]
    connection.execute(insert(day), rows)


def counts(boxes: int) -> dict[str, int]:
    """Return the counts of a day for so many boxes."""
    bad = {"returned": boxes // 500, "failed": boxes // 900, "silent": boxes // 2000}
    return {"boxes": boxes, "updated": boxes // 20, **bad}


def get(url: str) -> bytes:
    """Ask for a file of the page."""
    request = urllib.request.Request(url, headers=_LOGIN)
    with urllib.request.urlopen(request) as answer:
        content: bytes = answer.read()
    return content


def copy(url: str, folder: Path) -> int:
    """Copy the page and its files into a folder; returns their bytes."""
    files = folder / "fleet"
    files.mkdir(parents=True)
    (files / "index.html").write_bytes(get(url))
    for name in ASSETS:
        (files / name).write_bytes(get(f"{url}/{name}"))
    return sum(each.stat().st_size for each in files.iterdir())


def paint(chromium: Browser, url: str) -> float:
    """Return the milliseconds until the first paint, in a window of somebody who has logged in."""
    window = chromium.new_context(extra_http_headers={"Authorization": _LOGIN["Authorization"]})
    return paint_in(window, url)


if __name__ == "__main__":
    main()
