"""The actions of the box's owner: check for an update, start one, unblock a release."""

import json
from typing import Any
from urllib.parse import parse_qs

from twisted.internet.defer import TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.web.http import (
    ACCEPTED,
    BAD_GATEWAY,
    BAD_REQUEST,
    CONFLICT,
    FORBIDDEN,
    INTERNAL_SERVER_ERROR,
    NOT_FOUND,
    OK,
    SEE_OTHER,
    SERVICE_UNAVAILABLE,
    UNAUTHORIZED,
)

from opq_twisted.archive.name import parse_version
from opq_twisted.box.state.stages import Stage
from opq_twisted.box.state.status import StatusBoard
from opq_twisted.box.update.updater import Updater
from opq_twisted.box.web.auth import BasicAuth
from opq_twisted.box.web.csrf import CsrfCheck
from opq_twisted.common.errors import InvalidName, OpqError, UpdateInProgress
from opq_twisted.http.answer_later import answer_later
from opq_twisted.http.guards.password_queue import TooManyAttempts
from opq_twisted.http.negotiation import preferred
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource

#: Seconds that a response to a click waits for the update server; the update goes on without it.
_MAX_WAIT = 2.0

#: The media types of a response: for programs, and for browsers.
_MEDIA_TYPES = (b"application/json", b"text/html")

_UNAUTHORIZED = Reply.sentence(
    UNAUTHORIZED,
    "This box asks for its password.",
    {b"WWW-Authenticate": b'Basic realm="OPQ Box", charset="UTF-8"'},
)

_TOO_MANY_ATTEMPTS = Reply.sentence(
    SERVICE_UNAVAILABLE,
    "Somebody tries many passwords. Try again in a little while.",
    {b"Retry-After": b"10"},
)


_BROKEN = Reply.sentence(INTERNAL_SERVER_ERROR, "The agent failed; see its log.")


class Action(PlainResource):
    """An action of the owner: checks for CSRF and for the password, then does `act`."""

    isLeaf = True

    def __init__(
        self,
        updater: Updater,
        board: StatusBoard,
        csrf_check: CsrfCheck,
        basic_auth: BasicAuth | None,
    ) -> None:
        """:param basic_auth: checks the password; None if the box has none."""
        super().__init__()
        self._updater = updater
        self._board = board
        self._csrf_check = csrf_check
        self._basic_auth = basic_auth

    async def act(self, request: BoundedRequest) -> Reply:
        """Do the action, and return the response."""
        raise NotImplementedError

    def render_POST(self, request: BoundedRequest) -> Reply | int:
        """Do the action; 403 for a forged request, 401 without the right password."""
        error = self._csrf_check.error(request)
        if error is not None:
            return Reply.sentence(FORBIDDEN, error)
        return answer_later(request, self._authenticate_and_act(request), _BROKEN)

    async def _authenticate_and_act(self, request: BoundedRequest) -> Reply:
        authorization = request.getHeader(b"Authorization")
        client = getattr(request.channel.getPeer(), "host", None), request.channel.client
        auth = self._basic_auth
        try:
            if auth and not await auth.check(authorization, client):
                return _UNAUTHORIZED
        except TooManyAttempts:
            return _TOO_MANY_ATTEMPTS
        return await self.act(request)

    def answer(self, request: BoundedRequest, code: int, text: str, **more: Any) -> Reply:
        """Answer a program in JSON, and redirect a browser without JavaScript to the page."""
        if request.method == b"POST" and preferred(request, _MEDIA_TYPES) == b"text/html":
            return Reply.sentence(SEE_OTHER, text, {b"Location": b"./"})
        return as_json(code, {"status": text, **more})


class Check(Action):
    """`/check`: checks for an update now."""

    async def act(self, request: BoundedRequest) -> Reply:
        """Check, and answer with the available release."""
        try:
            available = await self._updater.check()
        except OpqError as error:
            return self.answer(request, BAD_GATEWAY, str(error))
        except OSError:
            return self.answer(request, BAD_GATEWAY, self._board.current.message)
        status = self._board.current
        return self.answer(
            request, OK, status.message, installed=status.installed, available=available
        )


class BoxUpdate(Action):
    """`/box_update`: the Update Box button, by POST, and by GET for the older interface."""

    def __init__(self, clock: IReactorTime, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._clock = clock

    def render_GET(self, request: BoundedRequest) -> Reply | int:
        """Start an update; HEAD starts nothing."""
        if request.method == b"HEAD":
            return Reply.of(OK, b"", b"application/json")
        return self.render_POST(request)

    async def act(self, request: BoundedRequest) -> Reply:
        """Start an update: 202; 409 if one is under way, 200 if there is nothing to do."""
        before = self._board.current
        try:
            self._updater.begin()
        except UpdateInProgress as error:
            return self._answer(request, CONFLICT, str(error))
        # If the disk fails, the stage may stay as it is until the failure is published.
        asked = self._board.wait_for(
            lambda status: status is not before and status.stage is not Stage.CHECKING
        )
        try:
            status = await asked.addTimeout(_MAX_WAIT, self._clock)
        except TimeoutError:
            return self._answer(request, ACCEPTED, "The update server is being asked.")
        if status.stage is Stage.IDLE:
            return self._answer(request, OK, status.message)
        if status.stage is Stage.FAILED:
            return self._answer(request, ACCEPTED, f"The update failed: {status.message}")
        return self._answer(request, ACCEPTED, f"The update to {status.available} has begun.")

    def _answer(self, request: BoundedRequest, code: int, text: str) -> Reply:
        return self.answer(request, code, text, stage=self._board.current.stage)


class Unblock(Action):
    """`/forgive`: lets the box install a blocked release automatically again."""

    async def act(self, request: BoundedRequest) -> Reply:
        """Unblock the release in the form field `release`."""
        try:
            version = parse_version(_field(request, "release"))
        except InvalidName:
            return self.answer(
                request, BAD_REQUEST, "Name the release in the form field: release=VERSION."
            )
        if not self._updater.unblock(version):
            return self.answer(request, NOT_FOUND, f"Release {version} is not blocked.")
        return self.answer(request, OK, f"Release {version} may be tried again.")


def as_json(code: int, content: dict[str, Any]) -> Reply:
    """Make a response in JSON."""
    return Reply.of(code, json.dumps(content).encode() + b"\n", b"application/json")


def _field(request: BoundedRequest, name: str) -> str:
    body: bytes = request.content.read() if request.content else b""
    try:
        # From bytes it would make ASCII only.
        fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=10)
    except ValueError:
        return ""
    return fields.get(name, [""])[0]
