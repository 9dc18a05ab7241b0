"""Connections are made only to hosts within a limit of reach."""

from typing import Any

from attrs import define
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import DNSLookupError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.network.addresses import Reach
from opq_twisted.box.network.connect import MAX_ADDRESSES, ReachLimitedEndpoint, TooClose

PORT = 8151


def address_of(host: str) -> IPv4Address | IPv6Address:
    kind = IPv6Address if ":" in host else IPv4Address
    return kind("TCP", host, PORT)


@define
class Resolver:
    """A resolver with fixed addresses."""

    names: dict[str, list[str]]

    def resolveHostName(self, receiver: Any, name: str, port: int) -> None:
        for host in self.names.get(name, []):
            receiver.addressResolved(address_of(host))
        receiver.resolutionComplete()


class ReachLimitedEndpointTests(SynchronousTestCase):
    """Connecting to a name."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()

    def connect(self, name: str, addresses: list[str], most: Reach) -> Deferred[Any]:
        """Begin to connect."""
        self.reactor.nameResolver = Resolver({name: addresses})  # type: ignore[assignment]
        self.near = ReachLimitedEndpoint(self.reactor, name, PORT, most)
        return self.near.connect(Factory.forProtocol(Protocol))

    def accept(self, peer: str, own: str) -> StringTransport:
        """Establish the requested connection."""
        [(host, port, factory, *_)] = self.reactor.tcpClients
        self.assertEqual((host, port), (peer, PORT))
        protocol = factory.buildProtocol(address_of(peer))
        assert protocol is not None
        transport = StringTransport(address_of(own), address_of(peer))
        protocol.makeConnection(transport)
        return transport

    def test_any_name(self) -> None:
        """A name that is invalid in IDNA can be used if it can be resolved."""
        for name in ("update_server", "ab--cd.test", "-a", "updates.example.", "127.1"):
            with self.subTest(name=name):
                self.reactor.tcpClients.clear()
                connecting = self.connect(name, ["8.8.8.8"], Reach.INTERNET)
                self.accept("8.8.8.8", "192.168.1.20")
                self.assertIsInstance(self.successResultOf(connecting), Protocol)
                self.assertIs(self.near.reach, Reach.INTERNET)
                self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_unknown(self) -> None:
        """An unknown name has another error than one that is too close."""
        connecting = self.connect("updates.example", [], Reach.INTERNET)
        self.failureResultOf(connecting, DNSLookupError)

    def test_too_close(self) -> None:
        """No address that is too close is connected to, whatever its name is."""
        for address in ("127.0.0.1", "192.168.1.1", "::1", "fe80::1", "::ffff:10.0.0.1"):
            with self.subTest(address=address):
                connecting = self.connect("evil.example", [address], Reach.INTERNET)
                self.failureResultOf(connecting, TooClose)
                self.assertEqual(self.reactor.tcpClients, [])

    def test_other_address(self) -> None:
        """Only those addresses of a name that are far enough away are tried."""
        connecting = self.connect("evil.example", ["10.0.0.1", "8.8.8.8"], Reach.INTERNET)
        self.accept("8.8.8.8", "192.168.1.20")
        self.successResultOf(connecting)

    def test_many(self) -> None:
        """The number of addresses that are tried is limited."""
        connecting = self.connect("x.example", [f"8.8.8.{i}" for i in range(99)], Reach.HOME)
        self.reactor.pump([0.3] * 99)
        self.assertEqual(len(self.reactor.tcpClients), MAX_ADDRESSES)
        connecting.addErrback(lambda _: None)
        connecting.cancel()

    def test_reach(self) -> None:
        """The reach of a server is known when the connection is established."""
        for peer, own, reach in (
            ("8.8.8.8", "192.168.1.20", Reach.INTERNET),
            ("192.168.1.5", "192.168.1.20", Reach.HOME),
            ("127.0.0.1", "127.0.0.1", Reach.MACHINE),
            ("192.168.1.20", "192.168.1.20", Reach.MACHINE),
            ("2001:470:1:a::5", "2001:470:1:b::20", Reach.HOME),
        ):
            with self.subTest(peer=peer):
                self.reactor.tcpClients.clear()
                connecting = self.connect("updates.example", [peer], Reach.MACHINE)
                self.accept(peer, own)
                self.successResultOf(connecting)
                self.assertIs(self.near.reach, reach)

    def test_box_itself(self) -> None:
        """The box's own and its site's public addresses are found only when connected."""
        for peer, own, most in (
            ("192.168.1.20", "192.168.1.20", Reach.HOME),
            ("2001:470:1:a::5", "2001:470:1:b::20", Reach.INTERNET),
        ):
            with self.subTest(peer=peer):
                self.reactor.tcpClients.clear()
                connecting = self.connect("evil.example", [peer], most)
                transport = self.accept(peer, own)
                self.failureResultOf(connecting, TooClose)
                self.assertTrue(transport.disconnecting)
                self.assertEqual(transport.value(), b"")
