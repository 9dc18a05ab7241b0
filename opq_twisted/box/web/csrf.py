"""Rejects actions that another page in the user's browser caused (cross-site request forgery)."""

import re
from collections.abc import Iterable

from twisted.web.server import Request

from opq_twisted.box.config import AGENT

#: The programs that may start an update by GET: curl, wget and the usual HTTP clients of Python;
#: the older configuration daemon uses one of those. That of aiohttp begins with "Python/3.11".
_PROGRAMS = (
    *("curl", "wget", "python", "python-urllib", "python-urllib3", "python-requests"),
    *("python-httpx", "httpx", "aiohttp", "python-treq", "treq", "twisted", "httpie"),
)

#: The first products in the User-Agents of browsers: any page can make one send a GET.
_BROWSERS = ("mozilla", "opera", "lynx", "links", "elinks", "w3m", "netsurf", "dillo")

_OWN_SITE = ("same-origin", "none")

#: The headers by which browsers, also older ones, mark a prefetch, and the words in them.
_PURPOSE_HEADERS = ("Sec-Purpose", "Purpose", "X-Purpose", "X-Moz")
_IN_ADVANCE = ("prefetch", "preview", "prerender")

_ANOTHER_PAGE = "Another page asked for this; use the box's own page."


class CsrfCheck:
    """Lets an action pass if it comes from the box's own page, or from a program."""

    def __init__(self, programs: Iterable[str] = ()) -> None:
        """:param programs: further products of User-Agents that may start an update by GET."""
        self._programs = {*_PROGRAMS, *(program.lower() for program in programs)}

    def error(self, request: Request) -> str | None:
        """
        Return a sentence for the user if a request for an action is rejected, and else None.

        - A box's agent is rejected: a server can redirect it to this URL.
        - Another page is rejected, and so is a prefetch.
        - A page, a mail or a playlist can make a media player, a preview or a mail program send a
          GET, but not a POST. So a GET must come from the box's own page, or from a program that
          people use for such requests.
        - Over plain HTTP, browsers send `Sec-Fetch-Site` only to loopback (Fetch Metadata, section
          2), and no `Origin` for an image or a link. So a browser must prove that the request is of
          the same origin, whatever the method is.
        """
        agents = _headers(request, "User-Agent")
        if any(_product(agent) == AGENT for agent in agents):
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
        hosts = _headers(request, "Host")[-1:]
        ours = tuple(f"{scheme}://{host}" for host in hosts for scheme in ("http", "https"))
        if any(origin not in ours for origin in _headers(request, "Origin")):
            return _ANOTHER_PAGE
        referers = [referer for referer in _headers(request, "Referer") if referer]
        if any(not referer.startswith(tuple(f"{own}/" for own in ours)) for referer in referers):
            return _ANOTHER_PAGE
        if referers or _headers(request, "Sec-Fetch-Site") or _headers(request, "Origin"):
            return None
        if any(_product(agent) in _BROWSERS for agent in agents):
            return "Open the box's own page, and click the button there."
        is_program = bool(agents) and all(_product(agent) in self._programs for agent in agents)
        if request.method != b"POST" and not is_program:
            return (
                "Only programs such as curl may ask for this by GET: use POST, or add the first "
                'word of your program\'s User-Agent to "programs" under "updater" in the '
                "configuration."
            )
        return None


def _headers(request: Request, name: str) -> list[str]:
    """Return all values of a header, whatever bytes they contain."""
    values = request.requestHeaders.getRawHeaders(name.encode(), ())
    return [value.decode("latin-1") for value in values]


def _product(user_agent: str) -> str:
    """Return the name of the first product of a User-Agent (RFC 9110, section 10.1.5)."""
    return re.split(r"[/\s]", user_agent.strip(), maxsplit=1)[0].lower()
