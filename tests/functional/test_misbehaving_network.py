"""On a faulty network a download succeeds, or a sentence says why not."""

import hashlib
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
import pytest_twisted
from attrs import frozen
from twisted.internet import reactor
from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.task import Clock, LoopingCall

from opq_twisted.archive.name import UpdateName
from opq_twisted.archive.release import Release
from opq_twisted.box.download.archive_store import ArchiveStore
from opq_twisted.box.download.downloader import Downloader
from opq_twisted.box.network.http_agent import make_http_clients
from opq_twisted.box.network.update_server import UpdateServerClient
from opq_twisted.common.errors import OpqError
from tests.functional.box import INSTALL, Box, Spawn, assert_clear
from tests.functional.processes import Server, eventually
from tests.functional.proxy import (
    ALL,
    QUICK,
    End,
    Message,
    Mischief,
    Proxy,
    Seeded,
    Sending,
    cut_body,
    cut_head,
    drip,
    honest,
    other_bytes,
    other_file,
    other_range,
)
from tests.functional.update_server import serving
from tests.helpers.archives import make_archive
from tests.helpers.signed_metadata import Signed
from tests.helpers.torture import SEED, TORTURE

OLD, NEW = 1500000000, 1600000000

#: The path of the new release.
ARCHIVE = f"/update/{UpdateName(NEW)}"

#: The seeds of the tried networks.
SEEDS = range(SEED, SEED + (200 if TORTURE else 12))

#: The number of networks with real agents, whose waits take their full time.
AGENTS = 12 if TORTURE else 2

#: The bytes that may be fetched twice after an interruption.
TWICE = 1_000_000

#: The agent's log lines at the end of a click.
AT_REST = "Stage: (?:idle|failed|rebooting)"


