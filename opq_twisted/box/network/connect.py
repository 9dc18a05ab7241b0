"""Connects to a server by its name, no closer to the box than is allowed."""

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

#: Seconds until a connection stands.
CONNECT_TIMEOUT = 15.0

#: Addresses of one name that are tried: an answer of DNS can hold thousands.
MAX_ADDRESSES = 16


class TooClose(Exception):
    """An address is closer to the box than a server may lead it."""


async def resolve(reactor: Any, host: str, port: int) -> list[IAddress]:
    """
    Find the addresses of a name, which need not be one that IDNA knows; none if it is not known.

    :param host: a name or an address.
    """
    found: list[IAddress] = []
    done: Deferred[None] = Deferred()
    reactor.nameResolver.resolveHostName(_Receiver(found, done), host, port)
    await done
    return found


@implementer(IStreamClientEndpoint)
class ReachLimitedEndpoint:
    """Connects to one of the addresses of a host, if that is far enough away."""

    def __init__(self, reactor: Any, host: str, port: int, most: Reach) -> None:
        """:param most: the closest address that may be connected to."""
        self._reactor = reactor
        self._host = host
        self._port = port
        self._most = most
        #: How close the address is that was connected to.
        self.reach = Reach.INTERNET

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint.connect`; fails with `TooClose`."""
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        addresses = await resolve(self._reactor, self._host, self._port)
        if not addresses:
            raise DNSLookupError
        allowed = [item for item in addresses if reach_of(_text(item)) <= self._most]
        del allowed[MAX_ADDRESSES:]
        if not allowed:
            raise TooClose
        reactor = _Resolved(self._reactor, allowed)
        # It has no use for the name itself, and IDNA would not let some names in.
        endpoint = HostnameEndpoint(reactor, "resolved", self._port, timeout=CONNECT_TIMEOUT)
        protocol: Any = await endpoint.connect(factory)
        peer, own = _text(protocol.transport.getPeer()), _text(protocol.transport.getHost())
        self.reach = reach_of(peer)
        if peer == own:
            self.reach = Reach.MACHINE
        elif in_same_site(peer, own):
            self.reach = max(self.reach, Reach.HOME)
        if self.reach > self._most:
            protocol.transport.abortConnection()
            raise TooClose
        return protocol  # type: ignore[no-any-return]


def reaches_of(addresses: Sequence[IAddress]) -> list[Reach]:
    """Say how close each of some addresses is; without any, there is one on the internet."""
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
        """See `IHostResolution`; there is nothing left to cancel."""


@implementer(IHostnameResolver, IReactorPluggableNameResolver)
class _Resolved:
    """A reactor that resolves every name to the same addresses."""

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
