"""
After a kill at any step, the next agent completes the update without help.

A step is a change of a file's content, name or existence, a sync, or the start of a program. The
agent is killed right before each step, and right after each start of a program. After any other
step the state is the same as before the next one.

The archives share most of their pieces with the last good one, so each box assembles its archive:
it copies pieces, and fetches ranges. After a kill it fetches again what it had not synced, and no
more.

A sample of these kills is tried; `make torture` tries all, and also those right after every step.
"""

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from random import Random
from typing import Any

import cattrs
import pytest
import pytest_twisted
from attrs import frozen
from twisted.internet.defer import maybeDeferred

from opq_twisted.archive.delta import Delta, Fetch, compare
from opq_twisted.archive.name import TOP_FOLDER, UpdateName
from opq_twisted.box.download.archive_store import LAST_GOOD, ArchiveStore
from opq_twisted.box.download.part_file import MAX_UNSYNCED
from opq_twisted.box.state.records import Entry
from opq_twisted.box.state.stages import Stage
from opq_twisted.common.errors import InvalidName
from tests.functional.box import Box, Spawn
from tests.functional.downloads import index_of
from tests.functional.faults import Faults, Operation, build
from tests.functional.processes import Server, get, some_at_a_time
from tests.functional.proxy import Proxy
from tests.functional.update_server import serving
from tests.helpers.archives import END, file, folder, layout, random_parts, write_pieces
from tests.helpers.signed_metadata import Signed, channel
from tests.helpers.torture import SEED, TORTURE, sample

OLD = 1500000000

#: The number of tried kills of each update.
KILLS = 2

#: The seeds of the updates with two kills, for each kind of update.
SEEDS = range(SEED, SEED + (34 if TORTURE else 1))

#: The number of simultaneous boxes.
WORKERS = 3

#: More starts of the agent in one update count as endless.
_MAX_STARTS = 8

#: A step after the end of every update.
_NEVER = 10**6

#: The calls that start programs.
STARTS = ("fork", "posix_spawn", "posix_spawnp", "execve")

#: The agent's log lines when it is at rest.
_AT_REST = "Stage: (?:idle|failed)"

#: Makes a release live in one step, as the shipped script does.
_INSTALL = """#!/bin/sh
set -e
echo "installing $OPQ_VERSION"
release=$OPQ_PREFIX/releases/$OPQ_VERSION
rm -rf "$release"
mkdir -p "$release"
cp VERSION "$release"
{part}
cp content "$release"
ln -sfn "releases/$OPQ_VERSION" "$OPQ_PREFIX/.current.new"
mv -fT "$OPQ_PREFIX/.current.new" "$OPQ_PREFIX/current"
"""

#: A failure after a first part, which leaves the installed release incomplete.
_HALF = 'rm -rf "$OPQ_PREFIX/current/content"; echo "that is not it"; exit 3'

_HEALTHY, _ILL = "#!/bin/sh\n", "#!/bin/sh\necho it hurts\nexit 1\n"


@frozen
class Update:
    """An update and its expected result."""

    #: The name of the update and of its channel.
    name: str
    version: int
    install: str = _INSTALL.format(part="")
    verify: str = _HEALTHY
    #: Why the box ends with its last good release; empty if it ends with the new one.
    code: str = ""
    #: Whether the kills begin after the reboot; before it this update is like another one.
    has_rebooted: bool = False

    @property
    def succeeds(self) -> bool:
        """Whether the box ends with the new release."""
        return not self.code

    @property
    def end(self) -> int:
        """The release of the box at the end."""
        return self.version if self.succeeds else OLD

    @property
    def outcome(self) -> str:
        """The outcome in the box's history."""
        return "updated" if self.succeeds else "returned"

    def publish(self, updates: Path) -> Path:
        """Write the archive."""
        top = f"{TOP_FOLDER}/"
        first, second = (file(f"{top}{name}", data) for name, data in SHARED.items())
        scripts = [
            folder(top),
            *layout(self.version, top, self.install.encode()),
            file(f"{top}verify_update.sh", self.verify.encode(), 0o755),
        ]
        own = file(f"{top}content", content(self.version))
        return write_pieces(
            *(updates / str(UpdateName(self.version)), b"".join(scripts), first, own, second, END)
        )


GOOD = Update("good", 1600000000)
ILL = Update("ill", 1600000001, verify=_ILL, has_rebooted=True, code="unhealthy-verify")
FAILING = Update("failing", 1600000002, install=_INSTALL.format(part=_HALF), code="install-status")
UPDATES = (GOOD, ILL, FAILING)


#: What all archives have in common: each part is larger than what a box writes without a sync.
SHARED = random_parts(1, 2, size=450_000)


