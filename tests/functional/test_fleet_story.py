"""Three boxes tell a server what becomes of a release, and an operator stops the next one."""

import json
from pathlib import Path
from typing import Any

import pytest_twisted
from sqlalchemy import update

from opq_twisted.archive.name import TOP_FOLDER, VERIFY_SCRIPT, UpdateName
from opq_twisted.fleet.store.engine import make_engine
from opq_twisted.fleet.store.schema import attempt, box
from tests.functional.box import INSTALL, OLD, Box, Spawn
from tests.functional.conftest import StartDaemon
from tests.functional.fleet import FleetServer, short_folder
from tests.functional.processes import until
from tests.helpers.archives import file, folder, layout, stream, write_archive
from tests.helpers.signed_metadata import Signed

FIRST, SECOND = 1547860803, 1547947203

#: Fails on a box that a test has made unfit.
VERIFY = b'#!/bin/sh\n[ ! -e "$OPQ_PREFIX/unfit" ]\n'

#: Never ends on a box that a test has chosen.
INSTALL_FOR_EVER = INSTALL + b'while [ -e "$OPQ_PREFIX/endless" ]; do sleep 0.1; done\n'

#: Seconds: longer than a box may say nothing after an installation has begun.
SEVEN_HOURS = 7 * 3600

WITH_EVERYTHING = {"rollout": {"percent": 100, "salt": "s"}}


def release(updates: Path, version: int, script: bytes = INSTALL_FOR_EVER) -> Path:
    """Put a release into the updates directory."""
    top = f"{TOP_FOLDER}/"
    members = [folder(top), *layout(version, top, script)]
    members.append(file(f"{top}{VERIFY_SCRIPT}", VERIFY, 0o755))
    return write_archive(updates / str(UpdateName(version)), stream(*members))


class Fleet:
    """A server and its boxes, which update by themselves."""

    def __init__(self, server: FleetServer, spawn: Spawn, folder: Path, good: Path) -> None:
        self.server = server
        self.boxes = [self._make_box(spawn, folder / str(number), good) for number in (1, 2, 3)]

    def _make_box(self, spawn: Spawn, folder: Path, good: Path) -> Box:
        made = Box(spawn, folder)
        made.number = int(folder.name)
        made.report_promptly()
        made.install(OLD)
        made.keep_as_last_good(good)
        made.pin((self.server.signed.folder / "1.root.json").read_bytes())
        url = self.server.server.url
        made.configure(url, install="automatic", check_every=1, spread=0, confirm_timeout=1)
        return made

    async def knows(self, number: int, **fields: Any) -> dict[str, Any]:
        """Wait until the server has an attempt of a box with these values, and return it."""

        async def last() -> dict[str, Any]:
            found = await self.server.read("box", name=number)
            attempts: list[dict[str, Any]] = found["attempts"]
            return attempts[0] if attempts else {}

        return await until(last, lambda known: fields.items() <= known.items())

    def pass_time(self, number: int, seconds: float) -> None:
        """Let time pass for one box, as the database has it."""
        with make_engine(self.server.database).begin() as connection:
            chosen = box.c.box_id == number
            connection.execute(
                update(box).where(chosen).values(last_seen=box.c.last_seen - seconds)
            )
            connection.execute(update(attempt).values(received=attempt.c.received - seconds))


@pytest_twisted.ensureDeferred
async def test_story(start: StartDaemon, spawn: Spawn, updates: Path, tmp_path: Path) -> None:
    """One box updates, one goes back, one falls silent; the next release is stopped in time."""
    signed = Signed(updates).init()
    good = release(updates, OLD)
    with short_folder() as short:
        database = f"sqlite:///{tmp_path}/fleet.db"
        server = FleetServer(start, updates, signed, database, short / "fleet.sock")
        await server.start()
        fleet = Fleet(server, spawn, tmp_path, good)
        updated, returned, silent = fleet.boxes
        (returned.prefix / "unfit").touch()
        (silent.prefix / "endless").touch()
        for each in fleet.boxes:
            await each.start()
        signed.publish(1, release(updates, FIRST), custom=WITH_EVERYTHING)

        await updated.reboots_to(FIRST)
        good_attempt = await fleet.knows(1, outcome="updated")
        assert (good_attempt["release"], good_attempt["from_release"]) == (FIRST, OLD)
        assert not good_attempt["inferred"]

        await returned.agent.ends()
        await returned.start()
        await returned.agent.ends()
        await returned.start()
        bad_attempt = await fleet.knows(2, outcome="returned")
        assert bad_attempt["reason"] == "unhealthy-verify"

        await fleet.knows(3, stage="installing", outcome=None)
        await silent.agent.stop()
        # Let the script end, which nobody waits for any more.
        (silent.prefix / "endless").unlink()
        fleet.pass_time(3, SEVEN_HOURS)

        status = await server.ask("status")
        [stable] = status["channels"]
        outcomes = {each["outcome"]: each for each in stable["outcomes"]}
        assert outcomes["updated"]["boxes"] == 1
        assert outcomes["returned"]["bad"]
        assert outcomes["silent"]["bad"]
        assert status["needs"]["silent"]["boxes"] == 1
        assert status["boxes"] == 3

        await updated.agent.stop()
        signed.publish(2, release(updates, SECOND), custom=WITH_EVERYTHING)
        await server.server.says("signed timestamp .* for 2.snapshot")
        await server.ask("hold", SECOND, "--because", "two of three were bad")
        status = await server.ask("status", status=10)
        assert [each["state"] for each in status["channels"]] == ["held"]
        await updated.start()
        shown = await updated.shows(lambda status: status["available"] == SECOND)
        assert "the operator has stopped it for now" in shown["message"]
        assert (shown["stage"], shown["installed"]) == ("idle", FIRST)
        found = await until(
            lambda: server.read("box", name=1), lambda found: found["keys"][0]["waiting"] == "held"
        )
        assert found["keys"][0]["release"] == FIRST

        await server.ask("resume", SECOND, "--because", "it was the test")
        await updated.reboots_to(SECOND)
        await fleet.knows(1, outcome="updated", release=SECOND)
        changes = [json.dumps(each) for each in (await server.ask("status"))["changes"]]
        assert ["resume" in changes[0], "hold" in changes[1]] == [True, True]
