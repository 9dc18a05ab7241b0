"""Connects to a server by its name, but to no address closer to the box than a limit."""

from collections.abc import Sequence
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IProtocol,
    IProtocolFactory,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from zope.interface import implementer

from opq_twisted.box.network.addresses import Reach, in_same_site, reach_of

#: Seconds until a connection must be established.
CONNECT_TIMEOUT = 15.0

#: Addresses tried for one name: a DNS answer can contain thousands.
MAX_ADDRESSES = 16


class TooClose(Exception):
    """The server's address is closer to the box than the limit allows."""


async def resolve(reactor: Any, host: str, port: int) -> list[IAddress]:
    """
    Resolve a name, which need not be valid in IDNA.

    :param host: a name or an address.
    :returns: its addresses; none if the name is unknown.
    """
    found: list[IAddress] = []
    done: Deferred[None] = Deferred()
    reactor.nameResolver.resolveHostName(_Receiver(found, done), host, port)
    await done
    return found


@implementer(IStreamClientEndpoint)
class ReachLimitedEndpoint:
    """Connects to the addresses of a host that are within a limit."""

    def __init__(self, reactor: Any, host: str, port: int, closest: Reach) -> None:
        """:param closest: the limit: closer addresses are refused."""
        self._reactor = reactor
        self._host = host
        self._port = port
        self._closest = closest
        #: How close the connected address is.
        self.reach = Reach.INTERNET

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint.connect`; fails with `TooClose`."""
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        addresses = await resolve(self._reactor, self._host, self._port)
        if not addresses:
            raise DNSLookupError
        allowed = [item for item in addresses if reach_of(_text(item)) <= self._closest]
        del allowed[MAX_ADDRESSES:]
        if not allowed:
            raise TooClose
        reactor = _Resolved(self._reactor, allowed)
        # The name itself is not needed, and HostnameEndpoint refuses names invalid in IDNA.
        endpoint = HostnameEndpoint(reactor, "resolved", self._port, timeout=CONNECT_TIMEOUT)
        protocol: Any = await endpoint.connect(factory)
        peer, own = _text(protocol.transport.getPeer()), _text(protocol.transport.getHost())
        self.reach = reach_of(peer)
        if peer == own:
            self.reach = Reach.MACHINE
        elif in_same_site(peer, own):
            self.reach = max(self.reach, Reach.HOME)
        if self.reach > self._closest:
            protocol.transport.abortConnection()
            raise TooClose
        return protocol  # type: ignore[no-any-return]


def reaches_of(addresses: Sequence[IAddress]) -> list[Reach]:
    """Classify each address; without any address, assume one on the internet."""
    return [reach_of(_text(item)) for item in addresses] or [Reach.INTERNET]


def _text(address: Any) -> str:
    text: str = address.host
    return text


@implementer(IResolutionReceiver)
class _Receiver:
    def __init__(self, found: list[IAddress], done: Deferred[None]) -> None:
        self._found = found
        self._done = done

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """See `IResolutionReceiver`."""

    def addressResolved(self, address: IAddress) -> None:
        if isinstance(address, IPv4Address | IPv6Address):
            self._found.append(address)

    def resolutionComplete(self) -> None:
        self._done.callback(None)


@implementer(IHostResolution)
class _Resolution:
    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """See `IHostResolution`; nothing is left to cancel."""


@implementer(IHostnameResolver, IReactorPluggableNameResolver)
class _Resolved:
    """A reactor whose resolver gives the same addresses for every name."""

    def __init__(self, reactor: Any, addresses: Sequence[IAddress]) -> None:
        self._reactor = reactor
        self._addresses = addresses
        self.nameResolver = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        for address in self._addresses:
            resolutionReceiver.addressResolved(address)
        resolutionReceiver.resolutionComplete()
        return resolution
