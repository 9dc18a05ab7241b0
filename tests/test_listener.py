"""A port is listened on, or the process ends with a sentence."""

import socket

from twisted.application import strports
from twisted.application.internet import StreamServerEndpointService
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.errors import CannotStart
from opq_twisted.http.listener import Listener
from opq_twisted.http.site import BoundedSite
from tests.test_resource import hello


def site() -> BoundedSite:
    return BoundedSite(Clock(), hello())


class CannotStartTests(SynchronousTestCase):
    """A port that cannot be had ends the process with a sentence."""

    def test_no_port(self) -> None:
        """What is neither a number nor an endpoint description is named."""
        for port in (
            *("", "eighty", "tcp", "tcp:", "tcp:x", "unknown:80", "ssl:443:privateKey=/no"),
            *("tcp=80", "tcp:80:color=red", "systemd:domain=INET:index=9", "unix"),
        ):
            error = self.assertRaises(CannotStart, Listener, port, site())
            self.assertRegex(str(error), r"\A--port .*: .*\. Give a TCP port number, or ")

    def test_busy(self) -> None:
        """A busy port is named, with what to do about it."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            listener = Listener(port, site())
            error = self.assertRaises(CannotStart, listener.privilegedStartService)
        self.assertIn(f"Cannot listen on port {port}: ", str(error))
        self.assertIn("choose another --port", str(error))
        self.assertEqual(error.code, str(error))

    def test_too_high(self) -> None:
        """A number that is no TCP port is told so."""
        listener = Listener("70000", site())
        self.assertRaises(CannotStart, listener.privilegedStartService)


class BacklogTests(SynchronousTestCase):
    """The kernel keeps a fleet's connections until they are accepted."""

    def described(self, port: str) -> str:
        """Say what Twisted is told to listen on."""
        descriptions = []

        def service(description: str, site: BoundedSite) -> StreamServerEndpointService:
            descriptions.append(description)
            return StreamServerEndpointService(serverFromString(MemoryReactor(), "tcp:1"), site)

        self.patch(strports, "service", service)
        Listener(port, site())
        (description,) = descriptions
        return description

    def test_number(self) -> None:
        """A port number is TCP, with a long queue."""
        self.assertEqual(self.described("8151"), "tcp:8151:backlog=4096")

    def test_added(self) -> None:
        """A description that says nothing of the queue gets a long one."""
        for port in (
            "tcp:8151",
            "tcp:port=8151",
            "tcp:8151:interface=127.0.0.1",
            r"tcp6:8151:interface=\:\:",
            "ssl:443:privateKey=key.pem:certKey=cert.pem",
        ):
            self.assertEqual(self.described(port), f"{port}:backlog=4096")

    def test_given(self) -> None:
        """Who asks for a length gets it."""
        for port in (
            "tcp:8151:backlog=7",
            "tcp:8151:backlog=7:interface=127.0.0.1",
            r"tcp6:8151:interface=\:\::backlog=7",
            "ssl:443:backlog=7:privateKey=key.pem",
        ):
            self.assertEqual(self.described(port), port)

    def test_others(self) -> None:
        """What knows no queue, or has one already, is left as it is."""
        for port in ("unix:/run/opq.sock", "systemd:domain=INET:index=0", "fd:3", "haproxy:tcp:80"):
            self.assertEqual(self.described(port), port)

    def test_understood(self) -> None:
        """Twisted takes the description for what it is meant to be."""
        for port in ("8151", "tcp:8151", "tcp6:8151"):
            (service,) = Listener(port, site())
            self.assertEqual(service.endpoint.endpoint._backlog, 4096)
