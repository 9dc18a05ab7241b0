"""`/events`: the status as server-sent events, one at the start and one for each change."""

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.web.http import SERVICE_UNAVAILABLE

from opq_twisted.box.state.status import Status, StatusBoard
from opq_twisted.http.event_streams import EventStreams
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource

#: The shortest time from one event to the next, in seconds.
_MIN_INTERVAL = 0.25

_TOO_MANY = Reply.sentence(
    SERVICE_UNAVAILABLE,
    "Too many pages follow this box already, or too many of yours. Ask for its status now and "
    "then instead.",
    {b"Retry-After": b"30"},
)


class Events(PlainResource):
    """Sends the status to all open streams."""

    isLeaf = True

    def __init__(
        self, clock: IReactorTime, board: StatusBoard, encode: Callable[[Status], bytes]
    ) -> None:
        """:param encode: encodes a status as one line of JSON."""
        super().__init__()
        self._clock = clock
        self._board = board
        self._encode = encode
        self._streams = EventStreams(clock, _TOO_MANY)
        self._sent_at = float("-inf")
        self._due: IDelayedCall | None = None
        board.subscribe(self._changed)

    def render_GET(self, request: BoundedRequest) -> Reply | int:
        """Start a stream."""
        return self._streams.open(request, request.channel.client, self._event)

    def _changed(self, _: Status) -> None:
        if len(self._streams) and self._due is None:
            pause = max(0.0, self._sent_at + _MIN_INTERVAL - self._clock.seconds())
            # Several changes in one iteration of the reactor become one event.
            self._due = self._clock.callLater(pause, self._send_status)

    def _send_status(self) -> None:
        self._due = None
        self._sent_at = self._clock.seconds()
        self._streams.send(self._event())

    def _event(self) -> bytes:
        return b"data: %s\n\n" % self._encode(self._board.current)
