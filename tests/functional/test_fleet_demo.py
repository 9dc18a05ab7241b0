"""The small boxes of the demo are boxes to a real server; the whole demo runs in `make torture`."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from demo.fates import Fate
from demo.narrator import run_all
from demo.small_boxes import write_admissions
from demo.small_releases import make_release
from tests.functional.box import Spawn
from tests.functional.conftest import StartDaemon
from tests.functional.fleet import FleetServer, short_folder
from tests.functional.processes import ROOT, run, until
from tests.helpers.signed_metadata import Signed
from tests.helpers.torture import TORTURE

OLD, RELEASE = 1547860803, 1547947203

NUMBERS = range(1, 13)

#: The shares of the boxes that the release is made for: 5 of 12.
SHARES = (5 / 12,)


def start_boxes(spawn: Spawn, server: FleetServer, folder: Path, *fates: Fate) -> None:
    """Start small boxes with which a release fares so, in turn."""
    spawn(
        *(sys.executable, "-m", "demo.small_boxes"),
        *("--server", server.server.url, "--root", server.signed.folder / "1.root.json"),
        *("--folder", folder, "--release", OLD, "--fates", json.dumps({RELEASE: fates})),
        *("--report-every", 0.5, "--spread", 0, "--install", 1, *NUMBERS),
        env={"PYTHONPATH": str(ROOT)},
    )


@pytest_twisted.ensureDeferred
async def test_small_boxes(start: StartDaemon, spawn: Spawn, updates: Path, tmp_path: Path) -> None:
    """They wait for their turn, update, go back or fall silent, and obey a hold."""
    signed = Signed(updates).init()
    with short_folder() as short:
        database = f"sqlite:///{tmp_path}/fleet.db"
        more = ("--rollouts", "ask")
        server = FleetServer(start, updates, signed, database, short / "fleet.sock", more)
        await server.start()
        admissions = write_admissions(tmp_path / "boxes", NUMBERS)
        await server.ask("admit", admissions, "--because", "they are new")
        start_boxes(spawn, server, tmp_path / "boxes", Fate.UPDATED, Fate.RETURNED, Fate.SILENT)
        await until(lambda: server.read("status"), lambda status: run_all(status, OLD))
        archive = make_release(RELEASE, tmp_path / "release", NUMBERS, SHARES)
        signed.publish(1, archive.rename(updates / archive.name))

        def are_through(status: Any) -> bool:
            # There is no channel until the timestamp names the release.
            outcomes = [each for channel in status["channels"] for each in channel["outcomes"]]
            found = {each["outcome"]: each["boxes"] for each in outcomes}
            return found == {"updated": 2, "returned": 2, "under way": 1}

        await until(lambda: server.read("status"), are_through)
        status = await until(
            lambda: server.read("status"),
            lambda status: status["waiting"] == {"turn": 7, "refused": 2},
        )
        assert status["releases"] == [
            {"release": RELEASE, "boxes": 2},
            {"release": OLD, "boxes": 10},
        ]
        await server.ask("hold", RELEASE, "--because", "two are bad")
        await until(
            lambda: server.read("status"),
            lambda status: status["waiting"] == {"held": 7, "refused": 2},
        )
        assert (await server.ask("status", status=10))["waiting"]["held"] == 7


@pytest.mark.skipif(not TORTURE, reason="it takes two minutes: make torture runs it")
@pytest_twisted.ensureDeferred
async def test_whole_demo() -> None:
    """A good release is rolled out to all boxes, and a bad one is held."""
    status, out, error = await run(sys.executable, "-m", "demo", "--fleet", "--click", folder=ROOT)
    assert status == 0, out + error
    assert "The bad release is held" in out
