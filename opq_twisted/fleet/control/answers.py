"""Answers requests of `opq-fleet` in JSON, when the database has answered."""

import json
from collections.abc import Coroutine, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.http import (
    BAD_REQUEST,
    CONFLICT,
    INTERNAL_SERVER_ERROR,
    NOT_FOUND,
    OK,
    SERVICE_UNAVAILABLE,
)
from twisted.web.server import NOT_DONE_YET

from opq_twisted.common.errors import OpqError
from opq_twisted.fleet.audit import AuditNoteInvalid
from opq_twisted.fleet.keys.admission import NotAdmitted
from opq_twisted.fleet.keys.removal import BoxUnknown
from opq_twisted.fleet.rollouts.orders import RolloutUnknown
from opq_twisted.fleet.store.errors import StoreUnavailable
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest

_log = Logger()


class RequestInvalid(OpqError):
    """A request is not one that `opq-fleet` sends."""


#: The status of each error; for others of an operator it is 409.
_CODES: Mapping[type[OpqError], int] = {
    RequestInvalid: BAD_REQUEST,
    AuditNoteInvalid: BAD_REQUEST,
    BoxUnknown: NOT_FOUND,
    RolloutUnknown: NOT_FOUND,
    StoreUnavailable: SERVICE_UNAVAILABLE,
}


def answer_later(
    request: BoundedRequest, answer: Coroutine[Deferred[Any], Any, Mapping[str, Any]]
) -> int:
    """Answer with what a coroutine returns, or with its error, unless the client goes away."""
    gone = request.notifyFinish()
    gone.addErrback(lambda _: None)

    async def finish() -> None:
        reply = await _reply(answer)
        if not gone.called:
            request.reply(reply)

    Deferred.fromCoroutine(finish()).addErrback(
        lambda failure: _log.failure("{uri} failed", failure, uri=request.uri)
    )
    return NOT_DONE_YET


def as_json(code: int, content: Mapping[str, Any]) -> Reply:
    """Make a reply in JSON."""
    return Reply.of(code, json.dumps(content).encode() + b"\n", b"application/json")


async def _reply(answer: Coroutine[Deferred[Any], Any, Mapping[str, Any]]) -> Reply:
    try:
        return as_json(OK, await answer)
    except OpqError as error:
        code = _CODES.get(type(error), CONFLICT)
        mistakes = {"mistakes": error.mistakes} if isinstance(error, NotAdmitted) else {}
        return as_json(code, {"error": str(error), **mistakes})
    except Exception:
        _log.failure("a request of opq-fleet failed")
        sentence = "Something went wrong in the server; its log says what."
        return as_json(INTERNAL_SERVER_ERROR, {"error": sentence})
