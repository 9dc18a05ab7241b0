"""A client's connection, bounded in every size and every wait."""

import re
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IPushProducer,
    ISSLTransport,
    ITCPTransport,
)
from twisted.python.failure import Failure
from twisted.web.http import BAD_REQUEST, INTERNAL_SERVER_ERROR, RESPONSES, HTTPChannel
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from opq_twisted.http.reply import Reply

if TYPE_CHECKING:
    from opq_twisted.http.site import BoundedSite

#: No request that either server understands has a body of more than a few bytes.
_MAX_REQUEST_BODY = 16 * 1024

#: Requests of one connection that are answered before the reactor turns to others.
_PIPELINED = 4

#: Seconds in which a connection's next request must have arrived whole.
_REQUEST_TIMEOUT = 60

#: Seconds after which a client that takes nothing more of an answer is cut.
_ANSWER_TIMEOUT = 300

#: Seconds that a connection gets to close in good order before it is reset.
_CLOSE_TIMEOUT = 15

#: What a client whose request was refused may still send, and for how many seconds.
_MAX_DRAINED = 1024 * 1024
_DRAIN_TIMEOUT = 5

#: A body of more bytes is sent in pieces of so many, as the client takes them.
_AT_ONCE = 64 * 1024

#: What comes before the path in a URL.
_ORIGIN = re.compile(rb"https?://[^/]*/?", re.IGNORECASE)

_NO_PATH = Reply.sentence(BAD_REQUEST, "What is asked for must begin with a slash.")
_BROKEN = Reply.sentence(INTERNAL_SERVER_ERROR, "Something went wrong here; the log says what.")


