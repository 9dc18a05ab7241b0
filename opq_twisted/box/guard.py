"""Tells a request that the owner meant from one that another page in the browser caused."""

import ipaddress
from collections.abc import Iterable

from twisted.web.server import Request

from opq_twisted.box.host_names import is_own, normal

#: The beginning of the `User-Agent` of every box's agent.
AGENT = "opq-box-agent/"


class Guard:
    """
    Knows which requests to refuse, and why.

    Scripts send none of the headers that it looks at, and go on working.
    """

    def __init__(self, hosts: Iterable[str]) -> None:
        """:param hosts: further names under which the box may be asked for."""
        self._hosts = {_host_name(_in_ascii(host)) for host in hosts}

    def foreign_host(self, request: Request) -> str | None:
        """
        Say why a request's `Host` is not one of the box.

        A page elsewhere can let its own name point to the box's address (DNS rebinding); the name
        that the browser then sends gives it away.
        """
        host = _header(request, "Host")
        if host is None:
            return None
        name = _host_name(host)
        if _is_address(name) or name in self._hosts or is_own(name):
            return None
        return (
            f"This box does not answer to the name {name[:100]!r}. Use its address, or "
            'add the name to "hosts" under "updater" in its configuration.'
        )

    def not_meant(self, request: Request) -> str | None:
        """Say why a request for an action cannot have come from the owner's click."""
        if (_header(request, "User-Agent") or "").lower().startswith(AGENT.lower()):
            return "A box's agent is not its owner: a server has led it here."
        if _header(request, "Sec-Fetch-Site") not in (None, "same-origin", "none"):
            return "Another page asked for this; use the box's own page."
        if "prefetch" in (_header(request, "Sec-Purpose") or "").lower():
            return "A browser asked for this in advance; click the button instead."
        host = _header(request, "Host")
        ours = (f"http://{host}", f"https://{host}")
        if _header(request, "Origin") not in (None, *ours):
            return "Another page asked for this; use the box's own page."
        if _is_untold(request) and not (_header(request, "Referer") or "").startswith(
            tuple(f"{own}/" for own in ours)
        ):
            return "Open the box's own page, and click the button there."
        return None


def _header(request: Request, name: str) -> str | None:
    """Read a header, whatever bytes it has."""
    values = request.requestHeaders.getRawHeaders(name.encode())
    return values[-1].decode("latin-1") if values else None


def _is_untold(request: Request) -> bool:
    """
    Whether a browser sent this without saying where it comes from.

    Over plain HTTP browsers send `Sec-Fetch-Site` only to loopback (Fetch Metadata, section 2), and
    no `Origin` for an image or a link: `<img src="http://192.168.1.20/box_update">` looks like
    this. Every browser's `User-Agent` begins alike, and no page can change it for an image.
    """
    return (
        not request.requestHeaders.hasHeader(b"Sec-Fetch-Site")
        and not request.requestHeaders.hasHeader(b"Origin")
        and (_header(request, "User-Agent") or "").startswith("Mozilla/")
    )


def _host_name(host: str) -> str:
    """Take the port off a Host header (RFC 9110, section 7.2)."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return normal(host.partition(":")[0])


def _in_ascii(host: str) -> str:
    """Give a name as browsers send it (RFC 3490); one that cannot be a name stays as it is."""
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
