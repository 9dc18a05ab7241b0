"""Tells which user of this machine answers a connection, from the kernel's tables of sockets."""

import os
import pwd
import socket
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from attrs import frozen

Address = IPv4Address | IPv6Address

#: Of IPv4 and of IPv6 (proc(5)).
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))

_LISTENS = "0A"

#: All addresses of IPv4, and all of both kinds.
_WILDCARDS = (IPv4Address(0), IPv6Address(0))


@frozen
class _Socket:
    local: tuple[Address, int]
    remote: tuple[Address, int]
    listens: bool
    user: int


def foreign_listener(connected: socket.socket) -> str | None:
    """
    Name the user who answers a connection on this machine, unless it is root or our own user.

    Any user may listen on a port above 1023, so that a port alone tells nothing about who gets what
    is sent there.

    :returns: None as well for another machine, and where the kernel's tables do not know.
    """
    if connected.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    server, client = _end(connected.getpeername()), _end(connected.getsockname())
    if not (server[0].is_loopback or server[0] == client[0]):
        return None
    for user in _answering(server, client):
        if user not in (0, os.geteuid()):
            return _name(user)
    return None


def _answering(server: tuple[Address, int], client: tuple[Address, int]) -> set[int]:
    """
    Find the users of the sockets that can have accepted a connection.

    Who listens counts first: a connection that nobody has accepted yet belongs to nobody. A program
    that has accepted it may have ceased to listen.
    """
    sockets = list(_sockets())
    # The kernel prefers the socket with the very address, then one of the same kind of address.
    wildcards = _WILDCARDS if isinstance(server[0], IPv4Address) else _WILDCARDS[1:]
    for address in (server[0], *wildcards):
        end = address, server[1]
        if users := {each.user for each in sockets if each.listens and each.local == end}:
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
            yield _Socket(_parse(local), _parse(remote), state == _LISTENS, int(user))


def _parse(text: str) -> tuple[Address, int]:
    """Read an address as the kernel has it: words in the byte order of the machine."""
    address, _, port = text.partition(":")
    words = [bytes.fromhex(address[start : start + 8]) for start in range(0, len(address), 8)]
    if sys.byteorder == "little":
        words = [word[::-1] for word in words]
    return _plain(ip_address(b"".join(words))), int(port, 16)


def _end(name: tuple[str, int]) -> tuple[Address, int]:
    return _plain(ip_address(name[0].partition("%")[0])), name[1]


def _plain(address: Address) -> Address:
    """Give an IPv4 address that an IPv6 socket has as what it is."""
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