@implementer(IHalfCloseableProtocol)
class BoundedChannel(HTTPChannel):
    """
    A connection that answers what is too large, and on which nothing lasts for ever.

    A connection has one deadline at a time. It is a number that the site looks at every so often:
    ten thousand of them cost less than as many timers, and a request moves none. A client cannot
    put it off by sending a byte now and then.
    """

    site: "BoundedSite"
    #: TCP, TLS, or whatever the endpoint gives.
    transport: Any

    #: When `overdue` is called, by the reactor's clock (seconds).
    deadline = inf
    #: What happens at the deadline.
    overdue: Callable[[], None]

    #: Bytes that were thrown away since no request is taken any more; None while they are.
    _drained: int | None = None
    #: Whether the client has yet to take what was answered.
    _behind = False
    #: How many of the requests that came together are answered.
    _answers = 0
    #: Whether the client sends no more, and waits for answers only.
    _ending = False

    def connectionMade(self) -> None:
        """Begin to wait for a request."""
        super().connectionMade()
        self.set_deadline(_REQUEST_TIMEOUT, self.close)
        self.site.connected(self)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Let go of all that waited for this connection."""
        self.deadline = inf
        self._drained = 0
        self.site.disconnected(self)
        super().connectionLost(reason)

    def set_deadline(self, seconds: float, overdue: Callable[[], None]) -> None:
        """Call `overdue` when so many seconds have passed, in the place of an earlier deadline."""
        self.deadline = self.site.reactor.seconds() + seconds
        self.overdue = overdue

    def close(self) -> None:
        """Close in good order, or by a reset if that takes too long."""
        # TLS goes on giving what the client sends, which must not count as a request any more.
        self._drained = self._drained or 0
        self.set_deadline(_CLOSE_TIMEOUT, self.abort)
        self.loseConnection()

    def abort(self) -> None:
        """Reset the connection: what was not sent yet is lost."""
        self.transport.abortConnection()

    def readConnectionLost(self) -> None:
        """Give the answers that are due: the client sends no more, but may still read."""
        if self.paused:
            self._ending = True
        elif self.requests and self.requests[0].startedWriting:
            self.persistent = False
        else:
            self.loseConnection()

    def writeConnectionLost(self) -> None:
        """Nothing is left to be sent after a refusal."""

    def dataReceived(self, data: bytes) -> None:
        """Take data from the client, or throw it away after a refusal."""
        if self._drained is None:
            self._answers = 0
            super().dataReceived(data)
            return
        self._drained += len(data)
        if self._drained > _MAX_DRAINED:
            self.abort()

    def lineReceived(self, line: bytes) -> None:
        """Take a line of a request, unless it came together with what was refused."""
        if self._drained is None:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Answer a request line, or a header, that is longer than any of ours."""
        self.refuse(
            b"431 Request Header Fields Too Large" if self.requests else b"414 URI Too Long"
        )

    def allContentReceived(self) -> None:
        """Answer the request, unless it was refused before it had arrived whole."""
        if self._drained is None:
            self.deadline = inf
            super().allContentReceived()

    def requestDone(self, request: Request) -> None:
        """
        Wait for the next request; with those that came with this one, wait until it is their turn.

        Whoever sends many requests at once would otherwise keep all others waiting, and fill the
        memory with answers that are not read.
        """
        self._answers += 1
        if self._drained is None:
            self.set_deadline(_REQUEST_TIMEOUT, self.close)
        if self.persistent and (self._behind or self._answers == _PIPELINED):
            self.paused = True
            super().requestDone(request)
            self.transport.pauseProducing()
            if not self._behind:
                self.site.reactor.callLater(0, self._go_on)
        else:
            super().requestDone(request)

    def pauseProducing(self) -> None:
        """Remember that the client takes no more for now."""
        self._behind = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """Go on: the client has taken what there was."""
        self._behind = False
        super().resumeProducing()
        self._go_on()

    def _go_on(self) -> None:
        """Turn to the requests that came with those that are answered."""
        if not self.paused or self._drained is not None:
            return
        if self._behind:
            # Another answer was given meanwhile, and is more than the client takes.
            self.transport.pauseProducing()
            return
        self.paused = False
        self.transport.resumeProducing()
        self.dataReceived(b"")
        if self._ending:
            self.readConnectionLost()

    def headerReceived(self, line: bytes) -> bool:
        """Take a line of the header, unless it tells of a body whose end nobody can be sure of."""
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        # Twisted ignores `identity`, and would take such a body for the next request (RFC 9112,
        # section 6.3). Python does not read numbers of thousands of digits.
        if (name == b"transfer-encoding" and value.lower() != b"chunked") or (
            name == b"content-length" and len(value) > 20
        ):
            self.refuse(b"400 Bad Request")
            return False
        received: bool = super().headerReceived(line)
        return received

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Whether the connection lasts beyond this request (RFC 9112, section 9.3)."""
        headers = request.requestHeaders.getRawHeaders(b"Connection", ())
        options = [option.strip().lower() for option in b",".join(headers).split(b",")]
        if version == b"HTTP/1.1" and b"close" not in options:
            return True
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return False

    def _respondToBadRequestAndDisconnect(self) -> None:
        # Twisted would close at once, which may reset the connection: see `refuse`.
        self.refuse(b"400 Bad Request")

    def refuse(self, status: bytes, headers: bytes = b"") -> None:
        """Answer a request that has not been received whole, and close."""
        if self._drained is not None:
            return
        self._drained = 0
        self.set_deadline(_DRAIN_TIMEOUT, self.abort)
        self.site.refused(int(status[:3]))
        # Otherwise the transport would ask for more before it closes.
        self.transport.unregisterProducer()
        self.transport.write(
            b"HTTP/1.1 %s\r\nDate: %s\r\n%sConnection: close\r\nContent-Length: 0\r\n\r\n"
            % (status, self.site.date(), headers)
        )
        if self._is_plain_tcp():
            # To close while input is unread would reset the connection, and lose the answer.
            self.transport.loseWriteConnection()
        else:
            self.loseConnection()

    def _is_plain_tcp(self) -> bool:
        return ITCPTransport.providedBy(self.transport) and not ISSLTransport.providedBy(
            self.transport
        )


class BoundedRequest(Request):
    """A request with a small body or none, which is answered with a `Reply`."""

    channel: BoundedChannel
    site: "BoundedSite"

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.site = self.channel.site
        #: When its first line came, by the reactor's clock (seconds).
        self.began = self.site.reactor.seconds()

    def gotLength(self, length: int | None) -> None:
        """Refuse an announced body before a byte of it is stored."""
        super().gotLength(min(length or 0, _MAX_REQUEST_BODY))
        if length is not None and length > _MAX_REQUEST_BODY:
            self._refuse_body()

    def handleContentChunk(self, data: bytes) -> None:
        """Store a piece of the body, up to the limit."""
        if self.content is None or self.content.tell() + len(data) > _MAX_REQUEST_BODY:
            self._refuse_body()
        else:
            super().handleContentChunk(data)

    def _refuse_body(self) -> None:
        # Twisted would answer it all the same.
        self.requestHeaders.removeHeader(b"Expect")
        self.channel.refuse(b"413 Content Too Large")

    def process(self) -> None:
        """Find the resource that the path names, and let it answer."""
        if not self.path.startswith(b"/"):
            # A URL, as a proxy is asked: its path follows the host (RFC 9112, 3.2.2).
            self.path = _ORIGIN.sub(b"/", self.path, count=1)
        if not self.path.startswith(b"/"):
            self.reply(_NO_PATH)
            return
        self.prepath = []
        self.postpath = [unquote_to_bytes(part) for part in self.path[1:].split(b"/")]
        try:
            self.render(self.site.getResourceFor(self))
        except Exception:
            self.processingFailed(Failure())

    def processingFailed(self, reason: Failure) -> Failure:
        """Log an error of ours, and answer 500; an answer that was begun is cut."""
        self._log.failure("{method} {uri} failed", reason, method=self.method, uri=self.uri)
        if not self.startedWriting:
            self.reply(_BROKEN)
        elif not self.finished:
            self.channel.abort()
        return reason

    def begin(self, code: int, head: bytes) -> bytes:
        """Begin an answer: returns its status and header, for the caller to write."""
        reason = RESPONSES.get(code, b"")
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
            reason,
            self.site.date(),
            more,
            head,
        )

    def reply(self, reply: Reply) -> int:
        """Answer; returns what `render` must return then. HEAD gets all but the body."""
        head = self.begin(reply.code, reply.head)
        body = b"" if self.method == b"HEAD" else reply.body
        if len(body) > _AT_ONCE:
            _Slices(self, body).start(head)
        else:
            self.sentLength = len(body)
            self.channel.write(head + body)
            self.finish()
        return NOT_DONE_YET

    def finish(self) -> None:
        """End the answer, and tell the site, which knows already of a client that has gone."""
        if not self._disconnected:
            self.site.ended(self, whole=True)
        super().finish()

    def connectionLost(self, reason: Failure) -> None:
        """Tell the site that this client has gone before its answer was whole."""
        if self.path is not None:
            self.site.ended(self, whole=False)
        super().connectionLost(reason)


@implementer(IPushProducer)
class _Slices:
    """Sends a long body: clients that read slowly share it, and have only a piece each."""

    def __init__(self, request: BoundedRequest, body: bytes) -> None:
        self._request = request
        self._body = body
        self._offset = 0
        self._paused = False

    def start(self, head: bytes) -> None:
        """Send the head of the answer, and go on while the transport takes it."""
        channel = self._request.channel
        channel.set_deadline(_ANSWER_TIMEOUT, channel.abort)
        self._request.registerProducer(self, True)
        channel.write(head)
        if not self._paused:
            self.resumeProducing()

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Send until the transport's buffer is full again."""
        self._paused = False
        channel = self._request.channel
        channel.set_deadline(_ANSWER_TIMEOUT, channel.abort)
        while self._offset < len(self._body) and not self._paused:
            end = self._offset + _AT_ONCE
            self._request.write(self._body[self._offset : end])
            self._offset = end
        if self._offset >= len(self._body):
            self._request.unregisterProducer()
            self._request.finish()

    def stopProducing(self) -> None:
        """The client is gone."""
