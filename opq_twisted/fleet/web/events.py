"""`/fleet/events`: the parts of the overview that change, as server-sent events."""

import json
from collections.abc import Mapping

from twisted.web.http import SERVICE_UNAVAILABLE

from opq_twisted.fleet.control.answers import Content
from opq_twisted.fleet.web.pages import GetPage, Sources
from opq_twisted.fleet.web.resource import Guard
from opq_twisted.fleet.web.views.parts import render_parts
from opq_twisted.fleet.web.views.viewer import Viewer
from opq_twisted.http.event_streams import EventStreams
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest

TOO_MANY = Reply.sentence(
    SERVICE_UNAVAILABLE,
    "Too many pages follow this fleet already, or too many of yours. Reload the page now and then "
    "instead.",
    {b"Retry-After": b"30"},
)

_CHANGED = Reply.sentence(
    SERVICE_UNAVAILABLE, "The operators have changed: try again.", {b"Retry-After": b"5"}
)


class Events(GetPage):
    """
    Sends all parts at the start of a stream, and after each count those that have changed.

    The parts are rendered once for all viewers of the same role.
    """

    def __init__(self, guard: Guard, sources: Sources, streams: EventStreams) -> None:
        super().__init__(guard, sources)
        self._streams = streams
        #: For each role, the parts that its streams have received last.
        self._sent: dict[bool, Mapping[str, str]] = {}
        sources.current.observers.append(self._counted)

    async def show(self, request: BoundedRequest, viewer: Viewer) -> Reply | int:
        """Start a stream."""
        closings = self._streams.closings
        content = await self.sources.current.get()
        if self._streams.closings != closings:
            # The first count may be slow, and the operator may have been removed meanwhile.
            return _CHANGED
        role = viewer.is_operator
        if role not in self._sent or not len(self._streams):
            self._sent[role] = _render(content, role)
        client = self.guard.client(request)
        return self._streams.open(request, client, lambda: _event(self._sent[role]), role)

    def _counted(self, content: Content) -> None:
        if not len(self._streams):
            self._sent.clear()
            return
        for role, before in self._sent.items():
            parts = _render(content, role)
            self._sent[role] = parts
            changed = {name: html for name, html in parts.items() if before.get(name) != html}
            if changed:
                self._streams.send(_event(changed), role)


def _render(content: Content, is_operator: bool) -> Mapping[str, str]:
    return render_parts(content, Viewer(name="", is_operator=is_operator))


def _event(parts: Mapping[str, str]) -> bytes:
    return b"event: parts\ndata: %s\n\n" % json.dumps(parts).encode()
