"""TCP on all addresses of the machine, those of IPv6 and those of IPv4."""

import errno
import socket
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from zope.interface import implementer

#: Connections that the kernel keeps until they are accepted; Twisted's 50 is soon full when a fleet
#: comes back after a power cut.
BACKLOG = 4096

_NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@implementer(IStreamServerEndpoint)
@frozen
class EveryAddress:
    """
    One socket for IPv6 and IPv4, or for IPv4 where the kernel has no IPv6.

    Twisted's `tcp6` endpoint lets the machine decide whether it takes IPv4 (`net.ipv6.bindv6only`).
    """

    #: The reactor that sockets are given to (IReactorSocket).
    reactor: Any
    port: int

    def listen(self, protocolFactory: IProtocolFactory) -> "Deferred[IListeningPort]":
        """Listen; fails with OSError when the port cannot be had."""
        return execute(self._listen, protocolFactory)

    def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        with _bound(self.port) as bound:
            bound.setblocking(False)
            # Twisted keeps a copy of it.
            port: IListeningPort = self.reactor.adoptStreamPort(
                bound.fileno(), bound.family, factory
            )
            return port


def _bound(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("::", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True
            )
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
    return socket.create_server(("", port), backlog=BACKLOG)
