"""Sandboxed boxes for the functional tests, and false servers for them."""

import hashlib
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.protocols.portforward import ProxyFactory
from twisted.python.failure import Failure

from opq_twisted.archive.name import UpdateName
from opq_twisted.archive.release import Release
from opq_twisted.box.download.archive_store import ArchiveStore
from tests.functional.processes import PROGRAMS, LoopbackServer, Server, curl, get, until
from tests.helpers.archives import make_archive

Spawn = Callable[..., Server]

#: The release that a box of the tests runs first.
OLD = 1500000000

#: An install script that works.
INSTALL = b"""#!/bin/sh
set -e
echo "installing $OPQ_VERSION"
mkdir -p "$OPQ_PREFIX/current"
cp VERSION "$OPQ_PREFIX/current/VERSION"
"""


#: A message for the owner of a box: a line of sentences, without a programmer's words.
_SENTENCE = re.compile(r"(?:[A-Z]|http://)[^\n]*\.")
_PROGRAMMERS = re.compile(r"Errno|object at 0x|<class|<twisted|\bb['\"]|Exception")


def assert_clear(message: str) -> None:
    """Check that a message is written for the owner of a box."""
    assert _SENTENCE.fullmatch(message), message
    assert not _PROGRAMMERS.search(message), message


def archive(folder: Path, version: int, script: bytes = INSTALL) -> Path:
    """Publish an update that consists of its script."""
    return make_archive(folder / str(UpdateName(version)), version, script=script)


