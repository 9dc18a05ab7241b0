"""What the functional tests share: daemons that end with their test."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.functional import processes
from tests.functional.box import OLD, Box, Gate, RawServer

# Nothing that a test starts may touch the machine's own services.
os.environ["OPQ_SYSTEMD"] = "no"

StartDaemon = Callable[..., processes.Server]


@pytest.fixture
def updates(tmp_path: Path) -> Path:
    """Make an updates directory, beside other files."""
    directory = tmp_path / "updates"
    directory.mkdir()
    return directory


@pytest.fixture
def start() -> Iterator[StartDaemon]:
    """Start `twistd` daemons that are stopped when the test is over, whatever came of it."""
    started: list[processes.Server] = []

    def begin(plugin: str, *options: object, **keywords: Any) -> processes.Server:
        server = processes.twistd(plugin, *map(str, options), **keywords)
        started.append(server)
        return server

    yield begin
    for server in started:
        pytest_twisted.blockon(Deferred.fromCoroutine(server.stop()))


@pytest.fixture
def spawn() -> Iterator[StartDaemon]:
    """Start any programs that are stopped when the test is over; what they said is shown then."""
    started: list[processes.Server] = []

    def begin(*argv: object, env: Mapping[str, str] | None = None) -> processes.Server:
        server = processes.Server([*map(str, argv)], env)
        started.append(server)
        return server

    yield begin
    for server in started:
        pytest_twisted.blockon(Deferred.fromCoroutine(server.stop()))
        print(server.output)


@pytest.fixture
def box(spawn: StartDaemon, tmp_path: Path) -> Box:
    """A box that runs an old release, put there by hand."""
    box = Box(spawn, tmp_path / "box")
    box.install(OLD)
    return box


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Where an install script waits."""
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.close()


@pytest.fixture
def raw() -> Iterator[RawServer]:
    """An update server that does whatever it is told to."""
    server = RawServer()
    yield server
    pytest_twisted.blockon(server.close())
