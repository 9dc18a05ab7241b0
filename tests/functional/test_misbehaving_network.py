"""On a faulty network a download succeeds, or a sentence says why not."""

import math
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytest_twisted
from attrs import frozen
from twisted.internet.defer import Deferred, FirstError, gatherResults

from opq_twisted.archive.delta import compare
from opq_twisted.archive.name import UpdateName
from opq_twisted.archive.release import Release
from tests.functional.box import INSTALL, Box, Spawn, assert_clear
from tests.functional.downloads import NEW, OLD, Download, Hurried, digest, index_of
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
from tests.helpers.archives import make_pieces_archive, random_parts
from tests.helpers.signed_metadata import Signed
from tests.helpers.torture import SEED, TORTURE

#: The path of the new release.
ARCHIVE = f"/update/{UpdateName(NEW)}"

#: The seeds of the tried networks.
SEEDS = range(SEED, SEED + (200 if TORTURE else 12))

#: The number of networks with real agents.
AGENTS = 12 if TORTURE else 2

#: Constants of real agents: the seconds between attempts without a new byte.
PROMPT = {"download.resumable.RETRY_DELAYS": [0.1, 0.2, 0.4, 1, 3]}

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
    #: An older archive, which has most of the pieces.
    old: Path
    #: How many bytes of the new one a box with the older one has to fetch.
    delta: int

    @property
    def release(self) -> Release:
        """The description of the release for a box with signed metadata."""
        return Release(NEW, len(self.archive), {"sha256": digest(self.archive)})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Start the update server."""
    updates = tmp_path_factory.mktemp("updates")
    path, old = (updates / str(UpdateName(version)) for version in (NEW, OLD))
    # Several times the size that a box writes between two syncs; the same in each run.
    make_pieces_archive(path, NEW, random_parts(1, 2, 3, 4, 5, size=500_000), script=INSTALL)
    make_pieces_archive(old, OLD, random_parts(1, 12, 3, 14, 5, size=500_000), script=INSTALL)
    delta = compare(index_of(path), index_of(old)).fetched
    signed = Signed(updates).init()
    signed.publish(1, path)
    signed.timestamp(1, 1)
    with serving(updates) as server:
        root = (signed.folder / "1.root.json").read_bytes()
        yield Site(server, path.read_bytes(), root, old, delta)


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


MakeDownload = Callable[..., Download]


@pytest.fixture
def make_download(hurried: Hurried, site: Site, tmp_path: Path) -> MakeDownload:
    """Make the downloader of a box behind a proxy, which may have most pieces of the archive."""

    def make(proxy: Proxy, has_pieces: bool = False) -> Download:
        folder = tmp_path / "archives"
        download = Download(hurried, proxy.url, site.archive, folder, proxy)
        if has_pieces:
            download.keep_as_last_good(site.old.read_bytes())
        return download

    return make


# The downloader


@pytest.mark.parametrize("seed", SEEDS)
@pytest_twisted.ensureDeferred
async def test_downloads(
    make_proxy: MakeProxy, make_download: MakeDownload, site: Site, seed: int
) -> None:
    """Each download succeeds or says why not; without faults the next one succeeds."""
    proxy = make_proxy()
    proxy.plan = plan = Seeded(seed, ALL, share=(0.5, 0.8, 1.0)[seed % 3], most=15)
    release = site.release if seed % 2 else Release(NEW)
    reasons: list[str | None] = []
    try:
        download = make_download(proxy, has_pieces=seed // 2 % 2)
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
@pytest.mark.parametrize("kind", ["signed", "unsigned", "delta", "unsigned delta"])
@pytest_twisted.ensureDeferred
async def test_reset_at_each_offset(
    make_proxy: MakeProxy, make_download: MakeDownload, site: Site, kind: str, end: End
) -> None:
    """With many resets a download succeeds in pieces, and no byte is sent twice."""
    step = len(site.archive) // 100
    proxy = make_proxy()
    proxy.plan = lambda request: cut_body(step, end)
    has_pieces = "delta" in kind
    download = make_download(proxy, has_pieces)
    release = Release(NEW) if "unsigned" in kind else site.release
    assert await download.fails(release) is None, proxy
    travels = site.delta if has_pieces else len(site.archive)
    assert len(proxy.passed) >= -(-travels // step), proxy
    assert proxy.body_bytes[ARCHIVE] == download.fetched == travels


@pytest.mark.parametrize("has_pieces", [False, True], ids=["whole", "delta"])
@pytest_twisted.ensureDeferred
async def test_reset_in_each_header(
    make_proxy: MakeProxy, make_download: MakeDownload, site: Site, has_pieces: bool
) -> None:
    """After a connection that ends in the request or the header another one follows."""
    travels = site.delta if has_pieces else len(site.archive)
    step = travels // 60
    proxy = make_proxy()

    def every_other(request: Message) -> Mischief | None:
        if request.path != ARCHIVE:
            return None
        number = len(proxy.passed)
        return cut_head(8 * (number // 2)) if number % 2 else cut_body(step)

    proxy.plan = every_other
    download = make_download(proxy, has_pieces)
    assert await download.fails(site.release) is None, proxy
    assert len(proxy.passed) >= 2 * 60, proxy
    assert proxy.body_bytes[ARCHIVE] == travels


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize(
    "other",
    [other_file(), other_range(-1000), other_range(1000)],
    ids=["other file", "earlier", "later"],
)
@pytest_twisted.ensureDeferred
async def test_other_rest(
    make_proxy: MakeProxy,
    make_download: MakeDownload,
    site: Site,
    other: Mischief,
    signed: bool,
) -> None:
    """After a wrong rest the whole archive is requested again."""
    plans = [cut_body(len(site.archive) // 2), other]
    proxy = make_proxy()
    proxy.plan = lambda request: plans.pop(0) if plans else None
    download = make_download(proxy)
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
    make_proxy: MakeProxy, make_download: MakeDownload, site: Site, signed: bool
) -> None:
    """A rest with the same ETag and other bytes is detected by the hash."""
    plans = [cut_body(len(site.archive) // 2), other_bytes()]
    proxy = make_proxy()
    proxy.plan = lambda request: plans.pop(0) if plans else None
    download = make_download(proxy)
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
    make_download: MakeDownload,
    site: Site,
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
    download = make_download(proxy)
    begun = hurried.seconds()
    assert await download.fails(site.release) == reason, proxy
    assert hurried.seconds() - begun >= 600
    hurried.step = Hurried.step
    proxy.plan = honest
    assert await download.fails(site.release) is None, proxy


# The agent


def span(request: Message) -> tuple[int, float]:
    """Read the first and the last byte that a request asks for."""
    first, last = (request.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")
    return int(first), int(last) if last else math.inf


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
    box.set_constants(PROMPT)
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
        assert box.archives() == {str(UpdateName(NEW))}
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
        box.set_constants(PROMPT)
        box.configure(proxy.url)
        if seed % 2:
            box.pin(site.root)
            box.keep_as_last_good(site.old)
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


@pytest.mark.parametrize(
    ("number", "has_pieces"),
    [(signal.SIGKILL, False), (signal.SIGTERM, True)],
    ids=["whole", "delta"],
)
@pytest_twisted.ensureDeferred
async def test_interrupted_late(
    spawn: Spawn,
    make_proxy: MakeProxy,
    site: Site,
    tmp_path: Path,
    number: signal.Signals,
    has_pieces: bool,
) -> None:
    """An agent that ends late in a download fetches at most 1 MB twice."""
    come = len(site.archive) * 3 // 4
    proxy = make_proxy()

    def stop_there(request: Message) -> Mischief | None:
        first, last = span(request)
        silent = request.path == ARCHIVE and first < come <= last
        return cut_body(come - first, End.IDLE_TIMEOUT) if silent else None

    proxy.plan = stop_there
    box = Box(spawn, tmp_path / "box")
    if has_pieces:
        box.keep_as_last_good(site.old)
    await clicked(box, site, proxy)
    part = box.state_dir / "archives" / f"{UpdateName(NEW)}.part"
    await eventually(lambda: part.exists() and part.stat().st_size == come)
    await box.agent.stop(number)
    proxy.plan = honest
    await box.start()
    await box.reboots_to(NEW)
    travels = site.delta if has_pieces else len(site.archive)
    assert travels <= proxy.body_bytes[ARCHIVE] <= travels + TWICE
