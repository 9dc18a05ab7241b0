"""Limits the connections of a site in total and per client, and its file descriptors."""

import resource
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from attrs import frozen
from twisted.internet.interfaces import IAddress

Network = IPv4Network | IPv6Network

#: File descriptors that are kept free of connections, for files, pipes to child processes, outgoing
#: connections, name resolution and the log. Measured: an agent during an update had 17 open besides
#: its page, a server 12.
RESERVE = 64

#: One client may use one part in this many of a resource.
_SHARE = 4

#: Bits. A provider assigns an IPv6 network of this size to one home or one machine.
_IPV6_PREFIX = 64


@frozen
class ConnectionLimits:
    """How many connections a site accepts."""

    #: Simultaneous connections: in total, per client, and per IP address of a client.
    connections: int = 1000
    each: int = 1000
    each_address: int = sys.maxsize
    #: A connection with this file descriptor or a higher one is reset. The kernel gives the lowest
    #: free number, so the number shows how many descriptors are in use.
    first_reserved: int = sys.maxsize
    #: Networks of reverse proxies. They speak for many clients, so only the total limit applies.
    trusted: Sequence[Network] = ()

    def client(self, address: IAddress) -> str | None:
        """
        Find the client that an address belongs to.

        :returns: an IPv4 address, or the /64 network of an IPv6 address; None for a trusted
            address, and for a UNIX socket, whose peer is on this machine.
        """
        host = getattr(address, "host", None)
        return None if host is None else client_network(host, tuple(self.trusted))


@lru_cache(maxsize=4096)
def client_network(host: str, trusted: tuple[Network, ...]) -> str | None:
    """
    Find the network of an address whose uses of a resource are counted together.

    :returns: an IPv4 address, or the /64 network of an IPv6 address; None for a trusted address.
    """
    try:
        ip = parse_address(host)
    except ValueError:
        return host
    if any(ip in network for network in trusted):
        return None
    if isinstance(ip, IPv6Address):
        return str(ip_network((int(ip), _IPV6_PREFIX), strict=False))
    return str(ip)


def is_address(host: str) -> bool:
    """Whether a text is an address, as `parse_address` takes it."""
    try:
        parse_address(host)
    except ValueError:
        return False
    return True


def parse_address(host: str) -> IPv4Address | IPv6Address:
    """Parse an address without its zone, and one of IPv4 that is mapped to IPv6 as one of IPv4."""
    ip = ip_address(host.partition("%")[0])
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip


def share(limit: int) -> int:
    """
    Return how many of `limit` uses one client may have.

    Many homes can share the address of their provider's translator (RFC 6888), so a share is not
    small; but no single address can use everything.
    """
    return max(1, limit // _SHARE)


class Shares:
    """Counts the uses of a resource, so that no client has more than its share."""

    def __init__(self, limit: int, each: int | None = None) -> None:
        """:param each: how many one client may use; `share(limit)` by default."""
        self._limit = limit
        self._each = share(limit) if each is None else each
        self._in_use: Counter[str | None] = Counter()
        self._total = 0

    def has_room(self, client: str | None) -> bool:
        """Whether a client may use one more; for None, only the total limit applies."""
        return self._total < self._limit and (client is None or self._in_use[client] < self._each)

    def acquire(self, client: str | None) -> None:
        """Count one use."""
        self._in_use[client] += 1
        self._total += 1

    def release(self, client: str | None) -> None:
        """Stop counting one use."""
        self._total -= 1
        self._in_use[client] -= 1
        if not self._in_use[client]:
            del self._in_use[client]


def raise_descriptor_limit(needed: int) -> int:
    """
    Raise this process's limit of file descriptors to `needed`, as far as that is allowed.

    :returns: the limit that applies now.
    """
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < needed:
        wanted = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        # A sandbox may forbid the change.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            limit = wanted
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def first_reserved(limit: int) -> int:
    """Give the lowest file descriptor of the reserve."""
    return max(limit - RESERVE, limit // 2)
