"""
If a file operation of the agent fails it says so clearly, and the next update succeeds.

This holds for a good release, and for a bad one, from which the box has to go back. The box
assembles their archives from pieces of its last good one. If that fails to be read the update
succeeds nevertheless: its pieces are downloaded.
"""

import errno
import json
import re
import signal
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import frozen
from twisted.internet import reactor
from twisted.internet.task import deferLater

from opq_twisted.archive.name import UpdateName
from tests.functional.box import INSTALL, Box, Spawn, assert_clear
from tests.functional.faults import Faults, Operation, build
from tests.functional.processes import POLL_INTERVAL, TIMEOUT, Server, get, some_at_a_time
from tests.functional.update_server import serving
from tests.helpers.archives import make_pieces_archive, random_parts
from tests.helpers.signed_metadata import Signed, channel
from tests.helpers.torture import SEED, TORTURE, sample

OLD, NEW, NEWER = 1500000000, 1600000000, 1700000000

#: The number of tried faults of each release.
FAULTS = 3

#: The number of simultaneous boxes.
WORKERS = 3

#: The words for each error in a clear sentence.
NAMES = {
    errno.ENOSPC: "disk is full|No space left on device",
    errno.EDQUOT: "disk is full|Disk quota exceeded",
    errno.EIO: "Input/output error",
    errno.EACCES: "Permission denied",
    errno.EMFILE: "Too many open files",
}

#: More reboots than this count as endless.
_MAX_REBOOTS = 5


@frozen
class Update:
    """An update and its expected result."""

    #: The name of the update and of its channel.
    name: str
    version: int
    script: bytes
    #: The release of the box at the end, and the outcome in its history.
    end: int
    outcome: str

    def publish(self, updates: Path) -> Path:
        """Write the archive."""
        path = updates / str(UpdateName(self.version))
        parts = {"a/file": b"x", **random_parts(1, 2, 3, size=350_000)}
        return make_pieces_archive(path, self.version, parts, script=self.script)


GOOD = Update("good", NEW, INSTALL, NEW, "updated")
BAD = Update("bad", NEWER, INSTALL + b"exit 3\n", OLD, "returned")


@frozen
class Fault:
    """The failing operations."""

    error: int
    #: The number of the failing operation, among those that can have this error.
    number: int
    #: Whether all later ones fail as well.
    lasting: bool

    def __str__(self) -> str:
        """Describe the fault for a repetition."""
        name = errno.errorcode[self.error]
        return f"{name} {'from' if self.lasting else 'at'} operation {self.number}"


@frozen
class Site:
    """The update server of all boxes, their root, and the library of the faults."""

    server: Server
    root: bytes
    faults_library: Path
    #: The archive of the release that boxes start with.
    old: Path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Start the update server, with a channel for each release."""
    library = build(tmp_path_factory.mktemp("library"))
    updates = tmp_path_factory.mktemp("updates")
    # Between its pieces that are copied one has to travel.
    parts = random_parts(1, 12, 3, size=350_000)
    old = make_pieces_archive(updates / str(UpdateName(OLD)), OLD, parts, script=INSTALL)
    signed = Signed(updates).init()
    signed.targets(1, {each.name: channel(each.publish(updates)) for each in (GOOD, BAD)})
    signed.snapshot(1, 1)
    signed.timestamp(1, 1)
    with serving(updates) as server:
        yield Site(server, (signed.folder / "1.root.json").read_bytes(), library, old)


class Trial:
    """A box with faults during its update."""

    def __init__(
        self, spawn: Spawn, site: Site, update: Update, folder: Path, only_last_good: bool = False
    ) -> None:
        """:param only_last_good: whether operations on no other file fail."""
        self._update = update
        self.box = box = Box(spawn, folder)
        box.install(OLD)
        box.keep_as_last_good(site.old)
        box.pin(site.root)
        box.configure(site.server.url, channel=update.name)
        below = [box.state_dir, box.prefix, box.log.parent]
        if only_last_good:
            below = [box.state_dir / "archives" / site.old.name]
        self.faults = Faults(site.faults_library, folder, below)
        box.environment = self.faults.environment
        self._agents: list[Server] = []
        #: The number of agents that ended by a reboot.
        self._rebooted = 0

    async def updates(self) -> dict[str, Any] | None:
        """Click when the box is at rest; returns the later status, or None without an agent."""
        clicked = False
        for _ in range(_MAX_REBOOTS):
            if not await self._runs():
                return None
            status = await self._rests()
            if status is not None and not clicked:
                clicked = True
                code, text = await self.box.click()
                assert code in (200, 202), text
                assert_clear(text)
                status = await self._rests()
            if status is not None:
                if status["message"]:
                    assert_clear(status["message"])
                return status
        raise AssertionError("the box reboots again and again")

    async def _runs(self) -> bool:
        """Start the agent if none runs; returns whether it runs. It may end with a sentence."""
        if self._agents and self._agents[-1].status is None:
            return True
        agent = self.box.launch()
        self._agents.append(agent)
        try:
            await agent.ready()
        except AssertionError:
            assert await agent.ends() == 1, "the agent ended otherwise"
            return False
        return True

    async def _rests(self) -> dict[str, Any] | None:
        """Wait until no update is under way; returns the status, or None after a reboot."""
        for _ in range(int(TIMEOUT / POLL_INTERVAL)):
            status = await self._status()
            if self.box.rebooted > self._rebooted:
                self._rebooted += 1
                assert await self._agents[-1].ends() == -signal.SIGTERM, "the agent ended otherwise"
                return None
            assert status is not None, "the agent does not answer"
            if status["stage"] in ("idle", "failed") or _tries_again(status):
                return status
            await deferLater(reactor, POLL_INTERVAL)
        raise AssertionError(f"the box does not come to rest: {status}")

    async def _status(self) -> dict[str, Any] | None:
        """Request the status; returns None without a response."""
        try:
            status: dict[str, Any] = json.loads(await get(f"{self._agents[-1].url}/status"))
        except (OSError, HTTPException):
            return None
        return status

    async def outlives(self, fault: Fault) -> None:
        """Update with a fault: the update succeeds, or a sentence names the error."""
        self.faults.fail(fault.error, fault.number, fault.lasting)
        status = await self.updates()
        self.faults.end()
        names = re.compile(NAMES[fault.error])
        if status is None:
            said = [line for line in self._agents[-1].output.splitlines() if names.search(line)]
            assert said, "nobody says why the agent does not start"
            assert_clear(said[-1])
        elif status["stage"] == "failed":
            message = status["message"]
            assert names.search(message), message

    async def overcomes(self, fault: Fault) -> None:
        """Update with a fault: the update succeeds."""
        self.faults.fail(fault.error, fault.number, fault.lasting)
        status = await self.updates()
        self.faults.end()
        assert status is not None, "the agent does not start"
        assert (status["stage"], status["installed"]) == ("idle", self._update.end), status

    async def succeeds(self) -> None:
        """Update without a fault."""
        status = await self._status() if self._agents and self._agents[-1].status is None else None
        if status is not None and _tries_again(status):
            # This agent would try again in a minute; the next one does so at once.
            await self.box.agent.stop(signal.SIGKILL)
        status = await self.updates()
        assert status is not None, "the agent does not start"
        end, outcome = self._update.end, self._update.outcome
        assert (status["stage"], status["installed"]) == ("idle", end), status
        assert status["last_attempt"]["outcome"] == outcome, status
        assert (self.box.prefix / "current" / "VERSION").read_text() == f"{end}\n"

    def logs_no_traceback(self) -> None:
        """Check that the logs have no traceback."""
        events = [
            event
            for agent in self._agents
            for event in re.split(r"(?m)^(?=\d{4}-\d\d-\d\dT)", agent.output)
        ]
        for event in events:
            assert "Traceback" not in event, event
            assert "Unhandled" not in event, event

    def __str__(self) -> str:
        """Describe the failed operations and the agents' output."""
        failed = [f"{item.call} {item.path}" for item in self.faults.operations]
        said = "".join(f"\n-- agent:\n{agent.output}" for agent in self._agents)
        return f"{len(failed)} operations failed, first {failed[:1]}{said}"