@frozen
class Site:
    """The update server of all tests, and the release that it offers."""

    server: Server
    archive: bytes
    root: bytes

    @property
    def release(self) -> Release:
        """The description of the release for a box with signed metadata."""
        return Release(NEW, len(self.archive), {"sha256": digest(self.archive)})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Start the update server."""
    updates = tmp_path_factory.mktemp("updates")
    path = updates / str(UpdateName(NEW))
    # Several times the size that a box writes between two syncs; the same in each run.
    noise = Random(0).randbytes(2_500_000)
    archive = make_archive(path, NEW, {"noise": noise}, script=INSTALL).read_bytes()
    signed = Signed(updates).init()
    signed.publish(1, path)
    signed.timestamp(1, 1)
    with serving(updates) as server:
        yield Site(server, archive, (signed.folder / "1.root.json").read_bytes())


MakeProxy = Callable[[], Proxy]


@pytest.fixture
def make_proxy(site: Site) -> Iterator[MakeProxy]:
    """Make proxies that are closed after the test."""
    made: list[Proxy] = []

    def make() -> Proxy:
        made.append(Proxy(site.server.port))
        return made[-1]

    yield make
    for proxy in made:
        pytest_twisted.blockon(proxy.close())


class Hurried(Clock):
    """
    A clock on which a minute passes within a second.

    It stands while this process is busy, so that a busy process causes no timeouts.
    """

    #: The seconds of one step; there are some 200 steps a second.
    step = 0.5

    def tick(self) -> None:
        self.advance(self.step)


@pytest.fixture
def hurried() -> Iterator[Hurried]:
    """Make a clock that ticks during the test."""
    clock = Hurried()
    ticking = LoopingCall(clock.tick)
    ticking.start(0.005)
    yield clock
    ticking.stop()


class Download:
    """A box's downloader, in the test's own process."""

    def __init__(self, clock: Hurried, proxy: Proxy, site: Site, folder: Path) -> None:
        self._site = site
        self._folder = folder
        http = make_http_clients(reactor)
        server = UpdateServerClient(clock, http, proxy.url, lambda: "opq-box-agent")
        self._downloader = Downloader(clock, server, ArchiveStore(folder))
        folder.mkdir()

    async def fails(self, release: Release) -> str | None:
        """Download and verify; returns the reason of a failure, or None."""
        try:
            promised, _ = await self._downloader.fetch(release, lambda _: None, lambda _: None)
            received, file = await self._downloader.verify(promised)
        except OpqError as error:
            self.has_nothing_wrong()
            return str(error)
        with file:
            assert file.read() == self._site.archive
        assert received == self._site.release
        assert os.listdir(self._folder) == [str(UpdateName(NEW))]
        return None

    def has_nothing_wrong(self) -> None:
        """Check that no incomplete file has the name of the archive."""
        path = self._folder / str(UpdateName(NEW))
        assert not path.exists() or path.read_bytes() == self._site.archive


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# The downloader


@pytest.mark.parametrize("seed", SEEDS)
@pytest_twisted.ensureDeferred
async def test_downloads(
    hurried: Hurried, make_proxy: MakeProxy, site: Site, tmp_path: Path, seed: int
) -> None:
    """Each download succeeds or says why not; without faults the next one succeeds."""
    proxy = make_proxy()
    proxy.plan = plan = Seeded(seed, ALL, share=(0.5, 0.8, 1.0)[seed % 3], most=15)
    release = site.release if seed % 2 else Release(NEW)
    reasons: list[str | None] = []
    try:
        download = Download(hurried, proxy, site, tmp_path / "archives")
        while plan.left:
            reasons.append(await download.fails(release))
            if reasons[-1] is not None:
                assert_clear(reasons[-1])
        proxy.plan = honest
        assert await download.fails(release) is None
    except BaseException as error:
        error.add_note(f"seed {seed}, which came to {reasons} by\n{proxy}")
        raise


@pytest.mark.parametrize("end", [End.CLOSE, End.RESET])
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest_twisted.ensureDeferred
async def test_reset_at_each_offset(
    hurried: Hurried, make_proxy: MakeProxy, site: Site, tmp_path: Path, signed: bool, end: End
) -> None:
    """With many resets a download succeeds in pieces, and no byte is sent twice."""
    step = len(site.archive) // 100
    proxy = make_proxy()
    proxy.plan = lambda request: cut_body(step, end)
    download = Download(hurried, proxy, site, tmp_path / "archives")
    assert await download.fails(site.release if signed else Release(NEW)) is None, proxy
    assert len(proxy.passed) == -(-len(site.archive) // step), proxy
    assert proxy.body_bytes == {ARCHIVE: len(site.archive)}


@pytest_twisted.ensureDeferred
async def test_reset_in_each_header(
    hurried: Hurried, make_proxy: MakeProxy, site: Site, tmp_path: Path
) -> None:
    """After a connection that ends in the request or the header another one follows."""
    step = len(site.archive) // 60
    proxy = make_proxy()

    def every_other(request: Message) -> Mischief:
        number = len(proxy.passed)
        return cut_head(8 * (number // 2)) if number % 2 else cut_body(step)

    proxy.plan = every_other
    download = Download(hurried, proxy, site, tmp_path / "archives")
    assert await download.fails(site.release) is None, proxy
    assert len(proxy.passed) >= 2 * 60, proxy
    assert proxy.body_bytes == {ARCHIVE: len(site.archive)}


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize(
    "other",
    [other_file(), other_range(-1000), other_range(1000)],
    ids=["other file", "earlier", "later"],
)
@pytest_twisted.ensureDeferred
async def test_other_rest(
    hurried: Hurried,
    make_proxy: MakeProxy,
    site: Site,
    tmp_path: Path,
    other: Mischief,
    signed: bool,
) -> None:
    """After a wrong rest the whole archive is requested again."""
    plans = [cut_body(len(site.archive) // 2), other]
    proxy = make_proxy()
    proxy.plan = lambda request: plans.pop(0) if plans else None
    download = Download(hurried, proxy, site, tmp_path / "archives")
    release = site.release if signed else Release(NEW)
    reason = await download.fails(release)
    if signed and other.name == "another file":
        # With a signed hash the rest may come from any server; the hash is checked at the end.
        assert reason == "The file has another SHA-256 than promised. Try again.", proxy
        reason = await download.fails(release)
    assert reason is None, proxy
    asked = [request.get("Range") for request, _ in proxy.passed]
    assert asked == [None, f"bytes={len(site.archive) // 2}-", None]


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest_twisted.ensureDeferred
async def test_other_bytes(
    hurried: Hurried, make_proxy: MakeProxy, site: Site, tmp_path: Path, signed: bool
) -> None:
    """A rest with the same ETag and other bytes is detected by the hash."""
    plans = [cut_body(len(site.archive) // 2), other_bytes()]
    proxy = make_proxy()
    proxy.plan = lambda request: plans.pop(0) if plans else None
    download = Download(hurried, proxy, site, tmp_path / "archives")
    release = site.release if signed else Release(NEW)
    reason = await download.fails(release)
    assert reason == "The file has another SHA-256 than promised. Try again.", proxy
    assert await download.fails(release) is None, proxy
    assert [request.get("Range") is None for request, _ in proxy.passed] == [True, False, True]


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        (100_000, "For 10 minutes, less than 1000 bytes a second arrived. Try again later."),
        (100, None),
    ],
    ids=["too slow", "slow enough"],
)
@pytest_twisted.ensureDeferred
async def test_drip(
    hurried: Hurried,
    make_proxy: MakeProxy,
    site: Site,
    tmp_path: Path,
    pieces: int,
    reason: str | None,
) -> None:
    """A slow download fails only if it is slower than the minimum rate."""
    slow = drip(pieces, 0.01)

    def send(answer: Message) -> Sending:
        # There are two steps between two pieces, so 2.5 MB take at least 800 seconds.
        hurried.step = 4.0
        return slow.send(answer)

    proxy = make_proxy()
    proxy.plan = lambda request: Mischief("drip", send)
    download = Download(hurried, proxy, site, tmp_path / "archives")
    begun = hurried.seconds()
    assert await download.fails(site.release) == reason, proxy
    assert hurried.seconds() - begun > 600
    hurried.step = Hurried.step
    proxy.plan = honest
    assert await download.fails(site.release) is None, proxy


# The agent


def rests(box: Box) -> int:
    """Count the agent's rests and reboots."""
    return len(re.findall(AT_REST, box.agent.output))


