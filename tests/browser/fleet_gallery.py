"""Serves the page of the fleet in each of its states."""

from collections.abc import Mapping
from pathlib import Path

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.static import Data

from opq_twisted.fleet.web.views import render
from opq_twisted.fleet.web.views.assets import ASSETS, CONTENT_SECURITY_POLICY
from opq_twisted.fleet.web.views.viewer import Viewer
from opq_twisted.http.request import BoundedRequest
from tests.browser.serving import listen, serve_all
from tests.helpers import fleet_contents as contents

_ANNA = Viewer(name="anna", is_operator=True)
_BEN = Viewer(name="ben", is_operator=False)

STATES: Mapping[str, bytes] = {
    **{name: render.overview(each, _ANNA) for name, each in contents.OVERVIEWS.items()},
    "viewer": render.overview(contents.overview(), _BEN),
    "away": render.overview(
        contents.overview(problem="The database of the fleet cannot be used: the disk is full."),
        _ANNA,
        "Release 1795262403 in the channel stable is held.",
    ),
    "boxes": render.boxes(contents.boxes(), _ANNA),
    "box": render.box(contents.box(), _ANNA),
    "new-box": render.box(contents.new_box(), _ANNA),
    "release": render.release(contents.release(), _ANNA),
    "audit": render.audit(contents.audit(), _ANNA),
    "form": render.form(contents.form(), _ANNA),
    "problem": render.problem(401, "Ask the operator for a name and a password.", None, 0),
}


class _Page(Resource):
    """A page, below which are its files and an event stream."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self._page = page
        for name, asset in ASSETS.items():
            self.putChild(name.encode(), Data(asset.content, asset.media_type.decode()))
        self.putChild(b"events", _Events())

    def render_GET(self, request: BoundedRequest) -> bytes:
        """Send the page."""
        request.setHeader(b"Content-Type", b"text/html; charset=utf-8")
        request.setHeader(b"Content-Security-Policy", CONTENT_SECURITY_POLICY)
        return self._page


class _Events(Resource):
    """An event stream in which nothing happens."""

    def render_GET(self, request: BoundedRequest) -> int:
        """Send an event without any part, and leave the stream open."""
        request.notifyFinish().addErrback(lambda _: None)
        request.setHeader(b"Content-Type", b"text/event-stream")
        request.write(b"event: parts\ndata: {}\n\n")
        return NOT_DONE_YET


def serve(state: str, _folder: Path) -> int:
    """Serve one state on a loopback port, and return the port."""
    root = Resource()
    root.putChild(b"fleet", _Page(STATES[state]))
    return listen(root)


if __name__ == "__main__":
    serve_all(STATES, serve)