def content(version: int) -> bytes:
    """Make the content of a release: larger than one read."""
    return Random(version).randbytes(150_000)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@frozen
class Kill:
    """The step of a kill, counted over all agents of an update."""

    number: int
    after: bool

    def __str__(self) -> str:
        """Describe the kill for a repetition."""
        return f"right {'after' if self.after else 'before'} step {self.number}"


@frozen
class Site:
    """The update server of all boxes, their root, and the library that kills their agents."""

    server: Server
    root: bytes
    library: Path
    #: The SHA-256 digests by the archives' names.
    digests: dict[str, str]
    #: The archive of the release that boxes start with.
    old: Path
    #: How an archive is assembled from the old one, by its name.
    deltas: dict[str, Delta]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Start the update server, with a channel for each update."""
    library = build(tmp_path_factory.mktemp("library"))
    updates = tmp_path_factory.mktemp("updates")
    old = Update("old", OLD).publish(updates)
    archives = {update.name: update.publish(updates) for update in UPDATES}
    signed = Signed(updates).init()
    signed.targets(1, {name: channel(path) for name, path in archives.items()})
    signed.snapshot(1, 1)
    signed.timestamp(1, 1)
    digests = {path.name: digest(path) for path in (old, *archives.values())}
    deltas = {path.name: compare(index_of(path), index_of(old)) for path in archives.values()}
    root = (signed.folder / "1.root.json").read_bytes()
    with serving(updates) as server:
        yield Site(server, root, library, digests, old, deltas)


class Lost(Exception):
    """The box has lost its state; the text says which part."""


class Trial:
    """A box whose agent is killed while it is updated."""

    def __init__(self, spawn: Spawn, site: Site, update: Update, folder: Path) -> None:
        self._site = site
        self._update = update
        self._folder = folder
        self.box = box = Box(spawn, folder)
        box.pin(site.root)
        #: Counts the bytes that travel.
        self._proxy = Proxy(site.server.port)
        # A release that is not healthy at once never becomes healthy.
        box.configure(self._proxy.url, channel=update.name, confirm_timeout=1)
        self.faults = Faults(site.library, folder, [box.state_dir, box.prefix, box.log.parent])
        box.environment = self.faults.environment
        self._agents: list[Server] = []
        self._kills: list[Kill] = []
        #: The steps at which agents were killed.
        self._struck: list[Operation] = []
        #: The identifiers of attempts that the journal has had.
        self._uuids: set[str] = set()
        #: The number of agents that ended by a reboot.
        self._rebooted = 0
        #: The bytes of the archive that the agents may fetch.
        self._may_fetch = 0

    async def close(self) -> None:
        """End the agent and the proxy."""
        await self.box.agent.stop(signal.SIGKILL)
        await maybeDeferred(self._proxy.close)

    def set_up(self) -> None:
        """Install the old release, and keep it as the last good one."""
        release = self.box.prefix / "releases" / str(OLD)
        release.mkdir(parents=True)
        (release / "VERSION").write_text(f"{OLD}\n")
        (release / "content").write_bytes(content(OLD))
        (self.box.prefix / "current").symlink_to(release.relative_to(self.box.prefix))
        self.box.keep_as_last_good(self._site.old)

    def save(self, folder: Path) -> None:
        """Copy the state of the box."""
        for path in (self.box.state_dir, self.box.prefix, self.box.log.parent):
            shutil.copytree(path, folder / path.name, symlinks=True)

    def restore(self, folder: Path) -> None:
        """Give the box the saved state of another one."""
        shutil.copytree(folder, self._folder, symlinks=True, dirs_exist_ok=True)

    async def updates(self, *kills: Kill) -> None:
        """
        Click, and restart the agent until the update has ended.

        :param kills: the steps of each are counted from the kill before it.
        """
        self._kills = list(kills)
        self.faults.kill(kills[0].number, kills[0].after)
        for _ in range(_MAX_STARTS):
            if await self._comes_to_rest():
                await self.box.agent.stop(signal.SIGKILL)
                self._is_sound()
                self._is_at_the_end()
                return
            self._is_sound()
        raise AssertionError("the agent ends again and again")

    @property
    def has_struck(self) -> bool:
        """Whether all kills have happened."""
        return len(self._struck) == len(self._kills)

    async def reboots(self) -> None:
        """Click, and wait for the reboot."""
        self.faults.kill(_NEVER, after=False)
        assert not await self._comes_to_rest()
        assert self._rebooted == 1

    async def _comes_to_rest(self) -> bool:
        """Start the agent, and click if it is idle; returns whether it comes to rest."""
        under_way = not self._entry.stage.at_rest
        self._may_fetch += self._missing
        self._agents.append(self.box.launch())
        try:
            await self.box.agent.ready()
            status = await self._ask("status")
            rests = Stage(status["stage"]).at_rest
            if rests and status["last_attempt"]:
                return True
            if rests and under_way:
                raise Lost(f"the update has disappeared: {status}")
            if rests:
                await self._ask("box_update", b"")
            await self.box.agent.says(_AT_REST)
        except (AssertionError, OSError, HTTPException):
            # These errors are expected if the agent was killed, or has rebooted the box.
            await self._ends()
            return False
        return True

    async def _ask(self, path: str, data: bytes | None = None) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await get(f"{self.box.agent.url}/{path}", data))
        return answer

    async def _ends(self) -> None:
        """Check that the agent was ended by the planned kill or by a reboot."""
        status = await self.box.agent.ends()
        if status == -signal.SIGTERM:
            self._rebooted += 1
            assert self.box.rebooted >= self._rebooted, "the agent ended by itself"
            return
        assert status == -signal.SIGKILL, f"the agent ended with {status}"
        assert len(self._struck) < len(self._kills), "the agent was killed by something else"
        number = self._kills[len(self._struck)].number
        self._struck += [item for item in self.faults.operations if item.number == number][-1:]
        left = self._kills[len(self._struck) :]
        self.faults.kill(*((left[0].number, left[0].after) if left else (_NEVER, False)))

    @property
    def _entry(self) -> Entry:
        """Read the journal, which is never damaged."""
        path = self.box.state_dir / "journal.json"
        assert not path.with_suffix(".unreadable").exists(), "a journal was set aside"
        if not path.exists():
            return Entry()
        written = json.loads(path.read_bytes())
        assert written.pop("format") == 1
        return cattrs.structure(written, Entry)

    @property
    def fetched(self) -> int:
        """The bytes of the archive that the server has sent."""
        return self._proxy.body_bytes.get(f"/update/{UpdateName(self._update.version)}", 0)

    @property
    def _missing(self) -> int:
        """The bytes that are neither synced, nor in the last good archive."""
        path = ArchiveStore(self.box.state_dir / "archives").path(self._update.version)
        part = path.with_name(f"{path.name}.part")
        if path.exists():
            return 0
        kept = max(0, part.stat().st_size - MAX_UNSYNCED) if part.exists() else 0
        steps = self._site.deltas[path.name].steps
        return sum(
            max(0, step.end - max(step.start, kept)) for step in steps if type(step) is Fetch
        )

    def _is_sound(self) -> None:
        """Check that archives are complete, and that a last good release is there."""
        self._uuids |= {self._entry.uuid} - {""}
        archives = self.box.state_dir / "archives"
        for path in archives.iterdir():
            if is_final(path.name):
                assert digest(path) == self._site.digests[path.name], f"{path} is not whole"
        name = os.readlink(archives / LAST_GOOD)
        said = (archives / f"{name}.sha256").read_text()
        assert said == f"{self._site.digests[name]}  {name}\n", f"{name}.sha256 is wrong"
        assert (archives / name).exists(), f"the last good archive {name} is gone"
        if self._update is not FAILING:
            self._runs_whole({OLD, self._update.version})

    def _runs_whole(self, versions: set[int]) -> None:
        """Check that one of these releases is installed completely."""
        current = self.box.prefix / "current"
        version = int((current / "VERSION").read_text())
        assert version in versions, f"release {version} is installed"
        whole = (current / "content").exists() and (current / "content").read_bytes()
        assert whole == content(version), f"release {version} is not whole"

    def _is_at_the_end(self) -> None:
        """Check that the update had the expected result."""
        update, entry = self._update, self._entry
        assert entry.attempts, "no end is written down"
        last = entry.attempts[-1]
        assert (entry.stage, last.version, last.outcome, last.code) == (
            Stage.IDLE,
            update.version,
            update.outcome,
            update.code,
        ), last
        assert self._uuids == {last.uuid}, "an attempt keeps its identifier"
        assert len(entry.attempts) == 1, entry.attempts
        self._runs_whole({update.end})
        good = ArchiveStore(self.box.state_dir / "archives").last_good
        assert good is not None
        assert good.version == update.end, f"the last good release is {good.version}"
        assert self.fetched <= self._may_fetch, f"{self.fetched} bytes travelled"
        refused = [item.version for item in entry.refused]
        assert refused == ([] if update.succeeds else [update.version]), entry.refused

    def __str__(self) -> str:
        """Describe the planned kills, those that happened, and the agents' output."""
        kills = " and ".join(map(str, self._kills))
        struck = " and ".join(map(str, self._struck)) or "none yet"
        said = "".join(
            f"\n-- agent {number}:\n{without_noise(agent.output)}"
            for number, agent in enumerate(self._agents, 1)
        )
        return f"update {self._update.name}, to be killed {kills}; struck: {struck}{said}"


