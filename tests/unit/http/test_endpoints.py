"""A port survives a machine without descriptors, and a UNIX socket left by a killed server."""

import errno
import os
import socket
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.tcp import Port
from twisted.trial.unittest import SynchronousTestCase, TestCase

from opq_twisted.http.endpoints import MAX_ACCEPTED, CarefulAccept, RobustEndpoint
from tests.helpers.box_fakes import logged


class QuietPort(Port):
    """A port without a socket that counts the calls."""

    def __init__(self) -> None:
        super().__init__(0, Factory())
        self.accepted = 0
        #: As Twisted's port, which accepts so many in a turn.
        self.numberAccepts = 100
        self.reading = True
        self.connected = True

    def doRead(self) -> None:
        self.accepted += 1

    def startReading(self) -> None:
        self.reading = True

    def stopReading(self) -> None:
        self.reading = False


class CarefulAcceptTests(SynchronousTestCase):
    """`CarefulAccept`, on a machine that has no file descriptor to spare for a while."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.port = QuietPort()
        CarefulAccept(self.clock, self.port)
        self.said = logged(self)

    def be_busy(self, number: int) -> Any:
        def refuse(*_: object) -> int:
            raise OSError(number, os.strerror(number))

        return self.patch(os, "open", refuse)

    def test_room(self) -> None:
        """With free descriptors, connections are accepted as usual, and no descriptor is lost."""
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            self.port.doRead()
        self.assertEqual((self.port.accepted, self.said), (3, []))
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_many(self) -> None:
        """However many connections come, a turn of the reactor accepts a limited number."""
        self.port.numberAccepts = 5000
        self.port.doRead()
        self.assertEqual(self.port.numberAccepts, MAX_ACCEPTED)
        self.port.numberAccepts = 1
        self.port.doRead()
        self.assertEqual(self.port.numberAccepts, 1)

    def test_busy(self) -> None:
        """Without a descriptor, the port is tried again a second later, not in each turn."""
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            busy = self.be_busy(number)
            self.port.doRead()
            self.assertEqual((self.port.accepted, self.port.reading), (0, False))
            busy.restore()
            self.clock.advance(1)
            self.assertTrue(self.port.reading)
        self.port.doRead()
        self.assertEqual(self.port.accepted, 1)

    def test_logged(self) -> None:
        """This is logged once, and then once a minute with a count."""
        self.be_busy(errno.EMFILE)
        for _ in range(61):
            self.port.doRead()
            self.clock.advance(1)
        self.assertEqual(len(self.said), 2)
        self.assertIn("No connection can be accepted for now: Too many open files.", self.said[0])
        self.assertIn("(59 more of these in the last minute.)", self.said[1])

    def test_stopped(self) -> None:
        """A port that was closed meanwhile is not read any more."""
        self.be_busy(errno.EMFILE)
        self.port.doRead()
        self.port.connected = False
        self.clock.advance(1)
        self.assertFalse(self.port.reading)


class UnixSocketTests(TestCase):
    """A UNIX socket, left where an earlier server listened."""

    def setUp(self) -> None:
        # Trial's own folders can be too deep for a socket's address.
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "socket"
        self.lock = Path(f"{self.path}.lock")

    async def listen(self, template: str = "unix:{path}") -> Any:
        description = template.format(path=self.path)
        endpoint = RobustEndpoint(reactor, serverFromString(reactor, description))
        port: Any = await endpoint.listen(Factory.forProtocol(Protocol))
        self.addCleanup(port.stopListening)
        return port

    def left(self) -> socket.socket:
        """Bind the socket, and make a lock with the id of this process."""
        bound = socket.socket(socket.AF_UNIX)
        self.addCleanup(bound.close)
        bound.bind(str(self.path))
        self.lock.symlink_to(str(os.getpid()))
        return bound

    def assertListens(self) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.path))

    async def test_killed(self) -> None:
        """A socket without a listener is replaced, although a process has the id in the lock."""
        self.left().close()
        await self.listen()
        self.assertListens()

    async def test_wrapped(self) -> None:
        """The same with the PROXY protocol."""
        self.left().close()
        await self.listen("haproxy:unix:{path}")
        self.assertListens()

    async def test_abstract(self) -> None:
        """An abstract socket is left alone."""
        await self.listen(f"unix:\0opq-test-{os.getpid()}:lockfile=0")

    async def test_lock_alone(self) -> None:
        """A lock without a socket is ignored."""
        self.lock.symlink_to(str(os.getpid()))
        await self.listen()
        self.assertListens()

    async def test_in_use(self) -> None:
        """A socket with a listener stays, and so does its lock."""
        self.left().listen()
        with self.assertRaises(CannotListenError):
            await self.listen()
        self.assertListens()
        self.assertTrue(self.lock.is_symlink())

    async def test_not_a_socket(self) -> None:
        """Any other file is left alone."""
        self.path.write_text("precious")
        with self.assertRaises(CannotListenError):
            await self.listen()
        self.assertEqual(self.path.read_text(), "precious")
