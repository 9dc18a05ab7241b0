"""The fixtures of the functional tests: daemons that end with their test, and boxes."""

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from tests.functional import processes
from tests.functional.box import OLD, Box, Gate, RawServer, Spawn
from tests.functional.downloads import Hurried
from tests.helpers.postgres import Postgres

if TYPE_CHECKING:
    from tests.functional.tabs import Tabs

# The programs of the tests must not change the machine's own services.
os.environ["OPQ_SYSTEMD"] = "no"

#: These tests run in one process, because they share a PostgreSQL.
WITH_POSTGRES = pytest.mark.xdist_group("postgres")

#: The modules with the longest tests.
_LONG = (
    *("test_kill_at_every_write", "test_system_call_failures", "test_misbehaving_network"),
    *("test_releasing", "test_documented_commands", "test_fleet_story"),
)

StartDaemon = Callable[..., processes.Server]
StartBox = Callable[..., Awaitable[None]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tests, so that no process is alone with one at the end."""
    items.sort(key=lambda item: item.path.stem not in _LONG)


@pytest.fixture
def updates(tmp_path: Path) -> Path:
    """Make an updates directory, beside other files."""
    directory = tmp_path / "updates"
    directory.mkdir()
    return directory


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start programs that are stopped after the test; then their output is printed."""
    started: list[processes.Server] = []

    def begin(*argv: object, env: Mapping[str, str] | None = None) -> processes.Server:
        started.append(processes.Server([*map(str, argv)], env))
        return started[-1]

    yield begin
    for server in started:
        pytest_twisted.blockon(Deferred.fromCoroutine(server.stop()))
        print(server.output)
    # An agent that enters a stage which may not follow the last one goes on, and only logs that.
    assert not any("its stages are wrong" in server.output for server in started)


@pytest.fixture
def start(spawn: Spawn) -> StartDaemon:
    """Start our daemons on free ports; they are stopped after the test."""
    return lambda program, *options, **keywords: spawn(
        *processes.daemon_command(program, *options), **keywords
    )


@pytest.fixture
def box(spawn: Spawn, tmp_path: Path) -> Box:
    """A box with an old release, which the test has put there."""
    box = Box(spawn, tmp_path / "box")
    box.install(OLD)
    return box


@pytest.fixture
def start_box(start: StartDaemon, box: Box, updates: Path) -> StartBox:
    """Start the update server, and the box that asks it, with these settings."""

    async def begin(**updater: Any) -> None:
        server = await start("opq-update-server", "--updates-dir", updates).ready()
        await box.start_with(server.url, **updater)

    return begin


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A gate at which an install script waits."""
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.close()


@pytest.fixture
def raw() -> Iterator[RawServer]:
    """An update server that sends prescribed bytes."""
    server = RawServer()
    yield server
    pytest_twisted.blockon(server.close())


@pytest.fixture
def hurried() -> Iterator[Hurried]:
    """Make a clock that ticks during the test."""
    clock = Hurried()
    ticking = LoopingCall(clock.tick)
    ticking.start(0.005)
    yield clock
    ticking.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Run one PostgreSQL for all tests that have `WITH_POSTGRES`; they may restart it."""
    server = Postgres()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def chromium() -> Iterator["Tabs"]:
    """Run one browser for all tests that have `IN_BROWSER`."""
    # Only the process with these tests needs Playwright.
    from tests.browser import chromium
    from tests.functional.tabs import Tabs

    if chromium.path() is None:
        processes.skip("this test needs Debian's package chromium: install it and run again")
    tabs = Tabs()
    pytest_twisted.blockon(Deferred.fromCoroutine(tabs.start()))
    yield tabs
    pytest_twisted.blockon(Deferred.fromCoroutine(tabs.stop()))


@pytest.fixture
def tabs(chromium: "Tabs") -> Iterator["Tabs"]:
    """A browser, whose windows are closed after the test."""
    yield chromium
    pytest_twisted.blockon(Deferred.fromCoroutine(chromium.close_all()))
