"""Answers that take a while."""

import json
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.control.answers import answer_in_json
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource
from tests.helpers.http_exchange import Connection


class _Slow(PlainResource):
    """Answers when the test says so."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.found: Deferred[Mapping[str, Any]] = Deferred()

    def render_GET(self, request: BoundedRequest) -> int:
        return answer_in_json(request, self._find())

    async def _find(self) -> Mapping[str, Any]:
        return await self.found


class AnswerTests(SynchronousTestCase):
    """Asks something slow."""

    def setUp(self) -> None:
        self.slow = _Slow()
        self.connection = Connection(self.slow)
        self.connection.send("GET", "/")

    def test_later(self) -> None:
        """The answer is sent as soon as it is there."""
        self.assertEqual(self.connection.transport.value(), b"")
        self.slow.found.callback({"boxes": 7})
        answer = self.connection.response()
        self.assertEqual((answer.status, json.loads(answer.body)), (200, {"boxes": 7}))
        self.assertEqual(answer.headers["Content-Type"], "application/json")

    def test_gone(self) -> None:
        """A client that has gone away gets nothing, and that is no error."""
        self.connection.lose()
        self.slow.found.callback({"boxes": 7})
        self.assertEqual(self.connection.transport.value(), b"")

    def test_fault(self) -> None:
        """A fault of this program is in the log, and not in the answer."""
        self.slow.found.errback(ZeroDivisionError("of the program"))
        answer = self.connection.response()
        self.assertEqual(answer.status, 500)
        self.assertNotIn("of the program", answer.text)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
