"""The Unix socket of the fleet."""

import errno
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from opq_twisted.common.errors import CannotStart
from opq_twisted.fleet.control.listener import SocketListener


class FakePort:
    """A socket that may have been removed."""

    def __init__(self, *, is_there: bool = True) -> None:
        self.is_there = is_there

    def stopListening(self) -> "Deferred[None]":
        """Remove the socket."""
        if not self.is_there:
            raise FileNotFoundError
        return succeed(None)


class FakeReactor:
    """Opens sockets, or fails."""

    def __init__(self, error: int | None = None, port: FakePort | None = None) -> None:
        self.error = error
        self.port = port or FakePort()
        self.opened: list[tuple[str, int]] = []

    def listenUNIX(self, path: str, _factory: Any, mode: int) -> FakePort:
        """Open a socket."""
        if self.error is not None:
            cause = OSError(self.error, os.strerror(self.error))
            raise CannotListenError(None, path, cause)
        self.opened.append((path, mode))
        return self.port


class ListenerTests(SynchronousTestCase):
    """Opens and closes the socket."""

    def listener(self, reactor: FakeReactor, path: Path = Path("/nowhere/s")) -> SocketListener:
        return SocketListener(reactor, path, Site(Resource()))

    def refusal(self, error: int, path: Path = Path("/nowhere/s")) -> str:
        """Return the sentence of an error."""
        listener = self.listener(FakeReactor(error), path)
        return str(self.assertRaises(CannotStart, listener.startService))

    def test_mode(self) -> None:
        """The socket is for the server's user and its group."""
        reactor = FakeReactor()
        listener = self.listener(reactor)
        listener.startService()
        self.assertEqual(reactor.opened, [("/nowhere/s", 0o660)])
        self.successResultOf(listener.stopService())
        self.successResultOf(listener.stopService())

    def test_removed(self) -> None:
        """It is no error at the end if somebody has removed the socket."""
        listener = self.listener(FakeReactor(port=FakePort(is_there=False)))
        listener.startService()
        self.successResultOf(listener.stopService())

    def test_errors(self) -> None:
        """Each reason why it cannot be opened has a sentence that says what to do."""
        self.assertIn(
            "folder /nowhere of the fleet's socket is missing", self.refusal(errno.ENOENT)
        )
        for number in (errno.EACCES, errno.EROFS):
            sentence = self.refusal(number)
            self.assertIn(f"cannot be created in /nowhere: {os.strerror(number)}", sentence)
        self.assertIn("Another program uses /nowhere/s", self.refusal(errno.EADDRINUSE))
        # A path in the folder of the tests may be too long for a socket.
        folder = TemporaryDirectory(dir="/tmp")
        self.addCleanup(folder.cleanup)
        file = Path(folder.name, "file")
        file.touch()
        self.assertIn(f"{file} is not a socket", self.refusal(errno.EADDRINUSE, file))
        self.assertTrue(file.exists())
        self.assertIn("No space left on device", self.refusal(errno.ENOSPC))
        for number in (errno.ENOENT, errno.EACCES, errno.EADDRINUSE, errno.ENOSPC):
            self.assertIn("--fleet-socket", self.refusal(number))

    def test_length(self) -> None:
        """A path that the kernel would cut is refused; its bytes count."""
        self.listener(FakeReactor(), Path("/" + "x" * 106))
        for name in ("x" * 107, "ü" * 54):
            error = self.assertRaises(CannotStart, self.listener, FakeReactor(), Path(f"/{name}"))
            self.assertIn("at most 107 bytes", str(error))
