"""Tells a request that the owner meant from one that another page in the browser caused."""

import ipaddress
import re
from collections.abc import Iterable

from twisted.web.server import Request

from opq_twisted.box.web.host_names import is_own, normal

#: The beginning of the `User-Agent` of every box's agent.
AGENT = "opq-box-agent/"

#: The programs that may begin an update by GET: curl, wget and the usual HTTP clients of Python, of
#: which the older configuration daemon uses one. That of aiohttp begins with "Python/3.11".
_PROGRAMS = frozenset(
    (
        *("curl", "wget", "python", "python-urllib", "python-urllib3", "python-requests"),
        *("python-httpx", "httpx", "aiohttp", "python-treq", "treq", "twisted", "httpie"),
    )
)

#: What the User-Agents of browsers begin with: of almost all with the first.
_BROWSERS = ("mozilla", "opera", "lynx", "links", "elinks", "w3m", "netsurf", "dillo")

_OWN_SITE = ("same-origin", "none")

#: Where browsers, also older ones, say that they fetch a page before somebody opens it, and how.
_PURPOSE_HEADERS = ("Sec-Purpose", "Purpose", "X-Purpose", "X-Moz")
_IN_ADVANCE = ("prefetch", "preview", "prerender")

_ANOTHER_PAGE = "Another page asked for this; use the box's own page."


class Guard:
    """Knows which requests to refuse, and why."""

    def __init__(self, hosts: Iterable[str], programs: Iterable[str] = ()) -> None:
        """
        Prepare to judge requests.

        :param hosts: further names under which the box may be asked for.
        :param programs: the first words of the User-Agents of further programs that may begin an
            update by GET.
        """
        self._programs = {*_PROGRAMS, *(program.lower() for program in programs)}
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
        """
        Say why a request for an action comes neither from the owner nor from the owner's program.

        - An agent is no person: a server can lead it here by a redirect.
        - Another page, or one that is not shown yet, has no business here.
        - A page, a mail or a playlist makes a media player, a preview or a mail program send a GET.
          So a GET has to show that it comes from the box's own page, or be sent by a program that
          people use for such requests. None of those sends a POST.
        - Over plain HTTP browsers send `Sec-Fetch-Site` only to loopback (Fetch Metadata, section
          2), and no `Origin` for an image or a link. So a browser has to show it for any method.
        """
        agents = _headers(request, "User-Agent")
        if any(_product(agent) == _product(AGENT) for agent in agents):
            return "A box's agent is not its owner: a server has led it here."
        if any(site not in _OWN_SITE for site in _headers(request, "Sec-Fetch-Site")):
            return _ANOTHER_PAGE
        if any(
            word in value.lower()
            for name in _PURPOSE_HEADERS
            for value in _headers(request, name)
            for word in _IN_ADVANCE
        ):
            return "A browser asked for this in advance; click the button instead."
        host = _header(request, "Host")
        ours = () if host is None else (f"http://{host}", f"https://{host}")
        if any(origin not in ours for origin in _headers(request, "Origin")):
            return _ANOTHER_PAGE
        referers = [referer for referer in _headers(request, "Referer") if referer]
        if any(not referer.startswith(tuple(f"{own}/" for own in ours)) for referer in referers):
            return _ANOTHER_PAGE
        if referers or _headers(request, "Sec-Fetch-Site") or _headers(request, "Origin"):
            return None
        if any(_product(agent) in _BROWSERS for agent in agents):
            return "Open the box's own page, and click the button there."
        if request.method != b"POST" and not self._is_program(agents):
            return (
                "Only programs such as curl may ask for this by GET: use POST, or add the first "
                'word of your program\'s User-Agent to "programs" under "updater" in the '
                "configuration."
            )
        return None

    def _is_program(self, agents: list[str]) -> bool:
        return bool(agents) and all(_product(agent) in self._programs for agent in agents)


def _headers(request: Request, name: str) -> list[str]:
    """Read all values of a header, whatever bytes they have."""
    values = request.requestHeaders.getRawHeaders(name.encode(), ())
    return [value.decode("latin-1") for value in values]


def _header(request: Request, name: str) -> str | None:
    values = _headers(request, name)
    return values[-1] if values else None


def _product(user_agent: str) -> str:
    """Give the name of the first product of a User-Agent (RFC 9110, section 10.1.5)."""
    return re.split(r"[/\s]", user_agent.strip(), maxsplit=1)[0].lower()


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
