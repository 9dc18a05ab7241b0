"""Starts real programs for the functional tests, and waits for their output."""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import ProcessProtocol, ServerFactory
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure

ROOT = Path(__file__).parent.parent.parent
#: The folder of our programs.
PROGRAMS = Path(sys.executable).parent
TWISTD = str(PROGRAMS / "twistd")

#: Seconds after which a program counts as stuck if it does not do what a test waits for.
TIMEOUT = 180

#: Seconds between two readings of a value whose changes nobody announces.
POLL_INTERVAL = 0.05

_Value = TypeVar("_Value")


class Daemon(ProcessProtocol):
    """A program that runs during a test; the test can wait for its output."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self.output = ""
        self.status: int | None = None
        self._waiting: list[tuple[re.Pattern[str], Deferred[re.Match[str]]]] = []
        self._ended: list[Deferred[int]] = []
        reactor.spawnProcess(self, argv[0], list(argv), env={**os.environ, **(env or {})})

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self.output += data.decode("utf-8", "replace")
        for waiting in tuple(self._waiting):
            pattern, found = waiting
            match = pattern.search(self.output)
            if match is not None:
                self._waiting.remove(waiting)
                found.callback(match)

    def processEnded(self, reason: Failure) -> None:
        status = reason.value.exitCode  # type: ignore[union-attr]
        self.status = -(reason.value.signal or 0) if status is None else status  # type: ignore[union-attr]
        for _, found in self._waiting:
            found.errback(AssertionError(f"the program ended:\n{self.output}"))
        self._waiting.clear()
        for ended in self._ended:
            ended.callback(self.status)

    async def says(self, pattern: str) -> re.Match[str]:
        """Wait until the output matches a regular expression."""
        compiled = re.compile(pattern)
        match = compiled.search(self.output)
        if match is not None:
            return match
        if self.status is not None:
            raise AssertionError(f"the program ended without saying {pattern}:\n{self.output}")
        found: Deferred[re.Match[str]] = Deferred()
        self._waiting.append((compiled, found))
        return await found.addTimeout(TIMEOUT, reactor)

    async def ends(self) -> int:
        """Wait for the end; returns the exit status, or minus the signal's number."""
        if self.status is not None:
            return self.status
        ended: Deferred[int] = Deferred()
        self._ended.append(ended)
        return await ended.addTimeout(TIMEOUT, reactor)

    async def refuses_to_start(self, *sentences: str, status: int = 1) -> None:
        """Wait until the program ends with a status, these sentences, and without a traceback."""
        assert await self.ends() == status
        for sentence in sentences:
            assert sentence in self.output
        assert "Traceback" not in self.output

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the program, if it has not ended already."""
        if self.status is None:
            assert self.transport is not None
            self.transport.signalProcess(number.name.removeprefix("SIG"))
        return await self.ends()

    @property
    def pid(self) -> int:
        """The number of the running process."""
        assert self.transport is not None
        pid: int = self.transport.pid
        return pid


class Server(Daemon):
    """A daemon that listens on a free port of loopback."""

    port: int

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def ready(self) -> "Server":
        """Wait until it listens."""
        match = await self.says(
            r"(?:Serving .* on|The page is at) https?://\S+?:(\d+)|BaseHTTPServer starting on (\d+)"
        )
        self.port = int(match[1] or match[2])
        return self


def daemon_command(program: str, *options: object) -> list[str]:
    """Give the command that runs one of our daemons on a free port."""
    return [str(PROGRAMS / program), "--port", "tcp:0:interface=127.0.0.1", *map(str, options)]


def start_daemon(program: str, *options: object) -> Server:
    """Start one of our daemons on a free port."""
    return Server(daemon_command(program, *options))


def copy_sources(to: Path) -> Path:
    """
    Copy the sources, so that nothing is built in the real ones; returns the new folder.

    In a checkout only what git tracks is copied: keys and archives may lie beside it.
    """
    if (ROOT / ".git").exists():
        require("git")
        listing = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
        )
        for name in filter(None, os.fsdecode(listing.stdout).split("\0")):
            if (ROOT / name).exists():
                (to / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, to / name)
        return to
    # An unpacked source distribution has no git, and few other files.
    ignored = shutil.ignore_patterns(
        *(".venv", "build", "dist", "*.egg-info", "_trial_temp*", "*_cache", "__pycache__")
    )
    copy: Path = shutil.copytree(ROOT, to, ignore=ignored)
    return copy


async def run(
    *argv: str, folder: Path | None = None, seconds: float = TIMEOUT
) -> tuple[int, str, str]:
    """Run a program to its end; returns its exit status, standard output and standard error."""
    require(argv[0])
    out, error, status = await getProcessOutputAndValue(
        argv[0], argv[1:], env=os.environ, path=os.fspath(folder) if folder else None
    ).addTimeout(seconds, reactor)
    return status, out.decode("utf-8", "replace"), error.decode("utf-8", "replace")


async def succeed(*argv: object, folder: Path | None = None) -> str:
    """Run a program that must succeed; returns what it prints."""
    status, out, error = await run(*map(str, argv), folder=folder)
    assert status == 0, f"{argv} ended with {status}:\n{out}\n{error}"
    return out


async def curl(*arguments: str) -> tuple[int, str]:
    """Send a request with curl; returns the status code and the body."""
    out = await succeed("curl", "-s", "-S", "-w", "\n%{http_code}", *arguments)
    body, _, code = out.rpartition("\n")
    return int(code), body


async def get(url: str, data: bytes | None = None) -> bytes:
    """Send a request with Python's own client: GET, or POST with the data."""

    def fetch() -> bytes:
        with urllib.request.urlopen(url, data, timeout=TIMEOUT) as response:
            body: bytes = response.read()
        return body

    return await deferToThread(fetch)