def _tries_again(status: dict[str, Any]) -> bool:
    """Tell whether the box is in a step that it must repeat until it succeeds."""
    message: str = status["message"]
    return message.startswith(("The box's disk ", "The box has too much to do: "))


async def count(
    spawn: Spawn, site: Site, update: Update, folder: Path, only_last_good: bool = False
) -> list[Operation]:
    """Update a box without faults; returns its file operations."""
    trial = Trial(spawn, site, update, folder, only_last_good)
    await trial.succeeds()
    trial.logs_no_traceback()
    return trial.faults.operations


def choose(operations: list[Operation], faults: int) -> list[Fault]:
    """Choose so many faults."""
    every = [
        Fault(error, number, lasting)
        for error in NAMES
        for number in range(1, 1 + sum(error in operation.errors for operation in operations))
        for lasting in (False, True)
    ]
    return sample(every, faults)


async def try_out(trial: Trial, fault: Fault, must_succeed: bool = False) -> str | None:
    """Update a box with a fault, and then without; returns a description of what was wrong."""
    try:
        if must_succeed:
            await trial.overcomes(fault)
        else:
            await trial.outlives(fault)
            await trial.succeeds()
        trial.logs_no_traceback()
    except Exception as error:
        return f"{fault}: {error}\n{trial}"
    finally:
        await trial.box.agent.stop()
    return None


async def try_all(
    spawn: Spawn, site: Site, update: Update, folder: Path, number: int, only_last_good: bool
) -> None:
    """Update boxes with so many of the possible faults, one each."""
    operations = await count(spawn, site, update, folder / "counts", only_last_good)
    assert len(operations) > (10 if only_last_good else 100)
    chosen = choose(operations, number)
    wrong: list[str] = []

    async def fails(number: int, fault: Fault) -> bool:
        trial = Trial(spawn, site, update, folder / f"box-{number}", only_last_good)
        reason = await try_out(trial, fault, must_succeed=only_last_good)
        if reason is not None:
            wrong.append(reason)
        return bool(trial.faults.operations)

    jobs = (fails(number, fault) for number, fault in enumerate(chosen))
    failed = sum(await some_at_a_time(jobs, WORKERS))
    assert not wrong, f"seed {SEED}, {len(wrong)} of {len(chosen)}:\n" + "\n\n".join(wrong)
    # The number of operations varies from one update to the next.
    assert failed > (0.9 if TORTURE else 0.6) * len(chosen)


@pytest.mark.parametrize("update", [GOOD, BAD], ids=lambda update: update.name)
@pytest_twisted.ensureDeferred
async def test_failing_operations(spawn: Spawn, site: Site, tmp_path: Path, update: Update) -> None:
    """An update with a fault succeeds or says why not; the next one, without it, succeeds."""
    await try_all(spawn, site, update, tmp_path, FAULTS, only_last_good=False)


@pytest_twisted.ensureDeferred
async def test_failing_last_good(spawn: Spawn, site: Site, tmp_path: Path) -> None:
    """An update whose last good archive cannot be read succeeds."""
    await try_all(spawn, site, GOOD, tmp_path, 2, only_last_good=True)
