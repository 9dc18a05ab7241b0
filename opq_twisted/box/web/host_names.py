"""Tells the names under which this box can be reached."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path

_HOSTS = Path("/etc/hosts")

#: Bytes of /etc/hosts that are looked at.
_MOST_READ = 65536

#: What multicast DNS appends to a name, or counts up in it, where another machine has it already:
#: Avahi makes `box-2` of `box` and `box-8` of `box-7`, others `box-7-2` and `box11`.
_NUMBER = re.compile(r"-?[1-9][0-9]{0,9}")


def is_own(name: str) -> bool:
    """
    Tell whether a name is one that this machine goes by now.

    Those are its host name, the first part of that, the full names that /etc/hosts has for it, and
    the short name under `.local`, as it is or with a number. No server in the internet can answer
    for a name under `.local` (RFC 6762).

    :param name: in lower case, without a dot at its end.
    """
    host = normal(socket.gethostname())
    short = host.partition(".")[0]
    if name in ("localhost", host, short) or _is_local(name, short):
        return name != ""
    return name in _names_of(host, short)


def normal(name: str) -> str:
    """Give the form of a name in which it is compared (RFC 4343): names may end with a dot."""
    return name.lower().removesuffix(".")


def _is_local(name: str, short: str) -> bool:
    label, _, rest = name.partition(".")
    if rest != "local" or not short:
        return False
    stem = re.sub(r"-?[0-9]+\Z", "", short) or short
    return label == short or any(
        label.startswith(start) and _NUMBER.fullmatch(label.removeprefix(start))
        for start in (short, stem)
    )


def _names_of(host: str, short: str) -> set[str]:
    """Read the names that /etc/hosts has for this machine."""
    names: set[str] = set()
    for line in _lines():
        others = {normal(name) for name in line.partition("#")[0].split()[1:]}
        if others & {host, short}:
            names |= others
    return names


def _lines() -> Iterator[str]:
    try:
        with _HOSTS.open("rb") as file:
            yield from file.read(_MOST_READ).decode("utf-8", "replace").splitlines()
    except OSError:
        return
