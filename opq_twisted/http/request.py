"""A request with a small body, answered with a `Reply`."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

from attrs import define, field
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.web.http import BAD_REQUEST, INTERNAL_SERVER_ERROR, RESPONSES
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from opq_twisted.http.channel import BoundedChannel
from opq_twisted.http.reply import Reply

#: Seconds after which a client that reads nothing more of a response is cut off.
_RESPONSE_TIMEOUT = 300

#: Bytes. A longer body is sent in pieces of this size, at the speed of the client.
_PIECE = 64 * 1024

#: Reads a piece of a body: its arguments are the offset and the maximum number of bytes.
Read = Callable[[int, int], bytes]

#: The part of a URL before its path.
_ORIGIN = re.compile(rb"https?://[^/]*/?", re.IGNORECASE)

_NO_PATH = Reply.sentence(BAD_REQUEST, "The path must begin with a slash.")
_BROKEN = Reply.sentence(INTERNAL_SERVER_ERROR, "Something went wrong here; the log says what.")


class BoundedRequest(Request):
    """A request with a small body or none, answered with a `Reply`."""

    channel: BoundedChannel

    #: The limit of bytes of a body. Boxes and browsers send only a few.
    max_body = 16 * 1024

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        #: The time at which its first line arrived, by the reactor's clock (seconds).
        self.began = self.channel.site.reactor.seconds()

    @property
    def is_over(self) -> bool:
        """Whether it was answered, or the client has disconnected."""
        return bool(self.finished or self._disconnected)

    def gotLength(self, length: int | None) -> None:
        """Refuse a body whose announced length is too large, before any of it is stored."""
        super().gotLength(min(length or 0, self.max_body))
        if length is not None and length > self.max_body:
            self._refuse_body()

    def handleContentChunk(self, data: bytes) -> None:
        """Store a piece of the body, up to the limit."""
        if self.content is None or self.content.tell() + len(data) > self.max_body:
            self._refuse_body()
        else:
            super().handleContentChunk(data)

    def _refuse_body(self) -> None:
        # Twisted would answer it nevertheless.
        self.requestHeaders.removeHeader(b"Expect")
        self.channel.refuse(b"413 Content Too Large")

    def process(self) -> None:
        """Find the resource for the path, and let it answer."""
        if not self.path.startswith(b"/"):
            # The absolute form, as clients send it to proxies (RFC 9112, section 3.2.2).
            self.path = _ORIGIN.sub(b"/", self.path, count=1)
        if not self.path.startswith(b"/"):
            self.reply(_NO_PATH)
            return
        self.prepath = []
        self.postpath = [unquote_to_bytes(part) for part in self.path[1:].split(b"/")]
        try:
            self.render(self.channel.site.getResourceFor(self))
        except Exception:
            self.processingFailed(Failure())

    def processingFailed(self, reason: Failure) -> Failure:
        """Log an error of this program, and answer 500 or cut a response that has begun."""
        self._log.failure("{method} {uri} failed", reason, method=self.method, uri=self.uri)
        if not self.startedWriting:
            self.reply(_BROKEN)
        elif not self.finished:
            self.channel.abort()
        return reason

    def begin(self, code: int, head: bytes) -> bytes:
        """Begin a response: returns its status line and headers, for the caller to write."""
        self.code = code
        self.startedWriting = 1
        more = b"".join(
            b"%s: %s\r\n" % (name, value)
            for name, values in self.responseHeaders.getAllRawHeaders()
            for value in values
        )
        return b"%s %d %s\r\nDate: %s\r\n%s%s\r\n" % (
            self.clientproto,
            code,
            RESPONSES.get(code, b""),
            self.channel.site.date(),
            more,
            head,
        )

    def reply(self, reply: Reply) -> int:
        """Send a reply, without its body for HEAD; returns the result that `render` must return."""
        head = self.begin(reply.code, reply.head)
        body = b"" if self.method == b"HEAD" else reply.body
        if len(body) > _PIECE:
            _Slices(self, lambda offset, size: body[offset : offset + size], len(body)).start(head)
        else:
            self.sentLength = len(body)
            self.channel.write(head + body)
            self.finish()
        return NOT_DONE_YET

    def reply_from(self, code: int, head: bytes, read: Read, length: int) -> int:
        """
        Answer with a body that is read piece by piece, at the speed of the client.

        :param head: the header lines, with Content-Length.
        :param read: reads a piece; if it returns nothing, the response is cut.
        """
        begun = self.begin(code, head)
        _Slices(self, read, 0 if self.method == b"HEAD" else length).start(begun)
        return NOT_DONE_YET

    def finish(self) -> None:
        """End the response, and notify the site, unless `connectionLost` has done so."""
        if not self._disconnected:
            self.channel.site.ended(self, whole=True)
        super().finish()

    def connectionLost(self, reason: Failure) -> None:
        """Tell the site that the client has gone before its response was complete."""
        if self.path is not None:
            self.channel.site.ended(self, whole=False)
        super().connectionLost(reason)


@implementer(IPushProducer)
@define(eq=False)
class _Slices:
    """Sends a long body, with only one piece in memory for each slow client."""

    _request: BoundedRequest
    _read: Read
    _length: int
    _offset: int = field(init=False, default=0)
    _paused: bool = field(init=False, default=False)

    def start(self, head: bytes) -> None:
        """Send the headers, and continue until the transport's buffer is full."""
        channel = self._request.channel
        channel.set_deadline(_RESPONSE_TIMEOUT, channel.abort)
        self._request.registerProducer(self, True)
        channel.write(head)
        if not self._paused:
            self.resumeProducing()

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Continue until the transport's buffer is full again."""
        self._paused = False
        channel = self._request.channel
        channel.set_deadline(_RESPONSE_TIMEOUT, channel.abort)
        while self._offset < self._length and not self._paused:
            piece = self._read(self._offset, min(_PIECE, self._length - self._offset))
            if not piece:
                channel.abort()
                return
            self._request.write(piece)
            self._offset += len(piece)
        if self._offset >= self._length:
            self._request.unregisterProducer()
            self._request.finish()

    def stopProducing(self) -> None:
        """Do nothing: the client has gone."""
