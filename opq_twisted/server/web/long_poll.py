"""Boxes that wait until what they can act on changes, each with one request."""

import re
from collections.abc import Callable
from functools import partial

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http import NOT_MODIFIED

from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest

#: Seconds that a box may wait at most.
LONGEST = 300

#: Requests answered before the reactor turns to others.
_TURN = 100

_WAIT = re.compile(rb"wait[ \t]*=[ \t]*(?:(\d+)|\"(\d+)\")", re.ASCII | re.IGNORECASE)


class LongPollers:
    """The requests that wait; `answer` makes the answer of one as it would be now."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, answer: Callable[[BoundedRequest], Reply]) -> None:
        self._clock = clock
        self._answer = answer
        #: The requests that wait, with the seconds that each may.
        self._waiting: dict[BoundedRequest, int] = {}
        self._woken: list[BoundedRequest] = []

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(self, request: BoundedRequest, seconds: int) -> None:
        """Let a request wait until `wake`, or for so many seconds."""
        self._waiting[request] = seconds
        # Asked for later, it may never fire.
        request.notifyFinish().addErrback(self._gone, request)
        request.channel.set_deadline(seconds, partial(self._over, request))

    def wake(self) -> None:
        """Answer those that wait now and for which something has changed, some at a time."""
        idle = not self._woken
        self._woken.extend(self._waiting)
        if idle and self._woken:
            self._clock.callLater(0, self._answer_some)

    def _answer_some(self) -> None:
        turn, self._woken = self._woken[:_TURN], self._woken[_TURN:]
        for request in turn:
            # What one client sent after its request must not keep the others waiting.
            with self._log.failuresHandled("the answer to a waiting box failed"):
                self._answer_if_changed(request)
        if self._woken:
            self._clock.callLater(0, self._answer_some)

    def _answer_if_changed(self, request: BoundedRequest) -> None:
        if request in self._waiting:
            reply = self._answer(request)
            if reply.code != NOT_MODIFIED:
                self._end(request, reply)

    def _over(self, request: BoundedRequest) -> None:
        if request in self._waiting:
            self._end(request, self._answer(request))

    def _end(self, request: BoundedRequest, reply: Reply) -> None:
        seconds = self._waiting.pop(request)
        request.setHeader(b"Preference-Applied", b"wait=%d" % seconds)
        request.reply(reply)

    def _gone(self, _reason: object, request: BoundedRequest) -> None:
        self._waiting.pop(request, None)


def preferred_wait(request: BoundedRequest) -> int:
    """
    Read how many seconds the client would wait (RFC 7240, section 4.3); 0 when it does not say.

    The first `wait` counts (section 2).
    """
    for header in request.requestHeaders.getRawHeaders(b"Prefer", ()):
        for preference in header.split(b","):
            match = _WAIT.fullmatch(preference.split(b";")[0].strip(b" \t"))
            if match is not None:
                # No more digits than Python would read.
                return min(LONGEST, int((match[1] or match[2])[:20]))
    return 0
