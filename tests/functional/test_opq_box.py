"""`opq-box` with a real agent: the commands of an operator, and their effects on the box."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from opq_twisted.archive.name import UpdateName
from opq_twisted.common import wording
from tests.functional.box import INSTALL, OLD, Box, Gate, Spawn, archive
from tests.functional.conftest import StartBox
from tests.functional.processes import Server, curl, run
from tests.helpers.archives import make_pieces_archive, random_parts

NEW = 1600000000
PROGRAM = str(Path(sys.executable).with_name("opq-box"))

FAILS = b"#!/bin/sh\necho something is wrong\nexit 7\n"


class Operator:
    """An operator with a terminal on another machine than the box."""

    def __init__(self, spawn: Spawn, box: Box) -> None:
        self._spawn = spawn
        self.box = box

    def begins(self, command: str, *more: object) -> Server:
        """Start a command that runs for a while."""
        return self._spawn(PROGRAM, command, "--url", self.box.agent.url, *more)

    async def types(self, command: str, *more: object, status: int = 0) -> str:
        """Run a command to its end; returns its output."""
        typed = self.begins(command, *more)
        assert await typed.ends() == status, typed.output
        return typed.output

    async def reads(self, command: str, *more: object, status: int = 0) -> Any:
        """Run a command with `--json`; returns the document that it prints."""
        return json.loads(await self.types(command, "--json", *more, status=status))


@pytest.fixture
def operator(spawn: Spawn, box: Box) -> Operator:
    """The operator of the box."""
    return Operator(spawn, box)


async def reboots(box: Box) -> None:
    """Wait until the agent stops for the reboot, and start it again at the same address."""
    assert await box.agent.ends() == -signal.SIGTERM, box.agent.output
    await box.start_again()


@pytest_twisted.ensureDeferred
async def test_update(
    start_box: StartBox, operator: Operator, box: Box, updates: Path, gate: Gate
) -> None:
    """The commands follow an update through the reboot; Ctrl-C ends the command only."""
    archive(updates, NEW, INSTALL + gate.wait.encode())
    await start_box()

    assert f"Installed    {OLD} (2017-07-1" in await operator.types("status")
    assert (await operator.reads("status"))["available"] is None
    assert "No update has been tried" in await operator.types("history")
    assert await operator.types("log") == "No installer has run yet.\n"
    assert f"Release {NEW} is available." in await operator.types("check", status=10)
    assert (await operator.reads("check", status=10))["update_available"] is True

    reader = operator.begins("log", "--follow")
    first = operator.begins("update")
    await first.says("installing: ")
    await reader.says(f"installing {NEW}\n")
    assert await first.stop(signal.SIGINT) == 128 + signal.SIGINT
    assert "an update that has begun goes on" in first.output

    second, third = operator.begins("update"), operator.begins("update", "--json")
    await second.says("installing: ")
    await third.says('"installing"')
    gate.open()
    await reboots(box)
    assert await second.ends() == 0, second.output
    assert "rebooting: The box reboots now." in second.output
    assert second.output.endswith(f"The box runs release {NEW}.\n")
    assert await third.ends() == 0, third.output
    [*_, last] = [line for line in third.output.splitlines() if line.startswith("{")]
    assert json.loads(last)["last_attempt"]["outcome"] == "updated"
    assert await reader.stop(signal.SIGINT) == 128 + signal.SIGINT

    assert "up to date" in await operator.types("check")
    assert "up to date" in await operator.types("update")
    assert f"installing {NEW}\n" in await operator.types("log")
    [attempt] = (await operator.reads("history"))["attempts"]
    assert (attempt["version"], attempt["outcome"]) == (NEW, "updated")


@pytest_twisted.ensureDeferred
async def test_returns(
    start_box: StartBox, operator: Operator, box: Box, updates: Path, tmp_path: Path
) -> None:
    """A box goes back to its adopted release; the failed one is blocked, and then unblocked."""
    archive(updates, NEW, FAILS)
    await start_box()
    paths = ("--config", box.config, "--state-dir", box.state_dir)
    status, out, error = await run(PROGRAM, "adopt", *map(str, paths), str(archive(tmp_path, OLD)))
    assert status == 0, error
    assert f"The box goes back to release {OLD}" in out

    following = operator.begins("update")
    await reboots(box)
    assert await following.ends() == 1, following.output
    assert (
        f"opq-box: Release {NEW} failed, and the box runs release {OLD} again." in following.output
    )

    assert f"Blocked: {NEW} (" in await operator.types("history")
    assert f"opq-box forgive {NEW}" in await operator.types("history")
    await operator.types("forgive", NEW)
    assert (await operator.reads("history"))["refused"] == []
    assert "is not blocked" in await operator.types("forgive", NEW, status=1)


@pytest_twisted.ensureDeferred
async def test_part_of_a_download(
    start_box: StartBox, operator: Operator, box: Box, updates: Path, tmp_path: Path
) -> None:
    """The box says how much of an update it has fetched, if its last good release has the rest."""
    old = tmp_path / str(UpdateName(OLD))
    box.keep_as_last_good(make_pieces_archive(old, OLD, random_parts(1, 2, 3)))
    new = updates / str(UpdateName(NEW))
    size = make_pieces_archive(new, NEW, random_parts(1, 2, 4), script=INSTALL).stat().st_size
    await start_box()
    before = box.agent
    following = operator.begins("update")
    await reboots(box)
    assert await following.ends() == 0, following.output

    [attempt] = (await operator.reads("history"))["attempts"]
    fetched = attempt["fetched"]
    assert attempt["size"] == size
    assert 0 < fetched < size / 2
    assert (await operator.reads("status"))["last_attempt"] == attempt
    words = f"{wording.size(fetched)} of {wording.size(size)}"
    for command in ("status", "history"):
        said = " ".join((await operator.types(command)).split())
        assert f"Fetched {words}; the rest was here already." in said
    assert f"fetched {words}" in (await curl(f"{box.agent.url}/"))[1]
    assert f"The download fetches {words}; the rest is here already" in before.output
    assert f"The update fetched {words}" in box.agent.output


@pytest_twisted.ensureDeferred
async def test_password(start_box: StartBox, operator: Operator, box: Box, tmp_path: Path) -> None:
    """A box with a password accepts actions with the password only."""
    hashed, known = tmp_path / "hashed", tmp_path / "known"
    known.write_text("open sesame\n")
    status, _, error = await run("sh", "-c", f"{PROGRAM} password {hashed} <{known}")
    assert status == 0, error
    await start_box(web_password_file=str(hashed))
    await operator.types("status")
    assert "no update" in await operator.types("check", "--password-file", known)
    assert "password is wrong" in await operator.types("check", "--password-file", hashed, status=1)
    status, _, error = await run("sh", "-c", f"{PROGRAM} update --url {box.agent.url} </dev/null")
    assert status == 1
    assert "--password-file" in error
