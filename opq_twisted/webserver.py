"""What the two HTTP servers have in common: listening, bounded requests, answers in plain text."""

from twisted.application import strports
from twisted.application.service import MultiService
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import ITCPTransport
from twisted.web import http
from twisted.web.http import NO_BODY_CODES, NOT_MODIFIED, HTTPChannel
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site
from zope.interface import implementer

from opq_twisted.errors import CannotStart

#: No request that either server understands has a body of more than a few bytes.
_MAX_REQUEST_BODY = 16 * 1024

#: Seconds that a connection may be idle, or may take to send its request.
_IDLE_TIMEOUT = 60

#: What a client whose request was refused may still send, and for how many seconds.
_MAX_DRAINED = 1024 * 1024
_DRAIN_TIMEOUT = 5


class BoundedChannel(HTTPChannel):
    """A connection that answers what is too large, and then listens no more."""

    _drained: int | None = None

    def dataReceived(self, data: bytes) -> None:
        """Take data from the client, or throw it away after a refusal."""
        if self._drained is None:
            super().dataReceived(data)
            return
        self._drained += len(data)
        if self._drained > _MAX_DRAINED:
            self.forceAbortClient()

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
            super().allContentReceived()

    def _respondToBadRequestAndDisconnect(self) -> None:
        # Twisted would close at once, which may reset the connection: see `refuse`.
        self.refuse(b"400 Bad Request")

    def refuse(self, status: bytes) -> None:
        """Answer a request that has not been received whole, and close."""
        if self._drained is not None:
            return
        self._drained = 0
        self.setTimeout(_DRAIN_TIMEOUT)
        assert self.transport is not None
        self.transport.write(
            b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        )
        if ITCPTransport.providedBy(self.transport):
            # To close while input is unread would reset the connection, and lose the answer.
            self.transport.loseWriteConnection()
        else:
            self.loseConnection()


class BoundedRequest(Request):
    """A request that is refused when its body is larger than anything we ask for."""

    channel: BoundedChannel

    def write(self, data: bytes) -> None:
        """Answer; a 304 does not claim that what it stands for is empty (RFC 9110, section 8.6)."""
        if self.code == NOT_MODIFIED:
            self.responseHeaders.removeHeader(b"Content-Length")
        super().write(data)

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


class QuietSite(Site):
    """A site that writes no line for each request: a box keeps its log on an SD card."""

    def log(self, request: http.Request) -> None:
        """Write nothing."""


class Listener(MultiService):
    """Listens for HTTP on a port, or ends the process with a sentence that says why it cannot."""

    def __init__(self, port: str, root: IResource, make_site: type[Site] = Site) -> None:
        """
        Prepare to listen.

        :param port: a TCP port number, or any endpoint description that Twisted knows.
        :raises CannotStart: when it is neither.
        """
        super().__init__()
        self._port = port
        site = make_site(root, requestFactory=BoundedRequest, timeout=_IDLE_TIMEOUT)
        site.protocol = BoundedChannel  # type: ignore[method-assign,assignment]
        description = f"tcp:{port}" if port.isdecimal() else port
        try:
            strports.service(description, site).setServiceParent(self)
        except (ValueError, TypeError, IndexError, OSError) as error:
            raise CannotStart(
                f"--port {port}: {error}. Give a TCP port number, or a Twisted endpoint "
                r"description such as tcp6:8151:interface=\:\:."
            ) from None

    def privilegedStartService(self) -> None:
        """
        Bind the port.

        :raises CannotStart: when the port is busy or may not be used.
        """
        try:
            super().privilegedStartService()
        except (CannotListenError, OverflowError, OSError) as error:
            reason = str(getattr(error, "socketError", error)).rstrip(".")
            raise CannotStart(
                f"Cannot listen on port {self._port}: {reason}. "
                "Stop what listens there, or choose another --port."
            ) from None


def answer(
    request: Request, code: int, body: bytes, content_type: bytes = b"text/plain; charset=utf-8"
) -> bytes:
    """
    Set an answer's status and headers, and return what `render` must return.

    HEAD gets the headers of GET, the length included, and no body (RFC 9110, section 9.3.2).
    """
    request.setResponseCode(code)
    if code not in NO_BODY_CODES:
        request.setHeader(b"Content-Type", content_type)
        request.setHeader(b"X-Content-Type-Options", b"nosniff")
        request.setHeader(b"Content-Length", b"%d" % len(body))
    return b"" if request.method == b"HEAD" else body


def sentence(request: Request, code: int, text: str) -> bytes:
    """Answer with one line of text."""
    return answer(request, code, text.encode() + b"\n")


@implementer(IResource)
class NotFound(Resource):
    """404, as one line of text."""

    isLeaf = True

    def render(self, request: Request) -> bytes:
        """Answer any method."""
        return sentence(request, 404, "There is nothing here.")


class PlainResource(Resource):
    """A resource that answers with plain text where twisted.web would answer with its own HTML."""

    def getChild(self, path: bytes, request: Request) -> IResource:
        """Whatever is not there is not found."""
        return NotFound()

    def render(self, request: Request) -> bytes | int:
        """Call `render_METHOD`, or answer 405 with `Allow` (RFC 9110, section 15.5.6)."""
        method = "GET" if request.method == b"HEAD" else request.method.decode("charmap")
        render = getattr(self, f"render_{method}", None)
        if render is None:
            allowed = ", ".join(sorted(self._methods()))
            if not allowed:
                return NotFound().render(request)
            request.setHeader(b"Allow", allowed.encode())
            return sentence(request, 405, f"Only {allowed} can be asked for here.")
        result: bytes | int = render(request)
        return result

    def _methods(self) -> set[str]:
        methods = {name.removeprefix("render_") for name in dir(self) if name.startswith("render_")}
        return methods | {"HEAD"} if "GET" in methods else methods - {"HEAD"}
