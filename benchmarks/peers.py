"""Minimal servers to compare with: `python -m benchmarks.peers NAME PORT`."""

import os
import sys
from functools import partial
from http.server import (
    BaseHTTPRequestHandler,
    HTTPServer,
    SimpleHTTPRequestHandler,
    ThreadingHTTPServer,
)
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IReactorTCP
from twisted.internet.task import react
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from opq_twisted.archive.name import UpdateName


class Constant(Resource):
    """Always responds with the same bytes."""

    isLeaf = True

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self._body = body

    def render_GET(self, request: Request) -> bytes:
        """Respond."""
        return self._body


class Constants(Resource):
    """Responds with the files of its folder, which are read at the start."""

    def __init__(self) -> None:
        super().__init__()
        for path in Path.cwd().iterdir():
            self.putChild(path.name.encode(), Constant(path.read_bytes()))


class Held(Resource):
    """Makes each GET wait for the next POST, whose body is the response."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self._waiting: set[Request] = set()

    def render_GET(self, request: Request) -> int:
        """Wait."""
        self._waiting.add(request)
        request.notifyFinish().addErrback(lambda _: self._waiting.discard(request))
        return NOT_DONE_YET

    def render_POST(self, request: Request) -> bytes:
        """Finish all requests."""
        assert request.content is not None
        body = request.content.read()
        waiting, self._waiting = self._waiting, set()
        for each in waiting:
            each.setHeader(b"Content-Length", b"%d" % len(body))
            each.write(body)
            each.finish()
        return b""


class Quiet(SimpleHTTPRequestHandler):
    """Serves the folder's files without a log."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing."""


class Lists(BaseHTTPRequestHandler):
    """Responds to `/version` like the older server: it sorts the directory for each request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Respond with the newest version."""
        body = str(UpdateName.parse(sorted(os.listdir())[-1]).version).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing."""


class Threads(ThreadingHTTPServer):
    """`http.server`, with a longer queue for clients that connect at once."""

    request_queue_size = 128


def serve(reactor: IReactorTCP, root: Resource, port: int) -> Deferred[None]:
    """Serve until a signal ends the process."""
    endpoint = TCP4ServerEndpoint(reactor, port, 4096, "127.0.0.1")
    ended: Deferred[None] = Deferred()
    endpoint.listen(Site(root)).addErrback(ended.errback)
    return ended


def main(name: str, port: int) -> None:
    if name == "lists":
        HTTPServer(("127.0.0.1", port), Lists).serve_forever()
    if name == "http.server":
        Threads(("127.0.0.1", port), partial(Quiet, directory=".")).serve_forever()
    react(serve, ({"twisted.web": Constants, "held": Held}[name](), port))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
