"""Real child processes of a test, whose clock is not the real one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProcessTransport, IReactorProcess
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer


@implementer(IReactorProcess)
class Children:
    """Starts real programs, and lets a test wait for their events."""

    def __init__(self) -> None:
        self._events: list[tuple[str, Deferred[None]]] = []
        self._happened: set[str] = set()

    def spawnProcess(self, processProtocol: Any, *args: Any, **kwargs: Any) -> IProcessTransport:
        protocol: ProcessProtocol = processProtocol
        for method, event in (
            ("connectionMade", "started"),
            ("childDataReceived", "said"),
            ("processExited", "exited"),
            ("processEnded", "ended"),
        ):
            setattr(protocol, method, self._reporting(event, getattr(protocol, method)))
        transport: IProcessTransport = reactor.spawnProcess(protocol, *args, **kwargs)
        return transport

    def _reporting(self, event: str, method: Callable[..., None]) -> Callable[..., None]:
        def report(*args: Any) -> None:
            method(*args)
            self._happened.add(event)
            for name, happened in tuple(self._events):
                if name == event:
                    self._events.remove((name, happened))
                    # Later: the caller may not have finished starting the program.
                    reactor.callLater(0, happened.callback, None)

        return report

    def wait(self, event: str) -> Deferred[None]:
        """
        Wait until the program has `started`, `said` something, `exited`, or `ended`.

        It has ended when neither the program nor a child of it holds its pipes any more.
        """
        happened: Deferred[None] = Deferred()
        if event in self._happened:
            happened.callback(None)
        else:
            self._events.append((event, happened))
        return happened


class ChildrenCase(TestCase):
    """A test with real programs, and a fake clock."""

    timeout = 60

    def setUp(self) -> Deferred[None]:  # type: ignore[override]
        self.root = Path(self.mktemp()).absolute()
        self.root.mkdir()
        self.clock = Clock()
        self.children = Children()
        self.prepare()
        # The test begins once the reactor runs: trial never notices the end of a program that was
        # started before, and ended while the reactor was about to run.
        return deferLater(reactor, 0)

    def prepare(self) -> None:
        """Make what the tests need."""


class Gate:
    """A FIFO at which scripts wait for the test."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        # Both ways, so that neither side waits for the other to open it.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        #: The command that waits.
        self.wait = f"read _ <{path}"

    def open(self) -> None:
        """Let one script pass."""
        os.write(self._fd, b"\n")

    def close(self) -> None:
        """Close the FIFO."""
        os.close(self._fd)


class Ear(FileDescriptor):
    """A FIFO through which scripts notify the test."""

    def __init__(self, path: Path) -> None:
        super().__init__(reactor)
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        #: Fires when something was written.
        self.heard: Deferred[None] = Deferred()
        #: Fires when nobody holds the other end any more.
        self.ended: Deferred[None] = Deferred()
        self.startReading()

    def fileno(self) -> int:
        """The descriptor that the reactor watches."""
        return self._fd

    def doRead(self) -> Exception | None:
        """Read; returns the reason if the other end is closed."""
        if not os.read(self._fd, 4096):
            return ConnectionDone()
        if not self.heard.called:
            self.heard.callback(None)
        return None

    def connectionLost(self, reason: Failure) -> None:
        """Note the end."""
        super().connectionLost(reason)
        self.ended.callback(None)

    def close(self) -> None:
        """Stop reading."""
        self.stopReading()
        os.close(self._fd)