async def until(
    read: Callable[[], Awaitable[_Value]],
    accepts: Callable[[_Value], object],
    seconds: float = TIMEOUT,
) -> _Value:
    """Read a value again and again until it is accepted; returns that value."""
    for _ in range(int(seconds / POLL_INTERVAL)):
        value = await read()
        if accepts(value):
            return value
        await deferLater(reactor, POLL_INTERVAL)
    raise AssertionError(f"the value that the test waits for did not come; the last was {value!r}")


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition is true."""

    async def read() -> object:
        return condition()

    await until(read, bool)


async def some_at_a_time(
    jobs: Iterable[Coroutine[Deferred[Any], Any, _Value]], number: int
) -> list[_Value]:
    """Run many jobs, so many of them at a time; returns the results in the order of the ends."""
    waiting, results = iter(jobs), list[_Value]()

    async def work() -> None:
        for job in waiting:
            results.append(await job)

    await gatherResults([Deferred.fromCoroutine(work()) for _ in range(number)])
    return results


class LoopbackServer(ServerFactory):
    """A server in the test's own process, on a free port of loopback."""

    def __init__(self) -> None:
        self._port = reactor.listenTCP(0, self, interface="127.0.0.1")

    @property
    def url(self) -> str:
        """The URL of the server."""
        return url_of(self._port)

    def close(self) -> Deferred[None] | None:
        """Stop listening."""
        closed: Deferred[None] | None = self._port.stopListening()
        return closed


def require(program: str) -> None:
    """Skip a test with a message if a program is missing; on CI the test fails."""
    if shutil.which(program) is None:
        skip(f"this test needs the program {program}: install it and run again")


def require_root() -> None:
    """
    Skip a test with a message if the tests run as an ordinary user.

    On CI it is skipped only where `ROOT_FOLLOWS` says that `make test-root` runs it.
    """
    if os.geteuid() == 0:
        return
    if os.environ.get("ROOT_FOLLOWS"):
        pytest.skip("this test needs root: `make test-root` follows")
    skip("this test needs root: run it with `make test-root`")


def without_capabilities() -> list[str]:
    """Give the prefix of a command that must obey file permissions, even as root."""
    if os.geteuid() != 0:
        return []
    require("setpriv")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


def skip(reason: str) -> NoReturn:
    """Skip a test with a message because something is missing; on CI the test fails."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def url_of(port: IListeningPort) -> str:
    """Give the URL of a port on which this process serves on loopback."""
    address = port.getHost()
    assert isinstance(address, IPv4Address)
    return f"http://127.0.0.1:{address.port}"


#: Stands in for build_update.py: it fetches no packages, and its versions are those of the docs.
BUILDER = """\
#!/bin/sh
built=$(ls | grep '^opq-box-update-' | grep -vc 'json$' || :)
exec {python} {root}/build_update.py --no-wheels --version $((1547860803 + 86400 * built)) "$@"
"""
#: Stands in for opq-release: keys are encrypted at a cost that takes no time.
RELEASE_TOOL = """\
#!{python}
import sys
from opq_twisted.cli.release.main import main
from opq_twisted.trust import pkcs8
pkcs8.COST = 1 << 4
sys.exit(main())
"""
