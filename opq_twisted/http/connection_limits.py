"""Bounds what a process, and each of its clients, may use of connections and the like."""

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

#: Descriptors that no connection gets: the process needs them for its own work, which are files,
#: pipes to its children, connections to a server, names that are looked up, and the log. An agent
#: in the midst of an update was seen to have 17 open besides its page, and a server 12.
RESERVE = 64

#: The part of a resource that one client may have is one in so many.
_SHARE = 4

#: A site gives the IPv6 addresses of such a network to one home, or to one machine.
_IPV6_PREFIX = 64


@frozen
class Limits:
    """How many connections a site takes."""

    #: Connections at once, those of one client, and those of one address of it.
    connections: int = 1000
    each: int = 1000
    each_address: int = sys.maxsize
    #: A connection whose descriptor is this number, or a higher one, is not taken. The kernel gives
    #: the lowest number that is free, so that as many descriptors are in use as the number says.
    first_reserved: int = sys.maxsize
    #: Networks whose clients have no bound of their own: reverse proxies speak for many.
    trusted: Sequence[Network] = ()

    def client(self, address: IAddress) -> str | None:
        """
        Tell which client an address belongs to.

        :returns: an IPv4 address, or the /64 network of an IPv6 address; None for a trusted
            address, and for a UNIX socket, whose other end is on this machine.
        """
        host = getattr(address, "host", None)
        return None if host is None else _client(host, tuple(self.trusted))


@lru_cache(maxsize=4096)
def _client(host: str, trusted: Sequence[Network]) -> str | None:
    try:
        ip: IPv4Address | IPv6Address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(ip, IPv6Address):
        ip = ip.ipv4_mapped or ip
    if any(ip in network for network in trusted):
        return None
    if isinstance(ip, IPv6Address):
        return str(ip_network((int(ip), _IPV6_PREFIX), strict=False))
    return str(ip)


def share(most: int) -> int:
    """
    Tell how many of a resource one client may have.

    Many homes can have one address, that of their provider's translator (RFC 6888). So a share is
    not small; but no single address has it all.
    """
    return max(1, most // _SHARE)


class Shares:
    """Counts who uses how many of a resource, so that no client has more than its share."""

    def __init__(self, most: int, each: int | None = None) -> None:
        """
        Begin with none in use.

        :param each: how many one client may have; a quarter if nothing is given.
        """
        self._most = most
        self._each = share(most) if each is None else each
        self._in_use: Counter[str | None] = Counter()
        self._total = 0

    def has_room(self, client: str | None) -> bool:
        """Whether a client may have one more; for None only the total counts."""
        return self._total < self._most and (client is None or self._in_use[client] < self._each)

    def take(self, client: str | None) -> None:
        """Count one more."""
        self._in_use[client] += 1
        self._total += 1

    def give_back(self, client: str | None) -> None:
        """Count one less, and forget a client that has none."""
        self._total -= 1
        self._in_use[client] -= 1
        if not self._in_use[client]:
            del self._in_use[client]


def raise_descriptor_limit(needed: int) -> int:
    """
    Raise this process's limit of descriptors as far as is needed and allowed.

    :returns: the limit that holds then.
    """
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < needed:
        wanted = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        # A sandbox may forbid it.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            limit = wanted
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def first_reserved(limit: int) -> int:
    """Tell from which descriptor on all are kept for the process's own work."""
    return max(limit - RESERVE, limit // 2)
