"""Checks that the `Host` header of a request is a name or an address of this machine."""

import ipaddress
import re
import socket
from collections.abc import Iterable
from pathlib import Path

from twisted.web.server import Request

_HOSTS = Path("/etc/hosts")

#: At most so many bytes of /etc/hosts are read.
_MAX_READ = 65536

#: Characters of a foreign name that a sentence shows.
_SHOWN = 100

#: The number that multicast DNS appends to a name, or increments in it, if another machine has the
#: name already: Avahi turns `box` into `box-2` and `box-7` into `box-8`, other programs make
#: `box-7-2` or `box11`.
_NUMBER = re.compile(r"-?[1-9][0-9]{0,9}")


class HostCheck:
    """
    Rejects requests for other hosts, which protects against DNS rebinding.

    Another site can let its own name resolve to this machine's address. Its pages are then of one
    origin with the page here, but the browser sends that name in `Host`.
    """

    def __init__(self, hosts: Iterable[str]) -> None:
        """:param hosts: names that are accepted besides those of the machine."""
        self._hosts = {_host_name(_in_ascii(host)) for host in hosts}

    def find_foreign(self, request: Request) -> str | None:
        """Return the beginning of the name of another host that a request is for, or None."""
        host = request.getHeader(b"Host")
        if host is None:
            return None
        name = _host_name(host.decode("latin-1"))
        is_ours = _is_address(name) or name in self._hosts or is_own(name)
        return None if is_ours else name[:_SHOWN]


def is_own(name: str) -> bool:
    """
    Tell whether a name is one of this machine's names now.

    Its names are: its host name and the first label of that, the full names that /etc/hosts has for
    it, and the first label under `.local`, also with a number. No server on the internet can answer
    for a name under `.local` (RFC 6762).

    :param name: in lower case, without a final dot.
    """
    host = _normal(socket.gethostname())
    short = host.partition(".")[0]
    if name in ("localhost", host, short) or _is_local(name, short):
        return name != ""
    return name in _names_in_hosts_file(host, short)


def _normal(name: str) -> str:
    """Normalise a name for comparison (RFC 4343): lower case, no final dot."""
    return name.lower().removesuffix(".")


def _host_name(host: str) -> str:
    """Remove the port from the value of a Host header (RFC 9110, section 7.2)."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return _normal(host.partition(":")[0])


def _in_ascii(host: str) -> str:
    """Encode a name as browsers do (RFC 3490); an invalid name is returned unchanged."""
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        return host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_local(name: str, short: str) -> bool:
    label, _, rest = name.partition(".")
    if rest != "local" or not short:
        return False
    stem = re.sub(r"-?[0-9]+\Z", "", short) or short
    return label == short or any(
        label.startswith(start) and _NUMBER.fullmatch(label.removeprefix(start))
        for start in (short, stem)
    )


def _names_in_hosts_file(host: str, short: str) -> set[str]:
    names: set[str] = set()
    try:
        with _HOSTS.open("rb") as file:
            lines = file.read(_MAX_READ).decode("utf-8", "replace").splitlines()
    except OSError:
        return names
    for line in lines:
        others = {_normal(name) for name in line.partition("#")[0].split()[1:]}
        if others & {host, short}:
            names |= others
    return names
