"""Resources for a server under test."""

from twisted.web.server import NOT_DONE_YET

from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource


class Hello(PlainResource):
    """Responds with the length of the request's body."""

    isLeaf = True

    def render_GET(self, request: BoundedRequest) -> Reply:
        """Respond."""
        return Reply.sentence(200, "Hello.")

    def render_POST(self, request: BoundedRequest) -> Reply:
        """Respond."""
        assert request.content is not None
        return Reply.of(200, b"%d" % len(request.content.read()))


def hello() -> PlainResource:
    root = PlainResource()
    root.putChild(b"hello", Hello())
    return root


class Waits(PlainResource):
    """Keeps its requests; the test responds to them."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[BoundedRequest] = []

    def render_GET(self, request: BoundedRequest) -> int:
        """Keep the request."""
        self.requests.append(request)
        return NOT_DONE_YET


class Breaks(PlainResource):
    """Fails before it has a reply."""

    isLeaf = True

    def render_GET(self, request: BoundedRequest) -> Reply:
        """Fail."""
        raise ZeroDivisionError