class Box:
    """
    A sandboxed box.

    Its reboot command writes a line to `reboots` and stops the agent; `start` is the power button.
    """

    def __init__(self, spawn: Spawn, folder: Path) -> None:
        self.prefix = folder / "prefix"
        self.state_dir = folder / "state"
        self.config = folder / "opqbox_config.json"
        self.log = folder / "log" / "box_update.log"
        self.pid_file = folder / "agent.pid"
        self.reboots = folder / "reboots"
        self._reboot = folder / "reboot"
        self._spawn = spawn
        #: The root that the box trusts, if the file exists.
        self.root = folder / "root.json"
        #: The agent that was started last.
        self.agent: Server
        #: Its number in the configuration.
        self.number = 7
        #: Additional environment variables of the agent.
        self.environment: dict[str, str] = {}
        self._constants: dict[str, Any] = {}
        #: The command that starts the agent.
        self.program: tuple[str, ...] = (str(PROGRAMS / "opq-box-agent"),)
        folder.mkdir(exist_ok=True)
        self._reboot.write_text(
            # Stop only the agent that asked, because another may have been started since.
            f"#!/bin/sh\necho rebooting >>{self.reboots}\n"
            f'[ "$PPID" != "$(cat {self.pid_file})" ] || kill -TERM "$PPID"\n'
        )
        self._reboot.chmod(0o755)

    def configure(self, endpoint: str, **updater: Any) -> None:
        """Write the configuration, with keys of other daemons; unsigned releases are allowed."""
        settings = {
            "allow_unsigned": True,
            "trusted_root": str(self.root),
            "prefix": str(self.prefix),
            "log": str(self.log),
            "reboot_command": [str(self._reboot)],
            "settle": 0,
            **updater,
        }
        others = {"box_id": self.number, "device_path": "/dev/opq0", "plugins": ["print"]}
        content = {**others, "updates_ep": endpoint, "updater": settings}
        self.config.write_text(json.dumps(content))

    def pin(self, root: bytes) -> None:
        """Let the box trust this root; it then refuses unsigned releases."""
        self.root.write_bytes(root)

    def install(self, version: int) -> None:
        """Make a release the installed one."""
        current = self.prefix / "current"
        current.mkdir(parents=True, exist_ok=True)
        (current / "VERSION").write_text(f"{version}\n")

    def keep_as_last_good(self, archive: Path) -> None:
        """Keep an archive as the last good release of the box."""
        archives = ArchiveStore(self.state_dir / "archives")
        archives.folder.mkdir(parents=True)
        shutil.copy(archive, archives.folder)
        hashes = {"sha256": hashlib.sha256(archive.read_bytes()).hexdigest()}
        version = UpdateName.parse(archive.name).version
        archives.keep_as_last_good(Release(version, None, hashes))

    def use_installed_agent(self) -> None:
        """From now on, start the agent of the installed release."""
        self.program = (
            str(self.prefix / "current" / "box-configuration-daemon" / "bin" / "opq-box-agent"),
        )

    def report_promptly(self) -> None:
        """From now on, start an agent that reports within a second, also after failures."""
        names = ("scheduler._FIRST_DELAY", "scheduler._FIRST_SPREAD")
        more = ("delay._FIRST_BACKOFF", "delay._MAX_BACKOFF")
        self.set_constants({f"report.{name}": 0.5 for name in (*names, *more)})

    def set_constants(self, values: dict[str, Any]) -> None:
        """From now on, start an agent with other values of constants, such as seconds of a wait."""
        self.program = (sys.executable, "-P", str(Path(__file__).with_name("prompt_agent.py")))
        self._constants |= values
        self.environment["OPQ_CONSTANTS"] = json.dumps(self._constants)

    def launch(self, *options: object) -> Server:
        """Start the agent's process."""
        self.agent = self._spawn(
            *(*self.program, "--config", self.config, "--state-dir", self.state_dir),
            *("--port", "tcp:0:interface=127.0.0.1", *options),
            env={"OPQ_PYTHON": sys.executable, **self.environment},
        )
        assert self.agent.transport is not None
        self.pid_file.write_text(f"{self.agent.transport.pid}\n")
        return self.agent

    async def start(self) -> None:
        """Start the agent, and wait until it listens."""
        await self.launch().ready()

    async def start_with(self, endpoint: str, **updater: Any) -> None:
        """Write the configuration, start the agent, and wait until it listens."""
        self.configure(endpoint, **updater)
        await self.start()

    async def start_again(self) -> None:
        """Start the agent at its earlier port, and wait until it listens."""
        await self.launch("--port", f"tcp:{self.agent.port}:interface=127.0.0.1").ready()

    async def click(self, *options: str) -> tuple[int, str]:
        """Click Update Box; returns the status code and the message."""
        code, body = await curl(f"{self.agent.url}/box_update", "-X", "POST", *options)
        return code, json.loads(body)["status"]

    async def status(self) -> dict[str, Any]:
        """Request the status of the box."""
        status: dict[str, Any] = json.loads(await get(f"{self.agent.url}/status"))
        return status

    async def shows(self, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Wait until the status meets a condition; returns the status."""
        return await until(self.status, condition)

    async def fails(self, times: int = 1) -> str:
        """Wait until so many updates have failed; returns the reason of the last one."""
        await self.agent.says(rf"(?s)(The update failed: .*){{{times}}}")
        status = await self.status()
        assert status["stage"] == "failed", status
        attempt = status["last_attempt"]
        assert attempt["outcome"] == "failed"
        assert attempt["reason"] == status["message"]
        return str(attempt["reason"])

    async def reboots_to(self, version: int) -> None:
        """Wait for the reboot, start the agent again, and find the release installed."""
        assert await self.agent.ends() == -signal.SIGTERM, self.agent.output
        assert self.rebooted, self.agent.output
        await self.start()
        status = await self.shows(lambda status: status["stage"] in ("idle", "failed"))
        assert (status["stage"], status["installed"]) == ("idle", version), status
        assert status["last_attempt"]["outcome"] == "updated"

    @property
    def rebooted(self) -> int:
        """How often the box was asked to reboot."""
        return len(self.reboots.read_text().splitlines()) if self.reboots.exists() else 0

    @property
    def stages(self) -> list[str]:
        """The stages of the agent since its start."""
        return [
            line.rpartition("Stage: ")[2]
            for line in self.agent.output.splitlines()
            if "Stage: " in line
        ]

    def archives(self) -> set[str]:
        """The names of the downloaded archives, without the files of their hashes and indexes."""
        found = (self.state_dir / "archives").glob("opq-*")
        return {path.name for path in found if path.suffix not in (".sha256", ".pieces")}

    def everything_installed(self) -> dict[str, bytes]:
        """All files of the prefix."""
        return {str(path): path.read_bytes() for path in self.prefix.rglob("*") if path.is_file()}


class Gate:
    """A FIFO at which a script waits until the test opens it."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        # Open for both directions, so that neither side waits for the other.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        #: A command for the script.
        self.wait = f"read -r _ <{path}\n"

    def open(self) -> None:
        """Let one script pass."""
        os.write(self._fd, b"\n")

    def close(self) -> None:
        """Let all scripts pass, because nobody opens the gate any more."""
        os.close(self._fd)


@frozen
class Answer:
    """A response of a raw server, and whether the server closes the connection after it."""

    content: bytes
    closes: bool = True
    #: The bytes that follow every few milliseconds until the connection is closed.
    again: bytes = b""
    #: The response to the next request for the same path.
    then: "Answer | None" = None


def http(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """Make the bytes of an HTTP/1.1 response; `length` may be false."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


#: The header of a box that waits for another version.
_WAITS = b"\r\nPrefer: wait="

NOT_FOUND = Answer(http(b"", status="404 Not Found"))


class RawServer(LoopbackServer):
    """Sends prescribed bytes for each path, from the test's own process."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        #: The requested paths, except those of reports and of boxes that wait for another version.
        self.asked: list[str] = []
        #: The bytes of the requests.
        self.requests: list[bytes] = []
        super().__init__()

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        return _RawAnswers(self)

    def answer(self, path: str) -> Answer:
        """Choose the response for a path."""
        answer = self.answers.get(path, NOT_FOUND)
        if answer.then is not None:
            self.answers[path] = answer.then
        return answer

    def take_report(self, request: bytes) -> Answer:
        """Choose the response for a report."""
        return self.answers.get("/report", NOT_FOUND)


class Middleman(RawServer):
    """
    An attacker between a box and its update server, with a copy of the server's directory.

    It sends the files of that directory, except for prescribed false responses.
    """

    def __init__(self, updates: Path) -> None:
        super().__init__()
        self.updates = updates
        self._honest: ProxyFactory | None = None

    def let_through(self, server: Server | None) -> None:
        """Connect boxes to this server from now on; without a server, respond again."""
        self._honest = None if server is None else ProxyFactory("127.0.0.1", server.port)

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        if self._honest is not None:
            return self._honest.buildProtocol(addr)
        return super().buildProtocol(addr)

    def answer(self, path: str) -> Answer:
        file = self.updates / path.removeprefix("/update").lstrip("/")
        if path in self.answers or not file.is_file():
            return super().answer(path)
        return Answer(http(file.read_bytes()))


def _is_whole(request: bytes) -> bool:
    head, _, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\nContent-Length: (\d+)", head)
    assert length is not None, head
    return len(body) == int(length[1])


class _RawAnswers(Protocol):
    def __init__(self, server: RawServer) -> None:
        self._server = server
        self._request = b""
        self._again: LoopingCall | None = None

    def dataReceived(self, data: bytes) -> None:
        self._request += data
        if b"\r\n\r\n" not in self._request:
            return
        path = self._request.split(b" ")[1].decode()
        if self._request.startswith(b"POST "):
            # Nor are reports counted, whose times vary, too.
            if not _is_whole(self._request):
                return
            answer = self._server.take_report(self._request)
        elif _WAITS in self._request:
            # Nobody may wait here. These requests are not counted: their times vary.
            answer = NOT_FOUND
        else:
            self._server.asked.append(path)
            self._server.requests.append(self._request)
            answer = self._server.answer(path)
        assert self.transport is not None
        self.transport.write(answer.content)
        if answer.again:
            self._again = LoopingCall(self.transport.write, answer.again)
            self._again.start(0.005)
        elif answer.closes:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._again is not None:
            self._again.stop()
