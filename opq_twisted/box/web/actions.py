"""What a request can make the box do, if its owner meant it."""

import json
from collections.abc import Coroutine
from typing import Any
from urllib.parse import parse_qs

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
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
from twisted.web.server import NOT_DONE_YET

from opq_twisted.archive.name import parse_version
from opq_twisted.box.state.journal import Stage
from opq_twisted.box.state.status import StatusBoard
from opq_twisted.box.update.updater import Updater
from opq_twisted.box.web.auth import Gate
from opq_twisted.box.web.csrf import Guard
from opq_twisted.box.web.turns import Source, TooManyGuesses
from opq_twisted.common.errors import InvalidName, OpqError, UpdateInProgress
from opq_twisted.http.negotiation import preferred
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource

#: Seconds that an answer to a click waits for the update server; the journey goes on without it.
_PATIENCE = 2.0

#: The forms of an answer: a program's, and a browser's.
_FORMS = (b"application/json", b"text/html")

_NOT_ADMITTED = Reply.sentence(
    UNAUTHORIZED,
    "This box asks for its password.",
    {b"WWW-Authenticate": b'Basic realm="OPQ Box", charset="UTF-8"'},
)

_TOO_MANY_GUESSES = Reply.sentence(
    SERVICE_UNAVAILABLE,
    "Somebody tries many passwords. Try again in a little while.",
    {b"Retry-After": b"10"},
)


class Action(PlainResource):
    """Something that a request makes the box do."""

    isLeaf = True

    _log = Logger()

    def __init__(
        self, updater: Updater, board: StatusBoard, guard: Guard, gate: Gate | None
    ) -> None:
        """:param gate: asks for the password; None when there is none."""
        super().__init__()
        self._updater = updater
        self._board = board
        self._guard = guard
        self._gate = gate

    async def act(self, request: BoundedRequest) -> Reply:
        """Do it, and return the answer."""
        raise NotImplementedError

    def render_POST(self, request: BoundedRequest) -> Reply | int:
        """Do it, unless another page asked, or somebody who does not know the password."""
        reason = self._guard.not_meant(request)
        if reason is not None:
            return Reply.sentence(FORBIDDEN, reason)
        _answer_later(request, self._act_if_admitted(request))
        return NOT_DONE_YET

    async def _act_if_admitted(self, request: BoundedRequest) -> Reply:
        authorization = request.getHeader(b"Authorization")
        try:
            if self._gate and not await self._gate.admits(authorization, _source(request)):
                return _NOT_ADMITTED
        except TooManyGuesses:
            return _TOO_MANY_GUESSES
        return await self.act(request)

    def answer(self, request: BoundedRequest, code: int, text: str, **more: Any) -> Reply:
        """Answer a program in JSON, and show a browser without the page's script the page again."""
        if request.method == b"POST" and preferred(request, _FORMS) == b"text/html":
            return Reply.sentence(SEE_OTHER, text, {b"Location": b"./"})
        return as_json(code, {"status": text, **more})


class Check(Action):
    """`/check`: asks the update server now."""

    async def act(self, request: BoundedRequest) -> Reply:
        """Answer with what is available."""
        try:
            available = await self._updater.look()
        except OpqError as error:
            return self.answer(request, BAD_GATEWAY, str(error))
        except OSError:
            return self.answer(request, BAD_GATEWAY, self._board.current.message)
        status = self._board.current
        return self.answer(
            request, OK, status.message, installed=status.installed, available=available
        )


class BoxUpdate(Action):
    """`/box_update`: the Update Box button, by GET (as the older interface has it) and by POST."""

    def __init__(self, clock: IReactorTime, *arguments: Any) -> None:
        super().__init__(*arguments)
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
        return self.answer(request, code, text, stage=self._board.current.stage)


class Forgive(Action):
    """`/forgive`: lets a release that was refused be tried again by itself."""

    async def act(self, request: BoundedRequest) -> Reply:
        """Forget the refusal of `release`, a field of the form."""
        try:
            version = parse_version(_field(request, b"release"))
        except InvalidName:
            return self.answer(
                request, BAD_REQUEST, "Say which release: release=VERSION, as a field of a form."
            )
        if not self._updater.forgive(version):
            return self.answer(request, NOT_FOUND, f"Release {version} is not refused.")
        return self.answer(request, OK, f"Release {version} may be tried again.")


def _source(request: BoundedRequest) -> Source:
    """Give the address of a client, and its network where that is another thing."""
    channel = request.channel
    return tuple(dict.fromkeys((getattr(channel.getPeer(), "host", None), channel.client)))


def as_json(code: int, content: dict[str, Any]) -> Reply:
    """Answer a program."""
    return Reply.of(code, json.dumps(content).encode() + b"\n", b"application/json")


def _field(request: BoundedRequest, name: bytes) -> str:
    body: bytes = request.content.read() if request.content else b""
    try:
        fields = parse_qs(body, max_num_fields=10)
    except ValueError:
        return ""
    return fields.get(name, [b""])[0].decode("ascii", "replace")


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
