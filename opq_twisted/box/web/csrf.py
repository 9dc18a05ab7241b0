"""Rejects actions that the box's owner has not asked for."""

from collections.abc import Iterable

from twisted.web.server import Request

from opq_twisted.box.config.settings import AGENT
from opq_twisted.http.guards.csrf import Forgery, find_forgery, headers, product, proves_origin

#: The programs that may start an update by GET: curl, wget and the usual HTTP clients of Python;
#: the older configuration daemon uses one of those. That of aiohttp begins with "Python/3.11".
_PROGRAMS = (
    *("curl", "wget", "python", "python-urllib", "python-urllib3", "python-requests"),
    *("python-httpx", "httpx", "aiohttp", "python-treq", "treq", "twisted", "httpie"),
)

_SENTENCES = {
    Forgery.ANOTHER_PAGE: "Another page asked for this; use the box's own page.",
    Forgery.IN_ADVANCE: "A browser asked for this in advance; click the button instead.",
    Forgery.UNPROVEN: "Open the box's own page, and click the button there.",
}


class CsrfCheck:
    """Lets an action pass if it comes from the box's own page, or from a program."""

    def __init__(self, programs: Iterable[str] = ()) -> None:
        """:param programs: further products of User-Agents that may start an update by GET."""
        self._programs = {*_PROGRAMS, *(program.lower() for program in programs)}

    def error(self, request: Request) -> str | None:
        """
        Return a sentence for the user if a request for an action is rejected, and else None.

        - A box's agent is rejected: a server can redirect it to this URL.
        - A request that another page caused is rejected.
        - A page, a mail or a playlist can make a media player, a preview or a mail program send a
          GET, but not a POST. So a GET must come from the box's own page, or from a program that
          people use for such requests.
        """
        agents = headers(request, "User-Agent")
        if any(product(agent) == AGENT for agent in agents):
            return "A box's agent is not its owner: a server has led it here."
        forgery = find_forgery(request)
        if forgery is not None:
            return _SENTENCES[forgery]
        if proves_origin(request):
            return None
        is_program = bool(agents) and all(product(agent) in self._programs for agent in agents)
        if request.method != b"POST" and not is_program:
            return (
                "Only programs such as curl may ask for this by GET: use POST, or add the first "
                'word of your program\'s User-Agent to "programs" under "updater" in the '
                "configuration."
            )
        return None
