"""Classifies addresses: on the internet, inside the home, or the box itself."""

import ipaddress
from enum import IntEnum

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: The IPv6 addresses in use on the internet (IANA, IPv6 Global Unicast Address Assignments).
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")

#: Prefixes of IPv6 addresses that contain an IPv4 address, and the position of its last bit:
#: translated (RFC 6052), mapped (RFC 4291, section 2.5.5.2) and 6to4 (RFC 3056).
_EMBEDDED = (
    (ipaddress.ip_network("64:ff9b::/96"), 0),
    (ipaddress.ip_network("::ffff:0:0/96"), 0),
    (ipaddress.ip_network("2002::/16"), 80),
)


class Reach(IntEnum):
    """How close an address is to the box; a greater value is closer."""

    INTERNET = 0
    #: Private, link-local, shared by a provider's customers, or reserved.
    HOME = 1
    MACHINE = 2
    #: Multicast and broadcast: no server has such an address.
    NOWHERE = 3


def reach_of(host: str) -> Reach:
    """
    Classify an address by the registries of special-purpose addresses (RFC 6890).

    :param host: an IPv4 or IPv6 address, not a name; an IPv6 address may have a zone.
    :raises ValueError: if `host` is not an address.
    """
    address = _unwrapped(ipaddress.ip_address(host.partition("%")[0]))
    if address.is_multicast or address == ipaddress.IPv4Address("255.255.255.255"):
        return Reach.NOWHERE
    if address.is_loopback or address.is_unspecified:
        return Reach.MACHINE
    if address.version == 4:
        # Linux connects to itself for 0.0.0.0, and to nobody for the rest of 0.0.0.0/8.
        return Reach.INTERNET if address.is_global and not address.is_reserved else Reach.HOME
    return Reach.INTERNET if address in _GLOBAL_UNICAST and address.is_global else Reach.HOME


def in_same_site(first: str, second: str) -> bool:
    """
    Whether two addresses belong to the same site.

    A home's IPv6 addresses are public and share at least a /48 (RFC 6177, section 2).
    """
    one, other = (ipaddress.ip_address(item.partition("%")[0]) for item in (first, second))
    return one.version == other.version == 6 and int(one) >> 80 == int(other) >> 80


def _unwrapped(address: _Address) -> _Address:
    for prefix, shift in _EMBEDDED:
        if address in prefix:
            return ipaddress.IPv4Address((int(address) >> shift) & 0xFFFFFFFF)
    return address
