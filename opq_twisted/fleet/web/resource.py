"""The base of the page's resources: it authenticates, and shows errors as pages or as JSON."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.web.http import INTERNAL_SERVER_ERROR, SERVICE_UNAVAILABLE, UNAUTHORIZED
from twisted.web.resource import IResource

from opq_twisted.common.errors import OpqError
from opq_twisted.fleet.control.answers import code_of
from opq_twisted.fleet.web.answers import answer
from opq_twisted.fleet.web.operators import Operator, Role
from opq_twisted.fleet.web.views import render
from opq_twisted.fleet.web.views.viewer import Viewer
from opq_twisted.http.answer_later import answer_later
from opq_twisted.http.guards.password_queue import TooManyAttempts
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource

_CHALLENGE = {b"WWW-Authenticate": b'Basic realm="OPQ fleet", charset="UTF-8"'}
_RETRY = {b"Retry-After": b"10"}

#: Makes the answer for an authenticated viewer.
Show = Callable[[BoundedRequest, Viewer], Coroutine[Deferred[Any], Any, Reply | int]]


@frozen
class Guard:
    """The functions that all resources of the page need."""

    #: Authenticates the sender of a request; raises `TooManyAttempts`.
    identify: Callable[[BoundedRequest], Coroutine[Deferred[Any], Any, Operator | None]]
    #: Gives seconds since the epoch.
    now: Callable[[], float]
    #: Returns the network of the sender, for limits; None if no limit applies.
    client: Callable[[BoundedRequest], str | None]

    def problem(
        self,
        request: BoundedRequest,
        code: int,
        sentence: str,
        viewer: Viewer | None = None,
        headers: Mapping[bytes, bytes] | None = None,
    ) -> Reply:
        """Answer with a sentence."""
        return answer(
            request,
            code,
            {"error": sentence},
            lambda: render.problem(code, sentence, viewer, self.now()),
            headers,
        )


class PageResource(PlainResource):
    """A resource without methods, whose errors are in the form that the client prefers."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self.guard = guard

    def getChild(self, path: bytes, request: BoundedRequest) -> IResource:
        """Answer 404 for any other path."""
        missing = PageResource(self.guard)
        missing.isLeaf = True
        return missing

    def refuse(
        self,
        request: BoundedRequest,
        code: int,
        sentence: str,
        headers: Mapping[bytes, bytes] | None = None,
    ) -> Reply:
        """Make the reply to a request with an unknown path or method."""
        return self.guard.problem(request, code, sentence, headers=headers)

    def serve(self, request: BoundedRequest, show: Show) -> int:
        """Answer with the result of `show` if the client is an operator or a viewer."""
        sentence = "Something went wrong in the server; its log says what."
        broken = self.guard.problem(request, INTERNAL_SERVER_ERROR, sentence)
        return answer_later(request, self._let_in(request, show), broken)

    async def _let_in(self, request: BoundedRequest, show: Show) -> Reply | int:
        try:
            operator = await self.guard.identify(request)
        except TooManyAttempts:
            sentence = "Somebody tries many passwords. Try again in a little while."
            return self.guard.problem(request, SERVICE_UNAVAILABLE, sentence, headers=_RETRY)
        if operator is None:
            sentence = (
                "This page is for the operators of the fleet. Give the name and the password of "
                "opq-fleet add-operator."
            )
            return self.guard.problem(request, UNAUTHORIZED, sentence, headers=_CHALLENGE)
        viewer = Viewer(name=operator.name, is_operator=operator.role is Role.OPERATOR)
        try:
            return await show(request, viewer)
        except OpqError as error:
            return self.guard.problem(request, code_of(error), str(error), viewer)