def is_final(name: str) -> bool:
    """Tell whether a file has the name of a verified archive."""
    try:
        return bool(UpdateName.parse(name))
    except InvalidName:
        return False


def without_noise(output: str) -> str:
    """Remove the log lines about connections."""
    lines = output.splitlines(keepends=True)
    return "".join(line for line in lines if "HTTP11ClientFactory" not in line)


class Ground:
    """The trials, and the saved states that updates begin with."""

    def __init__(self, spawn: Spawn, site: Site, folder: Path) -> None:
        self._spawn = spawn
        self._site = site
        self._folder = folder
        self._made = 0
        self.wrong: list[str] = []

    async def make(self, update: Update) -> Trial:
        """Make a box in the state in which the update begins."""
        self._made += 1
        trial = Trial(self._spawn, self._site, update, self._folder / f"box-{self._made}")
        if not update.has_rebooted:
            trial.set_up()
            return trial
        saved = self._folder / update.name
        if not saved.exists():
            trial.set_up()
            await trial.reboots()
            await trial.close()
            trial.save(saved)
            return await self.make(update)
        trial.restore(saved)
        return trial

    async def try_out(self, update: Update, *kills: Kill) -> bool:
        """Update a box with these kills; returns whether all of them happened."""
        trial = await self.make(update)
        try:
            await trial.updates(*kills)
        except Exception as error:
            self.wrong.append(f"{type(error).__name__}: {error}\n{trial}")
        finally:
            await trial.close()
        return trial.has_struck

    async def count(self, update: Update) -> list[Operation]:
        """Update a box without a kill; returns the steps."""
        trial = await self.make(update)
        try:
            await trial.updates(Kill(_NEVER, after=False))
            assert trial.box.rebooted == 1
            delta = self._site.deltas[str(UpdateName(update.version))]
            assert trial.fetched == (0 if update.has_rebooted else delta.fetched)
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}\n{trial}") from error
        finally:
            await trial.close()
        return trial.faults.operations

    def nothing_is_wrong(self) -> None:
        """Check that every box had the expected result."""
        wrong = "\n\n".join(self.wrong)
        assert not self.wrong, f"seed {SEED}, {len(self.wrong)} boxes:\n{wrong}"


