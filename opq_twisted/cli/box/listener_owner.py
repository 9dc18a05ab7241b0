"""Finds the user whose program answers a local connection, in the kernel's tables of sockets."""

import os
import pwd
import socket
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from attrs import frozen

Address = IPv4Address | IPv6Address

#: The tables of IPv4 and IPv6 (proc_net(5)), and the state of a listening socket in them.
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTEN = "0A"

#: The wildcard address of IPv4, and the one for both families.
_WILDCARDS = (IPv4Address(0), IPv6Address(0))


@frozen
class _Socket:
    local: tuple[Address, int]
    remote: tuple[Address, int]
    listens: bool
    user: int


def foreign_listener(connected: socket.socket) -> str | None:
    """
    Return the name of the user whose program answers, if it is neither root nor our own user.

    Any user may listen on a port above 1023, so the port does not show that the agent answers.

    :returns: None also for another machine, and if the kernel's tables cannot be read.
    """
    if connected.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    server, client = _endpoint(connected.getpeername()), _endpoint(connected.getsockname())
    if not (server[0].is_loopback or server[0] == client[0]):
        return None
    foreign = _users_answering(server, client) - {0, os.geteuid()}
    return _name(foreign.pop()) if foreign else None


def _users_answering(server: tuple[Address, int], client: tuple[Address, int]) -> set[int]:
    """
    Find the users of the sockets that can have accepted a connection.

    The listening sockets are searched first, because a connection that has not been accepted yet
    belongs to nobody. A program that has accepted it may have stopped listening.
    """
    sockets = list(_sockets())
    # The kernel prefers a socket with this address, then a wildcard of the same family.
    wildcards = _WILDCARDS if isinstance(server[0], IPv4Address) else _WILDCARDS[1:]
    for address in (server[0], *wildcards):
        local = address, server[1]
        if users := {each.user for each in sockets if each.listens and each.local == local}:
            return users
    return {each.user for each in sockets if (each.local, each.remote) == (server, client)}


def _sockets() -> Iterator[_Socket]:
    for table in _TABLES:
        try:
            lines = table.read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, remote, state, _, _, _, user, *_ = line.split()
            yield _Socket(_parse(local), _parse(remote), state == _LISTEN, int(user))


def _parse(text: str) -> tuple[Address, int]:
    """Parse an address of the tables: words of 32 bits in the machine's byte order."""
    address, _, port = text.partition(":")
    words = [bytes.fromhex(address[start : start + 8]) for start in range(0, len(address), 8)]
    if sys.byteorder == "little":
        words = [word[::-1] for word in words]
    return _unmapped(ip_address(b"".join(words))), int(port, 16)


def _endpoint(name: tuple[str, int]) -> tuple[Address, int]:
    return _unmapped(ip_address(name[0].partition("%")[0])), name[1]


def _unmapped(address: Address) -> Address:
    """Convert an IPv4-mapped IPv6 address to IPv4."""
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
