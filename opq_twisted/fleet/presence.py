"""Counts the boxes that wait for a release now, by their User-Agent."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from opq_twisted.http.request import BoundedRequest

#: The User-Agent of an agent, such as `opq-box-agent/0.2.0 (box 7; release 1547860803)`.
_AGENT = re.compile(rb"opq-box-agent/[^ ]{1,40} \(box ([0-9]{1,15});.{0,40}\)")


class Presence:
    """
    Counts the boxes that wait at `/version` of this process.

    Anybody can send any User-Agent. So the numbers are only shown to people: no decision depends on
    them, and they are not stored.
    """

    def __init__(self, waiting: Callable[[], Iterable[BoundedRequest]]) -> None:
        """:param waiting: gives the requests that wait; the server limits their number."""
        self._waiting = waiting

    def waiting_now(self) -> Mapping[int, int]:
        """Return how many connections wait, by the number of the box in its configuration."""
        agents = (request.getHeader(b"User-Agent") or b"" for request in self._waiting())
        found = (_AGENT.fullmatch(agent) for agent in agents)
        return Counter(int(match[1]) for match in found if match)
