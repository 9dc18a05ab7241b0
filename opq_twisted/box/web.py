"""The box's own HTTP server: its page, Update Box, and the status for programs."""

import json
from collections.abc import Coroutine
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from attrs import asdict
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http import (
    ACCEPTED,
    BAD_GATEWAY,
    CONFLICT,
    FORBIDDEN,
    INTERNAL_SERVER_ERROR,
    OK,
    SEE_OTHER,
)
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET

from opq_twisted.box.guard import Guard
from opq_twisted.box.journal import Stage
from opq_twisted.box.status import StatusBoard
from opq_twisted.box.updater import Updater
from opq_twisted.errors import OpqError, UpdateInProgress
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource

_PAGE = Path(__file__).with_name("page")

_PAGE_HEADERS = {
    b"Content-Security-Policy": b"default-src 'none'; script-src 'self'; style-src 'self'; "
    b"connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    b"Referrer-Policy": b"same-origin",
}

#: Seconds that an answer to a click waits for the update server; the journey goes on without it.
_PATIENCE = 2.0


def tree(clock: IReactorTime, updater: Updater, board: StatusBoard, guard: Guard) -> IResource:
    """Put the agent's resources together."""
    root = GuardedRoot(guard)
    root.putChild(b"", Page(board))
    root.putChild(b"page.css", PageFile("page.css", b"text/css; charset=utf-8"))
    root.putChild(b"page.js", PageFile("page.js", b"text/javascript; charset=utf-8"))
    root.putChild(b"version", Version(board))
    root.putChild(b"status", StatusResource(board))
    root.putChild(b"check", Check(updater, board, guard))
    root.putChild(b"box_update", BoxUpdate(clock, updater, board, guard))
    return root


class GuardedRoot(PlainResource):
    """Gives nothing to a request for a host that is not this box."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    def getChildWithDefault(self, path: bytes, request: BoundedRequest) -> IResource:
        """Find a resource, for a request that is for this box."""
        reason = self._guard.foreign_host(request)
        return Forbidden(reason) if reason else super().getChildWithDefault(path, request)


class Forbidden(PlainResource):
    """403, and why."""

    isLeaf = True

    def __init__(self, reason: str) -> None:
        super().__init__()
        self._reason = reason

    def render(self, request: BoundedRequest) -> int:
        """Answer any method."""
        return request.reply(Reply.sentence(FORBIDDEN, self._reason))


class Page(PlainResource):
    """`/`: the page of the box, complete without its script, which then keeps it up to date."""

    def __init__(self, board: StatusBoard) -> None:
        super().__init__()
        self._board = board
        self._template = Template((_PAGE / "index.html").read_text(encoding="utf-8"))

    def render_GET(self, request: BoundedRequest) -> Reply:
        """Show the box."""
        status = self._board.current
        body = self._template.substitute(
            installed=escape(str(status.installed or "unknown")),
            available=escape(str(status.available or "unknown")),
            stage=escape(status.stage),
            message=escape(status.message),
            unsigned="" if status.unsigned else "hidden",
            busy="" if status.stage.at_rest else "disabled",
        )
        return Reply.of(OK, body.encode(), b"text/html; charset=utf-8", _PAGE_HEADERS)


class PageFile(PlainResource):
    """One of the page's own files."""

    def __init__(self, name: str, content_type: bytes) -> None:
        super().__init__()
        self._content = (_PAGE / name).read_bytes()
        self._content_type = content_type

    def render_GET(self, request: BoundedRequest) -> Reply:
        """Send the file."""
        return Reply.of(OK, self._content, self._content_type)


class Version(PlainResource):
    """`/version`: what is installed."""

    def __init__(self, board: StatusBoard) -> None:
        super().__init__()
        self._board = board

    def render_GET(self, request: BoundedRequest) -> Reply:
        """Say what is installed; null when nothing is known."""
        return _json(OK, {"version": self._board.current.installed})