@pytest.fixture
def ground(spawn: Spawn, site: Site, tmp_path: Path) -> Ground:
    """Make the trials of a test."""
    return Ground(spawn, site, tmp_path)


def choose(steps: list[Operation]) -> list[Kill]:
    """Choose the kills."""
    every = [Kill(step.number, after=False) for step in steps]
    after = [Kill(step.number, after=True) for step in steps]
    if not TORTURE:
        after = [kill for kill, step in zip(after, steps, strict=True) if step.call in STARTS]
    return sample(every + after, KILLS)


def choose_two(update: Update, seed: int, steps: int) -> list[Kill]:
    """Choose two kills, each of them right before a step or right after it."""
    random = Random(f"{update.name} {seed}")
    # The steps of the second kill are counted from the first one.
    return [Kill(random.randint(1, most), random.random() < 0.5) for most in (steps, steps // 2)]


@pytest.mark.parametrize("update", UPDATES, ids=lambda update: update.name)
@pytest_twisted.ensureDeferred
async def test_kill(ground: Ground, update: Update) -> None:
    """After a kill at any step, or after two kills, the update has its expected result."""
    steps = await ground.count(update)
    missed: list[Kill] = []

    async def kill_once(kill: Kill) -> None:
        if not await ground.try_out(update, kill):
            missed.append(kill)

    async def kill_twice(seed: int) -> None:
        await ground.try_out(update, *choose_two(update, seed, len(steps)))

    kills = choose(steps)
    jobs = [*map(kill_once, kills), *map(kill_twice, SEEDS)]
    await some_at_a_time(jobs, WORKERS)
    if TORTURE:
        # The number of steps varies from one update to the next.
        number = len(steps) + 1
        while await ground.try_out(update, Kill(number, after=False)):
            number += 1
    ground.nothing_is_wrong()
    early = [str(kill) for kill in missed if kill.number < 0.8 * len(steps)]
    assert not early, f"of {len(steps)} steps these were not reached: {early}"
    assert len(missed) < (0.1 * len(kills) if TORTURE else len(kills)), "too few kills struck"