async def click(box: Box) -> bool:
    """Click, and wait for the result; returns whether the release was installed."""
    times = rests(box) + 1
    await box.click()
    await box.agent.says(rf"(?s)({AT_REST}.*){{{times}}}")
    assert not re.search("Traceback|Unhandled", box.agent.output)
    if box.stages[-1] == "rebooting":
        await box.reboots_to(NEW)
        return True
    status = await box.status()
    assert status["stage"] in ("idle", "failed"), status
    assert status["installed"] == OLD, status
    assert_clear(status["message"])
    assert not (box.state_dir / "unpacked").exists()
    assert (box.prefix / "current" / "VERSION").read_text() == f"{OLD}\n"
    return False


async def clicked(box: Box, site: Site, proxy: Proxy) -> Box:
    """Start a box that trusts the site, and click."""
    box.install(OLD)
    box.pin(site.root)
    box.configure(proxy.url)
    await box.start()
    await box.click()
    return box


async def outlives(box: Box, proxy: Proxy, plan: Seeded) -> None:
    """Click until the new release runs, or the faults are over; then a click installs it."""
    try:
        await box.start()
        while not (done := await click(box)) and plan.left:
            pass
        proxy.plan = honest
        assert done or await click(box)
        archives = box.state_dir / "archives"
        assert [path.name for path in archives.glob("*.bz2*") if path.suffix != ".sha256"] == [
            str(UpdateName(NEW))
        ]
    except BaseException as error:
        error.add_note(f"seed {plan.seed}, which came to\n{box.agent.output}\nby\n{proxy}")
        raise


@pytest_twisted.ensureDeferred
async def test_agents(spawn: Spawn, make_proxy: MakeProxy, site: Site, tmp_path: Path) -> None:
    """Real boxes install the release, or show a sentence and install it at a later click."""
    going: list[Deferred[None]] = []
    for seed in SEEDS[:AGENTS]:
        proxy = make_proxy()
        proxy.plan = plan = Seeded(seed, QUICK, share=0.9, most=5)
        box = Box(spawn, tmp_path / f"box-{seed}")
        box.install(OLD)
        box.configure(proxy.url)
        if seed % 2:
            box.pin(site.root)
        going.append(Deferred.fromCoroutine(outlives(box, proxy, plan)))
    try:
        await gatherResults(going, consumeErrors=True)
    except FirstError as error:
        error.subFailure.raiseException()
    for seed in SEEDS[:AGENTS]:
        path = tmp_path / f"box-{seed}" / "state" / "archives" / str(UpdateName(NEW))
        assert path.read_bytes() == site.archive


@pytest_twisted.ensureDeferred
async def test_agent_comes_far_in_steps(
    spawn: Spawn, make_proxy: MakeProxy, site: Site, tmp_path: Path
) -> None:
    """One click is enough if each connection breaks after a fifth of the download."""
    step = len(site.archive) // 5 + 1
    proxy = make_proxy()
    proxy.plan = lambda request: cut_body(step) if request.path == ARCHIVE else None
    box = await clicked(Box(spawn, tmp_path / "box"), site, proxy)
    await box.reboots_to(NEW)
    asked = [request.get("Range") for request, _ in proxy.passed if request.path == ARCHIVE]
    assert asked == [None, *(f"bytes={times * step}-" for times in range(1, 5))]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest_twisted.ensureDeferred
async def test_interrupted_late(
    spawn: Spawn, make_proxy: MakeProxy, site: Site, tmp_path: Path, number: signal.Signals
) -> None:
    """An agent that ends at 90 % of a download fetches at most 1 MB twice."""
    come = len(site.archive) * 9 // 10
    proxy = make_proxy()
    proxy.plan = lambda request: cut_body(come, End.IDLE_TIMEOUT)
    box = await clicked(Box(spawn, tmp_path / "box"), site, proxy)
    part = box.state_dir / "archives" / f"{UpdateName(NEW)}.part"
    await eventually(lambda: part.exists() and part.stat().st_size == come)
    await box.agent.stop(number)
    proxy.plan = honest
    await box.start()
    await box.reboots_to(NEW)
    assert len(site.archive) <= proxy.body_bytes[ARCHIVE] <= len(site.archive) + TWICE