class StatusResource(PlainResource):
    """`/status`: all there is to know."""

    def __init__(self, board: StatusBoard) -> None:
        super().__init__()
        self._board = board

    def render_GET(self, request: BoundedRequest) -> Reply:
        """Say how the box is."""
        return _json(OK, asdict(self._board.current))


class Action(PlainResource):
    """Something that a request makes the box do, if its owner meant it."""

    _log = Logger()

    def __init__(self, updater: Updater, board: StatusBoard, guard: Guard) -> None:
        super().__init__()
        self._updater = updater
        self._board = board
        self._guard = guard

    async def act(self, request: BoundedRequest) -> Reply:
        """Do it, and return the answer."""
        raise NotImplementedError

    def render_POST(self, request: BoundedRequest) -> Reply | int:
        """Do it, unless another page asked."""
        reason = self._guard.not_meant(request)
        if reason is not None:
            return Reply.sentence(FORBIDDEN, reason)
        _answer_later(request, self.act(request))
        return NOT_DONE_YET


class Check(Action):
    """`/check`: asks the update server now."""

    async def act(self, request: BoundedRequest) -> Reply:
        """Answer with what is available."""
        try:
            available = await self._updater.look()
        except OpqError as error:
            return _json(BAD_GATEWAY, {"status": str(error)})
        except OSError:
            return _json(BAD_GATEWAY, {"status": self._board.current.message})
        status = self._board.current
        return _json(
            OK,
            {"installed": status.installed, "available": available, "status": status.message},
        )


class BoxUpdate(Action):
    """`/box_update`: the Update Box button, by GET (as the older interface has it) and by POST."""

    def __init__(
        self, clock: IReactorTime, updater: Updater, board: StatusBoard, guard: Guard
    ) -> None:
        super().__init__(updater, board, guard)
        self._clock = clock

    def render_GET(self, request: BoundedRequest) -> Reply | int:
        """Begin an update; HEAD begins nothing."""
        if request.method == b"HEAD":
            return Reply.of(OK, b"", b"application/json")
        return self.render_POST(request)

    async def act(self, request: BoundedRequest) -> Reply:
        """Begin an update: 202, 409 when one is under way, 200 when there is nothing to do."""
        try:
            self._updater.begin()
        except UpdateInProgress as error:
            return self._answer(request, CONFLICT, str(error))
        asked = self._board.wait_for(lambda status: status.stage is not Stage.CHECKING)
        try:
            status = await asked.addTimeout(_PATIENCE, self._clock)
        except TimeoutError:
            return self._answer(request, ACCEPTED, "The update server is being asked.")
        if status.stage is Stage.IDLE:
            return self._answer(request, OK, status.message)
        if status.stage is Stage.FAILED:
            return self._answer(request, ACCEPTED, f"The update failed: {status.message}")
        return self._answer(request, ACCEPTED, f"The update to {status.available} has begun.")

    def _answer(self, request: BoundedRequest, code: int, text: str) -> Reply:
        if request.method == b"POST" and b"text/html" in (request.getHeader(b"Accept") or b""):
            # The button without the page's script: show the page again.
            return Reply.sentence(SEE_OTHER, text, {b"Location": b"./"})
        return _json(code, {"status": text, "stage": self._board.current.stage})


def _json(code: int, content: dict[str, Any]) -> Reply:
    return Reply.of(code, json.dumps(content).encode() + b"\n", b"application/json")


def _answer_later(request: BoundedRequest, replying: Coroutine[Deferred[Any], Any, Reply]) -> None:
    """Finish the request with what a coroutine returns, unless its client has gone."""
    gone = request.notifyFinish()

    async def finish() -> None:
        try:
            reply = await replying
        except Exception:
            Action._log.failure("{uri} failed", uri=request.uri)
            reply = Reply.sentence(INTERNAL_SERVER_ERROR, "The agent failed; see its log.")
        if not gone.called:
            request.reply(reply)

    gone.addErrback(lambda _: None)
    Deferred.fromCoroutine(finish())
