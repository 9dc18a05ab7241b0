"""The resource behind `opq-fleet webhook-test`."""

import json
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.control.try_webhook import WebhookTestResource
from opq_twisted.fleet.webhook.post import NotAccepted, Poster, Receiver
from opq_twisted.fleet.webhook.schedule import Message
from opq_twisted.http.resource import PlainResource
from tests.helpers import http_exchange
from tests.helpers.fleet_rows import NOW


class FakePoster:
    """Takes a message, or refuses it."""

    receiver = Receiver("https://chat.example.org/hooks/s3same", None)

    def __init__(self, error: NotAccepted | None) -> None:
        self._error = error
        self.sent: list[Message] = []

    async def post(self, message: Message) -> None:
        """Remember the message."""
        self.sent.append(message)
        if self._error is not None:
            raise self._error


class WebhookTestTests(SynchronousTestCase):
    """A server with a webhook, and one without."""

    def post(self, poster: FakePoster | None) -> tuple[int, Any]:
        root = PlainResource()
        root.putChild(
            b"webhook-test", WebhookTestResource(cast(Poster | None, poster), lambda: NOW)
        )
        response = http_exchange.ask(root, "POST", "/webhook-test")
        return response.status, json.loads(response.body)

    def test_taken(self) -> None:
        """The message says what it is; the answer has only the host of the webhook."""
        poster = FakePoster(None)
        self.assertEqual(self.post(poster), (200, {"webhook": "https://chat.example.org"}))
        [message] = poster.sent
        self.assertEqual(message.event, "test")

    def test_refused(self) -> None:
        """A sentence says why the message was not taken."""
        status, answer = self.post(FakePoster(NotAccepted("it answers with status 404")))
        self.assertEqual(status, 409)
        self.assertIn(
            "The webhook https://chat.example.org did not accept the message: it answers with "
            "status 404.",
            answer["error"],
        )

    def test_no_webhook(self) -> None:
        """A server without a webhook says which option is missing."""
        status, answer = self.post(None)
        self.assertEqual(status, 409)
        self.assertIn("--webhook URL", answer["error"])
