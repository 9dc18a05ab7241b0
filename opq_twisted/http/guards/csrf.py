"""Rejects requests that another page in the user's browser caused (cross-site request forgery)."""

import re
from enum import Enum, auto

from twisted.web.server import Request

#: The first products in the User-Agents of browsers: any page can make one send a request.
_BROWSERS = ("mozilla", "opera", "lynx", "links", "elinks", "w3m", "netsurf", "dillo")

_OWN_SITE = ("same-origin", "none")

#: The headers by which browsers, also older ones, mark a prefetch, and the words in them.
_PURPOSE_HEADERS = ("Sec-Purpose", "Purpose", "X-Purpose", "X-Moz")
_IN_ADVANCE = ("prefetch", "preview", "prerender")


class Forgery(Enum):
    """Why a request is not the wish of the user of a browser."""

    #: Another page asks.
    ANOTHER_PAGE = auto()
    #: The browser fetches it before the user has clicked.
    IN_ADVANCE = auto()
    #: A browser asks, and nothing says for which page.
    UNPROVEN = auto()


def find_forgery(request: Request) -> Forgery | None:
    """
    Tell whether another page caused a request, or a prefetch.

    Over plain HTTP, browsers send `Sec-Fetch-Site` only to loopback (Fetch Metadata, section 2),
    and no `Origin` for an image or a link. So a browser must prove that the request is of the same
    origin, whatever the method is.
    """
    if any(site not in _OWN_SITE for site in headers(request, "Sec-Fetch-Site")):
        return Forgery.ANOTHER_PAGE
    if any(
        word in value.lower()
        for name in _PURPOSE_HEADERS
        for value in headers(request, name)
        for word in _IN_ADVANCE
    ):
        return Forgery.IN_ADVANCE
    hosts = headers(request, "Host")[-1:]
    ours = tuple(f"{scheme}://{host}" for host in hosts for scheme in ("http", "https"))
    if any(origin not in ours for origin in headers(request, "Origin")):
        return Forgery.ANOTHER_PAGE
    referers = _referers(request)
    if any(not referer.startswith(tuple(f"{own}/" for own in ours)) for referer in referers):
        return Forgery.ANOTHER_PAGE
    is_browser = any(product(agent) in _BROWSERS for agent in headers(request, "User-Agent"))
    return Forgery.UNPROVEN if is_browser and not proves_origin(request) else None


def proves_origin(request: Request) -> bool:
    """Whether a request has a header that names the page it comes from."""
    return bool(
        _referers(request) or headers(request, "Sec-Fetch-Site") or headers(request, "Origin")
    )


def headers(request: Request, name: str) -> list[str]:
    """Return all values of a header, whatever bytes they contain."""
    values = request.requestHeaders.getRawHeaders(name.encode(), ())
    return [value.decode("latin-1") for value in values]


def product(user_agent: str) -> str:
    """Return the name of the first product of a User-Agent (RFC 9110, section 10.1.5)."""
    return re.split(r"[/\s]", user_agent.strip(), maxsplit=1)[0].lower()


def _referers(request: Request) -> list[str]:
    return [referer for referer in headers(request, "Referer") if referer]
