"""Answers requests of `opq-fleet` in JSON, when the database has answered."""

import json
from collections.abc import Coroutine, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.web.http import (
    BAD_REQUEST,
    CONFLICT,
    INTERNAL_SERVER_ERROR,
    NOT_FOUND,
    OK,
    SERVICE_UNAVAILABLE,
)

from opq_twisted.common.errors import OpqError
from opq_twisted.fleet.audit import AuditNoteInvalid
from opq_twisted.fleet.keys.admission import NotAdmitted
from opq_twisted.fleet.keys.removal import BoxUnknown
from opq_twisted.fleet.rollouts.orders import RolloutUnknown
from opq_twisted.fleet.store.errors import StoreUnavailable
from opq_twisted.http.answer_later import answer_later
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest

#: The content of an answer, as JSON.
Content = Mapping[str, Any]


class RequestInvalid(OpqError):
    """A request has a missing or a wrong field."""


#: The status of each error; for others of an operator it is 409.
_CODES: Mapping[type[OpqError], int] = {
    RequestInvalid: BAD_REQUEST,
    AuditNoteInvalid: BAD_REQUEST,
    BoxUnknown: NOT_FOUND,
    RolloutUnknown: NOT_FOUND,
    StoreUnavailable: SERVICE_UNAVAILABLE,
}


def answer_in_json(request: BoundedRequest, answer: Coroutine[Deferred[Any], Any, Content]) -> int:
    """Answer with the result of a coroutine or its error, unless the client disconnects."""
    sentence = "Something went wrong in the server; its log says what."
    broken = as_json(INTERNAL_SERVER_ERROR, {"error": sentence})
    return answer_later(request, _reply(answer), broken)


def code_of(error: OpqError) -> int:
    """Return the status for an error."""
    return _CODES.get(type(error), CONFLICT)


def as_json(code: int, content: Content) -> Reply:
    """Make a reply in JSON."""
    return Reply.of(code, json.dumps(content).encode() + b"\n", b"application/json")


async def _reply(answer: Coroutine[Deferred[Any], Any, Content]) -> Reply:
    try:
        return as_json(OK, await answer)
    except OpqError as error:
        mistakes = {"mistakes": error.mistakes} if isinstance(error, NotAdmitted) else {}
        return as_json(code_of(error), {"error": str(error), **mistakes})
