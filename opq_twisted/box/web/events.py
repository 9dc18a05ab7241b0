"""`/events`: the status as server-sent events, one at the start and one for each change."""

from collections.abc import Callable

from attrs import define
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.web.http import OK, SERVICE_UNAVAILABLE
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from opq_twisted.box.state.status import Status, StatusBoard
from opq_twisted.http.connection_limits import Shares
from opq_twisted.http.reply import Reply, header_lines
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource

#: Open streams at once, of which one client may have a quarter. Each takes some kilobytes.
MAX_STREAMS = 64

#: The shortest time from one event to the next, in seconds.
_MIN_INTERVAL = 0.25

#: Seconds between heartbeats. A heartbeat has a comment, for proxies, and an event, for the page,
#: because a script does not see comments.
_HEARTBEAT_INTERVAL = 15.0
_HEARTBEAT = b": \nevent: alive\ndata: \n\n"

#: Seconds after which a client that reads nothing is disconnected.
_TIMEOUT = 60.0

_HEAD = header_lines(
    {
        b"Content-Type": b"text/event-stream",
        b"Cache-Control": b"no-store",
        b"X-Content-Type-Options": b"nosniff",
        b"X-Accel-Buffering": b"no",
    }
)
#: A stream has no length, and ends with the connection.
_STREAM_HEAD = _HEAD + header_lines({b"Connection": b"close"})

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
        self._streams: set[_Stream] = set()
        self._shares = Shares(MAX_STREAMS)
        self._sent_at = float("-inf")
        self._due: IDelayedCall | None = None
        self._heartbeat = LoopingCall(lambda: self._send(_HEARTBEAT))
        self._heartbeat.clock = clock
        board.subscribe(self._changed)

    def render_GET(self, request: BoundedRequest) -> Reply | int:
        """Start a stream."""
        client = request.channel.client
        if not self._shares.has_room(client):
            return _TOO_MANY
        if request.method == b"HEAD":
            return Reply(OK, _HEAD)
        stream = _Stream(request, self._event)
        self._streams.add(stream)
        self._shares.acquire(client)
        request.notifyFinish().addBoth(lambda _: self._end(stream, client))
        if not self._heartbeat.running:
            self._heartbeat.start(_HEARTBEAT_INTERVAL, now=False)
        stream.start()
        return NOT_DONE_YET

    def _end(self, stream: "_Stream", client: str | None) -> None:
        self._streams.discard(stream)
        self._shares.release(client)
        if not self._streams and self._heartbeat.running:
            self._heartbeat.stop()

    def _changed(self, _: Status) -> None:
        if self._streams and self._due is None:
            pause = max(0.0, self._sent_at + _MIN_INTERVAL - self._clock.seconds())
            # Several changes in one iteration of the reactor become one event.
            self._due = self._clock.callLater(pause, self._send_status)

    def _send_status(self) -> None:
        self._due = None
        self._sent_at = self._clock.seconds()
        self._send(self._event())

    def _event(self) -> bytes:
        return b"data: %s\n\n" % self._encode(self._board.current)

    def _send(self, event: bytes) -> None:
        for stream in tuple(self._streams):
            stream.send(event)


@implementer(IPushProducer)
@define(eq=False)
class _Stream:
    """One client; while it reads nothing, events are dropped, and it gets the latest afterwards."""

    _request: BoundedRequest
    _latest: Callable[[], bytes]
    _paused: bool = False

    def start(self) -> None:
        self._request.registerProducer(self, True)
        self._request.channel.write(self._request.begin(OK, _STREAM_HEAD) + self._latest())

    def send(self, event: bytes) -> None:
        if not self._paused:
            self._request.channel.write(event)

    def pauseProducing(self) -> None:
        """Drop events: the client reads nothing, and the buffers are full."""
        self._paused = True
        channel = self._request.channel
        channel.set_deadline(_TIMEOUT, channel.abort)

    def resumeProducing(self) -> None:
        """Send the current status."""
        self._paused = False
        self._request.channel.deadline = float("inf")
        self.send(self._latest())

    def stopProducing(self) -> None:
        """Do nothing: `notifyFinish` reports that the client has disconnected."""
