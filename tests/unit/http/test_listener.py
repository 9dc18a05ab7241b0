"""A server listens on its port, or the process ends with a sentence."""

import errno
import os
import socket
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from opq_twisted.common.errors import CannotStart
from opq_twisted.http import endpoints
from opq_twisted.http.endpoints import EveryAddress
from opq_twisted.http.listener import Listener
from opq_twisted.http.port import make_endpoint
from opq_twisted.http.site import BoundedSite
from tests.helpers.privileges import lacking
from tests.helpers.resources import hello


def site() -> BoundedSite:
    return BoundedSite(Clock(), hello())


class CannotStartTests(SynchronousTestCase):
    """A port that cannot be bound ends the process with a sentence."""

    def test_no_port(self) -> None:
        """The error names a port that is neither a number nor an endpoint description."""
        for port in (
            *("", "eighty", "tcp", "tcp:", "tcp:x", "unknown:80", "ssl:443:privateKey=/no"),
            *("tcp=80", "tcp:80:color=red", "systemd:domain=INET:index=9", "unix"),
        ):
            error = self.assertRaises(CannotStart, Listener, port, site())
            self.assertRegex(str(error), r"\A--port .*: .*\. Give a TCP port number, or ")

    def test_busy(self) -> None:
        """The error names a busy port, and the remedy."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            listener = Listener(port, site())
            error = self.assertRaises(CannotStart, listener.privilegedStartService)
        self.assertIn(f"Cannot listen on port {port}: ", str(error))
        self.assertIn("choose another --port", str(error))
        self.assertEqual(error.code, str(error))

    def test_not_allowed(self) -> None:
        """The error says what an ordinary user lacks for a low port."""

        def bound(_port: int) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        self.patch(endpoints, "_bound", bound)
        error = self.assertRaises(CannotStart, Listener("80", site()).privilegedStartService)
        self.assertEqual(
            str(error),
            "Cannot listen on port 80: Permission denied. Allow this user ports below 1024 "
            "(CAP_NET_BIND_SERVICE), or choose another --port.",
        )

    def test_too_high(self) -> None:
        """The error names a number that is too high for a TCP port."""
        error = self.assertRaises(CannotStart, Listener, "70000", site())
        self.assertIn("--port 70000: a TCP port must be from 1 to 65535.", str(error))
        listener = Listener("tcp:70000", site())
        self.assertRaises(CannotStart, listener.privilegedStartService)

    def test_no_such_address(self) -> None:
        """The error names an invalid interface."""
        for interface, expected in (
            ("192.0.2.1", "Cannot assign requested address"),
            ("x" * 64, "Name or service not known"),
            ("ö" * 64, "encoding of hostname failed"),
        ):
            listener = Listener(f"tcp:0:interface={interface}", site())
            error = self.assertRaises(CannotStart, listener.privilegedStartService)
            self.assertRegex(str(error), f": [^.]*{expected}[^.]*\\. Stop what listens there")

    def test_busy_number(self) -> None:
        """A port number is busy if a process has the port on one address, of IPv4 or IPv6."""
        for address in ("127.0.0.1", "::1"):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.create_server((address, 0), family=family) as taken:
                listener = Listener(str(taken.getsockname()[1]), site())
                error = self.assertRaises(CannotStart, listener.privilegedStartService)
            self.assertIn(": Address already in use. Stop what listens there", str(error))


class BacklogTests(SynchronousTestCase):
    """The kernel queues a fleet's connections until they are accepted."""

    def backlog(self, port: str) -> int:
        """Give the length of the queue."""
        length: int = make_endpoint(port)._backlog  # type: ignore[attr-defined]
        return length

    def test_length(self) -> None:
        """A description without a queue length gets a long queue; a given length is kept."""
        for port, length in (
            ("tcp:8151", 4096),
            ("tcp:port=8151", 4096),
            ("tcp:8151:interface=127.0.0.1", 4096),
            (r"tcp6:8151:interface=\:\:", 4096),
            ("tcp:8151:backlog=7", 7),
            ("tcp:8151:backlog=7:interface=127.0.0.1", 7),
            ("tcp:8151:127.0.0.1:7", 7),
            (r"tcp6:8151:interface=\:\::backlog=7", 7),
        ):
            self.assertEqual(self.backlog(port), length, port)

    def test_others(self) -> None:
        """A description of an endpoint without a queue stays as it is."""
        self.assertIsInstance(make_endpoint("unix:/run/opq.sock"), UNIXServerEndpoint)


class EveryAddressTests(TestCase):
    """A port number means all addresses of the machine."""

    async def listen(self) -> IPv4Address | IPv6Address:
        port: IListeningPort = await EveryAddress(reactor, 0).listen(Factory())
        self.addCleanup(port.stopListening)
        address = port.getHost()
        assert isinstance(address, (IPv4Address, IPv6Address))
        return address

    async def test_both(self) -> None:
        """Clients may connect by IPv6 and by IPv4."""
        if not socket.has_dualstack_ipv6():
            raise lacking("This machine has no IPv6.")
        address = await self.listen()
        for host in ("::1", "127.0.0.1"):
            socket.create_connection((host, address.port), timeout=5).close()

    async def test_without_ipv6(self) -> None:
        """If the kernel has no IPv6, clients may connect by IPv4."""
        self.patch(socket, "has_dualstack_ipv6", lambda: False)
        address = await self.listen()
        self.assertEqual(address.host, "0.0.0.0")
        socket.create_connection(("127.0.0.1", address.port), timeout=5).close()

    async def test_ipv6_without_addresses(self) -> None:
        """The same if the kernel supports IPv6, but has no address for it."""
        create = socket.create_server

        def refuse(address: tuple[str, int], **options: Any) -> socket.socket:
            if options.get("family") == socket.AF_INET6:
                raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
            return create(address, **options)

        self.patch(socket, "create_server", refuse)
        self.assertEqual((await self.listen()).host, "0.0.0.0")
