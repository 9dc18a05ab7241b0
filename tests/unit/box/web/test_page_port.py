"""The agent runs without its page while another program has the port."""

import os
import socket
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from opq_twisted.box.web.page_port import PagePort, inherited_sockets
from opq_twisted.common.errors import CannotStart
from opq_twisted.http.site import BoundedSite
from tests.helpers.box_fakes import logged
from tests.helpers.resources import hello


class PagePortCase(SynchronousTestCase):
    """A page whose port may be taken."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.said = logged(self)

    def start(self, port: str, *inherited: int) -> PagePort:
        """Start a page, and stop it after the test."""
        page = PagePort(self.clock, port, BoundedSite(reactor, hello()), inherited)
        page.startService()
        self.addCleanup(lambda: Deferred.fromCoroutine(page.stopService()))
        return page

    def complaints(self) -> list[str]:
        return [line for line in self.said if "There is no page" in line]


def answers(port: int) -> bool:
    """Tell whether a program listens on a port of this machine."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


class BusyTests(PagePortCase, TestCase):
    """Another program listens on the port."""

    def setUp(self) -> None:
        super().setUp()
        self.squatter = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.squatter.close)
        self.number = self.squatter.getsockname()[1]

    async def test_becomes_free(self) -> None:
        """The agent logs once that there is no page, tries again, and listens in the end."""
        self.start(str(self.number))
        self.clock.pump([15] * 3)
        [complaint] = self.complaints()
        self.assertIn(f"port {self.number} cannot be used: Address already in use.", complaint)
        self.squatter.close()
        self.assertFalse(answers(self.number))
        self.clock.advance(15)
        self.assertTrue(answers(self.number))
        self.assertEqual(self.said[-1], f"The page is at http://0.0.0.0:{self.number}.")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_stopped(self) -> None:
        """A stopped agent does not try again."""
        await self.start(str(self.number)).stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_inherited(self) -> None:
        """A listening socket from systemd replaces the port."""
        descriptor = os.dup(self.squatter.fileno())
        self.squatter.close()
        await self.start("1", descriptor).stopService()
        self.assertEqual(self.complaints(), [])
        self.assertFalse(answers(self.number))

    async def test_no_socket(self) -> None:
        """If an inherited descriptor is not a socket, the agent uses the port."""
        self.squatter.close()
        descriptor = os.open(os.devnull, os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        self.start(str(self.number), descriptor)
        self.assertEqual(len(self.complaints()), 1)
        self.clock.advance(15)
        self.assertTrue(answers(self.number))


class InheritedSocketsTests(SynchronousTestCase):
    """The environment variables of socket activation."""

    def found(self, *lines: bytes) -> list[int]:
        return list(inherited_sockets(b"\0".join([*lines, b""]), 100))

    def test_handed_over(self) -> None:
        """The descriptors start with 3."""
        self.assertEqual(self.found(b"HOME=/", b"LISTEN_PID=100", b"LISTEN_FDS=2"), [3, 4])

    def test_nothing(self) -> None:
        """There are none for another process or without the variables."""
        for lines in (
            (),
            (b"LISTEN_PID=101", b"LISTEN_FDS=1"),
            (b"LISTEN_FDS=1",),
            (b"LISTEN_PID=100", b"LISTEN_FDS=x"),
            (b"LISTEN_PID=100", b"LISTEN_FDS=\xff"),
            (b"LISTEN_PID=100", b"LISTEN_FDS=99999999"),
        ):
            self.assertEqual(self.found(*lines), [], lines)


class DescriptionTests(PagePortCase):
    """The value of `--port`."""

    def test_malformed(self) -> None:
        """A malformed value is an error at the start."""
        for port in ("", "eighty", "tcp:x", "unknown:80", "70000", "tcp=80"):
            error = self.assertRaises(CannotStart, PagePort, self.clock, port, BoundedSite)
            self.assertIn(f"--port {port}: ", str(error))

    def test_later(self) -> None:
        """A file in the description may be missing at the start; the agent works without it."""
        missing = Path(self.mktemp())
        for port in (
            f"ssl:0:privateKey={missing}",
            "systemd:domain=INET6:index=9",
            f"unix:{missing}/page",
            "tcp:0:interface=192.0.2.1",
        ):
            before = len(self.complaints())
            self.start(port)
            self.assertEqual(len(self.complaints()), before + 1, port)
        self.assertEqual(len(self.clock.getDelayedCalls()), 4)
