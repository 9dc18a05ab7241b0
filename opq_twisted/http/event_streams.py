"""Sends server-sent events to a limited number of clients."""

from collections.abc import Callable

from attrs import define
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.web.http import OK
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from opq_twisted.http.connection_limits import Shares
from opq_twisted.http.reply import Reply, header_lines
from opq_twisted.http.request import BoundedRequest

#: Open streams at once, of which one client may have a quarter. Each takes some kilobytes.
MAX_STREAMS = 64

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


class EventStreams:
    """All open streams of a resource."""

    def __init__(self, clock: IReactorTime, too_many: Reply) -> None:
        """:param too_many: the reply if there are too many streams, or too many of a client."""
        self._too_many = too_many
        self._streams: set[_Stream] = set()
        self._shares = Shares(MAX_STREAMS)
        #: How often `close` was called.
        self.closings = 0
        self._heartbeat = LoopingCall(lambda: self.send(_HEARTBEAT))
        self._heartbeat.clock = clock

    def __len__(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def open(
        self,
        request: BoundedRequest,
        client: str | None,
        latest: Callable[[], bytes],
        group: object = None,
    ) -> Reply | int:
        """
        Start a stream; returns the result that `render_GET` must return.

        :param client: the client whose streams are counted together; None if only the total limit
            applies.
        :param latest: returns the event that a client needs at the start, and after a time in which
            it has read nothing.
        :param group: the value for `send` whose events the client gets.
        """
        if request.is_over:
            return NOT_DONE_YET
        if not self._shares.has_room(client):
            return self._too_many
        if request.method == b"HEAD":
            return Reply(OK, _HEAD)
        stream = _Stream(request, latest, group)
        self._streams.add(stream)
        self._shares.acquire(client)
        request.notifyFinish().addBoth(lambda _: self._end(stream, client))
        if not self._heartbeat.running:
            self._heartbeat.start(_HEARTBEAT_INTERVAL, now=False)
        stream.start()
        return NOT_DONE_YET

    def send(self, event: bytes, group: object = None) -> None:
        """Send an event to the clients of a group, or of all; it is lost to those that lag."""
        for stream in tuple(self._streams):
            if group is None or stream.group == group:
                stream.send(event)

    def close(self) -> None:
        """End all streams; a browser opens a new one by itself."""
        self.closings += 1
        for stream in tuple(self._streams):
            stream.close()

    def _end(self, stream: "_Stream", client: str | None) -> None:
        self._streams.discard(stream)
        self._shares.release(client)
        if not self._streams and self._heartbeat.running:
            self._heartbeat.stop()


@implementer(IPushProducer)
@define(eq=False)
class _Stream:
    """One client; while it reads nothing, events are dropped, and it gets the latest afterwards."""

    _request: BoundedRequest
    _latest: Callable[[], bytes]
    group: object
    _paused: bool = False

    def start(self) -> None:
        self._request.registerProducer(self, True)
        self._request.channel.write(self._request.begin(OK, _STREAM_HEAD) + self._latest())

    def send(self, event: bytes) -> None:
        if not self._paused:
            self._request.channel.write(event)

    def close(self) -> None:
        self._request.unregisterProducer()
        self._request.channel.persistent = False
        self._request.finish()

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
