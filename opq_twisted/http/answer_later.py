"""Answers a request after a coroutine has made the reply."""

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.server import NOT_DONE_YET

from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest

_log = Logger()


def answer_later(
    request: BoundedRequest, replying: Coroutine[Deferred[Any], Any, Reply | int], broken: Reply
) -> int:
    """
    Send the reply that a coroutine returns, unless the client has disconnected before.

    :param replying: it may return NOT_DONE_YET if it has answered itself.
    :param broken: the reply if the coroutine fails, which is logged.
    :returns: the result that `render` must return.
    """
    # If the client had disconnected already, a later `notifyFinish` would never fire.
    gone = request.notifyFinish()
    gone.addErrback(lambda _: None)

    async def finish() -> None:
        try:
            reply = await replying
        except Exception:
            _log.failure("{method} {uri} failed", method=request.method, uri=request.uri)
            reply = broken
        if isinstance(reply, Reply) and not gone.called:
            request.reply(reply)

    Deferred.fromCoroutine(finish())
    return NOT_DONE_YET
