"""The resource that sends a test message to the webhook, for `opq-fleet webhook-test`."""

from collections.abc import Callable

from opq_twisted.common.errors import OpqError
from opq_twisted.fleet.control.answers import Content, answer_in_json
from opq_twisted.fleet.webhook.outbox import Event, Notice, make_body
from opq_twisted.fleet.webhook.post import NotAccepted, Poster
from opq_twisted.fleet.webhook.schedule import Message
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource


class WebhookFailed(OpqError):
    """There is no webhook, or it did not accept the message."""


class WebhookTestResource(PlainResource):
    """Sends one message to the webhook, once and without the database; answers with the result."""

    def __init__(self, poster: Poster | None, now: Callable[[], float]) -> None:
        """
        Make the resource.

        :param poster: None if the server has no webhook.
        :param now: gives seconds since the epoch.
        """
        super().__init__()
        self._poster = poster
        self._now = now

    def render_POST(self, request: BoundedRequest) -> int:
        """Answer when the receiver has answered."""
        return answer_in_json(request, self._test())

    async def _test(self) -> Content:
        if self._poster is None:
            raise WebhookFailed("The server has no webhook: start it with --webhook URL.")
        text = "This is a test of the webhook by opq-fleet webhook-test."
        body = make_body(self._now(), Notice(Event.TEST, text))
        name = self._poster.receiver.name
        try:
            await self._poster.post(Message(0, body, 1))
        except NotAccepted as error:
            raise WebhookFailed(
                f"The webhook {name} did not accept the message: {error}. Check --webhook, and the "
                "receiver's log."
            ) from None
        return {"webhook": name}
